//! The load: one bulk stream, and many connections with small messages. Each runs for a given time and counts what came
//! through.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mio::{Events, Interest, Poll, Token};
use testkit::topology::{Namespace, Pod};

const CHUNK: usize = 1 << 20;
/// Carried before the clock starts: windows and buffers have grown by then.
const WARM_BYTES: u64 = 128 << 20;
const MESSAGE: usize = 1024;
const WARM_MESSAGES: u64 = 20_000;

/// One client and one server pod with what stands between them.
pub struct Way<'a> {
    pub client: &'a Pod,
    pub server: &'a Namespace,
    pub target: SocketAddr,
}

/// Which load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One stream from client to server.
    Up,
    /// One stream from server to client.
    Down,
    /// So many connections, 1 KiB there and back on each, again and again.
    Messages(usize),
}

/// What a block saw.
pub struct Block {
    /// Bytes (bulk) or round trips (messages).
    pub count: u64,
    /// CPU time of all that `cpu` looks at.
    pub cpu: Duration,
    /// Wall time.
    pub wall: Duration,
}

/// Runs one block of load. `cpu` tells how much CPU time the proxies have used so far.
pub fn run(
    way: &Way<'_>,
    kind: Kind,
    time: Duration,
    cpu: impl Fn() -> Result<Duration>,
) -> Result<Block> {
    let any = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), way.target.port());
    let listener = way.server.listen(any)?;
    let connect = || -> Result<TcpStream> {
        let stream = way.client.ns.run(|| TcpStream::connect(way.target))??;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    match kind {
        Kind::Up | Kind::Down => {
            let client = connect()?;
            let (server, _) = listener.accept()?;
            let (from, to) = if kind == Kind::Up {
                (client, server)
            } else {
                (server, client)
            };
            bulk(from, to, time, cpu)
        }
        Kind::Messages(connections) => {
            let clients = (0..connections)
                .map(|_| connect())
                .collect::<Result<Vec<_>>>()?;
            messages(clients, listener, time, cpu)
        }
    }
}

fn bulk(
    mut from: TcpStream,
    mut to: TcpStream,
    time: Duration,
    cpu: impl Fn() -> Result<Duration>,
) -> Result<Block> {
    let sender = thread::spawn(move || {
        let chunk = vec![7; CHUNK];
        // Until the reader has gone.
        while from.write_all(&chunk).is_ok() {}
    });
    let mut buffer = vec![0; CHUNK];
    let mut read_until = |enough: &dyn Fn(u64) -> bool| -> Result<u64> {
        let mut count = 0;
        while !enough(count) {
            let n = to.read(&mut buffer)?;
            ensure!(n > 0, "the stream ended");
            count += n as u64;
        }
        Ok(count)
    };
    read_until(&|count| count >= WARM_BYTES)?;
    let (begin, used) = (Instant::now(), cpu()?);
    let count = read_until(&|_| begin.elapsed() >= time)?;
    let block = Block {
        count,
        cpu: cpu()? - used,
        wall: begin.elapsed(),
    };
    to.shutdown(Shutdown::Both)?;
    drop(to);
    sender
        .join()
        .map_err(|_| anyhow::anyhow!("the sender has panicked"))?;
    Ok(block)
}

fn messages(
    clients: Vec<TcpStream>,
    listener: TcpListener,
    time: Duration,
    cpu: impl Fn() -> Result<Duration>,
) -> Result<Block> {
    let connections = clients.len();
    let echo = thread::spawn(move || -> Result<()> {
        let accept = |_| listener.accept().map(|(stream, _)| stream);
        let servers = (0..connections)
            .map(accept)
            .collect::<io::Result<Vec<_>>>()?;
        let mut ring = Ring::new(servers)?;
        // Until all clients have gone.
        while !ring.is_empty() {
            ring.turn()?;
        }
        Ok(())
    });
    let mut ring = Ring::new(clients)?;
    ring.kick()?;
    let mut done = 0;
    while done < WARM_MESSAGES {
        done += ring.turn()?;
    }
    let (begin, used) = (Instant::now(), cpu()?);
    let mut count = 0;
    while begin.elapsed() < time {
        count += ring.turn()?;
    }
    let block = Block {
        count,
        cpu: cpu()? - used,
        wall: begin.elapsed(),
    };
    drop(ring);
    let echoed = echo
        .join()
        .map_err(|_| anyhow::anyhow!("the echo has panicked"))?;
    echoed.context("echo")?;
    Ok(block)
}

/// Sockets on which every whole message that arrives is sent back.
struct Ring {
    poll: Poll,
    events: Events,
    sockets: Vec<Option<(mio::net::TcpStream, Vec<u8>)>>,
}

impl Ring {
    fn new(streams: Vec<TcpStream>) -> Result<Self> {
        let poll = Poll::new()?;
        let mut sockets = Vec::new();
        for (index, stream) in streams.into_iter().enumerate() {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let mut socket = mio::net::TcpStream::from_std(stream);
            poll.registry()
                .register(&mut socket, Token(index), Interest::READABLE)?;
            sockets.push(Some((socket, Vec::new())));
        }
        let events = Events::with_capacity(1024);
        Ok(Self {
            poll,
            events,
            sockets,
        })
    }

    fn is_empty(&self) -> bool {
        self.sockets.iter().all(Option::is_none)
    }

    /// The first message on each.
    fn kick(&mut self) -> Result<()> {
        for (socket, _) in self.sockets.iter_mut().flatten() {
            socket.write_all(&[1; MESSAGE])?;
        }
        Ok(())
    }

    /// Waits for readiness and answers what has arrived. Says how many messages that were.
    fn turn(&mut self) -> Result<u64> {
        self.poll
            .poll(&mut self.events, Some(Duration::from_secs(10)))?;
        ensure!(!self.events.is_empty(), "no message in ten seconds");
        let mut buffer = [0; 4 * MESSAGE];
        let mut count = 0;
        for event in &self.events {
            let Token(index) = event.token();
            let Some((socket, held)) = &mut self.sockets[index] else {
                continue;
            };
            loop {
                match socket.read(&mut buffer) {
                    Ok(0) => {
                        self.sockets[index] = None;
                        break;
                    }
                    Ok(n) => {
                        held.extend_from_slice(&buffer[..n]);
                        while held.len() >= MESSAGE {
                            // One message is in flight at a time: it always fits.
                            socket.write_all(&held[..MESSAGE])?;
                            held.drain(..MESSAGE);
                            count += 1;
                        }
                        if n < buffer.len() && !event.is_read_closed() {
                            break;
                        }
                    }
                    Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => {
                        self.sockets[index] = None;
                        break;
                    }
                }
            }
        }
        Ok(count)
    }
}
