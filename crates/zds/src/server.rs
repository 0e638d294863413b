//! The node agent's half: one owner task per ztunnel connection, so that answers cannot mix. Adds
//! go to the newest connection, deletes to all; each new connection first gets every pod of the
//! node. Called by the CNI agent.
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use sys::Netns;
use tokio::sync::{mpsc, oneshot, watch};

use crate::codec::{self, PodInfo, ProtocolError};

mod accept;
mod listener;
mod owner;

pub use listener::Listener;

/// One pod as it is handed to ztunnel.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Kubernetes uid.
    pub uid: String,
    /// Who it is.
    pub info: PodInfo,
    /// Its network namespace; `None` when the agent has lost it: ztunnel keeps the one it has.
    pub netns: Option<Netns>,
}

/// Where the server learns all pods of the node when a ztunnel connects. The agent changes its list
/// *before* it calls [`Handle::add`] or [`Handle::del`]: then no pod can slip between the two.
pub trait Pods: Send + Sync {
    /// Every enrolled pod of this node.
    fn snapshot(&self) -> Vec<Pod>;
}

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process serves it.
    #[error("another process{} already serves {path}", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Taken {
        /// The socket.
        path: PathBuf,
        /// Who, when it left its number in the lock file.
        pid: Option<u32>,
    },
    /// The path cannot be used.
    #[error("cannot listen on {path}: {source}")]
    Io {
        /// The socket or its lock file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why ztunnel did not take a request.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No ztunnel is connected, or the last one went away.
    #[error("no ztunnel is connected")]
    NoZtunnel,
    /// ztunnel answered with an error.
    #[error("ztunnel refused: {0}")]
    Refused(String),
    /// ztunnel did not answer in time; its connection has been closed.
    #[error("ztunnel did not answer within {} s", owner::ACK_TIMEOUT.as_secs())]
    Timeout,
    /// ztunnel broke the protocol; its connection has been closed.
    #[error("ztunnel broke the protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// The socket broke.
    #[error("the socket to ztunnel: {0}")]
    Io(#[from] io::Error),
}

/// One request on its way to an owner.
struct Order {
    bytes: Vec<u8>,
    netns: Option<Netns>,
    answer: oneshot::Sender<Result<(), ServerError>>,
}

/// One live connection as the handle sees it.
struct Link {
    number: u64,
    orders: mpsc::UnboundedSender<Order>,
}

struct Shared {
    /// Oldest first. Held only for a push, a removal or a copy, never across an await.
    links: Mutex<Vec<Link>>,
    connected: watch::Sender<usize>,
    pods: Arc<dyn Pods>,
}

impl Shared {
    fn links(&self) -> std::sync::MutexGuard<'_, Vec<Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends requests to the connected ztunnels. Clones share the connections.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// Makes the server: the handle, and the future that serves `listener` until it is dropped (run it
/// as a task; it ends only when the listener is unusable).
pub fn serve(
    listener: Listener,
    pods: Arc<dyn Pods>,
) -> (Handle, impl Future<Output = io::Error> + Send + 'static) {
    let links = Mutex::new(Vec::new());
    let shared = Arc::new(Shared {
        links,
        connected: watch::Sender::new(0),
        pods,
    });
    let served = accept::run(listener, Arc::clone(&shared));
    (Handle { shared }, served)
}

impl Handle {
    /// Hands a pod to the newest ztunnel and waits for its answer (at most 5 s). When that
    /// connection ends meanwhile, the next newest is asked.
    ///
    /// # Errors
    /// [`ServerError::Refused`] and [`ServerError::NoZtunnel`] may be retried; ztunnel keeps a
    /// refused pod as pending, so undo with [`Handle::del`].
    pub async fn add(&self, pod: &Pod) -> Result<(), ServerError> {
        let payload = match &pod.netns {
            Some(_) => codec::add(&pod.uid, &pod.info),
            None => codec::keep(&pod.uid),
        };
        let bytes = codec::encode_request(payload)?;
        loop {
            let newest = self
                .shared
                .links()
                .last()
                .map(|link| (link.number, link.orders.clone()));
            let (number, orders) = newest.ok_or(ServerError::NoZtunnel)?;
            match ask(&orders, bytes.clone(), pod.netns.clone()).await {
                Some(answer) => return answer,
                None => self.shared.links().retain(|link| link.number != number),
            }
        }
    }

    /// Tells every connected ztunnel that a pod is gone. Without any it succeeds: the next one will
    /// not hear of the pod.
    ///
    /// # Errors
    /// The first refusal of a ztunnel, after all have been told; one that goes away is no error.
    pub async fn del(&self, uid: &str) -> Result<(), ServerError> {
        let bytes = codec::encode_request(codec::del(uid))?;
        let all: Vec<_> = self
            .shared
            .links()
            .iter()
            .map(|link| link.orders.clone())
            .collect();
        let mut outcome = Ok(());
        for orders in all {
            if let Some(Err(refused)) = ask(&orders, bytes.clone(), None).await {
                outcome = outcome.and(Err(refused));
            }
        }
        outcome
    }

    /// How many ztunnels are connected and have taken the snapshot.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<usize> {
        self.shared.connected.subscribe()
    }
}

/// `None` when the connection ended before it answered.
async fn ask(
    orders: &mpsc::UnboundedSender<Order>,
    bytes: Vec<u8>,
    netns: Option<Netns>,
) -> Option<Result<(), ServerError>> {
    let (answer, answered) = oneshot::channel();
    orders
        .send(Order {
            bytes,
            netns,
            answer,
        })
        .ok()?;
    answered.await.ok()
}

#[cfg(test)]
mod tests;
