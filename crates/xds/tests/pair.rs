//! The client's half against the server's half, in memory, under random changes, refusals, lost
//! connections and changes of subscription: at rest the client has what a naive fold over the accepted
//! resources gives, and that is the truth but for what it refuses.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in unit tests only; a panic is the failure report here too"
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use causeway_xds as xds;
use proptest::prelude::*;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use xds::machine::{Machine, Subscription};
use xds::server::{Event, Resource, Session, View};
use xds::{Rejected, ResourceUpdate};

const TYPE: &str = proto::type_url::ENDPOINT;

#[derive(Clone, Debug)]
enum Step {
    /// The truth changes; a resource is good or bad.
    Set {
        name: u8,
        good: bool,
    },
    Delete {
        name: u8,
    },
    /// One message moves, if there is one.
    ServerPushes,
    ServerReads,
    ClientReads,
    Reconnect,
    Subscribe {
        name: u8,
    },
    Unsubscribe {
        name: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0u8..6;
    prop_oneof![
        4 => (name.clone(), proptest::bool::weighted(0.7)).prop_map(|(name, good)| Step::Set { name, good }),
        2 => name.clone().prop_map(|name| Step::Delete { name }),
        5 => Just(Step::ServerPushes),
        5 => Just(Step::ServerReads),
        5 => Just(Step::ClientReads),
        1 => Just(Step::Reconnect),
        2 => name.clone().prop_map(|name| Step::Subscribe { name }),
        1 => name.prop_map(|name| Step::Unsubscribe { name }),
    ]
}

/// A client, a server, and what is between them.
struct World {
    machine: Machine,
    session: Session,
    to_server: VecDeque<DeltaDiscoveryRequest>,
    to_client: VecDeque<DeltaDiscoveryResponse>,
    truth: BTreeMap<String, (u64, bool)>,
    version: u64,
    /// What the client's handler holds: name and version.
    state: BTreeMap<String, u64>,
    wildcard: bool,
    wanted: BTreeSet<String>,
}

impl World {
    fn new(wildcard: bool) -> Self {
        let wanted = if wildcard {
            Subscription::all(TYPE)
        } else {
            Subscription::named::<&str>(TYPE, [])
        };
        let mut world = Self {
            machine: Machine::new(wanted),
            session: Session::new(),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            truth: BTreeMap::new(),
            version: 0,
            state: BTreeMap::new(),
            wildcard,
            wanted: BTreeSet::new(),
        };
        world.reconnect();
        world
    }

    fn reconnect(&mut self) {
        self.session = Session::new();
        self.to_server.clear();
        self.to_client.clear();
        self.to_server.extend(self.machine.connected());
    }

    fn view(&self) -> View {
        let resource = |(name, (version, good)): (&String, &(u64, bool))| {
            let version = version.to_string();
            let body = format!("{version} {good}").into_bytes().into();
            (
                Arc::from(name.as_str()),
                Resource {
                    version: version.into(),
                    body,
                },
            )
        };
        let resources = self.truth.iter().map(resource).collect();
        View {
            types: [(Arc::from(TYPE), Arc::new(resources))].into(),
            ..View::default()
        }
    }

    fn take(&mut self, step: Step) {
        let text = |name: u8| format!("r{name}");
        match step {
            Step::Set { name, good } => {
                self.version += 1;
                self.truth.insert(text(name), (self.version, good));
            }
            Step::Delete { name } => drop(self.truth.remove(&text(name))),
            Step::ServerPushes => self.server_pushes(),
            Step::ServerReads => drop(self.server_reads()),
            Step::ClientReads => self.client_reads(),
            Step::Reconnect => self.reconnect(),
            Step::Subscribe { name } => {
                self.wanted.insert(text(name));
                self.to_server
                    .extend(self.machine.subscribe([text(name)], true));
            }
            Step::Unsubscribe { name } => {
                if self.wanted.remove(&text(name)) && !self.wildcard {
                    self.state.remove(&text(name));
                }
                self.to_server
                    .extend(self.machine.unsubscribe([text(name)], true));
            }
        }
    }

