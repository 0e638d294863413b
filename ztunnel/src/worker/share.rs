//! What the workers of one process share: which of them owns the tunnels between a pod and a next hop, and the parcels
//! that they hand each other. Called by `outbound`, `lease` and the shell.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::lease::{Offer, Secret};
use crate::route;

/// Workers that may have tunnels between a quiet pod and next hop. One would do for a quiet pair; with two, a burst that
/// opens all its connections before the first byte still has two cores to run on.
const OWNERS: usize = 2;
/// How long a pair counts as hot after its tunnels had more to send than the network took.
const HOT: Duration = Duration::from_secs(1);
/// Pairs share a mark with one in so many others; a wrong one costs a tunnel, nothing else.
const MARKS: usize = 1024;

/// Something for another worker.
pub(super) enum Parcel<S> {
    /// A captured connection whose tunnel belongs to the receiver. Not a byte of it was read.
    Captured(Box<Captured<S>>),
    /// The far end of a lease that the receiver has offered.
    Offer(Offer<S>),
}

/// A captured connection with its route.
pub(super) struct Captured<S> {
    /// Uid of the pod.
    pub(super) pod: Arc<str>,
    pub(super) socket: S,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) opened: Instant,
    pub(super) route: route::Tunnel,
    /// Who has accepted it, and gets it back if the pod is not known here yet; none on the way back.
    pub(super) from: Option<usize>,
}

/// A worker's place among the others, and what all of them share.
#[derive(Clone)]
pub(super) struct Neighbours {
    pub(super) index: usize,
    pub(super) count: usize,
    pub(super) heat: Arc<Heat>,
    pub(super) secret: Arc<Secret>,
}

/// Which pairs are hot. Written by the owners of their tunnels, read by the acceptors of their connections.
pub(super) struct Heat {
    begin: Instant,
    /// Milliseconds since `begin` until which a pair is hot.
    until: [AtomicU32; MARKS],
}

impl Heat {
    pub(super) fn new(begin: Instant) -> Self {
        Self {
            begin,
            until: [const { AtomicU32::new(0) }; MARKS],
        }
    }

    fn millis(&self, at: Instant) -> u32 {
        // Wraps after 49 days; then a pair may look hot once, or quiet.
        at.saturating_duration_since(self.begin).as_millis() as u32
    }

    /// The pair has more bytes in flight than one tunnel takes.
    pub(super) fn mark(&self, pair: u64, now: Instant) {
        let mark = &self.until[pair as usize % MARKS];
        mark.store(self.millis(now + HOT), Ordering::Relaxed);
    }

    pub(super) fn is_hot(&self, pair: u64, now: Instant) -> bool {
        self.until[pair as usize % MARKS].load(Ordering::Relaxed) > self.millis(now)
    }
}

/// A number for a pod and a next hop; the same on every worker.
pub(super) fn pair(pod: &str, next_hop: SocketAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    (pod, next_hop).hash(&mut hasher);
    hasher.finish()
}

impl Neighbours {
    /// A worker without others.
    #[cfg(test)]
    pub(super) fn alone(index: usize, now: Instant) -> Self {
        Self {
            index,
            count: 1,
            heat: Arc::new(Heat::new(now)),
            secret: Arc::new(Secret::new([7; 32])),
        }
    }

    /// The worker that serves a connection of this pair which we have accepted.
    pub(super) fn owner(&self, pair: u64, now: Instant) -> usize {
        let count = self.count;
        if count <= OWNERS || self.heat.is_hot(pair, now) {
            return self.index;
        }
        let first = pair as usize % count;
        let second = (first + 1 + (pair >> 32) as usize % (count - 1)) % count;
        match self.index {
            own if own == first || own == second => own,
            own if own.is_multiple_of(2) => first,
            _ => second,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(count: usize, pair: u64, hot: bool) -> Vec<usize> {
        let now = Instant::now();
        let heat = Arc::new(Heat::new(now));
        if hot {
            heat.mark(pair, now);
        }
        let secret = Arc::new(Secret::new([0; 32]));
        let place = |index| Neighbours {
            index,
            count,
            heat: heat.clone(),
            secret: secret.clone(),
        };
        (0..count)
            .map(|index| place(index).owner(pair, now))
            .collect()
    }

    #[test]
    fn a_quiet_pair_has_two_owners_who_keep_what_they_accept_and_a_hot_one_has_all() {
        for count in [1, 2, 3, 8, 32] {
            let mut load = vec![0; count];
            for number in 0..2000u16 {
                let pair = pair("pod", SocketAddr::from(([10, 0, 0, 1], number)));
                let quiet = owners(count, pair, false);
                let mut distinct = quiet.clone();
                distinct.sort_unstable();
                distinct.dedup();
                assert_eq!(distinct.len(), count.min(OWNERS), "{quiet:?}");
                for owner in &distinct {
                    assert_eq!(quiet[*owner], *owner);
                    load[*owner] += 1;
                }
                let hot: Vec<usize> = (0..count).collect();
                assert_eq!(owners(count, pair, true), hot);
            }
            let (least, most) = (load.iter().min(), load.iter().max());
            assert!(most < least.map(|least| least * 2).as_ref(), "{load:?}");
        }
    }

    #[test]
    fn heat_passes() {
        let now = Instant::now();
        let heat = Heat::new(now);
        heat.mark(5, now);
        assert!(heat.is_hot(5, now + HOT - Duration::from_millis(2)));
        assert!(!heat.is_hot(5, now + HOT));
        assert!(!heat.is_hot(6, now));
    }
}
