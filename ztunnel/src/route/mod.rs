//! Where does this connection go? Pure functions of a snapshot: no sockets, no clock, randomness passed in. Called by
//! the worker for each new connection.

mod inbound;
mod names;
mod outbound;

pub use inbound::{Arrival, Inbound, Refusal, inbound};
pub use names::{Name, Names};
pub use outbound::{Outbound, Plain, Route, Tunnel, outbound};

#[cfg(test)]
mod tests;
