//! Which tunnel a new stream goes to. Called by `outbound`.

use std::time::Duration;

use super::io::Io;
use super::link::{Far, Phase};
use super::slots::Key;
use super::state::Worker;
use super::tunnel::{self, PoolKey};

/// Tunnels of one worker between a pod and a next hop, however hot.
const TUNNELS: usize = 4;
/// A hot pair gets one more at most so often.
const SPARE: Duration = Duration::from_secs(1);

impl<I: Io> Worker<I> {
    /// Gives a routed link a stream of a pooled tunnel, or a place in the queue of one that is being set up; where both
    /// pods are ours, a lease instead.
    pub(super) fn attach(&mut self, key: Key, io: &mut I) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        let Some(route) = link.route.take() else {
            return;
        };
        let pool = PoolKey {
            pod: link.pod,
            next_hop: route.next_hop,
            accepted: route.accepted.clone(),
        };
        // One that was announced as a call through a tunnel stays one.
        let announced = link.facts.is_some();
        let leasable = match announced {
            true => None,
            false => self.leasable(&pool, &route, io),
        };
        if let Some(link) = self.links.get_mut(key) {
            link.route = Some(route);
        }
        if let Some(destination) = leasable {
            return self.lease_stream(key, pool, destination, io);
        }
        let Some(tunnel) = self.roomy_tunnel(&pool, io) else {
            return self.dial_tunnel(pool, Some(key), io);
        };
        let Some(tunnel_state) = self.tunnels.get_mut(tunnel) else {
            return;
        };
        if tunnel_state.phase == tunnel::Phase::Open {
            return self.open_stream(key, tunnel);
        }
        tunnel_state.waiting.push(key);
        if let Some(link) = self.links.get_mut(key) {
            link.phase = Phase::Tunnel;
            link.far = Far::Waiting(tunnel);
        }
    }

    /// The pooled tunnel with the fewest bytes in flight that takes another stream. When even that is hot, one more is
    /// begun for those who come later.
    fn roomy_tunnel(&mut self, pool: &PoolKey, io: &mut I) -> Option<Key> {
        let now = self.now;
        self.retire_old(pool);
        let pooled = self.pool.get_mut(pool)?;
        // What peers of this pair have told holds for those that have not yet.
        let told = |key: &Key| self.tunnels.get(*key)?.h2.as_ref()?.stream_limit();
        let told = pooled.tunnels.iter().filter_map(told);
        // None at all is said by one that is about to go.
        let told = told.filter(|limit| *limit > 0).min().unwrap_or(u32::MAX);
        let most = self.settings.streams_per_tunnel;
        let room = |key: &Key| {
            let tunnel = self.tunnels.get(*key)?;
            let load = match tunnel.phase {
                tunnel::Phase::Open => {
                    let open = !tunnel.going_away
                        && tunnel.h2.as_ref().is_some_and(|h2| h2.capacity() > 0);
                    open.then_some(tunnel.members.len())?
                }
                tunnel::Phase::Closing => return None,
                _ => tunnel.waiting.len(),
            };
            let settled = tunnel.phase == tunnel::Phase::Open;
            let most = if settled { most } else { most.min(told) };
            (load < most as usize).then_some((tunnel.is_hot(now), !settled, load, *key))
        };
        let best = pooled
            .tunnels
            .iter()
            .filter_map(room)
            .min_by_key(|(hot, fresh, load, _)| (*hot, *fresh, *load));
        let (hot, _, _, key) = best?;
        let may = pooled.tunnels.len() < TUNNELS && pooled.next_spare.is_none_or(|at| at <= now);
        if hot && may {
            pooled.next_spare = Some(now + SPARE);
            self.dial_tunnel(pool.clone(), None, io);
        }
        Some(key)
    }

    /// Tunnels that are too old finish what they have.
    fn retire_old(&mut self, pool: &PoolKey) {
        let (now, age) = (self.now, self.settings.tunnel_age);
        let Some(pooled) = self.pool.get(pool) else {
            return;
        };
        let old = |key: &Key| {
            let tunnel = self.tunnels.get(*key)?;
            let old = now.saturating_duration_since(tunnel.begun) >= age;
            old.then_some(*key)
        };
        // Nearly always none: no allocation.
        let old: Vec<Key> = pooled.tunnels.iter().filter_map(old).collect();
        for key in old {
            self.peer_goes_away(key);
        }
    }
}
