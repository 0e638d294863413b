//! The objects of one watch, by name, as far as somebody needs them. Pure; fed by `deploy` and `conditions::write`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use kube::{ResourceExt, runtime::watcher::Event};

/// Namespace and name.
pub type Name = (String, String);

/// What is known of the objects of one kind.
#[derive(Debug)]
pub struct Mirror<V> {
    objects: BTreeMap<Name, V>,
    /// Names that a list under way has told so far.
    listing: BTreeSet<Name>,
    listed: bool,
}

impl<V> Default for Mirror<V> {
    fn default() -> Self {
        Mirror {
            objects: BTreeMap::new(),
            listing: BTreeSet::new(),
            listed: false,
        }
    }
}

impl<V: PartialEq> Mirror<V> {
    /// Takes an event; names whose value differs now.
    pub fn take<K: ResourceExt>(&mut self, event: Event<K>, read: impl Fn(K) -> V) -> Vec<Name> {
        match event {
            Event::Init => {
                self.listing.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                self.listing.insert(name(&object));
                self.put(object, read)
            }
            Event::InitDone => {
                self.listed = true;
                let told = std::mem::take(&mut self.listing);
                let gone: Vec<Name> = self
                    .objects
                    .keys()
                    .filter(|name| !told.contains(*name))
                    .cloned()
                    .collect();
                gone.iter().for_each(|name| drop(self.objects.remove(name)));
                gone
            }
            Event::Apply(object) => self.put(object, read),
            Event::Delete(object) => {
                let name = name(&object);
                self.objects
                    .remove(&name)
                    .map(|_| name)
                    .into_iter()
                    .collect()
            }
        }
    }

    fn put<K: ResourceExt>(&mut self, object: K, read: impl Fn(K) -> V) -> Vec<Name> {
        let name = name(&object);
        let value = read(object);
        if self.objects.get(&name) == Some(&value) {
            return Vec::new();
        }
        self.objects.insert(name.clone(), value);
        vec![name]
    }

    /// Puts what a write answered, which may be newer than what the watch has told.
    pub fn wrote(&mut self, name: Name, value: V) {
        self.objects.insert(name, value);
    }

    /// Whether one whole list came.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// One object.
    #[must_use]
    pub fn find(&self, namespace: &str, name: &str) -> Option<&V> {
        self.objects.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// All, by name.
    pub fn all(&self) -> impl Iterator<Item = (&Name, &V)> {
        self.objects.iter()
    }
}

/// Waits until then; for ever where there is no then.
pub async fn until(then: Option<Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then.into()).await,
        None => std::future::pending().await,
    }
}

fn name<K: ResourceExt>(object: &K) -> Name {
    (object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};

    fn object(name: &str, version: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("app".into()),
                resource_version: Some(version.into()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }

    #[test]
    fn what_differs_is_told_and_what_a_new_list_lacks_is_gone() {
        let mut mirror = Mirror::default();
        let mut take = |event| -> Vec<String> {
            let names = mirror.take(event, |object: ConfigMap| object.metadata.resource_version);
            names.into_iter().map(|(_, name)| name).collect()
        };
        assert!(take(Event::Init).is_empty());
        assert_eq!(take(Event::InitApply(object("a", "1"))), ["a"]);
        assert_eq!(take(Event::InitApply(object("b", "1"))), ["b"]);
        assert!(take(Event::InitDone).is_empty());
        assert!(take(Event::Apply(object("a", "1"))).is_empty());
        assert_eq!(take(Event::Apply(object("a", "2"))), ["a"]);
        assert_eq!(take(Event::Delete(object("a", "2"))), ["a"]);
        assert!(take(Event::Init).is_empty());
        assert_eq!(take(Event::InitApply(object("c", "3"))), ["c"]);
        assert_eq!(take(Event::InitDone), ["b"]);
        assert!(mirror.is_listed());
        assert_eq!(mirror.all().count(), 1);
    }
}
