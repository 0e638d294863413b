//! One end of one connection of the volume test: sends its part of the plan in random chunks, reads and compares what
//! arrives, and says how it ended.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;

use mio::net::TcpStream;
use rand::RngExt as _;
use rand::rngs::SmallRng;

use super::plan::{Ending, HEADER, PIECE, Pattern, Plan, Reader, Side};

/// How an end came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Sent all, closed its half, read all and the other's end.
    Closed,
    /// Reset it itself, as planned.
    Reset,
    /// The other side's reset arrived.
    WasReset,
    /// Anything else.
    Fault(String),
}

/// What both ends of a connection know of each other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shared {
    pub sent: [u64; 2],
    /// That end is over: a reader that stalled for its bytes goes on.
    pub over: [bool; 2],
}

/// How far the whole test has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Connections are being opened; those that are held wait for the last.
    Opening,
    /// All may send.
    Open,
    /// Nothing moved any more: the dams are lifted.
    Flood,
}

/// What an end's turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It could do more.
    More,
    /// It waits for an event.
    Event,
    /// It waits for something that the other end or the whole test does.
    Other,
}

/// One end.
pub struct End {
    socket: Option<TcpStream>,
    pub side: Side,
    /// Known to the client from the start, to the server from the header.
    pub plan: Option<Plan>,
    pub readable: bool,
    pub writable: bool,
    pub queued: bool,
    header: Vec<u8>,
    sent: u64,
    received: u64,
    end_sent: bool,
    end_seen: bool,
    pub outcome: Option<Outcome>,
}

impl End {
    pub fn new(socket: TcpStream, side: Side, plan: Option<Plan>) -> Self {
        Self {
            socket: Some(socket),
            side,
            plan,
            readable: false,
            writable: false,
            queued: false,
            header: Vec::new(),
            sent: 0,
            received: 0,
            end_sent: false,
            end_seen: false,
            outcome: None,
        }
    }

    pub fn socket(&mut self) -> Option<&mut TcpStream> {
        self.socket.as_mut()
    }

