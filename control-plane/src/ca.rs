//! The authority's root on Kubernetes: kept in a Secret that every replica reads, rotated with overlap, and published as
//! a ConfigMap for clients. Started by `app`; `serve` signs with what comes out of it.
//!
//! `rotation`, `crossing` and `secret` are pure; `vault` and `publish` speak to the API server.

use std::sync::Arc;

use identity::issue::Issuer;
use tokio::sync::watch;

mod crossing;
pub mod publish;
pub mod rotation;
pub mod secret;
pub mod vault;

/// What signs now, and with it the roots that clients are to trust. A new value replaces the old one when a root or an
/// intermediate is rotated.
pub type Issuers = watch::Receiver<Arc<Issuer>>;

/// An authority that stays the same.
#[must_use]
pub fn fixed(issuer: Arc<Issuer>) -> Issuers {
    watch::channel(issuer).1
}
