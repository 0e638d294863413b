//! Holds many live connections from one thread over epoll, asks each again and again whether it lives, opens new ones for
//! those that were cut, and judges every verdict by the history of policies.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use testkit::topology::Namespace;

use super::history::{CELLS, History, PORTS};

/// Each live connection is asked this often.
const ASK: Duration = Duration::from_millis(700);
/// New connections per look, so that cuts are seen while they are made.
const BURST: usize = 50;
/// New connections that try a cell which refused the last one, and how often.
const PROBES: usize = 4;
const PROBE: Duration = Duration::from_millis(50);
/// Neither answer nor end for so long: stuck.
const STUCK: Duration = Duration::from_secs(20);
/// Tokens from here on are listeners; odd ones below are servers, even ones clients.
const LISTENERS: usize = 1 << 32;

struct Client {
    socket: TcpStream,
    cell: usize,
    /// When the question was sent that is still open; a new connection's is its connect.
    asked: Option<Instant>,
    /// When it may be asked again.
    due: Instant,
    /// It has answered at least once.
    live: bool,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Tally {
    pub opened: usize,
    pub allowed: usize,
    pub refused: usize,
    pub answers: usize,
    pub most_live: usize,
    pub cuts: Vec<Duration>,
    pub wrong: Vec<String>,
}

/// Everything in flight.
pub struct Engine<'a> {
    poll: Poll,
    callers: Vec<&'a Namespace>,
    server: std::net::IpAddr,
    listeners: Vec<TcpListener>,
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    servers: Vec<Option<TcpStream>>,
    /// Connections of each cell that live or are being opened.
    held: [usize; CELLS],
    /// Cells that refused the last one: a few are tried again, not before then.
    refused: [Option<Instant>; CELLS],
    target: usize,
    pub tally: Tally,
    /// When the look before this one began: what is seen now happened after it.
    looked: Instant,
}

