//! Drives all ends of the volume test from one thread over epoll, and says what became of each connection.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use testkit::topology::Namespace;

use super::end::{End, Outcome, Shared, Stage, Turn};
use super::plan::{Pattern, Plan, Side};

/// Connections being opened at the same time: fewer than any backlog on the way holds.
const OPENING: usize = 100;
/// No byte and no event for so long: stuck.
const STUCK: Duration = Duration::from_secs(30);
/// No byte and no event for so long: everything on the way is full.
const QUIET: Duration = Duration::from_millis(500);
/// Tokens from here on are listeners.
const LISTENERS: usize = 1 << 32;

/// A pod that opens connections to the other one.
pub struct Place<'a> {
    pub namespace: &'a Namespace,
    /// Where its connections go.
    pub target: SocketAddr,
    /// Its own listener, reached by the other one.
    pub listener: std::net::TcpListener,
}

/// Everything in flight.
pub struct Engine<'a> {
    poll: Poll,
    places: [&'a Namespace; 2],
    targets: [SocketAddr; 2],
    listeners: [TcpListener; 2],
    plans: Vec<Plan>,
    ends: Vec<End>,
    /// Ends of each connection, by id: client, server.
    pub of: Vec<[Option<usize>; 2]>,
    shared: Vec<Shared>,
    active: VecDeque<usize>,
    /// Ends that wait for what others do.
    waiting: Vec<usize>,
    opened: usize,
    stage: Stage,
    pattern: Pattern,
    rng: SmallRng,
}

