//! A persistent hash map: a clone costs one reference count, and a change copies only the path to one small
//! leaf, so that readers keep the old version for nothing. Used by `state` for everything keyed.
//!
//! A trie over the hash, 32 ways per level. Entries come in the order of their hashes whatever the history
//! of the map was, and the hash has no per-process seed: the same content is walked in the same order everywhere.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    slice,
    sync::Arc,
};

/// Ways per branch, as bits.
const BITS: u32 = 5;
/// Branches below each other; leaves at the bottom grow as they must (2^30 of them are never full).
const MAX_DEPTH: usize = 6;
/// A leaf that grows beyond this becomes a branch. With entries of 32 to 64 bytes a copied leaf is ≤ 1 KiB.
const LEAF: usize = 16;

/// The map. `Clone` shares everything.
#[derive(Debug)]
pub(crate) struct Map<K, V> {
    root: Child<K, V>,
    len: usize,
}

/// A subtree; none where it would be empty.
type Child<K, V> = Option<Arc<Node<K, V>>>;

#[derive(Debug, Clone)]
enum Node<K, V> {
    /// Sorted by hash.
    Leaf(Vec<Entry<K, V>>),
    Branch(Box<[Child<K, V>; 1 << BITS]>),
}

#[derive(Debug, Clone)]
struct Entry<K, V> {
    hash: u64,
    key: K,
    value: V,
}

impl<K, V> Map<K, V> {
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries in the order of their hashes. Does not allocate.
    pub(crate) fn iter(&self) -> Iter<'_, K, V> {
        let mut iter = Iter {
            branches: Default::default(),
            depth: 0,
            leaf: [].iter(),
            left: self.len,
        };
        if let Some(root) = &self.root {
            iter.enter(root);
        }
        iter
    }

    /// Finds by something that hashes like the key, so that no key need be built for a lookup.
    pub(crate) fn find<Q: Hash + ?Sized>(&self, query: &Q, is: impl Fn(&K) -> bool) -> Option<&V> {
        let hash = hash_of(query);
        let mut node = self.root.as_ref()?;
        let mut depth = 0;
        loop {
            match &**node {
                Node::Branch(children) => node = children[way(hash, depth)].as_ref()?,
                Node::Leaf(entries) => {
                    let first = entries.partition_point(|entry| entry.hash < hash);
                    let same = entries[first..]
                        .iter()
                        .take_while(|entry| entry.hash == hash);
                    return same
                        .map(|entry| (&entry.key, &entry.value))
                        .find(|(key, _)| is(key))
                        .map(|(_, v)| v);
                }
            }
            depth += 1;
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Map<K, V> {
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.find(key, |candidate| candidate == key)
    }

    /// Puts `value` in; gives back what was there.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let entry = Entry {
            hash: hash_of(&key),
            key,
            value,
        };
        let root = self
            .root
            .get_or_insert_with(|| Arc::new(Node::Leaf(Vec::new())));
        let before = insert(root, 0, entry);
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes `key` out; gives back what was there.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        // Looked up first: the removal of what is not there must not copy the path.
        self.get(key)?;
        let removed = remove(&mut self.root, 0, hash_of(key), key);
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// Replaces the value of `key` by what `change` makes of it; `None` removes it.
    pub(crate) fn change(&mut self, key: &K, change: impl FnOnce(Option<V>) -> Option<V>) {
        // Taken out, so that `change` holds the only reference and works in place.
        let before = self.remove(key);
        if let Some(value) = change(before) {
            self.insert(key.clone(), value);
        }
    }
}

fn insert<K: Eq + Clone, V: Clone>(
    node: &mut Arc<Node<K, V>>,
    depth: usize,
    entry: Entry<K, V>,
) -> Option<V> {
    let inner = Arc::make_mut(node);
    match inner {
        Node::Branch(children) => match &mut children[way(entry.hash, depth)] {
            Some(child) => insert(child, depth + 1, entry),
            empty => {
                *empty = Some(Arc::new(Node::Leaf(vec![entry])));
                None
            }
        },
        Node::Leaf(entries) => match position(entries, entry.hash, &entry.key) {
            Ok(at) => Some(std::mem::replace(&mut entries[at].value, entry.value)),
            Err(at) => {
                entries.reserve_exact(1);
                entries.insert(at, entry);
                if entries.len() > LEAF && depth < MAX_DEPTH {
                    let split = split(std::mem::take(entries), depth);
                    *inner = split;
                }
                None
            }
        },
    }
}

