//! Takes the peer's bytes apart: preface, frame headers, DATA passed on as it comes, other frames collected whole
//! under caps. Called by the driver with whatever arrived, in pieces of any size.

use super::connection::{Connection, Role};
use super::data::Data;
use super::error::{ProtocolError, calm, frame_size, protocol};
use super::event::Event;
use super::frame::{HEAD, Head, PREFACE, flag, kind};

/// The largest SETTINGS payload that we read; honest ones have a few dozen entries.
const MAX_SETTINGS: u32 = 4096;

/// Where in the byte stream we are.
#[derive(Debug)]
pub(super) enum Reading {
    /// In the client's preface, this many bytes of it seen.
    Preface(usize),
    /// In front of or inside a frame header. `first`: it must be SETTINGS. `block`: it must be CONTINUATION.
    Head {
        first: bool,
        block: Option<Box<Block>>,
    },
    /// In DATA.
    Data(Data),
    /// Collecting a payload.
    Payload {
        head: Head,
        block: Option<Box<Block>>,
    },
    /// In bytes that mean nothing to us.
    Skip(u32),
    /// Over.
    Failed(ProtocolError),
}

const NEXT: Reading = Reading::Head {
    first: false,
    block: None,
};

impl Reading {
    pub(super) fn first(role: Role) -> Self {
        match role {
            Role::Client => Self::Head {
                first: true,
                block: None,
            },
            Role::Server => Self::Preface(0),
        }
    }
}

/// A header block of which a part has arrived.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) id: u32,
    pub(super) end_stream: bool,
    pub(super) frames: u32,
    pub(super) bytes: Vec<u8>,
}

impl Connection {
    /// Takes bytes from the peer, moving `input` forward, and returns the next event. `None`: the input is used up.
    /// The connection may be used freely between events.
    ///
    /// # Errors
    /// If the peer broke a connection rule. Final: every further call returns the same error.
    #[inline]
    pub fn receive<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let error = match self.advance(input) {
            Err(error) if self.failure().is_none() => error,
            result => return result,
        };
        self.gone(error.code);
        self.partial = Vec::new();
        self.reading = Reading::Failed(error);
        // Streams that ended with the last frame are reported first; then comes the error.
        match self.next_pending() {
            Some(event) => Ok(Some(event)),
            None => Err(error),
        }
    }

    fn advance<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, ProtocolError> {
        loop {
            if !self.pending.is_empty()
                && let Some(event) = self.next_pending()
            {
                return Ok(Some(event));
            }
            if !self.credit_queue.is_empty()
                && let Some(event) = self.next_credit()
            {
                return Ok(Some(event));
            }
            if let Reading::Data(data) = self.reading {
                match self.data(data, input)? {
                    Some(event) => return Ok(Some(event)),
                    None if matches!(self.reading, Reading::Data(_)) => return Ok(None),
                    None => continue,
                }
            }
            if input.is_empty() && !matches!(self.reading, Reading::Failed(_) | Reading::Skip(0)) {
                return Ok(None);
            }
            match &mut self.reading {
                Reading::Failed(error) => return Err(*error),
                Reading::Preface(seen) => {
                    let seen = *seen;
                    self.preface(seen, input)?;
                }
                Reading::Skip(left) => {
                    let n = input.len().min(*left as usize);
                    *input = &input[n..];
                    *left -= n as u32;
                    if *left == 0 {
                        self.reading = NEXT;
                    }
                }
                Reading::Head {
                    first: false,
                    block: None,
                } if self.partial.is_empty() => {
                    let before = input.len();
                    if let Some(event) = self.whole_data(input)? {
                        return Ok(Some(event));
                    }
                    if input.len() == before
                        && let Some(event) = self.head(false, None, input)?
                    {
                        return Ok(Some(event));
                    }
                }
                Reading::Head { first, block } => {
                    let (first, block) = (*first, block.take());
                    if let Some(event) = self.head(first, block, input)? {
                        return Ok(Some(event));
                    }
                }
                Reading::Payload { head, block } => {
                    let (head, block) = (*head, block.take());
                    if let Some(event) = self.payload(head, block, input)? {
                        return Ok(Some(event));
                    }
                }
                Reading::Data(_) => {}
            }
        }
    }

    fn preface(&mut self, seen: usize, input: &mut &[u8]) -> Result<(), ProtocolError> {
        let (part, rest) = input.split_at(input.len().min(PREFACE.len() - seen));
        let end = seen + part.len();
        if part != &PREFACE[seen..end] {
            return Err(protocol("not an HTTP/2 preface"));
        }
        *input = rest;
        self.reading = match end {
            _ if end == PREFACE.len() => Reading::Head {
                first: true,
                block: None,
            },
            _ => Reading::Preface(end),
        };
        Ok(())
    }

    fn head(
        &mut self,
        first: bool,
        block: Option<Box<Block>>,
        input: &mut &[u8],
    ) -> Result<Option<Event<'static>>, ProtocolError> {
        let bytes: Option<[u8; HEAD]> = match collect(&mut self.partial, input, HEAD) {
            Some(Collected::Here(bytes)) => bytes.first_chunk().copied(),
            Some(Collected::Joined(bytes)) => bytes.first_chunk().copied(),
            None => None,
        };
        match bytes {
            Some(bytes) => self.begin(Head::parse(bytes), first, block),
            None => {
                self.reading = Reading::Head { first, block };
                Ok(None)
            }
        }
    }

    fn payload(
        &mut self,
        head: Head,
        block: Option<Box<Block>>,
        input: &mut &[u8],
    ) -> Result<Option<Event<'static>>, ProtocolError> {
        let needed = needed(head);
        let collected = collect(&mut self.partial, input, needed);
        if collected.is_none() {
            self.reading = Reading::Payload { head, block };
            return Ok(None);
        }
        self.reading = Reading::Skip(head.len - needed as u32);
        match collected {
            Some(Collected::Here(bytes)) => self.frame(head, bytes, block),
            Some(Collected::Joined(bytes)) => self.frame(head, &bytes, block),
            None => Ok(None),
        }
    }

    /// The rest of what the last frame meant. An End behind a head takes effect only now, after the driver saw the head.
    fn next_pending(&mut self) -> Option<Event<'static>> {
        while let Some(event) = self.pending.pop_front() {
            let event = match event {
                Event::End { stream, .. } => self.ended(stream),
                event => Some(event),
            };
            if event.is_some() {
                return event;
            }
        }
        None
    }

    /// A frame header has arrived: checks what it allows to check, and decides how its payload is read.
    fn begin(
        &mut self,
        head: Head,
        first: bool,
        block: Option<Box<Block>>,
    ) -> Result<Option<Event<'static>>, ProtocolError> {
        if head.len > self.config.max_frame_size {
            return Err(frame_size("frame larger than announced"));
        }
        if first && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return Err(protocol("first frame is not SETTINGS"));
        }
        if let Some(block) = &block
            && (head.kind != kind::CONTINUATION || head.id != block.id)
        {
            return Err(protocol("header block interrupted"));
        }
        if head.kind == kind::DATA {
            self.begin_data(head)?;
            return Ok(None);
        }
        check_size(head)?;
        let on_stream = match head.kind {
            kind::SETTINGS | kind::PING | kind::GOAWAY => Some(false),
            kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::CONTINUATION => Some(true),
            _ => None,
        };
        if on_stream.is_some_and(|on_stream| on_stream != (head.id != 0)) {
            return Err(protocol("frame on a wrong stream number"));
        }
        match head.kind {
            kind::PUSH_PROMISE => return Err(protocol("PUSH_PROMISE")),
            kind::CONTINUATION if block.is_none() => {
                return Err(protocol("CONTINUATION without HEADERS"));
            }
            kind::HEADERS | kind::CONTINUATION if head.len > self.max_block() => {
                return Err(calm("header block too large"));
            }
            _ => {}
        }
        // A payload of no bytes is complete at once, but must not wait for more input: `Payload` asks for none.
        if needed(head) == 0 {
            self.reading = Reading::Skip(head.len);
            return self.frame(head, &[], block);
        }
        self.reading = Reading::Payload { head, block };
        Ok(None)
    }

    /// Compressed bytes of a header block that we collect at most.
    pub(super) fn max_block(&self) -> u32 {
        self.config.max_header_list.saturating_mul(2)
    }
}

