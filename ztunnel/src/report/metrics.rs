//! The TCP metrics of all connections. Label sets are interned and the counters of a set are held, so that an event
//! costs one map look-up. Called by `report` for each notice, and before each scrape for the bytes of live
//! connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use runtime::metrics::Registry;

use super::labels::{Labels, OnDemand, Series, reporter};
use super::parts::Parts;
use super::reason::{Flag, Outcome};
use crate::slots::Slots;
use crate::worker::api::{Connection, Direction};

/// Peers choose some of the labels (baggage), so their number has a bound. Beyond it sets without a live connection make
/// room, the ones first that were not used for longest; when all are in use, what comes after is counted coarsely.
const MAX_LABEL_SETS: usize = 20_000;
/// This part of the sets makes room at once: looking for them costs a look at all.
const EVICTED: usize = 8;

/// Connections of so many kinds are recognised at once.
const MAX_KNOWN: usize = 4096;

/// Counters of all label sets, and what of the live connections has been counted already.
#[derive(Debug)]
pub struct Metrics {
    opened: Family<Series, Counter>,
    closed: Family<Series, Counter>,
    failed: Family<Series, Counter>,
    sent: Family<Series, Counter>,
    received: Family<Series, Counter>,
    on_demand: Family<OnDemand, Counter>,
    open: [Gauge; 2],
    interned: HashMap<Arc<Labels>, Arc<Handles>>,
    /// The same, found without looking at strings.
    known: HashMap<Parts, Arc<Handles>>,
    /// Label sets that are kept apart.
    limit: usize,
    /// Connections opened so far: the age of a label set's last use.
    clock: u64,
    /// So many new sets are counted coarsely before those in use are looked through again.
    patience: usize,
    /// Each connection knows its key.
    live: Slots<Live>,
}

/// Counters of one label set, with the flag `-`.
#[derive(Debug)]
struct Handles {
    labels: Arc<Labels>,
    opened: Counter,
    closed: Counter,
    sent: Counter,
    received: Counter,
    /// [`Metrics::clock`] at the last connection.
    used: AtomicU64,
    /// A bit for each flag that connections have ended with.
    flags: AtomicU32,
}

#[derive(Debug)]
struct Live {
    connection: Arc<Connection>,
    handles: Arc<Handles>,
    sent: u64,
    received: u64,
}

/// The `reporter` label alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Reporter(Direction);

impl EncodeLabelSet for Reporter {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        ("reporter", reporter(self.0)).encode(encoder.encode_label())
    }
}

impl Metrics {
    /// Registers the families, with upstream's names and help texts.
    pub fn new(registry: &Registry) -> Self {
        Self::with_limit(registry, MAX_LABEL_SETS)
    }

    /// As [`Metrics::new`], keeping at most `limit` label sets apart (and one more for each way).
    pub fn with_limit(registry: &Registry, limit: usize) -> Self {
        let family = |name: &str, help: &str| {
            registry.register(name, help, Family::<Series, Counter>::default())
        };
        let opened = family(
            "istio_tcp_connections_opened",
            "The total number of TCP connections opened",
        );
        let closed = family(
            "istio_tcp_connections_closed",
            "The total number of TCP connections closed",
        );
        let failed = family(
            "istio_tcp_connections_failed",
            "The total number of TCP connections that failed",
        );
        let received = family(
            "istio_tcp_received_bytes",
            "The size of total bytes received during request in case of a TCP connection",
        );
        let sent = family(
            "istio_tcp_sent_bytes",
            "The size of total bytes sent during response in case of a TCP connection",
        );
        let sockets: Family<Reporter, Gauge> = registry.register(
            "istio_tcp_sockets_open",
            "The current number of open TCP sockets (unstable)",
            Family::default(),
        );
        let open = [Direction::Inbound, Direction::Outbound]
            .map(|way| sockets.get_or_create_owned(&Reporter(way)));
        Self {
            opened,
            closed,
            failed,
            sent,
            received,
            on_demand: registry.register(
                "istio_on_demand_dns",
                "The total number of requests that used on-demand DNS (unstable)",
                Family::default(),
            ),
            open,
            interned: HashMap::new(),
            known: HashMap::new(),
            limit,
            clock: 0,
            patience: 0,
            live: Slots::default(),
        }
    }

    /// A connection was opened. Returns its labels, for the log.
    pub fn opened(&mut self, connection: &Arc<Connection>) -> Arc<Labels> {
        let handles = self.handles_of(connection);
        handles.opened.inc();
        self.clock += 1;
        handles.used.store(self.clock, Ordering::Relaxed);
        self.open_gauge(connection.direction).inc();
        if let Some(labels) = OnDemand::of(connection) {
            self.on_demand.get_or_create(&labels).inc();
        }
        let labels = Arc::clone(&handles.labels);
        let live = Live {
            connection: Arc::clone(connection),
            handles,
            sent: 0,
            received: 0,
        };
        let place = self.live.insert(live);
        connection.bytes.remember(Some(place));
        labels
    }

