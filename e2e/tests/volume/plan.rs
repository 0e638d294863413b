//! What each connection of the volume test does, drawn from a seed, and the bytes that it carries: every position of
//! every direction has its own expected byte, so that a lost, doubled, swapped or strayed piece is found where it is.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

/// The client's first bytes tell the server which connection it is.
pub const HEADER: u64 = 4;
/// Largest piece that [`Pattern::piece`] returns.
pub const PIECE: usize = 64 << 10;
/// A prime, so that no power of two hides a shift.
const PERIOD: u64 = 1_048_573;

/// Who of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client = 0,
    Server = 1,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both sides send at once and close their half when they have sent everything.
    Together,
    /// The other side sends only after it has seen this side's end.
    First(Side),
    /// This side resets after so many bytes of its own; neither side ever closes its half.
    Reset {
        by: Side,
        after: u64,
        /// A client that does not wait for an answer: its server may never hear of it.
        early: bool,
    },
}

/// How a side reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Whatever is there.
    Eager,
    /// Little, and not at every opportunity.
    Slow,
    /// Nothing at all until the other side has sent so many bytes.
    Stalled(u64),
    /// Nothing at all until nothing moves any more: everything on the way is full.
    Dammed,
}

/// One connection.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub id: u32,
    /// Index of the pod that opens it; the other pod serves.
    pub from: usize,
    /// Bytes that client and server send, the header included.
    pub sizes: [u64; 2],
    pub ending: Ending,
    pub readers: [Reader; 2],
    /// Carries no more than its header until all connections are open.
    pub held: bool,
}

/// `connections` plans of about `bytes` bytes altogether.
pub fn draw(seed: u64, connections: u32, bytes: u64) -> Vec<Plan> {
    let mut rng = SmallRng::seed_from_u64(seed);
    // Most are small and a few are large, as in life; then scaled to the wanted sum.
    let weights: Vec<[f64; 2]> = (0..connections)
        .map(|_| [weight(&mut rng), weight(&mut rng)])
        .collect();
    let sum: f64 = weights.iter().flatten().sum();
    let scale = bytes as f64 / sum;
    let size = |weight: f64| HEADER + (weight * scale) as u64;
    (0..connections)
        .zip(weights)
        .map(|(id, [up, down])| plan(id, [size(up), size(down)], &mut rng))
        .collect()
}

fn weight(rng: &mut SmallRng) -> f64 {
    match rng.random_range(0..20) {
        0 => 0.0,
        1 => 10.0,
        _ => (rng.random::<f64>() * 4.0).exp() / 12.0,
    }
}

fn plan(id: u32, sizes: [u64; 2], rng: &mut SmallRng) -> Plan {
    let side = if rng.random() {
        Side::Client
    } else {
        Side::Server
    };
    let ending = match rng.random_range(0..10) {
        0..4 => Ending::Together,
        4..7 => Ending::First(side),
        _ => Ending::Reset {
            by: side,
            after: rng.random_range(HEADER..=sizes[side as usize]),
            early: side == Side::Client && rng.random(),
        },
    };
    let early = matches!(ending, Ending::Reset { early: true, .. });
    Plan {
        id,
        from: rng.random_range(0..2),
        sizes,
        ending,
        readers: [reader(sizes[1], rng), reader(sizes[0], rng)],
        held: !early && rng.random(),
    }
}

/// The windows on the way hold more than a stalled reader waits for, so it never waits in vain.
fn reader(incoming: u64, rng: &mut SmallRng) -> Reader {
    match rng.random_range(0..10) {
        0..2 => Reader::Slow,
        2 => Reader::Stalled(rng.random_range(0..=incoming.min(1 << 20))),
        3 => Reader::Dammed,
        _ => Reader::Eager,
    }
}

impl Plan {
    /// Whether nobody resets it.
    pub fn is_orderly(&self) -> bool {
        !matches!(self.ending, Ending::Reset { .. })
    }

    /// Whether `side` may send only after it has seen the other's end.
    pub fn waits(&self, side: Side) -> bool {
        matches!(self.ending, Ending::First(first) if first != side)
    }

    /// After how many of its own bytes `side` resets, if it does.
    pub fn resets(&self, side: Side) -> Option<u64> {
        match self.ending {
            Ending::Reset { by, after, .. } if by == side => Some(after),
            _ => None,
        }
    }

    /// Whether a server may never see it.
    pub fn may_not_arrive(&self) -> bool {
        matches!(self.ending, Ending::Reset { early: true, .. })
    }
}

/// The expected bytes.
pub struct Pattern {
    bytes: Vec<u8>,
}

impl Pattern {
    pub fn new() -> Self {
        let mut rng = SmallRng::seed_from_u64(PERIOD);
        let mut bytes = vec![0_u8; PERIOD as usize];
        rng.fill(&mut bytes[..]);
        bytes.extend_from_within(..PIECE);
        Self { bytes }
    }

    /// Up to [`PIECE`] bytes that connection `id` carries from `side` at `position` of `size`.
    pub fn piece(&self, id: u32, side: Side, position: u64, length: usize) -> &[u8] {
        let stream = (u64::from(id) << 1 | side as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        let start = ((stream + position) % PERIOD) as usize;
        &self.bytes[start..start + length.min(PIECE)]
    }
}
