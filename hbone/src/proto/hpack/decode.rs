//! Decodes header blocks. Cost is bounded by the block's length: what the caller does not keep is never copied.

use super::huffman;
use super::table::Table;

/// The table that every peer may use until it has acknowledged our SETTINGS (RFC 9113 §6.5.2).
const DEFAULT_TABLE: usize = 4096;
/// Bytes of names that entries of one block may take over from older entries. Two bytes of a block can copy a whole
/// table; no header list that anybody accepts comes near this.
const MAX_COPIED: usize = 16 * DEFAULT_TABLE;

/// The header block is broken; the connection's HPACK state is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proto) struct Broken;

/// One direction's decoder.
#[derive(Debug)]
pub(in crate::proto) struct Decoder {
    table: Table,
    /// What a size update may ask for.
    limit: usize,
}

impl Decoder {
    pub(in crate::proto) fn new() -> Self {
        Self {
            table: Table::new(DEFAULT_TABLE),
            limit: DEFAULT_TABLE,
        }
    }

    /// The peer has acknowledged SETTINGS with this table size. Entries stay until its own size update, which an
    /// honest peer sends with its next block; a dishonest one has 4 KiB at most.
    pub(in crate::proto) fn limit(&mut self, limit: usize) {
        self.limit = limit.min(DEFAULT_TABLE);
    }

    /// Calls `field` with name and value of each field in order.
    pub(in crate::proto) fn decode(
        &mut self,
        block: &[u8],
        mut field: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Broken> {
        let mut rest = block;
        let (mut name_buf, mut value_buf) = (Vec::new(), Vec::new());
        let (mut updates_allowed, mut copied) = (2, 0);
        while let Some(&first) = rest.first() {
            if first & 0xe0 == 0x20 {
                let size = integer(&mut rest, 5)?;
                if updates_allowed == 0 || size > self.limit {
                    return Err(Broken);
                }
                updates_allowed -= 1;
                self.table.resize(size);
                continue;
            }
            updates_allowed = 0;
            if first & 0x80 != 0 {
                let index = integer(&mut rest, 7)?;
                let (name, value) = self.table.field(index).ok_or(Broken)?;
                field(name, value);
                continue;
            }
            // 01: literal with indexing; 0000, 0001: without.
            let indexed = first & 0x40 != 0;
            let index = integer(&mut rest, if indexed { 6 } else { 4 })?;
            let name = match index {
                0 => string(&mut rest, &mut name_buf)?.unwrap_or(&name_buf),
                _ => self.table.field(index).ok_or(Broken)?.0,
            };
            let value = string(&mut rest, &mut value_buf)?.unwrap_or(&value_buf);
            field(name, value);
            if indexed {
                copied += if index == 0 { 0 } else { name.len() };
                if copied > MAX_COPIED {
                    return Err(Broken);
                }
                let name = name.to_vec();
                self.table.insert(&name, value);
            }
        }
        Ok(())
    }
}

/// An integer with a prefix of `bits` (RFC 7541 §5.1); at most four more bytes.
fn integer(rest: &mut &[u8], bits: u32) -> Result<usize, Broken> {
    let mask = (1usize << bits) - 1;
    let (&first, mut tail) = rest.split_first().ok_or(Broken)?;
    let mut value = usize::from(first) & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (&byte, next) = tail.split_first().ok_or(Broken)?;
            tail = next;
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 21 {
                return Err(Broken);
            }
        }
    }
    *rest = tail;
    Ok(value)
}

/// A string literal (RFC 7541 §5.2): a slice of the block, or none when it was decoded into `buffer`.
fn string<'a>(rest: &mut &'a [u8], buffer: &mut Vec<u8>) -> Result<Option<&'a [u8]>, Broken> {
    let huffman_coded = rest.first().ok_or(Broken)? & 0x80 != 0;
    let len = integer(rest, 7)?;
    let (text, tail) = rest.split_at_checked(len).ok_or(Broken)?;
    *rest = tail;
    if !huffman_coded {
        return Ok(Some(text));
    }
    buffer.clear();
    huffman::decode(text, buffer).ok_or(Broken)?;
    Ok(None)
}
