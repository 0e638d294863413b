//! `make bench`: our ztunnels beside a peer's, plain relays and no mesh, on one machine in one run. A tool for developers,
//! never shipped. Order of reading: `options`, `scenario` (what is measured), `world` (what carries it), `load` (the
//! traffic), `outcome` and `goals` (what it means), `report`.

pub mod goals;
pub mod load;
pub mod meter;
pub mod options;
pub mod outcome;
mod pattern;
pub mod relay;
pub mod report;
pub mod scenario;
pub mod stats;
pub mod world;
