//! Live clusters: endpoints with their health and load, and the choice of one. The choice is pure: the
//! random numbers and the time are arguments. Called by `request`, `tcp` and `state`.

#[cfg(test)]
mod tests;

use crate::model::cluster::{
    Balance, Cluster, Discovery, Endpoint, Endpoints, Health, Limits, Outlier,
};
use rand::RngExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// A cluster with its endpoints and counters.
pub struct Live {
    /// What was configured.
    pub config: Arc<Cluster>,
    /// Its endpoints.
    pub hosts: Arc<Vec<Arc<Host>>>,
    /// Envoy's overprovisioning factor in percent.
    pub overprovisioning: u32,
    /// Counters; they outlive pushes.
    pub counters: Arc<Counters>,
    /// EDS has not told its endpoints yet.
    pub warming: bool,
}

/// What the limits look at.
#[derive(Debug, Default)]
pub struct Counters {
    /// Upstream connections of this cluster.
    pub connections: AtomicU32,
    /// Requests that wait for a connection.
    pub pending: AtomicU32,
    /// Requests under way.
    pub requests: AtomicU32,
    /// Retries under way.
    pub retries: AtomicU32,
    /// Copies of requests under way.
    pub mirrors: AtomicU32,
    turn: AtomicUsize,
}

/// An endpoint in use.
#[derive(Debug)]
pub struct Host {
    /// As told.
    pub endpoint: Endpoint,
    /// What we know of it; outlives pushes.
    pub state: Arc<HostState>,
}

/// Load and behaviour of an endpoint.
#[derive(Debug, Default)]
pub struct HostState {
    active: AtomicU32,
    five_xx: AtomicU32,
    gateway: AtomicU32,
    ejections: AtomicU32,
    /// Milliseconds since the start of the process; 0 is not ejected.
    ejected_until: AtomicU64,
}

/// Counts one thing while it lives.
pub struct Guard<T: 'static>(Arc<T>, fn(&T) -> &AtomicU32);

impl<T> Guard<T> {
    /// Counts, without a limit.
    pub fn count(owner: &Arc<T>, counter: fn(&T) -> &AtomicU32) -> Self {
        counter(owner).fetch_add(1, Relaxed);
        Self(owner.clone(), counter)
    }

    /// Counts, unless `limit` are counted already.
    pub fn within(owner: &Arc<T>, counter: fn(&T) -> &AtomicU32, limit: u32) -> Option<Self> {
        counter(owner)
            .fetch_update(Relaxed, Relaxed, |n| (n < limit).then(|| n + 1))
            .ok()?;
        Some(Self(owner.clone(), counter))
    }
}

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        self.1(&self.0).fetch_sub(1, Relaxed);
    }
}

/// How a try on an endpoint went, for ejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer with this status.
    Status(u16),
    /// None: no connection, a reset, a timeout.
    Failed,
}

impl Host {
    /// Counts a request on this endpoint.
    pub fn busy(&self) -> Guard<HostState> {
        Guard::count(&self.state, |state| &state.active)
    }

    fn usable(&self, now: Duration) -> bool {
        self.endpoint.health == Health::Healthy && !self.is_ejected(now)
    }

    /// Is it ejected for bad answers?
    pub fn is_ejected(&self, now: Duration) -> bool {
        u128::from(self.state.ejected_until.load(Relaxed)) > now.as_millis()
    }
}

impl Live {
    /// A live cluster; what was known of endpoints that stay is kept.
    pub fn new(config: Arc<Cluster>, endpoints: Option<&Endpoints>, before: Option<&Self>) -> Self {
        let known = |endpoint: &Endpoint| {
            let hosts = before?.hosts.iter();
            hosts
                .into_iter()
                .find(|host| host.endpoint.target == endpoint.target)
                .map(|host| host.state.clone())
        };
        let hosts = endpoints
            .map(|list| list.endpoints.as_slice())
            .unwrap_or_default()
            .iter()
            // Left out, not unhealthy: those may be used when nothing else is there.
            .filter(|endpoint| !(config.mutual_tls && endpoint.mutual_tls))
            .map(|endpoint| {
                let state = known(endpoint).unwrap_or_default();
                Arc::new(Host {
                    endpoint: endpoint.clone(),
                    state,
                })
            });
        let owed = endpoints.is_none() && matches!(config.discovery, Discovery::Eds(_));
        Self {
            warming: owed && before.is_none_or(|live| live.warming),
            hosts: Arc::new(hosts.collect()),
            overprovisioning: endpoints.map_or(140, |list| list.overprovisioning),
            counters: before.map(|live| live.counters.clone()).unwrap_or_default(),
            config,
        }
    }

    /// Chooses an endpoint. Those in `avoid` are taken only if a few draws give nothing else.
    pub fn pick(
        &self,
        now: Duration,
        rng: &mut impl RngExt,
        avoid: &[Arc<Host>],
        draws: u32,
    ) -> Option<Arc<Host>> {
        let eligible = self.eligible(now, rng);
        let mut chosen = None;
        for _ in 0..draws.max(1) {
            let host = self.draw(&eligible, rng)?;
            let tried = avoid
                .iter()
                .any(|tried| tried.endpoint.target == host.endpoint.target);
            chosen = Some(host);
            if !tried {
                break;
            }
        }
        chosen.cloned()
    }

