//! Network namespaces: opened by path or descriptor, entered only through a closure that always
//! comes back. Called by the CNI agent (rules), ztunnel (listeners, dials) and the tests.
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};

thread_local! {
    /// Where the thread is, once it has entered a namespace: asking the kernel costs four system calls. Only what stands in
    /// this file changes the namespace of such a thread.
    static HERE: Cell<Option<Netns>> = const { Cell::new(None) };
}

/// What tells two namespaces apart: the device and inode of their nsfs file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsId {
    /// Device number of nsfs.
    pub dev: u64,
    /// Inode number; unique among living namespaces.
    pub ino: u64,
}

impl std::fmt::Display for NetnsId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "net:[{}]", self.ino)
    }
}

/// A handle on a network namespace. It keeps the namespace alive; clones share one descriptor.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
    id: NetnsId,
}

impl Netns {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When /proc is not mounted or may not be read.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace that a path names: `/proc/<pid>/ns/net`, `/run/netns/<name>`, what a container
    /// runtime gives as `CNI_NETNS`.
    ///
    /// # Errors
    /// When the path cannot be opened, or (`InvalidInput`) is not a network namespace.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::from_file(File::open(path)?)
    }

    /// The namespace behind a descriptor that somebody else opened (one received by SCM_RIGHTS).
    ///
    /// # Errors
    /// `InvalidInput` when the descriptor is not a network namespace.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Self::from_file(File::from(fd))
    }

    /// A new, empty namespace (`lo` is down). The caller's own namespace does not change.
    ///
    /// # Errors
    /// When the process may not create namespaces (needs CAP_SYS_ADMIN).
    pub fn create() -> io::Result<Self> {
        let created = std::thread::Builder::new()
            .name("netns-create".into())
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                Self::current()
            })?
            .join();
        created.unwrap_or_else(|_| Err(io::Error::other("the creating thread panicked")))
    }

    fn from_file(file: File) -> io::Result<Self> {
        if !is_network_namespace(file.as_fd()) {
            let why = "not a network namespace";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let meta = file.metadata()?;
        let id = NetnsId {
            dev: meta.dev(),
            ino: meta.ino(),
        };
        Ok(Self {
            file: Arc::new(file),
            id,
        })
    }

    /// Device and inode.
    #[must_use]
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `work` with the calling thread inside this namespace, then comes back, also when
    /// `work` panics. Sockets made inside stay in the namespace. `work` must not await or hand
    /// itself to another thread. If the way back fails the process aborts: a thread that stays in a
    /// pod's namespace would put other pods' traffic there.
    ///
    /// # Errors
    /// When the namespace cannot be entered (needs CAP_SYS_ADMIN); `work` has not run then.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        let home = match HERE.take() {
            Some(known) => known,
            None => Self::current()?,
        };
        HERE.set(Some(home.clone()));
        if home.id == self.id {
            return Ok(work());
        }
        setns(self, CloneFlags::CLONE_NEWNET)?;
        HERE.set(Some(self.clone()));
        let _back = Back(home);
        Ok(work())
    }
}

/// Returns the thread to the namespace that it came from when dropped.
struct Back(Netns);

impl Drop for Back {
    fn drop(&mut self) {
        if setns(&self.0, CloneFlags::CLONE_NEWNET).is_err() {
            std::process::abort();
        }
        HERE.set(Some(self.0.clone()));
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// NS_GET_NSTYPE of <linux/nsfs.h>: `_IO(0xb7, 3)`.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

fn is_network_namespace(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: the descriptor is open for the life of the borrow; this ioctl takes no argument and
    // writes no memory; on a descriptor of another kind it fails with ENOTTY.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) };
    kind == libc::CLONE_NEWNET
}

#[cfg(test)]
mod tests;
