//! The node's side of the mesh: the CNI binary (`causeway-cni`) and the agent that it asks
//! (`cni-agent`), which decides which pods are in the mesh, captures their traffic and hands them to
//! ztunnel. See docs/paths.md, path e.

pub mod agent;
pub mod apply;
pub mod ask;
pub mod rules;
pub mod scope;
pub mod spec;
