//! The client's side of delta ADS for one type: what to subscribe to, what is held, what to answer.
//! Pure: messages in, messages out. Driven by `client`.

use std::collections::{BTreeSet, HashMap, HashSet};

use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource, Status};

use crate::{Rejected, ResourceUpdate};

/// Stands for every resource of a type.
pub const WILDCARD: &str = "*";
/// A NACK carries this much text at most; a control plane's message limit is 4 MiB.
pub(crate) const LONGEST_NACK: usize = 64 << 10;
/// google.rpc.Code.INVALID_ARGUMENT.
const INVALID_ARGUMENT: i32 = 3;

/// What to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The type of the resources.
    pub type_url: String,
    /// Every resource of the type.
    pub wildcard: bool,
    /// Resources by name, also besides the wildcard.
    pub names: BTreeSet<String>,
}

impl Subscription {
    /// Every resource of a type.
    pub fn all(type_url: &str) -> Self {
        Self {
            type_url: type_url.to_owned(),
            wildcard: true,
            names: BTreeSet::new(),
        }
    }

    /// Only named resources; with no names nothing is asked until [`Machine::subscribe`].
    pub fn named<S: Into<String>>(type_url: &str, names: impl IntoIterator<Item = S>) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        Self {
            type_url: type_url.to_owned(),
            wildcard: false,
            names,
        }
    }
}

/// The protocol state of one type, kept across streams.
#[derive(Clone, Debug)]
pub struct Machine {
    wanted: Subscription,
    /// Names of the resources in force, with their versions.
    held: HashMap<Box<str>, Box<str>>,
    /// Names that were refused and of which no version is held. The handler may have put something in their
    /// place, so the control plane must tell of their removal, also when it happens between two streams.
    refused: HashSet<Box<str>>,
    /// A request for this type has been sent on the present stream.
    asked: bool,
}

/// A push that has arrived: the updates to apply, and what to answer when that is done.
#[derive(Debug)]
pub struct Push {
    /// To be applied in this order.
    pub updates: Vec<ResourceUpdate>,
    receipt: Receipt,
}

/// What must be remembered of a push while it is applied.
#[derive(Debug)]
pub struct Receipt {
    nonce: String,
    /// Name and version of each upsert.
    arrived: Vec<(Box<str>, Box<str>)>,
    removed: Vec<String>,
    /// Refused before anybody looked into the bytes.
    rejected: Vec<Rejected>,
}

/// What to send back for a push.
#[derive(Debug)]
pub struct Answer {
    /// The ACK, or the NACK with its text.
    pub request: DeltaDiscoveryRequest,
    /// How many resources were refused; 0 means ACK.
    pub refused: usize,
}

impl Push {
    /// Takes the push apart.
    pub fn split(self) -> (Vec<ResourceUpdate>, Receipt) {
        (self.updates, self.receipt)
    }
}

impl Machine {
    /// A machine that holds nothing yet.
    pub fn new(wanted: Subscription) -> Self {
        Self {
            wanted,
            held: HashMap::new(),
            refused: HashSet::new(),
            asked: false,
        }
    }

    /// The type that it is for.
    pub fn type_url(&self) -> &str {
        &self.wanted.type_url
    }

    /// What is in force: names and versions.
    pub fn held(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.held
            .iter()
            .map(|(name, version)| (&**name, &**version))
    }

    /// True once a request has been sent on the present stream.
    pub fn asked(&self) -> bool {
        self.asked
    }

    /// True when nothing is asked for, so that no push is to be waited for.
    pub fn idle(&self) -> bool {
        !self.wanted.wildcard && self.wanted.names.is_empty()
    }

    /// A new stream: the request that subscribes and says what is held. `None` while nothing is asked.
    pub fn connected(&mut self) -> Option<DeltaDiscoveryRequest> {
        self.asked = false;
        (!self.idle()).then(|| self.first_request())
    }

    /// Asks for more names. `None` when they are asked already, or no stream is open (pass `open`).
    pub fn subscribe<S: Into<String>>(
        &mut self,
        names: impl IntoIterator<Item = S>,
        open: bool,
    ) -> Option<DeltaDiscoveryRequest> {
        let mut added = Vec::new();
        for name in names.into_iter().map(Into::into) {
            if self.wanted.names.insert(name.clone()) {
                added.push(name);
            }
        }
        if added.is_empty() || !open {
            return None;
        }
        if !self.asked {
            return Some(self.first_request());
        }
        Some(DeltaDiscoveryRequest {
            resource_names_subscribe: added,
            ..self.request()
        })
    }

    /// Asks for fewer names. Without the wildcard they are no longer held from now on.
    pub fn unsubscribe<S: AsRef<str>>(
        &mut self,
        names: impl IntoIterator<Item = S>,
        open: bool,
    ) -> Option<DeltaDiscoveryRequest> {
        let mut dropped = Vec::new();
        for name in names {
            let name = name.as_ref();
            if self.wanted.names.remove(name) {
                if !self.wanted.wildcard {
                    self.held.remove(name);
                    self.refused.remove(name);
                }
                dropped.push(name.to_owned());
            }
        }
        let send = open && self.asked && !dropped.is_empty();
        send.then(|| DeltaDiscoveryRequest {
            resource_names_unsubscribe: dropped,
            ..self.request()
        })
    }

