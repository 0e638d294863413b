//! The client of one-way streams. Started by `load`, in the source's namespace.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Poll, Token};

use super::stream::{Got, Stream};
use super::tally::{End, Tally};
use super::wire::{Head, Mode};
use super::{BUFFER, DRAIN, TICK, TURNS};
use crate::pattern;

/// Which way, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bulk {
    /// From client to server?
    pub up: bool,
    /// Streams.
    pub streams: usize,
    /// The first of them may be stalled by the tally (only upwards).
    pub staller: bool,
}

struct Connection {
    stream: Stream,
    mode: Mode,
    seed: u64,
    begun: bool,
    finished: bool,
}

enum Next {
    Wait,
    Again,
    Close,
}

/// Sends or reads until the tally says stop and all that was sent has arrived.
///
/// # Errors
/// When the loop itself fails; faults of connections go to the tally.
pub fn run(plan: Bulk, target: SocketAddr, salt: u64, tally: &Arc<Tally>) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut connections = Vec::new();
    for index in 0..plan.streams {
        let socket = TcpStream::connect(target)?;
        let seed = pattern::mixed(salt.wrapping_add(index as u64));
        let mode = match (plan.up, plan.staller && index == 0) {
            (true, true) => Mode::Staller,
            (true, false) => Mode::Sink,
            (false, _) => Mode::Source,
        };
        let mut stream = Stream::new(socket, poll.registry(), Token(index))?;
        (stream.outgoing, stream.incoming) = (seed, pattern::answers(seed));
        connections.push(Some(Connection {
            stream,
            mode,
            seed,
            begun: false,
            finished: false,
        }));
    }
    let mut events = Events::with_capacity(1024);
    let mut due = VecDeque::new();
    let mut buffer = vec![0; BUFFER];
    let mut deadline = None;
    while connections.iter().any(Option::is_some) {
        let timeout = if due.is_empty() { TICK } else { Duration::ZERO };
        super::wait(&mut poll, &mut events, timeout)?;
        for event in &events {
            if let Some(Some(connection)) = connections.get_mut(event.token().0) {
                connection.stream.ready(event);
                due.push_back(event.token().0);
            }
        }
        if tally.stopping() && deadline.is_none() {
            deadline = Some(Instant::now() + DRAIN);
            due.extend(0..connections.len());
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            tally.fault("streams did not end after their senders had".to_owned());
            return Ok(());
        }
        for _ in 0..due.len() {
            let Some(index) = due.pop_front() else { break };
            let Some(connection) = &mut connections[index] else {
                continue;
            };
            match connection.turn(&mut buffer, tally) {
                Ok(Next::Wait) => {}
                Ok(Next::Again) => due.push_back(index),
                Ok(Next::Close) => connections[index] = None,
                Err(fault) => {
                    let (sent, received) = (connection.stream.sent, connection.stream.received);
                    tally.fault(format!(
                        "client's end of a stream, {sent} bytes sent, {received} received: {fault}"
                    ));
                    connections[index] = None;
                }
            }
        }
    }
    Ok(())
}

impl Connection {
    fn turn(&mut self, buffer: &mut [u8], tally: &Tally) -> io::Result<Next> {
        if !self.begun {
            if !self.stream.dialled()? {
                return Ok(Next::Wait);
            }
            let head = Head {
                mode: self.mode,
                size: 0,
                seed: self.seed,
            };
            self.stream.write_head(&head, 0)?;
            self.begun = true;
            if self.mode == Mode::Staller {
                tally.watch_port(End::Sender, self.stream.local_port());
            }
        }
        if tally.stopping() && !self.finished {
            self.finished = true;
            self.stream.finish()?;
            if self.mode != Mode::Source {
                tally.ended(self.seed, End::Sender, self.stream.sent);
            }
        }
        match self.mode {
            Mode::Source => self.take(buffer, tally),
            _ if self.finished => self.await_end(buffer),
            _ => self.give(tally),
        }
    }

    fn give(&mut self, tally: &Tally) -> io::Result<Next> {
        for _ in 0..TURNS {
            if self.stream.write(pattern::WINDOW)? == 0 {
                return Ok(Next::Wait);
            }
            if self.mode == Mode::Staller {
                tally.watch(End::Sender, self.stream.sent);
            }
        }
        Ok(Next::Again)
    }

    fn take(&mut self, buffer: &mut [u8], tally: &Tally) -> io::Result<Next> {
        for _ in 0..TURNS {
            match self.stream.read(buffer)? {
                Got::Nothing => return Ok(Next::Wait),
                Got::Bytes(count) => tally.add_bytes(count),
                Got::End => {
                    tally.ended(self.stream.incoming, End::Receiver, self.stream.received);
                    return Ok(Next::Close);
                }
            }
        }
        Ok(Next::Again)
    }

    fn await_end(&mut self, buffer: &mut [u8]) -> io::Result<Next> {
        match self.stream.read(buffer)? {
            Got::Nothing => Ok(Next::Wait),
            Got::End => Ok(Next::Close),
            Got::Bytes(_) => Err(io::Error::other("a sink has sent something")),
        }
    }
}
