//! Plays the node agent towards a real ztunnel: hands it pods over `zds::server`, from a plain test.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

pub use ::zds::PodInfo;
use ::zds::server::{Handle, Listener, Pods};
use anyhow::{Context as _, Result, ensure};
use tokio::sync::oneshot;

use crate::topology;
use crate::wait;

/// The agent; it goes away on drop, as when its process dies.
pub struct Agent {
    runtime: tokio::runtime::Handle,
    handle: Handle,
    list: Arc<List>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct List(Mutex<BTreeMap<String, ::zds::server::Pod>>);

impl Pods for List {
    fn snapshot(&self) -> Vec<::zds::server::Pod> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }
}

impl Agent {
    /// Listens at `path` (its directory is made).
    ///
    /// # Errors
    /// When the socket is taken or cannot be made.
    pub fn start(path: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let entered = runtime.enter();
        let listener = Listener::bind(path)?;
        let list = Arc::new(List::default());
        let (handle, served) = ::zds::server::serve(listener, list.clone());
        drop(entered);
        let (stop, stopped) = oneshot::channel();
        let remote = runtime.handle().clone();
        let thread = thread::spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    _ = stopped => {}
                    _ = served => {}
                }
            });
        });
        Ok(Self {
            runtime: remote,
            handle,
            list,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Enrols a pod and waits until ztunnel has it.
    ///
    /// # Errors
    /// What ztunnel answered, or that none is connected.
    pub fn add(&self, uid: &str, pod: &topology::Pod, info: PodInfo) -> Result<()> {
        let netns = Some(sys::Netns::open(&pod.ns.path())?);
        let pod = ::zds::server::Pod {
            uid: uid.to_owned(),
            info,
            netns,
        };
        self.lock().insert(uid.to_owned(), pod.clone());
        let handle = self.handle.clone();
        self.ask(async move { handle.add(&pod).await })?
            .with_context(|| format!("add {uid}"))
    }

    /// Lists a pod without telling anybody: the next ztunnel that connects hears of it.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn list(&self, uid: &str, pod: &topology::Pod, info: PodInfo) -> Result<()> {
        let netns = Some(sys::Netns::open(&pod.ns.path())?);
        self.lock().insert(
            uid.to_owned(),
            ::zds::server::Pod {
                uid: uid.to_owned(),
                info,
                netns,
            },
        );
        Ok(())
    }

    /// Takes a pod out and waits until ztunnel has let go.
    ///
    /// # Errors
    /// What ztunnel answered.
    pub fn remove(&self, uid: &str) -> Result<()> {
        self.lock().remove(uid);
        let (handle, named) = (self.handle.clone(), uid.to_owned());
        self.ask(async move { handle.del(&named).await })?
            .with_context(|| format!("remove {uid}"))
    }

    /// Waits until `count` ztunnels have taken the snapshot.
    ///
    /// # Errors
    /// When that does not happen within `limit`.
    pub fn connected(&self, count: usize, limit: Duration) -> Result<()> {
        let connected = self.handle.connected();
        wait::until(
            &format!("{count} ztunnels at the agent's socket"),
            limit,
            || {
                let now = *connected.borrow();
                ensure!(now == count, "there are {now}");
                Ok(())
            },
        )
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, ::zds::server::Pod>> {
        self.list.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on the agent's runtime and waits for it.
    fn ask<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let (done, answer) = std::sync::mpsc::channel();
        drop(
            self.runtime
                .spawn(async move { drop(done.send(work.await)) }),
        );
        answer
            .recv_timeout(Duration::from_secs(30))
            .context("no answer within 30 s")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _its_panic_was_printed = thread.join();
        }
    }
}
