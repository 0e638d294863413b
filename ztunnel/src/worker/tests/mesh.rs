//! Two workers, each with one pod, in one small mesh: what the tests of this folder start from.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh::policy::{Action, Clause, Match, Policy, PolicyName, Rule, Scope, StringMatch};
use mesh::state::{State, Update};
use mesh::workload::{TunnelProtocol, Workload};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use sys::netns::Netns;
use testkit::ca::TestCa;

use super::super::api::{Notice, Pod, Settings};
use super::super::lease::Secret;
use super::super::share::Neighbours;
use super::super::state::Worker;
use super::sim::{Net, Shared, SimIo, Sock, TEST};

pub(super) const CLIENT: usize = 0;
pub(super) const SERVER: usize = 1;
pub(super) const APP_PORT: u16 = 8080;

/// The two workers and their world.
pub(super) struct Pair {
    pub(super) net: Shared,
    places: &'static [Place],
    pub(super) workers: Vec<Worker<SimIo>>,
    pub(super) ios: Vec<SimIo>,
    pub(super) state: State,
    pub(super) ca: TestCa,
    pub(super) now: Instant,
    pub(super) notices: Vec<Notice>,
    /// Control takes nothing from this one.
    pub(super) behind: Option<usize>,
    busy: Vec<bool>,
}

pub(super) fn address(pod: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, 1 + pod as u8])
}

pub(super) fn account(pod: usize) -> &'static str {
    ["client", "server"][pod]
}

/// How far the ports of a worker that is not a pod's main one lie from the real ones.
fn aside(worker: usize) -> u16 {
    1000 * (1 + worker as u16)
}

pub(super) fn port(pod: usize, port: u16) -> SocketAddr {
    SocketAddr::new(address(pod), port)
}

pub(super) fn workload(ca: &TestCa, pod: usize) -> Workload {
    Workload {
        uid: format!("Kubernetes//Pod/app/{}", account(pod)).into(),
        name: account(pod).into(),
        namespace: "app".into(),
        addresses: [address(pod)].into(),
        tunnel_protocol: TunnelProtocol::Hbone,
        identity: Some(ca.identity("app", account(pod))),
        ..Workload::default()
    }
}

/// A policy of namespace `app` that acts on calls from this service account.
pub(super) fn policy(name: &str, action: Action, account: &str) -> Arc<Policy> {
    let principal = StringMatch::Exact(format!("cluster.local/ns/app/sa/{account}").into());
    let matching = Match {
        principals: [principal].into(),
        ..Match::default()
    };
    let clause = Clause {
        matches: [matching].into(),
    };
    Arc::new(Policy {
        name: PolicyName::new("app", name),
        scope: Scope::Namespace,
        action,
        rules: [Rule {
            clauses: [clause].into(),
        }]
        .into(),
        dry_run: false,
        invalid: None,
    })
}

/// One worker of a world: its process, and the pods of that process.
#[derive(Clone, Copy)]
pub(super) struct Place {
    process: usize,
    pods: &'static [usize],
}

/// Each pod on a node of its own, one worker each.
pub(super) const TWO_NODES: &[Place] = &[
    Place {
        process: 0,
        pods: &[CLIENT],
    },
    Place {
        process: 1,
        pods: &[SERVER],
    },
];

const BOTH: Place = Place {
    process: 0,
    pods: &[CLIENT, SERVER],
};

/// Both pods in one process of one worker.
pub(super) const ONE_NODE: &[Place] = &[BOTH];
/// Both pods in one process of two workers; the client's calls come to the first, the server's tunnels to the last.
pub(super) const ONE_NODE_TWO_WORKERS: &[Place] = &[BOTH, BOTH];
/// As [`ONE_NODE`], but a second process has taken the server's tunnels over.
pub(super) const UPGRADE: &[Place] = &[
    BOTH,
    Place {
        process: 1,
        pods: &[SERVER],
    },
];
const MANY: Place = Place {
    process: 0,
    pods: &[CLIENT],
};
/// The client's node has eight workers; the last worker is the server's node.
pub(super) const EIGHT_WORKERS: &[Place] = &[
    MANY,
    MANY,
    MANY,
    MANY,
    MANY,
    MANY,
    MANY,
    MANY,
    Place {
        process: 1,
        pods: &[SERVER],
    },
];

impl Pair {
    pub(super) fn new(seed: u64, change: impl Fn(&mut Settings)) -> Self {
        Self::placed(seed, TWO_NODES, change)
    }

