//! The record layer of an open TLS 1.3 session (RFC 8446, section 5): rustls shakes hands and keeps the key schedule,
//! records are opened and sealed here, from the caller's buffer into the caller's buffer, without a copy or an allocation
//! between. No I/O. Called by `tls`; docs/decisions/0026 says why.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::{AlertDescription, ConnectionTrafficSecrets, ContentType, Error, ExtractedSecrets};
use rustls::{HandshakeType, InvalidMessage, PeerMisbehaved};

use super::{HEADER, MAX_SEALED, Opened, Outgoing, RECORD, TlsError};

/// The tag of both suites that our configurations offer.
const TAG: usize = 16;
/// Records that one key may seal: half of 2^24, which RFC 8446, section 5.5 allows for AES-GCM. Then the key is updated.
const KEY_LIFE: u64 = 1 << 23;
/// Records in a row that carry no application byte (key updates, tickets, empty ones).
const FRUITLESS: u32 = 32;
/// A post-handshake message is at most as long as rustls takes one.
const MAX_MESSAGE: usize = 0xffff;
/// "No update wanted in turn" (RFC 8446, section 4.6.3).
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// Both directions of an open session.
pub(super) struct Records {
    tx: Half,
    rx: Half,
    schedule: Schedule,
    /// The front of a post-handshake message that spans records.
    message: Vec<u8>,
    fruitless: u32,
    /// The peer wants our key updated; done before the next record, once however often it asked.
    pub(super) update_due: bool,
    /// Records that our key may seal.
    key_life: u64,
    /// The peer sent close_notify.
    ended: bool,
    /// We sent close_notify.
    closed: bool,
}

/// One direction's key and the number of its next record.
struct Half {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

/// rustls' key schedule, which makes the next secrets.
enum Schedule {
    Client(Box<KernelConnection<ClientConnectionData>>),
    Server(Box<KernelConnection<ServerConnectionData>>),
}

impl Records {
    /// Takes the session over from a client that has just shaken hands.
    pub(super) fn client(session: UnbufferedClientConnection) -> Result<Self, Error> {
        let (secrets, schedule) = session.dangerous_into_kernel_connection()?;
        Self::new(secrets, Schedule::Client(Box::new(schedule)))
    }

    /// As [`Records::client`].
    pub(super) fn server(session: UnbufferedServerConnection) -> Result<Self, Error> {
        let (secrets, schedule) = session.dangerous_into_kernel_connection()?;
        Self::new(secrets, Schedule::Server(Box::new(schedule)))
    }

    fn new(secrets: ExtractedSecrets, schedule: Schedule) -> Result<Self, Error> {
        Ok(Self {
            tx: Half::new(secrets.tx)?,
            rx: Half::new(secrets.rx)?,
            schedule,
            message: Vec::new(),
            fruitless: 0,
            update_due: false,
            key_life: KEY_LIFE,
            ended: false,
            closed: false,
        })
    }

    /// Opens every whole record of `rx` from `used` on to the place behind `plain`, which always lies before the record
    /// itself. What the peer must be told is sealed into `out`.
    ///
    /// # Errors
    /// The session is over; an alert for the peer stands in `out`.
    pub(super) fn open(
        &mut self,
        rx: &mut [u8],
        used: &mut usize,
        plain: &mut usize,
        out: &mut Outgoing,
    ) -> Result<Opened, TlsError> {
        let opened = self.open_all(rx, used, plain);
        if let Err(fault) = &opened
            && let Some(alert) = last_word(fault)
        {
            // Sealing fails only for a key past its life; then there is nothing more to say.
            let _ = self.tx.seal(ContentType::Alert, &[2, alert.into()], out);
        }
        opened.map_err(TlsError::Refused)?;
        Ok(Opened {
            established: true,
            closed: self.ended,
        })
    }

