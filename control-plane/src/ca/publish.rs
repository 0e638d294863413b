//! The roots as ConfigMap `istio-ca-root-cert` in every namespace, where pods mount them from. Written by the elected
//! replica, and mended when somebody changes or deletes one. Started by `app`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Error,
    api::{ObjectMeta, Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use kubernetes::words;
use runtime::Shutdown;
use tokio::{sync::watch, time::sleep};

use super::Issuers;

/// Upstream's name; waypoints, gateways and ztunnels mount it.
pub const CONFIG_MAP: &str = "istio-ca-root-cert";
/// Its field.
pub const FIELD: &str = "root-cert.pem";
/// Who owns the field on the API server.
const MANAGER: &str = "causeway-ca";
/// Time between two attempts when something could not be written.
const RETRY: Duration = Duration::from_secs(5);
/// Changes that come together are worked off together.
const SETTLE: Duration = Duration::from_millis(50);

/// So often at most the same roots are written into one namespace
const MOST_WRITES: usize = 5;
/// in this time: who undoes it each time is another control plane, and neither would ever rest.
const WINDOW: Duration = Duration::from_secs(60);

/// What each namespace holds.
type Present = BTreeMap<String, Option<String>>;

/// The namespaces whose ConfigMap is missing or differs.
#[must_use]
pub fn due<'n>(present: &Present, namespaces: &'n BTreeSet<String>, roots: &str) -> Vec<&'n str> {
    let lacks = |namespace: &&String| {
        let held = present.get(*namespace);
        held.and_then(Option::as_deref) != Some(roots)
    };
    namespaces
        .iter()
        .filter(lacks)
        .map(String::as_str)
        .collect()
}

/// When each namespace was written.
#[derive(Default)]
struct Pace {
    roots: String,
    written: BTreeMap<String, Vec<Instant>>,
}

/// Whether a namespace may be written now.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Now,
    /// Not before others have left it alone for a while; `news`: that is so since just now.
    Later {
        news: bool,
    },
}

impl Pace {
    /// Other roots are another matter.
    fn begin(&mut self, roots: &str) {
        if self.roots != roots {
            roots.clone_into(&mut self.roots);
            self.written.clear();
        }
    }

    /// Takes note of the write, if it may be.
    fn take(&mut self, namespace: &str, now: Instant) -> Turn {
        let written = self.written.entry(namespace.to_owned()).or_default();
        // One more than may be stands for what was told.
        let told = written.len() > MOST_WRITES;
        written.retain(|at| now.duration_since(*at) < WINDOW);
        if written.len() < MOST_WRITES {
            written.push(now);
            return Turn::Now;
        }
        if !told {
            written.push(now);
        }
        Turn::Later { news: !told }
    }
}

/// Publishes until drained, while `leader` is true. `namespaces` are those that exist and are not ending.
pub async fn publish(
    client: Client,
    mut issuers: Issuers,
    mut namespaces: watch::Receiver<Arc<BTreeSet<String>>>,
    mut leader: watch::Receiver<bool>,
    shutdown: Shutdown,
) {
    loop {
        tokio::select! {
            () = shutdown.draining() => return,
            led = leader.wait_for(|leader| *leader) => if led.is_err() { return },
        }
        tokio::select! {
            () = shutdown.draining() => return,
            _ = leader.wait_for(|leader| !*leader) => {}
            () = lead(&client, &mut issuers, &mut namespaces) => return,
        }
    }
}

/// Writes what is due, whenever that changes; ends only when nobody can change it any more.
async fn lead(
    client: &Client,
    issuers: &mut Issuers,
    namespaces: &mut watch::Receiver<Arc<BTreeSet<String>>>,
) {
    let only = watcher::Config::default().fields(&format!("metadata.name={CONFIG_MAP}"));
    let seen = watcher(Api::<ConfigMap>::all(client.clone()), only).default_backoff();
    pin_mut!(seen);
    let (mut present, mut listed) = (Present::new(), false);
    let mut fresh = Present::new();
    let (mut again, mut may_rotate, mut pace) = (false, true, Pace::default());
    let mut writers = BTreeMap::new();
    loop {
        tokio::select! {
            event = seen.next() => match event {
                Some(Ok(watcher::Event::Init)) => fresh.clear(),
                Some(Ok(watcher::Event::InitApply(map))) => { note(&mut fresh, &mut writers, map); continue; }
                Some(Ok(watcher::Event::InitDone)) => {
                    (present, listed) = (std::mem::take(&mut fresh), true);
                }
                Some(Ok(watcher::Event::Apply(map))) => note(&mut present, &mut writers, map),
                Some(Ok(watcher::Event::Delete(map))) => {
                    let namespace = map.metadata.namespace.unwrap_or_default();
                    present.remove(&namespace);
                    writers.remove(&namespace);
                }
                Some(Err(error)) => {
                    tracing::warn!("ConfigMaps {CONFIG_MAP} cannot be watched: {error}");
                    continue;
                }
                None => return,
            },
            changed = issuers.changed(), if may_rotate => may_rotate = changed.is_ok(),
            changed = namespaces.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if again => {}
        }
        if listed {
            sleep(SETTLE).await;
            let roots = issuers.borrow_and_update().roots_pem().to_owned();
            let wanted = namespaces.borrow_and_update().clone();
            pace.begin(&roots);
            let due = due(&present, &wanted, &roots).into_iter();
            let (due, later): (Vec<&str>, Vec<&str>) =
                due.partition(|namespace| is_due(&mut pace, &writers, namespace));
            again = !write(client, &mut present, &due, &roots).await || !later.is_empty();
        }
    }
}