/// Bytes of a payload that are looked at; the rest is skipped.
fn needed(head: Head) -> usize {
    match head.kind {
        kind::GOAWAY => 8,
        kind::HEADERS
        | kind::CONTINUATION
        | kind::RST_STREAM
        | kind::SETTINGS
        | kind::PING
        | kind::WINDOW_UPDATE => head.len as usize,
        _ => 0,
    }
}

fn check_size(head: Head) -> Result<(), ProtocolError> {
    let fits = match head.kind {
        kind::RST_STREAM | kind::WINDOW_UPDATE => head.len == 4,
        kind::PING => head.len == 8,
        kind::GOAWAY => head.len >= 8,
        kind::SETTINGS if head.has(flag::ACK) => head.len == 0,
        kind::SETTINGS => head.len.is_multiple_of(6),
        _ => true,
    };
    if head.kind == kind::SETTINGS && head.len > MAX_SETTINGS {
        return Err(calm("SETTINGS too large"));
    }
    if fits {
        Ok(())
    } else {
        Err(frame_size("frame of a wrong size"))
    }
}

enum Collected<'a> {
    /// The bytes lie in the input.
    Here(&'a [u8]),
    /// They came in pieces.
    Joined(Vec<u8>),
}

/// Takes `n` bytes off the input, or keeps what is there in `partial` until the rest has come.
fn collect<'a>(partial: &mut Vec<u8>, input: &mut &'a [u8], n: usize) -> Option<Collected<'a>> {
    if partial.is_empty()
        && let Some((bytes, rest)) = input.split_at_checked(n)
    {
        *input = rest;
        return Some(Collected::Here(bytes));
    }
    let (part, rest) = input.split_at(input.len().min(n - partial.len()));
    partial.extend_from_slice(part);
    *input = rest;
    (partial.len() == n).then(|| Collected::Joined(std::mem::take(partial)))
}
