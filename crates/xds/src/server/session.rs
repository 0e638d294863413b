//! The server's side of delta ADS for one subscriber: what it asked for, what it was sent, what it is
//! owed. Pure; driven by `stream`.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use proto::type_url;

use super::refusal::{named, shortened};
use super::{Nack, Resources, Step, View};
use crate::machine::WILDCARD;

/// The order of types within one change, so that what is named arrives before what names it.
const ORDER: [&str; 8] = [
    type_url::CLUSTER,
    type_url::ENDPOINT,
    type_url::LISTENER,
    type_url::ROUTE,
    SECRET,
    type_url::ADDRESS,
    type_url::WORKLOAD,
    type_url::AUTHORIZATION,
];
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// These are named by listeners and routes: they are removed only when no push of those is outstanding.
const NAMED_BY_OTHERS: [&str; 2] = [type_url::CLUSTER, type_url::ENDPOINT];
const NAMING: [&str; 2] = [type_url::LISTENER, type_url::ROUTE];

/// Types of one stream; a proxy asks for less than ten.
const MAX_TYPES: usize = 32;
/// Names that one stream asks for; a waypoint names its clusters and routes.
const MAX_NAMES: usize = 100_000;
/// Bytes of one name: a host name with some words around it.
const MAX_NAME: usize = 1024;
/// Resources that a subscriber has, also those that it says it has from before: a whole mesh.
const MAX_VERSIONS: usize = 2_000_000;

/// What a request meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It changed or began a subscription.
    Subscribed,
    /// It acknowledged the last push of its type.
    Accepted,
    /// It acknowledged it, and nothing of that type that it refused before stands any more.
    Mended {
        /// The type.
        type_url: String,
    },
    /// It refused resources of the last push of its type.
    Refused(Nack),
    /// It answers a push that is not the last one of its type.
    Stale,
}

/// The protocol state of one subscriber's stream.
#[derive(Debug, Default)]
pub struct Session {
    types: BTreeMap<String, Subscribed>,
    nonces: u64,
}

/// One type that the subscriber asked for.
#[derive(Debug, Default)]
struct Subscribed {
    wildcard: bool,
    names: BTreeSet<String>,
    /// What the subscriber knows, by name.
    sent: BTreeMap<Arc<str>, Sent>,
    /// The push that it has not answered.
    outstanding: Option<Outstanding>,
    /// What it refused and has not been sent anew since.
    refused: BTreeSet<Arc<str>>,
    /// Push even if there is nothing to say: the answer to a first request.
    owed: bool,
    /// The resources up to which `sent` has been brought. Unset after a change of names.
    seen: Option<Arc<Resources>>,
}

/// A push without an answer.
#[derive(Debug)]
struct Outstanding {
    nonce: String,
    /// The resources that it changes or removes.
    names: Vec<Arc<str>>,
}

/// What a subscriber knows of one resource.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    /// It has this version, or refused it: not to be sent again either way.
    Version(Arc<str>),
    /// It has some version, and asked to be sent the resource again.
    Again,
    /// It was told that there is no such resource.
    Absent,
}

