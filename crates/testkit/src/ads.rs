//! A fake delta ADS: a test sets resources, the fake sends each subscriber what it lacks, and keeps
//! what the client answered. It shares no code with the product's own xDS, so that it can judge it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Result, ensure};
use prost::Message;
use proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server as Grpc;
use tonic::{Request, Response, Status, Streaming};

use crate::serve::{Server, spawn};
use crate::wait;

/// A refusal that a client sent: the type URL and the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// Type of the refused response.
    pub type_url: String,
    /// `error_detail.message`.
    pub message: String,
}

/// The fake; it stops on drop, and every stream breaks.
#[derive(Debug)]
pub struct Ads {
    shared: Arc<Shared>,
    server: Server,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    revision: watch::Sender<u64>,
}

/// Resources of one type: name → (version, body).
type Held = BTreeMap<String, (String, Vec<u8>)>;

#[derive(Debug, Default)]
struct State {
    /// type URL → name → (version, body).
    resources: BTreeMap<String, Held>,
    /// Every name ever touched, by type, in order: a subscriber reads on from where it was.
    touched: BTreeMap<String, Vec<String>>,
    versions: u64,
    /// Streams that are cut when this grows past the number they began with.
    epoch: u64,
    refusing: bool,
    requests: Vec<DeltaDiscoveryRequest>,
    headers: Vec<BTreeMap<String, String>>,
    nacks: Vec<Nack>,
    /// stream → (revision that it was last brought to, nonces it has not answered).
    streams: BTreeMap<u64, (u64, BTreeSet<String>)>,
    next_stream: u64,
}