impl<'a> Engine<'a> {
    pub fn new(places: [Place<'a>; 2], plans: Vec<Plan>, seed: u64) -> Result<Self> {
        let poll = Poll::new()?;
        let (namespaces, targets) = (
            [places[0].namespace, places[1].namespace],
            [places[0].target, places[1].target],
        );
        let mut index = 0;
        let listeners = places.map(|place| -> Result<TcpListener> {
            place.listener.set_nonblocking(true)?;
            let mut listener = TcpListener::from_std(place.listener);
            poll.registry().register(
                &mut listener,
                Token(LISTENERS + index),
                Interest::READABLE,
            )?;
            index += 1;
            Ok(listener)
        });
        let [first, second] = listeners;
        Ok(Self {
            poll,
            places: namespaces,
            targets,
            listeners: [first?, second?],
            of: vec![[None, None]; plans.len()],
            shared: vec![Shared::default(); plans.len()],
            plans,
            ends: Vec::new(),
            active: VecDeque::new(),
            waiting: Vec::new(),
            opened: 0,
            stage: Stage::Opening,
            pattern: Pattern::new(),
            rng: SmallRng::seed_from_u64(seed),
        })
    }

    /// Opens everything and carries it to its end.
    ///
    /// # Errors
    /// When nothing moves any more although not everything has ended; the error lists who is stuck.
    pub fn run(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut moved = Instant::now();
        while !self.is_over() {
            self.open_some()?;
            let idle = self.active.is_empty();
            let timeout = if idle { QUIET } else { Duration::ZERO };
            self.poll.poll(&mut events, Some(timeout))?;
            for event in &events {
                self.event(event)?;
            }
            if self.turns() || !events.is_empty() {
                moved = Instant::now();
            } else if idle && self.stage == Stage::Open {
                self.advance(Stage::Flood);
            } else if moved.elapsed() > STUCK {
                bail!("stuck: {}", self.stuck());
            }
            self.lift_barrier();
        }
        Ok(())
    }

    /// What became of an end.
    pub fn outcome(&self, id: usize, side: Side) -> Option<(&Outcome, u64)> {
        let end = &self.ends[self.of[id][side as usize]?];
        Some((end.outcome.as_ref()?, end.received()))
    }

    /// Bytes that `side` of a connection gave to its socket.
    pub fn sent(&self, id: usize, side: Side) -> u64 {
        self.shared[id].sent[side as usize]
    }

    /// Ends that arrived at a server and were reset before they said who they are.
    pub fn nameless(&self) -> impl Iterator<Item = &Outcome> {
        let nameless = self.ends.iter().filter(|end| end.plan.is_none());
        nameless.filter_map(|end| end.outcome.as_ref())
    }

    fn is_over(&self) -> bool {
        self.opened == self.plans.len()
            && self.ends.iter().all(|end| end.outcome.is_some())
            && self
                .plans
                .iter()
                .all(|plan| plan.may_not_arrive() || self.has_arrived(plan))
    }

    fn has_arrived(&self, plan: &Plan) -> bool {
        let [client, server] = self.of[plan.id as usize];
        // A client that failed is judged by its outcome; its server need not be waited for.
        let failed = client
            .is_some_and(|client| matches!(self.ends[client].outcome, Some(Outcome::Fault(_))));
        server.is_some() || failed
    }

    /// Keeps a bounded number of connections on their way.
    fn open_some(&mut self) -> Result<()> {
        let arrived = self.plans[..self.opened]
            .iter()
            .filter(|plan| plan.may_not_arrive() || self.has_arrived(plan))
            .count();
        let room = (arrived + OPENING)
            .min(self.plans.len())
            .saturating_sub(self.opened);
        if room < OPENING / 2 && self.opened + room < self.plans.len() {
            return Ok(());
        }
        for from in 0..2 {
            let batch: Vec<Plan> = self.plans[self.opened..self.opened + room]
                .iter()
                .filter(|plan| plan.from == from)
                .copied()
                .collect();
            let target = self.targets[from];
            let sockets = self.places[from].run(|| {
                let connect = |_: &Plan| TcpStream::connect(target);
                batch.iter().map(connect).collect::<io::Result<Vec<_>>>()
            })??;
            for (plan, socket) in batch.into_iter().zip(sockets) {
                self.add(End::new(socket, Side::Client, Some(plan)))?;
            }
        }
        self.opened += room;
        Ok(())
    }

    fn add(&mut self, mut end: End) -> Result<()> {
        let index = self.ends.len();
        let socket = end.socket().context("a new end has a socket")?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(socket, Token(index), interest)?;
        if let Some(plan) = end.plan {
            self.of[plan.id as usize][end.side as usize] = Some(index);
        }
        self.ends.push(end);
        Ok(())
    }

    fn event(&mut self, event: &mio::event::Event) -> Result<()> {
        let Token(token) = event.token();
        if token >= LISTENERS {
            return self.accept(token - LISTENERS);
        }
        let end = &mut self.ends[token];
        end.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        end.writable |= event.is_writable();
        self.queue(token);
        Ok(())
    }

    fn accept(&mut self, place: usize) -> Result<()> {
        loop {
            match self.listeners[place].accept() {
                Ok((socket, _)) => self.add(End::new(socket, Side::Server, None))?,
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // One that was reset while it waited to be accepted.
                Err(fault) if fault.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(fault) => return Err(fault).context("accept"),
            }
        }
    }

    fn queue(&mut self, index: usize) {
        let end = &mut self.ends[index];
        if !end.queued && end.outcome.is_none() {
            end.queued = true;
            self.active.push_back(index);
        }
    }

    /// A turn for each active end. True: at least one of them moved.
    fn turns(&mut self) -> bool {
        let mut moved = false;
        for _ in 0..self.active.len() {
            let Some(index) = self.active.pop_front() else {
                break;
            };
            let end = &mut self.ends[index];
            end.queued = false;
            let turn = end.turn(&mut self.shared, &self.pattern, self.stage, &mut self.rng);
            if let (Some(plan), Some(_)) = (end.plan, &end.outcome) {
                self.shared[plan.id as usize].over[end.side as usize] = true;
            }
            if let Some(id) = end.named() {
                self.arrived(index, id);
            }
            match turn {
                Turn::More => self.queue(index),
                Turn::Other => self.waiting.push(index),
                Turn::Event => {}
            }
            moved |= turn == Turn::More;
        }
        if moved {
            for index in std::mem::take(&mut self.waiting) {
                self.queue(index);
            }
        }
        moved
    }

    fn arrived(&mut self, index: usize, id: u32) {
        let end = &mut self.ends[index];
        let known = self.of.get_mut(id as usize).filter(|of| of[1].is_none());
        let Some(of) = known else {
            end.outcome = Some(Outcome::Fault(format!("a header that names {id}")));
            return;
        };
        of[1] = Some(index);
        end.plan = Some(self.plans[id as usize]);
        self.queue(index);
    }

    /// Lets all send once everything that will arrive has arrived.
    fn lift_barrier(&mut self) {
        let all = self.opened == self.plans.len();
        let arrived = |plan: &Plan| plan.may_not_arrive() || self.has_arrived(plan);
        if self.stage == Stage::Opening && all && self.plans.iter().all(arrived) {
            self.advance(Stage::Open);
        }
    }

    fn advance(&mut self, stage: Stage) {
        self.stage = stage;
        for index in std::mem::take(&mut self.waiting) {
            self.queue(index);
        }
    }

    fn stuck(&self) -> String {
        let stuck: Vec<String> = self
            .ends
            .iter()
            .filter(|end| end.outcome.is_none())
            .map(End::describe)
            .collect();
        let absent = self.plans[..self.opened]
            .iter()
            .filter(|plan| !plan.may_not_arrive() && !self.has_arrived(plan));
        let some: Vec<&String> = stuck.iter().take(20).collect();
        format!(
            "{} ends live, {} connections never arrived; {some:#?}",
            stuck.len(),
            absent.count()
        )
    }
}