impl Session {
    /// A new stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a request of the subscriber.
    pub fn request(&mut self, request: DeltaDiscoveryRequest) -> Event {
        let state = match self.types.entry(request.type_url.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                new.insert(Subscribed::first(&request));
                return Event::Subscribed;
            }
        };
        let changed = state.change_names(&request);
        if request.response_nonce.is_empty() {
            return Event::Subscribed;
        }
        let answered = |push: &mut Outstanding| push.nonce == request.response_nonce;
        let Some(push) = state.outstanding.take_if(answered) else {
            return if changed {
                Event::Subscribed
            } else {
                Event::Stale
            };
        };
        let stood = !state.refused.is_empty();
        for name in &push.names {
            state.refused.remove(name);
        }
        match request.error_detail {
            // What was refused counts as sent: it is not sent again until it changes.
            Some(status) => {
                let (message, whole) = shortened(status.message);
                state.refused.extend(if whole {
                    named(push.names, &message)
                } else {
                    push.names
                });
                Event::Refused(Nack {
                    type_url: request.type_url,
                    message,
                })
            }
            None if stood && state.refused.is_empty() => Event::Mended {
                type_url: request.type_url,
            },
            None => Event::Accepted,
        }
    }

    /// Whether a request stays within what one subscriber may make us hold; the error says what is too much. To be
    /// asked before [`Session::request`].
    ///
    /// # Errors
    /// The text for the status that ends the stream.
    pub fn admits(&self, request: &DeltaDiscoveryRequest) -> Result<(), String> {
        let new_type = !self.types.contains_key(&request.type_url);
        if new_type && self.types.len() >= MAX_TYPES {
            return Err(format!("more than {MAX_TYPES} types on one stream"));
        }
        let asked = &request.resource_names_subscribe;
        let long = |name: &String| name.len() > MAX_NAME;
        if request.type_url.len() > MAX_NAME || asked.iter().any(long) {
            return Err(format!("a name of more than {MAX_NAME} bytes"));
        }
        let known: usize = self.types.values().map(|state| state.names.len()).sum();
        let state = self.types.get(&request.type_url);
        let new = |name: &&String| state.is_none_or(|state| !state.names.contains(*name));
        if known + asked.iter().filter(new).count() > MAX_NAMES {
            return Err(format!("more than {MAX_NAMES} names on one stream"));
        }
        let versions: usize = self.types.values().map(|state| state.sent.len()).sum();
        if new_type && versions + request.initial_resource_versions.len() > MAX_VERSIONS {
            return Err(format!("more than {MAX_VERSIONS} versions on one stream"));
        }
        Ok(())
    }

    /// The next push that brings the subscriber towards `view`, or `None` when there is nothing to send
    /// before another request or another view comes. At most one push per type is unanswered.
    pub fn push(&mut self, view: &View) -> Option<DeltaDiscoveryResponse> {
        // The first pass may find that nothing stands in the way of removals that it held back.
        self.pass(view).or_else(|| self.pass(view))
    }

    fn pass(&mut self, view: &View) -> Option<DeltaDiscoveryResponse> {
        let mut order: Vec<String> = self.types.keys().cloned().collect();
        order.sort_by_key(|t| {
            ORDER
                .iter()
                .position(|known| known == t)
                .unwrap_or(ORDER.len())
        });
        for type_url in order {
            // First a look at whether removals must wait, because it reads the other types.
            let hold = NAMED_BY_OTHERS.contains(&type_url.as_str()) && !self.settled(view);
            let Some(state) = self.types.get_mut(&type_url) else {
                continue;
            };
            if state.outstanding.is_some() {
                continue;
            }
            let empty = Arc::default();
            let resources = view.of(&type_url).unwrap_or(&empty);
            let steps = view.steps.get(&*type_url).map_or(&[][..], |steps| steps);
            let Some(mut push) = state.difference(resources, steps, hold) else {
                continue;
            };
            self.nonces += 1;
            push.nonce = self.nonces.to_string();
            for resource in push.resources.iter_mut().flat_map(|r| &mut r.resource) {
                resource.type_url.clone_from(&type_url);
            }
            state.outstanding = Some(Outstanding {
                nonce: push.nonce.clone(),
                names: names(&push),
            });
            push.type_url = type_url;
            return Some(push);
        }
        None
    }

    /// True when listeners and routes are as `view` has them, and answered.
    fn settled(&self, view: &View) -> bool {
        let subscribed = NAMING.iter().filter_map(|t| Some((t, self.types.get(*t)?)));
        let empty = Arc::default();
        subscribed.into_iter().all(|(type_url, state)| {
            let resources = view.of(type_url).unwrap_or(&empty);
            state.outstanding.is_none() && state.is_at(resources)
        })
    }
}

