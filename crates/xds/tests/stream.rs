//! The client against the server over gRPC messages, in one process and with tokio's clock paused:
//! readiness, refusals, reconnects with back-off, changes of subscription, and many rounds of everything
//! against a naive fold.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in unit tests only; a panic is the failure report here too"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use causeway_xds as xds;
use mesh::identity::Identity;
use proto::discovery::Node;
use proto::type_url::{ADDRESS, AUTHORIZATION, ENDPOINT};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::codegen::Service as _;
use xds::client::{Client, ClientConfig, Handle, Observer, Termination};
use xds::machine::Subscription;
use xds::server::{Ads, Authenticated, Nack, Resource, Resources, Source, View};
use xds::{Handler, Rejected, ResourceUpdate};

type Fold = Arc<Mutex<BTreeMap<String, BTreeMap<String, String>>>>;

/// Longest wait, by the paused clock: what never comes fails the test at once.
const LIMIT: Duration = Duration::from_secs(600);

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what)
        .await
        .expect("it comes in time")
}

/// Keeps what it accepts; refuses bodies that begin with `bad`.
struct Naive {
    state: Fold,
    pushes: mpsc::UnboundedSender<(String, Vec<ResourceUpdate>)>,
}

impl Handler for Naive {
    fn apply(&mut self, type_url: &str, updates: Vec<ResourceUpdate>) -> Vec<Rejected> {
        let mut all = self.state.lock().unwrap();
        let state = all.entry(type_url.to_owned()).or_default();
        let mut rejected = Vec::new();
        for update in &updates {
            match update {
                ResourceUpdate::Upsert { name, body, .. } => {
                    let body = String::from_utf8(body.clone()).unwrap();
                    if body.starts_with("bad") {
                        rejected.push(Rejected {
                            name: name.clone(),
                            reason: body,
                        });
                    } else {
                        state.insert(name.clone(), body);
                    }
                }
                ResourceUpdate::Remove { name } => drop(state.remove(name)),
            }
        }
        let _ = self.pushes.send((type_url.to_owned(), updates));
        rejected
    }
}

/// One view for everybody, and what subscribers said.
struct One {
    view: watch::Sender<Arc<View>>,
    nacks: mpsc::UnboundedSender<Nack>,
    clients: mpsc::UnboundedSender<xds::server::Client>,
}

impl Source for One {
    fn subscribe(
        &self,
        client: &xds::server::Client,
    ) -> Result<watch::Receiver<Arc<View>>, Status> {
        if client.node.id == "stranger" {
            return Err(Status::permission_denied("not of this mesh"));
        }
        let _ = self.clients.send(client.clone());
        Ok(self.view.subscribe())
    }

    fn refused(&self, _client: &xds::server::Client, nack: Nack) {
        let _ = self.nacks.send(nack);
    }
}

#[derive(Default)]
struct Seen {
    ended: Mutex<Vec<Termination>>,
    bytes: Mutex<BTreeMap<String, (usize, usize)>>,
}

impl Observer for Seen {
    fn terminated(&self, reason: Termination) {
        self.ended.lock().unwrap().push(reason);
    }

    fn received(&self, type_url: &str, bytes: usize) {
        let mut all = self.bytes.lock().unwrap();
        let entry = all.entry(type_url.to_owned()).or_default();
        *entry = (entry.0 + 1, entry.1 + bytes);
    }
}

/// The control plane: up with a token that ends its streams, or down.
type Server = Arc<Mutex<Option<CancellationToken>>>;

