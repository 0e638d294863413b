//! What a waypoint does, in our own words: no Envoy types here, so that another front end can be added.
//! Written by `envoy`, read by `route`, `filters`, `cluster`, `request` and `tcp`.

pub mod access;
pub mod cluster;
pub mod condition;
pub mod listener;
pub mod route;
pub mod text;

pub use cluster::{
    Balance, Cluster, Discovery, Endpoint, Endpoints, Health, Limits, Outlier, Target,
};
pub use condition::{Action, Condition, Policies, Policy, Rbac};
pub use listener::{
    Chain, ChainKind, HttpChain, HttpFilter, Inbound, PortMatch, Protocols, RouteSource, TcpChain,
    Terminate,
};
pub use route::{Route, RouteAction, RouteTable, VirtualHost};
pub use text::{HeaderMatch, HeaderTest, StringMatch};
