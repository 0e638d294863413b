//! The outbound decision: what a pod dialled -> plain, tunnel, or refusal. First match wins, in the order of the code:
//! own ports, workload address, service VIP, address of a refused resource, unknown address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use hbone::headers::{Authority, Host};
use mesh::balance::{self, Choice, Want};
use mesh::identity::Identity;
use mesh::service::{IpFamilies, Service};
use mesh::state::Snapshot;
use mesh::workload::{GatewayAddress, GatewayDestination, TunnelProtocol, Workload};
use rand::Rng;
use rand::seq::SliceRandom as _;

use super::Names;
use crate::worker::api::{Ports, Reason};

/// What is known about a captured connection.
#[derive(Debug, Clone, Copy)]
pub struct Outbound<'a> {
    /// The pod's own workload; `None` while it has not arrived.
    pub source: Option<&'a Workload>,
    /// The original destination.
    pub destination: SocketAddr,
    /// Own network id.
    pub network: &'a str,
    /// Our ports; a destination's HBONE port is the same as ours.
    pub ports: Ports,
    /// Resolved host names, and the time at which they are looked at.
    pub names: (&'a Names, Instant),
}

/// Where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Plain TCP: an unknown address, a PASSTHROUGH service, or a destination outside of the mesh.
    Passthrough(Plain),
    /// HBONE to the next hop.
    Tunnel(Tunnel),
    /// Not known yet: ask again when the pod's own workload has arrived.
    WaitForWorkload,
    /// Not known yet: ask again when this host name of a workload has been resolved.
    WaitForName(Arc<str>),
    /// Nowhere.
    Reject {
        /// The kind of refusal.
        reason: Reason,
        /// The whole story, for people.
        detail: String,
    },
}

/// Plain TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    /// Whom to dial.
    pub destination: SocketAddr,
    /// Who that is, if known.
    pub workload: Option<Arc<Workload>>,
    /// The service that was addressed, if any.
    pub service: Option<Arc<Service>>,
}

/// One CONNECT on a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Whom to dial: the destination's or its waypoint's HBONE port.
    pub next_hop: SocketAddr,
    /// What to ask it for.
    pub authority: Authority,
    /// Who may answer; never empty.
    pub accepted: Arc<[Identity]>,
    /// Who answers: the destination or the waypoint.
    pub workload: Arc<Workload>,
    /// The service that was addressed, if any.
    pub service: Option<Arc<Service>>,
}

/// Decides. A tunnel to another network (double HBONE) is refused as unsupported in this version.
pub fn outbound(snapshot: &Snapshot, request: &Outbound<'_>, rng: &mut impl Rng) -> Route {
    let destination = request.destination;
    if destination.ip().is_loopback() && request.ports.contains(destination.port()) {
        return reject(
            Reason::SelfCall,
            format!("{destination} is a port of ztunnel itself"),
        );
    }
    let Some(source) = request.source else {
        return Route::WaitForWorkload;
    };
    if source.addresses.contains(&destination.ip()) && request.ports.contains(destination.port()) {
        return reject(
            Reason::SelfCall,
            format!("{destination} is a port of ztunnel itself"),
        );
    }
    let call = Call {
        snapshot,
        request,
        source,
    };
    let found = if let Some(workload) = snapshot.workload_at(request.network, destination.ip()) {
        call.workload(workload, rng)
    } else if let Some(service) =
        snapshot.service_at(request.network, destination.ip(), &source.namespace)
    {
        call.service(service, rng)
    } else if let Some(refused) = snapshot.refused_at(request.network, destination.ip()) {
        // What guards it is not known: it must not look like an address outside of the mesh.
        let detail = format!(
            "{destination} belongs to {}, which was refused: {}",
            refused.name, refused.why
        );
        Err(reject(Reason::Unsupported, detail))
    } else {
        Ok(Route::Passthrough(Plain {
            destination,
            workload: None,
            service: None,
        }))
    };
    found.unwrap_or_else(|refusal| refusal)
}