    /// The endpoints of the priority that is drawn, healthy ones unless the cluster is in panic.
    fn eligible(&self, now: Duration, rng: &mut impl RngExt) -> Vec<&Arc<Host>> {
        let mut left = 100u64;
        let mut levels: Vec<(u32, u64)> = Vec::new();
        for priority in self.priorities() {
            let of_level = || {
                self.hosts
                    .iter()
                    .filter(move |host| host.endpoint.priority == priority)
            };
            let (all, healthy) = (
                of_level().count() as u64,
                of_level().filter(|host| host.usable(now)).count() as u64,
            );
            let share = (u64::from(self.overprovisioning) * healthy / all.max(1)).min(left);
            left -= share;
            levels.push((priority, share));
        }
        let available: u64 = 100 - left;
        let healthy = self.hosts.iter().filter(|host| host.usable(now)).count() as u64;
        let panics = healthy * 100 < u64::from(self.config.panic_percent) * self.hosts.len() as u64;
        if available < 100 && panics {
            return self.hosts.iter().collect();
        }
        let mut drawn = rng.random_range(0..available.max(1));
        let level = levels.iter().find(|(_, share)| {
            let here = drawn < *share;
            drawn = drawn.saturating_sub(*share);
            here
        });
        let Some((priority, _)) = level else {
            return Vec::new();
        };
        self.hosts
            .iter()
            .filter(|host| host.endpoint.priority == *priority && host.usable(now))
            .collect()
    }

    fn priorities(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self
            .hosts
            .iter()
            .map(|host| host.endpoint.priority)
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn draw<'a>(&self, hosts: &[&'a Arc<Host>], rng: &mut impl RngExt) -> Option<&'a Arc<Host>> {
        let by_weight = |rng: &mut _| {
            let index = crate::route::weighted(hosts.iter().map(|host| host.endpoint.weight), rng)?;
            hosts.get(index).copied()
        };
        match self.config.balance {
            Balance::Random => by_weight(rng),
            Balance::RoundRobin => self.in_turn(hosts),
            Balance::LeastRequest(choices) => {
                let mut best: Option<&Arc<Host>> = None;
                for _ in 0..choices {
                    let host = by_weight(rng)?;
                    let active = |host: &Arc<Host>| host.state.active.load(Relaxed);
                    if best.is_none_or(|so_far| active(host) < active(so_far)) {
                        best = Some(host);
                    }
                }
                best
            }
        }
    }

    /// Round robin over weights: a counter walks through all shares.
    fn in_turn<'a>(&self, hosts: &[&'a Arc<Host>]) -> Option<&'a Arc<Host>> {
        let sum: u64 = hosts
            .iter()
            .map(|host| u64::from(host.endpoint.weight))
            .sum();
        if sum == 0 {
            return None;
        }
        let turn = self.counters.turn.fetch_add(1, Relaxed) as u64;
        if sum == hosts.len() as u64 {
            return hosts.get((turn % sum) as usize).copied();
        }
        let mut at = (u128::from(turn) * u128::from(stride(sum)) % u128::from(sum)) as u64;
        hosts.iter().copied().find(|host| {
            let weight = u64::from(host.endpoint.weight);
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        })
    }

    /// May a retry begin? Counts it while the guard lives.
    pub fn retry(&self) -> Option<Guard<Counters>> {
        let Limits {
            retries, budget, ..
        } = self.config.limits;
        let limit = match budget {
            None => retries,
            Some((percent, floor)) => {
                let active = u64::from(self.counters.requests.load(Relaxed));
                u32::try_from(active * u64::from(percent) / 100)
                    .unwrap_or(u32::MAX)
                    .max(floor)
            }
        };
        Guard::within(&self.counters, |counters| &counters.retries, limit)
    }

    /// Notes how a try went, and ejects the endpoint if it went wrong too often.
    pub fn record(&self, host: &Host, outcome: Outcome, now: Duration) {
        let Some(outlier) = &self.config.outlier else {
            return;
        };
        let (bad, gateway) = match outcome {
            Outcome::Failed => (true, true),
            Outcome::Status(status) => (status >= 500, matches!(status, 502..=504)),
        };
        let reached = |counter: &AtomicU32, hit: bool, limit: Option<u32>| {
            if !hit {
                counter.store(0, Relaxed);
                return false;
            }
            let count = counter.fetch_add(1, Relaxed) + 1;
            limit.is_some_and(|limit| count >= limit)
        };
        let by_5xx = reached(&host.state.five_xx, bad, outlier.consecutive_5xx);
        let by_gateway = reached(&host.state.gateway, gateway, outlier.consecutive_gateway);
        if (by_5xx || by_gateway) && !host.is_ejected(now) && self.may_eject(outlier, now) {
            let times = host.state.ejections.fetch_add(1, Relaxed) + 1;
            let until = now + (outlier.base * times).min(outlier.max);
            host.state.ejected_until.store(
                u64::try_from(until.as_millis()).unwrap_or(u64::MAX),
                Relaxed,
            );
            host.state.five_xx.store(0, Relaxed);
            host.state.gateway.store(0, Relaxed);
        }
    }

    /// One endpoint may always be ejected, more only up to the percentage.
    fn may_eject(&self, outlier: &Outlier, now: Duration) -> bool {
        let ejected = self
            .hosts
            .iter()
            .filter(|host| host.is_ejected(now))
            .count();
        ejected == 0 || (ejected + 1) * 100 <= self.hosts.len() * outlier.max_percent as usize
    }
}

/// A stride that shares no factor with the sum spreads heavy endpoints over the round. The next such number is never
/// far, so that this takes few steps for a sum of any size.
fn stride(sum: u64) -> u64 {
    let below = u64::try_from(u128::from(sum) * 62 / 100).unwrap_or(u64::MAX);
    (1..=below).rev().find(|n| gcd(*n, sum) == 1).unwrap_or(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
