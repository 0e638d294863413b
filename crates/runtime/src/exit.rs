//! Exit codes, the same in every binary, so that a script can tell causes apart. Used by `main`s.
use std::process::ExitCode;

/// Why the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Asked to stop, and drained (0).
    Clean,
    /// Something failed while running (1).
    Failed,
    /// The settings or arguments are wrong; nothing was started (2).
    BadSettings,
    /// Another instance serves the same sockets and does not give them up (3).
    AlreadyRunning,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Clean => 0,
            Exit::Failed => 1,
            Exit::BadSettings => 2,
            Exit::AlreadyRunning => 3,
        })
    }
}