/// A call whose source is known.
struct Call<'a> {
    snapshot: &'a Snapshot,
    request: &'a Outbound<'a>,
    source: &'a Workload,
}

impl Call<'_> {
    /// Addressed by a pod's own address: a waypoint of the workload stands before it.
    fn workload(&self, workload: &Arc<Workload>, rng: &mut impl Rng) -> Result<Route, Route> {
        if let Some(waypoint) = workload
            .waypoint
            .as_ref()
            .filter(|waypoint| !self.is_source(waypoint))
        {
            return self.through_waypoint(waypoint, None, rng);
        }
        self.endpoint(workload, self.request.destination, None)
    }

    /// Addressed by a VIP: a waypoint of the service stands before it, else one of its endpoints is chosen.
    fn service(&self, service: &Arc<Service>, rng: &mut impl Rng) -> Result<Route, Route> {
        if let Some(waypoint) =
            balance::waypoint(service, rng).filter(|waypoint| !self.is_source(waypoint))
        {
            return self.through_waypoint(waypoint, Some(service), rng);
        }
        let destination = self.request.destination;
        let port = destination.port();
        match balance::pick(self.snapshot, service, Want::Port(port), self.source, rng) {
            Ok(Choice::Passthrough) => Ok(Route::Passthrough(Plain {
                destination,
                workload: None,
                service: Some(service.clone()),
            })),
            Ok(Choice::Endpoint {
                workload,
                port: target,
            }) => {
                let address = self.address(workload, service.ip_families, rng)?;
                self.endpoint(
                    workload,
                    SocketAddr::new(address, target.unwrap_or(port)),
                    Some(service),
                )
            }
            Err(unusable) => Err(reject(Reason::NoEndpoint, unusable.to_string())),
        }
    }

    /// The last hop, to `target` on `workload`.
    fn endpoint(
        &self,
        workload: &Arc<Workload>,
        target: SocketAddr,
        service: Option<&Arc<Service>>,
    ) -> Result<Route, Route> {
        self.same_network(workload)?;
        if workload.tunnel_protocol != TunnelProtocol::Hbone {
            let (workload, service) = (Some(workload.clone()), service.cloned());
            return Ok(Route::Passthrough(Plain {
                destination: target,
                workload,
                service,
            }));
        }
        let hop = SocketAddr::new(target.ip(), self.request.ports.inbound);
        self.tunnel(hop, target, workload, (service, service))
    }

    fn through_waypoint(
        &self,
        waypoint: &GatewayAddress,
        addressed: Option<&Arc<Service>>,
        rng: &mut impl Rng,
    ) -> Result<Route, Route> {
        let (workload, service) = self.waypoint_endpoint(waypoint, rng)?;
        self.same_network(&workload)?;
        let families = service
            .as_ref()
            .map_or(IpFamilies::Automatic, |service| service.ip_families);
        let address = self.address(&workload, families, rng)?;
        let service_port = waypoint.hbone_mtls_port;
        let port = service
            .as_ref()
            .and_then(|service| balance::target_port(service, &workload, service_port))
            .unwrap_or(service_port);
        let hop = SocketAddr::new(address, port);
        // The waypoint is asked for what the application dialled, and decides the rest.
        self.tunnel(
            hop,
            self.request.destination,
            &workload,
            (service.as_ref(), addressed),
        )
    }

    /// One instance of the waypoint. A waypoint that is named but absent is never bypassed.
    fn waypoint_endpoint(
        &self,
        waypoint: &GatewayAddress,
        rng: &mut impl Rng,
    ) -> Result<(Arc<Workload>, Option<Arc<Service>>), Route> {
        let absent = || {
            reject(
                Reason::NoWaypoint,
                format!("waypoint {waypoint} is not known"),
            )
        };
        let service = match &waypoint.destination {
            GatewayDestination::Hostname(name) => {
                self.snapshot.service(&name.namespace, &name.hostname)
            }
            GatewayDestination::Address(at) => {
                if let Some(workload) = self.snapshot.workload_at(&at.network, at.address) {
                    return Ok((workload.clone(), None));
                }
                self.snapshot
                    .service_at(&at.network, at.address, &self.source.namespace)
            }
        };
        let service = service.ok_or_else(absent)?;
        match balance::pick(self.snapshot, service, Want::Any, self.source, rng) {
            Ok(Choice::Endpoint { workload, .. }) => Ok((workload.clone(), Some(service.clone()))),
            Ok(Choice::Passthrough) => Err(reject(
                Reason::NoWaypoint,
                format!("waypoint {waypoint} is a PASSTHROUGH service"),
            )),
            Err(unusable) => Err(reject(
                Reason::NoWaypoint,
                format!("waypoint {waypoint}: {unusable}"),
            )),
        }
    }

    /// `services` are the next hop's (whose names may answer) and the one that was addressed.
    fn tunnel(
        &self,
        next_hop: SocketAddr,
        target: SocketAddr,
        workload: &Arc<Workload>,
        services: (Option<&Arc<Service>>, Option<&Arc<Service>>),
    ) -> Result<Route, Route> {
        let named = services
            .0
            .map_or(&[][..], |service| &service.subject_alt_names);
        let accepted: Arc<[Identity]> = named
            .iter()
            .filter_map(|name| name.parse().ok())
            .chain(workload.identity.clone())
            .collect();
        if accepted.is_empty() {
            let detail = format!(
                "workload {} has no identity, so nobody may answer for it",
                workload.uid
            );
            return Err(reject(Reason::Identity, detail));
        }
        Ok(Route::Tunnel(Tunnel {
            next_hop,
            authority: Authority {
                host: Host::Ip(target.ip()),
                port: target.port(),
            },
            accepted,
            workload: workload.clone(),
            service: services.1.cloned(),
        }))
    }

    fn address(
        &self,
        workload: &Workload,
        families: IpFamilies,
        rng: &mut impl Rng,
    ) -> Result<IpAddr, Route> {
        let caller = self.request.destination.ip();
        if let Some(address) = balance::address(&workload.addresses, families, caller) {
            return Ok(address);
        }
        let without = |why: &str| {
            let detail = format!(
                "workload {} has no address that can be called{why}",
                workload.uid
            );
            reject(Reason::NoEndpoint, detail)
        };
        let host = &workload.hostname;
        if !workload.addresses.is_empty() || host.is_empty() {
            return Err(without(""));
        }
        let (names, now) = self.request.names;
        let Some(name) = names.at(host, now) else {
            return Err(Route::WaitForName(host.clone()));
        };
        let resolved = name.found.as_ref();
        let resolved =
            resolved.map_err(|why| without(&format!(": {host} does not resolve: {why}")))?;
        // Any of them, but of the caller's family if there is one.
        let mut resolved: Vec<IpAddr> = resolved.to_vec();
        resolved.shuffle(rng);
        balance::address(&resolved, families, caller).ok_or_else(|| {
            without(&format!(
                ": {host} has no address of the service's families"
            ))
        })
    }

    fn same_network(&self, workload: &Workload) -> Result<(), Route> {
        if *workload.network == *self.request.network {
            return Ok(());
        }
        let detail = format!(
            "workload {} is on network {:?}; tunnels to another network are not supported yet",
            workload.uid, workload.network
        );
        Err(reject(Reason::Unsupported, detail))
    }

    /// Whether the caller is an instance of that waypoint: its own traffic must not come back to it.
    fn is_source(&self, waypoint: &GatewayAddress) -> bool {
        match &waypoint.destination {
            GatewayDestination::Hostname(name) => self.source.ports_of(name).is_some(),
            GatewayDestination::Address(at) if *at.network != *self.source.network => false,
            GatewayDestination::Address(at) => {
                let behind = |service: &Arc<Service>| self.source.ports_of(&service.key).is_some();
                self.source.addresses.contains(&at.address)
                    || self
                        .snapshot
                        .service_at(&at.network, at.address, &self.source.namespace)
                        .is_some_and(behind)
            }
        }
    }
}

fn reject(reason: Reason, detail: String) -> Route {
    Route::Reject { reason, detail }
}
