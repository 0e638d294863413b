//! The path: a caller, the real waypoint and its applications, each in a namespace of its own at the addresses that the
//! captured resources name; the control plane and the certificate authority beside them. Used by `main`.
//!
//! ```text
//! node 1: caller 10.244.1.7 ═ HBONE ⇒ waypoint 10.244.1.6 ═ HBONE or plain ⇒ 10.244.1.5, 10.244.1.2
//! node 2:                                                                   10.244.2.5, 10.244.2.99
//! ```

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::Result;
use identity::Identity;
use tempfile::TempDir;
use testkit::ads::Ads;
use testkit::authority::{Authority, tls};
use testkit::ca::TestCa;
use testkit::mesh::LIMIT;
use testkit::process::{self, Process};
use testkit::topology::{Node, Pod, Topology};
use testkit::wait;

use crate::backend::Backend;
use crate::capture::Resource;
use crate::client::Client;

const LIFE: Duration = Duration::from_secs(3600);
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const WAYPOINT: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 6);

/// Everything that runs; what comes first is dropped first.
pub struct World {
    waypoint: Process,
    pub ads: Ads,
    _authority: Authority,
    pub backend: Backend,
    ca: TestCa,
    pods: Vec<Pod>,
    _nodes: [Node; 2],
    _topology: Topology,
    _dir: TempDir,
}

impl World {
    /// Starts all of it; the waypoint holds no resources yet.
    ///
    /// # Errors
    /// When a part cannot be started.
    pub fn start() -> Result<Self> {
        let topology = Topology::new()?;
        let nodes = [topology.node()?, topology.node()?];
        let near = pod(&nodes[0], "near", &[[10, 244, 1, 5], [10, 244, 1, 2]])?;
        let far = pod(&nodes[1], "far", &[[10, 244, 2, 5], [10, 244, 2, 99]])?;
        let wp = pod(&nodes[0], "wp", &[WAYPOINT.octets()])?;
        let caller = pod(&nodes[0], "caller", &[[10, 244, 1, 7]])?;
        let ca = TestCa::new("cluster.local");
        let control = topology.control();
        let bind = || control.listen(SocketAddr::new(topology.control_ip(), 0));
        let authority = Authority::start(bind()?, &ca)?;
        let ads = Ads::start(bind()?, tls(&ca, &[&topology.control_ip().to_string()])?)?;
        let backend = backend(&ca, &near, &far)?;
        let dir = tempfile::tempdir()?;
        let environment = environment(&ca, ads.address(), authority.address());
        let waypoint = Process::start(
            &wp.ns,
            &process::binary("waypoint")?,
            &["proxy", "waypoint"],
            &environment,
            &dir.path().join("waypoint.log"),
        )?;
        Ok(Self {
            waypoint,
            ads,
            _authority: authority,
            backend,
            ca,
            pods: vec![caller, wp, near, far],
            _nodes: nodes,
            _topology: topology,
            _dir: dir,
        })
    }

    /// Pushes `resources` and waits until all are answered, with ACK or NACK, and the waypoint is ready.
    ///
    /// # Errors
    /// When that does not happen in time; the error carries the waypoint's log.
    pub fn push(&mut self, resources: &[Resource]) -> Result<()> {
        let changes: Vec<_> = resources
            .iter()
            .map(|one| (&*one.type_url, &*one.name, Some(one.body.clone())))
            .collect();
        self.ads.change(&changes);
        let ready = SocketAddr::from((Ipv4Addr::LOCALHOST, 15021));
        self.waypoint.wait_ready(&self.pods[1].ns, ready, LIMIT)?;
        self.ads.settled(1, LIMIT)?;
        // Endpoints are asked for when their cluster is there: only then has all been answered.
        let nacks = self.ads.nacks();
        let refused = |name: &str| {
            let begin = format!("{name}: ");
            nacks.iter().any(|nack| nack.message.contains(&begin))
        };
        let endpoints = resources
            .iter()
            .filter(|one| one.type_url == ENDPOINTS && !refused(&one.name));
        for one in endpoints {
            wait::until_true(&one.name, LIMIT, || self.asked_for(&one.name))?;
        }
        self.ads.settled(1, LIMIT)
    }

    /// Takes the control plane away and waits until the waypoint's stream is gone.
    ///
    /// # Errors
    /// When the stream stays.
    pub fn lose_control_plane(&self) -> Result<()> {
        self.ads.refuse(true);
        self.ads.settled(0, LIMIT)
    }

    /// Brings the control plane back and waits until the waypoint has found it and answered what there is.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub fn find_control_plane(&self) -> Result<()> {
        self.ads.refuse(false);
        self.ads.settled(1, LIMIT)
    }

    fn asked_for(&self, name: &str) -> bool {
        let requests = self.ads.requests();
        let mut names = requests
            .iter()
            .filter(|request| request.type_url == ENDPOINTS)
            .flat_map(|request| &request.resource_names_subscribe);
        names.any(|one| one == name)
    }

    /// The caller, with its certificates.
    ///
    /// # Errors
    /// When the foreign identity is not one.
    pub fn client(&self) -> Result<Client<'_>> {
        let foreign = Identity::new("evil.example", "app", "client")?;
        let who = [
            self.ca.identity("app", "client"),
            self.ca.identity("other", "client"),
            foreign,
        ];
        Ok(Client {
            namespace: &self.pods[0].ns,
            waypoint: SocketAddr::from((WAYPOINT, 15008)),
            identity: self.ca.identity("app", "wp"),
            certificates: who.map(|identity| self.ca.issue(&identity, LIFE)),
        })
    }

    /// What the waypoint has logged.
    pub fn log(&self) -> String {
        self.waypoint.log()
    }
}

/// A pod at the given addresses instead of the one that the node would give it; the first is its source address.
fn pod(node: &Node, name: &str, addresses: &[[u8; 4]]) -> Result<Pod> {
    let pod = node.pod(name)?;
    let mut lines = String::from("addr flush dev eth0 scope global\n");
    for address in addresses {
        lines += &format!("addr add {}/24 dev eth0\n", Ipv4Addr::from(*address));
    }
    let [a, b, c, _] = addresses[0];
    lines += &format!("route replace default via {a}.{b}.{c}.1\n");
    pod.ns.ip(&lines)?;
    Ok(pod)
}

fn backend(ca: &TestCa, near: &Pod, far: &Pod) -> Result<Backend> {
    let any = |pod: &Pod, port| -> Result<TcpListener> {
        pod.ns
            .listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
    };
    let tunnels = vec![any(near, 15008)?, any(far, 15008)?];
    let plain = vec![
        any(near, 8080)?,
        any(near, 80)?,
        any(far, 8080)?,
        any(far, 9000)?,
    ];
    let certificate = ca.issue(&ca.identity("app", "echo"), LIFE);
    Backend::start(&certificate, tunnels, plain)
}

fn environment(ca: &TestCa, ads: SocketAddr, authority: SocketAddr) -> BTreeMap<String, String> {
    [
        ("POD_NAME", "wp-1"),
        ("POD_NAMESPACE", "app"),
        ("SERVICE_ACCOUNT", "wp"),
        ("INSTANCE_IP", &*WAYPOINT.to_string()),
        ("GATEWAY_NAME", "wp"),
        ("XDS_ADDRESS", &*ads.to_string()),
        ("CA_ADDRESS", &*authority.to_string()),
        ("XDS_ROOT_CA", ca.roots_pem()),
        ("CA_ROOT_CA", ca.roots_pem()),
        ("AUTH_TOKEN", "spiffe://cluster.local/ns/app/sa/wp"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}
