//! ZDS, both halves: the node agent (server) hands pods and their network namespaces to ztunnel
//! (client) over AF_UNIX SOCK_SEQPACKET, one protobuf a packet, one answer to each. Used by ztunnel
//! and by the CNI agent. Knows no runtime of ours: it returns futures.

/// ztunnel's half.
pub mod client;
/// Packets to messages and back, pure.
pub mod codec;
/// The node agent's half.
pub mod server;

mod socket;

pub use codec::{PodInfo, ProtocolError, Request};
