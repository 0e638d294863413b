//! The caller: one HBONE tunnel per request to the waypoint, as a ztunnel opens it, HTTP inside. Used by `main` and
//! `world.rs`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use hbone::headers::ConnectRequest;
use hbone::proto::Config;
use hbone::tokio::{Error, Stream, client};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::{Certificate, Identity, handshake};
use serde_json::Value;
use testkit::mesh::LIMIT;
use testkit::topology::Namespace;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

const HANDSHAKE: Duration = Duration::from_secs(10);

/// Whose certificate a request comes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Service account `client` of namespace `app`.
    App,
    /// The same of namespace `other`.
    Other,
    /// The same of `app` in another trust domain, certified by the same root.
    Foreign,
}

/// How a request is spoken inside the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    Http10,
    Http11,
    Http2,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Authority of the CONNECT.
    pub to: &'static str,
    pub method: &'static str,
    pub path: &'static str,
    pub headers: &'static [(&'static str, &'static str)],
    pub body: &'static [u8],
    pub who: Who,
    pub spoken: Spoken,
}

/// What came back.
#[derive(Debug, Default)]
pub struct Answer {
    /// Status and what it came with; or, where no answer came, how it ended.
    pub outcome: String,
    pub reason: String,
    pub headers: HeaderMap,
    pub body: String,
    /// What the application says it saw; null when the answer is not an application's.
    pub up: Value,
    pub took: Duration,
}

/// The caller's side of the path.
pub struct Client<'a> {
    pub namespace: &'a Namespace,
    pub waypoint: SocketAddr,
    pub identity: Identity,
    /// Certificates in the order of [`Who`].
    pub certificates: [Arc<Certificate>; 3],
}

impl Client<'_> {
    /// Sends one request through a tunnel of its own.
    ///
    /// # Errors
    /// When the waypoint cannot be reached at all, or does not answer in time.
    pub async fn send(&self, ask: &Ask) -> Result<Answer> {
        let begin = Instant::now();
        let mut answer = tokio::time::timeout(LIMIT, self.try_send(ask))
            .await
            .with_context(|| format!("no end of {ask:?}"))??;
        answer.took = begin.elapsed();
        Ok(answer)
    }

    /// A tunnel to `authority`; in the inner error how it was refused.
    ///
    /// # Errors
    /// When the waypoint cannot be reached at all.
    pub async fn tunnel(&self, who: Who, authority: &str) -> Result<Result<Stream, String>> {
        let stream = self
            .namespace
            .run(|| std::net::TcpStream::connect(self.waypoint))??;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let (stream, certificate) = (
            TcpStream::from_std(stream)?,
            &self.certificates[who as usize],
        );
        let expected = std::slice::from_ref(&self.identity);
        let Ok((stream, _)) = handshake::connect(stream, certificate, expected, HANDSHAKE).await
        else {
            return Ok(Err("closed".into()));
        };
        let (handle, driver) = client::connect(stream, Config::client());
        spawn_local(driver);
        let opened = handle.open(&ConnectRequest::new(authority.parse()?)).await;
        Ok(match opened {
            Ok((stream, _)) => Ok(stream),
            Err(Error::Refused(response)) => Err(format!("CONNECT {}", response.status)),
            Err(_) => Err("closed".into()),
        })
    }

    async fn try_send(&self, ask: &Ask) -> Result<Answer> {
        let stream = match self.tunnel(ask.who, ask.to).await? {
            Ok(stream) => stream,
            Err(outcome) => return Ok(ended(&outcome)),
        };
        let response = match ask.spoken {
            Spoken::Http10 => return old(stream, ask).await,
            Spoken::Http11 => http1(stream, ask.request(false)?).await,
            Spoken::Http2 => http2(stream, ask.request(true)?).await,
        };
        match response {
            Ok(response) => read(response).await,
            Err(_) => Ok(ended("closed")),
        }
    }

    /// The answers to `count` requests of `ask`, sent one after the other on one tunnel.
    ///
    /// # Errors
    /// When one of them is not answered.
    pub async fn answers(&self, ask: &Ask, count: usize) -> Result<Vec<Answer>> {
        let stream = self.tunnel(ask.who, ask.to).await?;
        let stream = stream.map_err(anyhow::Error::msg)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        spawn_local(connection);
        let mut answers = Vec::with_capacity(count);
        for _ in 0..count {
            sender.ready().await?;
            answers.push(read(sender.send_request(ask.request(false)?).await?).await?);
        }
        Ok(answers)
    }
}

impl Ask {
    fn request(&self, absolute: bool) -> Result<Request<Full<Bytes>>> {
        let host = self.headers.iter().find(|(name, _)| *name == "host");
        let host = host.map_or("svc", |(_, host)| host);
        let uri = if absolute {
            format!("http://{host}{}", self.path)
        } else {
            self.path.to_owned()
        };
        let mut request = Request::builder().method(self.method).uri(uri);
        if !absolute {
            request = request.header("host", host);
        }
        for (name, value) in self.headers.iter().filter(|(name, _)| *name != "host") {
            request = request.header(*name, *value);
        }
        Ok(request.body(Full::new(Bytes::from_static(self.body)))?)
    }
}

fn ended(outcome: &str) -> Answer {
    Answer {
        outcome: outcome.to_owned(),
        ..Answer::default()
    }
}

async fn http1(stream: Stream, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    spawn_local(connection);
    sender.send_request(request).await
}

async fn http2(stream: Stream, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    spawn_local(connection);
    sender.send_request(request).await
}

/// HTTP/1.0, which hyper does not speak as a client.
async fn old(mut stream: Stream, ask: &Ask) -> Result<Answer> {
    let text = format!("{} {} HTTP/1.0\r\nhost: svc\r\n\r\n", ask.method, ask.path);
    stream.write_all(text.as_bytes()).await?;
    let mut bytes = Vec::new();
    let _reset_or_end = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8_lossy(&bytes);
    let status = text.split(' ').nth(1).unwrap_or("closed");
    Ok(ended(status))
}

async fn read(response: Response<Incoming>) -> Result<Answer> {
    let (head, body) = response.into_parts();
    let reason = match head.extensions.get::<hyper::ext::ReasonPhrase>() {
        Some(reason) => String::from_utf8_lossy(reason.as_bytes()).into_owned(),
        None => head
            .status
            .canonical_reason()
            .unwrap_or_default()
            .to_owned(),
    };
    let collected = body.collect().await?;
    let mut headers = head.headers;
    if let Some(trailers) = collected.trailers() {
        headers.extend(trailers.clone());
    }
    let body = String::from_utf8_lossy(&collected.to_bytes()).into_owned();
    Ok(Answer {
        outcome: head.status.as_u16().to_string(),
        reason,
        headers,
        up: serde_json::from_str(&body).unwrap_or_default(),
        body,
        took: Duration::ZERO,
    })
}
