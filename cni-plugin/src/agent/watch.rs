//! What the cluster says about pods and namespaces, kept up to date from a source of objects. The
//! other parts look here and wait for changes.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use objects::{Change, Event, Fault, Key, Kind, Namespace, Object, Pod, Severity, Source};
use runtime::readiness::Pending;
use tokio::sync::watch;

use objects::enroll::{self, Decision};

/// The node's view of the cluster.
pub struct World {
    node: String,
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
    Here {
        /// Kubernetes uid; empty when the source has none.
        uid: String,
        /// Service account.
        service_account: String,
        /// Is it in the mesh?
        decision: Decision,
    },
    /// It belongs to another node.
    Elsewhere(String),
    /// There is no such pod, or not yet.
    Unknown,
}

impl World {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.into(),
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
        Sight::Here {
            uid: pod.metadata.uid.clone(),
            service_account: pod.service_account().to_owned(),
            decision: enroll::decide(pod, view.namespaces.get(namespace).map(Arc::as_ref)),
        }
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
        let world = World::new("n1");
        assert!(!world.is_listed());
        assert_eq!(world.look("shop", "web"), Sight::Unknown);
        world.apply(event(YAML));
        let (uid, service_account) = ("u-1".to_owned(), "web-sa".to_owned());
        let here = |decision| Sight::Here {
            uid: uid.clone(),
            service_account: service_account.clone(),
            decision,
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
}
