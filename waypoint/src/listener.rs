//! HBONE in: accepts carriers, checks who they are, and gives each CONNECT to its chain. The chain is chosen
//! by the compiled matcher; only where it asks for the protocol are the first bytes looked at.

#[cfg(test)]
mod tests;

use crate::admission::Admitted;
use crate::download::Download;
use crate::filters::rbac;
use crate::io::{self, Io, Rewind, Spoken, sniff};
use crate::keepalive;
use crate::model::listener::{Chain, ChainKind, Protocols, Terminate};
use crate::pace::{Overdue, Pace, Paced};
use crate::proxy::Proxy;
use crate::report::Refused;
use crate::request;
use crate::tcp;
use crate::tunnel::Tunnel;
use crate::upstream::Spawner;
use crate::upstream::dial::{Certificates, check_peer};
use crate::verdict;
use hbone::headers::ConnectResponse;
use hbone::tokio::server::{self, Responder};
use http::{HeaderValue, StatusCode, header};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use identity::{Certificate, Identity};
use runtime::accept::{Advice, advice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

/// Status of a CONNECT to a place that is not here.
const NOT_HERE: u16 = 503;
/// Status of a CONNECT that a policy refuses.
const DENIED: u16 = 403;
/// Streams of one inner HTTP/2 connection.
const INNER_STREAMS: u32 = 100;

/// Accepts carriers until a drain has lingered: callers learn only by and by that we are going. Those that come during
/// the drain are told so at once, and what they brought is served.
pub async fn run(proxy: Arc<Proxy>, listener: TcpListener, certificates: Certificates) {
    let room = Arc::new(Semaphore::new(proxy.admission.limits.handshakes));
    let mut lingered = std::pin::pin!(proxy.lingered());
    loop {
        let accepted = tokio::select! {
            () = &mut lingered => return,
            accepted = next(&listener, &room) => accepted,
        };
        match accepted {
            Ok((stream, remote, permit)) => {
                let admitted = match proxy.admission.admit(remote.ip()) {
                    Ok(admitted) => admitted,
                    Err(why) => {
                        tracing::info!(%remote, %why, "HBONE connection refused");
                        continue;
                    }
                };
                let arrived = Arrived {
                    stream,
                    remote,
                    admitted,
                    permit,
                };
                let (proxy_, certificates) = (proxy.clone(), certificates.clone());
                let work = async move { carrier(proxy_, arrived, &certificates).await };
                drop(proxy.shutdown.spawn(work));
            }
            Err(error) => match advice(&error) {
                Advice::Stop => {
                    tracing::error!(%error, "the HBONE listener is broken");
                    return;
                }
                Advice::Pause(pause) => tokio::time::sleep(pause).await,
                Advice::Next => {}
            },
        }
    }
}

/// A connection before its handshake.
struct Arrived {
    stream: TcpStream,
    remote: SocketAddr,
    admitted: Admitted,
    permit: OwnedSemaphorePermit,
}

/// The next connection, when there is room for its handshake; until then it waits in the backlog.
async fn next(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await;
    let permit = permit.map_err(std::io::Error::other)?;
    let (stream, remote) = listener.accept().await?;
    Ok((stream, remote, permit))
}

/// One carrier: handshake, identity, then CONNECT after CONNECT.
async fn carrier(proxy: Arc<Proxy>, arrived: Arrived, certificates: &Certificates) {
    let Arrived {
        stream,
        remote,
        mut admitted,
        permit,
    } = arrived;
    let Some(terminate) = proxy.snapshot.load().terminate.clone() else {
        return;
    };
    let Some(certificate) = certificates() else {
        tracing::warn!(%remote, "HBONE connection refused: no certificate yet");
        return;
    };
    let _ = stream.set_nodelay(true);
    let handshake = TlsAcceptor::from(certificate.server_config()).accept(stream);
    let tls = match tokio::time::timeout(proxy.times.handshake, handshake).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::info!(%remote, %error, "HBONE handshake failed"),
        Err(_) => return tracing::info!(%remote, "HBONE handshake took too long"),
    };
    drop(permit);
    admitted.shaken();
    let peer = match check(&tls, &terminate, &certificate) {
        Ok(peer) => peer,
        Err(why) => return tracing::info!(%remote, why, "HBONE peer refused"),
    };
    let (mut incoming, driver) = server::accept(tls, server_config(&terminate));
    let lost = keepalive::lost(
        incoming.pulse(),
        terminate.keepalive.unwrap_or(keepalive::DEFAULT),
    );
    drop(proxy.shutdown.spawn(async move {
        let _admitted = admitted;
        tokio::select! {
            ended = driver => if let Err(error) = ended {
                tracing::debug!(%error, %remote, "HBONE connection ended");
            },
            () = lost => tracing::info!(%remote, "HBONE peer no longer answers"),
        }
    }));
    let mut draining = false;
    loop {
        let next = tokio::select! {
            next = incoming.next() => next,
            () = proxy.shutdown.draining(), if !draining => {
                draining = true;
                incoming.drainer().drain();
                continue;
            }
        };
        let Some((mut request, responder)) = next else {
            return;
        };
        let told = proxy.reporter.admit(&peer, request.baggage.take());
        let local = certificate.identity().clone();
        let tunnel = Tunnel::new(request, peer.clone(), local, remote).with_baggage(told);
        let tunnel = Arc::new(tunnel);
        let work = connect(proxy.clone(), tunnel, responder);
        drop(proxy.shutdown.spawn(work));
    }
}

