//! `hbone::tokio` against other HTTP/2 libraries, each in a small relay of ours between TCP and CONNECT (`e2e/interop`), and
//! against nghttpx; both roles, without TLS, inside one namespace. `e2e/tool` builds or finds the peers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use hbone::headers::{Authority, ConnectRequest, ConnectResponse};
use hbone::proto::Config;
use hbone::tokio::pool::{Limits, Pool};
use hbone::tokio::{DriveError, Stream, client, server};
use tempfile::TempDir;
use testkit::mesh::LIMIT;
use testkit::process::Process;
use testkit::topology::{self, Namespace, Topology};
use testkit::wait;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_local};

use crate::cut::Cut;
use crate::ledger::Ledger;
use crate::traffic::{self, Order};
use crate::tunnel::local;
use e2e::cases::{self, Outcome};

const RELAY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9000);
const OURS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9001);
const FAR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9002);
/// What the peers that open tunnels ask for.
const AUTHORITY: &str = "far.example:80";

/// A program that speaks HTTP/2 with us.
struct Peer {
    /// The variable that names its binary.
    variable: &'static str,
    /// Its first argument, a file below `e2e`.
    script: Option<&'static str>,
    /// Which end closes first where it accepts tunnels.
    order: Order,
    /// How many times the usual bytes cross it; a few seconds by default.
    times: u64,
}

const GO: Peer = Peer {
    variable: "GO_RELAY",
    script: None,
    // Its handler must return to close its half, and what the peer sends after that is lost. And its WINDOW_UPDATE of a
    // stream stands in one queue with the stream's DATA (x/net/http2 `writesched.go`).
    order: Order::NearFirstReading,
    times: 4,
};
const OLD_H2: Peer = Peer {
    variable: "OLD_H2_RELAY",
    script: None,
    order: Order::Any,
    times: 4,
};
const PYTHON: Peer = Peer {
    variable: "PYTHON_H2",
    script: Some("interop/python/relay.py"),
    order: Order::Any,
    times: 1,
};

pub fn our_client_to_go() -> Result<Outcome> {
    GO.accepts()
}

pub fn go_to_our_server() -> Result<Outcome> {
    GO.opens()
}

pub fn our_client_to_old_h2() -> Result<Outcome> {
    OLD_H2.accepts()
}

pub fn old_h2_to_our_server() -> Result<Outcome> {
    OLD_H2.opens()
}

pub fn our_client_to_python() -> Result<Outcome> {
    PYTHON.accepts()
}

pub fn python_to_our_server() -> Result<Outcome> {
    PYTHON.opens()
}

/// Our client → nghttpx as a forward proxy → our server: it plays both roles at once.
pub fn through_nghttpx() -> Result<Outcome> {
    let (frontend, backend) = (
        format!("--frontend=127.0.0.1,{};no-tls", RELAY.port()),
        format!("--backend=127.0.0.1,{};;proto=h2", OURS.port()),
    );
    let arguments = [
        "--conf=/dev/null",
        "--http2-proxy",
        "--workers=1",
        "--log-level=WARN",
        "--accesslog-file=/dev/null",
        &frontend,
        &backend,
    ];
    let (running, listener) = match Running::start("NGHTTPX", &arguments, OURS)? {
        Ok(running) => running,
        Err(missing) => return Ok(Outcome::NotRun(missing)),
    };
    let authority = Authority::name("far.example", 80)?;
    running.judge(|| async move {
        let ledger = Rc::new(Ledger::default());
        spawn_local(serve(listening(listener)?, ledger.clone()));
        // It carries no END_STREAM of the client, and resets a tunnel behind that of the server.
        dial(ledger, (4 * cases::budget(), Order::FarAlone), authority).await
    })
}

impl Peer {
    /// Our client → the peer accepts CONNECT → TCP.
    fn accepts(&self) -> Result<Outcome> {
        let (running, listener) = match self.start(&["server", &RELAY.to_string()], FAR)? {
            Ok(running) => running,
            Err(missing) => return Ok(Outcome::NotRun(missing)),
        };
        let budget = (self.times * cases::budget(), self.order);
        running.judge(|| async move {
            let ledger = Rc::new(Ledger::default());
            traffic::serve(listener, Some(FAR.ip()), ledger.clone())?;
            dial(ledger, budget, Authority::from(FAR)).await
        })
    }

    /// TCP → the peer opens CONNECT → our server.
    fn opens(&self) -> Result<Outcome> {
        let (relay, ours) = (RELAY.to_string(), OURS.to_string());
        let (running, listener) = match self.start(&["client", &relay, &ours, AUTHORITY], OURS)? {
            Ok(running) => running,
            Err(missing) => return Ok(Outcome::NotRun(missing)),
        };
        let budget = (self.times * cases::budget(), Order::Any);
        running.judge(|| async move {
            let ledger = Rc::new(Ledger::default());
            spawn_local(serve(listening(listener)?, ledger.clone()));
            let open = || async { Ok(TcpStream::connect(RELAY).await?) };
            let count = traffic::near(ledger.clone(), budget, open).await?;
            Ok(format!("{count}, {}", ledger.close()?))
        })
    }

    fn start(&self, arguments: &[&str], behind: SocketAddr) -> Result<Started> {
        let script = self
            .script
            .map(|script| format!("{}/{script}", env!("CARGO_MANIFEST_DIR")));
        let arguments: Vec<&str> = script
            .as_deref()
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        Running::start(self.variable, &arguments, behind)
    }
}

