//! The source that reads a directory of manifests and notices changes by polling. Used by the control plane and the
//! CNI agent.
//!
//! Polling compares device, inode, size and times of what a name leads to, so it sees the symlink swaps of
//! ConfigMap volumes as well as edits in place. A file counts as changed only when two looks in a row agree, so
//! that a write in progress is rarely seen; if a half file is seen after all and does not parse, what was last good
//! stays.

use std::{
    collections::BTreeMap,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::{
    fault::Fault,
    source::{Change, Event, Source},
};

mod files;
mod merge;

use files::{FileState, Stamp};
use merge::Held;

/// Time between two looks at the directory.
const POLL: Duration = Duration::from_millis(250);
/// Time between two looks at a file that is being changed.
const SETTLE: Duration = Duration::from_millis(20);

/// A directory of `*.yaml`, `*.yml` and `*.json`; names that begin with a dot are passed over.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    next_look: Option<Instant>,
    files: BTreeMap<String, FileState>,
    /// Files whose stamp differed at the last look, with what it was then (`None`: gone).
    unsettled: BTreeMap<String, Option<Stamp>>,
    held: Held,
    directory_fault: Option<Fault>,
    faults: Arc<[Fault]>,
    listed: bool,
}

impl Directory {
    /// A source on `path`; nothing is read yet.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Directory {
        Directory {
            path: path.as_ref().to_owned(),
            next_look: None,
            files: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            held: Held::default(),
            directory_fault: None,
            faults: Arc::new([]),
            listed: false,
        }
    }

    /// Looks at the directory once, without waiting. `Some` if there is something to report; the first look that can
    /// list the directory always reports. Blocks for the time of a few `stat` calls, and reads of changed files.
    pub fn look(&mut self) -> Option<Event> {
        let dirty = self.reload();
        if !dirty && self.listed {
            return None;
        }
        if !self.listed && self.directory_fault.is_some() {
            // An empty list would say that everything is gone; there is none until the directory can be read.
            return None;
        }
        let (changes, mut faults) = self.held.merge(&self.files);
        faults.extend(self.directory_fault.clone());
        let same = *self.faults == *faults;
        self.faults = faults.into();
        if !self.listed {
            self.listed = true;
            let upsert = |change| match change {
                Change::Upsert(object) => Some(object),
                Change::Remove(_) => None,
            };
            let objects = changes.into_iter().filter_map(upsert).collect();
            return Some(Event::Snapshot {
                objects,
                faults: self.faults.clone(),
            });
        }
        (!changes.is_empty() || !same).then(|| Event::Changes {
            changes,
            faults: self.faults.clone(),
        })
    }

    /// Whether a file is in motion, so that the next look should come soon.
    fn is_unsettled(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// Re-reads what changed; whether anything did.
    fn reload(&mut self) -> bool {
        let present = match files::list(&self.path) {
            Ok(present) => present,
            Err(why) => {
                // The directory itself is gone or unreadable: all that was read stays.
                let fault = Fault::error(format!("{}: {why}", self.path.display()));
                let news = self.directory_fault.as_ref() != Some(&fault);
                self.directory_fault = Some(fault);
                return news;
            }
        };
        let mut dirty = self.directory_fault.take().is_some();
        let gone = self
            .files
            .keys()
            .filter(|name| !present.contains_key(*name))
            .cloned()
            .collect::<Vec<_>>();
        for name in gone {
            if self.is_settled(&name, None) {
                self.files.remove(&name);
                dirty = true;
            }
        }
        for (name, stamp) in present {
            let known = self.files.get(&name);
            if known.is_some_and(|state| state.stamp == stamp) {
                self.unsettled.remove(&name);
            } else if self.is_settled(&name, Some(stamp)) {
                let state =
                    FileState::read(&self.path.join(&name), &name, stamp, self.files.get(&name));
                self.files.insert(name, state);
                dirty = true;
            }
        }
        dirty
    }

    /// Whether the last look saw the same; if not, remembers it for the next. At the first look everything is.
    fn is_settled(&mut self, name: &str, stamp: Option<Stamp>) -> bool {
        if !self.listed || self.unsettled.get(name) == Some(&stamp) {
            self.unsettled.remove(name);
            return true;
        }
        self.unsettled.insert(name.to_owned(), stamp);
        false
    }
}

impl Source for Directory {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Event> + Send + '_>> {
        Box::pin(async move {
            loop {
                if let Some(at) = self.next_look {
                    sleep_until(at).await;
                }
                let event = self.look();
                let pause = if self.is_unsettled() { SETTLE } else { POLL };
                self.next_look = Some(Instant::now() + pause);
                if let Some(event) = event {
                    return event;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;
