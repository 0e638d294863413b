//! The narrow seam to TLS: ciphertext in, plaintext out (`open`), plaintext in, ciphertext out (`seal`), by rustls'
//! unbuffered API. No I/O. Called by `tunnel`.
//!
//! Two rules of that API shape this file. Undiscarded input must be shown again, at the same place, in *every* later
//! call, also in one that only wants to write: a peer may leave half of a post-handshake message pending, and rustls
//! remembers its offsets. So the rest is kept here (`held`), and shown when sealing. And sealed bytes leave in the order
//! in which they were made: everything goes to one [`Outgoing`].

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

use super::buffers::Outgoing;

/// Plaintext bytes per record.
pub(super) const RECORD: usize = 16_384;
/// Header, content type and tag of a record.
const OVERHEAD: usize = 22;
/// Room in front of the ciphertext: plaintext is put back there, over records that are used up, so that it stays in the
/// cache that has just seen it. One record more than has been used always fits.
pub(super) const FRONT: usize = RECORD;
/// A peer may leave a partial record (16 KiB) and a fragmented handshake message (64 KiB in rustls) pending, no more.
const MAX_HELD: usize = 128 << 10;

/// Why a TLS session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    /// rustls refused what the peer sent, or the peer sent an alert.
    #[error(transparent)]
    Refused(#[from] rustls::Error),
    /// Sealing before the handshake is done or after the end: a caller's defect, or the record limit of the key.
    #[error("the TLS session cannot send now")]
    NotWritable,
    /// The peer keeps more unfinished input pending than any honest one.
    #[error("the peer leaves {0} bytes of unfinished TLS messages pending")]
    TooMuchPending(usize),
}

/// What [`Tls::open`] found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opened {
    /// The handshake is done: `seal` may be called.
    pub(super) established: bool,
    /// The peer ended the session in order (close_notify); no byte follows.
    pub(super) closed: bool,
}

/// One TLS session, either role.
pub(super) struct Tls {
    side: Side,
    /// Input that is not yet used: a partial record, seldom more; nothing for a quiet session.
    held: Vec<u8>,
    /// An error ended it: rustls must not be asked again (it would try the bad input once more).
    failed: bool,
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

impl Tls {
    /// Client role. The name is not sent (SNI is off in our configurations), only the type wants one.
    pub(super) fn client(
        config: Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, TlsError> {
        let session = UnbufferedClientConnection::new(config, name)?;
        Ok(Self {
            side: Side::Client(session),
            held: Vec::new(),
            failed: false,
        })
    }

    /// Server role.
    pub(super) fn server(config: Arc<rustls::ServerConfig>) -> Result<Self, TlsError> {
        let session = UnbufferedServerConnection::new(config)?;
        Ok(Self {
            side: Side::Server(session),
            held: Vec::new(),
            failed: false,
        })
    }

    /// Puts the unused input of the last time into `rx`, behind [`FRONT`] free bytes. Returns where what is read from the
    /// socket goes.
    pub(super) fn resume(&self, rx: &mut [u8]) -> usize {
        let end = FRONT + self.held.len();
        rx[FRONT..end].copy_from_slice(&self.held);
        end
    }

    /// Works through `rx`: [`FRONT`] free bytes, what [`Tls::resume`] put there, what was read. Afterwards its first
    /// `plain` bytes are plaintext; what must be sent (handshake, key updates, alerts) is appended to `out`.
    ///
    /// # Errors
    /// The session is over; an alert for the peer may stand in `out`, and `plain` counts what came before.
    pub(super) fn open(
        &mut self,
        rx: &mut [u8],
        plain: &mut usize,
        out: &mut Outgoing,
    ) -> Result<Opened, TlsError> {
        *plain = 0;
        if self.failed {
            return Err(TlsError::NotWritable);
        }
        let mut used = FRONT.min(rx.len());
        let opened = match &mut self.side {
            Side::Client(session) => open(session, rx, &mut used, plain, out),
            Side::Server(session) => open(session, rx, &mut used, plain, out),
        };
        let rest = &rx[used..];
        self.failed = opened.is_err() || rest.len() > MAX_HELD;
        if self.failed {
            self.held = Vec::new();
            return Err(opened.err().unwrap_or(TlsError::TooMuchPending(rest.len())));
        }
        // A quiet session gives its buffer back.
        self.held = if rest.is_empty() {
            Vec::new()
        } else {
            rest.to_vec()
        };
        opened
    }

    /// Seals `plain` into records behind `out`, after whatever TLS itself has to say first.
    pub(super) fn seal(&mut self, plain: &[u8], out: &mut Outgoing) -> Result<(), TlsError> {
        self.write(out, |writer, out| {
            if plain.is_empty() {
                return Ok(());
            }
            let n = writer.encrypt(plain, out.room(sealed_size(plain.len())))?;
            out.grow(n);
            Ok(())
        })
    }

    /// Adds close_notify: the orderly end of our direction.
    pub(super) fn close(&mut self, out: &mut Outgoing) -> Result<(), TlsError> {
        self.write(out, |writer, out| {
            let n = writer.close_notify(out.room(2 * OVERHEAD))?;
            out.grow(n);
            Ok(())
        })
    }

    /// The peer's chain once it is known.
    pub(super) fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match &self.side {
            Side::Client(session) => session.peer_certificates(),
            Side::Server(session) => session.peer_certificates(),
        }
    }

