//! The stream to a control plane: connects, subscribes, hands pushes to the [`Handler`], answers them,
//! reconnects with back-off for as long as the process lives. Used by ztunnel and waypoint.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, StdError};
use tonic::{Status, Streaming};

use crate::Handler;
use crate::backoff::Backoff;
use crate::machine::{Machine, Subscription};
use crate::trouble::{Tell, Trouble};

/// A whole mesh in one push; upstream's limit.
const LARGEST_MESSAGE: usize = 200 << 20;
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LAST_BACKOFF: Duration = Duration::from_secs(15);

/// Why a stream ended; upstream's label values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Termination {
    /// The stream could not be opened.
    ConnectionError,
    /// The stream failed.
    Error,
    /// The control plane closed the stream in an orderly way.
    Reconnect,
    /// We are stopping.
    Complete,
}

impl Termination {
    /// The value of the label `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectionError => "ConnectionError",
            Self::Error => "Error",
            Self::Reconnect => "Reconnect",
            Self::Complete => "Complete",
        }
    }
}

/// Is told what happens, for metrics. Every method may be left out.
pub trait Observer: Send + Sync {
    /// A stream ended.
    fn terminated(&self, reason: Termination) {
        let _ = reason;
    }
    /// A push of `bytes` resource bytes arrived.
    fn received(&self, type_url: &str, bytes: usize) {
        let _ = (type_url, bytes);
    }
    /// A push was answered; `refused` resources of it were not applied.
    fn answered(&self, type_url: &str, refused: usize) {
        let _ = (type_url, refused);
    }
    /// A stream is open (true) or lost.
    fn connected(&self, open: bool) {
        let _ = open;
    }
}

impl Observer for () {}

/// What a client needs besides its handler.
#[derive(Clone)]
pub struct ClientConfig {
    /// Who we say we are; sent in the first request of each type.
    pub node: Node,
    /// Asked for in this order on each stream.
    pub subscriptions: Vec<Subscription>,
    /// Metrics.
    pub observer: Arc<dyn Observer>,
}

/// Changes subscriptions of a running client and tells when types have arrived. Clones share it.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    synced: watch::Receiver<BTreeSet<String>>,
}

enum Command {
    Subscribe {
        type_url: String,
        names: Vec<String>,
    },
    Unsubscribe {
        type_url: String,
        names: Vec<String>,
    },
}

impl Handle {
    /// Asks for more resources of a type. A no-op for names that are asked already.
    pub fn subscribe(&self, type_url: &str, names: Vec<String>) {
        let type_url = type_url.to_owned();
        // A client that has ended needs no names.
        let _ = self.commands.send(Command::Subscribe { type_url, names });
    }

    /// Asks for fewer resources of a type; nothing is removed from the handler's state.
    pub fn unsubscribe(&self, type_url: &str, names: Vec<String>) {
        let type_url = type_url.to_owned();
        let _ = self.commands.send(Command::Unsubscribe { type_url, names });
    }

    /// Waits until the first push of each of `type_urls` has been applied and answered. (A push of
    /// which a resource was refused counts: one bad object must not keep a node from getting ready.)
    /// False if the client ended before.
    pub async fn synced(&self, type_urls: &[&str]) -> bool {
        let mut synced = self.synced.clone();
        synced
            .wait_for(|seen| type_urls.iter().all(|t| seen.contains(*t)))
            .await
            .is_ok()
    }

    /// The types whose first push has been applied.
    pub fn synced_types(&self) -> watch::Receiver<BTreeSet<String>> {
        self.synced.clone()
    }
}

/// The client itself, to be run by one task.
pub struct Client {
    node: Node,
    machines: Vec<Machine>,
    observer: Arc<dyn Observer>,
    handler: Box<dyn Handler>,
    commands: mpsc::UnboundedReceiver<Command>,
    synced: watch::Sender<BTreeSet<String>>,
    trouble: Trouble,
}

/// The requests of one stream.
type Requests = mpsc::UnboundedSender<DeltaDiscoveryRequest>;

impl Client {
    /// A client and the handle to it.
    pub fn new(config: ClientConfig, handler: Box<dyn Handler>) -> (Self, Handle) {
        let (sender, commands) = mpsc::unbounded_channel();
        let (synced, seen) = watch::channel(BTreeSet::new());
        let client = Self {
            node: config.node,
            machines: config.subscriptions.into_iter().map(Machine::new).collect(),
            observer: config.observer,
            handler,
            commands,
            synced,
            trouble: Trouble::default(),
        };
        (
            client,
            Handle {
                commands: sender,
                synced: seen,
            },
        )
    }

