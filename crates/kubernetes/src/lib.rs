//! The API server as a source of [`objects`]: which server and as whom ([`client()`]), and watches of the kinds that the
//! asker reads ([`Watch`], a [`objects::Source`] like a directory of manifests). Used by the control plane and by the
//! node agent.
#![warn(missing_docs)]

mod backoff;
mod client;
mod follow;
mod held;
mod lines;
mod raw;
mod resource;
mod watch;
mod words;

pub use self::{
    client::{Error, client},
    raw::Raw,
    watch::{Wanted, Watch},
    words::words,
};