struct Bench {
    source: Arc<One>,
    server: Server,
    attempts: mpsc::UnboundedReceiver<Instant>,
    nacks: mpsc::UnboundedReceiver<Nack>,
    clients: mpsc::UnboundedReceiver<xds::server::Client>,
    pushes: mpsc::UnboundedReceiver<(String, Vec<ResourceUpdate>)>,
    state: Fold,
    seen: Arc<Seen>,
    handle: Handle,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

fn bench(node: &str, subscriptions: Vec<Subscription>) -> Bench {
    let (nack_sender, nacks) = mpsc::unbounded_channel();
    let (client_sender, clients) = mpsc::unbounded_channel();
    let (push_sender, pushes) = mpsc::unbounded_channel();
    let (attempt_sender, attempts) = mpsc::unbounded_channel();
    let source = Arc::new(One {
        view: watch::channel(Arc::default()).0,
        nacks: nack_sender,
        clients: client_sender,
    });
    let server: Server = Arc::new(Mutex::new(Some(CancellationToken::new())));
    let (serving, serving_source) = (server.clone(), source.clone());
    let transport = tower::service_fn(move |mut request: http::Request<tonic::body::Body>| {
        let _ = attempt_sender.send(Instant::now());
        let up = serving.lock().unwrap().clone();
        let source = serving_source.clone();
        async move {
            let stop = up.ok_or_else(|| Status::unavailable("down"))?;
            let identity = Identity::new("td", "istio-system", "ztunnel").unwrap();
            request.extensions_mut().insert(Authenticated(identity));
            let answer = Ads::new(source, stop).into_service().call(request).await;
            answer.map_err(|never| -> Status { match never {} })
        }
    });
    let state = Fold::default();
    let seen = Arc::new(Seen::default());
    let config = ClientConfig {
        node: Node {
            id: node.to_owned(),
            ..Default::default()
        },
        subscriptions,
        observer: seen.clone(),
    };
    let handler = Naive {
        state: state.clone(),
        pushes: push_sender,
    };
    let (client, handle) = Client::new(config, Box::new(handler));
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(client.run(transport, stop.clone()));
    Bench {
        source,
        server,
        attempts,
        nacks,
        clients,
        pushes,
        state,
        seen,
        handle,
        stop,
        tasks,
    }
}

impl Bench {
    fn set(&self, type_url: &str, resources: &BTreeMap<String, String>) {
        let resources: Resources = resources
            .iter()
            .map(|(name, body)| {
                let body = body.clone();
                (
                    Arc::from(name.as_str()),
                    Resource {
                        version: body.as_str().into(),
                        body: body.into(),
                    },
                )
            })
            .collect();
        self.source.view.send_modify(|view| {
            let mut next = View::clone(view);
            next.types.insert(Arc::from(type_url), Arc::new(resources));
            *view = Arc::new(next);
        });
    }

    fn put(&self, type_url: &str, resources: &[(&str, &str)]) {
        let resources = resources
            .iter()
            .map(|(n, b)| ((*n).to_owned(), (*b).to_owned()))
            .collect();
        self.set(type_url, &resources);
    }

    fn up(&self) {
        *self.server.lock().unwrap() = Some(CancellationToken::new());
    }

    fn down(&self) {
        if let Some(server) = self.server.lock().unwrap().take() {
            server.cancel();
        }
    }

    fn held(&self, type_url: &str) -> BTreeMap<String, String> {
        self.state
            .lock()
            .unwrap()
            .get(type_url)
            .cloned()
            .unwrap_or_default()
    }