    /// For the sentence that tells of a stuck end.
    pub fn describe(&self) -> String {
        format!(
            "{:?} sent {} received {} end sent {} seen {} readable {} writable {} of {:?}",
            self.side,
            self.sent,
            self.received,
            self.end_sent,
            self.end_seen,
            self.readable,
            self.writable,
            self.plan
        )
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// One read and one write, as far as plan, stage and socket let it.
    pub fn turn(
        &mut self,
        shared: &mut [Shared],
        pattern: &Pattern,
        stage: Stage,
        rng: &mut SmallRng,
    ) -> Turn {
        if self.outcome.is_some() {
            return Turn::Event;
        }
        let reading = match self.read(shared, pattern, stage, rng) {
            Ok(turn) => turn,
            Err(fault) => return self.broken(&fault),
        };
        let writing = match self.write(shared, pattern, stage, rng) {
            Ok(turn) => turn,
            Err(fault) => return self.broken(&fault),
        };
        if self.outcome.is_none() && self.end_sent && self.end_seen {
            self.finish(Outcome::Closed);
        }
        match (reading, writing) {
            (Turn::More, _) | (_, Turn::More) => Turn::More,
            (Turn::Other, _) | (_, Turn::Other) => Turn::Other,
            _ => Turn::Event,
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        self.outcome.get_or_insert(outcome);
        self.socket = None;
    }

    fn broken(&mut self, fault: &io::Error) -> Turn {
        let reset = matches!(
            fault.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        );
        let by_peer = |plan: Plan| plan.resets(other(self.side)).is_some();
        let expected = self.plan.is_none_or(by_peer);
        self.finish(match reset && expected {
            true => Outcome::WasReset,
            false => Outcome::Fault(fault.to_string()),
        });
        Turn::Event
    }

    fn read(
        &mut self,
        shared: &[Shared],
        pattern: &Pattern,
        stage: Stage,
        rng: &mut SmallRng,
    ) -> io::Result<Turn> {
        let Some(socket) = &mut self.socket else {
            return Ok(Turn::Event);
        };
        if !self.readable || self.end_seen {
            return Ok(Turn::Event);
        }
        let mut buffer = [0; PIECE];
        let most = match self.plan {
            None => HEADER as usize - self.header.len(),
            Some(plan) => {
                let peer = 1 - self.side as usize;
                let Shared { sent, over } = shared[plan.id as usize];
                match plan.readers[self.side as usize] {
                    Reader::Eager => rng.random_range(1..=PIECE),
                    Reader::Slow if rng.random_range(0..4) > 0 => return Ok(Turn::More),
                    Reader::Slow => rng.random_range(1..=4096),
                    Reader::Stalled(until) if sent[peer] < until && !over[peer] => {
                        return Ok(Turn::Other);
                    }
                    Reader::Dammed if stage != Stage::Flood => return Ok(Turn::Other),
                    Reader::Stalled(_) | Reader::Dammed => PIECE,
                }
            }
        };
        match socket.read(&mut buffer[..most]) {
            Ok(0) => self.end_seen(),
            Ok(n) => self.arrived(&buffer[..n], pattern),
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                return Ok(Turn::Event);
            }
            Err(fault) => return Err(fault),
        }
        Ok(Turn::More)
    }

    fn end_seen(&mut self) {
        self.end_seen = true;
        let Some(plan) = self.plan else {
            return self.finish(Outcome::Fault(
                "an orderly end before the header".to_owned(),
            ));
        };
        let wanted = plan.sizes[1 - self.side as usize];
        if !plan.is_orderly() {
            let text = format!("an orderly end after {} bytes, want a reset", self.received);
            self.finish(Outcome::Fault(text));
        } else if self.received != wanted {
            let text = format!("an end after {} of {wanted} bytes", self.received);
            self.finish(Outcome::Fault(text));
        }
    }

    fn arrived(&mut self, bytes: &[u8], pattern: &Pattern) {
        let Some(plan) = self.plan else {
            self.header.extend_from_slice(bytes);
            self.received += bytes.len() as u64;
            return;
        };
        let expected = pattern.piece(plan.id, other(self.side), self.received, bytes.len());
        if bytes != expected {
            let at = bytes.iter().zip(expected).position(|(a, b)| a != b);
            let at = self.received + at.unwrap_or_default() as u64;
            self.finish(Outcome::Fault(format!("a wrong byte at {at}")));
        }
        self.received += bytes.len() as u64;
        if self.received > plan.sizes[1 - self.side as usize] {
            self.finish(Outcome::Fault("more bytes than were sent".to_owned()));
        }
    }

    /// The connection that a server's header names, once it is complete.
    pub fn named(&self) -> Option<u32> {
        if self.plan.is_some() {
            return None;
        }
        let header: [u8; HEADER as usize] = self.header.as_slice().try_into().ok()?;
        Some(u32::from_le_bytes(header))
    }

    fn write(
        &mut self,
        shared: &mut [Shared],
        pattern: &Pattern,
        stage: Stage,
        rng: &mut SmallRng,
    ) -> io::Result<Turn> {
        let (Some(plan), Some(socket)) = (self.plan, &mut self.socket) else {
            return Ok(Turn::Event);
        };
        let side = self.side as usize;
        let header = self.side == Side::Client && self.sent < HEADER;
        if !header
            && ((plan.held && stage == Stage::Opening) || (plan.waits(self.side) && !self.end_seen))
        {
            return Ok(Turn::Other);
        }
        if !self.writable || self.end_sent {
            return Ok(Turn::Event);
        }
        if plan
            .resets(self.side)
            .is_some_and(|after| self.sent >= after)
        {
            let early = matches!(plan.ending, Ending::Reset { early: true, .. });
            let answer_is_due = self.side == Side::Client && !early;
            if answer_is_due && self.received == 0 {
                return Ok(Turn::Event);
            }
            sys::socket::set_linger_reset(&*socket)?;
            self.finish(Outcome::Reset);
            return Ok(Turn::Event);
        }
        let last = plan.resets(self.side).unwrap_or(plan.sizes[side]);
        if self.sent == last {
            if plan.is_orderly() {
                socket.shutdown(Shutdown::Write)?;
                self.end_sent = true;
            }
            return Ok(Turn::Event);
        }
        let left = last - self.sent;
        let id = plan.id.to_le_bytes();
        let piece = if header {
            &id[self.sent as usize..]
        } else {
            pattern.piece(plan.id, self.side, self.sent, left.min(chunk(rng)) as usize)
        };
        match socket.write(piece) {
            Ok(n) => {
                self.sent += n as u64;
                shared[plan.id as usize].sent[side] = self.sent;
                Ok(Turn::More)
            }
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(Turn::Event)
            }
            Err(fault) => Err(fault),
        }
    }
}

/// From one byte to the largest piece, each order of magnitude as likely as the next.
fn chunk(rng: &mut SmallRng) -> u64 {
    let most = 1_u64 << rng.random_range(0..=16);
    rng.random_range(1..=most)
}

fn other(side: Side) -> Side {
    match side {
        Side::Client => Side::Server,
        Side::Server => Side::Client,
    }
}
