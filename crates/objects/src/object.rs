//! One object of any kind that we read, and its key.

use std::{fmt, sync::Arc};

use crate::{
    core::{EndpointSlice, Namespace, Node, Pod, Service, ServiceAccount},
    gateway::{Gateway, GatewayClass},
    grant::ReferenceGrant,
    grpc::GrpcRoute,
    meta::Meta,
    policy::{AuthorizationPolicy, PeerAuthentication},
    route::HttpRoute,
};

macro_rules! kinds {
    ($($kind:ident, $name:literal, $group:literal, $namespaced:literal;)*) => {
        /// The kinds that we read.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $(#[doc = concat!("`", $name, "` of API group `", $group, "` (empty is core).")] $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind),*];

            /// The name as manifests write it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)* }
            }

            /// The API group; empty is core.
            #[must_use]
            pub fn group(self) -> &'static str {
                match self { $(Kind::$kind => $group,)* }
            }

            /// Whether objects of this kind live in a namespace.
            #[must_use]
            pub fn is_namespaced(self) -> bool {
                match self { $(Kind::$kind => $namespaced,)* }
            }

            /// The kind for an API group and kind name; every version of a group is read alike.
            #[must_use]
            pub fn find(group: &str, name: &str) -> Option<Kind> {
                match (group, name) { $(($group, $name) => Some(Kind::$kind),)* _ => None }
            }

            /// The kind that we read that is called so, in whatever group.
            pub(crate) fn called(name: &str) -> Option<Kind> {
                match name { $($name => Some(Kind::$kind),)* _ => None }
            }
        }

        /// An object; cheap to clone.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Object {
            $(#[doc = concat!("A `", $name, "`.")] $kind(Arc<$kind>),)*
        }

        impl Object {
            /// The kind of this object.
            #[must_use]
            pub fn kind(&self) -> Kind {
                match self { $(Object::$kind(_) => Kind::$kind,)* }
            }

            /// Its metadata.
            #[must_use]
            pub fn meta(&self) -> &Meta {
                match self { $(Object::$kind(object) => &object.metadata,)* }
            }
        }

        $(impl std::convert::From<$kind> for Object {
            fn from(object: $kind) -> Object { Object::$kind(Arc::new(object)) }
        })*
    };
}

kinds! {
    Namespace, "Namespace", "", false;
    Node, "Node", "", false;
    Pod, "Pod", "", true;
    Service, "Service", "", true;
    ServiceAccount, "ServiceAccount", "", true;
    EndpointSlice, "EndpointSlice", "discovery.k8s.io", true;
    Gateway, "Gateway", "gateway.networking.k8s.io", true;
    GatewayClass, "GatewayClass", "gateway.networking.k8s.io", false;
    HttpRoute, "HTTPRoute", "gateway.networking.k8s.io", true;
    GrpcRoute, "GRPCRoute", "gateway.networking.k8s.io", true;
    ReferenceGrant, "ReferenceGrant", "gateway.networking.k8s.io", true;
    AuthorizationPolicy, "AuthorizationPolicy", "security.istio.io", true;
    PeerAuthentication, "PeerAuthentication", "security.istio.io", true;
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Object {
    /// The key that tells this object from all others.
    #[must_use]
    pub fn key(&self) -> Key {
        let meta = self.meta();
        Key::new(self.kind(), &meta.namespace, &meta.name)
    }
}

/// Kind, namespace and name of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Kind.
    pub kind: Kind,
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl Key {
    /// Builds a key.
    #[must_use]
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Key {
        Key {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// `AuthorizationPolicy app/deny-all`, or `Node node1` for cluster-scoped kinds.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}
