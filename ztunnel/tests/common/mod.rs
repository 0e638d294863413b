//! Two real workers groups ("nodes") in one process over loopback sockets: a caller's pod and a server's pod, with
//! certificates of a test CA. The caller's listener stands on a service VIP, so that no redirect rule is needed.

// Each test file uses its own part; and a failure of the harness is a failed test, also outside of test functions.
#![allow(dead_code, clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use mesh::service::{AppProtocol, Service, ServicePort, Vip};
use mesh::state::{State, Update};
use mesh::workload::{NamespacedHostname, PortPair, ServicePorts, TunnelProtocol, Workload};
use sys::netns::Netns;
use testkit::ca::TestCa;
use tokio::sync::mpsc::Receiver;
use ztunnel::worker::api::{Listeners, Notice, Pod, Ports, Settings};
use ztunnel::worker::{Workers, start};

/// Where the caller's application dials.
const VIP: [u8; 4] = [127, 0, 9, 9];
/// Where the server's pod lives.
const SERVER: [u8; 4] = [127, 0, 0, 2];

/// A running pair of nodes.
pub struct Pair {
    /// What the caller dials.
    pub vip: SocketAddr,
    /// Where the server's application must listen.
    pub app: TcpListener,
    /// The mesh: apply updates, then [`Pair::publish`].
    pub state: State,
    /// The authority of the pair.
    pub ca: TestCa,
    nodes: Vec<(Workers, Receiver<Vec<Notice>>)>,
    runtime: tokio::runtime::Runtime,
}

impl Pair {
    /// Starts `workers` worker threads per node.
    pub fn start(workers: usize, change: impl Fn(&mut Settings)) -> Self {
        let ca = TestCa::new("cluster.local");
        let listen = |ip: [u8; 4]| TcpListener::bind((IpAddr::from(ip), 0)).unwrap();
        let (app, outbound, inbound) = (listen(SERVER), listen(VIP), listen(SERVER));
        let (vip, app_port) = (
            outbound.local_addr().unwrap(),
            app.local_addr().unwrap().port(),
        );
        let mut settings = Settings::shared("".into(), "Kubernetes".into());
        settings.mark = None;
        settings.original_source = Some(false);
        settings.ports = Ports {
            inbound: inbound.local_addr().unwrap().port(),
            ..Ports::default()
        };
        change(&mut settings);
        let mut state = State::new();
        state.apply(mesh_of(&ca, vip, app_port));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut nodes = Vec::new();
        for (name, mut listeners) in [
            (
                "client",
                Listeners {
                    outbound: Some(outbound),
                    ..Listeners::default()
                },
            ),
            (
                "server",
                Listeners {
                    inbound: Some(inbound),
                    ..Listeners::default()
                },
            ),
        ] {
            let (node, notices) = start(settings.clone(), workers, state.snapshot()).unwrap();
            let pod = Arc::new(Pod {
                uid: name.into(),
                name: name.into(),
                namespace: "app".into(),
                service_account: name.into(),
                netns: Arc::new(Netns::current().unwrap()),
            });
            runtime.block_on(async {
                // Each worker accepts from a descriptor of its own of the same socket.
                for worker in 0..node.count() {
                    let share = duplicate(&mut listeners);
                    let command = ztunnel::worker::api::Command::AddPod {
                        pod: pod.clone(),
                        listeners: share,
                    };
                    node.send(worker, command).await.unwrap();
                }
                let certificate = ca.issue(&ca.identity("app", name), Duration::from_secs(3600));
                node.certificate(&certificate).await.unwrap();
            });
            nodes.push((node, notices));
        }
        Self {
            vip,
            app,
            state,
            ca,
            nodes,
            runtime,
        }
    }

    /// Connects as the caller's application.
    pub fn call(&self) -> TcpStream {
        TcpStream::connect(self.vip).unwrap()
    }

    /// Hands the state to both nodes.
    pub fn publish(&self) {
        for (node, _) in &self.nodes {
            node.publish(self.state.snapshot());
        }
    }

    /// Waits for a notice of a node (0 caller, 1 server) that `pick` likes.
    pub fn notice<T>(&mut self, node: usize, mut pick: impl FnMut(&Notice) -> Option<T>) -> T {
        let notices = &mut self.nodes[node].1;
        self.runtime.block_on(async {
            loop {
                let batch = notices.recv().await.expect("the workers live");
                if let Some(found) = batch.iter().find_map(&mut pick) {
                    return found;
                }
            }
        })
    }

    /// The workers of a node.
    pub fn workers(&self, node: usize) -> &Workers {
        &self.nodes[node].0
    }

    /// Runs a future of the control half.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Ends both nodes.
    pub fn stop(self) {
        for (node, notices) in self.nodes {
            drop(notices);
            node.join();
        }
    }
}

fn duplicate(listeners: &mut Listeners) -> Listeners {
    let copy = |one: &Option<TcpListener>| {
        one.as_ref().map(|one| {
            one.set_nonblocking(true).unwrap();
            one.try_clone().unwrap()
        })
    };
    Listeners {
        outbound: copy(&listeners.outbound),
        inbound_plain: copy(&listeners.inbound_plain),
        inbound: copy(&listeners.inbound),
    }
}

fn mesh_of(ca: &TestCa, vip: SocketAddr, app_port: u16) -> Vec<Update> {
    let key = NamespacedHostname::new("app", "server.app.svc.cluster.local");
    let port = ServicePort {
        service_port: vip.port(),
        target_port: app_port,
        app_protocol: AppProtocol::Unknown,
    };
    let service = Service {
        key: key.clone(),
        name: "server".into(),
        vips: [Vip::address("", vip.ip())].into(),
        ports: [port].into(),
        ..Service::default()
    };
    let workload = |name: &str, addresses: &[IpAddr]| Workload {
        uid: format!("Kubernetes//Pod/app/{name}").into(),
        name: name.into(),
        namespace: "app".into(),
        addresses: addresses.into(),
        tunnel_protocol: TunnelProtocol::Hbone,
        identity: Some(ca.identity("app", name)),
        ..Workload::default()
    };
    let mut server = workload("server", &[IpAddr::from(SERVER)]);
    let ports = [PortPair::new(vip.port(), app_port)].into();
    server.services = [ServicePorts {
        service: key,
        ports,
    }]
    .into();
    vec![
        Update::Service(Arc::new(service)),
        Update::Workload(Arc::new(workload(
            "client",
            &[IpAddr::from([127, 0, 0, 1])],
        ))),
        Update::Workload(Arc::new(server)),
    ]
}

/// A cheap generator for contents that the reader can make again.
pub fn content(stream: u64, len: usize) -> Vec<u8> {
    let mut state = stream.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}
