//! A slab whose keys never mean a later tenant of the same slot: stale epoll events and stale queue entries find
//! nothing. Low slots are used first and free ones at the end are given back, so that a worker that was full once is
//! small again. Used by everything in the worker, and by `report`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Names one tenancy of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    index: u32,
    /// 29 bits, so that a key and a kind fit into an epoll token.
    generation: u32,
}

const GENERATIONS: u32 = (1 << 29) - 1;
/// Slots are allocated so many at a time: a full worker that takes one more neither copies all it has nor leaves an area
/// of that size behind.
const CHUNK: usize = 64;

impl Key {
    /// As one number: the lower 61 bits.
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// Back from [`Key::to_bits`]; higher bits are ignored.
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self {
            index: bits as u32,
            generation: (bits >> 32) as u32 & GENERATIONS,
        }
    }
}

/// Values by [`Key`].
#[derive(Debug)]
pub(crate) struct Slots<T> {
    /// All full but the last, which is not empty.
    chunks: Vec<Vec<Slot<T>>>,
    /// Slots that were freed; those that are used or gone since are passed over.
    free: BinaryHeap<Reverse<u32>>,
    /// Of the last tenancy of any slot.
    generation: u32,
    len: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slot<T> {
    fn of(&mut self, key: Key) -> Option<&mut T> {
        if self.generation != key.generation {
            return None;
        }
        self.value.as_mut()
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            free: BinaryHeap::new(),
            generation: 0,
            len: 0,
        }
    }
}

/// Chunk of a slot, and its place there.
fn place(index: u32) -> (usize, usize) {
    (index as usize / CHUNK, index as usize % CHUNK)
}

impl<T> Slots<T> {
    /// Puts a value in. Its key is not the key of any of the last 2^29 values.
    pub(crate) fn insert(&mut self, value: T) -> Key {
        self.len += 1;
        // 0 is nobody's: `Key::from_bits(0)` finds nothing.
        self.generation = (self.generation % GENERATIONS) + 1;
        let generation = self.generation;
        let slot = Slot {
            generation,
            value: Some(value),
        };
        while let Some(Reverse(index)) = self.free.pop() {
            if let Some(place) = self.slot_mut(index)
                && place.value.is_none()
            {
                *place = slot;
                return Key { index, generation };
            }
        }
        let index = u32::try_from(self.end()).expect("fewer sockets than 2^32");
        match self.chunks.last_mut().filter(|last| last.len() < CHUNK) {
            Some(last) => last.push(slot),
            None => {
                // The first grows as it must: most workers have few of most things.
                let capacity = if index == 0 { 1 } else { CHUNK };
                let mut chunk = Vec::with_capacity(capacity);
                chunk.push(slot);
                self.chunks.push(chunk);
            }
        }
        Key { index, generation }
    }

    fn slot(&self, index: u32) -> Option<&Slot<T>> {
        let (chunk, at) = place(index);
        self.chunks.get(chunk)?.get(at)
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
        let (chunk, at) = place(index);
        self.chunks.get_mut(chunk)?.get_mut(at)
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slot(key.index)?;
        slot.value
            .as_ref()
            .filter(|_| slot.generation == key.generation)
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slot_mut(key.index)?.of(key)
    }

    /// Two values at once. None if one is gone, or both are the same.
    pub(crate) fn get_two_mut(&mut self, one: Key, two: Key) -> Option<(&mut T, &mut T)> {
        let ((first, a), (second, b)) = (place(one.index), place(two.index));
        let (first, second) = if first == second {
            let [first, second] = self.chunks.get_mut(first)?.get_disjoint_mut([a, b]).ok()?;
            (first, second)
        } else {
            let [first, second] = self.chunks.get_disjoint_mut([first, second]).ok()?;
            (first.get_mut(a)?, second.get_mut(b)?)
        };
        first.of(one).zip(second.of(two))
    }

