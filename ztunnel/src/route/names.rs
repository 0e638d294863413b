//! Host names of workloads that have no addresses, as they were resolved last: a plain value that control makes and
//! workers hold. Read by `outbound`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// So many names are held; mesh-wide configuration names a few.
const MAX: usize = 4096;

/// All names.
#[derive(Debug, Clone, Default)]
pub struct Names(HashMap<Arc<str>, Name>);

/// What is known of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Its addresses, or why there are none.
    pub found: Result<Box<[IpAddr]>, Arc<str>>,
    /// Until when that counts.
    pub until: Instant,
    /// When a server said so.
    pub resolved: Instant,
}

impl Names {
    /// What is known of `host` and counts at `now`.
    pub fn at(&self, host: &str, now: Instant) -> Option<&Name> {
        self.0.get(host).filter(|name| name.until > now)
    }

    /// The same, even if it does not count any more.
    pub fn last(&self, host: &str) -> Option<&Name> {
        self.0.get(host)
    }

    /// Puts a name in. When there are too many, those that count no more make room, then the one that counts the shortest.
    pub fn put(&mut self, host: Arc<str>, name: Name, now: Instant) {
        if self.0.len() >= MAX && !self.0.contains_key(&host) {
            self.0.retain(|_, old| old.until > now);
            let next = self.0.iter().min_by_key(|(_, old)| old.until);
            if let Some(next) = next
                .map(|(host, _)| host.clone())
                .filter(|_| self.0.len() >= MAX)
            {
                self.0.remove(&next);
            }
        }
        self.0.insert(host, name);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_name_counts_until_its_time_and_old_ones_make_room() {
        let begin = Instant::now();
        let later = |seconds| begin + Duration::from_secs(seconds);
        let name = |until| Name {
            found: Ok([IpAddr::from([192, 0, 2, 1])].into()),
            until: later(until),
            resolved: begin,
        };
        let mut names = Names::default();
        names.put("a".into(), name(5), begin);
        assert!(names.at("a", later(4)).is_some());
        assert!(names.at("a", later(5)).is_none() && names.last("a").is_some());
        for number in 0..MAX + 10 {
            names.put(
                number.to_string().into(),
                name(10 + number as u64),
                later(6),
            );
        }
        assert_eq!(names.0.len(), MAX);
        assert!(names.last("a").is_none() && names.last("0").is_none());
        assert!(names.last(&(MAX + 9).to_string()).is_some());
    }
}
