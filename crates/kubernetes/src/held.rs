//! What is known of the cluster: which object counts for each key, what is wrong, and what of it readers have not been
//! told yet. Pure; fed by `follow`, read by `watch`.
//!
//! The rule for objects that are refused is the directory's (`docs/decisions/0023`): the last good version stays, and a
//! guard that never had one is replaced by a version that denies.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use objects::{Change, Event, Fault, Key, Kind, Object, Parsed};

/// One thing that was heard about a kind.
#[derive(Debug)]
pub(crate) enum Report {
    /// A complete list begins: what follows until `Listed` is all there is.
    Listing,
    /// The list is complete.
    Listed,
    /// An object is there, new or as before.
    Seen(Parsed, Box<str>, Box<str>),
    /// The object of this namespace and name is gone.
    Gone(Box<str>, Box<str>),
    /// The server has no such kind.
    Absent,
    /// It cannot be read now, and why.
    Away(String),
    /// It can be read again.
    Back,
}

/// Everything.
#[derive(Debug)]
pub(crate) struct Held {
    kinds: BTreeMap<Kind, OfKind>,
    members: BTreeMap<Key, Member>,
    /// Keys whose object changed since the last event.
    dirty: BTreeSet<Key>,
    /// Whether faults may have changed since the last event.
    faults_dirty: bool,
    faults: Arc<[Fault]>,
    /// Whether the first event was given out.
    told: bool,
}

#[derive(Debug, Default)]
struct OfKind {
    /// Counts lists; members of an older one are gone when the list is complete.
    list: u32,
    /// Whether everything of the kind was seen at least once.
    complete: bool,
    away: Option<String>,
}

#[derive(Debug, Default)]
struct Member {
    object: Option<Object>,
    /// Not what the author wrote, but a version that denies in its place.
    stand_in: bool,
    list: u32,
    faults: Vec<Fault>,
}

impl Held {
    pub fn new(kinds: impl IntoIterator<Item = Kind>) -> Held {
        Held {
            kinds: kinds
                .into_iter()
                .map(|kind| (kind, OfKind::default()))
                .collect(),
            members: BTreeMap::new(),
            dirty: BTreeSet::new(),
            faults_dirty: false,
            faults: Arc::new([]),
            told: false,
        }
    }

    /// Takes what was heard about `kind`.
    pub fn take(&mut self, kind: Kind, report: Report) {
        let Some(of_kind) = self.kinds.get_mut(&kind) else {
            return;
        };
        match report {
            Report::Listing => of_kind.list = of_kind.list.wrapping_add(1),
            Report::Listed => {
                of_kind.complete = true;
                self.sweep(kind);
            }
            Report::Absent => {
                of_kind.list = of_kind.list.wrapping_add(1);
                of_kind.complete = true;
                self.sweep(kind);
            }
            Report::Seen(parsed, namespace, name) => {
                let list = of_kind.list;
                self.seen(Key::new(kind, &namespace, &name), list, parsed);
            }
            Report::Gone(namespace, name) => self.remove(&Key::new(kind, &namespace, &name)),
            Report::Away(why) => {
                self.faults_dirty |= of_kind.away.as_ref() != Some(&why);
                of_kind.away = Some(why);
            }
            Report::Back => self.faults_dirty |= of_kind.away.take().is_some(),
        }
    }

    /// Whether it was not yet known that `kind` cannot be read for this reason.
    pub fn is_news(&self, kind: Kind, why: &str) -> bool {
        let of_kind = self.kinds.get(&kind);
        of_kind.is_some_and(|of_kind| of_kind.away.as_deref() != Some(why))
    }

    /// What readers have not been told; `None` if nothing, or if not every kind was seen yet: an object that is missing
    /// only because its list is not in must not look as if it were gone.
    pub fn event(&mut self) -> Option<Event> {
        if !self.kinds.values().all(|of_kind| of_kind.complete) {
            return None;
        }
        let same_faults = !self.faults_dirty || !self.renew_faults();
        self.faults_dirty = false;
        let faults = self.faults.clone();
        if !self.told {
            self.told = true;
            self.dirty.clear();
            let objects = self
                .members
                .values()
                .filter_map(|member| member.object.clone());
            return Some(Event::Snapshot {
                objects: objects.collect(),
                faults,
            });
        }
        if self.dirty.is_empty() && same_faults {
            return None;
        }
        let now = |key: Key| match self
            .members
            .get(&key)
            .and_then(|member| member.object.clone())
        {
            Some(object) => Change::Upsert(object),
            None => Change::Remove(key),
        };
        let changes = std::mem::take(&mut self.dirty)
            .into_iter()
            .map(now)
            .collect();
        Some(Event::Changes { changes, faults })
    }

    fn seen(&mut self, key: Key, list: u32, mut parsed: Parsed) {
        let member = self.members.entry(key.clone()).or_default();
        member.list = list;
        let mut faults = parsed.warnings;
        let before = member.object.clone();
        match parsed.results.pop() {
            Some(Ok(object)) => {
                member.object = Some(object);
                member.stand_in = false;
            }
            Some(Err(mut fault)) => {
                let stand_in = fault.stand_in.take();
                if member.object.is_none() || member.stand_in {
                    member.stand_in = stand_in.is_some();
                    member.object = stand_in;
                }
                faults.push(fault);
            }
            None => {}
        }
        if member.object != before {
            self.dirty.insert(key);
        }
        if member.faults != faults {
            member.faults = faults;
            self.faults_dirty = true;
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(member) = self.members.remove(key) {
            self.faults_dirty |= !member.faults.is_empty();
            if member.object.is_some() {
                self.dirty.insert(key.clone());
            }
        }
    }

    /// Removes what the list that is complete now did not hold.
    fn sweep(&mut self, kind: Kind) {
        let list = self.kinds.get(&kind).map(|of_kind| of_kind.list);
        let first = Key::new(kind, "", "");
        let own = self
            .members
            .range(first..)
            .take_while(|(key, _)| key.kind == kind);
        let old = own.filter(|(_, member)| Some(member.list) != list);
        let gone: Vec<Key> = old.map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| self.remove(key));
    }

    /// Whether the faults differ from those that were told.
    fn renew_faults(&mut self) -> bool {
        let mut reasons = BTreeMap::<&str, Vec<&str>>::new();
        for (kind, of_kind) in &self.kinds {
            if let Some(why) = &of_kind.away {
                reasons.entry(why).or_default().push(kind.name());
            }
        }
        let away = reasons.into_iter().map(|(why, kinds)| {
            let kinds = kinds.join(", ");
            Fault::error(format!("{why}; as last read stay: {kinds}"))
        });
        let own = self
            .members
            .values()
            .flat_map(|member| member.faults.iter().cloned());
        let faults: Vec<Fault> = away.chain(own).collect();
        let differ = *self.faults != *faults;
        self.faults = faults.into();
        differ
    }
}

#[cfg(test)]
mod tests;
