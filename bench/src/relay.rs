//! A plain TCP relay, the 1.0 of every ratio: one thread, epoll, one shared buffer of 1 MiB, read and write. Two of them
//! stand where the two ztunnels stand. Started as a process of its own, by `world` and by e2e's `quick_figure`.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::str::FromStr;

use anyhow::{Context as _, Error, Result};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use slab::Slab;
use sys::socket::{ConnectOptions, connect_tcp, original_dst};

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

/// Where connections are carried to: written `address` for all, or `original=address,…` by original destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// All to one place.
    One(SocketAddr),
    /// By original destination; the others are closed.
    ByOriginal(Vec<(SocketAddr, SocketAddr)>),
}

impl FromStr for Targets {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if !text.contains('=') {
            return Ok(Self::One(text.parse().context("an address with port")?));
        }
        let pair = |pair: &str| {
            let (from, to) = pair.split_once('=').context("original=address")?;
            Ok((from.parse()?, to.parse()?))
        };
        let pairs: Result<Vec<_>> = text.split(',').map(pair).collect();
        Ok(Self::ByOriginal(pairs?))
    }
}

impl Targets {
    fn of(&self, near: &TcpStream) -> Option<SocketAddr> {
        match self {
            Self::One(target) => Some(*target),
            Self::ByOriginal(pairs) => {
                let original = original_dst(near).ok()?;
                let pair = pairs.iter().find(|(from, _)| *from == original)?;
                Some(pair.1)
            }
        }
    }
}

/// Carries every connection that arrives on `port` to its target, until it is killed.
///
/// # Errors
/// When it cannot listen, or the loop fails.
pub fn run(port: u16, targets: &Targets, mark: u32) -> Result<()> {
    let mut poll = Poll::new()?;
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let mut listener = TcpListener::bind(address).context("listen")?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut pairs: Slab<Pair> = Slab::new();
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
                    if let Some(target) = targets.of(&near) {
                        let far = dial(target, mark)?;
                        add(&mut pairs, [near, far], poll.registry())?;
                    }
                }
                continue;
            }
            let Token(token) = event.token();
            let Some(pair) = pairs.get_mut(token / 2) else {
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
            let Some(pair) = pairs.get_mut(index) else {
                continue;
            };
            match turn(pair, &mut buffer) {
                Ok(true) => again.push(index),
                Ok(false) if pair.iter().all(|half| half.eof && half.fin_sent) => {
                    drop(pairs.remove(index));
                }
                Ok(false) => {}
                Err(_) => drop(pairs.remove(index)),
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

fn add(pairs: &mut Slab<Pair>, sockets: [TcpStream; 2], registry: &Registry) -> Result<()> {
    let entry = pairs.vacant_entry();
    let index = entry.key();
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
    entry.insert([near?, far?]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_one_address_or_pairs() {
        let one: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let two: SocketAddr = "10.0.0.2:81".parse().unwrap();
        assert_eq!("10.0.0.1:80".parse::<Targets>().unwrap(), Targets::One(one));
        assert_eq!(
            "10.0.0.1:80=10.0.0.2:81".parse::<Targets>().unwrap(),
            Targets::ByOriginal(vec![(one, two)])
        );
        for wrong in ["", "10.0.0.1", "10.0.0.1:80=", "a=b"] {
            assert!(wrong.parse::<Targets>().is_err(), "{wrong}");
        }
    }
}
