//! From which addresses a pod's inbound tunnels come: those that shake hands have no name yet, and those that are open
//! could have many. Used by `pods`.

use std::collections::HashMap;
use std::net::IpAddr;

/// Counts by source. Without any it holds no memory.
#[derive(Debug, Default)]
pub(super) struct Sources {
    total: u32,
    by_source: HashMap<IpAddr, u32>,
}

impl Sources {
    pub(super) fn begin(&mut self, source: IpAddr) {
        self.total += 1;
        *self.by_source.entry(source).or_default() += 1;
    }

    pub(super) fn end(&mut self, source: IpAddr) {
        let Some(count) = self.by_source.get_mut(&source) else {
            return;
        };
        *count -= 1;
        self.total -= 1;
        if *count == 0 {
            self.by_source.remove(&source);
        }
        if self.total == 0 {
            self.by_source = HashMap::new();
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.total
    }

    /// How many this source holds.
    pub(super) fn of(&self, source: IpAddr) -> u32 {
        self.by_source.get(&source).copied().unwrap_or(0)
    }

    /// The source that holds the most, if that is more than an eighth of `limit`: far more than one pod's proxy has at once.
    pub(super) fn greedy(&self, limit: u32) -> Option<IpAddr> {
        let most = self.by_source.iter().max_by_key(|(_, count)| **count);
        most.filter(|(_, count)| **count > (limit / 8).max(1))
            .map(|(source, _)| *source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_more_than_a_share_is_greedy_until_it_lets_go() {
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut counts = Sources::default();
        counts.begin(other);
        for _ in 0..3 {
            counts.begin(one);
        }
        assert_eq!((counts.len(), counts.greedy(16)), (4, Some(one)));
        assert_eq!((counts.of(one), counts.of(other)), (3, 1));
        assert_eq!(counts.greedy(24), None, "an eighth is nobody's fault");
        counts.end(one);
        assert_eq!((counts.len(), counts.greedy(16)), (3, None));
        for source in [one, one, other, other] {
            counts.end(source);
        }
        assert_eq!((counts.len(), counts.by_source.capacity()), (0, 0));
    }
}
