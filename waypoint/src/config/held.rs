//! The resources as they were sent: what is in force of each, and what was refused last. Only dumps read them; the data
//! path has the compiled form. Kept by `config`.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::SystemTime;

/// All of them, by type URL and name.
#[derive(Debug, Clone, Default)]
pub struct Held(BTreeMap<(String, String), Resource>);

/// One resource; at least one of the two is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resource {
    /// What is in force.
    pub accepted: Option<Accepted>,
    /// What was refused since.
    pub refused: Option<Refused>,
}

/// A resource in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// As the control plane calls it.
    pub version: String,
    /// The encoded message.
    pub body: Bytes,
    /// When it came.
    pub at: SystemTime,
}

/// A resource that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// As the control plane calls it.
    pub version: String,
    /// Why.
    pub reason: String,
    /// When it came.
    pub at: SystemTime,
}

impl Held {
    /// This one is in force now.
    pub fn accept(&mut self, type_url: &str, name: &str, accepted: Accepted) {
        let resource = self.entry(type_url, name);
        resource.accepted = Some(accepted);
        resource.refused = None;
    }

    /// This one was refused; what is in force stays.
    pub fn refuse(&mut self, type_url: &str, name: &str, refused: Refused) {
        self.entry(type_url, name).refused = Some(refused);
    }

    /// This one is gone.
    pub fn remove(&mut self, type_url: &str, name: &str) {
        self.0.remove(&(type_url.to_owned(), name.to_owned()));
    }

    /// All of a type by name.
    pub fn of<'a>(&'a self, type_url: &'a str) -> impl Iterator<Item = (&'a str, &'a Resource)> {
        let all = self.0.iter().filter(move |((of, _), _)| of == type_url);
        all.map(|((_, name), resource)| (name.as_str(), resource))
    }

    fn entry(&mut self, type_url: &str, name: &str) -> &mut Resource {
        let key = (type_url.to_owned(), name.to_owned());
        self.0.entry(key).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_stands_beside_what_is_in_force_until_a_better_one_comes() {
        let (mut held, at) = (Held::default(), SystemTime::UNIX_EPOCH);
        let accepted = |version: &str| Accepted {
            version: version.into(),
            body: Bytes::new(),
            at,
        };
        let refused = Refused {
            version: "2".into(),
            reason: "no".into(),
            at,
        };
        let mut see = |change: &dyn Fn(&mut Held)| {
            change(&mut held);
            let found = held
                .of("t")
                .map(|(name, one)| (name.to_owned(), one.clone()));
            found.collect::<Vec<_>>()
        };
        let one = |accepted, refused| vec![("a".to_owned(), Resource { accepted, refused })];
        assert_eq!(
            see(&|held| held.accept("t", "a", accepted("1"))),
            one(Some(accepted("1")), None)
        );
        assert_eq!(
            see(&|held| held.refuse("t", "a", refused.clone())),
            one(Some(accepted("1")), Some(refused.clone()))
        );
        assert_eq!(see(&|held| held.accept("u", "b", accepted("1"))).len(), 1);
        assert_eq!(
            see(&|held| held.accept("t", "a", accepted("3"))),
            one(Some(accepted("3")), None)
        );
        assert_eq!(see(&|held| held.remove("t", "a")), []);
    }
}
