//! A plain TCP relay, the 1.0 of every ratio: one thread, epoll, one shared buffer of 1 MiB, read and write. Two of them
//! stand where the two ztunnels stand. Started by `main` as a process of its own.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};

use anyhow::{Context as _, Result};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use sys::socket::{ConnectOptions, connect_tcp};

const BUFFER: usize = 1 << 20;
/// Reads per direction and event, so that one connection does not starve the others.
const ROUNDS: usize = 4;
const LISTENER: Token = Token(usize::MAX - 1);

/// One of a pair's two sockets.
struct Half {
    socket: TcpStream,
    readable: bool,
    writable: bool,
    ended: bool,
    eof: bool,
    fin_sent: bool,
    pending: Vec<u8>,
}

/// Two sockets; the tokens are twice the pair's index, and one more.
type Pair = [Half; 2];

/// Carries every connection that arrives on `port` to `target`, until it is killed.
pub fn run(port: u16, target: SocketAddr, mark: u32) -> Result<()> {
    let mut poll = Poll::new()?;
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let mut listener = TcpListener::bind(address).context("listen")?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut pairs: Vec<Option<Pair>> = Vec::new();
    let mut buffer = vec![0; BUFFER];
    let mut events = Events::with_capacity(1024);
    let mut again = Vec::new();
    println!("relay ready");
    loop {
        let timeout = (!again.is_empty()).then_some(std::time::Duration::ZERO);
        match poll.poll(&mut events, timeout) {
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        let mut due = std::mem::take(&mut again);
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((near, _)) = listener.accept() {
                    let far = dial(target, mark)?;
                    add(&mut pairs, [near, far], poll.registry())?;
                }
                continue;
            }
            let Token(token) = event.token();
            let Some(Some(pair)) = pairs.get_mut(token / 2) else {
                continue;
            };
            let half = &mut pair[token % 2];
            half.readable |= event.is_readable() || event.is_read_closed();
            half.ended |= event.is_read_closed();
            half.writable |= event.is_writable();
            if !due.contains(&(token / 2)) {
                due.push(token / 2);
            }
        }
        for index in due {
            let Some(pair) = &mut pairs[index] else {
                continue;
            };
            match turn(pair, &mut buffer) {
                Ok(true) => again.push(index),
                Ok(false) if pair.iter().all(|half| half.eof && half.fin_sent) => {
                    pairs[index] = None;
                }
                Ok(false) => {}
                Err(_) => pairs[index] = None,
            }
        }
    }
}

fn dial(target: SocketAddr, mark: u32) -> Result<TcpStream> {
    let options = ConnectOptions {
        mark: Some(mark),
        nodelay: true,
        ..ConnectOptions::default()
    };
    Ok(TcpStream::from_std(
        connect_tcp(target, &options).context("dial")?,
    ))
}

fn add(pairs: &mut Vec<Option<Pair>>, sockets: [TcpStream; 2], registry: &Registry) -> Result<()> {
    let index = pairs.len();
    let mut side = 0;
    let halves = sockets.map(|mut socket| {
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut socket, Token(2 * index + side), interest)?;
        side += 1;
        socket.set_nodelay(true)?;
        Ok::<_, io::Error>(Half {
            socket,
            readable: false,
            writable: false,
            ended: false,
            eof: false,
            fin_sent: false,
            pending: Vec::new(),
        })
    });
    let [near, far] = halves;
    pairs.push(Some([near?, far?]));
    Ok(())
}

/// Both directions once. True: there may be more.
fn turn([near, far]: &mut Pair, buffer: &mut [u8]) -> io::Result<bool> {
    let there = pour(near, far, buffer)?;
    let back = pour(far, near, buffer)?;
    Ok(there || back)
}

fn pour(from: &mut Half, to: &mut Half, buffer: &mut [u8]) -> io::Result<bool> {
    if !flush(to)? {
        return Ok(false);
    }
    for _ in 0..ROUNDS {
        if !from.readable || from.eof || !to.pending.is_empty() || !to.writable {
            break;
        }
        match from.socket.read(buffer) {
            Ok(0) => from.eof = true,
            Ok(n) => {
                from.readable = n == buffer.len() || from.ended;
                let taken = to.socket.write(&buffer[..n]).or_else(would_block)?;
                to.pending.extend_from_slice(&buffer[taken..n]);
                to.writable = taken == n;
            }
            Err(fault) => {
                from.readable = false;
                would_block(fault)?;
            }
        }
    }
    if from.eof && to.pending.is_empty() && !to.fin_sent {
        to.fin_sent = true;
        to.socket.shutdown(Shutdown::Write)?;
    }
    Ok(from.readable && !from.eof && to.pending.is_empty() && to.writable)
}

/// Writes what is pending. True: nothing is left.
fn flush(half: &mut Half) -> io::Result<bool> {
    while half.writable && !half.pending.is_empty() {
        let taken = half.socket.write(&half.pending).or_else(would_block)?;
        half.writable = taken == half.pending.len();
        half.pending.drain(..taken);
    }
    Ok(half.pending.is_empty())
}

fn would_block(fault: io::Error) -> io::Result<usize> {
    if fault.kind() == io::ErrorKind::WouldBlock {
        Ok(0)
    } else {
        Err(fault)
    }
}
