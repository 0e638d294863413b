//! Bytes held for applications that do not read: counted per pod and for the worker, so that neither passes its limit.
//! Up to half of a limit nothing is different. Beyond it windows of streams that lag behind shrink, beyond three
//! quarters a new request, and beyond all of it any more bytes, end the links that hold most. Used by `copy`, `carrier`, `inbound`.

use super::api::Reason;
use super::io::Io;
use super::slots::Key;
use super::state::Worker;
use crate::route::Refusal;

/// Bytes that a relay reads at once.
const PORTION: usize = 512 << 10;
/// A pod that holds less than this part of the worker's share is not refused for what others hold.
const BLAMELESS: usize = 16;

impl<I: Io> Worker<I> {
    /// What a link of `pod` holds went from `before` to `after` bytes.
    pub(super) fn hold(&mut self, pod: Key, before: usize, after: usize) {
        let change = |held: usize| (held + after).saturating_sub(before);
        self.held = change(self.held);
        if let Some(pod) = self.pods.get_mut(pod) {
            pod.held = change(pod.held);
        }
    }

    /// How many bytes a tunnel of `pod` may hold before its streams that do not read lose credit.
    pub(super) fn room(&self, pod: Key) -> usize {
        self.left(pod, |limit| limit / 2)
    }

    /// Whether the pod may have one more link. When so much is held that nothing may be added, those that hold most make
    /// room: who does not read must not keep the others out.
    pub(super) fn within_limit(&mut self, pod: Key, io: &mut I) -> Result<(), Refusal> {
        let links = self.pods.get(pod).map(|pod| pod.links);
        let overloaded = |detail: &str| Refusal {
            status: 503,
            reason: Reason::Overloaded,
            detail: detail.to_owned(),
        };
        if links.is_none_or(|links| links >= self.settings.limits.connections) {
            return Err(overloaded("the pod has too many connections"));
        }
        let short = |limit: usize| limit - limit / 4;
        if self.left(pod, short) > 0 {
            return Ok(());
        }
        // Somewhat more than is needed: each time all links are looked at.
        self.relieve_to(pod, |limit| limit / 2 + limit / 8, io);
        match self.left(pod, short) {
            0 => Err(overloaded(
                "too many bytes wait for applications that do not read",
            )),
            _ => Ok(()),
        }
    }

    /// How many bytes a relay of `pod` may read at once: what its other side does not take is held.
    pub(super) fn portion(&self, pod: Key) -> usize {
        match self.room(pod) {
            0 => PORTION / 16,
            _ => PORTION,
        }
    }

    /// Ends the links that hold most until the limits are kept. `pod` is the one that took bytes last.
    pub(super) fn relieve(&mut self, pod: Key, io: &mut I) {
        if self.left(pod, |limit| limit) == 0 {
            // Somewhat more than is needed here too.
            self.relieve_to(pod, |limit| limit - limit / 16, io);
        }
    }

    /// Ends links until something of the share is left. All links are looked at once, however many must go: whoever holds
    /// little with each of very many must not stop the worker.
    fn relieve_to(&mut self, pod: Key, share: impl Fn(usize) -> usize + Copy, io: &mut I) {
        if self.left(pod, share) > 0 {
            return;
        }
        let of_all = self.held >= share(self.settings.limits.held);
        let weight = |key: Key| {
            let link = self.links.get(key)?;
            let of_pod = self.pods.get(link.pod).map_or(0, |pod| pod.held);
            Some(((of_pod, link.pending()), key)).filter(|((_, own), _)| *own > 0)
        };
        let candidates = self.links.keys(|link| of_all || link.pod == pod);
        let mut heavy: Vec<_> = candidates.into_iter().filter_map(weight).collect();
        // Of the pod that holds most the links that hold most.
        heavy.sort_unstable_by_key(|(weight, _)| *weight);
        while self.left(pod, share) == 0
            && let Some((_, heaviest)) = heavy.pop()
        {
            let detail = "too many bytes wait for an application that does not read";
            self.end_link(heaviest, Reason::Overloaded, Some(detail.to_owned()), io);
        }
    }

    /// The lesser of what is left of the worker's and the pod's share. The worker's counts only for pods that hold a
    /// part of it that matters: the others are not to blame.
    fn left(&self, pod: Key, share: impl Fn(usize) -> usize) -> usize {
        let limits = &self.settings.limits;
        let of_pod = self.pods.get(pod).map_or(0, |pod| pod.held);
        let own = share(limits.pod_held).saturating_sub(of_pod);
        if of_pod <= limits.held / BLAMELESS && self.held < limits.held {
            return own;
        }
        share(limits.held).saturating_sub(self.held).min(own)
    }
}