    pub(super) fn placed(
        seed: u64,
        places: &'static [Place],
        change: impl Fn(&mut Settings),
    ) -> Self {
        let ca = TestCa::new("cluster.local");
        let mut state = State::new();
        let workloads = [CLIENT, SERVER].map(|pod| Update::Workload(Arc::new(workload(&ca, pod))));
        state.apply(workloads.into());
        let mut settings = Settings::shared("".into(), "Kubernetes".into());
        change(&mut settings);
        let (net, settings, now) = (
            Rc::new(RefCell::new(Net::default())),
            Arc::new(settings),
            Instant::now(),
        );
        let (mut workers, mut ios) = (Vec::new(), Vec::new());
        for (owner, place) in places.iter().enumerate() {
            let of_process = |other: &&Place| other.process == place.process;
            let first = places
                .iter()
                .position(|other| other.process == place.process)
                .unwrap_or(0);
            let alone = Neighbours::alone(owner - first, now);
            let mut neighbours = Neighbours {
                count: places.iter().filter(of_process).count(),
                secret: Arc::new(Secret::new([place.process as u8; 32])),
                ..alone
            };
            if let Some(sibling) = workers
                .get(first)
                .map(|one: &Worker<SimIo>| &one.neighbours)
            {
                neighbours.heat = sibling.heat.clone();
            }
            let rng = SmallRng::seed_from_u64(seed + owner as u64);
            let worker = Worker::new(neighbours, settings.clone(), state.snapshot(), rng, now);
            workers.push(worker);
            ios.push(SimIo {
                net: net.clone(),
                owner,
                first,
            });
        }
        let busy = vec![true; places.len()];
        Self {
            net,
            places,
            workers,
            ios,
            state,
            ca,
            now,
            notices: Vec::new(),
            behind: None,
            busy,
        }
    }

    /// The workers of the processes that have this pod.
    fn of_pod(&self, pod: usize) -> Vec<usize> {
        (0..self.places.len())
            .filter(|worker| self.places[*worker].pods.contains(&pod))
            .collect()
    }

    /// Both pods with their certificates, and an application that listens.
    pub(super) fn started(seed: u64, change: impl Fn(&mut Settings)) -> Self {
        Self::started_at(seed, TWO_NODES, change)
    }

    /// As [`Pair::started`], in another world.
    pub(super) fn started_at(
        seed: u64,
        places: &'static [Place],
        change: impl Fn(&mut Settings),
    ) -> Self {
        let mut pair = Self::placed(seed, places, change);
        for pod in [CLIENT, SERVER] {
            pair.add_pod(pod);
            pair.certify(pod);
        }
        pair.net.borrow_mut().listen(TEST, port(SERVER, APP_PORT));
        pair
    }

    /// A node dies without a word and comes back with nothing.
    pub(super) fn reboot(&mut self, pod: usize) {
        self.net.borrow_mut().vanish(pod);
        let settings = self.workers[pod].settings.clone();
        let rng = SmallRng::seed_from_u64(99);
        let alone = Neighbours::alone(pod, self.now);
        let fresh = Worker::new(alone, settings, self.state.snapshot(), rng, self.now);
        self.workers[pod] = fresh;
        self.add_pod(pod);
        self.certify(pod);
    }

    /// The real ports of the client belong to its first worker, those of the server to its last. The others have ports
    /// of their own, where the kernel would have spread the connections ([`Pair::call_at`]).
    pub(super) fn add_pod(&mut self, pod: usize) {
        let workers = self.of_pod(pod);
        let main = match pod {
            CLIENT => workers.first(),
            _ => workers.last(),
        };
        for worker in &workers {
            let listeners = [15001, 15006, 15008].map(|number| {
                let number = match main == Some(worker) {
                    true => number,
                    false => number + aside(*worker),
                };
                self.net.borrow_mut().listen(*worker, port(pod, number))
            });
            let added = Arc::new(Pod {
                uid: account(pod).into(),
                name: account(pod).into(),
                namespace: "app".into(),
                service_account: account(pod).into(),
                netns: Arc::new(Netns::current().unwrap()),
            });
            self.workers[*worker].add_pod(added, listeners.map(Some), &mut self.ios[*worker]);
            self.busy[*worker] = true;
        }
    }

    pub(super) fn certify(&mut self, pod: usize) {
        self.certify_for(pod, Duration::from_secs(3600));
    }

    /// Gives a pod a certificate that lasts so long from now.
    pub(super) fn certify_for(&mut self, pod: usize, ttl: Duration) {
        let identity = self.ca.identity("app", account(pod));
        let certificate = self.ca.issue(&identity, ttl);
        for worker in self.of_pod(pod) {
            self.workers[worker].certificate(certificate.clone(), self.now, &mut self.ios[worker]);
            self.busy[worker] = true;
        }
    }

    /// Applies updates and hands the snapshot to both workers.
    pub(super) fn publish(&mut self, updates: Vec<Update>) {
        self.state.apply(updates);
        for index in 0..self.workers.len() {
            self.workers[index].adopt(self.state.snapshot(), self.now, &mut self.ios[index]);
            self.busy[index] = true;
        }
    }

    /// The client pod's application calls `to`, and is captured.
    pub(super) fn call(&mut self, to: SocketAddr) -> Sock {
        let captured = port(CLIENT, 15001);
        self.net
            .borrow_mut()
            .connect(TEST, address(CLIENT), captured, Some(to))
            .unwrap()
    }

