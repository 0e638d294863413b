//! What every frame but DATA does: heads, SETTINGS, credit, resets, PING, GOAWAY.

use super::connection::{Connection, DRAIN, Going, KEEPALIVE, Role};
use super::error::{ErrorCode, ProtocolError, calm, flow, frame_size, protocol};
use super::event::{Event, HeadFault, StreamId};
use super::frame::{self, Head, MAX_WINDOW, flag, kind, number, setting};
use super::head::Fields;
use super::receive::{Block, Reading};
use super::window::PROBE;
use crate::headers::ConnectResponse;

type Outcome = Result<Option<Event<'static>>, ProtocolError>;

impl Connection {
    /// Acts on a frame whose needed payload has arrived.
    pub(super) fn frame(
        &mut self,
        head: Head,
        payload: &[u8],
        block: Option<Box<Block>>,
    ) -> Outcome {
        match head.kind {
            kind::HEADERS => self.headers(head, payload),
            kind::CONTINUATION => self.continuation(head, payload, block),
            kind::RST_STREAM => self.reset_received(head.id, ErrorCode(number(payload))),
            kind::SETTINGS => self.settings(head, payload),
            kind::PING => self.pinged(head, payload),
            kind::GOAWAY => {
                Ok(self.goaway_received(number(payload), ErrorCode(number(&payload[4..]))))
            }
            kind::WINDOW_UPDATE => self.credited(head.id, number(payload) & 0x7fff_ffff),
            kind::PRIORITY => self.priority(head),
            _ => {
                self.count_control()?;
                Ok(None)
            }
        }
    }

    fn priority(&mut self, head: Head) -> Outcome {
        self.count_control()?;
        if head.len != 5 {
            match self.streams.find(head.id) {
                Some(stream) => self.stream_error(stream, ErrorCode::FRAME_SIZE_ERROR)?,
                None => return Err(frame_size("PRIORITY of a wrong size")),
            }
        }
        Ok(None)
    }

