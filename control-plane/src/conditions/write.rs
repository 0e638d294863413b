//! Writes status where it differs from the verdicts, and events for what is refused. Watches the kinds whose status is
//! ours; works only while this replica leads. Started by `app`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt as _, stream::SelectAll};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
    runtime::{
        WatchStreamExt as _,
        events::{Event, EventType, Recorder, Reporter},
        watcher,
    },
};
use objects::{Key, Kind};
use runtime::Shutdown;
use serde_json::{Value, json};

use super::{
    Published, Verdicts, is_route,
    merge::{self, Current},
    object::Watched,
    timestamp,
};
use crate::{
    lead::Leadership,
    mirror::{Mirror, Name, until},
};

/// Kinds whose status is ours: group, version, plural.
const KINDS: [(Kind, &str, &str, &str); 4] = [
    (
        Kind::HttpRoute,
        "gateway.networking.k8s.io",
        "v1",
        "httproutes",
    ),
    (
        Kind::GrpcRoute,
        "gateway.networking.k8s.io",
        "v1",
        "grpcroutes",
    ),
    (
        Kind::AuthorizationPolicy,
        "security.istio.io",
        "v1",
        "authorizationpolicies",
    ),
    (Kind::Service, "", "v1", "services"),
];
/// Between two writes: at most 50 a second, however many objects change their standing at once.
const PACE: Duration = Duration::from_millis(20);
/// Objects that are looked at before events are read again.
const TURN: usize = 50;
/// Changes that come in a bunch are taken together.
const BUNCH: Duration = Duration::from_millis(100);
/// A call that takes longer has failed; shorter than a lease, so that no late write meets another leader's.
const CALL: Duration = Duration::from_secs(4);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(5);
/// The API's limit for the text of an event.
const MAX_NOTE: usize = 1000;

/// Who writes.
#[derive(Debug, Clone)]
pub struct Writer {
    /// Name of this replica, for events.
    pub instance: String,
}

/// Runs until the drain. Nothing is watched or written while another replica leads.
pub async fn write(
    client: Client,
    writer: Writer,
    verdicts: Published,
    mut leadership: Leadership,
    shutdown: Shutdown,
) {
    loop {
        tokio::select! {
            () = shutdown.draining() => return,
            () = leadership.until(true) => {}
        }
        let mut lost = leadership.clone();
        let mut keeper = Keeper::new(client.clone(), &writer, verdicts.clone());
        tokio::select! {
            () = shutdown.draining() => return,
            () = lost.until(false) => {}
            () = keeper.work() => {}
        }
    }
}

type Item = (Kind, watcher::Result<watcher::Event<Watched>>);
type Events = SelectAll<std::pin::Pin<Box<dyn Stream<Item = Item> + Send>>>;

struct Keeper {
    client: Client,
    recorder: Recorder,
    verdicts: Published,
    mirrors: BTreeMap<Kind, Mirror<Current>>,
    dirty: BTreeSet<(Kind, Name)>,
    /// What could not be written, to be tried again later.
    failed: BTreeSet<(Kind, Name)>,
    /// Refusals that have their event.
    told: BTreeMap<Key, String>,
    /// Kinds whose watch fails now, so that it is told once.
    trouble: BTreeSet<Kind>,
}

impl Keeper {
    fn new(client: Client, writer: &Writer, verdicts: Published) -> Keeper {
        Keeper {
            recorder: reporter(client.clone(), &writer.instance),
            client,
            verdicts,
            mirrors: KINDS.map(|(kind, ..)| (kind, Mirror::default())).into(),
            dirty: BTreeSet::new(),
            failed: BTreeSet::new(),
            told: BTreeMap::new(),
            trouble: BTreeSet::new(),
        }
    }

