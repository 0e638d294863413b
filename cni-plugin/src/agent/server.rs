//! Answers the CNI binary: one connection a call, one message each way. Spawned by `run`.
use std::io;
use std::sync::Arc;
use std::time::Duration;

use runtime::accept::{Advice, advice};
use sys::Netns;
use sys::seqpacket::Received;
use tokio::time::timeout;
use zds::server::Listener;

use super::membership::{Arrival, Membership};
use super::socket::Socket;
use crate::ask::{MAX_MESSAGE, Reply, Request};
use crate::spec::{CniError, Code};

/// How long a caller may take to send its question.
const QUESTION: Duration = Duration::from_secs(5);

/// Accepts until the agent drains.
pub async fn run(listener: Listener, members: Arc<Membership>) {
    let shutdown = members.shutdown.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.draining() => return,
        };
        let socket = match accepted.and_then(Socket::new) {
            Ok(socket) => socket,
            Err(error) => match advice(&error) {
                Advice::Next => continue,
                Advice::Pause(time) => {
                    tokio::time::sleep(time).await;
                    continue;
                }
                Advice::Stop => return tracing::error!(%error, "the CNI socket is unusable"),
            },
        };
        let members = Arc::clone(&members);
        shutdown.spawn(async move {
            if let Err(error) = serve(socket, &members).await {
                tracing::warn!(%error, "a call of the CNI binary was cut short");
            }
        });
    }
}

async fn serve(mut socket: Socket, members: &Membership) -> io::Result<()> {
    let peer = socket.peer()?;
    // Root, or whoever we run as: the socket's mode says the same.
    let own = nix::unistd::geteuid().as_raw();
    if peer.uid != 0 && peer.uid != own {
        let why = format!("uid {} may not ask", peer.uid);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no question came");
    let (bytes, received) = timeout(QUESTION, socket.recv()).await.map_err(late)??;
    if bytes.is_empty() {
        // Somebody looked whether we are there.
        return Ok(());
    }
    let reply = match read(bytes, received) {
        Ok((request, netns)) => answer(members, request, netns).await,
        Err(error) => error.into(),
    };
    socket.send(&encode(reply)).await
}

fn read(bytes: &[u8], received: Received) -> Result<(Request, Option<Netns>), CniError> {
    let bad = |why: String| CniError::new(Code::Decode, "the question cannot be read").because(why);
    if received.truncated {
        return Err(bad("it was cut off".into()));
    }
    let request = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
    let mut fds = received.fds.into_iter();
    let netns = fds.next().map(Netns::from_fd).transpose();
    let netns = netns.map_err(|e| bad(format!("its descriptor: {e}")))?;
    if fds.next().is_some() {
        return Err(bad("it came with more than one descriptor".into()));
    }
    Ok((request, netns))
}

async fn answer(members: &Membership, request: Request, netns: Option<Netns>) -> Reply {
    let outcome = match request {
        Request::Add {
            container_id,
            pod,
            netns: netns_path,
            ips,
        } => match netns {
            Some(netns) => {
                members
                    .add(Arrival {
                        container_id,
                        pod,
                        netns,
                        netns_path,
                        ips,
                    })
                    .await
            }
            None => {
                let text = "an add came without the pod's network namespace";
                Err(CniError::new(Code::Decode, text))
            }
        },
        Request::Del { container_id, pod } => Ok(members.del(&container_id, &pod).await),
        Request::Check { container_id, pod } => members.check(&container_id, &pod).await,
    };
    outcome.unwrap_or_else(|error| {
        tracing::warn!(
            code = error.code,
            msg = error.msg,
            details = error.details,
            "CNI call failed"
        );
        error.into()
    })
}

/// A reply always fits: a long text is shortened.
fn encode(reply: Reply) -> Vec<u8> {
    let short = |text: String| text.chars().take(MAX_MESSAGE / 16).collect();
    let reply = match reply {
        Reply::Failed { code, msg, details } => Reply::Failed {
            code,
            msg: short(msg),
            details: short(details),
        },
        done @ Reply::Done { .. } => done,
    };
    serde_json::to_vec(&reply).expect("a reply is plain text and numbers")
}
