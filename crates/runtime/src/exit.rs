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

/// An error with its causes as one line, each reason once: many an error's text ends with that of its cause.
#[must_use]
pub fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{name}: {source}")]
    struct Repeats {
        name: &'static str,
        source: std::io::Error,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("CA_DIR")]
    struct Around(#[source] Repeats);

    #[test]
    fn each_reason_is_said_once() {
        let source = std::io::Error::from_raw_os_error(30);
        let error = Around(Repeats {
            name: "/ca",
            source,
        });
        let want = "CA_DIR: /ca: Read-only file system (os error 30)";
        assert_eq!(explain(&error), want);
    }
}
