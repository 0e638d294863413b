//! What the interop tests share: reproducible randomness, plans of tunnels, a carrier that cuts bytes at random.

use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use causeway_hbone::headers::Authority;
use causeway_hbone::proto::Config;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// Bytes per run and direction.
pub fn budget() -> usize {
    std::env::var("HBONE_INTEROP_BYTES")
        .ok()
        .and_then(|bytes| bytes.parse().ok())
        .unwrap_or(24 << 20)
}

/// Windows that stand in the way all the time, and a header table for the peer to use.
pub fn small_windows(config: Config) -> Config {
    Config {
        stream_window: 20_000,
        connection_window: 65_535,
        max_frame_size: 16_384,
        header_table_size: 4096,
        ..config
    }
}

/// Splitmix64.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % n.max(1) as u64) as usize
    }

    /// A size for one read or write: seldom tiny, often large.
    pub fn chunk(&mut self) -> usize {
        match self.below(8) {
            0 => 1 + self.below(300),
            1..=3 => 1 + self.below(5_000),
            _ => 1 + self.below(1 << 16),
        }
    }

    /// Now and then lets the others run for a while: a slow reader or writer.
    pub async fn pause(&mut self) {
        if self.below(20) == 0 {
            for _ in 0..self.below(50) {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Bytes that were compared, over all tests of this process.
pub static CHECKED: AtomicU64 = AtomicU64::new(0);

/// The bytes of all tunnels: slices of one random table, so that checking is a comparison of slices.
pub struct Table(Vec<u8>);

const TABLE: usize = 65_521;

impl Table {
    pub fn shared() -> &'static Self {
        static TABLE_ONCE: OnceLock<Table> = OnceLock::new();
        TABLE_ONCE.get_or_init(|| {
            let mut rng = Rng::new(42);
            Self((0..TABLE).map(|_| rng.below(256) as u8).collect())
        })
    }

    /// At most `len` bytes of a direction from an offset on.
    pub fn chunk(&self, seed: usize, offset: usize, len: usize) -> &[u8] {
        let start = (seed + offset) % TABLE;
        &self.0[start..(start + len).min(TABLE)]
    }

    pub fn check(&self, seed: usize, mut offset: usize, mut bytes: &[u8]) {
        CHECKED.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        while !bytes.is_empty() {
            let expected = self.chunk(seed, offset, bytes.len());
            let (part, rest) = bytes.split_at(expected.len());
            assert!(part == expected, "wrong bytes at {offset}");
            offset += part.len();
            bytes = rest;
        }
    }
}

/// What one tunnel carries. It travels in the authority, so that both ends know it.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: usize,
    pub up: usize,
    pub down: usize,
    /// 0: nobody; 1: the client resets; 2: the server does.
    reset: usize,
    /// After so many bytes.
    pub reset_at: usize,
}

impl Plan {
    pub fn random(rng: &mut Rng, most: usize) -> Self {
        let size = |rng: &mut Rng| {
            let limit = [10, 1_000, 100_000, 3_000_000][rng.below(4)];
            rng.below(limit).min(most)
        };
        let reset = if rng.below(6) == 0 {
            1 + rng.below(2)
        } else {
            0
        };
        Self {
            seed: rng.below(1 << 20),
            up: size(rng),
            down: size(rng),
            reset,
            reset_at: size(rng),
        }
    }

    pub fn resets(&self, client: bool) -> bool {
        self.reset == if client { 1 } else { 2 }
    }

    /// Seed and size of what this side sends, and of what it receives.
    pub fn sides(&self, client: bool) -> ((usize, usize), (usize, usize)) {
        let (up, down) = ((self.seed, self.up), (self.seed + 1, self.down));
        if client { (up, down) } else { (down, up) }
    }

    pub fn authority(&self) -> Authority {
        let Self {
            seed,
            up,
            down,
            reset,
            reset_at,
        } = self;
        Authority::name(&format!("p-{seed}-{up}-{down}-{reset}-{reset_at}"), 80).expect("a name")
    }

    pub fn parse(host: &str) -> Self {
        let numbers: Vec<usize> = host
            .split('-')
            .skip(1)
            .map(|part| part.parse().expect("a number"))
            .collect();
        let [seed, up, down, reset, reset_at] = numbers[..] else {
            panic!("not a plan: {host}")
        };
        Self {
            seed,
            up,
            down,
            reset,
            reset_at,
        }
    }
}

/// A carrier that moves a random number of bytes at a time.
pub struct Chunked {
    io: DuplexStream,
    rng: Rng,
}

impl Chunked {
    pub fn pair(seed: u64) -> (Self, Self) {
        let (near, far) = tokio::io::duplex(1 << 18);
        (
            Self {
                io: near,
                rng: Rng::new(seed),
            },
            Self {
                io: far,
                rng: Rng::new(seed + 1),
            },
        )
    }
}

impl AsyncRead for Chunked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let max = self.rng.chunk().min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(max));
        let poll = Pin::new(&mut self.io).poll_read(cx, &mut part);
        let n = part.filled().len();
        buf.advance(n);
        poll
    }
}

impl AsyncWrite for Chunked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let max = self.rng.chunk().min(buf.len());
        Pin::new(&mut self.io).poll_write(cx, &buf[..max])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