    /// An opened connection ended with `flag`. Returns its labels, for the log.
    pub fn closed(
        &mut self,
        connection: &Arc<Connection>,
        flag: Flag,
        outcome: Outcome,
    ) -> Arc<Labels> {
        if self.live.get(connection.bytes.place()).is_none() {
            // A worker always says "opened" first; should it not, the counts still agree with each other.
            self.opened(connection);
        }
        let mut live = self
            .live
            .remove(connection.bytes.place())
            .expect("it was there or has just been inserted");
        live.count();
        self.open_gauge(connection.direction).dec();
        let labels = Arc::clone(&live.handles.labels);
        let series = Series {
            labels: Arc::clone(&labels),
            flag,
        };
        live.handles.flags.fetch_or(bit(flag), Ordering::Relaxed);
        match flag {
            Flag::None => live.handles.closed.inc(),
            _ => self.closed.get_or_create(&series).inc(),
        };
        if outcome == Outcome::Failed {
            self.failed.get_or_create(&series).inc();
        }
        labels
    }

    /// Brings the byte counters up to now. Called before a scrape.
    pub fn count_live(&mut self) {
        self.live.values_mut().for_each(Live::count);
    }

    /// Connections that are open, for dumps.
    pub fn live(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.live.values().map(|live| &live.connection)
    }

    fn open_gauge(&self, direction: Direction) -> &Gauge {
        match direction {
            Direction::Inbound => &self.open[0],
            Direction::Outbound => &self.open[1],
        }
    }

    fn handles_of(&mut self, connection: &Connection) -> Arc<Handles> {
        let Some(parts) = Parts::of(connection) else {
            return self.handles(Labels::of(connection));
        };
        if let Some(handles) = self.known.get(&parts) {
            return Arc::clone(handles);
        }
        let handles = self.handles(Labels::of(connection));
        if self.known.len() >= MAX_KNOWN {
            // Parts of workloads that have changed or gone since.
            self.known = HashMap::new();
        }
        self.known.insert(parts, Arc::clone(&handles));
        handles
    }

    fn handles(&mut self, labels: Labels) -> Arc<Handles> {
        if let Some(handles) = self.interned.get(&labels) {
            return Arc::clone(handles);
        }
        let labels = match self.has_room() {
            true => labels,
            false => labels.coarse(),
        };
        if let Some(handles) = self.interned.get(&labels) {
            return Arc::clone(handles);
        }
        let labels = Arc::new(labels);
        let series = Series {
            labels: Arc::clone(&labels),
            flag: Flag::None,
        };
        let handles = Arc::new(Handles {
            labels: Arc::clone(&labels),
            opened: self.opened.get_or_create_owned(&series),
            closed: self.closed.get_or_create_owned(&series),
            sent: self.sent.get_or_create_owned(&series),
            received: self.received.get_or_create_owned(&series),
            used: AtomicU64::new(self.clock),
            flags: AtomicU32::new(bit(Flag::None)),
        });
        self.interned.insert(labels, Arc::clone(&handles));
        handles
    }
}

impl Metrics {
    /// Whether one more label set is kept apart; makes room if need be and possible.
    fn has_room(&mut self) -> bool {
        if self.interned.len() < self.limit {
            return true;
        }
        if self.patience > 0 {
            self.patience -= 1;
            return false;
        }
        let some = (self.limit / EVICTED).max(1);
        // These hold handles too, and are only a short cut.
        self.known = HashMap::new();
        let mut unused: Vec<(u64, Arc<Labels>)> = self
            .interned
            .iter()
            .filter(|(_, handles)| Arc::strong_count(handles) == 1)
            .map(|(labels, handles)| (handles.used.load(Ordering::Relaxed), Arc::clone(labels)))
            .collect();
        if unused.len() > some {
            unused.select_nth_unstable_by_key(some, |(used, _)| *used);
            unused.truncate(some);
        } else {
            self.patience = some;
        }
        for (_, labels) in &unused {
            self.forget(labels);
        }
        self.interned.len() < self.limit
    }

    /// Takes a label set out of all families.
    fn forget(&mut self, labels: &Arc<Labels>) {
        let Some(handles) = self.interned.remove(labels) else {
            return;
        };
        let flags = handles.flags.load(Ordering::Relaxed);
        for flag in Flag::ALL.into_iter().filter(|flag| flags & bit(*flag) != 0) {
            let labels = Arc::clone(labels);
            let series = Series { labels, flag };
            self.closed.remove(&series);
            self.failed.remove(&series);
            if flag == Flag::None {
                for family in [&self.opened, &self.sent, &self.received] {
                    family.remove(&series);
                }
            }
        }
    }
}

/// A flag's place in [`Handles::flags`].
fn bit(flag: Flag) -> u32 {
    1 << flag as u32
}

impl Live {
    fn count(&mut self) {
        let (sent, received) = (
            self.connection.bytes.sent(),
            self.connection.bytes.received(),
        );
        self.handles.sent.inc_by(sent - self.sent);
        self.handles.received.inc_by(received - self.received);
        (self.sent, self.received) = (sent, received);
    }
}
