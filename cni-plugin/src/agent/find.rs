//! Network namespaces of pods that run already: by the path that the container runtime gave, as the agent's own pod sees
//! it, or by a look through the node's /proc for a process whose cgroup names the pod. No runtime is asked. Called by
//! `pods` and `repair`; blocking.
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sys::{Netns, NetnsId};

/// Where the node's own directories are for this process.
#[derive(Clone, Debug)]
pub struct Places {
    root: PathBuf,
}

/// A namespace with a path by which it is found again.
#[derive(Clone, Debug)]
pub struct Found {
    /// The namespace, open.
    pub netns: Netns,
    /// As seen from here.
    pub path: PathBuf,
    /// When its process started, in ticks since boot.
    started: u64,
}

impl Places {
    /// Below `root` are the node's `/proc` and `/var/run/netns`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The node's /proc.
    #[must_use]
    pub fn proc(&self) -> PathBuf {
        self.root.join("proc")
    }

    /// The node's own network namespace.
    ///
    /// # Errors
    /// When /proc is not mounted there, or may not be read.
    pub fn host_netns(&self) -> io::Result<Netns> {
        Netns::open(&self.proc().join("1/ns/net"))
    }

    /// Opens the namespace at `path` if it is the one with this inode. A path of the node may be another one here.
    #[must_use]
    pub fn open(&self, path: &Path, inode: u64) -> Option<Netns> {
        let same = |netns: &Netns| netns.id().ino == inode;
        let mut candidates = self.candidates(path).into_iter();
        candidates.find_map(|path| Netns::open(&path).ok().filter(same))
    }

    fn candidates(&self, path: &Path) -> Vec<PathBuf> {
        let mut all = vec![path.to_owned()];
        if let Ok(inner) = path.strip_prefix("/") {
            all.push(self.root.join(inner));
        }
        if let Ok(inner) = path.strip_prefix("/run") {
            all.push(self.root.join("var/run").join(inner));
        }
        all
    }

    /// Looks through /proc for pods, given by uid with their addresses. A process counts only if its namespace has one of
    /// the pod's addresses: it may be a visitor in another pod's.
    #[must_use]
    pub fn scan(&self, pods: &BTreeMap<String, Vec<IpAddr>>) -> BTreeMap<String, Found> {
        let proc = self.proc();
        let host = self.host_netns().ok().map(|netns| netns.id());
        let mut found: BTreeMap<String, Found> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for pid in processes(&proc) {
            let Some((uid, one)) = look(&proc.join(&pid), pods, &seen, host) else {
                continue;
            };
            seen.insert(one.netns.id());
            match found.get(&uid) {
                Some(older) if older.started <= one.started => {}
                _ => {
                    found.insert(uid, one);
                }
            }
        }
        found
    }

    /// Every network namespace of the node that a process is in, but its own.
    #[must_use]
    pub fn all(&self) -> Vec<Found> {
        let proc = self.proc();
        let host = self.host_netns().ok().map(|netns| netns.id());
        let mut seen: BTreeSet<NetnsId> = host.into_iter().collect();
        let opened = processes(&proc).filter_map(|pid| {
            let path = proc.join(pid).join("ns/net");
            let id = id_of(&path)?;
            if !seen.insert(id) {
                return None;
            }
            let netns = Netns::open(&path).ok()?;
            Some(Found {
                netns,
                path,
                started: 0,
            })
        });
        opened.collect()
    }
}

fn processes(proc: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
}

fn id_of(path: &Path) -> Option<NetnsId> {
    let meta = std::fs::metadata(path).ok()?;
    Some(NetnsId {
        dev: meta.dev(),
        ino: meta.ino(),
    })
}

fn look(
    process: &Path,
    pods: &BTreeMap<String, Vec<IpAddr>>,
    seen: &BTreeSet<NetnsId>,
    host: Option<NetnsId>,
) -> Option<(String, Found)> {
    let path = process.join("ns/net");
    let id = id_of(&path)?;
    if seen.contains(&id) || host == Some(id) {
        return None;
    }
    let uid = pod_uid(&std::fs::read_to_string(process.join("cgroup")).ok()?)?;
    let addresses = pods.get(&uid)?;
    let started = start_time(&std::fs::read_to_string(process.join("stat")).ok()?)?;
    let netns = Netns::open(&path).ok()?;
    let owned = netns.enter(|| has_one_of(addresses)).ok()?;
    owned.then_some((
        uid,
        Found {
            netns,
            path,
            started,
        },
    ))
}

/// Has the calling thread's namespace one of these addresses?
fn has_one_of(addresses: &[IpAddr]) -> bool {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return false;
    };
    let mut held = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::from(a.ip())))
    });
    held.any(|ip| addresses.contains(&ip))
}

/// The pod that a cgroup file names: `pod` and its uid after a punctuation mark, with `-` or `_` between the groups, or, of a
/// pod that the kubelet read from a file, without any; in whatever form its driver and the runtime write the rest. Pure.
#[must_use]
pub fn pod_uid(cgroup: &str) -> Option<String> {
    cgroup.lines().find_map(|line| {
        let starts = line.match_indices("pod").filter_map(|(at, _)| {
            let before = line[..at].chars().next_back()?;
            before.is_ascii_punctuation().then_some(at + 3)
        });
        starts.into_iter().find_map(|at| uid_at(&line[at..]))
    })
}

fn uid_at(text: &str) -> Option<String> {
    groups_at(text, &[8, 4, 4, 4, 12]).or_else(|| groups_at(text, &[32]))
}

