//! One of those that carry the traffic: its nodes, pods and processes. Called by `world`; asked by the scenarios.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use testkit::process::{self, Process};
use testkit::redirect;
use testkit::topology::{self, Topology};
use testkit::zds::{Agent, PodInfo};

use super::manifests::{Entry, NAMESPACE};
use super::{Binaries, CLIENT, LIMIT, Name, PORT, Plan, Policies};
use crate::load::{Exchange, Kind, Life, Load, Pace};

/// Where captured connections are accepted, in the client's namespace.
pub const OUTBOUND: u16 = 15001;
const INBOUND: u16 = 15008;
const MARK: u32 = 0x539;
/// So that connects in quick succession find ports, for all subjects alike. The second: TIME_WAIT is left after a second.
const SYSCTLS: [(&str, &str); 3] = [
    ("ipv4/ip_local_port_range", "1024 65535"),
    ("ipv4/tcp_tw_reuse", "1"),
    ("ipv4/ip_local_reserved_ports", "8080-8081,15000-15100"),
];

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// Its namespace and address.
    pub net: topology::Pod,
    /// Its entry in the mesh.
    pub entry: Entry,
    /// 0: the clients' node; 1: the servers'.
    node: usize,
}

impl Pod {
    /// Its address with a port.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.net.ip, port)
    }
}

/// One of those that are measured; dropped in this order.
pub struct Subject {
    /// Who.
    pub name: Name,
    /// The proxies: of the clients' node, of the servers'.
    pub proxies: Vec<Process>,
    agents: Vec<Agent>,
    /// On the first node.
    pub clients: Vec<Pod>,
    /// On the second node.
    pub far: Vec<Pod>,
    /// A server on the first node.
    pub near: Pod,
    nodes: Vec<topology::Node>,
}

impl Subject {
    /// Makes nodes and pods.
    pub(super) fn lay_out(name: Name, plan: &Plan, topology: &Topology) -> Result<Self> {
        let nodes = vec![topology.node()?, topology.node()?];
        let pod = |role: String, account: &str, index: usize| {
            let account = match plan.many_accounts {
                true => format!("{}-{role}", name.text()),
                false => account.to_owned(),
            };
            let node = format!("{}-{}", name.text(), ["a", "b"][index]);
            place(
                format!("{}-{role}", name.text()),
                account,
                node,
                &nodes[index],
                index,
            )
        };
        let clients = (0..plan.clients).map(|n| pod(format!("client{n}"), CLIENT, 0));
        let clients = clients.collect::<Result<Vec<_>>>()?;
        let far = (0..plan.servers).map(|n| pod(format!("far{n}"), "server", 1));
        let far = far.collect::<Result<Vec<_>>>()?;
        let near = pod("near".to_owned(), "server", 0)?;
        Ok(Self {
            name,
            proxies: Vec::new(),
            agents: Vec::new(),
            clients,
            far,
            near,
            nodes,
        })
    }

    /// Pods on the same nodes whose traffic nobody touches.
    pub(super) fn bare(&self) -> Result<Self> {
        let name = Name::Bare;
        let pod = |role: &str, index: usize| {
            let node = format!("{}-{}", self.name.text(), ["a", "b"][index]);
            place(
                format!("{}-{role}", name.text()),
                "none".to_owned(),
                node,
                &self.nodes[index],
                index,
            )
        };
        Ok(Self {
            name,
            proxies: Vec::new(),
            agents: Vec::new(),
            clients: vec![pod("client0", 0)?],
            far: vec![pod("far0", 1)?],
            near: pod("near", 0)?,
            nodes: Vec::new(),
        })
    }

    /// Starts the proxies and hands them the pods.
    pub(super) fn start(
        &mut self,
        plan: &Plan,
        binaries: &Binaries,
        control: &str,
        dir: &Path,
    ) -> Result<()> {
        match self.name {
            Name::Bare => Ok(()),
            Name::Relay => self.start_relays(binaries, dir),
            Name::Ours | Name::Twin => self.start_ztunnels(&binaries.ztunnel, plan, control, dir),
            Name::Peer => {
                let binary = binaries.peer.as_deref().context("no PEER_ZTUNNEL")?;
                self.start_ztunnels(binary, plan, control, dir)
            }
        }
    }

    fn start_ztunnels(
        &mut self,
        binary: &Path,
        plan: &Plan,
        control: &str,
        dir: &Path,
    ) -> Result<()> {
        for (index, node) in self.node_names().iter().enumerate() {
            let socket = dir.join(format!("{node}/ztunnel.sock"));
            self.agents.push(Agent::start(&socket)?);
            let environment = self.settings(node, plan, control, dir);
            let namespace = &self.nodes[index].ns;
            let log = dir.join(format!("{node}.log"));
            let arguments = ["proxy", "ztunnel"];
            let mut process = Process::start(namespace, binary, &arguments, &environment, &log)?;
            let ready = SocketAddr::from(([127, 0, 0, 1], 15021));
            process.wait_ready(namespace, ready, LIMIT)?;
            self.proxies.push(process);
        }
        for pod in self.pods() {
            redirect::capture(&pod.net)?;
            let info = PodInfo {
                name: pod.entry.name.clone(),
                namespace: NAMESPACE.to_owned(),
                service_account: pod.entry.account.clone(),
            };
            self.agents[pod.node].add(&format!("uid-{}", pod.entry.name), &pod.net, info)?;
        }
        if let Policies::Elsewhere(count) | Policies::Here(count) = plan.policies {
            self.holds_policies(count)?;
        }
        Ok(())
    }

