//! All files together: which object counts for each key, and what changed since the last time.

use std::collections::{BTreeMap, btree_map::Entry};

use super::files::FileState;
use crate::{
    fault::Fault,
    object::{Key, Object},
    source::Change,
};

/// What readers of the source hold.
#[derive(Debug, Default)]
pub(super) struct Held {
    objects: BTreeMap<Key, Member>,
}

#[derive(Debug, Clone)]
struct Member {
    object: Object,
    /// Not what the author wrote, but a version that denies in its place.
    stand_in: bool,
}

impl Held {
    /// Takes the files as they are now. Good objects count first (the first by file name wins); an object that is
    /// refused, or that stood in a file which cannot be read now, stays as it was.
    pub fn merge(&mut self, files: &BTreeMap<String, FileState>) -> (Vec<Change>, Vec<Fault>) {
        let mut faults = Vec::new();
        let mut next = BTreeMap::<Key, Member>::new();
        let mut origin = BTreeMap::<Key, &str>::new();
        for (name, file) in files {
            for object in &file.objects {
                let key = object.key();
                match next.entry(key.clone()) {
                    Entry::Vacant(slot) => {
                        slot.insert(Member {
                            object: object.clone(),
                            stand_in: false,
                        });
                        origin.insert(key, name);
                    }
                    Entry::Occupied(_) => {
                        let why = format!("is there twice; the one in {} counts", origin[&key]);
                        faults.push(Fault {
                            file: Some(name.as_str().into()),
                            ..Fault::refused(key, "", why)
                        });
                    }
                }
            }
        }
        for file in files.values() {
            for (key, stand_in) in &file.refused {
                let last_good = self
                    .objects
                    .get(key)
                    .filter(|member| !member.stand_in)
                    .cloned();
                let stand_in = stand_in.clone().map(|object| Member {
                    object,
                    stand_in: true,
                });
                if let (false, Some(member)) = (next.contains_key(key), last_good.or(stand_in)) {
                    next.insert(key.clone(), member);
                }
            }
            for key in &file.before {
                if let (false, Some(member)) = (next.contains_key(key), self.objects.get(key)) {
                    next.insert(key.clone(), member.clone());
                }
            }
            faults.extend(file.faults.iter().cloned());
        }
        let changes = difference(&self.objects, &next);
        self.objects = next;
        (changes, faults)
    }
}

fn difference(old: &BTreeMap<Key, Member>, new: &BTreeMap<Key, Member>) -> Vec<Change> {
    let removed = old
        .keys()
        .filter(|key| !new.contains_key(*key))
        .map(|key| Change::Remove(key.clone()));
    let changed = new
        .iter()
        .filter(|(key, member)| old.get(*key).is_none_or(|o| o.object != member.object));
    removed
        .chain(changed.map(|(_, member)| Change::Upsert(member.object.clone())))
        .collect()
}
