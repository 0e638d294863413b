//! The Kubernetes, Gateway API and Istio objects that we read, and the sources they come from.
//!
//! [`parse`] is pure: text in, objects and faults out. [`Directory`] is the source that reads manifests from
//! files; a watch of an API server (crate `kubernetes`) stands behind the same [`Source`] trait. Used by the control plane and
//! the CNI agent.

mod core;
mod directory;
pub mod enroll;
mod fault;
mod gateway;
mod grant;
mod grpc;
mod meta;
mod object;
mod parse;
mod policy;
mod route;
mod source;
mod validate;

pub use self::{
    core::{
        Address, Condition, Container, ContainerPort, Endpoint, EndpointConditions, EndpointPort,
        EndpointSlice, IntOrString, Namespace, Node, ObjectReference, Pod, PodIp, PodSpec,
        PodStatus, Service, ServiceAccount, ServicePort, ServiceSpec,
    },
    directory::Directory,
    fault::{Fault, Severity},
    gateway::{
        AllowedRoutes, Gateway, GatewayClass, GatewayClassSpec, GatewaySpec, GatewayStatus,
        Listener, RouteNamespaces,
    },
    grant::{GrantFrom, GrantTo, ReferenceGrant, ReferenceGrantSpec},
    grpc::{CallPath, GrpcMatch, GrpcMethodMatch, GrpcRoute, GrpcRouteSpec, GrpcRule},
    meta::{LabelSelector, Meta, OwnerReference, Requirement, Selector},
    object::{Key, Kind, Object},
    parse::{Parsed, parse, read},
    policy::{
        AuthorizationPolicy, AuthorizationSpec, Mtls, MtlsMode, Operation, PeerAuthentication,
        PeerAuthenticationSpec, PolicyAction, PolicyCondition, PolicyFrom, PolicySource, PolicyTo,
        Rule, TargetRef,
    },
    route::{
        BackendRef, CorsFilter, Fraction, HeaderMatch, HeaderModifier, HeaderValue, HttpRoute,
        HttpRouteSpec, Mirror, ParentRef, PathMatch, PathModifier, QueryMatch, Redirect, Rewrite,
        RouteFilter, RouteMatch, RouteRetry, RouteRule, RouteTimeouts,
    },
    source::{Change, Event, Source},
    validate::duration,
};
