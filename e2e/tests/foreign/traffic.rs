//! Random traffic through anything that carries a byte stream: sizes, cuts, half-closes, slow readers and aborts by seed. The
//! near end opens tunnels and says in the first bytes of each what will cross it; the far end is served over TCP or HBONE.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aws_lc_rs::digest::{self, SHA256};
use hbone::proto::ErrorCode;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, spawn_local};

use crate::ledger::Ledger;
pub use crate::plan::Order;
use crate::plan::{HEAD, Plan, Source};

/// Tunnels at once: more than one connection may carry.
const PARALLEL: usize = 150;
/// Without a single byte for so long, the traffic counts as stalled.
const STALL: Duration = Duration::from_secs(30);
const CHUNK: usize = 64 << 10;

/// A byte stream that can be aborted.
pub trait Tunnel: AsyncRead + AsyncWrite + Unpin + 'static {
    /// Ends it as broken.
    fn cut(self);
}

impl Tunnel for TcpStream {
    fn cut(self) {
        self.set_zero_linger()
            .expect("a TCP socket has this option");
    }
}

impl Tunnel for hbone::tokio::Stream {
    fn cut(self) {
        self.reset(ErrorCode::CONNECT_ERROR);
    }
}

/// What a run consisted of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    pub tunnels: usize,
    /// Those of them that one of the ends aborted.
    pub aborted: usize,
    /// Tunnels that came out at the far end: all but some that the near end aborted at once.
    pub arrived: usize,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} tunnels, {} of them aborted",
            self.tunnels, self.aborted
        )
    }
}

/// A size for one read or write: seldom tiny, often large.
fn chunk(rng: &mut SmallRng) -> usize {
    match rng.random_range(0..8) {
        0 => rng.random_range(1..300),
        1..=3 => rng.random_range(1..5_000),
        _ => rng.random_range(1..=CHUNK),
    }
}

/// Now and then lets the others run for a while.
async fn pause(rng: &mut SmallRng) {
    if rng.random_range(0..20) == 0 {
        for _ in 0..rng.random_range(0..50) {
            tokio::task::yield_now().await;
        }
    }
}

async fn send(
    mut half: impl AsyncWrite + Unpin,
    plan: Plan,
    up: bool,
    total: u64,
) -> io::Result<[u8; 32]> {
    let mut rng = SmallRng::seed_from_u64(!plan.id);
    let (mut source, mut hash) = (Source::new(plan, up), digest::Context::new(&SHA256));
    let (mut left, mut spare) = (total, Vec::with_capacity(CHUNK + 8));
    while left > 0 {
        let len = chunk(&mut rng).min(usize::try_from(left).unwrap_or(usize::MAX));
        source.fill(&mut spare, len);
        half.write_all(&spare[..len]).await?;
        hash.update(&spare[..len]);
        spare.drain(..len);
        left -= len as u64;
        pause(&mut rng).await;
    }
    Ok(digest_of(hash))
}

fn digest_of(hash: digest::Context) -> [u8; 32] {
    hash.finish().as_ref().try_into().expect("32 bytes")
}

/// Reads to the end, or until it has got `most`: how much, its hash, and the error if it was no orderly end.
async fn receive(
    mut half: impl AsyncRead + Unpin,
    plan: Plan,
    most: u64,
    ledger: &Ledger,
) -> (u64, [u8; 32], Option<io::Error>) {
    let mut rng = SmallRng::seed_from_u64(!plan.id ^ 1);
    let (mut got, mut hash) = (0, digest::Context::new(&SHA256));
    let mut buffer = vec![0; CHUNK];
    while got < most {
        let piece = chunk(&mut rng);
        match half.read(&mut buffer[..piece]).await {
            Ok(0) => return (got, digest_of(hash), None),
            Ok(n) => {
                ledger.arrived(n);
                hash.update(&buffer[..n]);
                got += n as u64;
            }
            Err(error) => return (got, digest_of(hash), Some(error)),
        }
        pause(&mut rng).await;
    }
    (got, digest_of(hash), None)
}

/// One end of a tunnel whose plan both ends know.
async fn end<T: Tunnel>(tunnel: T, plan: Plan, near: bool, ledger: &Ledger) -> Result<()> {
    ledger.end((plan.id, near), Some(format!("{plan:?}")));
    let result = traffic(tunnel, plan, near, ledger).await;
    ledger.end((plan.id, near), None);
    result
}