fn groups_at(text: &str, lengths: &[usize]) -> Option<String> {
    let mut rest = text;
    let mut groups = Vec::new();
    for (at, &len) in lengths.iter().enumerate() {
        if at > 0 {
            rest = rest.strip_prefix(['-', '_'])?;
        }
        let group = rest.get(..len)?;
        if !group.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        groups.push(group);
        rest = &rest[len..];
    }
    let ends = rest
        .chars()
        .next()
        .is_none_or(|c| c.is_ascii_punctuation() || c.is_whitespace());
    ends.then(|| groups.join("-"))
}

/// Field 22 of /proc/PID/stat; the command before it may hold anything, so counting starts behind its last bracket.
fn start_time(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";

    #[test]
    fn the_pod_is_read_from_every_form_of_cgroup_path() {
        let id = "9bca8d63d5fa610783847915bcff0ecac1273e5b4bed3f6fa1b07350e0135961";
        let under = UID.replace('-', "_");
        for (text, expected) in [
            (format!("0::/kubepods/burstable/pod{UID}/{id}"), true),
            (
                format!("12:cpu:/\n3:memory:/kubepods/besteffort/pod{UID}/{id}\n"),
                true,
            ),
            (
                format!(
                    "1:name=systemd:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/cri-containerd-{id}.scope"
                ),
                true,
            ),
            (
                format!("0::/kubepods-besteffort-pod{under}.slice:cri-containerd:{id}"),
                true,
            ),
            (format!("0::/../../pod{UID}/{id}"), true),
            (format!("0::/../pod{UID}"), true),
            (format!("0::/tripod{UID}/{id}"), false),
            (format!("0::/pod{UID}9/{id}"), false),
            ("0::/kubepods/podé/x".to_owned(), false),
            ("0::/user.slice".to_owned(), false),
            (String::new(), false),
        ] {
            let found = pod_uid(&text);
            assert_eq!(found.as_deref(), expected.then_some(UID), "{text}");
        }
    }

    #[test]
    fn a_pod_from_a_file_is_read_by_its_hash() {
        let hash = "0123456789abcdef0123456789abcdef";
        for (text, expected) in [
            (format!("0::/kubepods/burstable/pod{hash}/c1"), true),
            (
                format!("0::/kubepods.slice/kubepods-pod{hash}.slice/cri-containerd-c1.scope"),
                true,
            ),
            (format!("0::/kubepods/pod{hash}0/c1"), false),
            (format!("0::/kubepods/pod{}/c1", &hash[1..]), false),
        ] {
            let found = pod_uid(&text);
            assert_eq!(found.as_deref(), expected.then_some(hash), "{text}");
        }
    }

    #[test]
    fn the_start_time_stands_behind_any_command() {
        let fields: Vec<String> = (3..30).map(|n| n.to_string()).collect();
        let stat = format!("17 (a) b (c) {}", fields.join(" "));
        assert_eq!(start_time(&stat), Some(22));
        assert_eq!(start_time("17 (a) S 1"), None);
    }

    #[test]
    fn a_path_of_the_node_is_looked_for_where_it_is_mounted() {
        let places = Places::new("/host");
        let all = places.candidates(Path::new("/run/netns/a"));
        let expected = ["/run/netns/a", "/host/run/netns/a", "/host/var/run/netns/a"];
        assert_eq!(all, expected.map(PathBuf::from));
        let own = Netns::current().unwrap();
        let places = Places::new("/nowhere");
        let path = Path::new("/proc/self/ns/net");
        assert!(places.open(path, own.id().ino).is_some());
        assert!(places.open(path, own.id().ino + 1).is_none());
    }

    /// A /proc of our own making: links to namespaces of this process stand for other processes.
    #[test]
    fn a_pod_is_found_by_its_oldest_process_that_has_its_address() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: a network namespace needs root");
            return;
        }
        use std::os::fd::AsRawFd;
        let dir = tempfile::tempdir().unwrap();
        let pod = Netns::create().unwrap();
        let mut ip = std::process::Command::new("ip");
        ip.args(["addr", "add", "10.7.0.9/32", "dev", "lo"]);
        assert!(pod.enter(|| ip.status()).unwrap().unwrap().success());
        let host = Netns::current().unwrap();
        let visitor = Netns::create().unwrap();
        for (pid, netns, started) in [("1", &host, 1), ("20", &visitor, 5), ("30", &pod, 9)] {
            let process = dir.path().join("proc").join(pid);
            std::fs::create_dir_all(process.join("ns")).unwrap();
            let path = format!("/proc/self/fd/{}", netns.as_raw_fd());
            std::os::unix::fs::symlink(path, process.join("ns/net")).unwrap();
            std::fs::write(process.join("cgroup"), format!("0::/kubepods/pod{UID}/c")).unwrap();
            let fields = vec!["0"; 18].join(" ");
            std::fs::write(
                process.join("stat"),
                format!("{pid} (x) S {fields} {started} 0"),
            )
            .unwrap();
        }
        std::fs::create_dir_all(dir.path().join("proc/sys")).unwrap();
        let places = Places::new(dir.path());
        let wanted = |ip: &str| [(UID.to_owned(), vec![ip.parse().unwrap()])].into();
        let found = places.scan(&wanted("10.7.0.9"));
        assert_eq!(found[UID].netns.id(), pod.id());
        assert!(places.open(&found[UID].path, pod.id().ino).is_some());
        assert!(places.scan(&wanted("10.7.0.10")).is_empty());
        let all: Vec<_> = places.all().iter().map(|one| one.netns.id()).collect();
        assert_eq!(all.len(), 2);
        assert!(!all.contains(&host.id()));
    }
}