    /// The same for our binary and the peer's.
    fn settings(
        &self,
        node: &str,
        plan: &Plan,
        control: &str,
        dir: &Path,
    ) -> BTreeMap<String, String> {
        let show = |path: &str| dir.join(path).display().to_string();
        let fixed = [
            ("NODE_NAME", node.to_owned()),
            ("POD_NAME", format!("ztunnel-{node}")),
            ("POD_NAMESPACE", "istio-system".to_owned()),
            ("SERVICE_ACCOUNT", "ztunnel".to_owned()),
            (
                "INSTANCE_IP",
                self.nodes[usize::from(node.ends_with('b'))].ip.to_string(),
            ),
            ("XDS_ADDRESS", control.to_owned()),
            ("CA_ADDRESS", control.to_owned()),
            ("XDS_ROOT_CA", show("ca/root-cert.pem")),
            ("CA_ROOT_CA", show("ca/root-cert.pem")),
            ("AUTH_TOKEN", show(&format!("{node}.token"))),
            ("INPOD_UDS", show(&format!("{node}/ztunnel.sock"))),
            ("ZTUNNEL_WORKER_THREADS", plan.workers.to_string()),
            ("RUST_LOG", "info".to_owned()),
        ];
        let fixed = fixed.map(|(name, value)| (name.to_owned(), value));
        fixed
            .into_iter()
            .chain(plan.settings.iter().cloned())
            .collect()
    }

    /// That both ztunnels really have the policies.
    fn holds_policies(&self, count: usize) -> Result<()> {
        for node in &self.nodes {
            let admin = SocketAddr::from(([127, 0, 0, 1], 15000));
            let dump = process::get(&node.ns, admin, "/config_dump")?.body;
            let found = dump.matches("\"policy-").count();
            ensure!(
                found >= count,
                "a ztunnel holds {found} of {count} policies"
            );
        }
        Ok(())
    }

    fn start_relays(&mut self, binaries: &Binaries, dir: &Path) -> Result<()> {
        let (client, far) = (&self.clients[0], &self.far[0]);
        // To a server on the same node one relay is enough.
        let near = self.near.at(PORT);
        let targets = format!("{}={},{near}={near}", far.at(PORT), far.at(INBOUND));
        // The same rules and marks as for a ztunnel, so that both take the same way through the kernel.
        redirect::capture(&client.net)?;
        redirect::capture(&far.net)?;
        let first = relay(client, OUTBOUND, &targets, binaries, dir)?;
        let second = relay(far, INBOUND, &far.at(PORT).to_string(), binaries, dir)?;
        self.proxies.extend([first, second]);
        Ok(())
    }

    /// One request from each client and to each server.
    pub(super) fn probe(&self) -> Result<()> {
        let most = self.clients.len().max(self.far.len());
        let far = (0..most).map(|n| {
            (
                &self.clients[n % self.clients.len()],
                &self.far[n % self.far.len()],
            )
        });
        for (client, server) in far.chain([(&self.clients[0], &self.near)]) {
            let begin = Instant::now();
            loop {
                let exchange = Exchange {
                    connections: 1,
                    size: 64,
                    life: Life::Once,
                    pace: Pace::Closed,
                    total: Some(1),
                };
                let load = Load::start(
                    &[&client.net.ns],
                    &[&server.net.ns],
                    &[server.at(PORT)],
                    Kind::Exchange(exchange),
                )?;
                // What the control plane has just been told may still be on its way.
                match load.finish(Duration::from_secs(5)) {
                    Ok(_) => break,
                    Err(fault) if begin.elapsed() > LIMIT => return Err(fault),
                    Err(_) => std::thread::sleep(Duration::from_millis(50)),
                }
            }
        }
        Ok(())
    }

    /// Names of its nodes.
    #[must_use]
    pub fn node_names(&self) -> Vec<String> {
        ["a", "b"]
            .map(|side| format!("{}-{side}", self.name.text()))
            .to_vec()
    }

    /// Whether ztunnels carry its traffic.
    #[must_use]
    pub fn meshed(&self) -> bool {
        matches!(self.name, Name::Ours | Name::Twin | Name::Peer)
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        if !self.meshed() {
            return Vec::new();
        }
        self.pods().map(|pod| pod.entry.clone()).collect()
    }

    /// Process ids of its proxies.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.proxies.iter().map(Process::id).collect()
    }

    fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.clients.iter().chain(&self.far).chain([&self.near])
    }
}

fn place(
    name: String,
    account: String,
    node: String,
    net: &topology::Node,
    index: usize,
) -> Result<Pod> {
    let net = net.pod(&name)?;
    for (setting, value) in SYSCTLS {
        net.ns.sysctl(setting, value)?;
    }
    let entry = Entry {
        name,
        account,
        node,
        address: net.ip,
    };
    Ok(Pod {
        net,
        entry,
        node: index,
    })
}

fn relay(pod: &Pod, port: u16, targets: &str, binaries: &Binaries, dir: &Path) -> Result<Process> {
    let log = dir.join(format!("relay-{}-{port}.log", pod.entry.name));
    let arguments = ["relay", &port.to_string(), targets, &MARK.to_string()];
    let process = Process::start(
        &pod.net.ns,
        &binaries.bench,
        &arguments,
        &BTreeMap::new(),
        &log,
    )?;
    process.wait_log("relay ready", LIMIT)?;
    Ok(process)
}
