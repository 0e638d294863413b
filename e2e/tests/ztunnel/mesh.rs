//! The stage of the ztunnel tests: nodes with a real ztunnel each, pods, and a control plane that the test scripts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use proto::security::{
    Action, Authorization, Clause, Match, Rule, Scope, StringMatch, string_match,
};
use proto::type_url::{ADDRESS, AUTHORIZATION};
use proto::workload::{
    Address, NetworkAddress, Port, PortList, Service, TunnelProtocol, Workload, WorkloadType,
    address,
};
use serde_json::Value;
use tempfile::TempDir;
use testkit::ads::Ads;
use testkit::authority::{self, Authority};
use testkit::ca::TestCa;
use testkit::process::{self, Process};
use testkit::topology::{self, Topology};
use testkit::zds::{Agent, PodInfo};
use testkit::{redirect, wait};

/// Long enough for a busy machine; a test that hangs ends with a sentence.
pub const LIMIT: Duration = Duration::from_secs(30);
/// Namespace of all pods.
pub const NAMESPACE: &str = "app";

/// Dropped in this order: processes before the namespaces that they live in.
pub struct Mesh {
    pub nodes: Vec<Node>,
    pub ads: Ads,
    pub ca: TestCa,
    _authority: Authority,
    pub topology: Topology,
    dir: TempDir,
}

/// One node with its ztunnel and node agent.
pub struct Node {
    pub ztunnel: Option<Process>,
    pub agent: Agent,
    pub net: topology::Node,
    environment: BTreeMap<String, String>,
}

/// An enrolled pod.
pub struct Pod {
    pub net: topology::Pod,
    pub workload: Workload,
    pub node: usize,
}

impl Mesh {
    /// `nodes` nodes, each with a ready ztunnel.
    pub fn start(nodes: usize) -> Result<Self> {
        Self::start_with(nodes, &[])
    }

    /// With more settings for each ztunnel.
    pub fn start_with(nodes: usize, settings: &[(&str, &str)]) -> Result<Self> {
        let mut mesh = Self::without_ztunnels(nodes, settings)?;
        for index in 0..nodes {
            mesh.start_ztunnel(index)?;
        }
        Ok(mesh)
    }

    /// Everything but the ztunnels.
    pub fn without_ztunnels(nodes: usize, settings: &[(&str, &str)]) -> Result<Self> {
        let topology = Topology::new()?;
        let dir = tempfile::tempdir()?;
        let ca = TestCa::new("cluster.local");
        let control = topology.control_ip();
        let listen = |port| topology.control().listen(SocketAddr::new(control, port));
        let ads = Ads::start(
            listen(15012)?,
            authority::tls(&ca, &[&control.to_string()])?,
        )?;
        let authority = Authority::start(listen(15013)?, &ca)?;
        let root = dir.path().join("root.pem");
        std::fs::write(&root, ca.roots_pem())?;
        let mut mesh = Self {
            nodes: Vec::new(),
            ads,
            ca,
            _authority: authority,
            topology,
            dir,
        };
        for index in 0..nodes {
            let node = mesh.node(index, &root, settings)?;
            mesh.nodes.push(node);
        }
        Ok(mesh)
    }

    fn node(&self, index: usize, root: &Path, settings: &[(&str, &str)]) -> Result<Node> {
        let socket = self.dir.path().join(format!("node{index}/ztunnel.sock"));
        let control = self.topology.control_ip();
        let (root, socket_text) = (root.display().to_string(), socket.display().to_string());
        let (xds, ca) = (
            format!("https://{control}:15012"),
            format!("https://{control}:15013"),
        );
        let node = format!("node{index}");
        let fixed = [
            ("NODE_NAME", node.as_str()),
            ("INPOD_UDS", &socket_text),
            ("XDS_ADDRESS", &xds),
            ("CA_ADDRESS", &ca),
            ("XDS_ROOT_CA", &root),
            ("CA_ROOT_CA", &root),
            ("AUTH_TOKEN", "test-token"),
            ("POD_NAME", "ztunnel-test"),
            ("POD_NAMESPACE", "istio-system"),
            ("ZTUNNEL_WORKER_THREADS", "2"),
            ("RUST_LOG", "info,access=debug"),
        ];
        let all = fixed
            .iter()
            .chain(settings)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let environment = all.collect();
        Ok(Node {
            ztunnel: None,
            agent: Agent::start(&socket)?,
            net: self.topology.node()?,
            environment,
        })
    }

