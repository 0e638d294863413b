//! DATA: credit on receipt, bytes passed on as they come, padding, the end of a stream. Called by `receive`.

use super::connection::{Connection, Role};
use super::error::{ErrorCode, ProtocolError, calm, flow, frame_size, protocol};
use super::event::{Event, StreamId};
use super::frame::{self, Head, flag, kind};
use super::receive::Reading;

/// DATA frames below this count as small, bytes.
const SMALL: u32 = 256;

/// A DATA frame of which a part has arrived.
#[derive(Debug, Clone, Copy)]
pub(super) struct Data {
    /// None: the stream is gone, the bytes go nowhere.
    stream: Option<StreamId>,
    /// Payload bytes still to come, padding included.
    left: u32,
    padding: u32,
    /// The next byte is the length of the padding.
    pad_length: bool,
    end: bool,
}

impl Connection {
    /// A DATA frame of which everything lies in the input, the usual case: there is no state in between. None: it is
    /// another frame, or its bytes go nowhere; `input` has moved if so.
    #[inline]
    pub(super) fn whole_data<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let Some((head, rest)) = input.split_first_chunk() else {
            return Ok(None);
        };
        let head = Head::parse(*head);
        let plain = head.kind == kind::DATA && head.flags == 0 && head.len > 0;
        if !plain || head.len > self.config.max_frame_size {
            return Ok(None);
        }
        let Some((bytes, rest)) = rest.split_at_checked(head.len as usize) else {
            return Ok(None);
        };
        *input = rest;
        let stream = self.take_data(head)?;
        Ok(stream.and_then(|stream| self.arrived(stream, bytes)))
    }

    /// A DATA frame begins.
    pub(super) fn begin_data(&mut self, head: Head) -> Result<(), ProtocolError> {
        let stream = self.take_data(head)?;
        let (pad_length, left) = (head.has(flag::PADDED), head.len);
        if pad_length && left == 0 {
            return Err(frame_size("padded DATA without padding"));
        }
        self.reading = Reading::Data(Data {
            stream,
            left,
            padding: 0,
            pad_length,
            end: head.has(flag::END_STREAM),
        });
        Ok(())
    }

    /// Connection and stream take a DATA frame's whole length. None: its bytes are dropped.
    fn take_data(&mut self, head: Head) -> Result<Option<StreamId>, ProtocolError> {
        if head.id == 0 || self.is_unopened(head.id) {
            return Err(protocol("DATA on a stream that was never opened"));
        }
        if i64::from(head.len) > self.recv_window {
            return Err(flow("DATA beyond the connection's credit"));
        }
        self.recv_window -= i64::from(head.len);
        self.recv_credit += head.len;
        if self.recv_credit >= self.config.connection_window / 4 {
            frame::write_credit(&mut self.output, 0, self.recv_credit);
            self.recv_window += i64::from(self.recv_credit);
            self.recv_credit = 0;
        }
        if head.len == 0 && !head.has(flag::END_STREAM) {
            self.count_control()?;
        }
        self.admit_data(head)
    }

    /// Bytes of a stream for the driver.
    #[inline]
    fn arrived<'a>(&mut self, stream: StreamId, bytes: &'a [u8]) -> Option<Event<'a>> {
        let state = self.streams.stream_mut(stream)?;
        let n = bytes.len() as u32;
        state.unconsumed += n;
        state.arrived = state.arrived.saturating_add(n);
        let key = state.key;
        self.streams.held += u64::from(n);
        Some(Event::Data { stream, key, bytes })
    }

    /// Takes the stream's credit for a DATA frame. None: its bytes are dropped.
    fn admit_data(&mut self, head: Head) -> Result<Option<StreamId>, ProtocolError> {
        let client = self.role == Role::Client;
        let limit = self.config.limits.small_data;
        let Some(stream) = self.streams.find(head.id) else {
            self.stray_data(head.id)?;
            return Ok(None);
        };
        let Some(state) = self.streams.stream_mut(stream) else {
            return Ok(None);
        };
        let broken = if !state.recv_open {
            Some(ErrorCode::STREAM_CLOSED)
        } else if client && !state.answered {
            Some(ErrorCode::PROTOCOL_ERROR)
        } else if i64::from(head.len) > i64::from(state.recv_window) {
            Some(ErrorCode::FLOW_CONTROL_ERROR)
        } else {
            None
        };
        if let Some(code) = broken {
            self.stream_error(stream, code)?;
            return Ok(None);
        }
        state.recv_window -= head.len as i32;
        if head.len < SMALL && !head.has(flag::END_STREAM) {
            state.small += 1;
            if state.small > limit {
                return Err(calm("too many small DATA frames"));
            }
        }
        Ok(Some(stream))
    }

    /// DATA for a stream that is over. Behind a reset of ours it is only late; else the peer forgot what it said itself
    /// (RFC 9113 §5.1), and a reset tells it.
    fn stray_data(&mut self, id: u32) -> Result<(), ProtocolError> {
        if !self.was_reset(id) {
            self.write_reset(id, ErrorCode::STREAM_CLOSED);
            self.count_reset()?;
            self.check_output()?;
        }
        Ok(())
    }

    /// Passes on what has arrived of a DATA frame. Leaves `Reading::Data` when the frame is complete.
    #[inline]
    pub(super) fn data<'a>(
        &mut self,
        mut data: Data,
        input: &mut &'a [u8],
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        if data.pad_length {
            let Some((&padding, rest)) = input.split_first() else {
                return Ok(None);
            };
            *input = rest;
            data.pad_length = false;
            data.left -= 1;
            data.padding = padding.into();
            if data.padding > data.left {
                return Err(protocol("padding longer than its frame"));
            }
            self.credit_padding(data.stream, data.padding + 1);
        }
        let n = input.len().min((data.left - data.padding) as usize);
        if n > 0 {
            let (bytes, rest) = input.split_at(n);
            *input = rest;
            data.left -= n as u32;
            self.reading = Reading::Data(data);
            if let Some(stream) = data.stream
                && let Some(event) = self.arrived(stream, bytes)
            {
                return Ok(Some(event));
            }
        }
        if data.left > data.padding {
            self.reading = Reading::Data(data);
            return Ok(None);
        }
        self.reading = Reading::Skip(data.left);
        Ok(data
            .stream
            .filter(|_| data.end)
            .and_then(|stream| self.ended(stream)))
    }

    fn credit_padding(&mut self, stream: Option<StreamId>, padding: u32) {
        if let Some(stream) = stream {
            self.free(stream, padding);
        }
    }

    /// The peer closed its half.
    pub(super) fn ended(&mut self, stream: StreamId) -> Option<Event<'static>> {
        let state = self.streams.stream_mut(stream)?;
        state.recv_open = false;
        let (key, ours_open) = (state.key, state.send_open);
        if !ours_open {
            self.streams.remove(stream);
        }
        Some(Event::End { stream, key })
    }

    /// The peer broke the rules of one stream: it is reset, and the driver told.
    pub(super) fn stream_error(
        &mut self,
        stream: StreamId,
        code: ErrorCode,
    ) -> Result<(), ProtocolError> {
        if let Some(state) = self.streams.remove(stream) {
            self.write_reset(stream.id, code);
            self.pending.push_back(Event::Reset {
                stream,
                key: state.key,
                code,
            });
            self.count_reset()?;
            self.check_output()?;
        }
        Ok(())
    }
}
