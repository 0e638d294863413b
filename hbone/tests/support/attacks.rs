//! What hostile peers send after a good preface: frames by round, and how they must end. Pure; used by `abuse.rs` against
//! the codec and by `e2e/tests/abuse` against a real ztunnel.

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// How the victim ends an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By a GOAWAY with this code.
    Closed(u32),
    /// Not at all: RFC 9113 allows all of it. Memory is what counts.
    Endured,
}

const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

/// One way to misbehave.
#[derive(Debug, Clone, Copy)]
pub struct Attack {
    pub name: &'static str,
    /// The frames of one round; rounds count from 0.
    pub round: fn(&Target, u32) -> Vec<u8>,
    /// Rounds until it must be over, if it is closed at all.
    pub rounds: u32,
    pub end: End,
}

/// Whom the requests ask for.
#[derive(Debug, Clone)]
pub struct Target {
    /// Of an application that says nothing by itself.
    pub authority: String,
    /// Of one that sends as much as is taken.
    pub talkative: String,
}

impl Target {
    /// A whole CONNECT.
    pub fn connect(&self, stream: u32) -> Vec<u8> {
        frame(HEADERS, END_HEADERS, stream, &block(&self.authority))
    }

    fn connect_talkative(&self, stream: u32) -> Vec<u8> {
        frame(HEADERS, END_HEADERS, stream, &block(&self.talkative))
    }
}

/// The header block of a CONNECT.
fn block(authority: &str) -> Vec<u8> {
    let len = u8::try_from(authority.len()).expect("a short authority");
    [b"\x02\x07CONNECT\x01", &[len][..], authority.as_bytes()].concat()
}

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a frame's length");
    let mut bytes = len.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// What a client says first.
pub fn hello() -> Vec<u8> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    [
        preface,
        frame(SETTINGS, 0, 0, &[]),
        frame(SETTINGS, 1, 0, &[]),
    ]
    .concat()
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

fn stream(round: u32) -> u32 {
    2 * round + 1
}

fn rapid_reset(target: &Target, round: u32) -> Vec<u8> {
    let id = stream(round);
    [
        target.connect(id),
        frame(RST_STREAM, 0, id, &8u32.to_be_bytes()),
    ]
    .concat()
}

fn made_reset_by_credit_of_zero(target: &Target, round: u32) -> Vec<u8> {
    let id = stream(round);
    [target.connect(id), frame(WINDOW_UPDATE, 0, id, &[0; 4])].concat()
}

fn made_reset_by_credit_overflow(target: &Target, round: u32) -> Vec<u8> {
    let id = stream(round);
    let most = frame(WINDOW_UPDATE, 0, id, &0x7fff_ffffu32.to_be_bytes());
    [target.connect(id), most.clone(), most].concat()
}

fn made_reset_by_data_behind_the_end(target: &Target, round: u32) -> Vec<u8> {
    let id = stream(round);
    let (end, late) = (frame(DATA, END_STREAM, id, &[]), frame(DATA, 0, id, b"x"));
    [target.connect(id), end, late].concat()
}

fn made_reset_by_a_second_head(target: &Target, round: u32) -> Vec<u8> {
    let id = stream(round);
    [target.connect(id), target.connect(id)].concat()
}

fn made_reset_by_a_short_priority(target: &Target, round: u32) -> Vec<u8> {
    let id = stream(round);
    [target.connect(id), frame(PRIORITY, 0, id, &[0; 4])].concat()
}

fn too_many_streams(target: &Target, round: u32) -> Vec<u8> {
    target.connect(stream(round))
}

fn malformed_heads(_: &Target, round: u32) -> Vec<u8> {
    frame(
        HEADERS,
        END_HEADERS,
        stream(round),
        b"\x02\x07CONNECT\x00\x01A\x00",
    )
}

fn other_methods(_: &Target, round: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream(round), &[0x82, 0x84, 0x87])
}

/// A header block that never ends.
fn continuation(payload: &[u8], round: u32) -> Vec<u8> {
    let kind = if round == 0 { HEADERS } else { CONTINUATION };
    frame(kind, 0, 1, payload)
}