fn note(present: &mut Present, writers: &mut BTreeMap<String, String>, map: ConfigMap) {
    let roots = map.data.and_then(|mut data| data.remove(FIELD));
    let namespace = map.metadata.namespace.unwrap_or_default();
    let all = map.metadata.managed_fields.unwrap_or_default().into_iter();
    let others = all.filter(|entry| entry.manager.as_deref() != Some(MANAGER));
    let last = others.max_by(|a, b| a.time.cmp(&b.time));
    if let Some(writer) = last.and_then(|entry| entry.manager) {
        writers.insert(namespace.clone(), writer);
    }
    present.insert(namespace, roots);
}

/// Whether a namespace may be written now; says so when somebody else writes it again and again.
fn is_due(pace: &mut Pace, writers: &BTreeMap<String, String>, namespace: &str) -> bool {
    match pace.take(namespace, Instant::now()) {
        Turn::Now => true,
        Turn::Later { news } => {
            if news {
                let who = writers.get(namespace).map_or("somebody", String::as_str);
                tracing::warn!(
                    "ConfigMap {namespace}/{CONFIG_MAP} was changed {MOST_WRITES} times within a minute, last by {who}: does \
                     another control plane serve this cluster? Its clients trust other roots; stop one of the two"
                );
            }
            false
        }
    }
}

/// Writes where it is due; whether all of it could be written.
async fn write(client: &Client, present: &mut Present, due: &[&str], roots: &str) -> bool {
    let mut all = true;
    for namespace in due {
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(CONFIG_MAP.to_owned()),
                labels: Some([("istio.io/config".to_owned(), "true".to_owned())].into()),
                ..ObjectMeta::default()
            },
            data: Some([(FIELD.to_owned(), roots.to_owned())].into()),
            ..ConfigMap::default()
        };
        let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
        // Another control plane's field is taken over: its pods could not be served otherwise.
        let apply = PatchParams::apply(MANAGER).force();
        match api.patch(CONFIG_MAP, &apply, &Patch::Apply(&map)).await {
            Ok(_) => drop(present.insert((*namespace).to_owned(), Some(roots.to_owned()))),
            // It ends, or has ended, and needs none.
            Err(Error::Api(status)) if status.code == 404 || is_ending(&status) => {}
            Err(error) => {
                tracing::warn!("ConfigMap {namespace}/{CONFIG_MAP}: {}", words(&error));
                all = false;
            }
        }
    }
    all
}

fn is_ending(status: &kube::core::Status) -> bool {
    status.code == 403 && status.message.contains("because it is being terminated")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_changes_again_and_again_is_left_for_a_while() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        pace.begin("r");
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..5 {
            assert_eq!(pace.take("a", at(second)), Turn::Now);
        }
        assert_eq!(pace.take("a", at(5)), Turn::Later { news: true });
        assert_eq!(pace.take("a", at(6)), Turn::Later { news: false });
        assert_eq!(pace.take("b", at(6)), Turn::Now, "others are not concerned");
        assert_eq!(pace.take("a", at(66)), Turn::Now);
        pace.begin("r2");
        assert_eq!(pace.take("a", at(66)), Turn::Now, "nor other roots");
    }

    #[test]
    fn what_is_missing_or_differs_is_due() {
        let present = Present::from([
            ("same".into(), Some("r".into())),
            ("other".into(), Some("x".into())),
            ("empty".into(), None),
            ("gone".into(), Some("x".into())),
        ]);
        let namespaces = ["same", "other", "empty", "new"].map(str::to_owned).into();
        assert_eq!(due(&present, &namespaces, "r"), ["empty", "new", "other"]);
    }
}