impl<'a> Engine<'a> {
    /// `target`: connections to hold in all.
    pub fn new(
        callers: Vec<&'a Namespace>,
        server: (&Namespace, std::net::IpAddr),
        target: usize,
    ) -> Result<Self> {
        let poll = Poll::new()?;
        let mut listeners = Vec::new();
        for (index, port) in PORTS.iter().enumerate() {
            let any = SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), *port);
            let listener = server.0.listen(any)?;
            listener.set_nonblocking(true)?;
            let mut listener = TcpListener::from_std(listener);
            poll.registry().register(
                &mut listener,
                Token(LISTENERS + index),
                Interest::READABLE,
            )?;
            listeners.push(listener);
        }
        Ok(Self {
            poll,
            callers,
            server: server.1,
            listeners,
            clients: Vec::new(),
            free: Vec::new(),
            servers: Vec::new(),
            held: [0; CELLS],
            refused: [None; CELLS],
            target,
            tally: Tally::default(),
            looked: Instant::now(),
        })
    }

    /// Works until `until`.
    pub fn run(&mut self, history: &History, until: Instant) -> Result<()> {
        let mut events = Events::with_capacity(4096);
        while Instant::now() < until {
            self.open_some()?;
            self.ask(history)?;
            let begin = Instant::now();
            let timeout = until.saturating_duration_since(begin).min(ASK / 20);
            self.poll.poll(&mut events, Some(timeout))?;
            for event in &events {
                let Token(token) = event.token();
                match token {
                    LISTENERS.. => self.accept(token - LISTENERS)?,
                    _ if token % 2 == 1 => self.serve(token / 2),
                    _ => self.client_event(token / 2, history),
                }
            }
            self.looked = begin;
        }
        let live = self.live();
        self.tally.most_live = self.tally.most_live.max(live);
        Ok(())
    }

    /// Connections that have answered and were not cut.
    pub fn live(&self) -> usize {
        self.clients
            .iter()
            .flatten()
            .filter(|client| client.live)
            .count()
    }

    /// Each cell holds its share, whatever the policy says of it now.
    fn open_some(&mut self) -> Result<()> {
        let share = self.target / CELLS;
        let mut room = BURST;
        for cell in 0..CELLS {
            let room_here = match self.refused[cell] {
                None => room,
                Some(again) if again <= Instant::now() => room.min(PROBES),
                Some(_) => 0,
            };
            let wanted = share.saturating_sub(self.held[cell]).min(room_here);
            if wanted == 0 {
                continue;
            }
            room -= wanted;
            let target = SocketAddr::new(self.server, PORTS[cell % PORTS.len()]);
            let begin = Instant::now();
            let sockets = self.callers[cell / PORTS.len()].run(|| {
                let connect = |_| TcpStream::connect(target);
                (0..wanted).map(connect).collect::<io::Result<Vec<_>>>()
            })??;
            for socket in sockets {
                self.add(socket, cell, begin)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, mut socket: TcpStream, cell: usize, begin: Instant) -> Result<()> {
        let index = self.free.pop().unwrap_or(self.clients.len());
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut socket, Token(index * 2), interest)?;
        let client = Client {
            socket,
            cell,
            asked: Some(begin),
            due: begin,
            live: false,
        };
        if index == self.clients.len() {
            self.clients.push(None);
        }
        self.clients[index] = Some(client);
        self.held[cell] += 1;
        self.tally.opened += 1;
        Ok(())
    }

    /// Asks those that are due.
    fn ask(&mut self, history: &History) -> Result<()> {
        for index in 0..self.clients.len() {
            let Some(client) = &mut self.clients[index] else {
                continue;
            };
            let now = Instant::now();
            if let Some(asked) = client.asked {
                ensure!(
                    now.duration_since(asked) < STUCK,
                    "neither answer nor end, live {}, cell {}",
                    client.live,
                    client.cell
                );
                continue;
            }
            if client.due > now {
                continue;
            }
            client.asked = Some(now);
            if client.socket.write(b"?").is_err() {
                self.ended(index, history);
            }
        }
        Ok(())
    }

    fn client_event(&mut self, index: usize, history: &History) {
        let Some(client) = &mut self.clients[index] else {
            return;
        };
        // The first question goes out once the connection stands; later ones are sent by `ask`.
        if !client.live && client.due <= client.asked.unwrap_or(client.due) {
            match client.socket.write(b"?") {
                Ok(_) => client.due = Instant::now() + ASK,
                Err(fault) if later(&fault) => return,
                Err(_) => return self.ended(index, history),
            }
        }
        let mut byte = [0; 16];
        // To the last: an end behind an answer makes no event of its own.
        while let Some(client) = &mut self.clients[index] {
            match client.socket.read(&mut byte) {
                Ok(0) => self.ended(index, history),
                Ok(_) => self.answered(index, history),
                Err(fault) if later(&fault) => return,
                Err(_) => self.ended(index, history),
            }
        }
    }

    fn answered(&mut self, index: usize, history: &History) {
        let Some(client) = &mut self.clients[index] else {
            return;
        };
        let now = Instant::now();
        let asked = client.asked.take().unwrap_or(now);
        client.due = now + ASK;
        let what = if client.live {
            "a live connection"
        } else {
            "a new connection"
        };
        self.tally.answers += 1;
        self.tally.allowed += usize::from(!client.live);
        client.live = true;
        self.refused[client.cell] = None;
        if !history.gives(client.cell, true, asked, now) {
            self.tally
                .wrong
                .push(format!("{what} of cell {} was allowed", client.cell));
        }
    }

    fn ended(&mut self, index: usize, history: &History) {
        let Some(client) = self.clients[index].take() else {
            return;
        };
        self.free.push(index);
        self.held[client.cell] -= 1;
        let now = Instant::now();
        let (what, begin) = match client.live {
            true => ("a live connection", self.looked),
            false => ("a new connection", client.asked.unwrap_or(self.looked)),
        };
        if !history.gives(client.cell, false, begin, now) {
            self.tally
                .wrong
                .push(format!("{what} of cell {} was denied", client.cell));
        }
        match client.live {
            true => {
                let since = history.forbidden_since(client.cell);
                self.tally
                    .cuts
                    .extend(since.map(|since| now.duration_since(since)));
            }
            false => {
                self.tally.refused += 1;
                self.refused[client.cell] = Some(now + PROBE);
            }
        }
    }

    fn accept(&mut self, index: usize) -> Result<()> {
        // Ends with `WouldBlock`; one that was reset meanwhile is found by its first read.
        while let Ok((mut socket, _)) = self.listeners[index].accept() {
            let token = Token(self.servers.len() * 2 + 1);
            self.poll
                .registry()
                .register(&mut socket, token, Interest::READABLE)?;
            self.servers.push(Some(socket));
        }
        Ok(())
    }

    /// Echo.
    fn serve(&mut self, index: usize) {
        let Some(socket) = &mut self.servers[index] else {
            return;
        };
        let mut bytes = [0; 16];
        loop {
            let echoed = match socket.read(&mut bytes) {
                Ok(0) => break,
                Ok(n) => socket.write_all(&bytes[..n]),
                Err(fault) if later(&fault) => return,
                Err(fault) => Err(fault),
            };
            if echoed.is_err() {
                break;
            }
        }
        self.servers[index] = None;
    }
}

fn later(fault: &io::Error) -> bool {
    matches!(
        fault.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected
    )
}
