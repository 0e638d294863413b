//! The narrow seam to TLS: ciphertext in, plaintext out (`open`), plaintext in, ciphertext out (`seal`). rustls shakes
//! hands by its unbuffered API; then `records` takes over. No I/O. Called by `tunnel`.
//!
//! Three rules shape this file. rustls sees one record at a time, so that none is opened by it that was sealed under
//! the keys that `records` takes over. Undiscarded input must be shown to it again, at the same place, in *every* later
//! call: a peer may leave half of a handshake message pending, and rustls remembers its offsets. And sealed bytes leave
//! in the order in which they were made: everything goes to one [`Outgoing`].

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};

use super::buffers::Outgoing;
use records::Records;

mod records;

/// Plaintext bytes per record.
pub(super) const RECORD: usize = 16_384;
/// The header of a record.
const HEADER: usize = 5;
/// Header, content type and tag of a record.
const OVERHEAD: usize = 22;
/// A record's payload may be so long when sealed (RFC 8446, section 5.2).
const MAX_SEALED: usize = RECORD + 256;
/// Room in front of the ciphertext: plaintext is put there, over records that are used up, so that it stays in the
/// cache that has just seen it. One record more than has been used always fits.
pub(super) const FRONT: usize = MAX_SEALED;
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
    stage: Stage,
    /// Input that is not yet used: a partial record, seldom more; nothing for a quiet session.
    held: Vec<u8>,
    /// The peer's chain, from the end of the handshake until it is taken.
    peer: Option<Vec<CertificateDer<'static>>>,
}

enum Stage {
    Client(Box<UnbufferedClientConnection>, Shown),
    Server(Box<UnbufferedServerConnection>, Shown),
    Open(Records),
    /// An error ended it: rustls must not be asked again (it would try the bad input once more).
    Failed,
}

/// So many bytes of the unused input has rustls seen.
type Shown = usize;

impl Tls {
    /// Client role. The name is not sent (SNI is off in our configurations), only the type wants one.
    pub(super) fn client(
        config: Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, TlsError> {
        let session = UnbufferedClientConnection::new(config, name)?;
        Ok(Self::new(Stage::Client(Box::new(session), 0)))
    }

    /// Server role.
    pub(super) fn server(config: Arc<rustls::ServerConfig>) -> Result<Self, TlsError> {
        let session = UnbufferedServerConnection::new(config)?;
        Ok(Self::new(Stage::Server(Box::new(session), 0)))
    }

    fn new(stage: Stage) -> Self {
        Self {
            stage,
            held: Vec::new(),
            peer: None,
        }
    }

    /// Puts the unused input of the last time into `rx`, behind [`FRONT`] free bytes. Returns where what is read from the
    /// socket goes.
    pub(super) fn resume(&self, rx: &mut [u8]) -> usize {
        let end = FRONT + self.held.len();
        rx[FRONT..end].copy_from_slice(&self.held);
        end
    }

    /// Works through `rx`: [`FRONT`] free bytes, what [`Tls::resume`] put there, what was read. Afterwards its first
    /// `plain` bytes are plaintext; what must be sent (handshake, alerts) is appended to `out`.
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
        let mut used = FRONT.min(rx.len());
        let opened = self.advance(rx, &mut used, plain, out);
        let rest = &rx[used..];
        if opened.is_err() || rest.len() > MAX_HELD {
            self.stage = Stage::Failed;
            self.held = Vec::new();
            return Err(opened.err().unwrap_or(TlsError::TooMuchPending(rest.len())));
        }
        if rest.is_empty() {
            // A quiet session gives its buffer back.
            self.held = Vec::new();
        } else {
            self.held.clear();
            self.held.extend_from_slice(rest);
        }
        opened
    }

