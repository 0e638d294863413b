//! Children that do not outlive whoever started them. Called by the tests and the benchmark, which may be killed.
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// Has the kernel kill (SIGKILL) the command's process when the *thread* that starts it ends: start it from a thread that
/// lives as long as the process is wanted.
pub fn ends_with_starter(command: &mut Command) {
    let starter = Pid::this();
    let prepare = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // The starter may have gone in between.
        if getppid() == starter {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    };
    // SAFETY: between fork and exec the closure makes two system calls; it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(prepare);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;

    #[test]
    fn a_child_ends_with_the_thread_that_started_it_and_not_before() {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        ends_with_starter(&mut command);
        let starter = std::thread::spawn(move || {
            let mut child = command.spawn().unwrap();
            assert!(child.try_wait().unwrap().is_none());
            child
        });
        // Its input stays open: nothing else ends it.
        let mut child = starter.join().unwrap();
        let stdin = child.stdin.take();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        drop(stdin);
    }
}
