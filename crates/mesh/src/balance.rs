//! Which endpoint of a service is next? Pure: the snapshot, the service, who asks, and the randomness come
//! in; one endpoint, or the reason why none is usable, comes out. Called by ztunnel's routing for services
//! and waypoints. Does not allocate.

use std::{fmt, net::IpAddr, sync::Arc};

use rand::{Rng, RngExt};

use crate::{
    service::{IpFamilies, Mode, Scope, Service},
    state::Snapshot,
    workload::{GatewayAddress, NamespacedHostname, Workload},
};

/// What is wanted of an endpoint's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// This port of the service.
    Port(u16),
    /// Any endpoint: the caller knows the port (a waypoint's HBONE port).
    Any,
}

/// Where the next connection to a service goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice<'a> {
    /// To the original destination, as it is.
    Passthrough,
    /// To this endpoint.
    Endpoint {
        /// The endpoint.
        workload: &'a Arc<Workload>,
        /// Its port; `None` for [`Want::Any`].
        port: Option<u16>,
    },
}

/// Picks an endpoint of `service` for a caller on `source` (its network, node and locality count).
///
/// Endpoints fall out that have no usable address (unless a network gateway leads there), not the port, no
/// health (unless the service allows that), no capacity, or (STRICT) not all scopes in common. FAILOVER
/// keeps those with most scopes in common. Among the rest it is a lot, weighted by capacity.
///
/// # Errors
/// Nothing is usable; says how many fell out for what.
pub fn pick<'a>(
    snapshot: &'a Snapshot,
    service: &Service,
    want: Want,
    source: &Workload,
    rng: &mut impl Rng,
) -> Result<Choice<'a>, Unusable> {
    if service.load_balancing.mode == Mode::Passthrough {
        return Ok(Choice::Passthrough);
    }
    let mut unusable = Unusable::new(service, want);
    let (mut best, mut total) = (0, 0_u64);
    for workload in snapshot.endpoints(&service.key) {
        match usable(service, want, source, workload) {
            Err(why) => unusable.count(why),
            Ok((rank, _)) if total > 0 && rank < best => {}
            Ok((rank, _)) => {
                if rank > best {
                    (best, total) = (rank, 0);
                }
                total += u64::from(workload.capacity);
            }
        }
    }
    if total == 0 {
        return Err(unusable);
    }
    // The second walk instead of a list of candidates: this runs per connection and must not allocate.
    let mut lot = rng.random_range(0..total);
    for workload in snapshot.endpoints(&service.key) {
        let Ok((rank, port)) = usable(service, want, source, workload) else {
            continue;
        };
        let share = if rank == best {
            u64::from(workload.capacity)
        } else {
            0
        };
        if lot < share {
            return Ok(Choice::Endpoint { workload, port });
        }
        lot -= share;
    }
    Err(unusable)
}

/// The waypoint for the next connection to `service`: a lot among weighted ones, else the only one. A
/// service that names weighted waypoints never answers `None`.
pub fn waypoint<'a>(service: &'a Service, rng: &mut impl Rng) -> Option<&'a Arc<GatewayAddress>> {
    let weighted = &service.weighted_waypoints;
    let total: u64 = weighted.iter().map(|one| u64::from(one.weight)).sum();
    if total == 0 {
        return service
            .waypoint
            .as_ref()
            .or(weighted.first().map(|one| &one.destination));
    }
    let mut lot = rng.random_range(0..total);
    for one in weighted {
        let share = u64::from(one.weight);
        if lot < share {
            return Some(&one.destination);
        }
        lot -= share;
    }
    weighted.first().map(|one| &one.destination)
}

/// Which of a workload's addresses to call: the family must be one of `families`; the family of `caller`
/// (the address that the application dialled) is preferred.
#[must_use]
pub fn address(addresses: &[IpAddr], families: IpFamilies, caller: IpAddr) -> Option<IpAddr> {
    let caller_v6 = caller.to_canonical().is_ipv6();
    let of = |v6: bool| {
        addresses
            .iter()
            .find(|address| address.is_ipv6() == v6)
            .copied()
    };
    match families {
        IpFamilies::V4Only => of(false),
        IpFamilies::V6Only => of(true),
        IpFamilies::Automatic | IpFamilies::Dual => of(caller_v6).or_else(|| of(!caller_v6)),
    }
}

/// The port of `workload` behind `service_port` of `service`: what the endpoint says, else what the service
/// says, else (with a tunnel into the application, which takes any) the service port itself.
#[must_use]
pub fn target_port(service: &Service, workload: &Workload, service_port: u16) -> Option<u16> {
    let here = workload.ports_of(&service.key).and_then(|ports| {
        ports
            .ports
            .iter()
            .rev()
            .find(|pair| pair.service_port == service_port)
    });
    let known = |port: u16| (port != 0).then_some(port);
    here.and_then(|pair| known(pair.target_port))
        .or_else(|| {
            service
                .port(service_port)
                .and_then(|port| known(port.target_port))
        })
        .or_else(|| {
            workload
                .application_tunnel
                .is_some()
                .then_some(service_port)
        })
}

