//! The server half of delta ADS: each subscriber is brought from what it has to what the [`Source`]
//! shows it. Used by the control plane. Authenticates nobody: an interceptor before it puts
//! [`Authenticated`] into the request.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use mesh::identity::Identity;
use proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

mod refusal;
mod session;
mod stream;

pub use session::{Event, Session};

/// A client names all that it holds when it returns; a large mesh goes beyond gRPC's usual 4 MiB.
const LARGEST_REQUEST: usize = 64 << 20;

/// One resource as it is pushed. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Differs whenever the body differs.
    pub version: Arc<str>,
    /// The encoded message.
    pub body: Bytes,
}

/// The resources of one type, by name.
pub type Resources = BTreeMap<Arc<str>, Resource>;

/// What one subscriber is to have, by type URL. A type that did not change between two views should
/// keep its `Arc`: it is then not compared again.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// By type URL. A type that is absent is empty.
    pub types: BTreeMap<Arc<str>, Arc<Resources>>,
    /// By type URL, the latest steps that led to what `types` has, oldest first: a subscriber that is at one of them is
    /// brought up by the names that have changed since, without a comparison of everything. May be empty.
    pub steps: BTreeMap<Arc<str>, Arc<[Step]>>,
}

/// From one set of resources to the next.
#[derive(Clone, Debug)]
pub struct Step {
    /// The resources before it.
    pub from: Weak<Resources>,
    /// Names of everything that is new, gone or different after it; more does no harm.
    pub names: Arc<[Arc<str>]>,
}

impl View {
    /// The resources of a type.
    pub fn of(&self, type_url: &str) -> Option<&Arc<Resources>> {
        self.types.get(type_url)
    }
}

/// Who is at the other end. Put into the request's extensions by whoever checked it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticated(pub Identity);

/// A subscriber.
#[derive(Clone, Debug)]
pub struct Client {
    /// What it says of itself in its first request.
    pub node: Node,
    /// Who it proved to be, if anything was checked.
    pub identity: Option<Identity>,
    /// A number for logs; later streams have greater ones.
    pub stream: u64,
}

/// A subscriber refused resources of a push; it keeps what it held before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// The type of the push.
    pub type_url: String,
    /// The subscriber's text: which resources and why.
    pub message: String,
}

/// Where subscribers' views come from.
pub trait Source: Send + Sync + 'static {
    /// The view for a new subscriber, followed until it leaves. An error refuses it.
    fn subscribe(&self, client: &Client) -> Result<watch::Receiver<Arc<View>>, Status>;

    /// A subscriber refused a push. Not called again for it until something changes.
    fn refused(&self, client: &Client, nack: Nack) {
        let _ = (client, nack);
    }

    /// Nothing of that type that the subscriber refused stands any more: it took something newer, or it was removed.
    fn mended(&self, client: &Client, type_url: &str) {
        let _ = (client, type_url);
    }

    /// The stream of a subscriber has ended.
    fn left(&self, client: &Client) {
        let _ = client;
    }
}

/// The ADS service over a source.
pub struct Ads<S> {
    source: Arc<S>,
    stop: CancellationToken,
}

impl<S: Source> Ads<S> {
    /// Streams end when `stop` is cancelled; their clients then look for another control plane.
    pub fn new(source: Arc<S>, stop: CancellationToken) -> Self {
        Self { source, stop }
    }

    /// The service to be added to a tonic router.
    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self)
            .max_decoding_message_size(LARGEST_REQUEST)
            .max_encoding_message_size(usize::MAX)
    }
}

#[tonic::async_trait]
impl<S: Source> AggregatedDiscoveryService for Ads<S> {
    type DeltaAggregatedResourcesStream =
        Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let identity = request
            .extensions()
            .get::<Authenticated>()
            .map(|a| a.0.clone());
        let pushes = stream::Pushes::new(
            request.into_inner(),
            self.source.clone(),
            identity,
            self.stop.clone(),
        );
        Ok(Response::new(Box::pin(stream::unfold(pushes))))
    }
}

#[cfg(test)]
mod tests;
