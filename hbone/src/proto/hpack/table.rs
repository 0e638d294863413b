//! The tables of HPACK: the static one (RFC 7541 Appendix A) and the dynamic one under a hard cap.

use std::collections::VecDeque;

/// What RFC 7541 §4.1 adds to each entry's length.
const OVERHEAD: usize = 32;

/// Index 1 is the first.
pub(super) const STATIC: [(&[u8], &[u8]); 61] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];

/// The dynamic table, newest entry first. Holds no memory until the peer puts something in.
#[derive(Debug)]
pub(super) struct Table {
    entries: VecDeque<Entry>,
    /// By RFC 7541 §4.1.
    size: usize,
    max_size: usize,
}

#[derive(Debug)]
struct Entry {
    name_len: usize,
    /// Name and value, one after the other.
    text: Box<[u8]>,
}

impl Table {
    pub(super) fn new(max_size: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            max_size,
        }
    }

    /// The field at an index of the joint address space (1 is the first static one).
    pub(super) fn field(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let index = index.checked_sub(1)?;
        if let Some(field) = STATIC.get(index) {
            return Some(*field);
        }
        let entry = self.entries.get(index - STATIC.len())?;
        Some(entry.text.split_at(entry.name_len))
    }

    pub(super) fn resize(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.evict(0);
        if max_size == 0 {
            self.entries = VecDeque::new();
        }
    }

    /// Inserts a field; one that does not fit empties the table.
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8]) {
        let size = name.len() + value.len() + OVERHEAD;
        self.evict(size);
        if size <= self.max_size {
            self.entries.push_front(Entry {
                name_len: name.len(),
                text: [name, value].concat().into(),
            });
            self.size += size;
        }
    }

    fn evict(&mut self, room: usize) {
        while self.size + room > self.max_size {
            let Some(entry) = self.entries.pop_back() else {
                break;
            };
            self.size -= entry.text.len() + OVERHEAD;
        }
    }
}
