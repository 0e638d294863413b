//! The server of a load: one thread that does with each connection what its head says, and checks every byte. Started by
//! `load`, in the destination's namespace.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::stream::{Got, Stream, altered_at};
use super::tally::{End, Tally};
use super::wire::{self, Head, Mode};
use super::{BUFFER, DRAIN, TICK, TURNS};
use crate::pattern;

const LISTENER: Token = Token(usize::MAX - 1);

struct Connection {
    stream: Stream,
    head: Vec<u8>,
    open: Option<Head>,
}

/// What is to be done with a connection after its turn.
enum Next {
    Wait,
    Again,
    Close,
}

struct Server {
    connections: Slab<Connection>,
    /// Those that may go on without an event.
    due: VecDeque<usize>,
    buffer: Vec<u8>,
    tally: Arc<Tally>,
}

/// Serves until the load stops and all connections have ended.
///
/// # Errors
/// When the loop itself fails; faults of connections go to the tally.
pub fn run(listener: TcpListener, tally: Arc<Tally>) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = mio::net::TcpListener::from_std(listener);
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut server = Server {
        connections: Slab::new(),
        due: VecDeque::new(),
        buffer: vec![0; BUFFER],
        tally: tally.clone(),
    };
    let mut stalled = false;
    let mut deadline = None;
    loop {
        let timeout = if server.due.is_empty() {
            TICK
        } else {
            Duration::ZERO
        };
        super::wait(&mut poll, &mut events, timeout)?;
        for event in &events {
            if event.token() == LISTENER {
                server.accept(&listener, poll.registry())?;
            } else if let Some(connection) = server.connections.get_mut(event.token().0) {
                connection.stream.ready(event);
                server.due.push_back(event.token().0);
            }
        }
        if std::mem::replace(&mut stalled, tally.stalled()) && !stalled {
            server
                .due
                .extend(server.connections.iter().map(|(key, _)| key));
        }
        for _ in 0..server.due.len() {
            if let Some(key) = server.due.pop_front() {
                server.turn(key);
            }
        }
        if tally.stopping() {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + DRAIN);
            if server.connections.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                tally.fault(format!(
                    "{} connections never ended",
                    server.connections.len()
                ));
                return Ok(());
            }
        }
    }
}

impl Server {
    fn accept(
        &mut self,
        listener: &mio::net::TcpListener,
        registry: &mio::Registry,
    ) -> io::Result<()> {
        loop {
            match listener.accept() {
                Ok((socket, _)) => {
                    let _best_effort = socket.set_nodelay(true);
                    let entry = self.connections.vacant_entry();
                    let stream = Stream::new(socket, registry, Token(entry.key()))?;
                    entry.insert(Connection {
                        stream,
                        head: Vec::new(),
                        open: None,
                    });
                    self.tally.add_connection();
                }
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(fault) if fault.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(fault) => return Err(fault),
            }
        }
    }

    fn turn(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        match connection.turn(&mut self.buffer, &self.tally) {
            Ok(Next::Wait) => {}
            Ok(Next::Again) => self.due.push_back(key),
            Ok(Next::Close) => drop(self.connections.remove(key)),
            Err(fault) => {
                let (connection, what) = (self.connections.remove(key), "server's end");
                let at = connection.stream.received;
                self.tally
                    .fault(format!("{what}, {at} bytes read: {fault}"));
            }
        }
    }
}

impl Connection {
    fn turn(&mut self, buffer: &mut [u8], tally: &Tally) -> io::Result<Next> {
        while self.open.is_none() {
            match self.stream.read_head(&mut self.head)? {
                Got::Nothing => return Ok(Next::Wait),
                // A client that stops before it has begun.
                Got::End => return Ok(Next::Close),
                Got::Bytes(_) => {}
            }
            if let Ok(bytes) = <&[u8; wire::LENGTH]>::try_from(self.head.as_slice()) {
                let head = Head::decode(bytes).ok_or_else(|| altered_at(0))?;
                self.stream.incoming = head.seed;
                self.stream.outgoing = pattern::answers(head.seed);
                self.open = Some(head);
                if head.mode == Mode::Staller {
                    tally.watch_port(End::Receiver, self.stream.peer_port());
                }
            }
        }
        let Some(head) = self.open else {
            return Ok(Next::Wait);
        };
        match head.mode {
            Mode::Sink => self.sink(buffer, tally),
            Mode::Staller if tally.stalled() => Ok(Next::Wait),
            Mode::Staller => self.sink(buffer, tally),
            Mode::Source => self.source(buffer, tally),
            Mode::Answer => self.answer(buffer, u64::from(head.size)),
        }
    }

    fn sink(&mut self, buffer: &mut [u8], tally: &Tally) -> io::Result<Next> {
        let staller = matches!(
            self.open,
            Some(Head {
                mode: Mode::Staller,
                ..
            })
        );
        for _ in 0..TURNS {
            match self.stream.read(buffer)? {
                Got::Nothing => return Ok(Next::Wait),
                Got::Bytes(_) if staller => tally.watch(End::Receiver, self.stream.received),
                Got::Bytes(count) => tally.add_bytes(count),
                Got::End => {
                    tally.ended(self.stream.incoming, End::Receiver, self.stream.received);
                    return Ok(Next::Close);
                }
            }
        }
        Ok(Next::Again)
    }

    fn source(&mut self, buffer: &mut [u8], tally: &Tally) -> io::Result<Next> {
        if self.stream.read(buffer)? == Got::End {
            self.stream.finish()?;
            tally.ended(self.stream.outgoing, End::Sender, self.stream.sent);
            return Ok(Next::Close);
        }
        for _ in 0..TURNS {
            if self.stream.write(pattern::WINDOW)? == 0 {
                return Ok(Next::Wait);
            }
        }
        Ok(Next::Again)
    }

    fn answer(&mut self, buffer: &mut [u8], size: u64) -> io::Result<Next> {
        loop {
            // Only whole messages are answered.
            let owed = self.stream.received / size.max(1) * size - self.stream.sent;
            if owed > 0 {
                let wanted = usize::try_from(owed).unwrap_or(pattern::WINDOW);
                if self.stream.write(wanted)? == 0 {
                    return Ok(Next::Wait);
                }
                continue;
            }
            match self.stream.read(buffer)? {
                Got::Nothing => return Ok(Next::Wait),
                Got::Bytes(_) => {}
                Got::End if self.stream.received == self.stream.sent => return Ok(Next::Close),
                Got::End => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}
