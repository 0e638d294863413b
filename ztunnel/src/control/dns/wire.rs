//! Messages as bytes: what a client asks, what we answer, whether a reply belongs to a question. Pure; any bytes may come.
//! Called by `serve` and `forward`.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// Longest question that we read. Usual ones have less than 100 bytes.
pub const MAX_QUERY: usize = 4096;
/// Longest answer over UDP, whatever the client says that it takes; more is asked for over TCP.
pub const MAX_UDP: usize = 4096;
/// Longest message over TCP.
pub const MAX_TCP: usize = 65_535;

/// Upstream's: short, because addresses of headless services come and go.
const TTL: u32 = 30;
/// What UDP carries without EDNS.
const PLAIN_UDP: u16 = 512;
const HEADER: usize = 12;
/// No honest name has more.
const MAX_CNAMES: usize = 16;

/// A question that can be answered.
#[derive(Debug, Clone)]
pub struct Request {
    /// Type of the records wanted.
    pub kind: RecordType,
    /// The name, as it was written.
    pub name: Name,
    message: Message,
    /// Where the question ends in the packet.
    question_end: usize,
}

/// A packet that is not such a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Not to be answered: too short, or itself an answer (two servers could go on for ever).
    Ignore,
    /// Answered with a fault.
    Fault(Vec<u8>),
}

/// Reads a packet.
pub fn read(packet: &[u8]) -> Result<Request, Unusable> {
    let [id0, id1, flags, _, rest @ ..] = packet else {
        return Err(Unusable::Ignore);
    };
    if packet.len() < HEADER || flags & 0x80 != 0 {
        return Err(Unusable::Ignore);
    }
    let id = u16::from_be_bytes([*id0, *id1]);
    let op_code = OpCode::from_u8((flags >> 3) & 0x0f);
    let fault = |code| Unusable::Fault(bare(id, op_code, code));
    if op_code != OpCode::Query {
        return Err(fault(ResponseCode::NotImp));
    }
    // One question, no answers, no authorities: looked at before anything is decoded, which would make room for as many as
    // the header claims.
    let usual =
        rest.starts_with(&[0, 1, 0, 0, 0, 0, 0]) && rest.get(7).is_some_and(|more| *more <= 4);
    let Some(question_end) = question_end(packet).filter(|_| usual && packet.len() <= MAX_QUERY)
    else {
        return Err(fault(ResponseCode::FormErr));
    };
    let message = Message::from_vec(packet).map_err(|_| fault(ResponseCode::FormErr))?;
    let [query] = message.queries.as_slice() else {
        return Err(fault(ResponseCode::FormErr));
    };
    let request = Request {
        kind: query.query_type(),
        name: query.name().clone(),
        question_end,
        message,
    };
    if request
        .message
        .edns
        .as_ref()
        .is_some_and(|edns| edns.version() > 0)
    {
        return Err(Unusable::Fault(request.empty(ResponseCode::BADVERS)));
    }
    if request.message.queries[0].query_class() != DNSClass::IN {
        return Err(Unusable::Fault(request.empty(ResponseCode::Refused)));
    }
    Ok(request)
}

impl Request {
    /// Bytes that an answer over UDP may have.
    pub fn udp_limit(&self) -> usize {
        let edns = self.message.edns.as_ref();
        let taken = edns.map_or(PLAIN_UDP, |edns| edns.max_payload().max(PLAIN_UDP));
        usize::from(taken).min(MAX_UDP)
    }

    /// An answer with `addresses`, as many as fit `limit` bytes. With `meant`, a CNAME leads there first.
    pub fn addresses(&self, meant: Option<&str>, addresses: &[IpAddr], limit: usize) -> Vec<u8> {
        let mut message = self.response(ResponseCode::NoError);
        message.metadata.authoritative = true;
        let mut owner = HEADER;
        if let Some(mut meant) = meant.and_then(|meant| Name::from_ascii(meant).ok()) {
            meant.set_fqdn(true);
            let alias = RData::CNAME(CNAME(meant));
            message.add_answer(Record::from_rdata(self.name.clone(), TTL, alias));
            // The target stands behind the head of its record, which is the first.
            owner = self.question_end + POINTED_RECORD;
        }
        let mut bytes = encode(&message);
        if bytes.len() < HEADER {
            return bytes;
        }
        if bytes.len() > limit {
            // Two long names alone can be too much.
            return self.truncated();
        }
        // Records go in front of OPT. Written here, because the encoder compresses some hundred names and no more.
        let tail = bytes.split_off(bytes.len() - message.edns.as_ref().map_or(0, |_| OPT));
        let mut count = message.answers.len();
        for address in addresses {
            let size = POINTED_RECORD + if address.is_ipv4() { 4 } else { 16 };
            if bytes.len() + tail.len() + size > limit || count == usize::from(u16::MAX) {
                bytes[2] |= TRUNCATED;
                break;
            }
            put_address(&mut bytes, owner, *address);
            count += 1;
        }
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        bytes[6..8].copy_from_slice(&count.to_be_bytes());
        bytes.extend(tail);
        bytes
    }

    /// An answer that the name exists and has no such record.
    pub fn no_record(&self) -> Vec<u8> {
        let mut message = self.response(ResponseCode::NoError);
        message.metadata.authoritative = true;
        encode(&message)
    }

    /// An answer without records.
    pub fn empty(&self, code: ResponseCode) -> Vec<u8> {
        encode(&self.response(code))
    }

    /// An answer that says: ask again over TCP.
    pub fn truncated(&self) -> Vec<u8> {
        let mut message = self.response(ResponseCode::NoError);
        message.metadata.truncation = true;
        encode(&message)
    }