/// A peer and our listener behind it, or the sentence to be printed behind `not run`.
type Started = Result<(Running, std::net::TcpListener), String>;

/// A started peer and its namespace.
struct Running {
    process: Process,
    topology: Topology,
    _logs: TempDir,
}

impl Running {
    /// Listens at `behind`, where the peer will dial, starts the binary that `variable` names, and waits until that listens.
    fn start(variable: &str, arguments: &[&str], behind: SocketAddr) -> Result<Started> {
        let binary = match topology::supported().and_then(|()| cases::binary(variable)) {
            Ok(binary) => binary,
            Err(missing) => return Ok(Err(missing)),
        };
        let (topology, logs) = (Topology::new()?, tempfile::tempdir()?);
        let log = logs.path().join("peer.log");
        let listener = topology.control().listen(behind)?;
        let process = spawn(topology.control(), &binary, arguments, &log)?;
        let running = Self {
            process,
            topology,
            _logs: logs,
        };
        Ok(Ok((running, listener)))
    }

    fn namespace(&self) -> &Namespace {
        self.topology.control()
    }

    /// Runs `work` in the namespace; a failure carries the end of the peer's log.
    fn judge<F>(&self, work: impl FnOnce() -> F + Send) -> Result<Outcome>
    where
        F: Future<Output = Result<String>>,
    {
        let outcome = self.namespace().run(|| local(work()))?;
        outcome.map(Outcome::Passed).with_context(|| {
            let log = self.process.log();
            let lines: Vec<&str> = log.lines().rev().take(20).collect();
            format!("log of the peer, newest first:\n{}", lines.join("\n"))
        })
    }
}

fn spawn(ns: &Namespace, binary: &Path, arguments: &[&str], log: &Path) -> Result<Process> {
    let mut process = Process::start(ns, binary, arguments, &BTreeMap::new(), log)?;
    wait::until("the peer listens", LIMIT, || {
        if !process.running() {
            bail!("it ended; log:\n{}", process.log());
        }
        ns.run(|| std::net::TcpStream::connect(RELAY))??;
        Ok(())
    })?;
    Ok(process)
}

fn listening(listener: std::net::TcpListener) -> Result<TcpListener> {
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}

/// Every second connection has windows that stand in the way all the time, and a header table for the peer to use.
fn config(number: usize, config: Config) -> Config {
    if number.is_multiple_of(2) {
        return config;
    }
    Config {
        stream_window: 20_000,
        connection_window: 65_535,
        max_frame_size: 16_384,
        header_table_size: 4096,
        ..config
    }
}

/// Opens tunnels over pooled connections.
struct Dialler {
    pool: Pool<(), anyhow::Error>,
    drivers: RefCell<Vec<JoinHandle<Result<(), DriveError>>>>,
    authority: Authority,
}

impl Dialler {
    async fn connect(&self) -> Result<client::Handle> {
        let stream = TcpStream::connect(RELAY).await?;
        stream.set_nodelay(true)?;
        let number = self.drivers.borrow().len();
        let (handle, driver) = client::connect(
            Cut::new(stream, number as u64),
            config(number, Config::client()),
        );
        self.drivers.borrow_mut().push(spawn_local(driver));
        Ok(handle)
    }

    async fn open(self: Rc<Self>) -> Result<Stream> {
        let permit = self
            .pool
            .checkout(&(), Instant::now(), || self.connect())
            .await?;
        let request = ConnectRequest::new(self.authority.clone());
        Ok(permit.open(&request).await?.0)
    }
}

async fn dial(ledger: Rc<Ledger>, budget: (u64, Order), authority: Authority) -> Result<String> {
    let dialler = Rc::new(Dialler {
        // Fewer than any peer allows, so that several connections carry.
        pool: Pool::new(Limits {
            streams_per_connection: 50,
            ..Limits::default()
        }),
        drivers: RefCell::default(),
        authority,
    });
    let open = || dialler.clone().open();
    let count = traffic::near(ledger.clone(), budget, open).await?;
    let summary = ledger.close()?;
    let drivers = dialler.drivers.take();
    // The last handles go with the pool, and the connections end gracefully.
    drop(dialler);
    let connections = drivers.len();
    for driver in drivers {
        tokio::time::timeout(LIMIT, driver).await???;
    }
    Ok(format!("{count} on {connections} connections, {summary}"))
}

/// Our side of every connection that comes: tunnels end at the far end of the traffic.
async fn serve(listener: TcpListener, ledger: Rc<Ledger>) {
    let connections = Cell::new(0);
    while let Ok((stream, _)) = listener.accept().await {
        let (ledger, number) = (ledger.clone(), connections.get());
        connections.set(number + 1);
        spawn_local(async move {
            if let Err(error) = serve_one(stream, number, ledger.clone()).await {
                ledger.fault(format!("connection: {error:#}"));
            }
        });
    }
}

async fn serve_one(stream: TcpStream, number: usize, ledger: Rc<Ledger>) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut incoming, driver) = server::accept(
        Cut::new(stream, number as u64),
        config(number, Config::server()),
    );
    let driver = spawn_local(driver);
    while let Some((request, responder)) = incoming.next().await {
        if request.authority.to_string() != AUTHORITY {
            bail!("{:?}", request.authority);
        }
        let stream = responder.accept(&ConnectResponse::ok());
        spawn_local(traffic::far(stream, ledger.clone()));
    }
    Ok(driver.await??)
}
