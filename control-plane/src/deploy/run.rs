//! The loop that keeps waypoints as their Gateways want them. Watches Gateways, classes, overlays and what was made;
//! asks the pure parts what to do; writes. Started by `app`; works only while this replica leads.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt as _, stream::SelectAll};
use k8s_openapi::{api::core::v1::ConfigMap, jiff::Timestamp};
use kube::{
    Api, Client, ResourceExt as _,
    core::{ApiResource, DynamicObject, GroupVersionKind, PartialObjectMeta},
    runtime::{WatchStreamExt as _, events::Recorder, watcher},
};
use objects::Kind;
use runtime::Shutdown;
use serde_json::Value;

use super::{
    Part, Settings,
    gateway::{CLASS_NAME, GATEWAY_NAME, Gateway},
    settle::{resource, whole},
};
use crate::{
    conditions::{Published, Verdicts, reporter},
    lead::Leadership,
    mirror::{Mirror, Name, until},
};

/// Events that come in a bunch are taken together.
const BUNCH: Duration = Duration::from_millis(100);
/// Everything is looked at again so often, for what no watch tells.
const ROUND: Duration = Duration::from_secs(60);
/// After a failure, doubled up to the last.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
const CLASS_DEFAULTS: &str = "gateway.istio.io/defaults-for-class";

/// Runs until the drain. Nothing is watched or written while another replica leads.
pub async fn run(
    client: Client,
    settings: Settings,
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
        let mut deployer = Deployer::new(client.clone(), settings.clone(), verdicts.clone());
        tokio::select! {
            () = shutdown.draining() => return,
            // Dropping the loop ends whatever it was about to write.
            () = lost.until(false) => {}
            () = deployer.work() => {}
        }
    }
}