impl Ads {
    /// Serves on `listener` with `tls`.
    ///
    /// # Errors
    /// When the runtime cannot be made.
    pub fn start(listener: TcpListener, tls: Arc<rustls::ServerConfig>) -> Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            revision: watch::channel(0).0,
        });
        let service = AggregatedDiscoveryServiceServer::new(Service(Arc::clone(&shared)));
        let server = Server::start(listener, tls, Grpc::builder().add_service(service))?;
        Ok(Self { shared, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Adds or changes one resource and pushes it.
    pub fn set(&self, type_url: &str, name: &str, body: &impl Message) {
        self.change(&[(type_url, name, Some(body.encode_to_vec()))]);
    }

    /// As [`Ads::set`] with bytes that need not be a message at all.
    pub fn set_bytes(&self, type_url: &str, name: &str, body: Vec<u8>) {
        self.change(&[(type_url, name, Some(body))]);
    }

    /// Removes one resource and pushes that.
    pub fn remove(&self, type_url: &str, name: &str) {
        self.change(&[(type_url, name, None)]);
    }

    /// Several changes (`None` removes) in one push per type.
    pub fn change(&self, changes: &[(&str, &str, Option<Vec<u8>>)]) {
        let mut state = self.shared.lock();
        for (type_url, name, body) in changes {
            state.versions += 1;
            let version = state.versions.to_string();
            let touched = state.touched.entry((*type_url).to_owned()).or_default();
            touched.push((*name).to_owned());
            let of_type = state.resources.entry((*type_url).to_owned()).or_default();
            match body {
                Some(body) => drop(of_type.insert((*name).to_owned(), (version, body.clone()))),
                None => drop(of_type.remove(*name)),
            }
        }
        drop(state);
        self.shared.revision.send_modify(|revision| *revision += 1);
    }

    /// Breaks every stream; clients come back by themselves.
    pub fn disconnect(&self) {
        self.shared.lock().epoch += 1;
        self.shared.revision.send_modify(|revision| *revision += 1);
    }

    /// While set, streams are broken and new ones are refused: the control plane is away.
    pub fn refuse(&self, refusing: bool) {
        self.shared.lock().refusing = refusing;
        self.disconnect();
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<DeltaDiscoveryRequest> {
        self.shared.lock().requests.clone()
    }

    /// The ASCII headers of each stream so far.
    pub fn headers(&self) -> Vec<BTreeMap<String, String>> {
        self.shared.lock().headers.clone()
    }

    /// Every refusal so far.
    pub fn nacks(&self) -> Vec<Nack> {
        self.shared.lock().nacks.clone()
    }

    /// Number of live streams.
    pub fn streams(&self) -> usize {
        self.shared.lock().streams.len()
    }

    /// Waits until `streams` clients are connected and have answered (ACK or NACK) all there is.
    ///
    /// # Errors
    /// When that does not happen within `limit`.
    pub fn settled(&self, streams: usize, limit: Duration) -> Result<()> {
        wait::until("clients answered every push", limit, || {
            let state = self.shared.lock();
            let revision = *self.shared.revision.borrow();
            let settled = state
                .streams
                .values()
                .filter(|(seen, open)| *seen == revision && open.is_empty())
                .count();
            ensure!(
                settled == streams && state.streams.len() == streams,
                "{settled} of {} streams, want {streams}",
                state.streams.len()
            );
            Ok(())
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

struct Service(Arc<Shared>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let headers = request.metadata().clone().into_headers();
        let headers = headers
            .iter()
            .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
            .collect();
        let (send, receive) = mpsc::channel(64);
        let (id, epoch) = {
            let mut state = self.0.lock();
            if state.refusing {
                return Err(Status::unavailable("this control plane is away"));
            }
            state.headers.push(headers);
            state.next_stream += 1;
            let id = state.next_stream;
            // Not settled before its first request: no revision is this large.
            state.streams.insert(id, (u64::MAX, BTreeSet::new()));
            (id, state.epoch)
        };
        let stream = Stream {
            shared: Arc::clone(&self.0),
            id,
            epoch,
            send,
            sent: BTreeMap::new(),
            nonces: 0,
        };
        spawn(stream.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

/// What one client has subscribed to and holds.
#[derive(Debug, Default)]
struct Subscription {
    wildcard: bool,
    names: BTreeSet<String>,
    held: BTreeMap<String, String>,
    /// How much of the type's `touched` has been looked at; `None` = compare everything.
    position: Option<usize>,
}

struct Stream {
    shared: Arc<Shared>,
    id: u64,
    epoch: u64,
    send: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    sent: BTreeMap<String, Subscription>,
    nonces: u64,
}

impl Stream {
    async fn run(mut self, mut requests: Streaming<DeltaDiscoveryRequest>) {
        let mut revision = self.shared.revision.subscribe();
        loop {
            tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.request(request),
                    Ok(None) | Err(_) => break,
                },
                changed = revision.changed() => if changed.is_err() { break },
            }
            if self.shared.lock().epoch > self.epoch {
                let _client_left = self
                    .send
                    .send(Err(Status::unavailable("stream was cut")))
                    .await;
                break;
            }
            let now = *revision.borrow_and_update();
            for response in self.responses(now) {
                if self.send.send(Ok(response)).await.is_err() {
                    break;
                }
            }
        }
        self.shared.lock().streams.remove(&self.id);
    }

    fn request(&mut self, request: DeltaDiscoveryRequest) {
        let mut state = self.shared.lock();
        if let Some((_, open)) = state.streams.get_mut(&self.id) {
            open.remove(&request.response_nonce);
        }
        if let Some(error) = &request.error_detail {
            state.nacks.push(Nack {
                type_url: request.type_url.clone(),
                message: error.message.clone(),
            });
        }
        state.requests.push(request.clone());
        drop(state);
        let first = !self.sent.contains_key(&request.type_url);
        let subscription = self.sent.entry(request.type_url).or_default();
        if first {
            subscription.held = request.initial_resource_versions.into_iter().collect();
            subscription.wildcard = request.resource_names_subscribe.is_empty();
        }
        let names = (
            &request.resource_names_subscribe,
            &request.resource_names_unsubscribe,
        );
        if !names.0.is_empty() || !names.1.is_empty() {
            subscription.position = None;
        }
        for name in request.resource_names_subscribe {
            subscription.wildcard |= name == "*";
            // A name that is asked for again is sent again, as the protocol wants.
            subscription.held.remove(&name).filter(|_| !first);
            subscription.names.insert(name);
        }
        for name in request.resource_names_unsubscribe {
            subscription.wildcard &= name != "*";
            subscription.names.remove(&name);
            subscription.held.remove(&name);
        }
    }

    fn responses(&mut self, revision: u64) -> Vec<DeltaDiscoveryResponse> {
        let mut responses = Vec::new();
        let mut state = self.shared.lock();
        for (type_url, subscription) in &mut self.sent {
            let (none, untouched) = (Held::new(), Vec::new());
            let have = state.resources.get(type_url).unwrap_or(&none);
            let touched = state.touched.get(type_url).unwrap_or(&untouched);
            let Some(mut response) = subscription.difference(type_url, have, touched) else {
                continue;
            };
            self.nonces += 1;
            response.nonce = format!("{}-{}", self.id, self.nonces);
            responses.push(response);
        }
        if let Some((seen, open)) = state
            .streams
            .get_mut(&self.id)
            .filter(|_| !self.sent.is_empty())
        {
            *seen = revision;
            open.extend(responses.iter().map(|response| response.nonce.clone()));
        }
        responses
    }
}

impl Subscription {
    fn difference(
        &mut self,
        type_url: &str,
        have: &Held,
        touched: &[String],
    ) -> Option<DeltaDiscoveryResponse> {
        let first = self.position.is_none();
        let names: BTreeSet<&String> = match self.position {
            None => have.keys().chain(self.held.keys()).collect(),
            Some(at) => touched[at..].iter().collect(),
        };
        let wanted = |name: &String| self.wildcard || self.names.contains(name);
        let differs = |name: &&String| {
            let held = self.held.get(*name);
            have.get(*name)
                .filter(|(version, _)| held != Some(version))
                .is_some()
        };
        let changed: Vec<(String, String, Vec<u8>)> = names
            .iter()
            .filter(|name| wanted(name) && differs(name))
            .map(|name| {
                (
                    (*name).clone(),
                    have[*name].0.clone(),
                    have[*name].1.clone(),
                )
            })
            .collect();
        let gone = |name: &&&String| self.held.contains_key(**name) && !have.contains_key(**name);
        let removed: Vec<String> = names
            .iter()
            .filter(gone)
            .map(|name| (*name).clone())
            .collect();
        self.position = Some(touched.len());
        // The first request of a type is always answered, as istiod does.
        if changed.is_empty() && removed.is_empty() && !first {
            return None;
        }
        for name in &removed {
            self.held.remove(name);
        }
        let held = changed
            .iter()
            .map(|(name, version, _)| (name.clone(), version.clone()));
        self.held.extend(held);
        let resources = changed.into_iter().map(|(name, version, body)| Resource {
            name,
            version,
            resource: Some(prost_types::Any {
                type_url: type_url.to_owned(),
                value: body,
            }),
            ..Resource::default()
        });
        let resources: Vec<Resource> = resources.collect();
        Some(DeltaDiscoveryResponse {
            type_url: type_url.to_owned(),
            resources,
            removed_resources: removed,
            ..DeltaDiscoveryResponse::default()
        })
    }
}