async fn traffic<T: Tunnel>(mut tunnel: T, plan: Plan, near: bool, ledger: &Ledger) -> Result<()> {
    let (out, back) = (near, !near);
    if plan.aborted_by(near) {
        // The other side may have ended first, for all it knows of us.
        let _half_of_it = send(&mut tunnel, plan, out, plan.size(out) / 2).await;
        tunnel.cut();
        return Ok(());
    }
    let (mut reader, mut writer) = tokio::io::split(tunnel);
    let (seen, first) = oneshot::channel::<()>();
    let write = async {
        let digest = send(&mut writer, plan, out, plan.size(out)).await?;
        if plan.order != Order::Any && !near {
            let _or_it_has_failed = first.await;
        }
        if plan.order != Order::FarAlone || !near {
            writer.shutdown().await?;
        }
        io::Result::Ok(digest)
    };
    let read = async {
        let whole = plan.order == Order::FarAlone && !near && !plan.aborted();
        let most = if whole { plan.size(back) } else { u64::MAX };
        let read = receive(&mut reader, plan, most, ledger).await;
        drop(seen);
        read
    };
    if plan.aborted_by(!near) {
        let (_, (got, digest, _)) = tokio::join!(write, read);
        ensure!(
            got <= plan.size(back) / 2,
            "{got} bytes of an aborted tunnel"
        );
        let prefix = send(tokio::io::sink(), plan, back, got).await?;
        ensure!(
            prefix == digest,
            "what arrived is no prefix of what was sent"
        );
        return Ok(());
    }
    let (sent, (got, digest, error)) = if plan.kind == 3 && near {
        (write.await, read.await)
    } else {
        tokio::join!(write, read)
    };
    ledger.sent((plan.id, out), sent.context("write")?);
    if let Some(error) = error {
        return Err(error).with_context(|| format!("read, after {got} of {}", plan.size(back)));
    }
    ensure!(
        got == plan.size(back),
        "{got} of {} bytes arrived",
        plan.size(back)
    );
    ledger.received((plan.id, back), digest);
    if plan.order == Order::FarAlone && !near {
        // Letting go of it before would reset it, perhaps in front of what was said last.
        ledger.until_received((plan.id, out)).await;
    }
    Ok(())
}

/// The near end: opens tunnels until those that nobody aborts carry `budget` bytes.
///
/// # Errors
/// When one of them fails, or nothing moves any more.
pub async fn near<T, F>(
    ledger: Rc<Ledger>,
    (budget, order): (u64, Order),
    open: impl Fn() -> F,
) -> Result<Count>
where
    T: Tunnel,
    F: Future<Output = Result<T>> + 'static,
{
    let seed = rand::random();
    let all = all(ledger.clone(), (budget, order), seed, open);
    tokio::select! {
        result = all => result.with_context(|| format!("seed {seed}; {}", ledger.state())),
        () = stalled(&ledger) => bail!("seed {seed}; nothing has moved for {STALL:?}; {}", ledger.state()),
    }
}

async fn all<T, F>(
    ledger: Rc<Ledger>,
    (budget, order): (u64, Order),
    seed: u64,
    open: impl Fn() -> F,
) -> Result<Count>
where
    T: Tunnel,
    F: Future<Output = Result<T>> + 'static,
{
    let (mut rng, mut left) = (SmallRng::seed_from_u64(seed), budget);
    let mut count = Count::default();
    let mut running = JoinSet::new();
    while left > 0 || !running.is_empty() {
        if left > 0 && running.len() < PARALLEL {
            let plan = Plan::random(&mut rng, (count.tunnels as u64, order), left);
            let size = if plan.aborted() {
                0
            } else {
                plan.size(true) + plan.size(false)
            };
            left = left.saturating_sub(size.max(1));
            let (tunnel, ledger) = (open(), ledger.clone());
            running.spawn_local(async move {
                let mut tunnel = tunnel.await.with_context(|| format!("open {plan:?}"))?;
                tunnel.write_all(&plan.head()).await?;
                let end = end(tunnel, plan, true, &ledger).await;
                end.with_context(|| format!("near {plan:?}"))
            });
            count.tunnels += 1;
            count.aborted += usize::from(plan.aborted());
        } else if let Some(ended) = running.join_next().await {
            ended??;
        }
    }
    ledger.complete(2 * (count.tunnels - count.aborted)).await;
    count.arrived = ledger.calls();
    Ok(count)
}

async fn stalled(ledger: &Ledger) {
    let mut seen = None;
    while seen != Some(ledger.pulse()) {
        seen = Some(ledger.pulse());
        tokio::time::sleep(STALL).await;
    }
}

/// The far end of one tunnel; what goes wrong is told to the ledger.
pub async fn far<T: Tunnel>(mut tunnel: T, ledger: Rc<Ledger>) {
    ledger.called();
    let mut head = [0; HEAD];
    if tunnel.read_exact(&mut head).await.is_err() {
        // An abort has overtaken the first bytes; if it was none, the near end fails.
        return;
    }
    let plan = Plan::parse(&head);
    if let Err(error) = end(tunnel, plan, false, &ledger).await {
        ledger.fault(format!("far {plan:?}: {error:#}"));
    }
}

/// Serves the far end over TCP for as long as the runtime lives; every connection must come from `source`.
///
/// # Errors
/// When the listener is none.
pub fn serve(
    listener: std::net::TcpListener,
    source: Option<IpAddr>,
    ledger: Rc<Ledger>,
) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    spawn_local(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            if source.is_some_and(|source| source != peer.ip().to_canonical()) {
                ledger.fault(format!("a connection from {peer}"));
            }
            spawn_local(far(stream, ledger.clone()));
        }
    });
    Ok(())
}
