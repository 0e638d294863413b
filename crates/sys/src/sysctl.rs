//! Settings of a network namespace under `/proc/sys/net`, also where the container's view of them is read-only, as it is in
//! every container that is not privileged. Called by `socket`.
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Writes a setting of the calling thread's network namespace, `net/ipv4/…`.
///
/// # Errors
/// When there is no such setting; without CAP_NET_ADMIN in the namespace; where `/proc/sys` is read-only, without CAP_SYS_ADMIN.
pub(crate) fn write(name: &str, value: &str) -> io::Result<()> {
    match std::fs::write(Path::new("/proc/sys").join(name), value) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
        done => return done,
    }
    // A view of our own, which nobody else sees: read-only is the mount there, not the setting.
    let opened = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&opened)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOEXEC | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let root = fsmount(&opened, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let path = Path::new("sys").join(name);
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    File::from(openat(&root, &path, flags, Mode::empty())?).write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::testing::{pod, root};

    #[test]
    fn a_setting_is_written_where_proc_is_read_only_and_in_that_namespace_alone() {
        if !root("a mount namespace") {
            return;
        }
        const NAME: &str = "net/ipv4/tcp_migrate_req";
        let read = || std::fs::read_to_string(Path::new("/proc/sys").join(NAME)).unwrap();
        let before = read();
        let netns = pod();
        // A thread of its own: its mounts change.
        let confined = move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(none, "/", none, private, none).unwrap();
            let sys = Some("/proc/sys");
            mount(sys, "/proc/sys", none, MsFlags::MS_BIND, none).unwrap();
            let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(none, "/proc/sys", none, read_only, none).unwrap();
            netns.enter(|| {
                let refused = std::fs::write(Path::new("/proc/sys").join(NAME), "1").unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
                write(NAME, "1").unwrap();
                assert_eq!(read().trim(), "1");
            })
        };
        thread::spawn(confined).join().unwrap().unwrap();
        assert_eq!(read(), before);
    }
}