/// What we announce and enforce on a carrier.
fn server_config(terminate: &Terminate) -> hbone::proto::Config {
    let mut config = hbone::proto::Config::server();
    config.max_concurrent_streams = terminate.max_streams;
    if let Some(most) = terminate.max_head {
        config.max_header_list = config.max_header_list.min(most);
    }
    config
}

/// Who the peer is, if it may speak to us.
fn check(
    tls: &tokio_rustls::server::TlsStream<TcpStream>,
    terminate: &Terminate,
    certificate: &Certificate,
) -> Result<Identity, String> {
    let peer = check_peer(tls.get_ref().1.peer_certificates(), &terminate.peers)
        .map_err(|error| error.to_string())?;
    if terminate.peers.is_empty() {
        // No list was sent: our own trust domain is the only one that we know.
        identity::peer::same_trust_domain(&peer, certificate.identity())
            .map_err(|error| error.to_string())?;
    }
    Ok(peer)
}

/// One CONNECT, judged by the configuration of this moment, as its connection may be old.
async fn connect(proxy: Arc<Proxy>, tunnel: Arc<Tunnel>, responder: Responder) {
    let snapshot = proxy.snapshot.load_full();
    let Some(terminate) = &snapshot.terminate else {
        return responder.refuse(&ConnectResponse::status(NOT_HERE));
    };
    let refused = |status, flags, details: &str| {
        let (peer, authority) = (&tunnel.peer, &tunnel.authority_text);
        tracing::info!(%peer, authority, status, details, "CONNECT refused");
        let refused = Refused {
            tunnel: &tunnel,
            status,
            flags,
            details,
        };
        proxy.reporter.refused(terminate, &refused);
        ConnectResponse::status(status)
    };
    if let Err(policy) = verdict::connect(&snapshot, &tunnel) {
        let details = rbac::details(policy.as_deref());
        return responder.refuse(&refused(DENIED, "", &details));
    }
    let chosen =
        snapshot
            .inbound
            .choose(&tunnel.authority_text, tunnel.ip(), tunnel.authority.port);
    let Some(protocols) = chosen.cloned() else {
        return responder.refuse(&refused(NOT_HERE, "NR", "filter_chain_not_found"));
    };
    let stream = responder.accept(&ConnectResponse::ok());
    serve(proxy, tunnel, &protocols, Box::new(stream)).await;
}

/// The bytes inside a tunnel.
pub async fn serve(proxy: Arc<Proxy>, tunnel: Arc<Tunnel>, protocols: &Protocols, io: Io) {
    let snapshot = proxy.snapshot.load_full();
    let chain =
        |name: &Option<Arc<str>>| name.as_ref().and_then(|name| snapshot.chain(name)).cloned();
    if let Some(fixed) = protocols.fixed()
        && let Some(chain) = snapshot.chain(fixed).cloned()
    {
        match &chain.kind {
            ChainKind::Tcp(_) => return tcp::serve(&proxy, tunnel, chain, io).await,
            ChainKind::Http(_) => {
                // Nothing but HTTP may come, so it may take its time.
                let Ok((spoken, io)) = sniff(io, proxy.times.head, io::version).await else {
                    return;
                };
                if spoken != Spoken::Other {
                    http(proxy, tunnel, chain, io, spoken).await;
                }
                return;
            }
        }
    }
    let patience = if protocols.other.is_some() {
        proxy.times.sniff
    } else {
        proxy.times.head
    };
    let Ok((spoken, io)) = sniff(io, patience, io::spoken).await else {
        return;
    };
    let chosen = match spoken {
        Spoken::Http1 => chain(&protocols.http1).or_else(|| chain(&protocols.other)),
        Spoken::Http2 => chain(&protocols.http2).or_else(|| chain(&protocols.other)),
        Spoken::Other => chain(&protocols.other),
    };
    let Some(chain) = chosen else { return };
    match (&chain.kind, spoken) {
        (ChainKind::Tcp(_), _) => tcp::serve(&proxy, tunnel, chain, Box::new(io)).await,
        (ChainKind::Http(_), Spoken::Other) => {}
        (ChainKind::Http(_), _) => http(proxy, tunnel, chain, io, spoken).await,
    }
}