fn empty_continuations(_: &Target, round: u32) -> Vec<u8> {
    continuation(&[], round)
}

fn large_continuations(_: &Target, round: u32) -> Vec<u8> {
    // Whole literals, so that an eager decoder would keep them.
    continuation(&b"\x00\x01a\x01b".repeat(3000), round)
}

/// The first round opens stream 1, the others send this DATA on it.
fn data(target: &Target, round: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    match round {
        0 => target.connect(1),
        _ => frame(DATA, flags, 1, payload),
    }
}

fn empty_data(target: &Target, round: u32) -> Vec<u8> {
    data(target, round, 0, &[])
}

fn data_of_one_byte(target: &Target, round: u32) -> Vec<u8> {
    data(target, round, 0, b"x")
}

fn data_of_padding(target: &Target, round: u32) -> Vec<u8> {
    data(target, round, PADDED, &[0])
}

fn pings(_: &Target, _: u32) -> Vec<u8> {
    frame(PING, 0, 0, b"12345678")
}

fn settings(_: &Target, _: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &setting(4, 65_535))
}

fn empty_settings(_: &Target, _: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[])
}

fn windows_up_and_down(_: &Target, round: u32) -> Vec<u8> {
    let changes: Vec<u8> = (0..100)
        .flat_map(|change| setting(4, round * 2 + change % 2))
        .collect();
    frame(SETTINGS, 0, 0, &changes)
}

fn priorities(_: &Target, round: u32) -> Vec<u8> {
    frame(PRIORITY, 0, stream(round), &[0, 0, 0, 0, 7])
}

fn unknown_frames(_: &Target, _: u32) -> Vec<u8> {
    frame(99, 0, 0, &[])
}

/// No credit for anything, and as many tunnels as there may be.
fn zero_window(target: &Target, round: u32) -> Vec<u8> {
    match round {
        0 => frame(SETTINGS, 0, 0, &setting(4, 0)),
        1..=200 => target.connect_talkative(stream(round - 1)),
        _ => Vec::new(),
    }
}

/// Credit in single bytes for ever.
fn credit_by_the_byte(target: &Target, round: u32) -> Vec<u8> {
    match round {
        0 => frame(SETTINGS, 0, 0, &setting(4, 0)),
        1 => target.connect_talkative(1),
        _ => frame(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes()),
    }
}

/// One entry of 4000 bytes in the table, named over and over: 240 MB if anybody kept it.
fn hpack_bomb(_: &Target, round: u32) -> Vec<u8> {
    let entry = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'x'; 4000]].concat();
    let block = [entry, vec![0xbe; 60_000]].concat();
    frame(HEADERS, END_HEADERS, stream(round), &block)
}

/// The same bomb with the name that many parsers join to one string.
fn cookie_bomb(_: &Target, round: u32) -> Vec<u8> {
    let entry = [&[0x60, 0x7f, 0xa1, 0x1e][..], &[b'x'; 4000]].concat();
    let block = [entry, vec![0xbe; 60_000]].concat();
    frame(HEADERS, END_HEADERS, stream(round), &block)
}

/// A name of 4000 bytes that entries of two bytes each take over.
fn copied_names(_: &Target, round: u32) -> Vec<u8> {
    let entry = [&b"\x40\x7f\xa1\x1e"[..], &[b'a'; 4000], b"\x00"].concat();
    let block = [entry, [0x7e, 0].repeat(30_000)].concat();
    frame(HEADERS, END_HEADERS, stream(round), &block)
}

/// Fields of the least size, in the block and in the table.
fn tiny_fields(_: &Target, round: u32) -> Vec<u8> {
    let block = [0x40, 1, b'a', 0].repeat(30_000);
    frame(HEADERS, END_HEADERS, stream(round), &block)
}

/// A name as long as a block may be, Huffman-coded: 8 letters in 5 bytes.
fn huge_name(_: &Target, round: u32) -> Vec<u8> {
    let letters = [0x18, 0xc6, 0x31, 0x8c, 0x63].repeat(20_000);
    let mut block = vec![0x00, 0xff];
    let mut len = letters.len() - 127;
    while len >= 128 {
        block.push((len % 128) as u8 | 128);
        len /= 128;
    }
    block.push(len as u8);
    frame(
        HEADERS,
        END_HEADERS,
        stream(round),
        &[block, letters, vec![0]].concat(),
    )
}

