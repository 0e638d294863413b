//! What the CNI binary and the agent say to each other: one JSON message each way on a seqpacket
//! socket, the pod's network namespace riding along with an `add`. The binary's side blocks; the
//! agent's is `agent::server`.
use std::io;
use std::net::IpAddr;
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
        /// Its addresses, before the cluster knows them.
        #[serde(default)]
        ips: Vec<IpAddr>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn add() -> Request {
        let pod = PodRef {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u-1".into(),
        };
        Request::Add {
            container_id: "c-1".into(),
            pod,
            netns: "/run/netns/x".into(),
            ips: vec!["10.0.0.2".parse().unwrap()],
        }
    }

    #[test]
    fn questions_and_answers_read_back_as_written() {
        let bytes = serde_json::to_vec(&add()).unwrap();
        assert_eq!(serde_json::from_slice::<Request>(&bytes).unwrap(), add());
        let reply = Reply::from(CniError::new(Code::TryAgain, "later").because("no ztunnel"));
        let bytes = serde_json::to_vec(&reply).unwrap();
        assert_eq!(serde_json::from_slice::<Reply>(&bytes).unwrap(), reply);
    }

    #[test]
    fn an_agent_that_hangs_up_or_talks_nonsense_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let listener = sys::seqpacket::Listener::bind(&path).unwrap();
        let serve = |answer: Option<&'static [u8]>| {
            let client = std::thread::scope(|scope| {
                let ask = scope.spawn(|| ask(&path, &add(), None, Duration::from_secs(600)));
                poll(
                    &mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)],
                    PollTimeout::NONE,
                )
                .unwrap();
                let peer = listener.accept().unwrap();
                poll(
                    &mut [PollFd::new(peer.as_fd(), PollFlags::POLLIN)],
                    PollTimeout::NONE,
                )
                .unwrap();
                peer.recv(&mut [0; 100]).unwrap();
                if let Some(answer) = answer {
                    peer.send(answer, None).unwrap();
                }
                drop(peer);
                ask.join().unwrap()
            });
            client.unwrap_err()
        };
        let hung_up = serve(None);
        assert_eq!(hung_up.code, 11);
        let why = "it closed the connection without an answer";
        assert_eq!(hung_up.details, format!("{}: {why}", path.display()));
        assert_eq!(serve(Some(b"{}")).code, 5);
    }

    proptest! {
        #[test]
        fn any_message_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = serde_json::from_slice::<Request>(&bytes);
            let _ = serde_json::from_slice::<Reply>(&bytes);
        }

        #[test]
        fn a_damaged_question_is_read_or_refused(at in 0..200usize, with: u8, cut in 0..200usize) {
            let mut bytes = serde_json::to_vec(&add()).unwrap();
            let at = at % bytes.len();
            bytes[at] = with;
            bytes.truncate(bytes.len() - cut % bytes.len());
            let _ = serde_json::from_slice::<Request>(&bytes);
        }
    }
}
