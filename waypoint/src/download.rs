//! The body of an answer on its way down: counts, watches deadlines, and ends the request's record.

use crate::cluster::{Counters, Guard, HostState};
use crate::filters::rbac;
use crate::forward::Late;
use crate::pace::Busy;
use crate::report::Record;
use crate::upstream::{BodyError, Return};
use crate::verdict::Leave;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

enum Source {
    /// From an endpoint.
    Upstream(Incoming),
    /// Ours.
    Local(Full<Bytes>),
}

/// What is counted until the answer has ended.
#[derive(Default)]
pub struct Held {
    /// Gives the connection back.
    pub connection: Option<Return>,
    /// The endpoint is busy.
    pub host: Option<Guard<HostState>>,
    /// The request counts against the cluster's limits.
    pub request: Option<Guard<Counters>>,
    /// The retry too.
    pub retry: Option<Guard<Counters>>,
}

/// An answer's body.
pub struct Download {
    source: Source,
    record: Option<Box<Record>>,
    held: Held,
    /// There while bytes of an endpoint may still come.
    leave: Option<Leave>,
    busy: Option<Busy>,
    deadline: Option<Pin<Box<dyn Future<Output = Late> + Send>>>,
    idle: Option<(Duration, Pin<Box<Sleep>>)>,
    ended: bool,
}

impl Download {
    /// A body that we made.
    pub fn local(body: Bytes, record: Box<Record>) -> Self {
        let (source, held) = (Source::Local(Full::new(body)), Held::default());
        Self {
            source,
            record: Some(record),
            held,
            leave: None,
            busy: None,
            deadline: None,
            idle: None,
            ended: false,
        }
    }

    /// A body from an endpoint, which ends when the leave to send it is taken.
    pub fn upstream(body: Incoming, record: Box<Record>, held: Held, leave: Leave) -> Self {
        let source = Source::Upstream(body);
        Self {
            source,
            record: Some(record),
            held,
            leave: Some(leave),
            busy: None,
            deadline: None,
            idle: None,
            ended: false,
        }
    }

    /// The whole answer must have come when this ends.
    #[must_use]
    pub fn until(mut self, up: Option<impl Future<Output = Late> + Send + 'static>) -> Self {
        self.deadline = up.map(|up| Box::pin(up) as _);
        self
    }

    /// The client's connection is in use until the answer has ended.
    #[must_use]
    pub fn of(mut self, request: Busy) -> Self {
        self.busy = Some(request);
        self
    }

    /// Something must come at least this often.
    #[must_use]
    pub fn idle(mut self, limit: Option<Duration>) -> Self {
        self.idle = limit.map(|limit| (limit, Box::pin(tokio::time::sleep(limit))));
        self
    }

    fn finish(&mut self, flags: Option<(&'static str, &str)>) {
        self.ended = true;
        if let (Some(record), Some((flags, details))) = (&mut self.record, flags) {
            record.flags = flags;
            record.details = details.into();
        } else if let Some(connection) = self.held.connection.take() {
            connection.keep();
        }
        self.held = Held::default();
        self.record = None;
        self.deadline = None;
        self.leave = None;
        self.busy = None;
    }

    /// Ends the answer for good: a policy forbids it now.
    fn cut(&mut self, policy: Option<&str>) -> BodyError {
        let why = rbac::details(policy);
        self.finish(Some(("UAEX", &why)));
        "a policy forbids it now".into()
    }

    fn note_trailers(&mut self, trailers: &HeaderMap) {
        if let Some(record) = &mut self.record {
            record.grpc_status = grpc_status(trailers).or(record.grpc_status);
        }
    }
}

/// `grpc-status` of a head or of trailers.
pub fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

impl Body for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(Err(policy)) = self.leave.as_mut().map(Leave::ask) {
            return Poll::Ready(Some(Err(self.cut(policy.as_deref()))));
        }
        let late = self.deadline.as_mut().map(|up| up.as_mut().poll(cx));
        if let Some(Poll::Ready(late)) = late {
            let details = match late {
                Late::Route => "response_timeout",
                Late::Try => "upstream_per_try_timeout",
            };
            self.finish(Some(("UT", details)));
            return Poll::Ready(Some(Err("upstream request timeout".into())));
        }
        let poll = match &mut self.source {
            Source::Upstream(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Source::Local(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
        };
        match poll {
            Poll::Pending => {
                let idle = self
                    .idle
                    .as_mut()
                    .is_some_and(|(_, sleep)| sleep.as_mut().poll(cx).is_ready());
                if idle {
                    self.finish(Some(("SI", "stream_idle_timeout")));
                    return Poll::Ready(Some(Err("stream timeout".into())));
                }
                let taken = self.leave.as_mut().map(|leave| leave.poll_taken(cx));
                if let Some(Poll::Ready(policy)) = taken {
                    return Poll::Ready(Some(Err(self.cut(policy.as_deref()))));
                }
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some((limit, sleep)) = &mut self.idle {
                    let next = Instant::now() + *limit;
                    sleep.as_mut().reset(next);
                }
                if let (Some(data), Some(record)) = (frame.data_ref(), &mut self.record) {
                    record.sent += data.len() as u64;
                }
                if let Some(trailers) = frame.trailers_ref() {
                    let trailers = trailers.clone();
                    self.note_trailers(&trailers);
                }
                if self.source_ended() {
                    self.finish(None);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.finish(Some((
                    "UC",
                    "upstream_reset_after_response_started{connection_termination}",
                )));
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                self.finish(None);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.source_ended()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Upstream(body) => body.size_hint(),
            Source::Local(body) => body.size_hint(),
        }
    }
}

impl Download {
    fn source_ended(&self) -> bool {
        match &self.source {
            Source::Upstream(body) => body.is_end_stream(),
            Source::Local(body) => body.is_end_stream(),
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // An empty body is never polled.
        let left = (!self.source_ended()).then_some(("DC", "downstream_remote_disconnect"));
        self.finish(left);
    }
}