    async fn push(&mut self) -> (String, Vec<String>) {
        let (type_url, updates) = within(self.pushes.recv()).await.unwrap();
        let text = |update: &ResourceUpdate| match update {
            ResourceUpdate::Upsert { name, version, .. } => format!("+{name}@{version}"),
            ResourceUpdate::Remove { name } => format!("-{name}"),
        };
        (type_url, updates.iter().map(text).collect())
    }
}

#[tokio::test(start_paused = true)]
async fn both_types_arrive_and_are_reported_as_synced() {
    let mut bench = bench(
        "n",
        vec![Subscription::all(ADDRESS), Subscription::all(AUTHORIZATION)],
    );
    bench.put(ADDRESS, &[("a", "1"), ("b", "22")]);
    assert!(within(bench.handle.synced(&[ADDRESS, AUTHORIZATION])).await);
    assert_eq!(bench.held(ADDRESS).len(), 2);
    let client = within(bench.clients.recv()).await.unwrap();
    assert_eq!(client.node.id, "n");
    assert_eq!(client.identity.unwrap().service_account(), "ztunnel");
    assert_eq!(bench.seen.bytes.lock().unwrap()[ADDRESS], (1, 3));
    bench.stop.cancel();
    within(bench.tasks.join_next()).await.unwrap().unwrap();
    assert_eq!(*bench.seen.ended.lock().unwrap(), [Termination::Complete]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_resource_is_named_to_the_control_plane_and_the_last_good_one_stays() {
    let mut bench = bench("n", vec![Subscription::all(ADDRESS)]);
    bench.put(ADDRESS, &[("a", "1"), ("b", "1")]);
    within(bench.handle.synced(&[ADDRESS])).await;
    bench.put(ADDRESS, &[("a", "bad port"), ("b", "2"), ("c", "bad name")]);
    let nack = within(bench.nacks.recv()).await.unwrap();
    let message = "a: bad port; c: bad name".to_owned();
    assert_eq!(
        nack,
        Nack {
            type_url: ADDRESS.to_owned(),
            message
        }
    );
    let want = [
        ("a".to_owned(), "1".to_owned()),
        ("b".to_owned(), "2".to_owned()),
    ]
    .into();
    assert_eq!(bench.held(ADDRESS), want);
}

#[tokio::test(start_paused = true)]
async fn a_lost_control_plane_is_tried_with_back_off_and_resumed_by_version() {
    let mut bench = bench("n", vec![Subscription::all(ADDRESS)]);
    bench.put(ADDRESS, &[("same", "1"), ("old", "1"), ("gone", "1")]);
    within(bench.handle.synced(&[ADDRESS])).await;
    bench.push().await;
    within(bench.attempts.recv()).await.unwrap();
    bench.down();
    let mut last = Instant::now();
    let mut waits = Vec::new();
    for _ in 0..14 {
        let attempt = within(bench.attempts.recv()).await.unwrap();
        waits.push(attempt - last);
        last = attempt;
    }
    for (i, wait) in waits.iter().enumerate() {
        let full = Duration::from_millis(20 << i).min(Duration::from_secs(15));
        // Half to all of the step; timers have a grain of 1 ms.
        let slack = Duration::from_millis(2);
        assert!(
            *wait + slack >= full / 2 && *wait <= full + slack,
            "{i}: {wait:?} of {full:?}"
        );
    }
    bench.put(ADDRESS, &[("same", "1"), ("old", "2"), ("new", "1")]);
    bench.up();
    let (_, updates) = bench.push().await;
    assert_eq!(updates, ["+new@1", "+old@2", "-gone"]);
    let ended = bench.seen.ended.lock().unwrap().clone();
    assert_eq!(
        ended[..2],
        [Termination::Error, Termination::ConnectionError]
    );

    // A stream that worked sets the wait back.
    bench.down();
    let lost = Instant::now();
    while bench.attempts.try_recv().is_ok() {}
    let again = within(bench.attempts.recv()).await.unwrap();
    assert!(again - lost <= Duration::from_millis(22));
}

#[tokio::test(start_paused = true)]
async fn names_are_asked_for_and_given_up_while_running() {
    let mut bench = bench("n", vec![Subscription::named::<&str>(ENDPOINT, [])]);
    bench.put(ENDPOINT, &[("a", "1"), ("b", "1"), ("c", "1")]);
    bench.handle.subscribe(ENDPOINT, vec!["a".to_owned()]);
    assert_eq!(bench.push().await.1, ["+a@1"]);
    bench.handle.subscribe(
        ENDPOINT,
        vec!["a".to_owned(), "b".to_owned(), "x".to_owned()],
    );
    assert_eq!(bench.push().await.1, ["+b@1", "-x"]);
    bench.handle.unsubscribe(ENDPOINT, vec!["a".to_owned()]);
    // Requests keep their order: when `c` comes, the server knows that `a` is not wanted.
    bench.handle.subscribe(ENDPOINT, vec!["c".to_owned()]);
    assert_eq!(bench.push().await.1, ["+c@1"]);
    bench.put(ENDPOINT, &[("a", "2"), ("b", "2"), ("c", "2")]);
    assert_eq!(bench.push().await.1, ["+b@2", "+c@2"]);
    // A type that nobody spoke of before, asked for while there is no stream.
    bench.down();
    bench.handle.subscribe(ADDRESS, vec!["w".to_owned()]);
    bench.put(ADDRESS, &[("w", "1"), ("v", "1")]);
    bench.put(ENDPOINT, &[("a", "3"), ("b", "3"), ("c", "2")]);
    bench.up();
    let two = [bench.push().await, bench.push().await];
    let text = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert!(
        two.contains(&(ENDPOINT.to_owned(), text(&["+b@3", "-x"]))),
        "{two:?}"
    );
    assert!(
        two.contains(&(ADDRESS.to_owned(), text(&["+w@1"]))),
        "{two:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_source_may_refuse_a_subscriber() {
    let mut bench = bench("stranger", vec![Subscription::all(ADDRESS)]);
    for _ in 0..3 {
        within(bench.attempts.recv()).await.unwrap();
    }
    assert!(bench.clients.try_recv().is_err());
    assert!(bench.handle.synced_types().borrow().is_empty());
    assert!(
        bench
            .seen
            .ended
            .lock()
            .unwrap()
            .iter()
            .all(|e| *e == Termination::Error)
    );
}

/// 500 rounds of random pushes with refused resources, reconnects and removals; after each the client
/// has the fold of what was accepted: what the truth says, and for what is bad the last good.
#[tokio::test(start_paused = true)]
async fn five_hundred_random_rounds_end_in_the_fold_of_the_accepted() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut bench = bench("n", vec![Subscription::all(ADDRESS)]);
    let mut truth: BTreeMap<String, String> = BTreeMap::new();
    let mut want: BTreeMap<String, String> = BTreeMap::new();
    let (mut refused, mut removed, mut reconnects) = (0, 0, 0);
    for round in 0..500 {
        let away = rng.random_bool(0.2);
        if away {
            bench.down();
            reconnects += 1;
        }
        let touched: BTreeSet<u32> = (0..rng.random_range(1..5))
            .map(|_| rng.random_range(0..12))
            .collect();
        for i in touched {
            let name = format!("r{i}");
            match rng.random_range(0..10) {
                0..3 => {
                    removed += usize::from(truth.remove(&name).is_some());
                    want.remove(&name);
                }
                3..6 => {
                    refused += 1;
                    truth.insert(name, format!("bad {round}"));
                }
                _ => {
                    truth.insert(name.clone(), format!("good {round}"));
                    want.insert(name, format!("good {round}"));
                }
            }
        }
        bench.set(ADDRESS, &truth);
        if away {
            bench.up();
        }
        settle(&mut bench, &want, round).await;
    }
    println!("500 rounds: {refused} refused, {removed} removed, {reconnects} reconnects");
    assert!(
        refused > 100 && removed > 100 && reconnects > 50,
        "{refused} {removed} {reconnects}"
    );
}

/// Waits for pushes until the client holds `want`.
async fn settle(bench: &mut Bench, want: &BTreeMap<String, String>, round: u32) {
    while bench.held(ADDRESS) != *want {
        let push = tokio::time::timeout(LIMIT, bench.pushes.recv()).await;
        assert!(
            push.is_ok(),
            "round {round}: {:?}, not {want:?}",
            bench.held(ADDRESS)
        );
    }
}