    /// What `reply` from another server to the packet `asked` is to the client: itself, under the client's id. `None`: it
    /// belongs to another question, or is none.
    pub fn reply(&self, asked: &[u8], reply: &[u8]) -> Option<Vec<u8>> {
        let head = reply.get(..HEADER)?;
        let same_kind = head[2] & 0xf8 == 0x80;
        if head[..2] != asked[..2] || !same_kind {
            return None;
        }
        // Some servers leave the question out when they refuse it.
        if head[4..6] == [0, 0] && code(reply) != 0 {
            return Some(self.empty(ResponseCode::from(0, code(reply))));
        }
        let (ours, theirs) = (
            asked.get(HEADER..self.question_end)?,
            reply.get(HEADER..self.question_end)?,
        );
        if head[4..6] != [0, 1] || !theirs.eq_ignore_ascii_case(ours) {
            return None;
        }
        let mut bytes = reply.to_vec();
        bytes[..2].copy_from_slice(&self.message.metadata.id.to_be_bytes());
        Some(bytes)
    }

    fn response(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.message.metadata.id, OpCode::Query);
        message.metadata.recursion_desired = self.message.metadata.recursion_desired;
        message.metadata.checking_disabled = self.message.metadata.checking_disabled;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_queries(self.message.queries.iter().cloned());
        if let Some(asked) = &self.message.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().max(PLAIN_UDP));
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            message.set_edns(edns);
        }
        message
    }
}

/// A record whose name is a pointer, without its address.
const POINTED_RECORD: usize = 12;
/// OPT without options.
const OPT: usize = 11;
/// The TC bit of a message's third byte.
const TRUNCATED: u8 = 0x02;

/// An address record whose name stands at `owner`.
fn put_address(bytes: &mut Vec<u8>, owner: usize, address: IpAddr) {
    let pointer = 0xc000 | u16::try_from(owner).unwrap_or(0x3fff);
    let (kind, length) = match address {
        IpAddr::V4(_) => (RecordType::A, 4_u16),
        IpAddr::V6(_) => (RecordType::AAAA, 16),
    };
    bytes.extend(pointer.to_be_bytes());
    bytes.extend(u16::from(kind).to_be_bytes());
    bytes.extend(u16::from(DNSClass::IN).to_be_bytes());
    bytes.extend(TTL.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    match address {
        IpAddr::V4(address) => bytes.extend(address.octets()),
        IpAddr::V6(address) => bytes.extend(address.octets()),
    }
}

/// The low four bits of a reply's code.
pub fn code(reply: &[u8]) -> u8 {
    reply.get(3).map_or(0, |flags| flags & 0x0f)
}

/// Records in the answer of a reply.
pub fn answers(reply: &[u8]) -> usize {
    reply.get(6..8).map_or(0, |count| {
        usize::from(u16::from_be_bytes([count[0], count[1]]))
    })
}

/// Whether a reply was cut: the whole one comes over TCP.
pub fn is_truncated(reply: &[u8]) -> bool {
    reply.get(2).is_some_and(|flags| flags & TRUNCATED != 0)
}

/// The addresses of `name` in a reply, with the seconds that each is good for, along the CNAMEs that the reply holds.
///
/// # Errors
/// The server's fault, in words.
pub fn found(reply: &[u8], name: &Name) -> Result<Vec<(IpAddr, u32)>, String> {
    let message = Message::from_vec(reply).map_err(|error| format!("nonsense ({error})"))?;
    if message.metadata.response_code != ResponseCode::NoError {
        return Err(message.metadata.response_code.to_string());
    }
    let (mut name, mut ttl) = (name.clone(), u32::MAX);
    for _ in 0..=MAX_CNAMES {
        let own: Vec<&Record> = message
            .answers
            .iter()
            .filter(|record| record.name == name)
            .collect();
        let address = |record: &&Record| match &record.data {
            RData::A(A(address)) => Some((IpAddr::V4(*address), record.ttl.min(ttl))),
            RData::AAAA(AAAA(address)) => Some((IpAddr::V6(*address), record.ttl.min(ttl))),
            _ => None,
        };
        let addresses: Vec<_> = own.iter().filter_map(address).collect();
        if !addresses.is_empty() {
            return Ok(addresses);
        }
        let Some((target, alias)) = own.iter().find_map(|record| match &record.data {
            RData::CNAME(CNAME(target)) => Some((target.clone(), record.ttl)),
            _ => None,
        }) else {
            return Ok(Vec::new());
        };
        (name, ttl) = (target, ttl.min(alias));
    }
    Err(format!("more than {MAX_CNAMES} CNAMEs"))
}

/// The packet under another id.
pub fn with_id(packet: &[u8], id: u16) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    bytes[..2].copy_from_slice(&id.to_be_bytes());
    bytes
}

/// A question of our own.
pub fn question(name: &Name, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(0, hickory_proto::op::MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), kind));
    encode(&message)
}

/// A fault, where not even the question could be read.
fn bare(id: u16, op_code: OpCode, code: ResponseCode) -> Vec<u8> {
    let mut message = Message::error_msg(id, op_code, code);
    message.metadata.recursion_available = true;
    encode(&message)
}

fn encode(message: &Message) -> Vec<u8> {
    // What was read can be written; should it not, nothing is sent, and the client asks again.
    message.to_vec().unwrap_or_default()
}

/// The end of the one question: labels without pointers, type, class.
fn question_end(packet: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        if length > 63 || at + length > HEADER + 255 {
            return None;
        }
        at += length;
    }
    (at + 4 <= packet.len()).then_some(at + 4)
}

#[cfg(test)]
mod tests;
