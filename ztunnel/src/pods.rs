//! Which pods are carried: the registry that others read, and what happens when the node agent adds or removes one.
//! `session` speaks ZDS and calls [`Enrolment`]; `app` starts it.

pub mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use identity::Identity;
use mesh::workload::pod_uid;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use runtime::metrics::Registry;
use sys::netns::Netns;
use tokio::sync::watch;

use crate::config::Own;
use crate::control::ca::{self, Certificates};
use crate::control::dns::{self, Dns};
use crate::worker::api::Pod;
use crate::worker::listeners::{self, Wanted};
use crate::worker::{Gone, Workers};

/// The pods of this ztunnel. Clones share them.
#[derive(Clone, Debug)]
pub struct Pods {
    known: Arc<Mutex<BTreeMap<Arc<str>, Known>>>,
    changes: Arc<watch::Sender<u64>>,
    cluster: Arc<str>,
}

#[derive(Debug)]
struct Known {
    pod: Arc<Pod>,
    up: bool,
    /// Its DNS is answered for as long as this is held.
    dns: Option<dns::Served>,
}

/// A pod as dumps show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodState {
    /// Pod name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Service account.
    pub service_account: Arc<str>,
    /// Its listeners are open.
    pub up: bool,
}

/// Name, namespace and account of a pod, as the node agent tells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Pod name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Service account.
    pub service_account: Arc<str>,
}

/// Opens and closes pods.
pub struct Enrolment {
    pods: Pods,
    workers: Arc<Workers>,
    certificates: Certificates,
    wanted: Wanted,
    dns: Option<Dns>,
    trust_domain: Arc<str>,
    metrics: Metrics,
}

/// Upstream's metrics of pods (without the `istio_` prefix).
#[derive(Debug)]
struct Metrics {
    active: Gauge,
    pending: Gauge,
    started: Counter,
    stopped: Counter,
}

impl Pods {
    /// None yet. `cluster` is the first part of workload uids.
    pub fn new(cluster: Arc<str>) -> Self {
        Self {
            known: Arc::default(),
            changes: Arc::new(watch::Sender::new(0)),
            cluster,
        }
    }

    /// All pods, by uid.
    pub fn states(&self) -> BTreeMap<Arc<str>, PodState> {
        let state = |known: &Known| PodState {
            name: known.pod.name.clone(),
            namespace: known.pod.namespace.clone(),
            service_account: known.pod.service_account.clone(),
            up: known.up,
        };
        self.lock()
            .iter()
            .map(|(uid, known)| (uid.clone(), state(known)))
            .collect()
    }

    /// The workload uids (not pod uids) of all pods.
    pub fn workloads(&self) -> Vec<Arc<str>> {
        let uid = |pod: &Pod| pod_uid(&self.cluster, &pod.namespace, &pod.name).into();
        self.lock().values().map(|known| uid(&known.pod)).collect()
    }

    /// Wakes after each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The map is whole after each operation, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an addition came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Added {
    /// Its traffic is carried.
    Up,
    /// It could not be opened; it stays pending and is tried again. The text says why.
    Pending(String),
}

impl Enrolment {
    /// Registers the metrics.
    pub fn new(
        pods: Pods,
        workers: Arc<Workers>,
        certificates: Certificates,
        (own, wanted, dns): (&Own, Wanted, Option<Dns>),
        registry: &Registry,
    ) -> Self {
        let metrics = Metrics::new(registry);
        Self {
            pods,
            workers,
            certificates,
            wanted,
            dns,
            trust_domain: own.trust_domain.clone(),
            metrics,
        }
    }

    /// Carries a pod from now on. The same pod in the same namespace again changes nothing; in another one it is
    /// replaced.
    ///
    /// # Errors
    /// A worker has ended.
    pub async fn add(&mut self, uid: Arc<str>, info: Info, netns: Netns) -> Result<Added, Gone> {
        let same = self
            .pods
            .lock()
            .get(&uid)
            .map(|known| (known.up, known.pod.netns.id() == netns.id()));
        match same {
            Some((true, true)) => return Ok(Added::Up),
            Some((_, false)) => self.remove(&uid).await?,
            Some((false, true)) | None => {}
        }
        let Info {
            name,
            namespace,
            service_account,
        } = info;
        tracing::info!(%uid, %name, %namespace, "pod received, starting proxy");
        let pod = Arc::new(Pod {
            uid: uid.clone(),
            name,
            namespace,
            service_account,
            netns: Arc::new(netns),
        });
        self.pods.lock().insert(
            uid,
            Known {
                pod: pod.clone(),
                up: false,
                dns: None,
            },
        );
        self.start(&pod).await
    }