/// Takes the entry out and, with its last entry, the node.
fn remove<K: Eq + Clone, V: Clone>(
    slot: &mut Child<K, V>,
    depth: usize,
    hash: u64,
    key: &K,
) -> Option<V> {
    let node = Arc::make_mut(slot.as_mut()?);
    let (removed, empty) = match node {
        Node::Branch(children) => {
            let removed = remove(&mut children[way(hash, depth)], depth + 1, hash, key);
            (removed, children.iter().all(Option::is_none))
        }
        Node::Leaf(entries) => {
            let removed = position(entries, hash, key)
                .ok()
                .map(|at| entries.remove(at).value);
            (removed, entries.is_empty())
        }
    };
    if empty {
        *slot = None;
    }
    removed
}

fn split<K, V>(entries: Vec<Entry<K, V>>, depth: usize) -> Node<K, V> {
    let mut leaves: [Vec<Entry<K, V>>; 1 << BITS] = std::array::from_fn(|_| Vec::new());
    for entry in entries {
        leaves[way(entry.hash, depth)].push(entry);
    }
    Node::Branch(Box::new(leaves.map(|mut leaf| {
        leaf.shrink_to_fit();
        (!leaf.is_empty()).then(|| Arc::new(Node::Leaf(leaf)))
    })))
}

/// Where `key` stands in a leaf, or where it belongs.
fn position<K: Eq, V>(entries: &[Entry<K, V>], hash: u64, key: &K) -> Result<usize, usize> {
    let mut at = entries.partition_point(|entry| entry.hash < hash);
    while let Some(entry) = entries.get(at).filter(|entry| entry.hash == hash) {
        if entry.key == *key {
            return Ok(at);
        }
        at += 1;
    }
    Err(at)
}

/// Which child: high bits first, so that the order of children is the order of hashes.
fn way(hash: u64, depth: usize) -> usize {
    let shift = u64::BITS - BITS * (u32::try_from(depth).expect("at most MAX_DEPTH") + 1);
    usize::try_from((hash >> shift) & ((1 << BITS) - 1)).expect("five bits")
}

fn hash_of<Q: Hash + ?Sized>(query: &Q) -> u64 {
    let mut hasher = DefaultHasher::new();
    query.hash(&mut hasher);
    hasher.finish()
}

impl<K, V> Clone for Map<K, V> {
    fn clone(&self) -> Self {
        Self {
            root: self.root.clone(),
            len: self.len,
        }
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self { root: None, len: 0 }
    }
}

type Children<'a, K, V> = slice::Iter<'a, Child<K, V>>;

/// Walks a map.
#[derive(Debug)]
pub(crate) struct Iter<'a, K, V> {
    branches: [Children<'a, K, V>; MAX_DEPTH],
    depth: usize,
    leaf: slice::Iter<'a, Entry<K, V>>,
    left: usize,
}

impl<'a, K, V> Iter<'a, K, V> {
    fn enter(&mut self, node: &'a Node<K, V>) {
        match node {
            Node::Leaf(entries) => self.leaf = entries.iter(),
            Node::Branch(children) => {
                self.branches[self.depth] = children.iter();
                self.depth += 1;
            }
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.leaf.next() {
                self.left -= 1;
                return Some((&entry.key, &entry.value));
            }
            let branch = self.depth.checked_sub(1)?;
            match self.branches[branch].next() {
                Some(Some(child)) => self.enter(child),
                Some(None) => {}
                None => self.depth = branch,
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<K, V> ExactSizeIterator for Iter<'_, K, V> {}

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Self {
            branches: self.branches.clone(),
            depth: self.depth,
            leaf: self.leaf.clone(),
            left: self.left,
        }
    }
}

#[cfg(test)]
mod tests;
