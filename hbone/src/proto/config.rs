//! What a connection announces and enforces. Defaults are upstream's.

/// Settings of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How many bytes the peer may send on a new stream before we consume any; 256 KiB, at most `stream_window`.
    pub initial_window: u32,
    /// How far the window of a stream may grow while its reader keeps up; 4 MiB, at most 2^31-1.
    pub stream_window: u32,
    /// How many bytes the peer may have in flight on the connection, credited on receipt; 16 MiB, 65,535 to 2^31-1.
    pub connection_window: u32,
    /// Bytes that streams may hold unconsumed together, and that windows may grow together, before those that do not
    /// read lose credit; 16 MiB. The bound on what one connection holds is this plus `initial_window` for each stream.
    pub room: usize,
    /// The largest frame payload that we accept; 1 MiB, 16 KiB to 2^24-1.
    pub max_frame_size: u32,
    /// Server: streams that the peer may have open at once; 200. Client: 0 is announced, nobody may open streams to it.
    pub max_concurrent_streams: u32,
    /// Client: streams opened at most before the peer's SETTINGS say otherwise; 100.
    pub assumed_streams: u32,
    /// Decoded size of a header list that we accept (RFC 9113 §6.5.2 counting); server 64 KiB, client 16 KiB. A larger one
    /// is refused, one of more than twice the size ends the connection.
    pub max_header_list: u32,
    /// HPACK dynamic table that the peer may use; 0, so that an idle connection holds none. At most 4096.
    pub header_table_size: u32,
    /// When a peer counts as hostile.
    pub limits: Limits,
}

impl Config {
    /// Defaults of the side that opens tunnels.
    pub fn client() -> Self {
        Self {
            initial_window: 256 << 10,
            stream_window: 4 << 20,
            connection_window: 16 << 20,
            room: 16 << 20,
            max_frame_size: 1 << 20,
            max_concurrent_streams: 0,
            assumed_streams: 100,
            max_header_list: 16 << 10,
            header_table_size: 0,
            limits: Limits::default(),
        }
    }

    /// Defaults of the side that accepts tunnels.
    pub fn server() -> Self {
        Self {
            max_concurrent_streams: 200,
            max_header_list: 64 << 10,
            ..Self::client()
        }
    }
}

/// Flood limits. Counts are per tick (see [`super::Connection::tick`]); beyond one of them the connection ends with
/// ENHANCE_YOUR_CALM. They stand far above what an honest peer does in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Streams that the peer resets before we answered, that it makes us reset by breaking rules, or that it opens
    /// beyond the limit (rapid reset, MadeYouReset); 1000.
    pub resets: u32,
    /// Frames that carry nothing: PING, SETTINGS, PRIORITY, unknown types, empty DATA, stray frames; 4000.
    pub control: u32,
    /// CONTINUATION frames of one header block; 16.
    pub continuations: u32,
    /// DATA frames under 256 bytes that a stream may hold unconsumed; 65,536.
    pub small_data: u32,
    /// Bytes of replies that may wait for the peer to read them; 256 KiB.
    pub output: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            resets: 1000,
            control: 4000,
            continuations: 16,
            small_data: 65_536,
            output: 256 << 10,
        }
    }
}