    fn advance(
        &mut self,
        rx: &mut [u8],
        used: &mut usize,
        plain: &mut usize,
        out: &mut Outgoing,
    ) -> Result<Opened, TlsError> {
        let done = match &mut self.stage {
            Stage::Client(session, shown) => shake(session.as_mut(), shown, rx, used, out)?,
            Stage::Server(session, shown) => shake(session.as_mut(), shown, rx, used, out)?,
            Stage::Open(records) => return records.open(rx, used, plain, out),
            Stage::Failed => return Err(TlsError::NotWritable),
        };
        if !done {
            return Ok(Opened::default());
        }
        let mut records = match std::mem::replace(&mut self.stage, Stage::Failed) {
            Stage::Client(session, _) => {
                self.peer = session.peer_certificates().map(<[_]>::to_vec);
                Records::client(*session)?
            }
            Stage::Server(session, _) => {
                self.peer = session.peer_certificates().map(<[_]>::to_vec);
                Records::server(*session)?
            }
            Stage::Open(_) | Stage::Failed => return Err(TlsError::NotWritable),
        };
        // Application bytes may stand right behind the handshake.
        let opened = records.open(rx, used, plain, out);
        self.stage = Stage::Open(records);
        opened
    }

    /// Seals `plain` into records behind `out`, after whatever TLS itself has to say first.
    pub(super) fn seal(&mut self, plain: &[u8], out: &mut Outgoing) -> Result<(), TlsError> {
        match &mut self.stage {
            Stage::Open(records) => records.seal(plain, out),
            _ => Err(TlsError::NotWritable),
        }
    }

    /// Adds close_notify: the orderly end of our direction.
    pub(super) fn close(&mut self, out: &mut Outgoing) -> Result<(), TlsError> {
        match &mut self.stage {
            Stage::Open(records) => records.close(out),
            _ => Err(TlsError::NotWritable),
        }
    }

    /// The peer's chain, once: whom it names is all that stays of it.
    pub(super) fn take_peer_certificates(&mut self) -> Option<Vec<CertificateDer<'static>>> {
        self.peer.take()
    }

    /// Bytes that a quiet session keeps beside the session itself.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held.len()
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

/// Shows rustls one record after the other until the handshake is done (true) or no whole record is left.
fn shake<S: Session>(
    session: &mut S,
    shown: &mut Shown,
    rx: &mut [u8],
    used: &mut usize,
    out: &mut Outgoing,
) -> Result<bool, TlsError> {
    loop {
        let end = *used + *shown;
        let (discard, done) = ask(session, &mut rx[*used..end], out)?;
        *used += discard;
        *shown -= discard;
        if done {
            // What rustls saw and did not use would be lost to `records`.
            return match *shown {
                0 => Ok(true),
                _ => Err(TlsError::NotWritable),
            };
        }
        match next_record(&rx[end..]) {
            Some(len) => *shown += len,
            None => return Ok(false),
        }
    }
}

/// The length of the whole record at the front of `input`, if there is one. What no record of a handshake can be is
/// given as it is: rustls says why.
fn next_record(input: &[u8]) -> Option<usize> {
    let header: &[u8; HEADER] = input.first_chunk()?;
    let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
    let sound = matches!(header[0], 20..=23) && len <= MAX_SEALED;
    if !sound {
        return Some(input.len());
    }
    (input.len() >= HEADER + len).then_some(HEADER + len)
}

/// One look of rustls at `input`. Returns how much of it is used up, and whether the handshake is done.
fn ask<S: Session>(
    session: &mut S,
    input: &mut [u8],
    out: &mut Outgoing,
) -> Result<(usize, bool), TlsError> {
    let mut used = 0;
    loop {
        let UnbufferedStatus { discard, state } = session.process(&mut input[used..]);
        used += discard;
        match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(out, |room| data.encode(room)),
            // `out` keeps the order and is sent from here on: for rustls that is as good as sent.
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::WriteTraffic(_)) => return Ok((used, true)),
            Ok(ConnectionState::BlockedHandshake) => return Ok((used, false)),
            // An end before the handshake's, or application bytes: neither is offered nor accepted that early.
            Ok(_) => return Err(TlsError::NotWritable),
            Err(fault) => {
                last_words(session, &mut input[used..], out);
                return Err(fault.into());
            }
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
