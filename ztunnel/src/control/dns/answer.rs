//! What a question is answered with, from the snapshot alone: pure. Called by `serve` for each question; the table of
//! its tests is the specification.
//!
//! A name that the mesh knows an address for is never asked for elsewhere: another answer would lead past its waypoint
//! and its policies. For the same reason a name whose service was refused fails.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::RecordType;
use mesh::service::{IpFamilies, Service};
use mesh::state::{RefusedAddress, Snapshot};
use mesh::workload::{Workload, pod_uid};
use rand::Rng;
use rand::seq::SliceRandom as _;

use super::name::{Alias, aliases, pod_host, with_wildcards};

/// What is the same for all questions.
#[derive(Debug, Clone)]
pub struct Zone {
    /// Own network id.
    pub network: Arc<str>,
    /// Own cluster id.
    pub cluster: Arc<str>,
    /// Domain of the cluster, lower case (`CLUSTER_DOMAIN`).
    pub domain: Box<str>,
    /// Where several namespaces have a host name: this one after the asker's own (`PREFERED_SERVICE_NAMESPACE`).
    pub preferred: Option<Box<str>>,
    /// Answer AAAA at all (`IPV6_ENABLED`).
    pub ipv6: bool,
}

/// One question.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Lower case, no final dot.
    pub host: &'a str,
    /// Type of the records wanted.
    pub kind: RecordType,
    /// Namespace of the pod that asks.
    pub namespace: &'a str,
}

/// What to say.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// These addresses, in random order; never none.
    Addresses {
        /// The name that the client meant, where a search domain was taken off: it becomes a CNAME.
        meant: Option<&'a str>,
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// The name is known and has no such record.
    NoRecord,
    /// The name is a service's that was refused: what its address is, and what guards it, is not known.
    Refused(&'a RefusedAddress),
    /// Not known here: ask others.
    Forward,
}

/// Answers.
pub fn answer<'a>(
    snapshot: &'a Snapshot,
    zone: &Zone,
    question: &Question<'a>,
    rng: &mut impl Rng,
) -> Answer<'a> {
    // Other records say nothing of where an application connects to, and only the others have them.
    let addresses = matches!(
        question.kind,
        RecordType::A | RecordType::AAAA | RecordType::ANY
    );
    let hints = matches!(question.kind, RecordType::HTTPS | RecordType::SVCB);
    if !addresses && !hints {
        return Answer::Forward;
    }
    let asker = Asker {
        snapshot,
        zone,
        namespace: question.namespace,
    };
    let (server, meant) = match asker.find(question.host) {
        Found::Server(server, meant) => (server, meant),
        Found::Refused(refused) => return Answer::Refused(refused),
        Found::Nothing => return Answer::Forward,
    };
    // HTTPS and SVCB records can carry addresses of their own.
    let mut addresses = match hints {
        true => Vec::new(),
        false => asker.addresses(server, question.kind),
    };
    if addresses.is_empty() {
        return Answer::NoRecord;
    }
    addresses.shuffle(rng);
    let meant = meant.map(|kept| &question.host[..kept]);
    Answer::Addresses { meant, addresses }
}

/// Who asks.
#[derive(Clone, Copy)]
struct Asker<'a, 'z> {
    snapshot: &'a Snapshot,
    zone: &'z Zone,
    namespace: &'z str,
}

