//! One file of the directory: when it counts as changed, and what reading it gave.

use std::{collections::BTreeMap, fs, io, os::unix::fs::MetadataExt, path::Path};

use crate::{
    fault::Fault,
    object::{Key, Object},
    parse::parse,
};

/// A manifest larger than this is refused.
const MAX_SIZE: u64 = 32 << 20;

/// Identity and times of a file's content. Change time is in it, because a copy may keep the modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What the last reading of a file gave.
#[derive(Debug)]
pub(super) struct FileState {
    pub stamp: Stamp,
    /// Good objects.
    pub objects: Vec<Object>,
    /// Refused objects, with what stands in while there is no last good version.
    pub refused: Vec<(Key, Option<Object>)>,
    /// Objects that this file held before part of it became unreadable; empty while it reads well.
    pub before: Vec<Key>,
    /// Faults and warnings, with the file's name set.
    pub faults: Vec<Fault>,
}

/// The manifests of a directory with their stamps, by name.
pub(super) fn list(directory: &Path) -> io::Result<BTreeMap<String, Stamp>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let manifest = [".yaml", ".yml", ".json"]
            .iter()
            .any(|end| name.ends_with(end));
        if !manifest || name.starts_with('.') {
            continue;
        }
        // Follows symlinks; one that leads nowhere (in the middle of a swap) counts as gone.
        let Ok(meta) = fs::metadata(entry.path()) else {
            continue;
        };
        if meta.is_file() {
            files.insert(name, Stamp::of(&meta));
        }
    }
    Ok(files)
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Stamp {
        Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl FileState {
    /// Reads and parses; a file that cannot be read is one fault, and what it held before stays.
    pub fn read(path: &Path, name: &str, stamp: Stamp, last: Option<&FileState>) -> FileState {
        let mut state = FileState {
            stamp,
            objects: Vec::new(),
            refused: Vec::new(),
            before: Vec::new(),
            faults: Vec::new(),
        };
        let unreadable = match content(path, stamp) {
            Ok(text) => state.take(parse(&text)),
            Err(why) => {
                state.faults.push(Fault::error(why));
                true
            }
        };
        if unreadable {
            state.before = last.map(FileState::keys).unwrap_or_default();
        }
        for fault in &mut state.faults {
            fault.file = Some(name.into());
        }
        state
    }

    /// Sorts what parsing gave; whether some object could not even be named.
    fn take(&mut self, parsed: crate::Parsed) -> bool {
        let mut nameless = false;
        for result in parsed.results {
            match result {
                Ok(object) => self.objects.push(object),
                Err(mut fault) => {
                    let stand_in = fault.stand_in.take();
                    match fault.key.clone() {
                        Some(key) => self.refused.push((key, stand_in)),
                        None => nameless = true,
                    }
                    self.faults.push(fault);
                }
            }
        }
        self.faults.extend(parsed.warnings);
        nameless
    }

    fn keys(&self) -> Vec<Key> {
        let refused = self.refused.iter().map(|(key, _)| key.clone());
        self.objects
            .iter()
            .map(Object::key)
            .chain(refused)
            .chain(self.before.iter().cloned())
            .collect()
    }
}

fn content(path: &Path, stamp: Stamp) -> Result<String, String> {
    if stamp.size > MAX_SIZE {
        return Err(format!("{} bytes; at most {MAX_SIZE} are read", stamp.size));
    }
    let bytes = fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())
}
