//! Frame headers and the fixed frames (RFC 9113 §4, §6): numbers, parsing, writing.

use super::error::ErrorCode;

/// Length of a frame header.
pub(super) const HEAD: usize = 9;
/// What a client says first.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Windows at the start, until SETTINGS or WINDOW_UPDATE say otherwise.
pub(super) const DEFAULT_WINDOW: u32 = 65_535;
/// The frame payload that each side must accept.
pub(super) const DEFAULT_FRAME: u32 = 16_384;
/// No window may pass this.
pub(super) const MAX_WINDOW: i64 = (1 << 31) - 1;

/// Frame types.
pub(super) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Frame flags.
pub(super) mod flag {
    pub(crate) const ACK: u8 = 1;
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
    pub(crate) const PADDED: u8 = 8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// SETTINGS identifiers.
pub(super) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// A frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) len: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) id: u32,
}

impl Head {
    pub(super) fn parse(bytes: [u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, id @ ..] = bytes;
        Self {
            len: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            id: u32::from_be_bytes(id) & 0x7fff_ffff,
        }
    }

    pub(super) fn bytes(self) -> [u8; HEAD] {
        let [_, a, b, c] = self.len.to_be_bytes();
        let [d, e, f, g] = self.id.to_be_bytes();
        [a, b, c, self.kind, self.flags, d, e, f, g]
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends a frame whose payload is at hand.
pub(super) fn write(out: &mut Vec<u8>, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    let head = Head {
        len: payload.len() as u32,
        kind,
        flags,
        id,
    };
    out.extend_from_slice(&head.bytes());
    out.extend_from_slice(payload);
}

/// Appends SETTINGS.
pub(super) fn write_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let mut payload = Vec::with_capacity(settings.len() * 6);
    for (id, value) in settings {
        payload.extend_from_slice(&id.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    write(out, kind::SETTINGS, 0, 0, &payload);
}

/// Appends RST_STREAM.
pub(super) fn write_reset(out: &mut Vec<u8>, id: u32, code: ErrorCode) {
    write(out, kind::RST_STREAM, 0, id, &code.0.to_be_bytes());
}

/// Appends WINDOW_UPDATE; stream 0 is the connection.
pub(super) fn write_credit(out: &mut Vec<u8>, id: u32, credit: u32) {
    write(out, kind::WINDOW_UPDATE, 0, id, &credit.to_be_bytes());
}

/// Appends GOAWAY.
pub(super) fn write_goaway(out: &mut Vec<u8>, last: u32, code: ErrorCode) {
    let mut payload = [0; 8];
    payload[..4].copy_from_slice(&last.to_be_bytes());
    payload[4..].copy_from_slice(&code.0.to_be_bytes());
    write(out, kind::GOAWAY, 0, 0, &payload);
}

/// The first four bytes as a number; 0 if there are fewer (callers have checked the length).
pub(super) fn number(payload: &[u8]) -> u32 {
    payload
        .first_chunk()
        .map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
