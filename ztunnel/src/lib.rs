//! ztunnel: carries every opted-in pod's TCP over HBONE. `main` starts `app`; the data path is `worker` and `route`.

pub mod app;
pub mod config;
pub mod control;
pub mod pods;
pub mod report;
pub mod route;
mod slots;
pub mod timestamp;
pub mod worker;
