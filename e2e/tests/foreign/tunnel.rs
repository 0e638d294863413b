//! `hbone::tokio` against Envoy in both roles, over mTLS, inside one namespace.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hbone::headers::{Authority, ConnectRequest, ConnectResponse};
use hbone::proto::Config;
use hbone::tokio::pool::{Limits, Pool};
use hbone::tokio::{DriveError, Stream, client, server};
use identity::{Certificate, Identity, handshake};
use testkit::ca::TestCa;
use testkit::mesh::LIMIT;
use testkit::topology::{self, Namespace, Topology};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use crate::envoy::{Envoy, LIFE, ORIGINATOR, TERMINATOR};
use crate::ledger::Ledger;
use crate::traffic::{self, Order};
use e2e::cases::{self, Outcome};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// What the Envoy that opens tunnels asks for.
const AUTHORITY: &str = "far.example:80";

/// Runs `work` on a runtime of its own, on this thread.
///
/// # Errors
/// Those of `work`.
pub fn local<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, work)
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The two ends' identities.
struct Ends {
    ca: TestCa,
    near: Identity,
    far: Identity,
}

impl Ends {
    fn new() -> Self {
        let ca = TestCa::new("cluster.local");
        let (near, far) = (ca.identity("app", "near"), ca.identity("app", "far"));
        Self { ca, near, far }
    }
}

/// Opens tunnels to Envoy over pooled connections.
struct Dialler {
    certificate: Arc<Certificate>,
    peer: Identity,
    pool: Pool<(), anyhow::Error>,
    drivers: RefCell<Vec<JoinHandle<Result<(), DriveError>>>>,
}

impl Dialler {
    async fn dial(&self) -> Result<client::Handle> {
        let stream = TcpStream::connect(loopback(15008)).await?;
        stream.set_nodelay(true)?;
        let expected = std::slice::from_ref(&self.peer);
        let (stream, _) =
            handshake::connect(stream, &self.certificate, expected, HANDSHAKE).await?;
        let (handle, driver) = client::connect(stream, Config::client());
        self.drivers.borrow_mut().push(spawn_local(driver));
        Ok(handle)
    }

    async fn open(self: Rc<Self>, authority: SocketAddr) -> Result<Stream> {
        let permit = self.pool.checkout(&(), Instant::now(), || self.dial());
        let request = ConnectRequest::new(Authority::from(authority));
        Ok(permit.await?.open(&request).await?.0)
    }
}

/// Our client → Envoy terminates CONNECT → TCP.
pub fn our_client() -> Result<Outcome> {
    let binary = match require() {
        Ok(binary) => binary,
        Err(missing) => return Ok(Outcome::NotRun(missing)),
    };
    let (topology, ends) = (Topology::new()?, Ends::new());
    let ns = topology.control();
    let pem = ends.ca.issue_pem(&ends.far, LIFE);
    let peer = ends.near.to_string();
    let _envoy = Envoy::start((&binary, ns), TERMINATOR, &pem, &[("peer", &peer)])?;
    let listener = ns.listen(loopback(0))?;
    let authority = listener.local_addr()?;
    inside(ns, || async move {
        let ledger = Rc::new(Ledger::default());
        traffic::serve(listener, Some(authority.ip()), ledger.clone())?;
        let dialler = Rc::new(Dialler {
            certificate: ends.ca.issue(&ends.near, LIFE),
            peer: ends.far,
            // Fewer than Envoy allows, so that several connections carry.
            pool: Pool::new(Limits {
                streams_per_connection: 50,
                ..Limits::default()
            }),
            drivers: RefCell::default(),
        });
        let open = || dialler.clone().open(authority);
        let count =
            traffic::near(ledger.clone(), (cases::budget(), Order::NearFirst), open).await?;
        let summary = ledger.close()?;
        let drivers = dialler.drivers.take();
        // The last handles go with the pool, and the connections end gracefully.
        drop(dialler);
        let connections = drivers.len();
        for driver in drivers {
            tokio::time::timeout(LIMIT, driver).await???;
        }
        Ok(format!("{count} on {connections} connections, {summary}"))
    })
}

/// TCP → Envoy opens CONNECT → our server.
pub fn our_server() -> Result<Outcome> {
    let binary = match require() {
        Ok(binary) => binary,
        Err(missing) => return Ok(Outcome::NotRun(missing)),
    };
    let (topology, ends) = (Topology::new()?, Ends::new());
    let ns = topology.control();
    let listener = ns.listen(loopback(15008))?;
    let pem = ends.ca.issue_pem(&ends.near, LIFE);
    let values = [
        ("peer", &*ends.far.to_string()),
        ("hbone", "127.0.0.1"),
        ("authority", AUTHORITY),
    ];
    let _envoy = Envoy::start((&binary, ns), ORIGINATOR, &pem, &values)?;
    inside(ns, || async move {
        let ledger = Rc::new(Ledger::default());
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        spawn_local(serve(listener, ends, ledger.clone()));
        let open = || async { Ok(TcpStream::connect(loopback(9000)).await?) };
        let count = traffic::near(ledger.clone(), (cases::budget(), Order::Any), open).await?;
        Ok(format!("{count}, {}", ledger.close()?))
    })
}

async fn serve(listener: TcpListener, ends: Ends, ledger: Rc<Ledger>) {
    let ends = Rc::new((ends.ca.issue(&ends.far, LIFE), ends.near));
    while let Ok((stream, _)) = listener.accept().await {
        let (ends, ledger) = (ends.clone(), ledger.clone());
        spawn_local(async move {
            if let Err(error) = serve_one(stream, &ends, ledger.clone()).await {
                ledger.fault(format!("connection: {error:#}"));
            }
        });
    }
}

async fn serve_one(
    stream: TcpStream,
    (certificate, expected): &(Arc<Certificate>, Identity),
    ledger: Rc<Ledger>,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let (stream, peer) = handshake::accept(stream, certificate, HANDSHAKE).await?;
    ensure!(peer == *expected, "the peer is {peer}");
    let (mut incoming, driver) = server::accept(stream, Config::server());
    let driver = spawn_local(driver);
    while let Some((request, responder)) = incoming.next().await {
        ensure!(
            request.authority.to_string() == AUTHORITY,
            "{:?}",
            request.authority
        );
        let stream = responder.accept(&ConnectResponse::ok());
        spawn_local(traffic::far(stream, ledger.clone()));
    }
    Ok(driver.await??)
}

/// Envoy and the right to make namespaces, or what of it is missing.
///
/// # Errors
/// The sentence to be printed behind `not run`.
pub fn require() -> Result<std::path::PathBuf, String> {
    topology::supported()?;
    cases::binary("ENVOY")
}

fn inside<F>(ns: &Namespace, work: impl FnOnce() -> F + Send) -> Result<Outcome>
where
    F: Future<Output = Result<String>>,
{
    ns.run(|| local(work()))?.map(Outcome::Passed)
}
