//! The connection as its driver sees it: state, what can be asked, and the end. Streams are opened and written in
//! `send`, bytes are taken in `receive`, their control frames act in `control`.

use std::collections::VecDeque;

use super::config::Config;
use super::error::{ErrorCode, ProtocolError};
use super::event::{Event, StreamId};
use super::frame::{self, DEFAULT_FRAME, DEFAULT_WINDOW, PREFACE, kind, setting};
use super::hpack::{Decoder, Encoder};
use super::receive::Reading;
use super::streams::Streams;
use super::window::Probe;

/// Opaque bytes of our PINGs.
pub(super) const KEEPALIVE: [u8; 8] = *b"causeway";
/// Opaque bytes of the PING that measures a round trip between the two GOAWAYs of a graceful end.
pub(super) const DRAIN: [u8; 8] = *b"cw-drain";
/// How many of the streams that we reset last are remembered: HEADERS for them may still be under way. More than a
/// tunnel's streams (200), all of which a policy may cut at once.
const REMEMBERED: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

/// How far our own GOAWAY has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Going {
    No,
    /// Server: the first GOAWAY is out, its PING not yet answered.
    Announced,
    /// The last GOAWAY is out; it named this stream.
    Gone(u32),
}

/// What the peer's SETTINGS said, or their defaults.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) seen: bool,
    pub(super) initial_window: u32,
    pub(super) max_frame: u32,
    pub(super) max_streams: u32,
    /// Client: the peer takes no new streams.
    pub(super) going: bool,
}

/// One HTTP/2 connection that carries CONNECT tunnels, either role.
#[derive(Debug)]
pub struct Connection {
    pub(super) role: Role,
    pub(super) config: Config,
    pub(super) peer: Peer,
    pub(super) streams: Streams,
    pub(super) output: Vec<u8>,
    pub(super) reading: Reading,
    /// A frame header or a control payload of which a part has arrived. Empty and without memory in between.
    pub(super) partial: Vec<u8>,
    /// Events of one frame beyond the first.
    pub(super) pending: VecDeque<Event<'static>>,
    /// Streams that wait for credit of the connection, in order.
    pub(super) credit_queue: VecDeque<StreamId>,
    pub(super) send_window: i64,
    pub(super) recv_window: i64,
    /// Received bytes that the peer has not got connection credit for yet.
    pub(super) recv_credit: u32,
    /// The initial stream window that the peer may assume now.
    pub(super) assumed_window: u32,
    /// The driver's word on `Config::room`, at most that.
    pub(super) room: u64,
    pub(super) probe: Probe,
    pub(super) settings_acked: bool,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    /// The number of our next stream (client).
    pub(super) next_id: u32,
    /// The highest stream number of the peer (server).
    pub(super) last_id: u32,
    pub(super) going: Going,
    pub(super) ping_out: bool,
    recently_reset: VecDeque<u32>,
    resets: u32,
    control: u32,
}

impl Connection {
    /// The side that opens tunnels. The preface and SETTINGS wait in the output.
    pub fn client(config: Config) -> Self {
        let mut connection = Self::new(Role::Client, config);
        connection.output.extend_from_slice(PREFACE);
        connection.greet(&[
            (setting::ENABLE_PUSH, 0),
            (setting::MAX_CONCURRENT_STREAMS, 0),
        ]);
        connection
    }

    /// The side that accepts tunnels. SETTINGS wait in the output.
    pub fn server(config: Config) -> Self {
        let mut connection = Self::new(Role::Server, config);
        connection.greet(&[(
            setting::MAX_CONCURRENT_STREAMS,
            config.max_concurrent_streams,
        )]);
        connection
    }

