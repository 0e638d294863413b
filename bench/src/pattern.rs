//! The bytes that the load carries: one cyclic text, from which every stream reads from a place of its own. So each byte is
//! known from seed and position, and is checked by comparing memory. Called by `load`.

use std::sync::LazyLock;

/// Length of the cycle. A prime: bytes displaced by a buffer of any usual size are not taken for the right ones.
const CYCLE: usize = 1_048_573;
/// The longest piece that is handed out at once.
pub const WINDOW: usize = 256 << 10;

static CYCLIC: LazyLock<Box<[u8]>> = LazyLock::new(|| {
    let words = (0..CYCLE as u64).flat_map(|index| mixed(index).to_le_bytes());
    let mut bytes: Vec<u8> = words.take(CYCLE).collect();
    // A piece that begins near the end goes on here.
    bytes.extend_from_within(..WINDOW);
    bytes.into_boxed_slice()
});

/// Where bytes are not what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Altered {
    /// Position in the stream of the first wrong byte.
    pub at: u64,
}

/// At most `wanted` bytes of the stream `seed` from `position` on; never empty unless `wanted` is 0.
#[must_use]
pub fn piece(seed: u64, position: u64, wanted: usize) -> &'static [u8] {
    let begin = place(seed, position);
    &CYCLIC[begin..begin + wanted.min(WINDOW)]
}

/// Whether `bytes` are those of the stream `seed` from `position` on.
///
/// # Errors
/// Where they differ.
pub fn check(seed: u64, mut position: u64, bytes: &[u8]) -> Result<(), Altered> {
    for part in bytes.chunks(WINDOW) {
        let right = piece(seed, position, part.len());
        if part != right {
            let same = part.iter().zip(right).take_while(|(a, b)| a == b).count();
            return Err(Altered {
                at: position + same as u64,
            });
        }
        position += part.len() as u64;
    }
    Ok(())
}

/// The seed of the answers on the connection `seed`.
#[must_use]
pub fn answers(seed: u64) -> u64 {
    mixed(seed)
}

/// Numbers that are near become numbers that are far apart (the finaliser of splitmix64).
#[must_use]
pub fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn place(seed: u64, position: u64) -> usize {
    let cycle = CYCLE as u64;
    ((seed % cycle + position % cycle) % cycle) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sent(seed: u64, position: u64, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let at = position + bytes.len() as u64;
            bytes.extend_from_slice(piece(seed, at, length - bytes.len()));
        }
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_sent_is_found_right_in_any_segmentation(seed: u64, position in 0_u64..1 << 40, length in 0_usize..3 << 20, cut: prop::sample::Index) {
            let bytes = sent(seed, position, length);
            let cut = cut.index(length + 1);
            prop_assert_eq!(check(seed, position, &bytes[..cut]), Ok(()));
            prop_assert_eq!(check(seed, position + cut as u64, &bytes[cut..]), Ok(()));
        }

        #[test]
        fn one_altered_byte_is_found_where_it_is(seed: u64, position in 0_u64..1 << 40, length in 1_usize..1 << 20, at: prop::sample::Index, flip in 1_u8..) {
            let mut bytes = sent(seed, position, length);
            let at = at.index(length);
            bytes[at] ^= flip;
            prop_assert_eq!(check(seed, position, &bytes), Err(Altered { at: position + at as u64 }));
        }

        #[test]
        fn bytes_of_another_place_or_stream_are_found(seed: u64, position in 0_u64..1 << 40, shift in prop::sample::select(vec![1_u64, 9, 16_384, 65_536, 1 << 20, 4 << 20])) {
            let bytes = sent(seed, position, 4096);
            prop_assert!(check(seed, position + shift, &bytes).is_err());
            prop_assert!(check(answers(seed), position, &bytes).is_err());
        }
    }
}
