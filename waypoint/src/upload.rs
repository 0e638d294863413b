//! The body of a request on its way up: streamed, and recorded up to a bound so that a second try or a
//! mirror can read it again. Made by `request`, read by hyper's client.

use crate::pace::Uploading;
use crate::upstream::BodyError;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::watch;
use tokio::time::Instant;

/// How much of a body is kept for a second try: enough for calls with small messages, little enough that
/// ten thousand of them fit into memory.
pub const RECORDED: usize = 64 << 10;

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl From<Piece> for Frame<Bytes> {
    fn from(piece: Piece) -> Self {
        match piece {
            Piece::Data(data) => Self::data(data),
            Piece::Trailers(trailers) => Self::trailers(trailers),
        }
    }
}

struct State {
    incoming: Incoming,
    /// The client's connection is told when the body has ended.
    client: Option<Uploading>,
    recorded: Vec<Piece>,
    /// Pieces that have come, recorded or not.
    taken: usize,
    /// Readers so far; only the newest may take more from the client.
    readers: u64,
    size: usize,
    /// Bytes that may be recorded; more than that ends the recording.
    cap: usize,
    complete: bool,
    lost: bool,
    failed: bool,
}

/// A request's body.
#[derive(Clone)]
pub struct Upload {
    state: Arc<Mutex<State>>,
    bytes: Arc<AtomicU64>,
    ended: watch::Sender<Option<Instant>>,
}

impl Upload {
    /// A body of which up to `cap` bytes are recorded. What the client's connection gave for it goes when it ends.
    pub fn new(incoming: Incoming, cap: usize, client: Option<Uploading>) -> Self {
        let complete = incoming.is_end_stream();
        let state = State {
            incoming,
            client: client.filter(|_| !complete),
            recorded: Vec::new(),
            taken: 0,
            readers: 0,
            size: 0,
            cap,
            complete,
            lost: false,
            failed: false,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            bytes: Arc::default(),
            ended: watch::Sender::new(complete.then(Instant::now)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reader from the beginning, which takes over from the one before: that of a try that was given up may still
    /// be read for a moment. It fails if what it lacks is no longer there ([`Upload::can_replay`]).
    pub fn reader(&self) -> Reader {
        let mut state = self.lock();
        state.readers += 1;
        Reader {
            upload: self.clone(),
            number: state.readers,
            at: 0,
        }
    }

    /// What is recorded of it, for when it is whole.
    pub fn recording(&self) -> Recording {
        Recording {
            state: self.state.clone(),
            ended: self.ended.subscribe(),
        }
    }

    /// Can it be read (again) from the beginning?
    pub fn can_replay(&self) -> bool {
        !self.lock().lost
    }

    /// Did the client's side fail in the middle?
    pub fn failed(&self) -> bool {
        self.lock().failed
    }

    /// Bytes that came from the client so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Waits until the client has sent all of it (or has failed).
    pub async fn ended(&self) {
        // The sender lives in `self`.
        let _ = self.ended.subscribe().wait_for(Option::is_some).await;
    }

    /// When the client had sent all of it.
    pub fn ended_at(&self) -> Option<Instant> {
        *self.ended.borrow()
    }
}

/// What was recorded of an upload, for when it is whole. It ends with those that read the upload: the client's body must
/// not stay because of a copy.
pub struct Recording {
    state: Arc<Mutex<State>>,
    ended: watch::Receiver<Option<Instant>>,
}

/// Why there is no copy.
#[derive(Debug, PartialEq, Eq)]
pub enum NoCopy {
    /// More than is recorded.
    TooLarge,
    /// The client has not sent all of it, or nobody wanted all of it.
    Unfinished,
}

impl Recording {
    /// Waits until the client has sent all of it.
    pub async fn whole(mut self) -> Result<Recorded, NoCopy> {
        let ended = self.ended.wait_for(Option::is_some).await;
        // An error where nobody reads the upload any more.
        ended.map_err(|_| NoCopy::Unfinished)?;
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.complete {
            return Err(NoCopy::Unfinished);
        }
        if state.lost {
            return Err(NoCopy::TooLarge);
        }
        Ok(Recorded(state.recorded.iter().cloned().collect()))
    }
}

/// A whole body.
pub struct Recorded(VecDeque<Piece>);

impl Body for Recorded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(piece.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let sizes = self.0.iter().map(|piece| match piece {
            Piece::Data(data) => data.len() as u64,
            Piece::Trailers(_) => 0,
        });
        SizeHint::with_exact(sizes.sum())
    }
}

/// Reads an upload from the beginning.
pub struct Reader {
    upload: Upload,
    number: u64,
    at: usize,
}

impl Body for Reader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let upload = self.upload.clone();
        let mut state = upload.lock();
        if !state.lost
            && let Some(piece) = state.recorded.get(self.at)
        {
            let piece = piece.clone();
            self.at += 1;
            return Poll::Ready(Some(Ok(piece.into())));
        }
        if self.at != state.taken {
            return Poll::Ready(Some(Err("the beginning is no longer recorded".into())));
        }
        if state.complete {
            return Poll::Ready(None);
        }
        if self.number != state.readers {
            return Poll::Ready(Some(Err("another try has taken over".into())));
        }
        if state.failed {
            return Poll::Ready(Some(Err("the client's body ended early".into())));
        }
        let frame = std::task::ready!(Pin::new(&mut state.incoming).poll_frame(cx));
        let Some(frame) = frame else {
            state.complete = true;
            state.client = None;
            upload.ended.send_replace(Some(Instant::now()));
            return Poll::Ready(None);
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                state.failed = true;
                state.client = None;
                upload.ended.send_replace(Some(Instant::now()));
                return Poll::Ready(Some(Err(error.into())));
            }
        };
        if let Some(data) = frame.data_ref() {
            upload.bytes.fetch_add(data.len() as u64, Relaxed);
        }
        let piece = match frame.into_data() {
            Ok(data) => Piece::Data(data),
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => Piece::Trailers(trailers),
                Err(_) => return Poll::Ready(None),
            },
        };
        state.record(&piece);
        state.taken += 1;
        self.at += 1;
        if state.incoming.is_end_stream() {
            state.complete = true;
            state.client = None;
            upload.ended.send_replace(Some(Instant::now()));
        }
        Poll::Ready(Some(Ok(piece.into())))
    }

    fn is_end_stream(&self) -> bool {
        let state = self.upload.lock();
        state.complete && self.at >= state.taken
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.upload.lock();
        if self.at == 0 && state.recorded.is_empty() && !state.lost {
            return state.incoming.size_hint();
        }
        if self.at == 0 && state.complete {
            return SizeHint::with_exact(state.size as u64);
        }
        SizeHint::default()
    }
}