/// A head of 2 KB in pieces of one byte.
fn one_byte_at_a_time(target: &Target, round: u32) -> Vec<u8> {
    let long = [b"\x00\x01x\x7f\xd1\x0e", &[b'a'; 2000][..]].concat();
    let head = frame(
        HEADERS,
        END_HEADERS,
        1,
        &[block(&target.authority), long].concat(),
    );
    let byte = head.get(round as usize);
    byte.copied().into_iter().collect()
}

const fn closed(
    name: &'static str,
    round: fn(&Target, u32) -> Vec<u8>,
    rounds: u32,
    code: u32,
) -> Attack {
    Attack {
        name,
        round,
        rounds,
        end: End::Closed(code),
    }
}

const fn endured(name: &'static str, round: fn(&Target, u32) -> Vec<u8>, rounds: u32) -> Attack {
    Attack {
        name,
        round,
        rounds,
        end: End::Endured,
    }
}

/// All of them. Limits are those of `Limits::default()`.
#[rustfmt::skip]
pub const ATTACKS: &[Attack] = &[
    closed("rapid reset", rapid_reset, 1001, ENHANCE_YOUR_CALM),
    closed("MadeYouReset, credit of 0", made_reset_by_credit_of_zero, 1001, ENHANCE_YOUR_CALM),
    closed("MadeYouReset, too much credit", made_reset_by_credit_overflow, 1001, ENHANCE_YOUR_CALM),
    closed("MadeYouReset, DATA behind the end", made_reset_by_data_behind_the_end, 1001, ENHANCE_YOUR_CALM),
    closed("MadeYouReset, a second head", made_reset_by_a_second_head, 1001, ENHANCE_YOUR_CALM),
    closed("MadeYouReset, a short PRIORITY", made_reset_by_a_short_priority, 1001, ENHANCE_YOUR_CALM),
    closed("more streams than allowed", too_many_streams, 1201, ENHANCE_YOUR_CALM),
    closed("malformed heads", malformed_heads, 1001, ENHANCE_YOUR_CALM),
    closed("requests that are no CONNECT", other_methods, 1001, ENHANCE_YOUR_CALM),
    closed("CONTINUATION, empty", empty_continuations, 18, ENHANCE_YOUR_CALM),
    closed("CONTINUATION, large", large_continuations, 10, ENHANCE_YOUR_CALM),
    closed("DATA, empty", empty_data, 4002, ENHANCE_YOUR_CALM),
    closed("DATA, padding only", data_of_padding, 65_538, ENHANCE_YOUR_CALM),
    closed("PING", pings, 4001, ENHANCE_YOUR_CALM),
    closed("SETTINGS", settings, 4001, ENHANCE_YOUR_CALM),
    closed("SETTINGS, empty", empty_settings, 4001, ENHANCE_YOUR_CALM),
    closed("SETTINGS, windows up and down", windows_up_and_down, 41, ENHANCE_YOUR_CALM),
    closed("PRIORITY", priorities, 4001, ENHANCE_YOUR_CALM),
    closed("unknown frames", unknown_frames, 4001, ENHANCE_YOUR_CALM),
    closed("HPACK, one entry named over and over", hpack_bomb, 1, ENHANCE_YOUR_CALM),
    closed("HPACK, cookies", cookie_bomb, 1, ENHANCE_YOUR_CALM),
    closed("HPACK, copied names", copied_names, 1, COMPRESSION_ERROR),
    closed("HPACK, tiny fields", tiny_fields, 1, ENHANCE_YOUR_CALM),
    closed("HPACK, a huge name", huge_name, 1, ENHANCE_YOUR_CALM),
    endured("DATA of one byte", data_of_one_byte, 60_000),
    endured("zero window", zero_window, 201),
    endured("credit by the byte", credit_by_the_byte, 60_000),
    endured("a head byte by byte", one_byte_at_a_time, 2_100),
];
