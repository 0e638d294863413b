//! What the cluster says about pods and namespaces, kept up to date from a source of objects. The
//! other parts look here and wait for changes.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use objects::enroll::Decision;
use objects::{Change, Event, Fault, Key, Kind, Namespace, Object, Pod, Severity, Source};
use runtime::readiness::Pending;
use tokio::sync::watch;

use super::pods::PodKey;
use crate::rules::Switches;
use crate::scope::Scope;

/// The annotation that says of a pod that its traffic is captured; control planes tell peers so.
pub const REDIRECTION: &str = "ambient.istio.io/redirection";

/// On the object that stands for a pod which the kubelet read from a file: the uid by which the node knows it.
const STATIC_UID: &str = "kubernetes.io/config.hash";

/// The node's view of the cluster.
pub struct World {
    node: String,
    scope: Scope,
    view: Mutex<View>,
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct View {
    listed: bool,
    /// By namespace and name.
    pods: BTreeMap<(String, String), Arc<Pod>>,
    namespaces: BTreeMap<String, Arc<Namespace>>,
    /// What could not be taken, as last reported.
    faults: Arc<[Fault]>,
}

/// What is known of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It runs on our node.
    Here(Seen),
    /// It belongs to another node.
    Elsewhere(String),
    /// There is no such pod, or not yet.
    Unknown,
}

/// What is known of a pod of our node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Kubernetes uid; empty when the source has none.
    pub uid: String,
    /// Service account.
    pub service_account: String,
    /// Is it in the mesh?
    pub decision: Decision,
    /// Its addresses; none until the kubelet reported them.
    pub ips: Vec<IpAddr>,
    /// What [`REDIRECTION`] says.
    pub redirection: Option<String>,
    /// What its annotations change of its rules.
    pub switches: Switches,
    /// Of a pod that the kubelet read from a file: the uid by which the runtime knows it.
    pub static_uid: Option<String>,
}

impl Seen {
    /// The uids that its processes may go by on the node: its own, then that of its file, which the pod's annotation says
    /// and which is therefore nobody's word but the pod's.
    pub fn uids(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.uid).chain(&self.static_uid)
    }

    /// Is this the pod of that uid?
    #[must_use]
    pub fn is(&self, uid: &str) -> bool {
        self.uid == uid || self.static_uid.as_deref() == Some(uid)
    }
}

impl World {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(node: &str, scope: Scope) -> Self {
        Self {
            node: node.into(),
            scope,
            view: Mutex::default(),
            version: watch::Sender::new(0),
        }
    }

    /// What is known of a pod now.
    #[must_use]
    pub fn look(&self, namespace: &str, name: &str) -> Sight {
        let view = self.view();
        let Some(pod) = view.pods.get(&(namespace.to_owned(), name.to_owned())) else {
            return Sight::Unknown;
        };
        if pod.spec.node_name.is_empty() {
            // Not scheduled as far as we have heard.
            return Sight::Unknown;
        }
        if pod.spec.node_name != self.node {
            return Sight::Elsewhere(pod.spec.node_name.clone());
        }
        Sight::Here(self.seen(&view, pod))
    }

    /// All pods of our node.
    #[must_use]
    pub fn ours(&self) -> Vec<(PodKey, Seen)> {
        let view = self.view();
        let here = view.pods.iter();
        here.filter(|(_, pod)| pod.spec.node_name == self.node)
            .map(|(key, pod)| (key.clone(), self.seen(&view, pod)))
            .collect()
    }

    fn seen(&self, view: &View, pod: &Pod) -> Seen {
        let metadata = &pod.metadata;
        let namespace = view.namespaces.get(&metadata.namespace);
        Seen {
            uid: metadata.uid.clone(),
            service_account: pod.service_account().to_owned(),
            decision: self.scope.decide(pod, namespace.map(Arc::as_ref)),
            ips: pod.addresses(),
            redirection: metadata.annotation(REDIRECTION).map(str::to_owned),
            switches: Switches::read(metadata),
            static_uid: metadata.annotation(STATIC_UID).map(str::to_owned),
        }
    }

    /// Notes what was written to the cluster, so that it is not written again before the source tells it back.
    pub fn written(&self, key: &PodKey, uid: &str, redirection: Option<&str>) {
        let mut view = self.view();
        let Some(pod) = view.pods.get_mut(key).filter(|pod| pod.metadata.uid == uid) else {
            return;
        };
        let annotations = &mut Arc::make_mut(pod).metadata.annotations;
        match redirection {
            Some(value) => annotations.insert(REDIRECTION.to_owned(), value.to_owned()),
            None => annotations.remove(REDIRECTION),
        };
    }