    /// Starts the node's ztunnel and waits until it is ready.
    pub fn start_ztunnel(&mut self, index: usize) -> Result<()> {
        let mut process = self.spawn_ztunnel(index, &[])?;
        process.wait_ready(&self.nodes[index].net.ns, local(15021), LIMIT)?;
        self.nodes[index].ztunnel = Some(process);
        Ok(())
    }

    /// Starts one more ztunnel on the node, with other settings, and waits for nothing.
    pub fn spawn_ztunnel(&self, index: usize, settings: &[(&str, &str)]) -> Result<Process> {
        let node = &self.nodes[index];
        let log = self
            .dir
            .path()
            .join(format!("node{index}-{}.log", settings.len()));
        let mut environment = node.environment.clone();
        environment.extend(
            settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        Process::start(
            &node.net.ns,
            &process::binary("ztunnel")?,
            &["proxy", "ztunnel"],
            &environment,
            &log,
        )
    }

    /// Adds a pod to the topology, the mesh and its ztunnel.
    pub fn pod(&self, node: usize, name: &str, account: &str) -> Result<Pod> {
        let pod = self.bare_pod(node, name, account)?;
        self.publish(&pod.workload);
        self.enrol(&pod)?;
        Ok(pod)
    }

    /// A pod that nobody has told the mesh of.
    pub fn bare_pod(&self, node: usize, name: &str, account: &str) -> Result<Pod> {
        let net = self.nodes[node].net.pod(name)?;
        let workload = Workload {
            uid: format!("Kubernetes//Pod/{NAMESPACE}/{name}"),
            name: name.to_owned(),
            namespace: NAMESPACE.to_owned(),
            addresses: vec![octets(net.ip)],
            tunnel_protocol: TunnelProtocol::Hbone.into(),
            trust_domain: "cluster.local".to_owned(),
            service_account: account.to_owned(),
            node: format!("node{node}"),
            canonical_name: name.to_owned(),
            canonical_revision: "v1".to_owned(),
            workload_type: WorkloadType::Pod.into(),
            workload_name: name.to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            ..Workload::default()
        };
        Ok(Pod {
            net,
            workload,
            node,
        })
    }

    /// Captures the pod's traffic and hands it to its ztunnel.
    pub fn enrol(&self, pod: &Pod) -> Result<()> {
        redirect::capture(&pod.net)?;
        self.nodes[pod.node]
            .agent
            .add(&pod.uid(), &pod.net, pod.info())
    }

    /// Puts (or replaces) a workload in the mesh.
    pub fn publish(&self, workload: &Workload) {
        let address = Address {
            r#type: Some(address::Type::Workload(workload.clone())),
        };
        self.ads.set(ADDRESS, &workload.uid, &address);
    }

    /// Puts a service in the mesh that leads from `port` of `vip` to `target` of each of `pods`.
    pub fn service(
        &self,
        name: &str,
        vip: IpAddr,
        (port, target): (u16, u16),
        pods: &mut [&mut Pod],
    ) {
        let hostname = format!("{name}.{NAMESPACE}.svc.cluster.local");
        let ports = vec![Port {
            service_port: port.into(),
            target_port: target.into(),
            app_protocol: 0,
        }];
        for pod in pods {
            let key = format!("{NAMESPACE}/{hostname}");
            pod.workload.services.insert(
                key,
                PortList {
                    ports: ports.clone(),
                },
            );
            self.publish(&pod.workload);
        }
        let addresses = vec![NetworkAddress {
            address: octets(vip),
            ..NetworkAddress::default()
        }];
        let service = Service {
            name: name.to_owned(),
            namespace: NAMESPACE.to_owned(),
            hostname: hostname.clone(),
            addresses,
            ports,
            canonical: true,
            ..Service::default()
        };
        let address = Address {
            r#type: Some(address::Type::Service(service)),
        };
        self.ads
            .set(ADDRESS, &format!("{NAMESPACE}/{hostname}"), &address);
    }

    /// Puts a policy on the namespace, or on those workloads that name it.
    pub fn policy(&self, name: &str, scope: Scope, action: Action, matched: Match) {
        let clause = Clause {
            matches: vec![matched],
        };
        let policy = Authorization {
            name: name.to_owned(),
            namespace: NAMESPACE.to_owned(),
            scope: scope.into(),
            action: action.into(),
            rules: vec![Rule {
                clauses: vec![clause],
            }],
            ..Authorization::default()
        };
        self.ads
            .set(AUTHORIZATION, &format!("{NAMESPACE}/{name}"), &policy);
    }

    /// Takes a policy away.
    pub fn remove_policy(&self, name: &str) {
        self.ads
            .remove(AUTHORIZATION, &format!("{NAMESPACE}/{name}"));
    }

    /// Waits until every ztunnel that runs has applied all that was pushed.
    pub fn settle(&self) -> Result<()> {
        let running = self
            .nodes
            .iter()
            .filter(|node| node.ztunnel.is_some())
            .count();
        self.ads.settled(running, LIMIT)
    }
}

impl Node {
    /// Its ztunnel.
    pub fn ztunnel(&mut self) -> &mut Process {
        self.ztunnel.as_mut().expect("the test has started it")
    }