impl State {
    fn record(&mut self, piece: &Piece) {
        if self.lost {
            return;
        }
        let more = match piece {
            Piece::Data(data) => data.len(),
            Piece::Trailers(_) => 0,
        };
        self.size += more;
        if self.size > self.cap || self.recorded.len() >= 1024 {
            self.lost = true;
            self.recorded = Vec::new();
        } else {
            self.recorded.push(piece.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::Pace;
    use http_body_util::BodyExt;
    use hyper::service::service_fn;
    use tokio::io::{AsyncWriteExt, DuplexStream};
    use tokio::sync::mpsc;

    /// A body of nine bytes as it comes from a client, and the client's end.
    async fn upload(cap: usize) -> (DuplexStream, Upload) {
        of(cap, None).await
    }

    async fn of(cap: usize, paced: Option<Uploading>) -> (DuplexStream, Upload) {
        let (mut client, server) = tokio::io::duplex(1024);
        let head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n";
        client.write_all(head).await.unwrap();
        let (sender, mut bodies) = mpsc::unbounded_channel();
        let service = service_fn(move |request: http::Request<Incoming>| {
            sender.send(request.into_body()).unwrap();
            std::future::pending::<Result<http::Response<String>, std::io::Error>>()
        });
        let io = hyper_util::rt::TokioIo::new(server);
        let serving = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
        drop(runtime::Shutdown::new().spawn_aside(async move { drop(serving.await) }));
        (
            client,
            Upload::new(bodies.recv().await.unwrap(), cap, paced),
        )
    }

    async fn next(reader: &mut Reader) -> Result<Bytes, String> {
        let frame = reader.frame().await.expect("not at its end");
        let frame = frame.map_err(|error| error.to_string())?;
        Ok(frame.into_data().expect("data"))
    }

    #[tokio::test]
    async fn a_new_reader_takes_over_from_the_one_before() {
        let (mut client, upload) = upload(RECORDED).await;
        let (mut first, mut all) = (upload.reader(), Vec::new());
        client.write_all(b"abc").await.unwrap();
        assert_eq!(next(&mut first).await.unwrap(), "abc");
        let mut second = upload.reader();
        client.write_all(b"defghi").await.unwrap();
        next(&mut first).await.unwrap_err();
        while all.len() < 9 {
            all.extend(next(&mut second).await.unwrap());
        }
        assert_eq!(all, b"abcdefghi");
        assert!(second.frame().await.is_none());
    }

    #[tokio::test]
    async fn the_clients_connection_is_told_when_the_body_has_ended() {
        let pace = Pace::begin();
        let (mut client, upload) = of(RECORDED, Some(pace.upload())).await;
        let mut reader = upload.reader();
        client.write_all(b"abcdef").await.unwrap();
        next(&mut reader).await.unwrap();
        assert!(pace.is_uploading());
        client.write_all(b"ghi").await.unwrap();
        next(&mut reader).await.unwrap();
        assert!(!pace.is_uploading());
    }

    #[tokio::test]
    async fn a_copy_is_whole_or_none_and_keeps_no_client_waiting() {
        let read = |upload: &Upload| upload.reader().collect();
        let (mut client, whole) = upload(RECORDED).await;
        client.write_all(b"abcdefghi").await.unwrap();
        let copy = whole.recording();
        read(&whole).await.unwrap();
        drop(whole);
        let copied = copy.whole().await.expect("a copy");
        assert_eq!(copied.size_hint().exact(), Some(9));
        let copied = copied.collect().await.unwrap().to_bytes();
        assert_eq!(copied, "abcdefghi");

        let (mut client, large) = upload(4).await;
        client.write_all(b"abcdefghi").await.unwrap();
        read(&large).await.unwrap();
        assert_eq!(
            large.recording().whole().await.err(),
            Some(NoCopy::TooLarge)
        );

        let (mut client, left) = upload(RECORDED).await;
        client.write_all(b"abc").await.unwrap();
        let copy = left.recording();
        drop(left);
        assert_eq!(copy.whole().await.err(), Some(NoCopy::Unfinished));
    }

    #[tokio::test]
    async fn a_reader_that_comes_too_late_fails_rather_than_leaving_bytes_out() {
        let (mut client, upload) = upload(4).await;
        let mut first = upload.reader();
        for part in ["abc", "def"] {
            client.write_all(part.as_bytes()).await.unwrap();
            assert_eq!(next(&mut first).await.unwrap(), part);
        }
        assert!(!upload.can_replay());
        client.write_all(b"ghi").await.unwrap();
        next(&mut upload.reader()).await.unwrap_err();
    }
}
