//! Answers that do not come from an upstream. Called by `request` and `forward`.

use crate::download::Download;
use crate::model::listener::{HttpChain, ServerMode};
use crate::reason::{self, Reason};
use crate::report::Record;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

/// The answer for a reason: the one join from errors to what the client reads.
pub fn answer(
    mut record: Box<Record>,
    reason: &Reason,
    config: Option<&HttpChain>,
) -> Response<Download> {
    record.local(reason);
    let body = reason.body();
    if record.grpc {
        let code = record.grpc_status.unwrap_or_else(|| reason.grpc_status());
        return grpc_answer(record, code, &body, config);
    }
    let status = reason.status();
    let mut response = Response::new(());
    *response.status_mut() = status;
    if !body.is_empty() {
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    server(config, response.headers_mut());
    record.response = response.headers().clone();
    response.map(|()| Download::local(body.into(), record))
}

/// A gRPC client reads the status from the head: 200 without a body.
fn grpc_answer(
    mut record: Box<Record>,
    code: u32,
    message: &str,
    config: Option<&HttpChain>,
) -> Response<Download> {
    record.grpc_status = Some(code);
    record.status = 200;
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert("grpc-status", HeaderValue::from(code));
    if let Ok(message) = HeaderValue::from_str(&message.replace('%', "%25")) {
        headers.insert("grpc-message", message);
    }
    server(config, headers);
    response.map(|()| Download::local(Bytes::new(), record))
}

fn server(config: Option<&HttpChain>, headers: &mut HeaderMap) {
    if let Some(config) = config.filter(|config| config.server_mode != ServerMode::PassThrough) {
        headers.insert(header::SERVER, config.server.clone());
    }
}

/// What a route says itself; in gRPC's way to who calls so.
pub(super) fn direct(
    record: Box<Record>,
    config: &HttpChain,
    status: StatusCode,
    body: &Bytes,
) -> Response<Download> {
    if record.grpc {
        let message = String::from_utf8_lossy(body);
        return grpc_answer(record, reason::grpc_status(status), &message, Some(config));
    }
    plain(record, config, status, body.clone())
}

/// An answer of ours that is no failure.
pub(super) fn plain(
    mut record: Box<Record>,
    config: &HttpChain,
    status: StatusCode,
    body: Bytes,
) -> Response<Download> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    if !body.is_empty() {
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    server(Some(config), response.headers_mut());
    record.response = response.headers().clone();
    response.map(|()| Download::local(body, record))
}