    /// Runs over `transport` (a tonic channel, with credentials) until `stop` is cancelled.
    pub async fn run<T>(mut self, transport: T, stop: CancellationToken)
    where
        T: GrpcService<Body> + Clone,
        T::Error: Into<StdError>,
        T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
        <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
    {
        let service = AggregatedDiscoveryServiceClient::new(transport)
            .max_decoding_message_size(LARGEST_MESSAGE);
        let mut backoff = Backoff::new(FIRST_BACKOFF, LAST_BACKOFF);
        loop {
            let mut service = service.clone();
            let (requests, outgoing) = mpsc::unbounded_channel();
            self.open(&requests);
            let opening =
                service.delta_aggregated_resources(UnboundedReceiverStream::new(outgoing));
            tokio::pin!(opening);
            let opened = loop {
                tokio::select! {
                    () = stop.cancelled() => break None,
                    // A control plane may answer only after a first name is asked for.
                    Some(command) = self.commands.recv() => self.command(command, Some(&requests)),
                    opened = &mut opening => break Some(opened),
                }
            };
            let reason = match opened {
                None => Termination::Complete,
                Some(Err(status)) => self.refused_stream(&status),
                Some(Ok(stream)) => {
                    self.serve(stream.into_inner(), &requests, &stop, &mut backoff)
                        .await
                }
            };
            self.observer.terminated(reason);
            if reason == Termination::Complete || self.pause(&mut backoff, &stop).await {
                return;
            }
        }
    }

    /// No stream came about. A control plane that is away is told of once, and remembered now and then.
    fn refused_stream(&mut self, status: &Status) -> Termination {
        let why = proto::explain(status);
        match self.trouble.failed(&why, Instant::now()) {
            Tell::New => tracing::warn!("cannot reach the control plane, will try again: {why}"),
            Tell::Still(failed) => {
                tracing::warn!(
                    "still cannot reach the control plane after {failed} attempts: {why}"
                );
            }
            Tell::Nothing => tracing::debug!("cannot reach the control plane: {why}"),
        }
        Termination::ConnectionError
    }

    /// Queues the first request of each type.
    fn open(&mut self, requests: &Requests) {
        for machine in &mut self.machines {
            if let Some(request) = machine.connected() {
                send(requests, &self.node, request, true);
            }
        }
    }

    /// Serves one stream until it ends.
    async fn serve(
        &mut self,
        mut stream: Streaming<DeltaDiscoveryResponse>,
        requests: &Requests,
        stop: &CancellationToken,
        backoff: &mut Backoff,
    ) -> Termination {
        self.observer.connected(true);
        match self.trouble.over() {
            0 => tracing::info!("connected to the control plane"),
            failed => {
                tracing::info!("connected to the control plane after {failed} failed attempts")
            }
        }
        let reason = loop {
            tokio::select! {
                () = stop.cancelled() => break Termination::Complete,
                Some(command) = self.commands.recv() => self.command(command, Some(requests)),
                message = stream.message() => match message {
                    Ok(Some(response)) => {
                        self.push(response, requests);
                        backoff.reset();
                    }
                    Ok(None) => break Termination::Reconnect,
                    Err(status) => {
                        tracing::warn!("control plane stream lost: {}", proto::explain(&status));
                        break Termination::Error;
                    }
                },
            }
        };
        self.observer.connected(false);
        reason
    }

    /// Applies one push and answers it.
    fn push(&mut self, response: DeltaDiscoveryResponse, requests: &Requests) {
        let type_url = response.type_url.clone();
        let Some(machine) = self.machines.iter_mut().find(|m| m.type_url() == type_url) else {
            tracing::warn!(
                type_url,
                "the control plane pushed a type that was not asked for"
            );
            return;
        };
        let bytes = response
            .resources
            .iter()
            .flat_map(|r| &r.resource)
            .map(|any| any.value.len());
        self.observer.received(&type_url, bytes.sum());
        let (updates, receipt) = machine.receive(response).split();
        let rejected = self.handler.apply(&type_url, updates);
        let answer = machine.applied(receipt, rejected);
        if let Some(error) = &answer.request.error_detail {
            tracing::warn!(type_url, "resources refused: {}", error.message);
        }
        self.observer.answered(&type_url, answer.refused);
        send(requests, &self.node, answer.request, false);
        self.synced.send_if_modified(|seen| seen.insert(type_url));
    }

    /// Waits before the next attempt, taking subscriptions meanwhile. True if told to stop.
    async fn pause(&mut self, backoff: &mut Backoff, stop: &CancellationToken) -> bool {
        let sleep = tokio::time::sleep(backoff.next(&mut rand::rng()));
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    self.observer.terminated(Termination::Complete);
                    return true;
                }
                () = &mut sleep => return false,
                Some(command) = self.commands.recv() => self.command(command, None),
            }
        }
    }

    /// Carries out a change of subscriptions; without a stream it goes into the next first request.
    fn command(&mut self, command: Command, requests: Option<&Requests>) {
        let open = requests.is_some();
        let type_url = match &command {
            Command::Subscribe { type_url, .. } | Command::Unsubscribe { type_url, .. } => type_url,
        };
        let known = self.machines.iter().position(|m| m.type_url() == type_url);
        let at = known.unwrap_or_else(|| {
            self.machines
                .push(Machine::new(Subscription::named::<String>(type_url, [])));
            self.machines.len() - 1
        });
        let machine = &mut self.machines[at];
        let first = !machine.asked();
        let request = match command {
            Command::Subscribe { names, .. } => machine.subscribe(names, open),
            Command::Unsubscribe { names, .. } => machine.unsubscribe(names, open),
        };
        if let (Some(request), Some(requests)) = (request, requests) {
            send(requests, &self.node, request, first);
        }
    }
}

/// Queues a request. If the stream is gone, its end is seen by the reader.
fn send(requests: &Requests, node: &Node, mut request: DeltaDiscoveryRequest, first: bool) {
    request.node = first.then(|| node.clone());
    let _ = requests.send(request);
}
