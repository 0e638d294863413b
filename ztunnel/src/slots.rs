//! A slab whose keys never mean a later tenant of the same slot: stale epoll events and stale queue entries find
//! nothing. Low slots are used first and free ones at the end are given back, so that a worker that was full once is
//! small again. Used by everything in the worker.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Names one tenancy of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    index: u32,
    /// 29 bits, so that a key and a kind fit into an epoll token.
    generation: u32,
}

const GENERATIONS: u32 = (1 << 29) - 1;
/// Memory of fewer slots is not given back.
const KEPT: usize = 64;

impl Key {
    /// As one number: the lower 61 bits.
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// Back from [`Key::to_bits`]; higher bits are ignored.
    pub(super) fn from_bits(bits: u64) -> Self {
        Self {
            index: bits as u32,
            generation: (bits >> 32) as u32 & GENERATIONS,
        }
    }
}

/// Values by [`Key`].
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
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

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: BinaryHeap::new(),
            generation: 0,
            len: 0,
        }
    }
}

impl<T> Slots<T> {
    /// Puts a value in. Its key is not the key of any of the last 2^29 values.
    pub(super) fn insert(&mut self, value: T) -> Key {
        self.len += 1;
        // 0 is nobody's: `Key::from_bits(0)` finds nothing.
        self.generation = (self.generation % GENERATIONS) + 1;
        let generation = self.generation;
        let slot = Slot {
            generation,
            value: Some(value),
        };
        while let Some(Reverse(index)) = self.free.pop() {
            if let Some(place) = self.slots.get_mut(index as usize)
                && place.value.is_none()
            {
                *place = slot;
                return Key { index, generation };
            }
        }
        let index = u32::try_from(self.slots.len()).expect("fewer sockets than 2^32");
        self.slots.push(slot);
        Key { index, generation }
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        slot.value
            .as_ref()
            .filter(|_| slot.generation == key.generation)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        slot.value.as_mut()
    }

    /// Two values at once. None if one is gone, or both are the same.
    pub(super) fn get_two_mut(&mut self, one: Key, two: Key) -> Option<(&mut T, &mut T)> {
        let places = [one.index as usize, two.index as usize];
        let [first, second] = self.slots.get_disjoint_mut(places).ok()?;
        if first.generation != one.generation || second.generation != two.generation {
            return None;
        }
        first.value.as_mut().zip(second.value.as_mut())
    }

    /// Ends the tenancy.
    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize)?;
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
        while self.slots.last().is_some_and(|slot| slot.value.is_none()) {
            self.slots.pop();
        }
        let used = self.slots.len();
        if self.free.len() > 2 * used + KEPT {
            self.free.retain(|Reverse(index)| (*index as usize) < used);
            self.free.shrink_to(2 * self.free.len());
        }
        if self.slots.capacity() > KEPT && used < self.slots.capacity() / 4 {
            self.slots.shrink_to(2 * used);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Slots, used or not: the end of [`Slots::at`].
    pub(super) fn end(&self) -> usize {
        self.slots.len()
    }

    /// The tenant of slot number `index`, for walks in slices.
    pub(super) fn at(&self, index: usize) -> Option<Key> {
        let slot = self.slots.get(index)?;
        slot.value.as_ref().map(|_| Key {
            index: index as u32,
            generation: slot.generation,
        })
    }

    /// Keys of the values that `wanted` picks.
    pub(super) fn keys(&self, mut wanted: impl FnMut(&T) -> bool) -> Vec<Key> {
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
        assert!(slots.slots.capacity() <= KEPT && slots.free.len() <= KEPT);
    }
}
