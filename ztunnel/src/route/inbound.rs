//! The inbound decision: does a CONNECT belong to this pod, and which address of the application does it mean? Status
//! codes are upstream's.

use std::net::SocketAddr;
use std::sync::Arc;

use hbone::headers::{Authority, Host};
use mesh::balance;
use mesh::service::Service;
use mesh::state::Snapshot;
use mesh::workload::Workload;

use crate::worker::api::{Ports, Reason};

/// What is known about a CONNECT.
#[derive(Debug, Clone, Copy)]
pub struct Inbound<'a> {
    /// The pod's own workload; `None` if it did not arrive in time.
    pub workload: Option<&'a Workload>,
    /// The address that the tunnel came in on.
    pub local: SocketAddr,
    /// What is asked for.
    pub authority: &'a Authority,
    /// Our ports.
    pub ports: Ports,
}

/// It belongs here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// The application's address.
    pub destination: SocketAddr,
    /// The service that was asked for by name.
    pub service: Option<Arc<Service>>,
}

/// It does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status to answer: 400 or 503.
    pub status: u16,
    /// For the report.
    pub reason: Reason,
    /// For the log.
    pub detail: String,
}

/// Decides.
///
/// # Errors
/// The refusal with its status.
pub fn inbound(snapshot: &Snapshot, request: &Inbound<'_>) -> Result<Arrival, Refusal> {
    let Some(own) = request.workload else {
        return Err(refusal(
            503,
            Reason::UnknownWorkload,
            "the pod's own workload is not known".to_owned(),
        ));
    };
    if own.application_tunnel.is_some() {
        let detail = "the workload wants a tunnel into the application, which is not supported yet"
            .to_owned();
        return Err(refusal(503, Reason::Unsupported, detail));
    }
    let arrival = match &request.authority.host {
        Host::Ip(address) => by_address(
            request,
            SocketAddr::new(address.to_canonical(), request.authority.port),
        )?,
        Host::Name(name) => by_name(snapshot, request, own, name)?,
    };
    let port = arrival.destination.port();
    if request.ports.contains(port) {
        let detail = format!("port {port} is a port of ztunnel itself");
        return Err(refusal(503, Reason::SelfCall, detail));
    }
    Ok(arrival)
}

fn by_address(request: &Inbound<'_>, destination: SocketAddr) -> Result<Arrival, Refusal> {
    let local = request.local.ip().to_canonical();
    if destination.ip() != local {
        let detail = format!("CONNECT asks for {destination}, but came in on {local}");
        return Err(refusal(400, Reason::BadRequest, detail));
    }
    Ok(Arrival {
        destination,
        service: None,
    })
}

fn by_name(
    snapshot: &Snapshot,
    request: &Inbound<'_>,
    own: &Workload,
    name: &str,
) -> Result<Arrival, Refusal> {
    let unknown = |what: String| refusal(503, Reason::NoEndpoint, what);
    let port = request.authority.port;
    let service = snapshot
        .services_named(name)
        .iter()
        .find(|service| own.ports_of(&service.key).is_some())
        .ok_or_else(|| unknown(format!("the pod is no endpoint of a service named {name}")))?;
    let target = balance::target_port(service, own, port).ok_or_else(|| {
        unknown(format!(
            "service {} has no port {port} on this pod",
            service.key
        ))
    })?;
    let destination = SocketAddr::new(request.local.ip().to_canonical(), target);
    Ok(Arrival {
        destination,
        service: Some(service.clone()),
    })
}

fn refusal(status: u16, reason: Reason, detail: String) -> Refusal {
    Refusal {
        status,
        reason,
        detail,
    }
}
