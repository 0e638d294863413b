//! The yardstick: a plain TCP relay in one epoll thread with a 1 MiB buffer, nothing else.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::thread;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

struct Half {
    stream: TcpStream,
    pending: Vec<u8>,
    readable: bool,
    eof: bool,
}

/// Relays everything that connects to the returned address to `target`.
pub fn start(target: SocketAddr) -> SocketAddr {
    let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback");
    let address = listener.local_addr().expect("bound");
    let mut poll = Poll::new().expect("epoll");
    poll.registry()
        .register(&mut listener, Token(0), Interest::READABLE)
        .expect("epoll");
    let run = move || {
        let mut halves: Vec<Option<Half>> = vec![None, None];
        let (mut events, mut buffer) = (Events::with_capacity(1024), vec![0; 1 << 20]);
        loop {
            if poll.poll(&mut events, None).is_err() {
                continue;
            }
            for event in &events {
                if event.token().0 == 0 {
                    accept(&listener, target, &poll, &mut halves);
                    continue;
                }
                let index = event.token().0;
                if let Some(half) = &mut halves[index] {
                    half.readable |= event.is_readable();
                }
                for (from, to) in [(index, index ^ 1), (index ^ 1, index)] {
                    if pour(&mut halves, from, to, &mut buffer).is_err() {
                        (halves[from], halves[to]) = (None, None);
                    }
                }
            }
        }
    };
    thread::Builder::new()
        .name("relay-0".to_owned())
        .spawn(run)
        .expect("a thread");
    address
}

fn accept(listener: &TcpListener, target: SocketAddr, poll: &Poll, halves: &mut Vec<Option<Half>>) {
    while let Ok((near, _)) = listener.accept() {
        let Ok(far) = TcpStream::connect(target) else {
            return;
        };
        for mut stream in [near, far] {
            let _ = stream.set_nodelay(true);
            let token = Token(halves.len());
            let both = Interest::READABLE | Interest::WRITABLE;
            poll.registry()
                .register(&mut stream, token, both)
                .expect("epoll");
            halves.push(Some(Half {
                stream,
                pending: Vec::new(),
                readable: false,
                eof: false,
            }));
        }
    }
}

fn pour(halves: &mut [Option<Half>], from: usize, to: usize, buffer: &mut [u8]) -> io::Result<()> {
    let (low, high) = halves.split_at_mut(from.max(to));
    let (low, high) = (&mut low[from.min(to)], &mut high[0]);
    let (from, to) = if from < to { (low, high) } else { (high, low) };
    let (Some(from), Some(to)) = (from, to) else {
        return Ok(());
    };
    loop {
        if !to.pending.is_empty() {
            match to.stream.write(&to.pending) {
                Ok(n) => drop(to.pending.drain(..n)),
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(fault) if fault.kind() == io::ErrorKind::NotConnected => return Ok(()),
                Err(fault) => return Err(fault),
            }
            continue;
        }
        if !from.readable || from.eof {
            return Ok(());
        }
        match from.stream.read(buffer) {
            Ok(0) => {
                from.eof = true;
                to.stream.shutdown(std::net::Shutdown::Write)?;
            }
            Ok(n) => {
                from.readable = n == buffer.len();
                let sent = match to.stream.write(&buffer[..n]) {
                    Ok(sent) => sent,
                    Err(fault)
                        if matches!(
                            fault.kind(),
                            io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected
                        ) =>
                    {
                        0
                    }
                    Err(fault) => return Err(fault),
                };
                to.pending.extend_from_slice(&buffer[sent..n]);
            }
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => from.readable = false,
            Err(fault) => return Err(fault),
        }
    }
}