    /// The log of its ztunnel.
    pub fn log(&self) -> String {
        self.ztunnel.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Waits for a line of its ztunnel's log that contains all of `parts`, and returns it.
    pub fn log_line(&self, parts: &[&str]) -> Result<String> {
        wait::until(&format!("a log line with {parts:?}"), LIMIT, || {
            let log = self.log();
            let found = log
                .lines()
                .find(|line| parts.iter().all(|part| line.contains(part)));
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            found
                .map(str::to_owned)
                .with_context(|| format!("newest first:\n{}", tail.join("\n")))
        })
    }

    /// `/config_dump`.
    pub fn dump(&self) -> Result<Value> {
        let answer = process::get(&self.net.ns, local(15000), "/config_dump")?;
        serde_json::from_str(&answer.body).context("the dump is JSON")
    }

    /// `/metrics`, as sums by name and a label filter.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let text = process::get(&self.net.ns, local(15020), "/metrics")?.body;
        let lines = text.lines().filter(|line| {
            let metric = line.split(['{', ' ']).next().unwrap_or_default();
            metric == name && labels.iter().all(|label| line.contains(label))
        });
        Ok(lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }
}

impl Pod {
    /// Its address with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.net.ip, port)
    }

    /// The Kubernetes uid.
    pub fn uid(&self) -> String {
        format!("uid-{}", self.workload.name)
    }

    /// What the node agent tells of it.
    pub fn info(&self) -> PodInfo {
        PodInfo {
            name: self.workload.name.clone(),
            namespace: NAMESPACE.to_owned(),
            service_account: self.workload.service_account.clone(),
        }
    }

    /// Its SPIFFE identity.
    pub fn identity(&self) -> String {
        format!(
            "spiffe://cluster.local/ns/{NAMESPACE}/sa/{}",
            self.workload.service_account
        )
    }
}

/// An address on the loopback of whichever namespace asks.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Matches a caller's service account.
pub fn principal(account: &str) -> Match {
    let exact = format!("cluster.local/ns/{NAMESPACE}/sa/{account}");
    let value = StringMatch {
        match_type: Some(string_match::MatchType::Exact(exact)),
    };
    Match {
        principals: vec![value],
        ..Match::default()
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