    fn open_all(
        &mut self,
        rx: &mut [u8],
        used: &mut usize,
        plain: &mut usize,
    ) -> Result<(), Error> {
        while !self.ended {
            let (front, input) = rx.split_at_mut(*used);
            let Some((header, rest)) = input.split_first_chunk::<HEADER>() else {
                return Ok(());
            };
            let sealed = sealed_len(header)?;
            let Some(record) = rest.get(..sealed) else {
                return Ok(());
            };
            let (cipher, tag) = record.split_at(sealed - TAG);
            // Not reached: what records open to is shorter than they are, and one of them fits beforehand.
            let place = front.get_mut(*plain..*plain + cipher.len());
            let place = place.ok_or(Error::PeerSentOversizedRecord)?;
            self.rx.open(*header, cipher, tag, place)?;
            *used += HEADER + sealed;
            let (kind, len) = inner(place)?;
            self.understand(kind, &place[..len])?;
            if kind == ContentType::ApplicationData {
                *plain += len;
            }
        }
        // Nothing counts behind close_notify.
        *used = rx.len();
        Ok(())
    }

    fn understand(&mut self, kind: ContentType, content: &[u8]) -> Result<(), Error> {
        if kind != ContentType::Handshake && !self.message.is_empty() {
            return Err(unexpected());
        }
        if kind == ContentType::ApplicationData && !content.is_empty() {
            self.fruitless = 0;
            return Ok(());
        }
        self.fruitless += 1;
        let many = |what| match self.fruitless > FRUITLESS {
            true => Err(Error::PeerMisbehaved(what)),
            false => Ok(()),
        };
        match (kind, content) {
            (ContentType::ApplicationData, _) => many(PeerMisbehaved::TooManyEmptyFragments),
            (ContentType::Alert, [_, alert]) => match AlertDescription::from(*alert) {
                AlertDescription::CloseNotify => {
                    self.ended = true;
                    Ok(())
                }
                AlertDescription::UserCanceled => {
                    many(PeerMisbehaved::TooManyWarningAlertsReceived)
                }
                alert => Err(Error::AlertReceived(alert)),
            },
            (ContentType::Handshake, [_, ..]) => {
                many(PeerMisbehaved::TooManyKeyUpdateRequests)?;
                self.message.extend_from_slice(content);
                self.messages()
            }
            _ => Err(unexpected()),
        }
    }

    /// Works through the whole post-handshake messages that have come.
    fn messages(&mut self) -> Result<(), Error> {
        while let Some((&[kind, high, middle, low], rest)) = self.message.split_first_chunk::<4>() {
            let len = u32::from_be_bytes([0, high, middle, low]) as usize;
            if len > MAX_MESSAGE {
                return Err(Error::InvalidMessage(
                    InvalidMessage::HandshakePayloadTooLarge,
                ));
            }
            let Some(body) = rest.get(..len) else {
                return Ok(());
            };
            match (HandshakeType::from(kind), body) {
                (HandshakeType::KeyUpdate, [wanted @ (0 | 1)]) => {
                    if rest.len() > 1 {
                        // RFC 8446, section 5.1: nothing may stand behind it under the old key.
                        return Err(Error::PeerMisbehaved(
                            PeerMisbehaved::KeyEpochWithPendingFragment,
                        ));
                    }
                    self.update_due |= *wanted == 1;
                    self.rx = Half::new(self.schedule.next_rx()?)?;
                }
                // Resumption is off: a ticket is of no use.
                (HandshakeType::NewSessionTicket, _) if self.schedule.is_client() => {}
                _ => return Err(unexpected()),
            }
            self.message.drain(..4 + len);
        }
        if self.message.is_empty() {
            // A quiet session holds nothing.
            self.message = Vec::new();
        }
        Ok(())
    }

    /// Seals `plain` into records behind `out`.
    pub(super) fn seal(&mut self, plain: &[u8], out: &mut Outgoing) -> Result<(), TlsError> {
        if self.closed {
            return Err(TlsError::NotWritable);
        }
        for content in plain.chunks(RECORD) {
            if self.update_due || self.tx.sequence >= self.key_life {
                self.update_key(out)?;
            }
            self.tx.seal(ContentType::ApplicationData, content, out)?;
        }
        Ok(())
    }

    /// Tells the peer that the next record has a new key, and takes it.
    fn update_key(&mut self, out: &mut Outgoing) -> Result<(), Error> {
        self.tx.seal(ContentType::Handshake, &KEY_UPDATE, out)?;
        self.tx = Half::new(self.schedule.next_tx()?)?;
        self.update_due = false;
        Ok(())
    }

