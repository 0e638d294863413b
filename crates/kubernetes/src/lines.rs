//! A watch on the wire: an answer whose lines are events. Called by `follow`.
//!
//! (kube's own reader does not look at the status of the answer, so that it takes a refusal that is no JSON for a broken
//! line; the API server refuses a path that it does not know in plain text.)

use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use http_body_util::{BodyExt as _, Limited};
use kube::{Client, Error, api::WatchEvent, client::Body, core::Status};

use crate::raw::Raw;

/// Bytes of a refusal that are read.
const REFUSAL: usize = 64 << 10;

/// The events of a watch; ends when the server ends it.
pub(crate) type Events = BoxStream<'static, Result<WatchEvent<Raw>, Error>>;

/// Sends the request, and takes the answer's head.
///
/// # Errors
/// When the server cannot be reached, or refuses.
pub(crate) async fn begin(
    client: &Client,
    request: http::Request<Vec<u8>>,
) -> Result<Events, Error> {
    let answer = client.send(request.map(Body::from)).await?;
    let (head, body) = answer.into_parts();
    if head.status.is_success() {
        return Ok(events(body).boxed());
    }
    let text = Limited::new(body, REFUSAL).collect().await;
    let text = text.map(|body| body.to_bytes()).unwrap_or_default();
    let status = serde_json::from_slice(&text).unwrap_or_else(|_| Status {
        message: String::from_utf8_lossy(&text).trim().to_owned(),
        ..Status::default()
    });
    Err(Error::Api(Box::new(Status {
        code: head.status.as_u16(),
        ..status
    })))
}

fn events(body: Body) -> impl Stream<Item = Result<WatchEvent<Raw>, Error>> {
    futures_util::stream::unfold((body, Vec::new()), |(mut body, mut read)| async move {
        loop {
            if let Some(end) = read.iter().position(|byte| *byte == b'\n') {
                let rest = read.split_off(end + 1);
                let line = std::mem::replace(&mut read, rest);
                if line.trim_ascii().is_empty() {
                    continue;
                }
                let event = serde_json::from_slice(&line).map_err(Error::SerdeError);
                return Some((event, (body, read)));
            }
            match body.frame().await {
                // A line that was begun is repeated by the next watch.
                None => return None,
                Some(Ok(frame)) => read.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => {
                    let error = Error::ReadEvents(std::io::Error::other(error));
                    return Some((Err(error), (Body::empty(), Vec::new())));
                }
            }
        }
    })
}
