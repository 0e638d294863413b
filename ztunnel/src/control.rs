//! The control half: ordinary tokio tasks around the workers. They learn the mesh (xDS), fetch certificates, and tell
//! operators what is going on. Started by `app`.

pub mod admin;
pub mod ca;
pub mod dns;
pub mod dump;
mod local;
pub mod missing;
pub mod publish;
pub mod xds;
