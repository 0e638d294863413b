//! The client of requests and answers: on kept connections, on a new one each time, or in between; as fast as answers come,
//! at a planned rate, or once. Started by `load`, in the source's namespace.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use super::pace::Schedule;
use super::stream::{Got, Stream};
use super::tally::Tally;
use super::wire::{Head, Mode};
use super::{BUFFER, DRAIN, TICK};
use crate::pattern;

const TIMER: Token = Token(usize::MAX - 1);
/// Connections that are being set up at once, where many are to be held.
const SET_UP: usize = 64;
/// Slots are below this; the generation stands above.
const SLOTS: usize = 1 << 20;

/// Requests of a load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exchange {
    /// Connections at once.
    pub connections: usize,
    /// Bytes of a request, and of an answer.
    pub size: usize,
    /// How long a connection lives.
    pub life: Life,
    /// When the next request is sent.
    pub pace: Pace,
    /// End by itself after so many requests (closed loop only).
    pub total: Option<u64>,
}

/// How long a connection lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// As long as the load.
    Endless,
    /// One request.
    Once,
    /// A number of requests that differs from connection to connection, up to this.
    UpTo(u64),
}

/// When the next request is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// When the answer has come.
    Closed,
    /// So many a second; latency is counted from the planned time.
    Open(f64),
    /// Never: each connection is kept after its first answer.
    Hold,
}

struct Connection {
    stream: Stream,
    seed: u64,
    /// From when the present request's latency counts.
    begun: Instant,
    /// Sent a head already.
    open: bool,
    waiting: bool,
    left: u64,
}

struct Client<'a> {
    plan: Exchange,
    targets: &'a [SocketAddr],
    salt: u64,
    tally: &'a Tally,
    slots: Vec<Option<Connection>>,
    generations: Vec<usize>,
    idle: VecDeque<usize>,
    schedule: Option<Schedule>,
    opened: u64,
    asked: u64,
    set_up: usize,
    latencies: Histogram<u64>,
    buffer: Vec<u8>,
}

/// Runs until the tally says stop, or the total is reached; returns the latencies in nanoseconds.
///
/// # Errors
/// When the loop itself fails; faults of connections go to the tally.
pub fn run(
    plan: Exchange,
    targets: &[SocketAddr],
    salt: u64,
    tally: &Arc<Tally>,
) -> io::Result<Histogram<u64>> {
    let mut poll = Poll::new()?;
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
    let raw = timer.as_fd().as_raw_fd();
    poll.registry()
        .register(&mut SourceFd(&raw), TIMER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut client = Client::new(plan, targets, salt, tally)?;
    let mut deadline = None;
    loop {
        client.fill(poll.registry())?;
        client.send_due(&timer)?;
        if client.finished() {
            return Ok(client.latencies);
        }
        super::wait(&mut poll, &mut events, TICK)?;
        for event in &events {
            let Token(token) = event.token();
            let slot = token % SLOTS;
            if event.token() == TIMER {
                // Dry it, so that it tells again.
                let _fired = timer.wait();
            } else if client.generations.get(slot) == Some(&(token / SLOTS)) {
                if let Some(connection) = &mut client.slots[slot] {
                    connection.stream.ready(event);
                }
                client.turn(slot);
            }
        }
        if tally.stopping() {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + DRAIN);
            if Instant::now() > deadline {
                tally.fault(format!("{} requests were never answered", client.waiting()));
                return Ok(client.latencies);
            }
        }
    }
}

impl<'a> Client<'a> {
    fn new(
        plan: Exchange,
        targets: &'a [SocketAddr],
        salt: u64,
        tally: &'a Tally,
    ) -> io::Result<Self> {
        let latencies =
            Histogram::new_with_bounds(1000, 60_000_000_000, 3).map_err(io::Error::other)?;
        Ok(Self {
            plan,
            targets,
            salt,
            tally,
            slots: (0..plan.connections).map(|_| None).collect(),
            generations: vec![0; plan.connections],
            idle: VecDeque::new(),
            schedule: None,
            opened: 0,
            asked: 0,
            set_up: 0,
            latencies,
            buffer: vec![0; BUFFER],
        })
    }

    /// Opens connections in empty slots.
    fn fill(&mut self, registry: &mio::Registry) -> io::Result<()> {
        if self.tally.stopping() {
            return Ok(());
        }
        for slot in 0..self.slots.len() {
            let more = self.plan.total.is_none_or(|total| self.asked < total);
            if !more
                || self.set_up
                    >= SET_UP.max(if self.plan.pace == Pace::Hold {
                        0
                    } else {
                        self.slots.len()
                    })
            {
                break;
            }
            if self.slots[slot].is_none() {
                self.open(slot, registry)?;
            }
        }
        Ok(())
    }

