//! Asks other servers: the bytes of the question go as they are, under an id and from a port that nobody can guess, and
//! the bytes of the reply come back. Called by `serve` for what the mesh does not know, and by `names`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use sys::netns::Netns;
use sys::socket::{self, ConnectOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};

use super::wire::{self, MAX_UDP, Request};

/// All tries of one question together: the C library gives up on a server after 5 s.
const DEADLINE: Duration = Duration::from_secs(5);
/// Each server is asked so often.
const ROUNDS: usize = 2;

/// How a client asked, and how its question goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// One packet.
    Udp,
    /// With a length in front.
    Tcp,
}

/// The servers.
#[derive(Debug, Clone)]
pub struct Upstream {
    servers: Arc<[SocketAddr]>,
    mark: Option<u32>,
}

/// From where is asked: inside of a pod's namespace the server sees the pod. `None` = from our own.
pub type Place = Option<Arc<Netns>>;

/// Nobody answered.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is nobody to ask.
    #[error("no name server is known")]
    NoServer,
    /// The last server's fault.
    #[error("name server {server}: {source}")]
    Server {
        /// Who.
        server: SocketAddr,
        /// What.
        source: io::Error,
    },
}

impl Upstream {
    /// Those servers, in order. `mark` is set on each socket, by which capture rules let them pass.
    pub fn new(servers: &[SocketAddr], mark: Option<u32>) -> Self {
        Self {
            servers: servers.into(),
            mark,
        }
    }

    /// What the first server says that answers the question of `packet`. A server that cannot tell makes room for the next.
    ///
    /// # Errors
    /// None answered in time.
    pub async fn ask(
        &self,
        place: &Place,
        transport: Transport,
        request: &Request,
        packet: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        let tries = self.servers.len() * ROUNDS;
        let (begin, mut last, mut poor) = (Instant::now(), Failure::NoServer, None);
        let mut passed: Vec<SocketAddr> = Vec::new();
        let each = DEADLINE / u32::try_from(tries).unwrap_or(u32::MAX).max(1);
        let turns = std::iter::repeat_n(&self.servers[..], ROUNDS).flatten();
        for (turn, server) in (1..).zip(turns) {
            if passed.contains(server) {
                continue;
            }
            // What a quick refusal leaves, the next ones have.
            let end = (begin + each * turn)
                .max(Instant::now() + each)
                .min(begin + DEADLINE);
            let asked = wire::with_id(packet, rand::rng().random());
            let answer = self.exchange(place, transport, *server, (request, &asked));
            let answer = timeout_at(end, answer).await;
            match answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(reply) if cannot_tell(&reply) => {
                    passed.push(*server);
                    poor = Some(reply);
                }
                Ok(reply) => return Ok(reply),
                Err(source) => {
                    let server = *server;
                    last = Failure::Server { server, source };
                }
            }
        }
        poor.ok_or(last)
    }

    async fn exchange(
        &self,
        place: &Place,
        transport: Transport,
        server: SocketAddr,
        (request, asked): (&Request, &[u8]),
    ) -> io::Result<Vec<u8>> {
        match transport {
            Transport::Udp => {
                let socket = inside(place, || socket::connect_udp(server, self.mark))?;
                udp(UdpSocket::from_std(socket)?, request, asked).await
            }
            Transport::Tcp => {
                let options = ConnectOptions {
                    mark: self.mark,
                    ..ConnectOptions::default()
                };
                let socket = inside(place, || socket::connect_tcp(server, &options))?;
                tcp(TcpStream::from_std(socket)?, request, asked).await
            }
        }
    }
}

/// SERVFAIL, NOTIMP, REFUSED.
fn cannot_tell(reply: &[u8]) -> bool {
    matches!(wire::code(reply), 2 | 4 | 5)
}

fn inside<T>(place: &Place, open: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match place {
        Some(netns) => netns.enter(open)?,
        None => open(),
    }
}

async fn udp(socket: UdpSocket, request: &Request, asked: &[u8]) -> io::Result<Vec<u8>> {
    socket.send(asked).await?;
    loop {
        // That nobody listens there comes as an error alone.
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        if ready.is_error() {
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
            let taken = || Err::<(), _>(io::Error::from(io::ErrorKind::WouldBlock));
            let _looked_at = socket.try_io(Interest::ERROR, taken);
        }
        match take_reply(&socket, request, asked) {
            Ok(Some(reply)) => return Ok(reply),
            // Late, forged, or of another kind: the right one may still come.
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Here and not in the future, so that a question that waits holds no buffer.
fn take_reply(socket: &UdpSocket, request: &Request, asked: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = [0; MAX_UDP + 1];
    let length = socket.try_recv(&mut buffer)?;
    let reply = request.reply(asked, &buffer[..length]);
    // Longer than we take, and so cut by the kernel.
    let whole = length <= MAX_UDP;
    Ok(reply.map(|reply| if whole { reply } else { request.truncated() }))
}

async fn tcp(mut socket: TcpStream, request: &Request, asked: &[u8]) -> io::Result<Vec<u8>> {
    socket.writable().await?;
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    socket.write_all(&framed(asked)).await?;
    let length = socket.read_u16().await?;
    let mut reply = vec![0; length.into()];
    socket.read_exact(&mut reply).await?;
    request.reply(asked, &reply).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the reply is not one to the question",
        )
    })
}

/// A message with its length in front.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(2 + message.len());
    bytes.extend(length.to_be_bytes());
    bytes.extend(&message[..length.into()]);
    bytes
}

#[cfg(test)]
mod tests;
