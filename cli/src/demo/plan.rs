//! What the demo consists of, as plain values: nodes, pods, addresses, names and paths. Everything else
//! in `demo/` reads these tables; `demo/manifests/` says the same to the control plane.
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Prefix of every namespace, interface and file that the demo makes.
pub const PREFIX: &str = "cw-demo";
/// The Kubernetes namespace of all demo pods.
pub const NAMESPACE: &str = "demo";
/// The wire between the nodes; the control plane stands in the namespace that holds it.
pub const HUB: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);

/// Addresses of the services, as `manifests/30-services.yaml` has them.
pub mod vip {
    use std::net::Ipv4Addr;

    /// The service whose traffic is split, routed by header and guarded at L7.
    pub const REVIEWS: Ipv4Addr = Ipv4Addr::new(10, 202, 0, 10);
    /// The service with a failing backend.
    pub const RATINGS: Ipv4Addr = Ipv4Addr::new(10, 202, 0, 13);
    /// The TCP echo, guarded at L4.
    pub const ECHO: Ipv4Addr = Ipv4Addr::new(10, 202, 0, 14);
}

/// Port of the HTTP applications.
pub const HTTP_PORT: u16 = 9080;
/// Port of the TCP echo.
pub const ECHO_PORT: u16 = 9000;

/// One of the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Kubernetes name.
    pub name: &'static str,
    /// Address on the wire between the nodes.
    pub address: Ipv4Addr,
    /// First three octets of its pod subnet (/24); `.1` is the node's bridge.
    pub subnet: [u8; 3],
}

/// Both nodes.
pub const NODES: [Node; 2] = [
    Node {
        name: "node1",
        address: Ipv4Addr::new(10, 200, 0, 11),
        subnet: [10, 201, 1],
    },
    Node {
        name: "node2",
        address: Ipv4Addr::new(10, 200, 0, 12),
        subnet: [10, 201, 2],
    },
];

/// What runs in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum App {
    /// Nothing: traffic starts here.
    Client,
    /// HTTP server that answers with its name.
    Http,
    /// HTTP server that answers 503 to everything.
    Broken,
    /// TCP echo.
    Echo,
    /// A waypoint of ours.
    Waypoint,
}

/// One pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Kubernetes name.
    pub name: &'static str,
    /// Index into `NODES`.
    pub node: usize,
    /// Its address.
    pub address: Ipv4Addr,
    /// What runs in it.
    pub app: App,
    /// Whether its labels put it into the mesh.
    pub enrolled: bool,
}

const fn pod(name: &'static str, node: usize, host: u8, app: App, enrolled: bool) -> Pod {
    let [a, b, c] = NODES[node].subnet;
    Pod {
        name,
        node,
        address: Ipv4Addr::new(a, b, c, host),
        app,
        enrolled,
    }
}

/// All pods, in the order in which they are added.
pub const PODS: [Pod; 9] = [
    pod("reviews-waypoint", 0, 20, App::Waypoint, false),
    pod("ratings-waypoint", 1, 20, App::Waypoint, false),
    pod("reviews-v1", 1, 10, App::Http, true),
    pod("reviews-v2", 1, 11, App::Http, true),
    pod("ratings", 1, 12, App::Http, true),
    pod("ratings-flaky", 0, 12, App::Broken, true),
    pod("echo", 1, 13, App::Echo, true),
    pod("client", 0, 10, App::Client, true),
    pod("outsider", 0, 11, App::Client, false),
];

/// The pod of that name.
pub fn find(name: &str) -> Option<&'static Pod> {
    PODS.iter().find(|p| p.name == name)
}

/// The pod of that name, for names that stand in the code.
///
/// # Panics
/// When the table lacks it, which the tests below rule out for every name in use.
pub fn the(name: &str) -> &'static Pod {
    find(name).expect("a name of the table PODS")
}

impl Node {
    /// Name of its network namespace.
    pub fn netns(&self) -> String {
        format!("{PREFIX}-{}", self.name)
    }

    /// Address of its pod bridge, the pods' gateway.
    pub fn gateway(&self) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, 1)
    }

    /// Its pod subnet in CIDR form.
    pub fn cidr(&self) -> String {
        let [a, b, c] = self.subnet;
        format!("{a}.{b}.{c}.0/24")
    }
}

