//! The pure HTTP/2 CONNECT codec: bytes in, events and bytes out; no I/O, no clock, no tasks.
//! Driven by ztunnel's workers directly and by `crate::tokio` for everybody else.
//!
//! How to drive a [`Connection`]:
//! 1. Feed what arrived to [`Connection::receive`] until it returns `None` (then the input is consumed); act on each event.
//!    DATA is borrowed from the input. Call [`Connection::consumed`] when the bytes have left for the application.
//! 2. To send bytes: append [`Connection::output`] to the transmit buffer, leave [`DATA_HEADER`] bytes, read at most
//!    [`Connection::sendable`] application bytes behind them, write [`Connection::data_header`] in front.
//! 3. Before each write to the peer, append `output()` once more: control frames must keep their place between DATA.
//! 4. An error from `receive` is final: write `output()` (it ends with a GOAWAY), then close.
//! 5. Call [`Connection::tick`] about once a second while there is traffic: flood limits count per tick.

mod config;
mod connection;
mod control;
mod data;
mod error;
mod event;
mod frame;
mod head;
mod hpack;
mod receive;
mod send;
mod streams;
#[cfg(test)]
mod tests;
mod window;

pub use config::{Config, Limits};
pub use connection::Connection;
pub use error::{ErrorCode, ProtocolError};
pub use event::{Event, HeadFault, StreamId};
pub use send::{DATA_HEADER, OpenError};
