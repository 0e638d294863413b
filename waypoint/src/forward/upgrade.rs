//! Websockets: once both sides have switched, bytes are copied until either ends.

use crate::download::{Download, Held};
use crate::proxy::Proxy;
use crate::request::Exchange;
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::sync::Arc;

/// Answers 101 and joins both sides; the record ends with the joined stream.
pub fn join(
    proxy: &Arc<Proxy>,
    mut exchange: Exchange,
    mut head: http::response::Parts,
    body: Incoming,
    held: Held,
) -> Response<Download> {
    head.headers
        .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    let upstream = hyper::upgrade::on(Response::from_parts(head.clone(), body));
    let record = crate::report::Record::begin(
        proxy.reporter.clone(),
        exchange.chain.clone(),
        exchange.tunnel.clone(),
        &exchange.head,
    );
    // The head's own record is that of the stream; the answer's body is empty and needs none of its own.
    let mut stream = std::mem::replace(&mut exchange.record, Box::new(record));
    let Some(downstream) = exchange.upgrade.take() else {
        return Response::from_parts(head, Download::local(Bytes::new(), stream));
    };
    exchange.record.silence();
    drop(proxy.shutdown.spawn(async move {
        let _held = held;
        let (Ok(client), Ok(server)) = tokio::join!(downstream, upstream) else {
            return;
        };
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        match tokio::io::copy_bidirectional(&mut client, &mut server).await {
            Ok((_, sent)) => stream.sent = sent,
            Err(error) => tracing::debug!(%error, "websocket ended"),
        }
    }));
    Response::from_parts(head, Download::local(Bytes::new(), exchange.record))
}