#[derive(Clone, Copy)]
enum Server<'a> {
    Service(&'a Arc<Service>),
    Pod(&'a Arc<Workload>),
}

enum Found<'a> {
    /// And how many bytes of the name were meant, if not all.
    Server(Server<'a>, Option<usize>),
    Refused(&'a RefusedAddress),
    Nothing,
}

impl<'a> Asker<'a, '_> {
    fn find(&self, host: &str) -> Found<'a> {
        for Alias { host, kept } in aliases(host, self.namespace, &self.zone.domain) {
            match with_wildcards(&host, |host| self.named(host)) {
                Some((Ok(service), wildcard)) => {
                    return Found::Server(Server::Service(service), kept.filter(|_| !wildcard));
                }
                Some((Err(refused), _)) => return Found::Refused(refused),
                None => {}
            }
            if let Some(pod) = self.pod(&host) {
                return Found::Server(Server::Pod(pod), kept);
            }
        }
        Found::Nothing
    }

    /// The service that this very name means, or the one that it would mean had it not been refused.
    fn named(&self, host: &str) -> Option<Result<&'a Arc<Service>, &'a RefusedAddress>> {
        let usable = || {
            let visible = self.snapshot.services_named(host).iter();
            visible.filter(|service| {
                service.visible_to(self.namespace)
                    && (has_address(service) || self.is_headless(service))
            })
        };
        let of = |namespace: &str| usable().find(|one| *one.key.namespace == *namespace);
        if let Some(own) = of(self.namespace) {
            return Some(Ok(own));
        }
        let refused = || {
            // What was last good of a refused service still counts.
            let all = self.snapshot.refused_named(host).iter();
            all.filter_map(|one| Some((one, one.service()?.0)))
                .filter(|(_, namespace)| self.snapshot.service(namespace, host).is_none())
        };
        if let Some((own, _)) = refused().find(|(_, namespace)| *namespace == self.namespace) {
            return Some(Err(own));
        }
        let preferred = self.zone.preferred.as_deref().and_then(of);
        let other = preferred
            .or_else(|| usable().find(|service| service.canonical))
            .or_else(|| usable().next());
        other
            .map(Ok)
            .or_else(|| refused().next().map(|(one, _)| Err(&**one)))
    }

    /// The pod of a name like `db-0.db.app.svc.cluster.local`, if it backs that headless service.
    fn pod(&self, host: &str) -> Option<&'a Arc<Workload>> {
        let (pod, namespace, service) = pod_host(host, &self.zone.domain)?;
        let service = self.snapshot.service(namespace, service)?;
        let headless = !has_address(service) && self.is_headless(service);
        if !headless || !service.visible_to(self.namespace) {
            return None;
        }
        let uid = pod_uid(&self.zone.cluster, namespace, pod);
        let workload = self.snapshot.workload(&uid)?;
        workload.ports_of(&service.key)?;
        Some(workload)
    }

    /// Kubernetes answers for its own services without an address with those of the pods; nobody would for others.
    fn is_headless(&self, service: &Service) -> bool {
        let inside = service.key.hostname.strip_suffix(&*self.zone.domain);
        inside.is_some_and(|name| name.ends_with(".svc."))
    }

    fn addresses(&self, server: Server<'_>, kind: RecordType) -> Vec<IpAddr> {
        let wanted = |address: &IpAddr| match address {
            IpAddr::V4(_) => kind != RecordType::AAAA,
            IpAddr::V6(_) => kind != RecordType::A && self.zone.ipv6,
        };
        match server {
            Server::Pod(pod) if *pod.network == *self.zone.network => {
                pod.addresses.iter().copied().filter(wanted).collect()
            }
            Server::Pod(_) => Vec::new(),
            Server::Service(service) => {
                // The pods of a headless service may have more families than the service.
                let wanted = |address: &IpAddr| {
                    wanted(address)
                        && match service.ip_families {
                            IpFamilies::V4Only => address.is_ipv4(),
                            IpFamilies::V6Only => address.is_ipv6(),
                            IpFamilies::Automatic | IpFamilies::Dual => true,
                        }
                };
                match has_address(service) {
                    true => self.vips(service).filter(wanted).collect(),
                    false => self.endpoints(service, wanted),
                }
            }
        }
    }

    /// Its addresses on our network.
    fn vips<'s>(&'s self, service: &'s Service) -> impl Iterator<Item = IpAddr> {
        let single = service.vips.iter().filter(|vip| vip.is_single());
        single
            .filter(|vip| *vip.network == *self.zone.network)
            .map(|vip| vip.range.addr())
    }

    /// Of each usable endpoint its first address of each wanted family.
    fn endpoints(&self, service: &Service, wanted: impl Fn(&IpAddr) -> bool) -> Vec<IpAddr> {
        let usable = self.snapshot.endpoints(&service.key).filter(|workload| {
            (workload.healthy || service.load_balancing.allow_unhealthy)
                && *workload.network == *self.zone.network
        });
        let mut all = Vec::new();
        for workload in usable {
            let mut own = workload.addresses.iter().copied().filter(&wanted);
            let Some(first) = own.next() else { continue };
            all.push(first);
            all.extend(own.find(|other| other.is_ipv4() != first.is_ipv4()));
        }
        all
    }
}

/// Whether it has an address of its own, on whatever network; ranges are no addresses to call.
fn has_address(service: &Service) -> bool {
    service.vips.iter().any(|vip| vip.is_single())
}

#[cfg(test)]
mod tests;