impl Subscribed {
    /// The first request of a type on this stream. Without names it asks for everything.
    fn first(request: &DeltaDiscoveryRequest) -> Self {
        let held = request.initial_resource_versions.iter();
        let held = held.map(|(name, version)| {
            (
                Arc::from(name.as_str()),
                Sent::Version(Arc::from(version.as_str())),
            )
        });
        let mut state = Self {
            wildcard: request.resource_names_subscribe.is_empty(),
            sent: held.collect(),
            owed: true,
            ..Self::default()
        };
        for name in &request.resource_names_subscribe {
            state.add(name);
        }
        for name in &request.resource_names_unsubscribe {
            state.remove(name);
        }
        state
    }

    /// Follows a later request. True if it named anything.
    fn change_names(&mut self, request: &DeltaDiscoveryRequest) -> bool {
        for name in &request.resource_names_subscribe {
            self.add(name);
            self.send_again(name);
        }
        for name in &request.resource_names_unsubscribe {
            self.remove(name);
        }
        let changed = !request.resource_names_subscribe.is_empty()
            || !request.resource_names_unsubscribe.is_empty();
        if changed {
            self.seen = None;
        }
        changed
    }

    fn add(&mut self, name: &str) {
        if name == WILDCARD {
            self.wildcard = true;
        } else {
            self.names.insert(name.to_owned());
        }
    }

    /// Asking again is asking to be sent, or told of the absence, again.
    fn send_again(&mut self, name: &str) {
        match self.sent.get_mut(name) {
            Some(Sent::Absent) => drop(self.sent.remove(name)),
            Some(sent) => *sent = Sent::Again,
            None => {}
        }
    }

    /// The subscriber drops what it no longer asks for by itself.
    fn remove(&mut self, name: &str) {
        if name == WILDCARD {
            self.wildcard = false;
            self.sent.retain(|name, _| self.names.contains(&**name));
        } else {
            self.names.remove(name);
            if !self.wildcard {
                self.sent.remove(name);
            }
        }
    }

    /// True when `resources` were compared already and nothing was asked since.
    fn is_at(&self, resources: &Arc<Resources>) -> bool {
        self.seen
            .as_ref()
            .is_some_and(|seen| Arc::ptr_eq(seen, resources))
    }

    /// What the subscriber lacks of `resources`, recorded as sent. With `hold`, removals wait. `steps` lead to
    /// `resources`.
    fn difference(
        &mut self,
        resources: &Arc<Resources>,
        steps: &[Step],
        hold: bool,
    ) -> Option<DeltaDiscoveryResponse> {
        if !self.owed && self.is_at(resources) {
            return None;
        }
        if let Some(names) = self.since(steps).filter(|_| !self.owed && !hold) {
            return self.narrow_difference(resources, &names);
        }
        let mut push = DeltaDiscoveryResponse::default();
        for (name, resource) in self.wanted(resources) {
            let known = self.sent.get(name);
            if !matches!(known, Some(Sent::Version(v)) if *v == resource.version) {
                push.resources.push(encode(name, resource));
            }
        }
        let removed = if hold {
            Vec::new()
        } else {
            self.gone(resources)
        };
        let absent = self.absent(resources);
        for name in &removed {
            // Who asked for it by name knows now that it is no more.
            if self.names.contains(&**name) {
                self.sent.insert(name.clone(), Sent::Absent);
            } else {
                self.sent.remove(name);
            }
        }
        for resource in &push.resources {
            let version = Sent::Version(Arc::from(resource.version.as_str()));
            self.sent.insert(Arc::from(resource.name.as_str()), version);
        }
        for name in &absent {
            self.sent.insert(name.clone(), Sent::Absent);
        }
        push.removed_resources = removed
            .iter()
            .chain(&absent)
            .map(|n| n.to_string())
            .collect();
        // With removals held back the difference is not exhausted.
        self.seen = (!hold || self.gone(resources).is_empty()).then(|| resources.clone());
        let owed = std::mem::take(&mut self.owed);
        let empty = push.resources.is_empty() && push.removed_resources.is_empty();
        (owed || !empty).then_some(push)
    }

