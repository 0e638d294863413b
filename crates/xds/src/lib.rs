//! Delta ADS, both halves, and the resources that travel over it. ztunnel and waypoint use [`client`],
//! the control plane uses [`server`]; both sides share [`wds`], the conversion between WDS and the mesh
//! model.
//!
//! * [`machine`]: the client's protocol, pure, one per type. * [`client`]: the stream that drives it.
//! * [`server`]: pushes views to subscribers. * [`backoff`]: waits between attempts. * [`trouble`]: which
//!   failures are told.
//!
//! A resource is a type URL, a name, a version and bytes; only [`wds`] looks into the bytes.

pub mod backoff;
pub mod client;
pub mod machine;
pub mod server;
pub mod trouble;
pub mod wds;

/// One change of one resource, in the order in which it is to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResourceUpdate {
    /// The resource is new or differs from the one held.
    Upsert {
        /// Name within its type.
        name: String,
        /// Opaque to us; sent back after a reconnect.
        version: String,
        /// The encoded message whose type is the type URL.
        body: Vec<u8>,
    },
    /// The resource is gone.
    Remove {
        /// Name within its type.
        name: String,
    },
}

impl ResourceUpdate {
    /// The name of the resource.
    pub fn name(&self) -> &str {
        match self {
            Self::Upsert { name, .. } | Self::Remove { name } => name,
        }
    }
}

/// A resource that cannot be used. The one held before stays in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Name within its type.
    pub name: String,
    /// What is wrong, with the path of the field; sent to the control plane.
    pub reason: String,
}

/// Takes the resources that arrive. Called from the client's task, one push at a time.
pub trait Handler: Send {
    /// Applies one push of one type and names what it refused; the rest must be in force on return.
    fn apply(&mut self, type_url: &str, updates: Vec<ResourceUpdate>) -> Vec<Rejected>;
}
