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
    /// Listens at `path` (its directory is made) and knows no pod.
    ///
    /// # Errors
    /// When the socket is taken or cannot be made.
    pub fn start(path: &Path) -> Result<Self> {
        Self::start_with(path, [])
    }

    /// Listens at `path` and knows `pods` from the beginning.
    ///
    /// # Errors
    /// When the socket is taken or cannot be made, or a namespace is gone.
    pub fn start_with<'a>(
        path: &Path,
        pods: impl IntoIterator<Item = (String, &'a topology::Pod, PodInfo)>,
    ) -> Result<Self> {
        let list = Arc::new(List::default());
        for (uid, pod, info) in pods {
            let netns = Some(sys::Netns::open(&pod.ns.path())?);
            let pod = ::zds::server::Pod {
                uid: uid.clone(),
                info,
                netns,
            };
            list.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(uid, pod);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let entered = runtime.enter();
        let listener = Listener::bind(path)?;
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

    /// Goes away, as when its process dies.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _its_panic_was_printed = thread.join();
        }
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
        self.stop();
    }
}
