//! Live inbound connections are judged again whenever a new snapshot is adopted: policies or workloads may have changed.
//! In slices, so that no connection waits for all the others; each slot is seen after the newest snapshot.

use mesh::authz::{self, Decision};

use super::api::{Ask, Direction, Notice, Reason};
use super::facts::authz_facts;
use super::io::Io;
use super::link::Phase;
use super::slots::Key;
use super::state::Worker;

/// Slots looked at per step.
const SLICE: usize = 512;

/// Where the walk over the links stands.
#[derive(Debug, Default)]
pub(super) struct Judge {
    cursor: usize,
    /// Slots that the newest snapshot has not seen yet.
    left: usize,
    /// Slots that there were when it came. Links in later ones were judged by it on their way in.
    slots: usize,
}

impl Judge {
    /// A new snapshot: one more full round from wherever the walk stands, so that frequent snapshots starve nobody.
    pub(super) fn start(&mut self, slots: usize) {
        self.left = slots;
        self.slots = slots;
    }

    pub(super) fn is_active(&self) -> bool {
        self.left > 0
    }
}

impl<I: Io> Worker<I> {
    /// Judges the next slice.
    pub(super) fn judge_slice(&mut self, io: &mut I) {
        for _ in 0..SLICE.min(self.judge.left) {
            self.judge.left -= 1;
            if self.judge.cursor >= self.judge.slots {
                self.judge.cursor = 0;
            }
            if let Some(key) = self.links.at(self.judge.cursor) {
                self.judge_link(key, io);
            }
            self.judge.cursor += 1;
        }
    }

    /// Judges one live inbound link by the policies in force, and cuts it if they refuse it.
    pub(super) fn judge_link(&mut self, key: Key, io: &mut I) {
        let Some(link) = self.links.get(key) else {
            return;
        };
        // Those that are not admitted yet are judged when the dial begins, and again here once it has begun.
        if link.direction != Direction::Inbound || !matches!(link.phase, Phase::Copy | Phase::Dial)
        {
            return;
        }
        let (pod, missing_since) = (link.pod, link.missing_since);
        let (Some(facts), Some(connection)) = (authz_facts(link), link.facts.clone()) else {
            return;
        };
        // A workload that left the mesh is judged as it was last known.
        let own = self
            .own_workload(pod)
            .or_else(|| self.pods.get(pod)?.last_own.clone())
            .or_else(|| connection.destination_workload.clone());
        let Some(own) = own else { return };
        let decision = self.verdicts.authorize(&self.snapshot, &own, &facts);
        let cut = match &decision {
            Decision::Allow { .. } => {
                if let Some(link) = self.links.get_mut(key) {
                    link.missing_since = None;
                }
                return;
            }
            Decision::Deny { .. } => true,
            Decision::Missing { name } => {
                let since = missing_since.unwrap_or(self.now);
                if missing_since.is_none() {
                    self.notices.push(Notice::Ask(Ask::Policy {
                        name: name.to_string().into(),
                    }));
                    if let Some(link) = self.links.get_mut(key) {
                        link.missing_since = Some(since);
                    }
                }
                let grace = self.settings.deadlines.policy;
                let dialling = self
                    .links
                    .get(key)
                    .is_some_and(|link| link.phase == Phase::Dial);
                let over = self.now.saturating_duration_since(since) >= grace;
                let at_hand = authz::authorize_with(&self.snapshot, &own, &facts, &|_| true);
                if !over && at_hand.is_allowed() {
                    if dialling {
                        // Its alarm is the dial's; it is judged again when that has ended.
                        return;
                    }
                    let left = (since + grace).saturating_duration_since(self.now);
                    return self.set_link_alarm(key, left);
                }
                true
            }
        };
        if cut {
            self.end_link(key, Reason::PolicyCut, Some(decision.explain(&facts)), io);
        }
    }
}