impl Pod {
    /// Name of its network namespace.
    pub fn netns(&self) -> String {
        format!("{PREFIX}-{}", self.name)
    }

    /// The node it runs on.
    pub fn on(&self) -> &'static Node {
        &NODES[self.node]
    }

    /// Name of the node's end of its veth pair; interface names end at 15 bytes.
    pub fn veth(&self) -> String {
        format!("cwd{}-{}", self.node + 1, self.address.octets()[3])
    }

    /// What stands for the container's id towards the CNI plugin.
    pub fn container_id(&self) -> String {
        format!("{PREFIX}-{}", self.name)
    }
}

/// Name of the namespace that holds the wire and the control plane.
pub fn hub_netns() -> String {
    format!("{PREFIX}-hub")
}

/// What a user may name to run a command in: pods, nodes and the hub.
pub fn places() -> Vec<&'static str> {
    let nodes = NODES.iter().map(|n| n.name);
    PODS.iter()
        .map(|p| p.name)
        .chain(nodes)
        .chain(["hub"])
        .collect()
}

/// The namespace of such a place.
pub fn netns_of(place: &str) -> Option<String> {
    places()
        .contains(&place)
        .then(|| format!("{PREFIX}-{place}"))
}

/// Every namespace of the demo.
pub fn all_netns() -> Vec<String> {
    let mut names = vec![hub_netns()];
    names.extend(NODES.iter().map(Node::netns));
    names.extend(PODS.iter().map(Pod::netns));
    names
}

/// The files of a running demo, all below one directory.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// The fixed place: one demo at a time runs on a machine.
    pub fn standard() -> Self {
        Self {
            root: Path::new("/run").join(PREFIX),
        }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The manifests that the control plane and the agents read; edits here take effect.
    pub fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }

    /// Control plane state: its CA, tokens.
    pub fn control_plane(&self) -> PathBuf {
        self.root.join("control-plane")
    }

    /// What belongs to one node or pod: sockets, state, token.
    pub fn of(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Log of a process.
    pub fn log(&self, process: &str) -> PathBuf {
        self.root.join("log").join(format!("{process}.log"))
    }

    /// Held locked while a demo runs.
    pub fn lock(&self) -> PathBuf {
        Path::new("/run").join(format!("{PREFIX}.lock"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_the_kernel_limit_and_differ() {
        let mut names: Vec<String> = PODS.iter().map(Pod::veth).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), PODS.len());
        assert!(names.iter().all(|n| n.len() <= 15));
    }

    #[test]
    fn manifests_and_table_agree_on_pods() {
        for pod in PODS {
            let text = super::super::manifests::FILES
                .iter()
                .find(|(_, text)| {
                    text.contains(&format!("kind: Pod\nmetadata:\n  name: {}\n", pod.name))
                })
                .map(|(_, text)| *text)
                .unwrap_or_else(|| panic!("no manifest for {}", pod.name));
            assert!(
                text.contains(&format!("podIP: {}\n", pod.address)),
                "{}",
                pod.name
            );
            assert!(
                text.contains(&format!("nodeName: {}\n", pod.on().name)),
                "{}",
                pod.name
            );
            assert_eq!(
                text.contains("istio.io/dataplane-mode: none"),
                !pod.enrolled,
                "{}",
                pod.name
            );
        }
    }

    #[test]
    fn every_place_is_a_namespace_of_the_demo() {
        let mut named: Vec<String> = places().into_iter().filter_map(netns_of).collect();
        let mut made = all_netns();
        named.sort();
        made.sort();
        assert_eq!(named, made);
        assert_eq!(netns_of("nobody"), None);
    }

    #[test]
    fn manifests_and_table_agree_on_services() {
        let services = super::super::manifests::FILES
            .iter()
            .find(|(name, _)| *name == "30-services.yaml")
            .map(|(_, text)| *text)
            .unwrap();
        for address in [vip::REVIEWS, vip::RATINGS, vip::ECHO] {
            assert!(services.contains(&format!("clusterIP: {address}\n")));
        }
    }
}