/// An event, or the failure of the watch of so called objects.
type Item = (&'static str, watcher::Result<Seen>);
type Events = SelectAll<std::pin::Pin<Box<dyn Stream<Item = Item> + Send>>>;

enum Seen {
    Gateway(watcher::Event<DynamicObject>),
    Class(watcher::Event<DynamicObject>),
    Part(Part, watcher::Event<DynamicObject>),
    ConfigMap(watcher::Event<PartialObjectMeta<ConfigMap>>),
}

/// A ConfigMap as far as it may be an overlay.
#[derive(Debug, PartialEq)]
pub(super) struct OverlayMap {
    version: String,
    /// The oldest defaults of a class are its defaults.
    pub created: Option<Timestamp>,
    /// The class whose defaults it is.
    pub defaults_of: Option<String>,
}

pub(super) struct Deployer {
    pub(super) client: Client,
    pub(super) recorder: Recorder,
    pub(super) settings: Settings,
    verdicts: Published,
    /// Gateways that cannot be read, and why.
    pub(super) refused: BTreeMap<Name, String>,
    pub(super) gateways: Mirror<Gateway>,
    pub(super) classes: Mirror<Value>,
    pub(super) parts: BTreeMap<Part, Mirror<Value>>,
    pub(super) config_maps: Mirror<OverlayMap>,
    /// Those that are, or were when they were looked at last, defaults of a class.
    defaults: BTreeSet<Name>,
    dirty: BTreeSet<Name>,
    /// Gateways that failed: how often, and when they are due again.
    failed: BTreeMap<Name, (u32, Instant)>,
    /// Watches that fail now, and other trouble that was told already.
    pub(super) told: BTreeSet<&'static str>,
}

impl Deployer {
    fn new(client: Client, settings: Settings, verdicts: Published) -> Deployer {
        // Where nothing is deployed, what was placed by hand is looked at, to tell whether it is ready.
        let watched = |part: &Part| {
            !settings.image.is_empty() || matches!(part, Part::Deployment | Part::Service)
        };
        let parts = Part::ALL.into_iter().filter(watched);
        Deployer {
            parts: parts.map(|part| (part, Mirror::default())).collect(),
            recorder: reporter(client.clone(), &settings.instance),
            client,
            settings,
            verdicts,
            refused: BTreeMap::new(),
            gateways: Mirror::default(),
            classes: Mirror::default(),
            config_maps: Mirror::default(),
            defaults: BTreeSet::new(),
            dirty: BTreeSet::new(),
            failed: BTreeMap::new(),
            told: BTreeSet::new(),
        }
    }

    async fn work(&mut self) {
        let mut events = self.watch();
        let mut round = tokio::time::interval(ROUND);
        let mut verdicts = self.verdicts.clone();
        verdicts.mark_changed();
        let mut wake = None;
        loop {
            if self.is_listed()
                && let Some(pause) = self.due(Instant::now())
            {
                wake.get_or_insert(Instant::now() + pause);
            }
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => self.take(event),
                    None => return,
                },
                _ = round.tick() => self.everything(),
                changed = verdicts.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let refused = verdicts.borrow_and_update().as_deref().map(refused).unwrap_or_default();
                    self.judged(refused);
                }
                () = until(wake) => {
                    wake = None;
                    self.settle().await;
                }
            }
        }
    }

    fn watch(&self) -> Events {
        let gateway_api = |kind: &str, plural: &str| {
            ApiResource::from_gvk_with_plural(
                &GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", kind),
                plural,
            )
        };
        let all = watcher::Config::default();
        let made = watcher::Config::default().labels(&format!("{CLASS_NAME},{GATEWAY_NAME}"));
        // There is one of these in each namespace, and nobody's overlay.
        let maps = watcher::Config::default()
            .fields("metadata.name!=kube-root-ca.crt,metadata.name!=istio-ca-root-cert");
        let mut events: Events = SelectAll::new();
        let client = &self.client;
        let gateways =
            Api::<DynamicObject>::all_with(client.clone(), &gateway_api("Gateway", "gateways"));
        let gateway_classes = Api::<DynamicObject>::all_with(
            client.clone(),
            &gateway_api("GatewayClass", "gatewayclasses"),
        );
        events.push(Box::pin(
            watcher(gateways, all.clone())
                .default_backoff()
                .map(|e| ("Gateways", e.map(Seen::Gateway))),
        ));
        events.push(Box::pin(
            watcher(gateway_classes, all)
                .default_backoff()
                .map(|e| ("GatewayClasses", e.map(Seen::Class))),
        ));
        for part in self.parts.keys().copied() {
            let api = Api::<DynamicObject>::all_with(client.clone(), &resource(part));
            let stream = watcher(api, made.clone()).default_backoff();
            events.push(Box::pin(stream.map(move |e| {
                (part.resource().3, e.map(|event| Seen::Part(part, event)))
            })));
        }
        let config_maps = Api::<PartialObjectMeta<ConfigMap>>::all(client.clone());
        let stream = watcher(config_maps, maps).default_backoff();
        events.push(Box::pin(
            stream.map(|e| ("ConfigMaps", e.map(Seen::ConfigMap))),
        ));
        events
    }

    fn take(&mut self, (what, event): Item) {
        if event.is_ok() {
            self.told.remove(what);
        }
        match event {
            Ok(Seen::Gateway(event)) => {
                let changed = self.gateways.take(event, Gateway::read);
                self.dirty.extend(changed);
            }
            Ok(Seen::Class(event)) => {
                if !self.classes.take(event, whole).is_empty() {
                    self.everything();
                }
            }
            Ok(Seen::Part(part, event)) => {
                let Some(mirror) = self.parts.get_mut(&part) else {
                    return;
                };
                let changed = mirror.take(event, whole);
                let owners = self.gateways.all().filter(|(_, gateway)| {
                    let is_its = |(namespace, name): &Name| {
                        *namespace == gateway.namespace
                            && [gateway.deployment(), gateway.account()].contains(&name.as_str())
                    };
                    changed.iter().any(is_its)
                });
                let owners: Vec<Name> = owners.map(|(name, _)| name.clone()).collect();
                // Something that was placed by hand is found by its label; such Gateways are few.
                self.dirty.extend(owners);
                let namespaces: BTreeSet<&String> =
                    changed.iter().map(|(namespace, _)| namespace).collect();
                let by_hand = self.gateways.all().filter(|(name, _)| {
                    self.settings.image.is_empty() && namespaces.contains(&name.0)
                });
                self.dirty
                    .extend(by_hand.map(|(name, _)| name.clone()).collect::<Vec<_>>());
            }
            Ok(Seen::ConfigMap(event)) => {
                let read = |object: PartialObjectMeta<ConfigMap>| OverlayMap {
                    version: object.resource_version().unwrap_or_default(),
                    created: object.creation_timestamp().map(|time| time.0),
                    defaults_of: object.labels().get(CLASS_DEFAULTS).cloned(),
                };
                for (namespace, name) in self.config_maps.take(event, read) {
                    self.overlay_changed(&namespace, &name);
                }
            }
            Err(error) if self.told.insert(what) => {
                tracing::warn!(
                    what,
                    why = error.to_string(),
                    "a watch for waypoints failed and is tried again"
                );
            }
            Err(_) => {}
        }
    }

    fn overlay_changed(&mut self, namespace: &str, name: &str) {
        if namespace == self.settings.root_namespace {
            let key = (namespace.to_owned(), name.to_owned());
            let map = self.config_maps.find(namespace, name);
            let is_one = map.is_some_and(|map| map.defaults_of.is_some());
            let was_one = if is_one {
                !self.defaults.insert(key)
            } else {
                self.defaults.remove(&key)
            };
            if is_one || was_one {
                return self.everything();
            }
        }
        let named = self.gateways.all().filter(|((home, _), gateway)| {
            home == namespace && gateway.parameters() == Ok(Some(name))
        });
        let named: Vec<Name> = named.map(|(name, _)| name.clone()).collect();
        self.dirty.extend(named);
    }

    fn judged(&mut self, refused: BTreeMap<Name, String>) {
        let names = self.refused.keys().chain(refused.keys());
        let changed = names.filter(|name| self.refused.get(*name) != refused.get(*name));
        let changed: Vec<Name> = changed.cloned().collect();
        self.dirty.extend(changed);
        self.refused = refused;
    }

    fn everything(&mut self) {
        self.dirty
            .extend(self.gateways.all().map(|(name, _)| name.clone()));
        // The class itself is looked at even where there is no Gateway.
        self.dirty.insert((String::new(), String::new()));
    }

    /// Before the first whole lists, what is there could be taken for absent.
    fn is_listed(&self) -> bool {
        self.gateways.is_listed()
            && self.classes.is_listed()
            && self.config_maps.is_listed()
            && self.parts.values().all(Mirror::is_listed)
    }

    /// In how long there is something to do.
    fn due(&self, now: Instant) -> Option<Duration> {
        let failed = self
            .failed
            .values()
            .map(|(_, due)| due.saturating_duration_since(now))
            .min();
        if self.dirty.is_empty() {
            failed
        } else {
            Some(BUNCH)
        }
    }

    async fn settle(&mut self) {
        let now = Instant::now();
        let again = self.failed.iter().filter(|(_, (_, due))| *due <= now);
        let again: Vec<Name> = again.map(|(name, _)| name.clone()).collect();
        self.dirty.extend(again);
        for name in std::mem::take(&mut self.dirty) {
            let outcome = if name.0.is_empty() {
                self.settle_classes().await
            } else {
                self.settle_one(&name).await
            };
            match outcome {
                Ok(()) => drop(self.failed.remove(&name)),
                Err(error) => self.fail(name, &error),
            }
        }
    }

    fn fail(&mut self, name: Name, why: &str) {
        let failures = self.failed.get(&name).map_or(0, |(failures, _)| *failures) + 1;
        let pause = RETRY
            .1
            .min(RETRY.0 * 2_u32.saturating_pow(failures.min(16) - 1));
        tracing::warn!(
            gateway = format!("{}/{}", name.0, name.1),
            why,
            ?pause,
            "a waypoint could not be deployed"
        );
        self.failed.insert(name, (failures, Instant::now() + pause));
    }
}

/// The Gateways among what is refused.
fn refused(verdicts: &Verdicts) -> BTreeMap<Name, String> {
    let gateways = verdicts
        .refused
        .iter()
        .filter(|(key, _)| key.kind == Kind::Gateway);
    let named = gateways.map(|(key, why)| {
        (
            (key.namespace.to_string(), key.name.to_string()),
            why.clone(),
        )
    });
    named.collect()
}
