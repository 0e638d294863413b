//! Keys and certificates of the mesh: who a workload is, and how the two ends of a connection prove it.
//! Used by ztunnel and the waypoint (certificates, TLS configs, peer check) and by the control plane
//! (signing). Knows no runtime: what must run in the background is returned as a future.
//!
//! * [`key`]: P-256 keys and certificate requests. * [`certificate`]: a certificate with its TLS configs.
//! * [`peer`]: the strict SPIFFE check. * [`rotation`]: when to ask for the next one (pure).
//! * [`store`]: keeps many identities fresh. * [`ca`]: client of `IstioCertificateService`.
//! * [`handshake`]: TLS and the peer's identity over any tokio stream, within a deadline.
//! * [`grpc`]: the channel to a control plane. * [`issue`]: signing, for the control plane's CA and tests.

pub mod ca;
pub mod certificate;
pub mod grpc;
pub mod handshake;
pub mod issue;
pub mod key;
pub mod peer;
pub mod rotation;
pub mod store;
pub mod tls;

pub use certificate::{Certificate, CertificateError};
pub use key::{Key, KeyError};
pub use mesh::identity::Identity;
pub use peer::PeerError;
pub use store::{Priority, Store};
