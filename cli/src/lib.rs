//! What the `causeway` command can do; `main.rs` only parses its arguments and calls in here.
pub mod demo;
pub mod probe;