    fn open(&mut self, slot: usize, registry: &mio::Registry) -> io::Result<()> {
        let number = self.opened;
        let target = self.targets[usize::try_from(number).unwrap_or(0) % self.targets.len()];
        let begun = Instant::now();
        let socket = TcpStream::connect(target)?;
        self.generations[slot] += 1;
        let token = Token(self.generations[slot] * SLOTS + slot);
        let mut stream = Stream::new(socket, registry, token)?;
        let seed = pattern::mixed(self.salt.wrapping_add(number));
        (stream.outgoing, stream.incoming) = (seed, pattern::answers(seed));
        let left = match self.plan.life {
            Life::Endless => u64::MAX,
            Life::Once => 1,
            Life::UpTo(most) => 1 + seed % most.max(1),
        };
        self.slots[slot] = Some(Connection {
            stream,
            seed,
            begun,
            open: false,
            waiting: true,
            left,
        });
        self.opened += 1;
        self.asked += 1;
        self.set_up += 1;
        Ok(())
    }

    fn turn(&mut self, slot: usize) {
        if let Err(fault) = self.step(slot)
            && let Some(connection) = self.slots[slot].take()
        {
            if connection.stream.received < self.plan.size as u64 {
                self.set_up = self.set_up.saturating_sub(1);
            }
            let at = connection.stream.received;
            self.tally
                .fault(format!("client's end, {at} bytes answered: {fault}"));
        }
    }

    fn step(&mut self, slot: usize) -> io::Result<()> {
        let size = self.plan.size;
        let Some(connection) = &mut self.slots[slot] else {
            return Ok(());
        };
        if !connection.open {
            if !connection.stream.dialled()? {
                return Ok(());
            }
            let head = Head {
                mode: Mode::Answer,
                size: u32::try_from(size).unwrap_or(u32::MAX),
                seed: connection.seed,
            };
            connection.stream.write_head(&head, size)?;
            connection.open = true;
        }
        loop {
            match connection.stream.read(&mut self.buffer)? {
                Got::Nothing => return Ok(()),
                Got::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                Got::Bytes(_) if connection.stream.received < connection.stream.sent => {}
                Got::Bytes(_) if connection.waiting => return self.answered(slot),
                Got::Bytes(_) => return Err(io::Error::other("an answer that nobody asked for")),
            }
        }
    }

    fn answered(&mut self, slot: usize) -> io::Result<()> {
        let Some(connection) = &mut self.slots[slot] else {
            return Ok(());
        };
        if connection.stream.received == self.plan.size as u64 {
            self.set_up -= 1;
        }
        connection.waiting = false;
        connection.left -= 1;
        self.tally.add_operation();
        if self.tally.recording() {
            let latency = u64::try_from(connection.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.latencies.saturating_record(latency);
        }
        let enough = self.plan.total.is_some_and(|total| self.asked >= total);
        if connection.left == 0 || self.tally.stopping() || enough {
            self.slots[slot] = None;
            return Ok(());
        }
        match self.plan.pace {
            Pace::Closed => {
                self.asked += 1;
                connection.ask(self.plan.size, Instant::now())
            }
            Pace::Open(_) => {
                self.idle.push_back(slot);
                Ok(())
            }
            Pace::Hold => Ok(()),
        }
    }

    /// In an open loop: sends what is due on idle connections, and sets the timer for what comes next.
    fn send_due(&mut self, timer: &TimerFd) -> io::Result<()> {
        let Pace::Open(rate) = self.plan.pace else {
            return Ok(());
        };
        if self.tally.stopping() {
            // Kept connections have nothing left to wait for.
            while let Some(slot) = self.idle.pop_front() {
                self.slots[slot] = None;
            }
            return Ok(());
        }
        if self.schedule.is_none() && self.idle.len() == self.slots.len() {
            self.schedule = Some(Schedule::new(Instant::now(), rate));
        }
        let Some(schedule) = &mut self.schedule else {
            return Ok(());
        };
        let mut now = Instant::now();
        while let Some(slot) = self.idle.pop_front() {
            let Some(connection) = &mut self.slots[slot] else {
                continue;
            };
            let Some(planned) = schedule.take(now) else {
                self.idle.push_front(slot);
                let wait = schedule.planned().saturating_duration_since(now);
                let wait = TimeSpec::from_duration(wait.max(Duration::from_nanos(1)));
                timer.set(Expiration::OneShot(wait), TimerSetTimeFlags::empty())?;
                break;
            };
            self.asked += 1;
            connection.ask(self.plan.size, planned)?;
            now = Instant::now();
        }
        Ok(())
    }

    fn finished(&mut self) -> bool {
        if self.tally.stopping() && self.plan.pace == Pace::Hold {
            self.slots.iter_mut().for_each(|slot| *slot = None);
        }
        let over =
            self.tally.stopping() || self.plan.total.is_some_and(|total| self.asked >= total);
        over && self.slots.iter().all(Option::is_none)
    }

    fn waiting(&self) -> usize {
        self.slots
            .iter()
            .flatten()
            .filter(|connection| connection.waiting)
            .count()
    }
}

impl Connection {
    fn ask(&mut self, size: usize, planned: Instant) -> io::Result<()> {
        self.begun = planned;
        self.waiting = true;
        if self.stream.write(size)? != size {
            return Err(io::Error::other("a request did not fit into the socket"));
        }
        Ok(())
    }
}
