//! Messages to resources: stable bytes, and a version that differs when they do.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hasher},
    sync::Arc,
};

use bytes::Bytes;
use xds::server::{Resource, Resources};

/// The resources of one type out of their encoded bodies. What did not change keeps its resource, and if nothing
/// changed the whole map is the old one.
#[must_use]
pub fn renew(old: Option<&Arc<Resources>>, bodies: BTreeMap<String, Vec<u8>>) -> Arc<Resources> {
    let mut changed = old.is_none_or(|old| old.len() != bodies.len());
    let mut resources = Resources::new();
    for (name, body) in bodies {
        let kept = old
            .and_then(|old| old.get_key_value(name.as_str()))
            .filter(|(_, kept)| kept.body == body);
        match kept {
            Some((name, kept)) => resources.insert(name.clone(), kept.clone()),
            None => {
                changed = true;
                resources.insert(name.into(), resource(body))
            }
        };
    }
    match old {
        Some(old) if !changed => old.clone(),
        _ => Arc::new(resources),
    }
}

/// The resources after a change of `names`: those with a body have it, the others are gone. `None` if that is what was
/// there.
#[must_use]
pub fn change(
    old: &Arc<Resources>,
    names: &[Arc<str>],
    mut bodies: BTreeMap<String, Vec<u8>>,
) -> Option<Arc<Resources>> {
    let mut new = None;
    for name in names {
        let body = bodies.remove(&**name);
        if old.get(name).map(|kept| &*kept.body) == body.as_deref() {
            continue;
        }
        let new = new.get_or_insert_with(|| Resources::clone(old));
        match body {
            Some(body) => drop(new.insert(name.clone(), resource(body))),
            None => drop(new.remove(name)),
        }
    }
    new.map(Arc::new)
}

/// The version is a hash of the body, so that a control plane that starts anew gives the same one and subscribers
/// need not fetch again.
fn resource(body: Vec<u8>) -> Resource {
    let mut hasher = DefaultHasher::new();
    hasher.write(&body);
    Resource {
        version: format!("{:016x}", hasher.finish()).into(),
        body: Bytes::from(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_gives_what_a_whole_renewal_gives() {
        let bodies = |pairs: &[(&str, u8)]| -> BTreeMap<String, Vec<u8>> {
            pairs
                .iter()
                .map(|(name, body)| ((*name).to_owned(), vec![*body]))
                .collect()
        };
        let names: Vec<Arc<str>> = ["a", "b", "c", "d"].map(Arc::from).into();
        let old = renew(None, bodies(&[("a", 1), ("b", 1), ("c", 1)]));
        let now = bodies(&[("a", 1), ("b", 2), ("d", 1)]);
        assert_eq!(change(&old, &names, now.clone()), Some(renew(None, now)));
        assert_eq!(
            change(&old, &names, bodies(&[("a", 1), ("b", 1), ("c", 1)])),
            None
        );
    }

    #[test]
    fn what_did_not_change_keeps_its_version_and_the_map_its_identity() {
        let bodies = |b: u8| BTreeMap::from([("a".to_owned(), vec![1]), ("b".to_owned(), vec![b])]);
        let first = renew(None, bodies(1));
        let same = renew(Some(&first), bodies(1));
        assert!(Arc::ptr_eq(&first, &same));
        let second = renew(Some(&first), bodies(2));
        assert_eq!(first["a"], second["a"]);
        assert_ne!(first["b"].version, second["b"].version);
        let fewer = renew(Some(&second), BTreeMap::from([("a".to_owned(), vec![1])]));
        assert_eq!(fewer.len(), 1);
    }
}
