//! Bounds on what peers tell of themselves: it becomes labels of metrics, and a series that was made once stays until
//! the one who told it has been away for long.

use super::metrics::Labels;
use hbone::headers::Baggage;
use identity::Identity;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Longest value of a label, characters; the longest name in Kubernetes.
const LONGEST: usize = 253;
/// Sets of labels that one identity may tell: its workloads and their versions. Identities come from certificates, so
/// that their number is the mesh's.
const SETS_OF_ONE: usize = 64;
/// A set that no tunnel has used for this long makes room for another, and its series are forgotten: whoever reads
/// metrics has read them by then.
const UNUSED: Duration = Duration::from_secs(3600);

/// What was told so far.
#[derive(Debug, Default)]
pub struct Told {
    hasher: RandomState,
    seen: Mutex<HashMap<Identity, Sets>>,
}

/// What one identity told.
#[derive(Debug, Default)]
struct Sets {
    known: HashMap<u64, Arc<Set>>,
    /// It was logged that there are too many.
    logged: bool,
}

/// One set of labels.
#[derive(Debug)]
struct Set(Mutex<Uses>);

#[derive(Debug)]
struct Uses {
    /// When it was last taken up or given back.
    last: Instant,
    series: HashSet<Labels>,
}

impl Set {
    fn lock(&self) -> MutexGuard<'_, Uses> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The use that a tunnel makes of what its peer told; its series stay while this lives, and for an hour after.
#[derive(Debug)]
pub struct Use(Arc<Set>);

impl Use {
    /// A series with these labels is about to be made.
    pub fn note(&self, labels: &Labels) {
        let mut uses = self.0.lock();
        if !uses.series.contains(labels) {
            uses.series.insert(labels.clone());
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.lock().last = Instant::now();
    }
}

impl Told {
    /// What counts of a peer's baggage: short values, and nothing at all while the peer tells too many things. The
    /// series that are to make room are given to `forget`.
    pub fn admit(
        &self,
        peer: &Identity,
        baggage: Option<Baggage>,
        forget: impl FnMut(&Labels),
    ) -> Option<(Baggage, Use)> {
        let mut baggage = baggage?;
        for value in [
            &mut baggage.cluster,
            &mut baggage.namespace,
            &mut baggage.workload,
            &mut baggage.service,
            &mut baggage.version,
        ] {
            shorten(value);
        }
        let labels = (
            &baggage.cluster,
            &baggage.workload,
            &baggage.service,
            &baggage.version,
        );
        let hash = self.hasher.hash_one(labels);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let sets = seen.entry(peer.clone()).or_default();
        if !sets.known.contains_key(&hash) && sets.known.len() >= SETS_OF_ONE {
            // Under the lock: nobody can begin to use a set whose series go.
            sets.forget_unused(forget);
            if sets.known.len() >= SETS_OF_ONE {
                if !std::mem::replace(&mut sets.logged, true) {
                    tracing::warn!(
                        %peer,
                        "has told of more than {SETS_OF_ONE} workloads and versions within an hour; \
                         metrics say `unknown` of the rest"
                    );
                }
                return None;
            }
        }
        let (last, series) = (Instant::now(), HashSet::new());
        let new = || Arc::new(Set(Mutex::new(Uses { last, series })));
        let set = sets.known.entry(hash).or_insert_with(new).clone();
        drop(seen);
        Some((baggage, Use(set)))
    }
}

impl Sets {
    fn forget_unused(&mut self, mut forget: impl FnMut(&Labels)) {
        self.known.retain(|_, set| {
            let uses = set.lock();
            let stays = Arc::strong_count(set) > 1 || uses.last.elapsed() < UNUSED;
            if !stays {
                uses.series.iter().for_each(&mut forget);
            }
            stays
        });
    }
}

fn shorten(value: &mut Option<Box<str>>) {
    if let Some(text) = value
        && let Some((end, _)) = text.char_indices().nth(LONGEST)
    {
        *value = Some(text[..end].into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baggage(n: usize) -> Option<Baggage> {
        Some(Baggage::parse(&format!("k8s.pod.name=w{n},service.name=s")))
    }

    fn identity(name: &str) -> Identity {
        let uri = format!("spiffe://cluster.local/ns/app/sa/{name}");
        uri.parse().unwrap()
    }

    /// Admitted by `told` without anything being forgotten for it.
    fn admit(told: &Told, peer: &Identity, baggage: Option<Baggage>) -> Option<Baggage> {
        let forget = |labels: &Labels| panic!("{labels:?} is forgotten");
        told.admit(peer, baggage, forget)
            .map(|(baggage, _)| baggage)
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_tells_a_bounded_number_of_things_and_others_are_not_held_to_it() {
        let told = Told::default();
        let talkative = identity("a");
        let admitted = (0..1000).filter(|n| admit(&told, &talkative, baggage(*n)).is_some());
        assert_eq!(admitted.count(), SETS_OF_ONE);
        assert_eq!(admit(&told, &talkative, baggage(3)), baggage(3));
        assert_eq!(admit(&told, &talkative, baggage(999)), None);
        assert_eq!(admit(&told, &identity("b"), baggage(999)), baggage(999));
        assert_eq!(admit(&told, &talkative, None), None);
        let long = Some(Baggage::parse(&format!("service.name={}", "é".repeat(300))));
        let short = admit(&told, &identity("b"), long).unwrap();
        assert_eq!(short.service.unwrap().chars().count(), LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_has_used_for_an_hour_makes_room_with_its_series() {
        let (told, peer) = (Told::default(), identity("a"));
        let labels = |n: usize| vec![("source_workload", format!("w{n}"))];
        let take = |n: usize| {
            let mut forgotten = Vec::new();
            let taken = told.admit(&peer, baggage(n), |labels| forgotten.push(labels.clone()));
            let taken = taken.map(|(_, taken)| taken);
            taken.iter().for_each(|taken| taken.note(&labels(n)));
            forgotten.sort();
            (taken, forgotten)
        };
        let held: Vec<_> = (0..SETS_OF_ONE).map(|n| take(n).0.unwrap()).collect();
        tokio::time::advance(UNUSED * 2).await;
        assert!(take(100).0.is_none(), "all are in use");
        let mut held = held.into_iter();
        drop((held.next(), held.next()));
        tokio::time::advance(UNUSED / 2).await;
        assert!(
            take(100).0.is_none(),
            "two are used no more, but were just now"
        );
        drop(take(1));
        tokio::time::advance(UNUSED / 2).await;
        let (taken, forgotten) = take(100);
        assert!(taken.is_some());
        assert_eq!(forgotten, [labels(0)]);
    }
}
