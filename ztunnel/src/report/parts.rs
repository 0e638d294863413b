//! What the labels of a connection are made of, compared by instance: the labels of most connections are known before a
//! single string is looked at. Called by `metrics`.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use mesh::identity::Identity;
use mesh::service::Service;
use mesh::workload::Workload;

use crate::worker::api::{Connection, Direction, Security};

/// The parts; they are held, so that no other instance comes to lie in their place.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    direction: Direction,
    security: Security,
    source: Option<Arc<Workload>>,
    destination: Option<Arc<Workload>>,
    service: Option<Arc<Service>>,
    principals: [Option<Identity>; 2],
}

impl Parts {
    /// None where the peer's own words are part of the labels.
    pub(super) fn of(connection: &Connection) -> Option<Self> {
        connection.source_baggage.is_none().then(|| Self {
            direction: connection.direction,
            security: connection.security,
            source: connection.source_workload.clone(),
            destination: connection.destination_workload.clone(),
            service: connection.service.clone(),
            principals: [
                connection.source_identity.clone(),
                connection.destination_identity.clone(),
            ],
        })
    }
}

fn address<T>(part: Option<&Arc<T>>) -> usize {
    part.map_or(0, |part| Arc::as_ptr(part).addr())
}

impl PartialEq for Parts {
    fn eq(&self, other: &Self) -> bool {
        self.direction == other.direction
            && self.security == other.security
            && address(self.source.as_ref()) == address(other.source.as_ref())
            && address(self.destination.as_ref()) == address(other.destination.as_ref())
            && address(self.service.as_ref()) == address(other.service.as_ref())
            && self.principals == other.principals
    }
}

impl Eq for Parts {}

impl Hash for Parts {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Equal parts have equal addresses; the rest seldom tells two apart.
        address(self.source.as_ref()).hash(state);
        address(self.destination.as_ref()).hash(state);
        address(self.service.as_ref()).hash(state);
        self.direction.hash(state);
    }
}
