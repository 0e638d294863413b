//! The worker threads as control sees them: start, publish, command, join. Called by `app` and `pods`.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use arc_swap::ArcSwap;
use mesh::identity::Identity;
use mesh::state::Snapshot;
use tokio::sync::mpsc;

use super::api::{Command, Listeners, Notice, Pod, Settings};
use super::lease::Secret;
use super::share::{Heat, Neighbours};
use super::shell::{self, Door};
use crate::route::Names;

/// Commands that may wait in one worker's queue before the sender waits.
const COMMANDS: usize = 1024;
/// Batches of notices that may wait for control, all workers together.
const NOTICES: usize = 256;
/// Connections that may wait in one worker's queue; whoever finds it full serves them itself.
const PARCELS: usize = 4096;

/// The running workers. Dropping it ends them as [`Command::Force`] does.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Handle>,
    snapshot: Arc<ArcSwap<Snapshot>>,
}

/// Where a worker thread is reached.
#[derive(Debug)]
struct Handle {
    commands: mpsc::Sender<Command>,
    waker: Arc<mio::Waker>,
    thread: JoinHandle<()>,
}

/// A worker thread has ended although nobody told it to: a defect; the process should end.
#[derive(Debug, thiserror::Error)]
#[error("worker {0} has ended")]
pub struct Gone(pub usize);

/// Starts `count` (at least 1) worker threads. The receiver yields what they have to tell, in batches; keep reading it.
pub fn start(
    mut settings: Settings,
    count: usize,
    snapshot: Arc<Snapshot>,
) -> io::Result<(Workers, mpsc::Receiver<Vec<Notice>>)> {
    settings.limits = settings.limits.of_one(count);
    let settings = Arc::new(settings);
    let snapshot = Arc::new(ArcSwap::new(snapshot));
    let (notices, received) = mpsc::channel(NOTICES);
    let count = count.max(1);
    let (heat, secret) = (Arc::new(Heat::new(Instant::now())), Arc::new(secret()?));
    let (mut polls, mut doors, mut queues) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        let poll = mio::Poll::new()?;
        let waker = Arc::new(mio::Waker::new(poll.registry(), shell::WAKER)?);
        let (parcels, queue) = mpsc::channel(PARCELS);
        polls.push(poll);
        doors.push(Door { parcels, waker });
        queues.push(queue);
    }
    let doors: Arc<[Door]> = doors.into();
    let mut workers = Vec::new();
    for (index, (poll, parcels)) in polls.into_iter().zip(queues).enumerate() {
        let (commands, queue) = mpsc::channel(COMMANDS);
        let waker = doors[index].waker.clone();
        let inbox = shell::Inbox {
            neighbours: Neighbours {
                index,
                count,
                heat: heat.clone(),
                secret: secret.clone(),
            },
            doors: doors.clone(),
            parcels,
            commands: queue,
            notices: notices.clone(),
            snapshot: snapshot.clone(),
        };
        let settings = settings.clone();
        let thread = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                let _guard = EndWithWorker;
                shell::run(poll, inbox, settings);
            })?;
        workers.push(Handle {
            commands,
            waker,
            thread,
        });
    }
    Ok((Workers { workers, snapshot }, received))
}

/// The key of this process's leases.
fn secret() -> io::Result<Secret> {
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key)
        .map_err(|_| io::Error::other("the system gives no random bytes"))?;
    Ok(Secret::new(key))
}

/// A worker that panicked would leave its connections hanging and its share of each listener unanswered, for ever. The
/// process ends instead: pods' traffic fails closed until it is restarted.
struct EndWithWorker;

impl Drop for EndWithWorker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a worker has panicked, the process ends");
            std::process::abort();
        }
    }
}

impl Workers {
    /// How many there are: [`listeners::open`](super::listeners::open) wants to know.
    pub fn count(&self) -> usize {
        self.workers.len()
    }

    /// A worker whose thread has ended, if any. Before the drain that is a defect: its pods would be served by the others
    /// alone, or not at all.
    pub fn ended(&self) -> Option<Gone> {
        let ended = self
            .workers
            .iter()
            .position(|worker| worker.thread.is_finished());
        ended.map(Gone)
    }

    /// Makes a new snapshot the one in force. Wakes every worker; each re-asks authorization for its connections.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(snapshot);
        for worker in &self.workers {
            // A waker fails only when its eventfd is gone, and then the thread is gone, which `send` reports.
            let _ = worker.waker.wake();
        }
    }

    /// Sends one command to one worker; waits while its queue is full.
    pub async fn send(&self, worker: usize, command: Command) -> Result<(), Gone> {
        let handle = self.workers.get(worker).ok_or(Gone(worker))?;
        handle
            .commands
            .send(command)
            .await
            .map_err(|_| Gone(worker))?;
        handle.waker.wake().map_err(|_| Gone(worker))
    }

    /// Sends a command to every worker.
    pub async fn send_all(&self, command: impl Fn() -> Command) -> Result<(), Gone> {
        for worker in 0..self.workers.len() {
            self.send(worker, command()).await?;
        }
        Ok(())
    }

    /// Gives each worker its share of a new pod's sockets, as [`listeners::open`](super::listeners::open) made them.
    pub async fn add_pod(&self, pod: Arc<Pod>, listeners: Vec<Listeners>) -> Result<(), Gone> {
        for (worker, listeners) in listeners.into_iter().enumerate() {
            self.send(
                worker,
                Command::AddPod {
                    pod: pod.clone(),
                    listeners,
                },
            )
            .await?;
        }
        Ok(())
    }

    /// Cuts a pod. Each worker answers with its own [`Notice::PodRemoved`].
    pub async fn remove_pod(&self, uid: &Arc<str>) -> Result<(), Gone> {
        self.send_all(|| Command::RemovePod { uid: uid.clone() })
            .await
    }

    /// Hands a first or renewed certificate to every worker.
    pub async fn certificate(&self, certificate: &Arc<identity::Certificate>) -> Result<(), Gone> {
        self.send_all(|| Command::Certificate(certificate.clone()))
            .await
    }

    /// Tells every worker that a certificate could not be had.
    pub async fn certificate_failed(
        &self,
        identity: &Identity,
        why: &Arc<str>,
    ) -> Result<(), Gone> {
        self.send_all(|| Command::CertificateFailed {
            identity: identity.clone(),
            why: why.clone(),
        })
        .await
    }

    /// Gives the resolved host names to every worker.
    pub async fn names(&self, names: &Arc<Names>) -> Result<(), Gone> {
        self.send_all(|| Command::Names(names.clone())).await
    }

    /// Starts the drain on every worker; each answers with [`Notice::Drained`].
    pub async fn drain(&self, deadline: Instant) -> Result<(), Gone> {
        self.send_all(|| Command::Drain { deadline }).await
    }

    /// Cuts what is left and waits for the threads (they need no time to speak of; blocks).
    pub fn join(self) {
        for worker in self.workers {
            // The closed queue is the message: nothing more can be sent, the worker forces and ends.
            drop(worker.commands);
            let _ = worker.waker.wake();
            // A panic of a worker was already printed by its thread.
            let _ = worker.thread.join();
        }
    }
}