    /// The names that changed since what the subscriber was brought to, if the steps go back so far.
    fn since(&self, steps: &[Step]) -> Option<BTreeSet<Arc<str>>> {
        let seen = Arc::as_ptr(self.seen.as_ref()?);
        let first = steps
            .iter()
            .position(|step| std::ptr::eq(step.from.as_ptr(), seen))?;
        let names = steps[first..]
            .iter()
            .flat_map(|step| step.names.iter().cloned());
        Some(names.collect())
    }

    /// [`Subscribed::difference`] where only `names` can differ.
    fn narrow_difference(
        &mut self,
        resources: &Arc<Resources>,
        names: &BTreeSet<Arc<str>>,
    ) -> Option<DeltaDiscoveryResponse> {
        let mut push = DeltaDiscoveryResponse::default();
        for name in names {
            let by_name = self.names.contains(&**name);
            let known = self.sent.get(name);
            match resources.get(name) {
                Some(resource)
                    if (self.wildcard || by_name)
                        && !matches!(known, Some(Sent::Version(v)) if *v == resource.version) =>
                {
                    push.resources.push(encode(name, resource));
                    let version = Sent::Version(resource.version.clone());
                    self.sent.insert(name.clone(), version);
                }
                None if known.is_some_and(|sent| *sent != Sent::Absent) => {
                    push.removed_resources.push(name.to_string());
                    if by_name {
                        self.sent.insert(name.clone(), Sent::Absent);
                    } else {
                        self.sent.remove(name);
                    }
                }
                _ => {}
            }
        }
        self.seen = Some(resources.clone());
        let empty = push.resources.is_empty() && push.removed_resources.is_empty();
        (!empty).then_some(push)
    }

    /// The resources that the subscriber asked for.
    fn wanted<'a>(
        &'a self,
        resources: &'a Resources,
    ) -> Box<dyn Iterator<Item = (&'a Arc<str>, &'a super::Resource)> + 'a> {
        if self.wildcard {
            return Box::new(resources.iter());
        }
        Box::new(
            self.names
                .iter()
                .filter_map(|name| resources.get_key_value(name.as_str())),
        )
    }

    /// Names that the subscriber has, and that are no more.
    fn gone(&self, resources: &Resources) -> Vec<Arc<str>> {
        let had = self.sent.iter().filter(|(_, sent)| **sent != Sent::Absent);
        had.filter(|(name, _)| !resources.contains_key(&**name))
            .map(|(n, _)| n.clone())
            .collect()
    }

    /// Names that the subscriber asked for, never had, and is to be told that they do not exist.
    fn absent(&self, resources: &Resources) -> Vec<Arc<str>> {
        let unknown = |name: &&String| {
            !resources.contains_key(name.as_str()) && !self.sent.contains_key(name.as_str())
        };
        self.names
            .iter()
            .filter(unknown)
            .map(|name| Arc::from(name.as_str()))
            .collect()
    }
}

/// All that a push is about.
fn names(push: &DeltaDiscoveryResponse) -> Vec<Arc<str>> {
    let changed = push.resources.iter().map(|resource| &*resource.name);
    let removed = push.removed_resources.iter().map(|name| &**name);
    changed.chain(removed).map(Arc::from).collect()
}

/// The resource on the wire; the type of its body is filled in by [`Session::push`].
fn encode(name: &Arc<str>, resource: &super::Resource) -> proto::discovery::Resource {
    let body = prost_types::Any {
        type_url: String::new(),
        value: resource.body.to_vec(),
    };
    proto::discovery::Resource {
        name: name.to_string(),
        version: resource.version.to_string(),
        resource: Some(body),
        ..Default::default()
    }
}
