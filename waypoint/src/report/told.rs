//! Bounds on what peers tell of themselves: it becomes labels of metrics, and a series that was made once stays.

use hbone::headers::Baggage;
use identity::Identity;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

/// Longest value of a label, characters; the longest name in Kubernetes.
const LONGEST: usize = 253;
/// Sets of labels that one identity may tell: its workloads and their versions. Identities come from certificates, so
/// that their number is the mesh's.
const SETS_OF_ONE: usize = 64;

/// What was told so far.
#[derive(Debug, Default)]
pub struct Told {
    hasher: RandomState,
    seen: Mutex<HashMap<Identity, HashSet<u64>>>,
}

impl Told {
    /// What counts of a peer's baggage: short values, and nothing at all once the peer has told too many things.
    pub fn admit(&self, peer: &Identity, baggage: Option<Baggage>) -> Option<Baggage> {
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
        if !sets.contains(&hash) {
            if sets.len() >= SETS_OF_ONE {
                return None;
            }
            sets.insert(hash);
        }
        drop(seen);
        Some(baggage)
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

    #[test]
    fn a_peer_tells_a_bounded_number_of_things_and_others_are_not_held_to_it() {
        let told = Told::default();
        let baggage = |n: usize| Some(Baggage::parse(&format!("k8s.pod.name=w{n},service.name=s")));
        let identity = |name: &str| -> Identity {
            let uri = format!("spiffe://cluster.local/ns/app/sa/{name}");
            uri.parse().unwrap()
        };
        let talkative = identity("a");
        let admitted = (0..1000).filter(|n| told.admit(&talkative, baggage(*n)).is_some());
        assert_eq!(admitted.count(), SETS_OF_ONE);
        assert_eq!(told.admit(&talkative, baggage(3)), baggage(3));
        assert_eq!(told.admit(&talkative, baggage(999)), None);
        assert_eq!(told.admit(&identity("b"), baggage(999)), baggage(999));
        assert_eq!(told.admit(&talkative, None), None);
        let long = Some(Baggage::parse(&format!("service.name={}", "é".repeat(300))));
        let short = told.admit(&identity("b"), long).unwrap();
        assert_eq!(short.service.unwrap().chars().count(), LONGEST);
    }
}