    /// Ends the tenancy.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slot_mut(key.index)?;
        if slot.generation != key.generation {
            return None;
        }
        let value = slot.value.take()?;
        self.len -= 1;
        self.free.push(Reverse(key.index));
        self.give_back();
        Some(value)
    }

    fn give_back(&mut self) {
        while let Some(last) = self.chunks.last_mut() {
            while last.last().is_some_and(|slot| slot.value.is_none()) {
                last.pop();
            }
            if !last.is_empty() {
                break;
            }
            self.chunks.pop();
        }
        let used = self.end();
        if self.free.len() > 2 * used + CHUNK {
            self.free.retain(|Reverse(index)| (*index as usize) < used);
            self.free.shrink_to(2 * self.free.len());
        }
        if self.chunks.capacity() > CHUNK && self.chunks.len() < self.chunks.capacity() / 4 {
            self.chunks.shrink_to(2 * self.chunks.len());
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Slots, used or not: the end of [`Slots::at`].
    pub(crate) fn end(&self) -> usize {
        match self.chunks.split_last() {
            Some((last, full)) => full.len() * CHUNK + last.len(),
            None => 0,
        }
    }

    /// The tenant of slot number `index`, for walks in slices.
    pub(crate) fn at(&self, index: usize) -> Option<Key> {
        let index = u32::try_from(index).ok()?;
        let slot = self.slot(index)?;
        slot.value.as_ref().map(|_| Key {
            index,
            generation: slot.generation,
        })
    }

    /// All values.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.chunks
            .iter()
            .flatten()
            .filter_map(|slot| slot.value.as_ref())
    }

    /// As [`Slots::values`].
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let slots = self.chunks.iter_mut().flatten();
        slots.filter_map(|slot| slot.value.as_mut())
    }

    /// Keys of the values that `wanted` picks.
    pub(crate) fn keys(&self, mut wanted: impl FnMut(&T) -> bool) -> Vec<Key> {
        (0..self.end())
            .filter_map(|index| self.at(index))
            .filter(|key| self.get(*key).is_some_and(&mut wanted))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing_although_its_slot_is_used_again() {
        let mut slots = Slots::default();
        let old = slots.insert("a");
        assert_eq!(slots.remove(old), Some("a"));
        let new = slots.insert("b");
        assert_eq!(slots.get(old), None);
        assert_eq!(slots.remove(old), None);
        assert_eq!(slots.get(new), Some(&"b"));
        assert_eq!(Key::from_bits(new.to_bits() | 7 << 61), new);
    }

    #[test]
    fn two_values_are_lent_at_once_unless_they_are_one_or_gone() {
        let mut slots = Slots::default();
        let (a, b) = (slots.insert(1), slots.insert(2));
        let (one, two) = slots.get_two_mut(b, a).unwrap();
        assert_eq!((*one, *two), (2, 1));
        assert!(slots.get_two_mut(a, a).is_none());
        slots.remove(a);
        let again = slots.insert(3);
        assert!(slots.get_two_mut(a, b).is_none());
        assert!(slots.get_two_mut(again, b).is_some());
        let far = (0..CHUNK as i32)
            .map(|n| slots.insert(10 + n))
            .last()
            .unwrap();
        let (one, two) = slots.get_two_mut(far, b).unwrap();
        assert_eq!((*one, *two), (9 + CHUNK as i32, 2));
    }

    #[test]
    fn growing_copies_nothing_and_leaves_nothing_behind() {
        const N: usize = 10_000;
        let mut slots = Slots::default();
        let spent = allocation_counter::measure(|| {
            for _ in 0..N {
                slots.insert([0u64; 32]);
            }
        });
        let each = size_of::<Slot<[u64; 32]>>() as u64;
        let grown = spent.bytes_total as f64 / (N as u64 * each) as f64;
        assert!(grown < 1.05, "{grown} times what it holds was allocated");
    }

    #[test]
    fn against_a_map_under_random_use_and_small_again_after_a_storm() {
        use rand::rngs::SmallRng;
        use rand::{RngExt as _, SeedableRng as _};
        let mut rng = SmallRng::seed_from_u64(1);
        let mut slots = Slots::default();
        let mut known: Vec<(Key, u32)> = Vec::new();
        let mut gone: Vec<Key> = Vec::new();
        for turn in 0..40_000u32 {
            // Grows for a while, then shrinks to a handful.
            let grow = if turn % 20_000 < 10_000 { 0.7 } else { 0.3 };
            if known.is_empty() || rng.random_bool(grow) {
                known.push((slots.insert(turn), turn));
            } else {
                let (key, value) = known.swap_remove(rng.random_range(0..known.len()));
                assert_eq!(slots.remove(key), Some(value));
                gone.push(key);
            }
            assert_eq!(slots.len(), known.len());
            if let Some((key, value)) = known.last() {
                assert_eq!(slots.get(*key), Some(value));
            }
            let stale = gone.get(rng.random_range(0..gone.len().max(1)));
            assert_eq!(stale.and_then(|key| slots.get(*key)), None);
        }
        while let Some((key, value)) = known.pop() {
            assert_eq!(slots.remove(key), Some(value));
        }
        assert!(slots.chunks.is_empty() && slots.free.len() <= CHUNK);
    }
}
