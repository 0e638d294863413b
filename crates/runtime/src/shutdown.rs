//! Stopping in two steps, for the process and each part of it: *drain* (finish what you have, take
//! nothing new) and, after a deadline, *force*. Every task of a binary is spawned through it, so
//! that none is left behind. Called by each `app` and everything that spawns.
use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Readiness;

/// How long tasks may take to end after force, before the process leaves without them.
const FORCE_GRACE: Duration = Duration::from_secs(1);

/// Stop tokens and task tracker of one part of the process. Clones are the same part; a
/// [`Shutdown::child`] stops with its parent, or alone.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    force: CancellationToken,
    /// Our own tracker first, then those of our ancestors: a parent waits for its children's tasks.
    trackers: Vec<TaskTracker>,
    aside: TaskTracker,
}

/// How a part ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every task ended by itself before the deadline.
    Drained,
    /// Force was needed; so many tasks were still running when it was called.
    Forced {
        /// Tasks that had not ended by then.
        tasks: usize,
    },
}

impl Shutdown {
    /// The root part of a process.
    #[must_use]
    pub fn new() -> Self {
        Self {
            trackers: vec![TaskTracker::new()],
            ..Self::default()
        }
    }

    /// A part of this part: drained and forced with it, but it can also stop alone.
    #[must_use]
    pub fn child(&self) -> Self {
        let mut trackers = vec![TaskTracker::new()];
        trackers.extend(self.trackers.iter().cloned());
        Self {
            drain: self.drain.child_token(),
            force: self.force.child_token(),
            trackers,
            aside: self.aside.clone(),
        }
    }

    /// Spawns a task that [`Shutdown::closed`] waits for. The task watches [`Shutdown::draining`]
    /// itself; at force it is dropped at its next await.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let force = self.force.clone();
        let held: Vec<_> = self
            .trackers
            .iter()
            .skip(1)
            .map(TaskTracker::token)
            .collect();
        self.own().spawn(async move {
            let _held = held;
            force.run_until_cancelled(work).await
        })
    }

    /// Spawns a task that nobody waits for and that ends only at force: admin server, metrics. It
    /// serves through the drain.
    pub fn spawn_aside<F>(&self, work: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let force = self.force.clone();
        self.aside
            .spawn(async move { force.run_until_cancelled(work).await })
    }

    /// Runs blocking work on tokio's blocking threads; [`Shutdown::closed`] waits for it. Force
    /// cannot interrupt it, so keep it short.
    pub fn spawn_blocking<F, T>(&self, work: F) -> JoinHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let held: Vec<_> = self
            .trackers
            .iter()
            .skip(1)
            .map(TaskTracker::token)
            .collect();
        self.own().spawn_blocking(move || {
            let _held = held;
            work()
        })
    }

    /// Asks for the end: take nothing new, finish what there is. May be called twice.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Ends everything now (and drains, if nobody did). May be called twice.
    pub fn force(&self) {
        self.drain.cancel();
        self.force.cancel();
    }

    /// Has drain been asked for?
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Waits until drain is asked for.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Waits until force is asked for.
    pub async fn forced(&self) {
        self.force.cancelled().await;
    }

    /// Waits until drain was asked for and every task of this part and its children has ended.
    pub async fn closed(&self) {
        self.drain.cancelled().await;
        let own = self.own();
        own.close();
        own.wait().await;
    }

    /// Tasks of this part and its children that are running.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.own().len()
    }

    /// Drains, waits up to `deadline`, then forces. Returns when all tasks have ended, at the
    /// latest one second after force.
    pub async fn finish(&self, deadline: Duration) -> Ended {
        self.drain();
        let drained = tokio::select! {
            biased;
            () = self.forced() => false,
            done = tokio::time::timeout(deadline, self.closed()) => done.is_ok(),
        };
        let tasks = self.tasks();
        self.force();
        if drained {
            return Ended::Drained;
        }
        // Nothing more can be done about a task that does not yield: the caller exits.
        let _ = tokio::time::timeout(FORCE_GRACE, self.closed()).await;
        Ended::Forced { tasks }
    }

    fn own(&self) -> &TaskTracker {
        self.trackers
            .first()
            .expect("new() and child() put the own tracker first")
    }
}

/// Starts draining at the first SIGTERM or SIGINT and forces at the second.
///
/// # Errors
/// When the handlers cannot be installed. Needs a tokio runtime with I/O.
pub fn signals(shutdown: &Shutdown) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let target = shutdown.clone();
    shutdown.spawn_aside(async move {
        for round in ["draining", "forcing the end"] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "{round}");
            if target.is_draining() {
                target.force()
            } else {
                target.drain()
            }
        }
    });
    Ok(())
}

/// The end of every `main`: waits until drain is asked for (a signal, `/quitquitquit`, a fatal
/// error elsewhere), takes readiness away, then drains up to `deadline` and forces.
pub async fn run_to_end(shutdown: &Shutdown, readiness: &Readiness, deadline: Duration) -> Ended {
    shutdown.draining().await;
    let _until_exit = readiness.register("draining");
    let ended = shutdown.finish(deadline).await;
    match ended {
        Ended::Drained => tracing::info!("drained"),
        Ended::Forced { tasks } => tracing::warn!(tasks, "the drain deadline passed, forced"),
    }
    ended
}

#[cfg(test)]
mod tests;