    fn headers(&mut self, head: Head, payload: &[u8]) -> Outcome {
        let mut fragment = payload;
        if head.has(flag::PADDED) {
            let (&padding, rest) = fragment
                .split_first()
                .ok_or(frame_size("HEADERS too short"))?;
            let len = rest
                .len()
                .checked_sub(padding.into())
                .ok_or(protocol("padding longer than its frame"))?;
            fragment = &rest[..len];
        }
        if head.has(flag::PRIORITY) {
            fragment = fragment.get(5..).ok_or(frame_size("HEADERS too short"))?;
        }
        let end_stream = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.block(head.id, end_stream, fragment);
        }
        let block = Block {
            id: head.id,
            end_stream,
            frames: 0,
            bytes: fragment.to_vec(),
        };
        self.reading = Reading::Head {
            first: false,
            block: Some(Box::new(block)),
        };
        Ok(None)
    }

    fn continuation(&mut self, head: Head, payload: &[u8], block: Option<Box<Block>>) -> Outcome {
        let mut block = block.ok_or(protocol("CONTINUATION without HEADERS"))?;
        block.frames += 1;
        let bytes = block.bytes.len() + payload.len();
        if block.frames > self.config.limits.continuations || bytes > self.max_block() as usize {
            return Err(calm("header block too large"));
        }
        block.bytes.extend_from_slice(payload);
        if head.has(flag::END_HEADERS) {
            return self.block(block.id, block.end_stream, &block.bytes);
        }
        self.reading = Reading::Head {
            first: false,
            block: Some(block),
        };
        Ok(None)
    }

    /// A whole header block. It is always decoded, whatever it is for: HPACK has state.
    fn block(&mut self, id: u32, end: bool, block: &[u8]) -> Outcome {
        let mut fields = Fields::new(self.config.max_header_list);
        self.decoder
            .decode(block, |name, value| fields.push(name, value))
            .map_err(|_| ProtocolError {
                code: ErrorCode::COMPRESSION_ERROR,
                what: "header block broken",
            })?;
        if fields.are_a_bomb() {
            return Err(calm("header list far too large"));
        }
        match self.streams.find(id) {
            Some(stream) if self.role == Role::Client && self.awaits_response(stream) => {
                self.response(stream, fields, end)
            }
            Some(stream) => self.trailers(stream, &fields, end),
            None if self.role == Role::Server && id % 2 == 1 && id > self.last_id => {
                self.request(id, fields, end)
            }
            None if self.is_unopened(id) => {
                Err(protocol("HEADERS on a stream that was never opened"))
            }
            None if self.role == Role::Client || self.was_reset(id) => {
                self.count_control()?;
                Ok(None)
            }
            None => Err(ProtocolError {
                code: ErrorCode::STREAM_CLOSED,
                what: "HEADERS on a closed stream",
            }),
        }
    }

    fn awaits_response(&self, stream: StreamId) -> bool {
        self.streams
            .stream(stream)
            .is_some_and(|state| !state.answered)
    }

    fn response(&mut self, stream: StreamId, fields: Fields, end: bool) -> Outcome {
        let response = match fields.response() {
            Ok(response) if response.status < 200 && !end => {
                return self.count_control().map(|()| None);
            }
            Ok(response) if response.status >= 200 => response,
            _ => {
                self.stream_error(stream, ErrorCode::PROTOCOL_ERROR)?;
                return Ok(None);
            }
        };
        let Some(state) = self.streams.stream_mut(stream) else {
            return Ok(None);
        };
        state.answered = true;
        let key = state.key;
        if end {
            self.pending.push_back(Event::End { stream, key });
        }
        Ok(Some(Event::Response {
            stream,
            key,
            head: response,
        }))
    }

    fn trailers(&mut self, stream: StreamId, fields: &Fields, end: bool) -> Outcome {
        let open = self
            .streams
            .stream(stream)
            .is_some_and(|state| state.recv_open);
        let code = if open {
            ErrorCode::PROTOCOL_ERROR
        } else {
            ErrorCode::STREAM_CLOSED
        };
        if !open || !end || !fields.are_trailers() {
            self.stream_error(stream, code)?;
            return Ok(None);
        }
        Ok(self.ended(stream))
    }

    fn request(&mut self, id: u32, fields: Fields, end: bool) -> Outcome {
        self.last_id = id;
        let full = self.streams.len() >= self.config.max_concurrent_streams as usize;
        if full || self.is_beyond_goaway(id) {
            return self.refuse(id, HeadFault::Refused, end);
        }
        let request = match fields.request() {
            Ok(request) => request,
            Err(fault) => return self.refuse(id, fault, end),
        };
        let stream = self.insert(id);
        if end {
            self.pending.push_back(Event::End { stream, key: 0 });
        }
        let Some(head) = request else {
            // Whatever the answer is, the peer made us write one for nothing.
            self.count_reset()?;
            return Ok(Some(Event::OtherMethod { stream }));
        };
        Ok(Some(Event::Request { stream, head }))
    }

    fn refuse(&mut self, id: u32, fault: HeadFault, end: bool) -> Outcome {
        let status = match fault {
            HeadFault::Authority(_) => Some(400),
            HeadFault::TooLarge => Some(431),
            HeadFault::Malformed(_) | HeadFault::Refused => None,
        };
        match status {
            Some(status) => {
                let stream = self.insert(id);
                if end {
                    self.ended(stream);
                }
                self.respond(stream, &ConnectResponse::status(status), true);
            }
            None if fault == HeadFault::Refused => self.write_reset(id, ErrorCode::REFUSED_STREAM),
            None => self.write_reset(id, ErrorCode::PROTOCOL_ERROR),
        }
        self.count_reset()?;
        self.check_output()?;
        Ok(Some(Event::Refused { id, fault }))
    }

    fn reset_received(&mut self, id: u32, code: ErrorCode) -> Outcome {
        if self.is_unopened(id) {
            return Err(protocol("RST_STREAM on a stream that was never opened"));
        }
        let Some(stream) = self.streams.find(id) else {
            self.count_control()?;
            return Ok(None);
        };
        let Some(state) = self.streams.remove(stream) else {
            return Ok(None);
        };
        if self.role == Role::Server && !state.answered {
            self.count_reset()?;
        }
        Ok(Some(Event::Reset {
            stream,
            key: state.key,
            code,
        }))
    }

    fn credited(&mut self, id: u32, credit: u32) -> Outcome {
        if id == 0 {
            self.send_window += i64::from(credit);
            return match credit {
                0 => Err(protocol("WINDOW_UPDATE of 0")),
                _ if self.send_window > MAX_WINDOW => Err(flow("connection window too large")),
                _ => Ok(None),
            };
        }
        let Some(stream) = self.streams.find(id) else {
            let unopened = self.is_unopened(id);
            return if unopened {
                Err(protocol("WINDOW_UPDATE on a stream that was never opened"))
            } else {
                Ok(None)
            };
        };
        let Some(state) = self.streams.stream_mut(stream) else {
            return Ok(None);
        };
        let window = i64::from(state.send_window) + i64::from(credit);
        let Ok(window) = i32::try_from(window) else {
            self.stream_error(stream, ErrorCode::FLOW_CONTROL_ERROR)?;
            return Ok(None);
        };
        if credit == 0 {
            self.stream_error(stream, ErrorCode::PROTOCOL_ERROR)?;
            return Ok(None);
        }
        state.send_window = window;
        self.wake(stream);
        Ok(None)
    }

    /// Queues a stream that waited for its own credit and has some now.
    fn wake(&mut self, stream: StreamId) {
        let Some(state) = self.streams.stream_mut(stream) else {
            return;
        };
        if state.starved && state.send_window > 0 {
            state.starved = false;
            if !state.queued {
                state.queued = true;
                self.credit_queue.push_back(stream);
            }
        }
    }

    fn settings(&mut self, head: Head, payload: &[u8]) -> Outcome {
        if head.has(flag::ACK) {
            return self.settings_acknowledged();
        }
        if self.peer.seen {
            self.count_control()?;
        }
        for entry in payload.chunks_exact(6) {
            self.setting(
                u16::from_be_bytes([entry[0], entry[1]]),
                number(&entry[2..]),
            )?;
        }
        // A peer that names no limit of streams keeps the one that we assumed.
        self.peer.seen = true;
        frame::write(&mut self.output, kind::SETTINGS, flag::ACK, 0, &[]);
        self.check_output()?;
        Ok(Some(Event::Settings))
    }

    fn setting(&mut self, id: u16, value: u32) -> Result<(), ProtocolError> {
        match id {
            setting::HEADER_TABLE_SIZE => self.encoder.peer_table_size(value),
            setting::ENABLE_PUSH if value > 1 || (value == 1 && self.role == Role::Client) => {
                return Err(protocol("ENABLE_PUSH"));
            }
            setting::MAX_CONCURRENT_STREAMS => self.peer.max_streams = value,
            setting::INITIAL_WINDOW_SIZE => return self.initial_window(value),
            setting::MAX_FRAME_SIZE if !(16_384..1 << 24).contains(&value) => {
                return Err(protocol("MAX_FRAME_SIZE"));
            }
            setting::MAX_FRAME_SIZE => self.peer.max_frame = value,
            _ => {}
        }
        Ok(())
    }

    fn initial_window(&mut self, value: u32) -> Result<(), ProtocolError> {
        if i64::from(value) > MAX_WINDOW {
            return Err(flow("INITIAL_WINDOW_SIZE"));
        }
        let change = i64::from(value) - i64::from(self.peer.initial_window);
        if change == 0 {
            return Ok(());
        }
        if self.peer.seen {
            // Each costs a walk over all streams, and one frame has room for hundreds.
            self.count_control()?;
        }
        self.peer.initial_window = value;
        let mut woken = Vec::new();
        for (stream, state) in self.streams.iter_mut() {
            let window = i64::from(state.send_window) + change;
            state.send_window =
                i32::try_from(window).map_err(|_| flow("stream window too large"))?;
            if state.starved && window > 0 {
                woken.push(stream);
            }
        }
        for stream in woken {
            self.wake(stream);
        }
        Ok(())
    }

    fn settings_acknowledged(&mut self) -> Outcome {
        if self.settings_acked {
            self.count_control()?;
            return Ok(None);
        }
        self.settings_acked = true;
        self.decoder.limit(self.config.header_table_size as usize);
        self.initial_window_applies();
        Ok(None)
    }

    fn pinged(&mut self, head: Head, payload: &[u8]) -> Outcome {
        if !head.has(flag::ACK) {
            self.count_control()?;
            frame::write(&mut self.output, kind::PING, flag::ACK, 0, payload);
            self.check_output()?;
            return Ok(None);
        }
        if payload == DRAIN && self.going == Going::Announced {
            self.gone(ErrorCode::NO_ERROR);
            return Ok(None);
        }
        if payload == PROBE && self.probe.left > 0 {
            self.probed();
            return Ok(None);
        }
        if payload == KEEPALIVE && self.ping_out {
            self.ping_out = false;
            return Ok(Some(Event::Pong));
        }
        self.count_control()?;
        Ok(None)
    }

    fn goaway_received(&mut self, last: u32, code: ErrorCode) -> Option<Event<'static>> {
        let last = last & 0x7fff_ffff;
        if self.role == Role::Client {
            self.peer.going = true;
            let dropped: Vec<StreamId> = self
                .streams
                .iter()
                .map(|(stream, _)| stream)
                .filter(|stream| stream.id > last)
                .collect();
            for stream in dropped {
                if let Some(state) = self.streams.remove(stream) {
                    let code = ErrorCode::REFUSED_STREAM;
                    self.pending.push_back(Event::Reset {
                        stream,
                        key: state.key,
                        code,
                    });
                }
            }
        }
        Some(Event::GoAway { last, code })
    }
}