    fn new(role: Role, mut config: Config) -> Self {
        let window = DEFAULT_WINDOW..=(1 << 31) - 1;
        config.stream_window = config.stream_window.clamp(1, *window.end());
        config.initial_window = config.initial_window.clamp(1, config.stream_window);
        config.connection_window = config
            .connection_window
            .clamp(*window.start(), *window.end());
        config.max_frame_size = config.max_frame_size.clamp(DEFAULT_FRAME, (1 << 24) - 1);
        config.header_table_size = config.header_table_size.min(4096);
        Self {
            role,
            config,
            peer: Peer {
                seen: false,
                initial_window: DEFAULT_WINDOW,
                max_frame: DEFAULT_FRAME,
                max_streams: config.assumed_streams,
                going: false,
            },
            streams: Streams::new(config.initial_window),
            output: Vec::new(),
            reading: Reading::first(role),
            partial: Vec::new(),
            pending: VecDeque::new(),
            credit_queue: VecDeque::new(),
            send_window: DEFAULT_WINDOW.into(),
            recv_window: config.connection_window.into(),
            recv_credit: 0,
            assumed_window: config.initial_window.max(DEFAULT_WINDOW),
            room: config.room as u64,
            probe: Probe::default(),
            settings_acked: false,
            decoder: Decoder::new(),
            encoder: Encoder::default(),
            next_id: 1,
            last_id: 0,
            going: Going::No,
            ping_out: false,
            recently_reset: VecDeque::new(),
            resets: 0,
            control: 0,
        }
    }

    /// SETTINGS, and the connection window raised to its size at once.
    fn greet(&mut self, of_role: &[(u16, u32)]) {
        let mut settings = of_role.to_vec();
        settings.extend([
            (setting::HEADER_TABLE_SIZE, self.config.header_table_size),
            (setting::INITIAL_WINDOW_SIZE, self.config.initial_window),
            (setting::MAX_FRAME_SIZE, self.config.max_frame_size),
            (setting::MAX_HEADER_LIST_SIZE, self.config.max_header_list),
        ]);
        frame::write_settings(&mut self.output, &settings);
        let raise = self.config.connection_window - DEFAULT_WINDOW;
        if raise > 0 {
            frame::write_credit(&mut self.output, 0, raise);
        }
    }

    /// Control frames that must be written before the next DATA. Take all of it (`append`, `drain(..)`).
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// How many streams may be opened now (client; 0 on a server).
    pub fn capacity(&self) -> usize {
        let closed = self.role == Role::Server
            || self.peer.going
            || self.going != Going::No
            || self.failure().is_some()
            || self.next_id > 0x7fff_ffff;
        if closed {
            0
        } else {
            (self.peer.max_streams as usize).saturating_sub(self.streams.len())
        }
    }

    /// How many streams the peer takes at once; none until its SETTINGS are here (client).
    pub fn stream_limit(&self) -> Option<u32> {
        self.peer.seen.then_some(self.peer.max_streams)
    }

    /// Whether the connection takes new streams at all, now or when others have ended.
    pub fn is_open(&self) -> bool {
        !self.peer.going && self.going == Going::No && self.failure().is_none()
    }

    /// How many streams exist.
    pub fn streams_len(&self) -> usize {
        self.streams.len()
    }

    /// All streams with their keys, e.g. to end them when the carrier broke.
    pub fn streams(&self) -> impl Iterator<Item = (StreamId, u64)> {
        self.streams
            .iter()
            .map(|(stream, state)| (stream, state.key))
    }

    /// Stores a number with the stream; 0 until set.
    pub fn set_key(&mut self, stream: StreamId, key: u64) {
        if let Some(state) = self.streams.stream_mut(stream) {
            state.key = key;
        }
    }

    /// The stored number; none for a stale stream.
    pub fn key(&self, stream: StreamId) -> Option<u64> {
        self.streams.stream(stream).map(|state| state.key)
    }