async fn http(
    proxy: Arc<Proxy>,
    tunnel: Arc<Tunnel>,
    chain: Arc<Chain>,
    io: Rewind,
    spoken: Spoken,
) {
    let ChainKind::Http(config) = &chain.kind else {
        return;
    };
    let (idle, max_head) = (
        config.idle_timeout.unwrap_or(proxy.times.idle),
        config.max_head,
    );
    let pace = Pace::begin();
    let service = {
        let (proxy, chain, pace) = (proxy.clone(), chain.clone(), pace.clone());
        service_fn(move |request| {
            let busy = pace.request();
            let request = (request, pace.upload());
            let work = request::serve(proxy.clone(), tunnel.clone(), chain.clone(), request);
            let shutdown = proxy.shutdown.clone();
            async move {
                let mut response = Box::pin(work).await;
                if spoken == Spoken::Http1 && shutdown.is_draining() {
                    farewell(&mut response);
                }
                Ok::<_, std::convert::Infallible>(response.map(|body| body.of(busy)))
            }
        })
    };
    let ended = if spoken == Spoken::Http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(Spawner(proxy.shutdown.clone()));
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(INNER_STREAMS);
        builder.max_header_list_size(u32::try_from(max_head).unwrap_or(u32::MAX));
        let connection = builder.serve_connection(TokioIo::new(io), service);
        let parting = proxy.shutdown.draining();
        let times = (idle, parting);
        drive(&proxy, &pace, times, connection, |it| {
            it.graceful_shutdown()
        })
        .await
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        // Its own timer would run from the last answer on, and let an idle connection go with a late head.
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_buf_size(max_head.max(8 << 10))
            // A client that has closed its side has left, as with Envoy: only so does hyper read on while an answer is
            // awaited, and notice. Otherwise each request that was given up would be carried on until its endpoint answers.
            .half_close(false);
        let pace_ = pace.clone();
        let io = TokioIo::new(Paced { io, pace: pace_ });
        let connection = builder.serve_connection(io, service).with_upgrades();
        // Without a GOAWAY an idle connection is closed under the next request: it is said with an answer instead.
        let parting = proxy.lingered();
        let times = (idle, parting);
        drive(&proxy, &pace, times, connection, |it| {
            it.graceful_shutdown()
        })
        .await
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "inner connection ended");
    }
}

/// Tells an HTTP/1 client that this is the last answer on its connection.
fn farewell(response: &mut http::Response<Download>) {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
}

/// Runs an inner connection to its end: its own, at `parting`, or that of our patience.
async fn drive<C: Future<Output = hyper::Result<()>>>(
    proxy: &Proxy,
    pace: &Pace,
    (idle, parting): (Duration, impl Future<Output = ()>),
    connection: C,
    finish: fn(Pin<&mut C>),
) -> hyper::Result<()> {
    let mut connection = std::pin::pin!(connection);
    let overdue = tokio::select! {
        ended = connection.as_mut() => return ended,
        () = parting => None,
        overdue = pace.overdue(idle, proxy.times.head) => Some(overdue),
    };
    match overdue {
        None => {
            finish(connection.as_mut());
            connection.await
        }
        // No request is under way, so that there is little left to say; but one may have crossed the farewell.
        Some(Overdue::Idle) => {
            finish(connection.as_mut());
            loop {
                let farewell = tokio::time::timeout(proxy.times.handshake, connection.as_mut());
                match farewell.await {
                    Ok(ended) => return ended,
                    Err(_) if pace.is_active() => {}
                    Err(_) => return Ok(()),
                }
            }
        }
        Some(Overdue::Head) => {
            tracing::debug!("a request's head took too long");
            Ok(())
        }
    }
}

/// The facts of a CONNECT, for tests of other modules.
#[cfg(test)]
pub fn tunnel_of(authority: &str, peer: &Identity, local: &Identity) -> Arc<Tunnel> {
    let request =
        hbone::headers::ConnectRequest::new(authority.parse().expect("a valid authority"));
    Arc::new(Tunnel::new(
        request,
        peer.clone(),
        local.clone(),
        ([10, 0, 0, 9], 40_000).into(),
    ))
}