    /// Stops carrying a pod and cuts what it has. Unknown: no change.
    ///
    /// # Errors
    /// A worker has ended.
    pub async fn remove(&mut self, uid: &Arc<str>) -> Result<(), Gone> {
        let Some(Known { pod, up, .. }) = self.pods.lock().remove(uid) else {
            return Ok(());
        };
        tracing::info!(%uid, name = %pod.name, namespace = %pod.namespace, "pod removed, stopping proxy");
        if up {
            self.workers.remove_pod(uid).await?;
            self.metrics.stopped.inc();
        }
        self.changed();
        let account = |other: &Pod| (other.namespace.clone(), other.service_account.clone());
        let shared = self
            .pods
            .lock()
            .values()
            .any(|other| account(&other.pod) == account(&pod));
        if !shared {
            let left = self
                .certificates
                .account_left(&pod.namespace, &pod.service_account);
            ca::forget(&self.workers, &left).await?;
        }
        Ok(())
    }

    /// The agent has named every pod that there is: the others are gone.
    ///
    /// # Errors
    /// A worker has ended.
    pub async fn keep_only(&mut self, named: &BTreeSet<Arc<str>>) -> Result<(), Gone> {
        let gone: Vec<Arc<str>> = self
            .pods
            .lock()
            .keys()
            .filter(|uid| !named.contains(*uid))
            .cloned()
            .collect();
        for uid in gone {
            self.remove(&uid).await?;
        }
        Ok(())
    }

    /// Tries pending pods again.
    ///
    /// # Errors
    /// A worker has ended.
    pub async fn retry(&mut self) -> Result<(), Gone> {
        let pending: Vec<Arc<Pod>> = {
            let known = self.pods.lock();
            known
                .values()
                .filter(|known| !known.up)
                .map(|known| known.pod.clone())
                .collect()
        };
        for pod in pending {
            self.start(&pod).await?;
        }
        Ok(())
    }

    /// Whether some pod waits to be opened.
    pub fn pending(&self) -> bool {
        self.pods.lock().values().any(|known| !known.up)
    }

    async fn start(&mut self, pod: &Arc<Pod>) -> Result<Added, Gone> {
        match Identity::new(&self.trust_domain, &pod.namespace, &pod.service_account) {
            Ok(identity) => self.certificates.pod_added(&identity),
            // It is carried all the same, and refused as long as nothing proves who it is.
            Err(error) => {
                tracing::error!(uid = %pod.uid, "the pod has no usable identity: {error}")
            }
        }
        // So that a SYN that waits at a closing listener moves to its successor's. A namespace where this may not be
        // written works all the same, with resets during an upgrade.
        if let Err(error) = sys::socket::set_tcp_migrate_req(&pod.netns) {
            tracing::warn!(uid = %pod.uid, "an upgrade may reset new connections of the pod: tcp_migrate_req cannot be set: {error}");
        }
        let opened = listeners::open(&pod.netns, &self.wanted, self.workers.count())
            .and_then(|listeners| Ok((listeners, self.serve_dns(pod)?)));
        let (listeners, dns) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(uid = %pod.uid, "cannot start the proxy of the pod, will try again: {error}");
                self.changed();
                return Ok(Added::Pending(error.to_string()));
            }
        };
        self.workers.add_pod(pod.clone(), listeners).await?;
        if let Some(known) = self.pods.lock().get_mut(&pod.uid) {
            known.up = true;
            known.dns = dns;
        }
        self.metrics.started.inc();
        self.changed();
        Ok(Added::Up)
    }

    /// Answers the pod's DNS, where there is a DNS proxy.
    fn serve_dns(&self, pod: &Arc<Pod>) -> io::Result<Option<dns::Served>> {
        let Some(dns) = &self.dns else {
            return Ok(None);
        };
        let sockets = dns.open(&pod.netns)?;
        dns.serve(pod, sockets).map(Some)
    }

    fn changed(&self) {
        let (mut active, mut pending) = (0, 0);
        for known in self.pods.lock().values() {
            *(if known.up { &mut active } else { &mut pending }) += 1;
        }
        self.metrics.active.set(active);
        self.metrics.pending.set(pending);
        self.pods.changes.send_modify(|count| *count += 1);
    }
}

impl Metrics {
    fn new(registry: &Registry) -> Self {
        Self {
            active: registry.register(
                "workload_manager_active_proxy_count",
                "The total number current workloads with active proxies (unstable)",
                Gauge::default(),
            ),
            pending: registry.register(
                "workload_manager_pending_proxy_count",
                "The total number current workloads with pending proxies (unstable)",
                Gauge::default(),
            ),
            started: registry.register(
                "workload_manager_proxies_started",
                "The total number of proxies that were started (unstable)",
                Counter::default(),
            ),
            stopped: registry.register(
                "workload_manager_proxies_stopped",
                "The total number of proxies that were stopped (unstable)",
                Counter::default(),
            ),
        }
    }
}
