//! Websockets: once both sides have switched, bytes are copied until either ends, or a policy forbids it.

use crate::download::{Download, Held};
use crate::filters::rbac;
use crate::proxy::Proxy;
use crate::request::Exchange;
use crate::verdict::Leave;
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::sync::Arc;

/// Answers 101 and joins both sides; the record ends with the joined stream.
pub fn join(
    proxy: &Arc<Proxy>,
    mut exchange: Exchange,
    (mut head, body): (http::response::Parts, Incoming),
    held: Held,
    mut leave: Leave,
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
    let tunnel = exchange.tunnel.clone();
    drop(proxy.shutdown.spawn(async move {
        let _held = held;
        let (Ok(client), Ok(server)) = tokio::join!(downstream, upstream) else {
            return;
        };
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        tokio::select! {
            done = tokio::io::copy_bidirectional(&mut client, &mut server) => match done {
                Ok((_, sent)) => stream.sent = sent,
                Err(error) => tracing::debug!(%error, "websocket ended"),
            },
            policy = leave.taken() => {
                let why = rbac::details(policy.as_deref());
                tracing::info!(peer = %tunnel.peer, authority = tunnel.authority_text, why, "websocket cut");
                stream.flags = "UAEX";
                stream.details = why;
            }
        }
    }));
    Response::from_parts(head, Download::local(Bytes::new(), exchange.record))
}
