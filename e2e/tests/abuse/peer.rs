//! A peer with a valid certificate that speaks TLS well and HTTP/2 as an attack says. Used by `abuse.rs`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use identity::{Certificate, Identity, handshake};
use testkit::echo;
use testkit::mesh::Pod;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::attacks::{Attack, End, Target, frame, hello};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// A victim that does nothing at all for so long has failed the test.
const SILENCE: Duration = Duration::from_secs(20);
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
/// What the last PING of an attack says.
const STILL_THERE: &[u8; 8] = b"still up";
/// Rounds are sent together up to this size.
const CHUNK: usize = 16 << 10;

/// Who attacks whom.
pub struct Front {
    pub from: Pod,
    pub to: SocketAddr,
    pub certificate: Arc<Certificate>,
    pub victim: Identity,
    pub target: Target,
}

/// What came of one attack.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    pub end: End,
    /// Plaintext bytes that were sent.
    pub sent: u64,
    /// From the last byte to the GOAWAY, or to the answer of the last PING.
    pub took: Duration,
}

impl Front {
    /// One connection behind its TLS handshake.
    pub async fn dial(&self) -> Result<impl AsyncRead + AsyncWrite + Unpin + use<>> {
        let stream = echo::connect(&self.from.net.ns, self.to)?;
        stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(stream)?;
        stream.set_nodelay(true)?;
        let accepted = std::slice::from_ref(&self.victim);
        let connected = handshake::connect(stream, &self.certificate, accepted, HANDSHAKE);
        Ok(connected.await?.0)
    }

    /// One connection that has said its preface.
    pub async fn connect(&self) -> Result<impl AsyncRead + AsyncWrite + Unpin + use<>> {
        let mut stream = self.dial().await?;
        stream.write_all(&hello()).await?;
        Ok(stream)
    }

    /// Carries out an attack on a connection, and keeps that if it is not closed.
    pub async fn attack<S>(&self, stream: S, attack: &Attack) -> Result<(Outcome, Option<S>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let write = async {
            let sent = self.rounds(&mut writer, attack).await;
            (sent, Instant::now())
        };
        let read = async {
            let answer = tokio::time::timeout(SILENCE, answer(&mut reader)).await;
            (answer, Instant::now())
        };
        let ((sent, written), (answer, answered)) = tokio::join!(write, read);
        let end = answer.with_context(|| format!("{}: silence", attack.name))??;
        let outcome = Outcome {
            end,
            sent,
            took: answered.saturating_duration_since(written),
        };
        let stream = reader.unsplit(writer);
        Ok((outcome, (end == End::Endured).then_some(stream)))
    }

    /// Sends all rounds and a PING behind them, as far as the victim lets it; how much it was.
    async fn rounds(&self, writer: &mut (impl AsyncWrite + Unpin), attack: &Attack) -> u64 {
        let (mut sent, mut chunk) = (0, Vec::new());
        for round in 0..=attack.rounds {
            if round < attack.rounds {
                chunk.extend((attack.round)(&self.target, round));
                if chunk.len() < CHUNK {
                    continue;
                }
            } else {
                chunk.extend(frame(PING, 0, 0, STILL_THERE));
            }
            if writer.write_all(&chunk).await.is_err() {
                // Closed meanwhile: the reader says how.
                return sent;
            }
            sent += chunk.len() as u64;
            chunk.clear();
        }
        let _or_closed = writer.flush().await;
        sent
    }
}

/// Reads until a GOAWAY with an error, or the answer to the last PING.
async fn answer(reader: &mut (impl AsyncRead + Unpin)) -> Result<End> {
    let mut head = [0; 9];
    loop {
        reader
            .read_exact(&mut head)
            .await
            .context("closed without a GOAWAY")?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; len];
        reader.read_exact(&mut payload).await?;
        match (head[3], head[4], &payload[..]) {
            (PING, ACK, payload) if payload == STILL_THERE => return Ok(End::Endured),
            (GOAWAY, _, [_, _, _, _, code @ ..]) => match code.first_chunk() {
                Some(code) => return Ok(End::Closed(u32::from_be_bytes(*code))),
                None => bail!("a short GOAWAY"),
            },
            _ => {}
        }
    }
}