    /// Adds close_notify.
    pub(super) fn close(&mut self, out: &mut Outgoing) -> Result<(), TlsError> {
        if self.closed {
            return Err(TlsError::NotWritable);
        }
        self.closed = true;
        Ok(self.tx.seal(ContentType::Alert, &[1, 0], out)?)
    }
}

impl Half {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            _ => return Err(Error::General("a suite that was not offered".into())),
        };
        let short = || Error::General("a key of the wrong length".into());
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| short())?;
        Ok(Self {
            key: LessSafeKey::new(key),
            iv: iv.as_ref().try_into().map_err(|_| short())?,
            sequence,
        })
    }

    /// RFC 8446, section 5.3. Each number is used once: it has moved on when this returns.
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        let number = self.sequence.to_be_bytes();
        for (byte, one) in nonce[NONCE_LEN - number.len()..].iter_mut().zip(number) {
            *byte ^= one;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn open(
        &mut self,
        header: [u8; HEADER],
        cipher: &[u8],
        tag: &[u8],
        into: &mut [u8],
    ) -> Result<(), Error> {
        let nonce = self.nonce();
        self.key
            .open_separate_gather(nonce, Aad::from(header), cipher, tag, into)
            .map_err(|_| Error::DecryptError)
    }

    fn seal(&mut self, kind: ContentType, content: &[u8], out: &mut Outgoing) -> Result<(), Error> {
        let sealed = content.len() + 1 + TAG;
        let [high, low] = u16::try_from(sealed)
            .map_err(|_| Error::EncryptError)?
            .to_be_bytes();
        let header = [ContentType::ApplicationData.into(), 3, 3, high, low];
        let room = &mut out.room(HEADER + sealed)[..HEADER + sealed];
        let (head, record) = room.split_at_mut(HEADER);
        head.copy_from_slice(&header);
        let (cipher, tail) = record.split_at_mut(content.len());
        let (nonce, kind) = (self.nonce(), [kind.into()]);
        self.key
            .seal_out_of_place_scatter(nonce, Aad::from(header), content, cipher, &kind, tail)
            .map_err(|_| Error::EncryptError)?;
        out.grow(HEADER + sealed);
        Ok(())
    }
}

impl Schedule {
    fn is_client(&self) -> bool {
        matches!(self, Self::Client(_))
    }

    fn next_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(schedule) => schedule.update_tx_secret(),
            Self::Server(schedule) => schedule.update_tx_secret(),
        }
    }

    fn next_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(schedule) => schedule.update_rx_secret(),
            Self::Server(schedule) => schedule.update_rx_secret(),
        }
    }
}

/// The length of a protected record (RFC 8446, section 5.2) from its header.
fn sealed_len(&[kind, _, _, high, low]: &[u8; HEADER]) -> Result<usize, Error> {
    let len = usize::from(u16::from_be_bytes([high, low]));
    if ContentType::from(kind) != ContentType::ApplicationData {
        // Under keys every record says so: anything else is no word of the peer.
        return Err(unexpected());
    }
    match len {
        0..=TAG => Err(Error::DecryptError),
        _ if len > MAX_SEALED => Err(Error::PeerSentOversizedRecord),
        _ => Ok(len),
    }
}

/// What an opened record is and how long: its type is the last byte that is no padding.
fn inner(opened: &[u8]) -> Result<(ContentType, usize), Error> {
    let len = opened.iter().rposition(|byte| *byte != 0);
    let len = len.ok_or_else(unexpected)?;
    if len > RECORD {
        return Err(Error::PeerSentOversizedRecord);
    }
    Ok((ContentType::from(opened[len]), len))
}

fn unexpected() -> Error {
    Error::InvalidMessage(InvalidMessage::InvalidContentType)
}

/// The alert that a fault is told by (RFC 8446, section 6.2). An alert is not answered.
fn last_word(fault: &Error) -> Option<AlertDescription> {
    Some(match fault {
        Error::AlertReceived(_) => return None,
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge) => {
            AlertDescription::DecodeError
        }
        Error::InvalidMessage(_) | Error::PeerMisbehaved(_) => AlertDescription::UnexpectedMessage,
        _ => AlertDescription::InternalError,
    })
}

#[cfg(test)]
mod tests;
