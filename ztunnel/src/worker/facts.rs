//! What is reported of a link, made once when it is known: no label string is built here.

use std::net::SocketAddr;
use std::sync::Arc;

use hbone::headers::{Baggage, ConnectRequest, Traceparent, WorkloadKind};
use mesh::authz::Facts;
use mesh::service::Service;
use mesh::workload::{Workload, WorkloadType};

use super::api::{Bytes, Connection, Direction, Notice, Security};
use super::io::Io;
use super::link::{Far, Link};
use super::slots::Key;
use super::state::Worker;

impl<I: Io> Worker<I> {
    /// Makes the facts of an outbound tunnel link and reports them.
    pub(super) fn announce_outbound(&mut self, key: Key, trace: Option<Traceparent>) {
        let Some(link) = self.links.get(key) else {
            return;
        };
        let Some(route) = &link.route else { return };
        let pod = link.pod;
        let proven = match &link.far {
            Far::Stream { tunnel, .. } => self
                .tunnels
                .get(*tunnel)
                .and_then(|tunnel| tunnel.peer.clone()),
            _ => None,
        };
        let security = match &link.far {
            Far::Leased(_) | Far::Local { .. } => Security::SameNode,
            _ => Security::MutualTls,
        };
        let facts = Connection {
            direction: Direction::Outbound,
            security,
            source: link.source,
            source_identity: None,
            source_workload: None,
            source_baggage: None,
            destination: route.next_hop,
            hbone: Some(route.authority.clone()),
            destination_identity: proven.or_else(|| route.workload.identity.clone()),
            destination_workload: Some(route.workload.clone()),
            service: route.service.clone(),
            trace,
            opened: link.opened,
            bytes: Bytes::default(),
        };
        let own = self.own_workload(pod);
        let source_identity = own.as_ref().and_then(|own| own.identity.clone());
        self.announce(
            key,
            Connection {
                source_identity,
                source_workload: own,
                ..facts
            },
        );
    }

    /// Reports a link's facts; its end will be reported with them.
    pub(super) fn announce(&mut self, key: Key, facts: Connection) {
        let facts = Arc::new(facts);
        if let Some(link) = self.links.get_mut(key) {
            link.facts = Some(facts.clone());
            self.notices.push(Notice::Opened(facts));
        }
    }

    pub(super) fn stream_facts(
        &self,
        on: Key,
        head: ConnectRequest,
        (own, service): (Option<Arc<Workload>>, Option<Arc<Service>>),
        destination: SocketAddr,
    ) -> Connection {
        let tunnel = self.tunnels.get(on);
        let source = tunnel.map_or(destination, |tunnel| tunnel.remote);
        let foreign = head
            .forwarded_network
            .as_deref()
            .is_some_and(|network| *network != *self.settings.network);
        let here = self
            .snapshot
            .workload_at(&self.settings.network, source.ip());
        // A gateway passes on what others have sealed. Who proves to be the workload of its own address is no gateway's
        // client, and needs no other name.
        let peer = tunnel.and_then(|tunnel| tunnel.peer.as_ref());
        let proven = |one: &&Arc<Workload>| peer.is_some() && one.identity.as_ref() == peer;
        let source_workload = here.filter(|one| !foreign || proven(one)).cloned();
        let host = head.forwarded.and_then(|forwarded| forwarded.host);
        let service = service.or_else(|| self.called(own.as_deref()?, &host?));
        Connection {
            direction: Direction::Inbound,
            security: Security::MutualTls,
            source,
            source_identity: tunnel.and_then(|tunnel| tunnel.peer.clone()),
            source_baggage: head
                .baggage
                .filter(|_| source_workload.is_none())
                .map(Box::new),
            source_workload,
            destination,
            hbone: Some(head.authority),
            destination_identity: tunnel.and_then(|tunnel| tunnel.own.clone()),
            destination_workload: own,
            service,
            trace: head.traceparent,
            opened: self.now,
            bytes: Bytes::default(),
        }
    }

    /// The service of that name, if `own` is one of its endpoints. A peer may write any name, and could fill the metrics
    /// with them.
    fn called(&self, own: &Workload, host: &str) -> Option<Arc<Service>> {
        let services = self.snapshot.services_named(host).iter();
        let mut ours = services.filter(|service| own.ports_of(&service.key).is_some());
        ours.next().cloned()
    }

    pub(super) fn announce_plain(&mut self, key: Key, own: Arc<Workload>) {
        let Some(link) = self.links.get(key) else {
            return;
        };
        let facts = Connection {
            direction: Direction::Inbound,
            security: Security::Plain,
            source: link.source,
            source_identity: None,
            source_workload: self
                .snapshot
                .workload_at(&self.settings.network, link.source.ip())
                .cloned(),
            source_baggage: None,
            destination: link.destination,
            hbone: None,
            destination_identity: None,
            destination_workload: Some(own),
            service: None,
            trace: None,
            opened: link.opened,
            bytes: Bytes::default(),
        };
        self.announce(key, facts);
    }
}

/// What the policy may look at.
pub(super) fn authz_facts<S>(link: &Link<S>) -> Option<Facts> {
    let facts = link.facts.as_ref()?;
    Some(Facts {
        source: facts.source_identity.clone(),
        source_ip: facts.source.ip(),
        destination: facts.destination,
    })
}

type Labels = (
    Option<Arc<Workload>>,
    Option<Arc<Workload>>,
    Option<Arc<Service>>,
);

/// What we say of a workload in `baggage`.
pub(super) fn baggage(workload: &Workload) -> Baggage {
    let text = |text: &str| (!text.is_empty()).then(|| Box::from(text));
    let locality = workload.locality.as_deref();
    Baggage {
        cluster: text(&workload.cluster_id),
        namespace: text(&workload.namespace),
        workload_kind: match workload.workload_type {
            WorkloadType::Deployment => WorkloadKind::Deployment,
            WorkloadType::CronJob => WorkloadKind::CronJob,
            WorkloadType::Pod => WorkloadKind::Pod,
            WorkloadType::Job => WorkloadKind::Job,
        },
        workload: text(&workload.workload_name),
        service: text(&workload.canonical_name),
        version: text(&workload.canonical_revision),
        region: locality.and_then(|locality| text(&locality.region)),
        zone: locality.and_then(|locality| text(&locality.zone)),
    }
}

/// The facts of an outbound link that takes no tunnel. `labels`: source, destination, service.
pub(super) fn plain_facts(
    source: SocketAddr,
    destination: SocketAddr,
    opened: std::time::Instant,
    labels: Labels,
) -> Connection {
    Connection {
        direction: Direction::Outbound,
        security: Security::Plain,
        source,
        source_identity: None,
        source_workload: labels.0,
        source_baggage: None,
        destination,
        hbone: None,
        destination_identity: None,
        destination_workload: labels.1,
        service: labels.2,
        trace: None,
        opened,
        bytes: Bytes::default(),
    }
}
