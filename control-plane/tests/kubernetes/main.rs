//! The control plane's parts against a real kube-apiserver and etcd on loopback. All tests share one pair and take turns,
//! each in a namespace of its own; without the binaries each says so and is skipped.

mod authority;
mod objects_of_the_server;
mod outages;
mod world;
