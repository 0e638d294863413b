//! The only crate with unsafe code: what the kernel offers and `std` does not. Network namespaces
//! entered by closure, TCP sockets with capture options, SOCK_SEQPACKET with descriptors,
//! peer credentials, limits, children, and a packet tap. It knows nothing about the mesh.

/// Children that do not outlive whoever started them.
pub mod child;
/// Who is on the other end of a Unix socket (SO_PEERCRED).
pub mod credentials;
/// Addresses of interfaces.
pub mod interfaces;
/// Process limits.
pub mod limits;
/// Network namespaces.
pub mod netns;
/// Raw frames of an interface (AF_PACKET), to look at what is on a wire.
pub mod packet;
/// AF_UNIX SOCK_SEQPACKET sockets that carry file descriptors.
pub mod seqpacket;
/// TCP sockets with the options that traffic capture needs.
pub mod socket;

mod sysctl;
#[cfg(test)]
mod testing;

pub use netns::{Netns, NetnsId};
