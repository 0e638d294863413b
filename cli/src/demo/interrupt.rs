//! Ctrl-C, SIGTERM and SIGHUP (a closed terminal) for the demo: a flag that every wait looks at, so that the demo always tidies up.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// How often a wait looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Set once a signal asked the demo to end.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens for SIGINT, SIGTERM and SIGHUP on a thread of its own for the rest of the process's life.
    ///
    /// # Errors
    /// When signal handlers cannot be installed.
    pub fn listen() -> Result<Self> {
        let flag = Self::default();
        let seen = flag.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the signal listener")?;
        // Installed before this returns: whatever the demo makes after that, it tidies up.
        let entered = runtime.enter();
        let on = |kind| signal(kind).context("install a signal handler");
        let (mut interrupt, mut terminate, mut hangup) = (
            on(SignalKind::interrupt())?,
            on(SignalKind::terminate())?,
            on(SignalKind::hangup())?,
        );
        drop(entered);
        std::thread::spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hangup.recv() => {}
                    }
                    seen.0.store(true, Ordering::SeqCst);
                }
            });
        });
        Ok(flag)
    }

    /// Whether the demo was asked to end.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Fails once the demo was asked to end.
    ///
    /// # Errors
    /// `interrupted`.
    pub fn check(&self) -> Result<()> {
        if self.asked() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Asks `probe` until it gives something, at most for `limit`. Returns it and how long it took.
    ///
    /// # Errors
    /// `interrupted`; or that `what` did not happen within `limit`.
    pub fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut probe: impl FnMut() -> Option<T>,
    ) -> Result<(T, Duration)> {
        let start = Instant::now();
        loop {
            if let Some(found) = probe() {
                return Ok((found, start.elapsed()));
            }
            self.check()?;
            if start.elapsed() > limit {
                bail!("{what}: did not happen within {} s", limit.as_secs());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}
