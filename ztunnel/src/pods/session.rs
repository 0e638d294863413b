//! Speaks ZDS with the node agent: connects, takes pods, acknowledges, comes back after a loss. Called by `app`.
//! While the agent is away everything that runs goes on.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use runtime::Readiness;
use runtime::readiness::Pending;
use sys::netns::Netns;
use tokio::time::{Instant, sleep, sleep_until};
use zds::client::{Backoff, ClientError, Connection};
use zds::{PodInfo, Request};

use super::{Added, Enrolment, Info};
use crate::worker::Gone;

/// A pod whose listeners could not be opened is tried again after this time.
const RETRY: Duration = Duration::from_secs(5);

/// The client of the agent's socket.
pub struct Session {
    path: PathBuf,
    enrolment: Enrolment,
    readiness: Readiness,
    /// Held while not ready: no snapshot on this connection, or a pod that waits to be opened.
    pending: Option<Pending>,
}

/// What one connection has told.
#[derive(Debug, Default)]
struct Stream {
    named: BTreeSet<Arc<str>>,
    complete: bool,
}

/// The readiness task's name, upstream's.
const TASK: &str = "workload proxy manager";

impl Session {
    /// `pending` is the readiness that ends with the first snapshot.
    pub fn new(
        path: PathBuf,
        enrolment: Enrolment,
        readiness: Readiness,
        pending: Pending,
    ) -> Self {
        Self {
            path,
            enrolment,
            readiness,
            pending: Some(pending),
        }
    }

    /// Runs until a fault that no reconnect can mend, which it returns.
    pub async fn run(mut self) -> anyhow::Error {
        let mut backoff = Backoff::new();
        let mut complained = false;
        loop {
            match Connection::connect(&self.path).await {
                Ok(connection) => {
                    tracing::info!("connected to the node agent");
                    complained = false;
                    match self.serve(connection, &mut backoff).await {
                        Ok(lost) => tracing::warn!("lost the node agent: {:#}", anyhow!(lost)),
                        Err(error) => return error,
                    }
                    self.pending
                        .get_or_insert_with(|| self.readiness.register(TASK));
                }
                Err(error) if !complained => {
                    complained = true;
                    tracing::warn!(path = %self.path.display(), "waiting for the node agent: {:#}", anyhow!(error));
                }
                Err(_) => {}
            }
            sleep(backoff.step()).await;
        }
    }

    /// One connection. `Ok` = it was lost, come back.
    async fn serve(
        &mut self,
        mut connection: Connection,
        backoff: &mut Backoff,
    ) -> anyhow::Result<ClientError> {
        let mut stream = Stream::default();
        let mut retry = Instant::now() + RETRY;
        loop {
            let waiting = self.enrolment.pending();
            self.look_ready(&stream);
            let request = tokio::select! {
                request = connection.next() => request,
                () = sleep_until(retry), if waiting => {
                    self.enrolment.retry().await?;
                    retry = Instant::now() + RETRY;
                    continue;
                }
            };
            if !waiting {
                retry = Instant::now() + RETRY;
            }
            let request = match request {
                Ok(request) => request,
                Err(lost) => return Ok(lost),
            };
            let answer = self.take(&mut stream, request).await?;
            if stream.complete {
                backoff.reset();
            }
            self.look_ready(&stream);
            if let Err(lost) = connection.ack(answer).await {
                return Ok(lost);
            }
        }
    }

    /// Carries out one request. The inner error goes to the agent, the outer one ends the process.
    async fn take(
        &mut self,
        stream: &mut Stream,
        request: Request,
    ) -> anyhow::Result<Result<(), String>> {
        match request {
            Request::Add { uid, info, netns } => {
                let uid: Arc<str> = uid.into();
                stream.named.insert(uid.clone());
                Ok(self.add(uid, info, netns).await?)
            }
            Request::Keep { uid } if stream.complete => {
                bail!("the node agent broke the protocol: keep of {uid} after its snapshot")
            }
            Request::Keep { uid } => {
                tracing::info!(%uid, "pod keep received, it will not be removed with the snapshot");
                stream.named.insert(uid.into());
                Ok(Ok(()))
            }
            Request::Del { uid } => {
                let uid: Arc<str> = uid.into();
                stream.named.remove(&uid);
                self.enrolment.remove(&uid).await?;
                Ok(Ok(()))
            }
            Request::SnapshotSent if stream.complete => {
                bail!("the node agent broke the protocol: a second snapshot on one connection")
            }
            Request::SnapshotSent => {
                tracing::info!(pods = stream.named.len(), "received snapshot sent");
                self.enrolment.keep_only(&stream.named).await?;
                stream.complete = true;
                Ok(Ok(()))
            }
        }
    }

    async fn add(
        &mut self,
        uid: Arc<str>,
        info: Option<PodInfo>,
        netns: std::os::fd::OwnedFd,
    ) -> Result<Result<(), String>, Gone> {
        let Some(PodInfo {
            name,
            namespace,
            service_account,
        }) = info
        else {
            return Ok(Err(format!(
                "the pod {uid} came without its name and account"
            )));
        };
        let netns = match Netns::from_fd(netns) {
            Ok(netns) => netns,
            Err(error) => {
                return Ok(Err(format!(
                    "the pod {uid} came with a bad descriptor: {error}"
                )));
            }
        };
        let info = Info {
            name: name.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        };
        Ok(match self.enrolment.add(uid, info, netns).await? {
            Added::Up => Ok(()),
            Added::Pending(why) => Err(why),
        })
    }

    fn look_ready(&mut self, stream: &Stream) {
        if !stream.complete || self.enrolment.pending() {
            self.pending
                .get_or_insert_with(|| self.readiness.register(TASK));
        } else if self.pending.take().is_some() {
            tracing::info!("task `{TASK}` complete");
        }
    }
}

#[cfg(test)]
mod tests;
