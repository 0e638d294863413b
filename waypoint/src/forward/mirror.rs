//! Copies of requests: sent when the whole request is known, at most so many at a time, answers not read.

use super::head::request_head;
use super::{original_endpoint, speaks_http2};
use crate::cluster::{Guard, Live};
use crate::model::cluster::Discovery;
use crate::model::route::Forward;
use crate::proxy::Proxy;
use crate::request::Exchange;
use crate::upstream::{Key, UpBody};
use http::Request;
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;

/// Copies in flight per cluster; more are left out.
const MOST: u32 = 128;
/// How long a copy may take.
const LIMIT: Duration = Duration::from_secs(15);

/// Starts the copies that the route asks for.
pub fn start(proxy: &Arc<Proxy>, exchange: &Exchange, forward: &Forward) {
    for mirror in &forward.mirrors {
        if exchange.upgrade.is_some() || !mirror.share.hit(&mut rand::rng()) {
            continue;
        }
        let Some(live) = exchange.snapshot.cluster(&mirror.cluster).cloned() else {
            continue;
        };
        let limit = live.config.limits.requests.min(MOST);
        let Some(counted) = Guard::within(&live.counters, |counters| &counters.requests, limit)
        else {
            continue;
        };
        let http2 = speaks_http2(&live, exchange);
        let Some((method, uri, mut headers)) = request_head(exchange, http2) else {
            continue;
        };
        if mirror.shadow_suffix
            && !http2
            && let Ok(host) = http::HeaderValue::from_str(&shadow(&exchange.authority))
        {
            headers.insert(http::header::HOST, host);
        }
        let (upload, proxy_, original) = (
            exchange.upload.clone(),
            proxy.clone(),
            exchange.tunnel.destination(),
        );
        let copy = async move {
            let _counted = counted;
            upload.ended().await;
            if !upload.can_replay() || upload.failed() {
                return;
            }
            let mut request = Request::new(UpBody::new(upload.reader()));
            *request.method_mut() = method;
            *request.uri_mut() = uri;
            *request.headers_mut() = headers;
            send(&proxy_, &live, http2, original, request).await;
        };
        drop(proxy.shutdown.spawn(async move {
            if tokio::time::timeout(LIMIT, copy).await.is_err() {
                tracing::debug!("a mirrored request took too long");
            }
        }));
    }
}

async fn send(
    proxy: &Proxy,
    live: &Live,
    http2: bool,
    original: Option<std::net::SocketAddr>,
    request: Request<UpBody>,
) {
    let target = match live.config.discovery {
        Discovery::Passthrough => Some(original_endpoint().target),
        _ => live
            .pick(proxy.now(), &mut rand::rng(), &[], 1)
            .map(|host| host.endpoint.target.clone()),
    };
    let Some(target) = target else { return };
    let key = Key {
        cluster: live.config.name.clone(),
        target,
        original,
        http2,
    };
    let Ok(connection) = proxy.upstream.connection(live, key).await else {
        return;
    };
    if let Ok((response, connection)) = connection.send(&proxy.upstream, live, request).await {
        let mut body = response.into_body();
        while let Some(Ok(_)) = body.frame().await {}
        connection.keep();
    }
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