    /// Has the source named everything once? Before that, nothing is known to be absent.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.view().listed
    }

    /// Counts changes; wait on it for the next one.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Takes in what the source reports.
    pub fn apply(&self, event: Event) {
        let mut view = self.view();
        let faults = match event {
            Event::Snapshot { objects, faults } => {
                *view = View {
                    listed: true,
                    faults: Arc::clone(&view.faults),
                    ..View::default()
                };
                objects.into_iter().for_each(|object| view.upsert(object));
                faults
            }
            Event::Changes { changes, faults } => {
                for change in changes {
                    match change {
                        Change::Upsert(object) => view.upsert(object),
                        Change::Remove(key) => view.remove(&key),
                    }
                }
                faults
            }
        };
        let before = std::mem::replace(&mut view.faults, Arc::clone(&faults));
        drop(view);
        // What other kinds have is the control plane's to report.
        let ours = |fault: &&Fault| {
            let key = fault.key.as_ref();
            key.is_none_or(|key| matches!(key.kind, Kind::Pod | Kind::Namespace))
        };
        let new = faults.iter().filter(|fault| !before.contains(fault));
        for fault in new.filter(ours).filter(|f| f.severity == Severity::Error) {
            tracing::warn!("not taken: {fault}");
        }
        self.version.send_modify(|version| *version += 1);
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View {
    fn upsert(&mut self, object: Object) {
        match object {
            Object::Pod(pod) => {
                let key = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
                self.pods.insert(key, pod);
            }
            Object::Namespace(namespace) => {
                self.namespaces
                    .insert(namespace.metadata.name.clone(), namespace);
            }
            _ => {}
        }
    }

    fn remove(&mut self, key: &Key) {
        match key.kind {
            Kind::Pod => {
                self.pods
                    .remove(&(key.namespace.to_string(), key.name.to_string()));
            }
            Kind::Namespace => {
                self.namespaces.remove(&*key.name);
            }
            _ => {}
        }
    }
}

/// Takes in everything that `source` reports, for ever. `listing` is pending until the first list.
pub async fn follow(mut source: Box<dyn Source>, world: Arc<World>, listing: Pending) {
    let mut listing = Some(listing);
    loop {
        let event = source.next().await;
        world.apply(event);
        if world.is_listed() {
            listing.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use objects::enroll::Why;

    fn objects(yaml: &str) -> Vec<Object> {
        objects::parse(yaml)
            .results
            .into_iter()
            .map(Result::unwrap)
            .collect()
    }

    fn event(yaml: &str) -> Event {
        Event::Snapshot {
            objects: objects(yaml),
            faults: Arc::new([]),
        }
    }

    const YAML: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: u-1}
spec: {nodeName: n1, serviceAccountName: web-sa}
---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: shop}
spec: {nodeName: n2}
";

    #[test]
    fn a_pod_is_seen_with_its_namespaces_label() {
        let world = World::new("n1", Scope::default());
        assert!(!world.is_listed());
        assert_eq!(world.look("shop", "web"), Sight::Unknown);
        world.apply(event(YAML));
        let here = |decision| {
            Sight::Here(Seen {
                uid: "u-1".into(),
                service_account: "web-sa".into(),
                decision,
                ips: Vec::new(),
                redirection: None,
                switches: Switches::default(),
                static_uid: None,
            })
        };
        assert_eq!(world.look("shop", "web"), here(Decision::In));
        assert_eq!(world.look("shop", "far"), Sight::Elsewhere("n2".into()));
        let gone = Change::Remove(Key::new(Kind::Namespace, "", "shop"));
        world.apply(Event::Changes {
            changes: vec![gone],
            faults: Arc::new([]),
        });
        assert_eq!(world.look("shop", "web"), here(Decision::Out(Why::NoLabel)));
        let gone = Change::Remove(Key::new(Kind::Pod, "shop", "web"));
        world.apply(Event::Changes {
            changes: vec![gone],
            faults: Arc::new([]),
        });
        assert_eq!(world.look("shop", "web"), Sight::Unknown);
    }

    #[test]
    fn what_was_written_counts_until_the_source_says_otherwise() {
        let world = World::new("n1", Scope::default());
        world.apply(event(YAML));
        let key = ("shop".to_owned(), "web".to_owned());
        let said = || world.ours().into_iter().map(|(_, seen)| seen.redirection);
        assert_eq!(said().collect::<Vec<_>>(), [None], "only pods of our node");
        world.written(&key, "u-0", Some("enabled"));
        assert_eq!(said().next(), Some(None), "that was another pod");
        world.written(&key, "u-1", Some("enabled"));
        assert_eq!(said().next(), Some(Some("enabled".into())));
        world.written(&key, "u-1", None);
        assert_eq!(said().next(), Some(None));
    }
}