    /// Starts a graceful end. Server: GOAWAY in two steps (first without a limit, then after a round trip with the last
    /// stream), so that no request in flight is lost. Client: GOAWAY at once. Existing streams live on.
    pub fn drain(&mut self) {
        if self.going != Going::No || self.failure().is_some() {
            return;
        }
        match self.role {
            Role::Client => self.gone(ErrorCode::NO_ERROR),
            Role::Server => {
                self.going = Going::Announced;
                frame::write_goaway(&mut self.output, 0x7fff_ffff, ErrorCode::NO_ERROR);
                frame::write(&mut self.output, kind::PING, 0, 0, &DRAIN);
            }
        }
    }

    /// Whether a drain (ours, or the server's) has come to its end and no stream is left: close the carrier.
    pub fn is_drained(&self) -> bool {
        let going = matches!(self.going, Going::Gone(_)) || self.peer.going;
        going && self.streams.is_empty() && self.pending.is_empty()
    }

    /// Says GOAWAY with this code at once; the caller then closes the carrier.
    pub fn goaway(&mut self, code: ErrorCode) {
        if self.failure().is_none() {
            self.gone(code);
        }
    }

    pub(super) fn gone(&mut self, code: ErrorCode) {
        self.going = Going::Gone(self.last_id);
        frame::write_goaway(&mut self.output, self.last_id, code);
    }

    /// Sends a PING unless one is unanswered; says whether it did. [`Event::Pong`] follows. Call it only when idle.
    pub fn ping(&mut self) -> bool {
        if self.ping_out || self.failure().is_some() {
            return false;
        }
        self.ping_out = true;
        frame::write(&mut self.output, kind::PING, 0, 0, &KEEPALIVE);
        true
    }

    /// About a second has passed: flood counters start anew.
    pub fn tick(&mut self) {
        (self.resets, self.control) = (0, 0);
        self.tick_windows();
    }

    pub(super) fn failure(&self) -> Option<ProtocolError> {
        match self.reading {
            Reading::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// The peer made us end a stream early.
    pub(super) fn count_reset(&mut self) -> Result<(), ProtocolError> {
        self.resets += 1;
        within(self.resets <= self.config.limits.resets, "too many resets")
    }

    /// The peer sent a frame that carries nothing.
    pub(super) fn count_control(&mut self) -> Result<(), ProtocolError> {
        self.control += 1;
        within(
            self.control <= self.config.limits.control,
            "too many control frames",
        )
    }

    /// Something was added to the output because of what the peer sent.
    pub(super) fn check_output(&self) -> Result<(), ProtocolError> {
        within(
            self.output.len() <= self.config.limits.output,
            "replies are not read",
        )
    }

    /// Writes RST_STREAM and forgets the stream.
    pub(super) fn write_reset(&mut self, id: u32, code: ErrorCode) {
        frame::write_reset(&mut self.output, id, code);
        if self.recently_reset.len() == REMEMBERED {
            self.recently_reset.pop_front();
        }
        self.recently_reset.push_back(id);
    }

    pub(super) fn was_reset(&self, id: u32) -> bool {
        self.recently_reset.contains(&id)
    }

    /// Whether no stream of this number was ever opened.
    pub(super) fn is_unopened(&self, id: u32) -> bool {
        match self.role {
            Role::Client => id.is_multiple_of(2) || id >= self.next_id,
            Role::Server => id.is_multiple_of(2) || id > self.last_id,
        }
    }

    /// The next stream that waited and has both credits now.
    pub(super) fn next_credit(&mut self) -> Option<Event<'static>> {
        while self.send_window > 0 {
            let stream = self.credit_queue.pop_front()?;
            let Some(state) = self.streams.stream_mut(stream) else {
                continue;
            };
            state.queued = false;
            if state.send_window > 0 {
                return Some(Event::SendCredit {
                    stream,
                    key: state.key,
                });
            }
            state.starved = true;
        }
        None
    }
}

fn within(fine: bool, what: &'static str) -> Result<(), ProtocolError> {
    if fine {
        Ok(())
    } else {
        Err(ProtocolError {
            code: ErrorCode::ENHANCE_YOUR_CALM,
            what,
        })
    }
}
