//! Encodes header blocks with the static table and plain literals: no state, nothing to keep for an idle connection.

use super::table::STATIC;

const METHOD: usize = 2;
const STATUS: usize = 8;

/// One direction's encoder. Its only state is a duty: when the peer lowers its table size, the next block must begin
/// with a size update (RFC 7541 §4.2), even from an encoder that uses no table.
#[derive(Debug, Default)]
pub(in crate::proto) struct Encoder {
    size_update: bool,
    updated: bool,
}

impl Encoder {
    /// The peer announced this table size.
    pub(in crate::proto) fn peer_table_size(&mut self, size: u32) {
        self.size_update = size < 4096 && !self.updated;
    }

    /// To be called before the first field of each block.
    pub(in crate::proto) fn begin(&mut self, out: &mut Vec<u8>) {
        if self.size_update {
            out.push(0x20);
            self.size_update = false;
            self.updated = true;
        }
    }

    /// `:method: CONNECT`
    pub(in crate::proto) fn connect(&self, out: &mut Vec<u8>) {
        integer(out, 0, 4, METHOD);
        string(out, b"CONNECT");
    }

    /// `:status`
    pub(in crate::proto) fn status(&self, out: &mut Vec<u8>, status: u16) {
        let text = status.to_string();
        match STATIC
            .iter()
            .position(|(name, value)| *name == b":status" && *value == text.as_bytes())
        {
            Some(at) => integer(out, 0x80, 7, at + 1),
            None => {
                integer(out, 0, 4, STATUS);
                string(out, text.as_bytes());
            }
        }
    }

    /// Any field; well-known names become an index.
    pub(in crate::proto) fn field(&self, out: &mut Vec<u8>, name: &str, value: &[u8]) {
        match STATIC
            .iter()
            .position(|(known, _)| *known == name.as_bytes())
        {
            Some(at) => integer(out, 0, 4, at + 1),
            None => {
                out.push(0);
                string(out, name.as_bytes());
            }
        }
        string(out, value);
    }
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

fn integer(out: &mut Vec<u8>, flags: u8, bits: u32, value: usize) {
    let mask = (1usize << bits) - 1;
    if value < mask {
        out.push(flags | value as u8);
        return;
    }
    out.push(flags | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