    fn server_pushes(&mut self) {
        let push = self.session.push(&self.view());
        self.to_client.extend(push);
    }

    fn server_reads(&mut self) -> Option<Event> {
        let request = self.to_server.pop_front()?;
        Some(self.session.request(request))
    }

    /// The handler: refuses what is bad, keeps the rest.
    fn client_reads(&mut self) {
        let Some(response) = self.to_client.pop_front() else {
            return;
        };
        let (updates, receipt) = self.machine.receive(response).split();
        let mut rejected = Vec::new();
        for update in updates {
            match update {
                ResourceUpdate::Upsert { name, body, .. } => {
                    let body = String::from_utf8(body).unwrap();
                    let (version, good) = body.split_once(' ').unwrap();
                    if good == "true" {
                        self.state.insert(name, version.parse().unwrap());
                    } else {
                        rejected.push(Rejected {
                            name,
                            reason: "bad".to_owned(),
                        });
                    }
                }
                ResourceUpdate::Remove { name } => drop(self.state.remove(&name)),
            }
        }
        let answer = self.machine.applied(receipt, rejected);
        self.to_server.push_back(answer.request);
    }

    /// Lets messages flow until none is left. Everything here must come to rest.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let before = (self.to_server.len(), self.to_client.len());
            self.server_pushes();
            if before == (0, 0) && self.to_client.is_empty() {
                return;
            }
            while self.server_reads().is_some() {}
            while !self.to_client.is_empty() {
                self.client_reads();
            }
        }
        panic!("no rest after 1000 rounds");
    }

    fn interested(&self, name: &String) -> bool {
        self.wildcard || self.wanted.contains(name)
    }

    fn check(&self, history: &History) {
        for name in self.state.keys() {
            assert!(
                self.truth.contains_key(name) && self.interested(name),
                "{name} is kept"
            );
        }
        for (name, (version, good)) in self.truth.iter().filter(|(n, _)| self.interested(n)) {
            let kept = self.state.get(name);
            if *good {
                assert_eq!(kept, Some(version), "{name}");
                continue;
            }
            match kept {
                Some(kept) => assert!(history.good.contains(kept), "{name} at {kept}"),
                None => assert!(!history.must_stay(name), "the last good {name} is lost"),
            }
        }
        let held: BTreeMap<String, u64> = self
            .machine
            .held()
            .map(|(n, v)| (n.to_owned(), v.parse().unwrap()))
            .collect();
        assert_eq!(held, self.state, "what is reported as held is what is held");
    }
}

/// What may and what must be kept of a resource whose present version is refused.
#[derive(Default)]
struct History {
    /// Versions that were good.
    good: BTreeSet<u64>,
    /// The version last accepted, by name.
    accepted: BTreeMap<String, u64>,
    /// Versions up to this one may be removed, by name: somebody deleted it or asked for it no more.
    removable: BTreeMap<String, u64>,
}

impl History {
    fn note(&mut self, step: &Step, world: &World) {
        match step {
            Step::Set { good: true, .. } => {
                self.good.insert(world.version);
            }
            Step::Delete { name } | Step::Unsubscribe { name } => {
                self.removable.insert(format!("r{name}"), world.version);
            }
            _ => {}
        }
        self.accepted.extend(
            world
                .state
                .iter()
                .map(|(name, version)| (name.clone(), *version)),
        );
    }

    fn must_stay(&self, name: &str) -> bool {
        let removable = self.removable.get(name).copied().unwrap_or(0);
        self.accepted
            .get(name)
            .is_some_and(|version| *version > removable)
    }
}

fn run(wildcard: bool, steps: Vec<Step>) {
    let mut world = World::new(wildcard);
    let mut history = History::default();
    for step in steps {
        world.take(step.clone());
        history.note(&step, &world);
    }
    world.settle();
    world.check(&history);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn a_wildcard_client_comes_to_the_truth(steps in proptest::collection::vec(step(), 0..120)) {
        run(true, steps);
    }

    #[test]
    fn a_client_of_names_comes_to_the_truth(steps in proptest::collection::vec(step(), 0..120)) {
        run(false, steps);
    }
}
