//! What the CNI binary and the agent say to each other: one JSON message each way on a seqpacket
//! socket, the pod's network namespace riding along with an `add`. The binary's side blocks; the
//! agent's is `agent::server`.
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use sys::seqpacket::Connection;

use crate::spec::{CniError, Code, PodRef};

/// Longest message in bytes, both ways.
pub const MAX_MESSAGE: usize = 16 << 10;

/// What the binary asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// A pod starts; its namespace comes as descriptor.
    Add {
        /// Container id of the sandbox.
        container_id: String,
        /// Which pod.
        pod: PodRef,
        /// Where the namespace is found again after a restart of the agent.
        netns: PathBuf,
    },
    /// A sandbox goes away.
    Del {
        /// Container id of the sandbox.
        container_id: String,
        /// Which pod.
        pod: PodRef,
    },
    /// Is the pod as it should be?
    Check {
        /// Container id of the sandbox.
        container_id: String,
        /// Which pod.
        pod: PodRef,
    },
    /// Could a pod be added now?
    Status,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Reply {
    /// Done; for an add: is the pod in the mesh, and if not, why.
    Done {
        /// The pod's traffic is captured.
        enrolled: bool,
        /// Why it is not; empty when it is.
        why: String,
    },
    /// Not done.
    Failed {
        /// Code of the CNI specification.
        code: u32,
        /// One line.
        msg: String,
        /// What led to it.
        details: String,
    },
}

impl From<CniError> for Reply {
    fn from(error: CniError) -> Self {
        Self::Failed {
            code: error.code,
            msg: error.msg,
            details: error.details,
        }
    }
}

/// Asks the agent and waits for its answer, at most `limit`.
///
/// # Errors
/// Code 11 when the agent is not there or does not answer in time, code 5 when it answers nonsense.
/// What the agent itself refuses is a [`Reply::Failed`].
pub fn ask(
    socket: &Path,
    request: &Request,
    netns: Option<BorrowedFd<'_>>,
    limit: Duration,
) -> Result<Reply, CniError> {
    let deadline = Instant::now() + limit;
    let away = |e: io::Error| {
        let details = format!("{}: {e}", socket.display());
        CniError::new(
            Code::TryAgain,
            "the node agent of the mesh cannot be reached",
        )
        .because(details)
    };
    let bytes = serde_json::to_vec(request).map_err(|e| away(e.into()))?;
    let connection = Connection::connect(socket).map_err(away)?;
    connection.send(&bytes, netns).map_err(away)?;
    let mut buffer = vec![0; MAX_MESSAGE];
    let len = receive(&connection, &mut buffer, deadline).map_err(away)?;
    serde_json::from_slice(&buffer[..len])
        .map_err(|e| CniError::new(Code::Io, "the node agent's answer cannot be read").because(e))
}

fn receive(connection: &Connection, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
    loop {
        match connection.recv(buffer) {
            Ok(received) if received.len == 0 => {
                let why = "it closed the connection without an answer";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
            }
            Ok(received) => return Ok(received.len),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "it did not answer in time",
            ));
        }
        let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(
            &mut [PollFd::new(connection.as_fd(), PollFlags::POLLIN)],
            wait,
        ) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
