//! The pods that the container runtime told us about (CNI ADD), with their network namespaces. Kept
//! in a file so that a restarted agent finds them again; read by the ZDS server when a ztunnel
//! connects.
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sys::{Netns, NetnsId};
use tokio::sync::watch;
use zds::PodInfo;

use super::find::Places;
use crate::rules::Switches;

/// Which pod: namespace, then name.
pub type PodKey = (String, String);

/// One pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// What ztunnel knows it by: the Kubernetes uid, or the container id when there is none.
    pub uid: String,
    /// Service account.
    pub service_account: String,
    /// Container id of the sandbox; empty when the pod was found running, without an ADD.
    pub container_id: String,
    /// Where its namespace was at ADD.
    pub netns_path: PathBuf,
    /// Inode of the namespace at ADD, to tell it from a later one at the same path.
    pub netns_inode: u64,
    /// Its traffic is captured and ztunnel serves it (or is being told to).
    pub enrolled: bool,
    /// Both have been done: what the cluster is told.
    #[serde(default)]
    pub served: bool,
    /// Out of the mesh, but ztunnel still serves what is open; since when, in milliseconds since the node was started.
    #[serde(default)]
    pub leaving_since: Option<u64>,
    /// Its addresses, as far as they are known.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// What its annotations changed of its rules when they were written.
    #[serde(default)]
    pub switches: Switches,
    /// The open namespace; `None` when it could not be found again.
    #[serde(skip)]
    pub netns: Option<Netns>,
}

impl Entry {
    /// Key of the pod.
    #[must_use]
    pub fn key(&self) -> PodKey {
        (self.namespace.clone(), self.name.clone())
    }

    /// Does ztunnel serve it, or is it being told to?
    #[must_use]
    pub fn is_ztunnels(&self) -> bool {
        self.enrolled || self.leaving_since.is_some()
    }

    /// The pod as ztunnel is told of it.
    #[must_use]
    pub fn for_ztunnel(&self) -> zds::server::Pod {
        let info = PodInfo {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            service_account: self.service_account.clone(),
        };
        zds::server::Pod {
            uid: self.uid.clone(),
            info,
            netns: self.netns.clone(),
        }
    }

    /// Opens the namespace again if it is still the same one.
    fn reopened(mut self, places: &Places) -> Self {
        self.netns = places.open(&self.netns_path, self.netns_inode);
        self
    }
}

/// All known pods of the node.
#[derive(Debug)]
pub struct Store {
    entries: Mutex<BTreeMap<PodKey, Entry>>,
    /// Held over a look at the entries and its way into the file: the last one written is the newest.
    writing: Mutex<()>,
    file: PathBuf,
    places: Places,
    was_lost: bool,
    version: watch::Sender<u64>,
}