    /// Bytes that a quiet session keeps beside the session itself.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    fn write(
        &mut self,
        out: &mut Outgoing,
        act: impl FnOnce(&mut dyn Writer, &mut Outgoing) -> Result<(), EncryptError>,
    ) -> Result<(), TlsError> {
        if self.failed {
            return Err(TlsError::NotWritable);
        }
        match &mut self.side {
            Side::Client(session) => write(session, &mut self.held, out, act),
            Side::Server(session) => write(session, &mut self.held, out, act),
        }
    }
}

/// Room that `plain` bytes need when sealed, with a key update before them.
pub(super) const fn sealed_size(plain: usize) -> usize {
    plain + (plain / RECORD + 4) * OVERHEAD + 64
}

/// The two session types without their role.
trait Session {
    type Data;
    /// A message waits to be encoded.
    fn has_output(&self) -> bool;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Session for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;
    fn has_output(&self) -> bool {
        self.wants_write()
    }
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

impl Session for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;
    fn has_output(&self) -> bool {
        self.wants_write()
    }
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

/// `WriteTraffic` without its role.
trait Writer {
    fn encrypt(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, EncryptError>;
    fn close_notify(&mut self, out: &mut [u8]) -> Result<usize, EncryptError>;
}

impl<Data> Writer for rustls::unbuffered::WriteTraffic<'_, Data> {
    fn encrypt(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, EncryptError> {
        self.encrypt(plain, out)
    }
    fn close_notify(&mut self, out: &mut [u8]) -> Result<usize, EncryptError> {
        self.queue_close_notify(out)
    }
}

fn open<S: Session>(
    session: &mut S,
    rx: &mut [u8],
    used: &mut usize,
    plain: &mut usize,
    out: &mut Outgoing,
) -> Result<Opened, TlsError> {
    let mut opened = Opened::default();
    loop {
        let (front, input) = rx.split_at_mut(*used);
        let UnbufferedStatus { mut discard, state } = session.process(input);
        let done = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    let end = *plain + record.payload.len();
                    let place = front.get_mut(*plain..end);
                    // Not reached: a record's plaintext is shorter than itself, and one of them fits beforehand.
                    place
                        .ok_or(TlsError::NotWritable)?
                        .copy_from_slice(record.payload);
                    *plain = end;
                }
                false
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(out, |room| data.encode(room));
                false
            }
            // `out` keeps the order and is sent from here on: for rustls that is as good as sent.
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                false
            }
            Ok(ConnectionState::PeerClosed) => {
                opened.closed = true;
                false
            }
            Ok(ConnectionState::WriteTraffic(_)) => {
                opened.established = true;
                true
            }
            Ok(ConnectionState::Closed) => {
                opened.closed = true;
                true
            }
            Ok(ConnectionState::BlockedHandshake) => true,
            // Early data is never offered nor accepted by our configurations; new states are not known here.
            Ok(_) => return Err(TlsError::NotWritable),
            Err(fault) => {
                *used += discard;
                last_words(session, &mut rx[*used..], out);
                return Err(fault.into());
            }
        };
        *used += discard;
        if done {
            return Ok(opened);
        }
    }
}

/// After an error rustls has an alert for the peer queued. It must be asked for nothing else: it would look at the bad
/// input again.
fn last_words<S: Session>(session: &mut S, rest: &mut [u8], out: &mut Outgoing) {
    while session.has_output() {
        let Ok(ConnectionState::EncodeTlsData(mut data)) = session.process(rest).state else {
            return;
        };
        encode(out, |room| data.encode(room));
    }
}

fn write<S: Session>(
    session: &mut S,
    held: &mut [u8],
    out: &mut Outgoing,
    act: impl FnOnce(&mut dyn Writer, &mut Outgoing) -> Result<(), EncryptError>,
) -> Result<(), TlsError> {
    loop {
        let UnbufferedStatus { discard, state } = session.process(held);
        // `open` left only an unfinished message here, so nothing can be used up now.
        debug_assert_eq!(discard, 0);
        match state? {
            ConnectionState::EncodeTlsData(mut data) => encode(out, |room| data.encode(room)),
            ConnectionState::TransmitTlsData(data) => data.done(),
            // Seen by `open` already when it came; here it only stands in the way once.
            ConnectionState::PeerClosed => {}
            ConnectionState::WriteTraffic(mut writer) => {
                return act(&mut writer, out).map_err(|_| TlsError::NotWritable);
            }
            _ => return Err(TlsError::NotWritable),
        }
    }
}

/// Encodes a queued TLS message; its size is known only from the first, refused, attempt.
fn encode(out: &mut Outgoing, mut into: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let mut room = 512;
    loop {
        match into(out.room(room)) {
            Ok(n) => return out.grow(n),
            Err(EncodeError::InsufficientSize(wanted)) => room = wanted.required_size,
            Err(EncodeError::AlreadyEncoded) => return,
        }
    }
}

#[cfg(test)]
mod tests;