    /// The client pod's application calls the server, and the kernel gives that to this worker (not the first).
    pub(super) fn call_at(&mut self, worker: usize) -> Sock {
        let captured = port(CLIENT, 15001 + aside(worker));
        let to = Some(port(SERVER, APP_PORT));
        self.net
            .borrow_mut()
            .connect(TEST, address(CLIENT), captured, to)
            .unwrap()
    }

    pub(super) fn call_server(&mut self) -> Sock {
        self.call(port(SERVER, APP_PORT))
    }

    /// A plaintext call that is captured on its way into the server pod.
    pub(super) fn call_plain(&mut self) -> Sock {
        let (captured, to) = (port(SERVER, 15006), port(SERVER, APP_PORT));
        self.net
            .borrow_mut()
            .connect(TEST, IpAddr::from([10, 9, 9, 9]), captured, Some(to))
            .unwrap()
    }

    /// The server pod's application accepts.
    pub(super) fn accept(&mut self) -> Option<Sock> {
        self.net.borrow_mut().accept(port(SERVER, APP_PORT))
    }

    /// One step of one worker, if it has anything to do. True: it had.
    pub(super) fn step(&mut self, index: usize) -> bool {
        loop {
            let parcel = self.net.borrow_mut().take_parcel(index);
            let Some(parcel) = parcel else { break };
            self.workers[index].take(parcel, self.now, &mut self.ios[index]);
            self.busy[index] = true;
        }
        let events = self.net.borrow_mut().take_events(index);
        if events.is_empty() && !self.busy[index] {
            return false;
        }
        let next = self.workers[index].step(&events, self.now, &mut self.ios[index]);
        self.busy[index] = next.busy;
        if self.behind != Some(index) {
            self.notices.append(&mut self.workers[index].notices);
        }
        true
    }

    /// Lets time pass and wakes both.
    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.busy.fill(true);
    }

    /// Runs everything until nothing moves. Panics if that never comes: a spin.
    pub(super) fn settle(&mut self) {
        for _ in 0..100_000 {
            let mut moved = false;
            for index in 0..self.workers.len() {
                moved |= self.step(index);
            }
            let count = self.net.borrow().len();
            for from in 0..count {
                moved |= self.net.borrow_mut().carry(from, usize::MAX);
            }
            if !moved {
                return;
            }
        }
        panic!("the pair never comes to rest");
    }

    /// As [`Pair::settle`], but nothing is carried to `sock`: its reader's buffers are full.
    pub(super) fn settle_except(&mut self, sock: Sock) {
        for _ in 0..100_000 {
            let mut moved = false;
            for index in 0..self.workers.len() {
                moved |= self.step(index);
            }
            let count = self.net.borrow().len();
            for from in (0..count).filter(|from| *from != sock.0 ^ 1) {
                moved |= self.net.borrow_mut().carry(from, usize::MAX);
            }
            if !moved {
                return;
            }
        }
        panic!("the pair never comes to rest");
    }

    /// Bytes that a worker holds for slow applications.
    pub(super) fn pending(&self, index: usize) -> usize {
        let links = &self.workers[index].links;
        links
            .keys(|_| true)
            .iter()
            .filter_map(|key| links.get(*key))
            .map(|link| link.near.pending.len())
            .sum()
    }

    pub(super) fn write(&mut self, sock: Sock, bytes: &[u8]) -> usize {
        self.net.borrow_mut().write(sock, bytes).unwrap_or(0)
    }

    /// Everything that has arrived; `None` behind it: the end was read.
    pub(super) fn read(&mut self, sock: Sock) -> (Vec<u8>, bool) {
        let mut all = Vec::new();
        let mut buffer = vec![0; 4096];
        loop {
            match self.net.borrow_mut().read(sock, &mut buffer) {
                Ok(0) => return (all, true),
                Ok(n) => all.extend(&buffer[..n]),
                Err(_) => return (all, false),
            }
        }
    }

    /// The reasons of all ends reported so far, in order.
    pub(super) fn reasons(&self) -> Vec<super::super::api::Reason> {
        let reason = |notice: &Notice| match notice {
            Notice::Closed(closed) => Some(closed.reason),
            Notice::Refused(refused) => Some(refused.reason),
            _ => None,
        };
        self.notices.iter().filter_map(reason).collect()
    }

    /// The detail of the last end reported by one side.
    pub(super) fn details(&self) -> String {
        let detail = |notice: &Notice| match notice {
            Notice::Closed(closed) => closed.detail.as_deref().map(str::to_owned),
            Notice::Refused(refused) => refused.detail.as_deref().map(str::to_owned),
            _ => None,
        };
        self.notices
            .iter()
            .filter_map(detail)
            .collect::<Vec<_>>()
            .join("\n")
    }
}
