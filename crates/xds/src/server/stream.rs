//! One subscriber's stream: reads its requests, follows its view, and makes the next push only when the
//! transport takes one (so a slow subscriber holds up nobody and queues nothing).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use mesh::identity::Identity;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{Client, Event, Nack, Session, Source, View};

/// The state of one stream.
pub(super) struct Pushes<S: Source> {
    requests: Streaming<DeltaDiscoveryRequest>,
    source: Arc<S>,
    identity: Option<Identity>,
    stop: CancellationToken,
    session: Session,
    /// Set by the first request.
    subscriber: Option<Subscriber>,
}

impl<S: Source> Drop for Pushes<S> {
    fn drop(&mut self) {
        if let Some(subscriber) = &self.subscriber {
            self.source.left(&subscriber.client);
        }
    }
}

struct Subscriber {
    client: Client,
    views: watch::Receiver<Arc<View>>,
}

impl<S: Source> Pushes<S> {
    pub(super) fn new(
        requests: Streaming<DeltaDiscoveryRequest>,
        source: Arc<S>,
        identity: Option<Identity>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            requests,
            source,
            identity,
            stop,
            session: Session::new(),
            subscriber: None,
        }
    }

    /// The next push, an error that ends the stream, or `None` when the subscriber has left.
    async fn next(&mut self) -> Option<Result<DeltaDiscoveryResponse, Status>> {
        loop {
            // Nothing more is pushed once the control plane stops.
            if self.stop.is_cancelled() {
                return Some(Err(Status::unavailable("the control plane is stopping")));
            }
            if let Some(subscriber) = &mut self.subscriber {
                let view = subscriber.views.borrow_and_update().clone();
                if let Some(push) = self.session.push(&view) {
                    return Some(Ok(push));
                }
            }
            let changed = async {
                match &mut self.subscriber {
                    Some(subscriber) => subscriber.views.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                open = changed => if !open {
                    return Some(Err(Status::unavailable("the source of configuration has ended")));
                },
                request = self.requests.message() => match request {
                    Ok(Some(request)) => {
                        if let Err(status) = self.take(request) {
                            return Some(Err(status));
                        }
                    }
                    Ok(None) => return None,
                    Err(status) => {
                        tracing::debug!("subscriber lost: {}", proto::explain(&status));
                        return None;
                    }
                },
            }
        }
    }

    fn take(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        if self.subscriber.is_none() {
            self.subscriber = Some(self.introduce(&request)?);
        }
        let within = self.session.admits(&request);
        within.map_err(Status::resource_exhausted)?;
        let event = self.session.request(request);
        let Some(Subscriber { client, .. }) = &self.subscriber else {
            return Ok(());
        };
        match event {
            Event::Refused(nack) => {
                let Nack { type_url, message } = &nack;
                tracing::warn!(node = client.node.id, type_url, "push refused: {message}");
                self.source.refused(client, nack);
            }
            Event::Mended { type_url } => self.source.mended(client, &type_url),
            Event::Subscribed | Event::Accepted | Event::Stale => {}
        }
        Ok(())
    }

    /// The first request says who subscribes.
    fn introduce(&self, request: &DeltaDiscoveryRequest) -> Result<Subscriber, Status> {
        static STREAMS: AtomicU64 = AtomicU64::new(1);
        let node = request.node.clone();
        let node = node.ok_or_else(|| Status::invalid_argument("the first request has no node"))?;
        let stream = STREAMS.fetch_add(1, Ordering::Relaxed);
        let client = Client {
            node,
            identity: self.identity.clone(),
            stream,
        };
        let views = self.source.subscribe(&client)?;
        Ok(Subscriber { client, views })
    }
}

type Item = Result<DeltaDiscoveryResponse, Status>;
type Step<S> = Pin<Box<dyn Future<Output = Option<(Item, Pushes<S>)>> + Send>>;

/// Turns [`Pushes::next`] into a stream; it ends with `None` or after an error.
pub(super) fn unfold<S: Source>(pushes: Pushes<S>) -> impl Stream<Item = Item> + Send {
    Unfold {
        step: Some(step(pushes)),
    }
}

fn step<S: Source>(mut pushes: Pushes<S>) -> Step<S> {
    Box::pin(async move { pushes.next().await.map(|item| (item, pushes)) })
}

struct Unfold<S: Source> {
    step: Option<Step<S>>,
}

impl<S: Source> Stream for Unfold<S> {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let Some(running) = &mut self.step else {
            return Poll::Ready(None);
        };
        let (item, next) = match ready!(running.as_mut().poll(cx)) {
            Some((item, pushes)) => {
                let next = item.is_ok().then(|| step(pushes));
                (Some(item), next)
            }
            None => (None, None),
        };
        self.step = next;
        Poll::Ready(item)
    }
}