    async fn work(&mut self) {
        let mut events = self.watch();
        self.verdicts.mark_changed();
        let mut published = self.verdicts.clone();
        let mut last: Option<Arc<Verdicts>> = None;
        let (mut wake, mut again) = (None, None);
        loop {
            let now = Instant::now();
            if !self.dirty.is_empty() {
                wake.get_or_insert(now + BUNCH);
            }
            if !self.failed.is_empty() {
                again.get_or_insert(now + RETRY);
            }
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => self.take(event),
                    None => return,
                },
                changed = published.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let new = published.borrow_and_update().clone();
                    if let Some(new) = &new {
                        self.compare(last.as_deref(), new);
                    }
                    last = new;
                }
                // Before the first verdicts, everything that is ours would look out of place.
                () = until(wake.filter(|_| last.is_some())) => {
                    wake = None;
                    if let Some(last) = &last {
                        self.settle(last).await;
                    }
                }
                () = until(again) => {
                    again = None;
                    self.dirty.append(&mut self.failed);
                }
            }
            if let Some(last) = &last {
                self.tell(last).await;
            }
        }
    }

    fn watch(&self) -> Events {
        let mut events: Events = SelectAll::new();
        for (kind, ..) in KINDS {
            let api = Api::<Watched>::all_with(self.client.clone(), &resource(kind));
            let stream = watcher(api, watcher::Config::default()).default_backoff();
            events.push(Box::pin(stream.map(move |event| (kind, event))));
        }
        events
    }

    fn take(&mut self, (kind, event): Item) {
        match event {
            Ok(event) => {
                self.trouble.remove(&kind);
                let Some(mirror) = self.mirrors.get_mut(&kind) else {
                    return;
                };
                let changed = mirror.take(event, |object| current(kind, &object));
                self.dirty
                    .extend(changed.into_iter().map(|name| (kind, name)));
            }
            Err(error) if self.trouble.insert(kind) => {
                tracing::warn!(%kind, why = error.to_string(), "a watch for status failed and is tried again");
            }
            Err(_) => {}
        }
    }

    /// Only verdicts that differ are looked at.
    fn compare(&mut self, old: Option<&Verdicts>, new: &Verdicts) {
        let nothing = Verdicts::default();
        let old = old.unwrap_or(&nothing);
        let keys = old.by_object.keys().chain(new.by_object.keys());
        let differs = |key: &&Key| old.by_object.get(*key) != new.by_object.get(*key);
        let changed = keys
            .filter(differs)
            .map(|key| (key.kind, (key.namespace.to_string(), key.name.to_string())));
        self.dirty.extend(changed);
    }

    async fn settle(&mut self, verdicts: &Verdicts) {
        for _ in 0..TURN {
            let Some((kind, name)) = self.dirty.pop_first() else {
                return;
            };
            let Some(current) = self
                .mirrors
                .get(&kind)
                .and_then(|mirror| mirror.find(&name.0, &name.1))
            else {
                continue;
            };
            let verdict = verdicts.by_object.get(&Key::new(kind, &name.0, &name.1));
            let now = timestamp();
            let Some(status) = merge::status(kind, current, verdict, &now) else {
                continue;
            };
            let patch =
                json!({ "metadata": { "resourceVersion": current.version }, "status": status });
            if let Err(why) = self.patch(kind, &name, &patch).await {
                tracing::warn!(%kind, object = format!("{}/{}", name.0, name.1), why, "its status could not be written");
                self.failed.insert((kind, name));
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// A conflict or an object that is gone is no failure: the watch tells what is there now.
    async fn patch(
        &mut self,
        kind: Kind,
        (namespace, name): &Name,
        patch: &Value,
    ) -> Result<(), String> {
        let api = Api::<Watched>::namespaced_with(self.client.clone(), namespace, &resource(kind));
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        match tokio::time::timeout(CALL, api.patch_status(name, &params, &patch)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(()),
            Ok(Err(kube::Error::Api(status))) => Err(status.message.clone()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {CALL:?}")),
        }
    }

    /// One event for each refusal, and another when its reason changes.
    async fn tell(&mut self, verdicts: &Verdicts) {
        self.told
            .retain(|key, _| verdicts.refused.contains_key(key));
        let new = verdicts
            .refused
            .iter()
            .filter(|(key, why)| self.told.get(*key) != Some(*why));
        let new: Vec<(Key, String)> = new.map(|(key, why)| (key.clone(), why.clone())).collect();
        for (key, why) in new {
            let known = self
                .mirrors
                .get(&key.kind)
                .and_then(|mirror| mirror.find(&key.namespace, &key.name));
            // The list of its kind may be under way.
            if known.is_none()
                && self
                    .mirrors
                    .get(&key.kind)
                    .is_some_and(|mirror| !mirror.is_listed())
            {
                continue;
            }
            let regarding = reference(&key, known.map(|current| current.uid.clone()));
            let event = refusal(&why, "Translate");
            let outcome =
                tokio::time::timeout(CALL, self.recorder.publish(&event, &regarding)).await;
            if !matches!(outcome, Ok(Ok(()))) {
                tracing::warn!(object = %key, "an event could not be written");
            }
            // Not again in either case: the log and /status have it.
            self.told.insert(key, why);
            tokio::time::sleep(PACE).await;
        }
    }
}

fn current(kind: Kind, object: &Watched) -> Current {
    let spec = &object.data["spec"];
    let parents = if is_route(kind) {
        spec["parentRefs"].as_array()
    } else {
        None
    };
    Current {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        version: object.metadata.resource_version.clone().unwrap_or_default(),
        status: object.data["status"].clone(),
        parents: parents.cloned().unwrap_or_default(),
        targeted: !spec["targetRefs"].is_null() || !spec["targetRef"].is_null(),
    }
}

fn resource(kind: Kind) -> ApiResource {
    let (group, version, plural) = KINDS
        .iter()
        .find(|(other, ..)| *other == kind)
        .map_or(("", "v1", ""), |(_, group, version, plural)| {
            (*group, *version, *plural)
        });
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind.name()), plural)
}

fn reference(key: &Key, uid: Option<String>) -> ObjectReference {
    let (group, version) = match key.kind {
        Kind::EndpointSlice => ("discovery.k8s.io", "v1"),
        Kind::HttpRoute | Kind::GrpcRoute | Kind::Gateway | Kind::GatewayClass => {
            ("gateway.networking.k8s.io", "v1")
        }
        Kind::ReferenceGrant => ("gateway.networking.k8s.io", "v1beta1"),
        Kind::AuthorizationPolicy | Kind::PeerAuthentication => ("security.istio.io", "v1"),
        _ => ("", "v1"),
    };
    let api_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    ObjectReference {
        api_version: Some(api_version),
        kind: Some(key.kind.name().into()),
        name: Some(key.name.to_string()),
        namespace: Some(key.namespace.to_string()).filter(|namespace| !namespace.is_empty()),
        uid,
        ..ObjectReference::default()
    }
}

/// Who writes events, in the name of one replica.
pub(crate) fn reporter(client: Client, instance: &str) -> Recorder {
    let reporter = Reporter {
        controller: super::CONTROLLER.into(),
        instance: Some(instance.to_owned()),
    };
    Recorder::new(client, reporter)
}

/// The event of something that is refused.
pub(crate) fn refusal(why: &str, action: &str) -> Event {
    Event {
        type_: EventType::Warning,
        reason: "Refused".into(),
        note: Some(why[..why.floor_char_boundary(MAX_NOTE)].to_owned()),
        action: action.into(),
        secondary: None,
    }
}