    /// Takes a push apart. Resources that cannot be what they claim are refused here already; those that
    /// are no longer asked for (they crossed our request) are passed over, as if never sent.
    pub fn receive(&self, response: DeltaDiscoveryResponse) -> Push {
        let count = response.resources.len() + response.removed_resources.len();
        let mut updates = Vec::with_capacity(count);
        let mut arrived = Vec::with_capacity(response.resources.len());
        let mut rejected = Vec::new();
        for resource in response.resources {
            if !self.wants(&resource) {
                continue;
            }
            match self.check(resource) {
                Ok((name, version, body)) => {
                    arrived.push((name.as_str().into(), version.as_str().into()));
                    updates.push(ResourceUpdate::Upsert {
                        name,
                        version,
                        body,
                    });
                }
                Err(refused) => rejected.push(refused),
            }
        }
        let removed = response.removed_resources;
        updates.extend(
            removed
                .iter()
                .map(|name| ResourceUpdate::Remove { name: name.clone() }),
        );
        let nonce = response.nonce;
        Push {
            updates,
            receipt: Receipt {
                nonce,
                arrived,
                removed,
                rejected,
            },
        }
    }

    /// The push has been applied but for `rejected`: records what is held now and answers. A refused
    /// resource keeps the version that was held before it, if any.
    pub fn applied(&mut self, receipt: Receipt, rejected: Vec<Rejected>) -> Answer {
        let Receipt {
            nonce,
            arrived,
            removed,
            rejected: mut refused,
        } = receipt;
        refused.extend(rejected);
        let names: BTreeSet<&str> = refused.iter().map(|r| r.name.as_str()).collect();
        for (name, version) in arrived {
            if !names.contains(&*name) {
                self.refused.remove(&name);
                self.held.insert(name, version);
            }
        }
        let without_version = names
            .into_iter()
            .filter(|name| !self.held.contains_key(*name));
        self.refused.extend(without_version.map(Box::from));
        for name in &removed {
            self.held.remove(name.as_str());
            self.refused.remove(name.as_str());
        }
        let error_detail = (!refused.is_empty()).then(|| Status {
            code: INVALID_ARGUMENT,
            message: nack_text(&refused),
            details: vec![],
        });
        let request = DeltaDiscoveryRequest {
            response_nonce: nonce,
            error_detail,
            ..self.request()
        };
        Answer {
            request,
            refused: refused.len(),
        }
    }

    /// A resource may be asked for by an alias (a workload by its address).
    fn wants(&self, resource: &Resource) -> bool {
        let names = &self.wanted.names;
        self.wanted.wildcard
            || names.contains(&resource.name)
            || resource.aliases.iter().any(|alias| names.contains(alias))
    }

    fn check(&self, resource: Resource) -> Result<(String, String, Vec<u8>), Rejected> {
        let Resource {
            name,
            version,
            resource,
            ..
        } = resource;
        match resource {
            Some(any) if any.type_url == self.wanted.type_url => Ok((name, version, any.value)),
            Some(any) => {
                let reason = format!(
                    "is of type {:?} in a push of {}",
                    any.type_url,
                    self.type_url()
                );
                Err(Rejected { name, reason })
            }
            None => Err(Rejected {
                name,
                reason: "has no body".to_owned(),
            }),
        }
    }

    fn request(&self) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: self.wanted.type_url.clone(),
            ..Default::default()
        }
    }

    /// Subscribes to everything wanted and resumes from what is held.
    fn first_request(&mut self) -> DeltaDiscoveryRequest {
        self.asked = true;
        let mut subscribe: Vec<String> = self.wanted.names.iter().cloned().collect();
        // No names at all means the wildcard; besides names it must be said.
        if self.wanted.wildcard && !subscribe.is_empty() {
            subscribe.insert(0, WILDCARD.to_owned());
        }
        let held = self
            .held
            .iter()
            .map(|(n, v)| (n.to_string(), v.to_string()));
        // No resource has the empty version: it is sent again, or said to be gone.
        let refused = self.refused.iter().map(|n| (n.to_string(), String::new()));
        let versions = held.chain(refused).collect();
        DeltaDiscoveryRequest {
            resource_names_subscribe: subscribe,
            initial_resource_versions: versions,
            ..self.request()
        }
    }
}

/// `name: reason; name: reason`, cut at a length that every control plane takes.
fn nack_text(refused: &[Rejected]) -> String {
    let mut text = String::new();
    for (i, Rejected { name, reason }) in refused.iter().enumerate() {
        let separator = if i == 0 { "" } else { "; " };
        let part = format!("{separator}{name}: {reason}");
        if !text.is_empty() && text.len() + part.len() > LONGEST_NACK {
            return format!("{text}; and {} more", refused.len() - i);
        }
        text.push_str(&part);
    }
    if text.len() > LONGEST_NACK {
        text.truncate(text.floor_char_boundary(LONGEST_NACK));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
