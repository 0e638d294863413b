use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// A key whose hash the test chooses, so that collisions and deep paths are as easy as anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Forced(u8, u32);

impl Hash for Forced {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

#[test]
fn what_was_put_in_is_found_by_anything_that_hashes_like_the_key() {
    let mut map = Map::default();
    map.insert((Arc::<str>::from("app"), Arc::<str>::from("host")), 1);
    assert_eq!(
        map.find(&("app", "host"), |key| &*key.0 == "app"
            && &*key.1 == "host"),
        Some(&1)
    );
    assert_eq!(map.find(&("app", "other"), |_| true), None);
}

#[test]
fn a_clone_keeps_what_it_was() {
    let mut map: Map<u32, u32> = Map::default();
    for key in 0..1000 {
        map.insert(key, key);
    }
    let before = map.clone();
    for key in 0..1000 {
        map.remove(&key);
    }
    assert!(map.is_empty() && map.root.is_none());
    assert_eq!(before.iter().count(), 1000);
    assert_eq!(before.get(&7), Some(&7));
}

#[test]
fn the_order_depends_only_on_the_content() {
    let order = |keys: &mut dyn Iterator<Item = u32>| {
        let mut map = Map::default();
        for key in keys {
            map.insert(key, ());
        }
        for key in 0..500 {
            map.remove(&key);
        }
        map.iter().map(|(key, ())| *key).collect::<Vec<_>>()
    };
    assert_eq!(order(&mut (0..1000)), order(&mut (0..1000).rev()));
    assert_eq!(order(&mut (0..1000)), order(&mut (500..1000)));
}

proptest! {
    #[test]
    fn equals_a_hash_map(steps in proptest::collection::vec((any::<bool>(), 0..3_u8, 0..60_u32), 0..400)) {
        let (mut map, mut model, mut kept) = (Map::default(), HashMap::new(), Vec::new());
        for (index, (put, hash, key)) in steps.into_iter().enumerate() {
            let forced = Forced(hash, key);
            if put {
                prop_assert_eq!(map.insert(forced, index), model.insert((hash, key), index));
            } else {
                prop_assert_eq!(map.remove(&forced), model.remove(&(hash, key)));
            }
            if index % 50 == 0 {
                kept.push((map.clone(), model.clone()));
            }
        }
        kept.push((map, model));
        for (map, model) in kept {
            prop_assert_eq!(map.len(), model.len());
            prop_assert_eq!(map.iter().len(), model.len());
            let all: HashMap<_, _> = map.iter().map(|(key, value)| ((key.0, key.1), *value)).collect();
            prop_assert_eq!(all, model);
        }
    }
}
