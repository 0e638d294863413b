//! What crosses one tunnel, drawn by seed, and its bytes, made as they are needed. Used by `traffic.rs`.

use rand::rngs::SmallRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

/// The first bytes of a tunnel, which say what follows.
pub const HEAD: usize = 26;
/// What such a peer takes of a tunnel without giving credit, bytes; Go's window is 1 MiB.
const UNREAD: u64 = 500_000;

/// What crosses one tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub id: u64,
    up: u64,
    down: u64,
    /// 0: everything arrives; 1: the near end aborts after half of its bytes; 2: the far end does; 3: everything arrives, and
    /// the near end reads only when it has written all.
    pub kind: u8,
    pub order: Order,
}

/// Which end closes its half first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Each when it has written all.
    Any,
    /// The far end only when it has seen the near end's, for peers that cannot carry the opposite.
    NearFirst,
    /// As `NearFirst`, and the near end never writes much while it reads nothing, for peers whose credit for what comes
    /// waits behind DATA that has none.
    NearFirstReading,
    /// The far end alone, when it has got and sent everything, for peers that end a tunnel only as a whole.
    FarAlone,
}

impl Plan {
    pub fn random(rng: &mut SmallRng, (id, order): (u64, Order), most: u64) -> Self {
        let size = |rng: &mut SmallRng| {
            let limit = [10, 10, 1_000, 1_000, 10_000, 100_000, 1_000_000, 8_000_000]
                [rng.random_range(0..8)];
            rng.random_range(0..limit).min(most)
        };
        let (mut up, down) = (size(rng), size(rng));
        let kind = [0, 0, 0, 0, 0, 1, 2, 3][rng.random_range(0..8)];
        if order == Order::NearFirstReading && (kind == 1 || kind == 3) {
            up = up.min(UNREAD);
        }
        Self {
            id,
            up,
            down,
            kind,
            order,
        }
    }

    pub fn head(&self) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&self.id.to_be_bytes());
        head[8..16].copy_from_slice(&self.up.to_be_bytes());
        head[16..24].copy_from_slice(&self.down.to_be_bytes());
        head[24] = self.kind;
        head[25] = self.order as u8;
        head
    }

    pub fn parse(head: &[u8; HEAD]) -> Self {
        let number = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("8 bytes"));
        Self {
            id: number(0),
            up: number(8),
            down: number(16),
            kind: head[24],
            order: match head[25] {
                0 => Order::Any,
                1 => Order::NearFirst,
                2 => Order::NearFirstReading,
                _ => Order::FarAlone,
            },
        }
    }

    pub fn size(&self, up: bool) -> u64 {
        if up { self.up } else { self.down }
    }

    /// Whether one of the ends aborts this tunnel.
    pub fn aborted(&self) -> bool {
        self.aborted_by(true) || self.aborted_by(false)
    }

    /// Whether the near (or the far) end aborts this tunnel.
    pub fn aborted_by(&self, near: bool) -> bool {
        self.kind == if near { 1 } else { 2 }
    }
}

/// The bytes of one direction, made as they are needed.
pub struct Source(SmallRng);

impl Source {
    pub fn new(plan: Plan, up: bool) -> Self {
        Self(SmallRng::seed_from_u64(plan.id * 2 + u64::from(up)))
    }

    /// The next bytes. Whole words are drawn, so that any division into chunks gives the same bytes.
    pub fn fill(&mut self, spare: &mut Vec<u8>, len: usize) {
        while spare.len() < len {
            spare.extend_from_slice(&self.0.next_u64().to_le_bytes());
        }
    }
}