impl Store {
    /// Reads the file of an earlier agent; a missing file is an empty list, a damaged one is put
    /// aside and reported.
    ///
    /// # Errors
    /// When the directory cannot be made or the file not read.
    pub fn open(file: &Path, places: &Places) -> io::Result<Self> {
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let kept: Option<Vec<Entry>> = match std::fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .inspect_err(|error| {
                    let aside = file.with_extension("damaged");
                    tracing::error!(%error, path = %file.display(), aside = %aside.display(),
                        "the list of pods cannot be read; pods that run keep their rules");
                    // Kept for a look; when even that fails the next write replaces it.
                    let _ = std::fs::rename(file, aside);
                })
                .ok(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let was_lost = kept.is_none();
        let entries = kept
            .into_iter()
            .flatten()
            .map(|entry: Entry| entry.reopened(places))
            .map(|e| (e.key(), e))
            .collect();
        Ok(Self {
            entries: Mutex::new(entries),
            writing: Mutex::new(()),
            file: file.to_owned(),
            places: places.clone(),
            was_lost,
            version: watch::Sender::new(0),
        })
    }

    /// Was there no list that could be read? Perhaps no agent was here before; perhaps pods are in the mesh that it lacks.
    #[must_use]
    pub fn was_lost(&self) -> bool {
        self.was_lost
    }

    /// Has the runtime taken the pod's namespace away? Our descriptor alone would keep it alive for ever.
    #[must_use]
    pub fn is_orphan(&self, entry: &Entry) -> bool {
        let again = self.places.open(&entry.netns_path, entry.netns_inode);
        again.is_none()
    }

    /// Counts changes; wait on it for the next one.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The pod as we know it.
    #[must_use]
    pub fn find(&self, key: &PodKey) -> Option<Entry> {
        self.lock().get(key).cloned()
    }

    /// All pods.
    #[must_use]
    pub fn all(&self) -> Vec<Entry> {
        self.lock().values().cloned().collect()
    }

    /// Adds or replaces a pod; returns the one that it replaced.
    pub fn put(&self, entry: Entry) -> Option<Entry> {
        let replaced = self.lock().insert(entry.key(), entry);
        self.save();
        replaced
    }

    /// Marks a pod as in the mesh or not; whether that is complete is told by [`Store::change`].
    pub fn set_enrolled(&self, key: &PodKey, enrolled: bool) {
        self.change(key, |entry| {
            entry.enrolled = enrolled;
            entry.served = false;
            entry.leaving_since = None;
        });
    }

    /// Marks a pod as out of the mesh, with ztunnel serving what is open.
    pub fn set_leaving(&self, key: &PodKey, since: u64) {
        self.change(key, |entry| {
            entry.enrolled = false;
            entry.served = false;
            entry.leaving_since = Some(since);
        });
    }

    /// Those that leave.
    #[must_use]
    pub fn leaving(&self) -> Vec<Entry> {
        let mut all = self.all();
        all.retain(|entry| entry.leaving_since.is_some());
        all
    }

    /// Changes what is known of a pod, if it is known.
    pub fn change(&self, key: &PodKey, how: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.lock().get_mut(key) {
            how(entry);
        }
        self.save();
    }

    /// Forgets a pod.
    pub fn remove(&self, key: &PodKey) -> Option<Entry> {
        let removed = self.lock().remove(key);
        self.save();
        removed
    }

    fn save(&self) {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.write() {
            tracing::error!(%error, path = %self.file.display(), "cannot keep the list of pods");
        }
        drop(writing);
        self.version.send_modify(|version| *version += 1);
    }

    /// Whole or not at all: written beside and renamed.
    fn write(&self) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(&self.all())?;
        let beside = self.file.with_extension("new");
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, &self.file)
    }

    /// Forgets everything, the file too: the agent is uninstalled.
    pub fn discard(&self) {
        self.lock().clear();
        let _ = std::fs::remove_file(&self.file);
        if let Some(directory) = self.file.parent() {
            // Unless somebody else has put something there.
            let _ = std::fs::remove_dir(directory);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PodKey, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl zds::server::Pods for Store {
    fn snapshot(&self) -> Vec<zds::server::Pod> {
        self.lock()
            .values()
            .filter(|entry| entry.is_ztunnels())
            .map(Entry::for_ztunnel)
            .collect()
    }
}

/// An entry for a pod that has just arrived.
#[must_use]
pub fn arrived(key: PodKey, container_id: String, netns: Netns, netns_path: PathBuf) -> Entry {
    let NetnsId { ino, .. } = netns.id();
    Entry {
        namespace: key.0,
        name: key.1,
        uid: container_id.clone(),
        service_account: String::new(),
        container_id,
        netns_path,
        netns_inode: ino,
        enrolled: false,
        served: false,
        leaving_since: None,
        ips: Vec::new(),
        switches: Switches::default(),
        netns: Some(netns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zds::server::Pods;

    fn entry(name: &str) -> Entry {
        let key = ("ns".to_owned(), name.to_owned());
        let netns = Netns::current().unwrap();
        arrived(key, format!("c-{name}"), netns, "/proc/self/ns/net".into())
    }

    fn open(file: &Path) -> Store {
        Store::open(file, &Places::new("/host")).unwrap()
    }

    #[test]
    fn pods_and_their_namespaces_are_found_again_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state/pods.json");
        let store = open(&file);
        store.put(entry("a"));
        store.put(entry("b"));
        store.put(Entry {
            netns_inode: 1,
            enrolled: true,
            ..entry("moved")
        });
        store.put(entry("leaves"));
        store.set_enrolled(&entry("a").key(), true);
        store.set_leaving(&entry("leaves").key(), 7);
        store.remove(&entry("b").key());
        drop(store);
        let again = open(&file);
        assert!(!again.was_lost());
        let orphans: Vec<_> = again.all().iter().map(|e| again.is_orphan(e)).collect();
        assert_eq!(orphans, [false, false, true]);
        assert_eq!(again.leaving()[0].leaving_since, Some(7));
        let snapshot = again.snapshot();
        let seen: Vec<_> = snapshot
            .iter()
            .map(|p| (p.uid.as_str(), p.netns.is_some()))
            .collect();
        // Another namespace at the same path is not handed out in its place.
        let expected = [("c-a", true), ("c-leaves", true), ("c-moved", false)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_many_write_at_once_is_all_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pods.json");
        let store = open(&file);
        // Each round is a race that a file written by both, or by the slower one last, would lose.
        for round in 0..100 {
            let both = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                for name in ["a", "b"].map(|name| format!("{name}{round}")) {
                    let (store, both) = (&store, &both);
                    scope.spawn(move || {
                        both.wait();
                        store.put(entry(&name));
                    });
                }
            });
            assert_eq!(open(&file).all().len(), 2 * (round + 1));
        }
    }

    #[test]
    fn a_damaged_file_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pods.json");
        std::fs::write(&file, b"[{\"namespace\":7").unwrap();
        let store = open(&file);
        assert!(store.all().is_empty() && store.was_lost());
        assert!(file.with_extension("damaged").exists());
    }
}
