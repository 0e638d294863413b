//! Copies of requests: sent when the whole request is known, at most so many at a time, answers read and forgotten. One
//! that is not sent is counted with its reason.

use super::head::request_head;
use super::{original_endpoint, speaks_http2};
use crate::cluster::{Guard, Live};
use crate::model::cluster::Discovery;
use crate::model::route::{Forward, Mirror};
use crate::proxy::Proxy;
use crate::request::Exchange;
use crate::upload::{NoCopy, Recording};
use crate::upstream::{Key, UpBody};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Uri};
use http_body_util::BodyExt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Copies on their way to one cluster; more are left out. They count by themselves, so that neither real requests nor
/// copies push the other out.
const MOST: u32 = 128;
/// How long a copy may take once it is whole.
const LIMIT: Duration = Duration::from_secs(15);

/// Why a mirror did not get its copy.
#[derive(Debug, Clone, Copy)]
enum Lost {
    /// There is no such cluster.
    NoCluster,
    /// The head cannot be written in the mirror's protocol.
    BadHead,
    /// The body is larger than what is recorded of one.
    TooLarge,
    /// The client did not send all of the body, or had its answer before.
    Unfinished,
    /// As many are on their way already as may be.
    Overflow,
    /// No endpoint, no connection, or no answer.
    Failed,
    /// It took too long.
    Timeout,
}

impl Lost {
    fn text(self) -> &'static str {
        match self {
            Self::NoCluster => "no_cluster",
            Self::BadHead => "bad_head",
            Self::TooLarge => "too_large",
            Self::Unfinished => "unfinished",
            Self::Overflow => "overflow",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
        }
    }

    fn tell(self, proxy: &Proxy, cluster: &str, service: &str) {
        let reason = self.text();
        tracing::debug!(cluster, reason, "a mirror did not get its copy");
        let known = if service.is_empty() {
            "unknown"
        } else {
            service
        };
        let labels = vec![
            ("destination_service", known.to_owned()),
            ("reason", reason.to_owned()),
        ];
        let lost = &proxy.reporter.metrics.mirrors_lost;
        lost.get_or_create(&labels).inc();
    }
}

impl From<NoCopy> for Lost {
    fn from(why: NoCopy) -> Self {
        match why {
            NoCopy::TooLarge => Self::TooLarge,
            NoCopy::Unfinished => Self::Unfinished,
        }
    }
}

/// Starts the copies that the route asks for.
pub fn start(proxy: &Arc<Proxy>, exchange: &Exchange, forward: &Forward) {
    for mirror in &forward.mirrors {
        if exchange.upgrade.is_some() || !mirror.share.hit(&mut rand::rng()) {
            continue;
        }
        let Some(live) = exchange.snapshot.cluster(&mirror.cluster).cloned() else {
            Lost::NoCluster.tell(proxy, &mirror.cluster, "");
            continue;
        };
        let Some(copy) = Copied::of(exchange, mirror, &live) else {
            Lost::BadHead.tell(proxy, &mirror.cluster, &live.config.service.host);
            continue;
        };
        let proxy_ = proxy.clone();
        drop(proxy.shutdown.spawn(async move {
            if let Err(lost) = copy.run(&proxy_, &live).await {
                lost.tell(&proxy_, &live.config.name, &live.config.service.host);
            }
        }));
    }
}

/// A request to be sent once more.
struct Copied {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Recording,
    http2: bool,
    original: Option<SocketAddr>,
}

impl Copied {
    fn of(exchange: &Exchange, mirror: &Mirror, live: &Live) -> Option<Self> {
        let http2 = speaks_http2(live, exchange);
        let (method, uri, mut headers) = request_head(exchange, http2)?;
        if mirror.shadow_suffix
            && !http2
            && let Ok(host) = HeaderValue::from_str(&shadow(&exchange.authority))
        {
            headers.insert(header::HOST, host);
        }
        Some(Self {
            method,
            uri,
            headers,
            body: exchange.upload.recording(),
            http2,
            original: exchange.tunnel.destination(),
        })
    }

    /// Sends it when it is whole.
    async fn run(self, proxy: &Proxy, live: &Live) -> Result<(), Lost> {
        let (http2, original) = (self.http2, self.original);
        let mut request = Request::new(UpBody::new(self.body.whole().await?));
        let limit = live.config.limits.requests.min(MOST);
        let _counted = Guard::within(&live.counters, |counters| &counters.mirrors, limit)
            .ok_or(Lost::Overflow)?;
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        let sent = send(proxy, live, (http2, original), request);
        match tokio::time::timeout(LIMIT, sent).await {
            Ok(sent) => sent.ok_or(Lost::Failed),
            Err(_) => Err(Lost::Timeout),
        }
    }
}

async fn send(
    proxy: &Proxy,
    live: &Live,
    (http2, original): (bool, Option<SocketAddr>),
    request: Request<UpBody>,
) -> Option<()> {
    let target = match live.config.discovery {
        Discovery::Passthrough => original_endpoint().target,
        _ => {
            let host = live.pick(proxy.now(), &mut rand::rng(), &[], 1)?;
            host.endpoint.target.clone()
        }
    };
    let key = Key {
        cluster: live.config.name.clone(),
        target,
        original,
        http2,
    };
    let connection = proxy.upstream.connection(live, key).await.ok()?;
    let sent = connection.send(&proxy.upstream, live, request).await;
    let (response, connection) = sent.ok()?;
    let mut body = response.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    connection.keep();
    Some(())
}

/// `-shadow` behind the name, before the port.
fn shadow(authority: &str) -> String {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{name}-shadow:{port}")
        }
        _ => format!("{authority}-shadow"),
    }
}