/// Why an endpoint falls out.
#[derive(Debug, Clone, Copy)]
enum Out {
    Address,
    Port,
    Unhealthy,
    Capacity,
    Scope,
}

/// How many scopes it shares, and its port.
fn usable(
    service: &Service,
    want: Want,
    source: &Workload,
    workload: &Workload,
) -> Result<(usize, Option<u16>), Out> {
    if !reachable(service, source, workload) {
        return Err(Out::Address);
    }
    let port = match want {
        Want::Any => None,
        Want::Port(port) => Some(target_port(service, workload, port).ok_or(Out::Port)?),
    };
    let balancing = &service.load_balancing;
    if !workload.healthy && !balancing.allow_unhealthy {
        return Err(Out::Unhealthy);
    }
    if workload.capacity == 0 {
        return Err(Out::Capacity);
    }
    let shared = balancing
        .scopes
        .iter()
        .take_while(|scope| shares(**scope, source, workload))
        .count();
    match balancing.mode {
        Mode::Strict if shared < balancing.scopes.len() => Err(Out::Scope),
        Mode::Failover => Ok((shared, port)),
        Mode::Strict | Mode::Unspecified | Mode::Passthrough => Ok((0, port)),
    }
}

fn reachable(service: &Service, source: &Workload, workload: &Workload) -> bool {
    let fits = |address: &IpAddr| match service.ip_families {
        IpFamilies::V4Only => address.is_ipv4(),
        IpFamilies::V6Only => address.is_ipv6(),
        IpFamilies::Automatic | IpFamilies::Dual => true,
    };
    // On the caller's own network a gateway does not help: it leads in from outside.
    let by_gateway = workload.network != source.network && workload.network_gateway.is_some();
    by_gateway || workload.addresses.iter().any(fits) || !workload.hostname.is_empty()
}

fn shares(scope: Scope, a: &Workload, b: &Workload) -> bool {
    let (here, there) = (a.locality.as_deref(), b.locality.as_deref());
    match scope {
        Scope::Region => here.map_or("", |l| &l.region) == there.map_or("", |l| &l.region),
        Scope::Zone => here.map_or("", |l| &l.zone) == there.map_or("", |l| &l.zone),
        Scope::Subzone => here.map_or("", |l| &l.subzone) == there.map_or("", |l| &l.subzone),
        Scope::Node => a.node == b.node,
        Scope::Cluster => a.cluster_id == b.cluster_id,
        Scope::Network => a.network == b.network,
    }
}

/// Nothing is usable, and why. `Display` is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Unusable {
    /// The service.
    pub service: NamespacedHostname,
    /// What was wanted.
    pub want: Want,
    /// Endpoints without an address that we can call.
    pub no_address: usize,
    /// Endpoints without the port.
    pub no_port: usize,
    /// Endpoints that are not healthy.
    pub unhealthy: usize,
    /// Endpoints with capacity 0.
    pub no_capacity: usize,
    /// Endpoints outside of what a STRICT service allows.
    pub out_of_scope: usize,
}

impl Unusable {
    fn new(service: &Service, want: Want) -> Self {
        let service = service.key.clone();
        Self {
            service,
            want,
            no_address: 0,
            no_port: 0,
            unhealthy: 0,
            no_capacity: 0,
            out_of_scope: 0,
        }
    }

    fn count(&mut self, why: Out) {
        *match why {
            Out::Address => &mut self.no_address,
            Out::Port => &mut self.no_port,
            Out::Unhealthy => &mut self.unhealthy,
            Out::Capacity => &mut self.no_capacity,
            Out::Scope => &mut self.out_of_scope,
        } += 1;
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.unhealthy, "not healthy"),
            (self.no_port, "without this port"),
            (self.no_address, "without an address that can be called"),
            (
                self.out_of_scope,
                "outside of the scopes that the service demands",
            ),
            (self.no_capacity, "with capacity 0"),
        ];
        let total: usize = counts.iter().map(|(count, _)| count).sum();
        write!(f, "service {}", self.service)?;
        if let Want::Port(port) = self.want {
            write!(f, " port {port}")?;
        }
        if total == 0 {
            return f.write_str(" has no endpoints");
        }
        write!(f, " has no usable endpoint among {total}:")?;
        for (index, (count, what)) in counts.iter().filter(|(count, _)| *count > 0).enumerate() {
            write!(f, "{} {count} {what}", if index > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
