//! All objects as they stand, by kind, namespace and name. Fed by a source's events, read by translation.

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
};

use objects::{
    AuthorizationPolicy, Change, EndpointSlice, Gateway, GatewayClass, GrpcRoute, HttpRoute, Key,
    Kind, Namespace, Node, Object, PeerAuthentication, Pod, ReferenceGrant, Service,
    ServiceAccount,
};

/// Objects of one kind, by namespace and name. Cluster-scoped kinds stand under the empty namespace.
#[derive(Debug, Clone)]
pub struct Table<T>(BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<T>>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table(BTreeMap::new())
    }
}

impl<T> Table<T> {
    /// One object.
    #[must_use]
    pub fn find(&self, namespace: &str, name: &str) -> Option<&Arc<T>> {
        self.0.get(namespace)?.get(name)
    }

    /// All of one namespace, by name.
    pub fn of(&self, namespace: &str) -> impl Iterator<Item = &Arc<T>> {
        self.0.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    /// All, by namespace and name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<T>> {
        self.0.values().flat_map(BTreeMap::values)
    }

    fn put(&mut self, key: Key, object: Arc<T>) {
        self.0
            .entry(key.namespace)
            .or_default()
            .insert(key.name, object);
    }

    fn remove(&mut self, key: &Key) {
        if let btree_map::Entry::Occupied(mut entry) = self.0.entry(key.namespace.clone()) {
            entry.get_mut().remove(&key.name);
            if entry.get().is_empty() {
                entry.remove();
            }
        }
    }
}

/// The objects that translation reads.
#[derive(Debug, Clone, Default)]
pub struct Store {
    /// Namespaces.
    pub namespaces: Table<Namespace>,
    /// Nodes.
    pub nodes: Table<Node>,
    /// Pods.
    pub pods: Table<Pod>,
    /// Services.
    pub services: Table<Service>,
    /// Service accounts.
    pub service_accounts: Table<ServiceAccount>,
    /// Endpoint slices.
    pub endpoint_slices: Table<EndpointSlice>,
    /// Gateways.
    pub gateways: Table<Gateway>,
    /// Gateway classes.
    pub gateway_classes: Table<GatewayClass>,
    /// HTTP routes.
    pub http_routes: Table<HttpRoute>,
    /// gRPC routes.
    pub grpc_routes: Table<GrpcRoute>,
    /// Reference grants.
    pub reference_grants: Table<ReferenceGrant>,
    /// Authorization policies.
    pub authorization_policies: Table<AuthorizationPolicy>,
    /// Peer authentications.
    pub peer_authentications: Table<PeerAuthentication>,
}

impl Store {
    /// Takes one change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Upsert(object) => self.put(object),
            Change::Remove(key) => self.remove(&key),
        }
    }

    fn put(&mut self, object: Object) {
        let key = object.key();
        match object {
            Object::Namespace(object) => self.namespaces.put(key, object),
            Object::Node(object) => self.nodes.put(key, object),
            Object::Pod(object) => self.pods.put(key, object),
            Object::Service(object) => self.services.put(key, object),
            Object::ServiceAccount(object) => self.service_accounts.put(key, object),
            Object::EndpointSlice(object) => self.endpoint_slices.put(key, object),
            Object::Gateway(object) => self.gateways.put(key, object),
            Object::GatewayClass(object) => self.gateway_classes.put(key, object),
            Object::HttpRoute(object) => self.http_routes.put(key, object),
            Object::GrpcRoute(object) => self.grpc_routes.put(key, object),
            Object::ReferenceGrant(object) => self.reference_grants.put(key, object),
            Object::AuthorizationPolicy(object) => self.authorization_policies.put(key, object),
            Object::PeerAuthentication(object) => self.peer_authentications.put(key, object),
        }
    }

    fn remove(&mut self, key: &Key) {
        match key.kind {
            Kind::Namespace => self.namespaces.remove(key),
            Kind::Node => self.nodes.remove(key),
            Kind::Pod => self.pods.remove(key),
            Kind::Service => self.services.remove(key),
            Kind::ServiceAccount => self.service_accounts.remove(key),
            Kind::EndpointSlice => self.endpoint_slices.remove(key),
            Kind::Gateway => self.gateways.remove(key),
            Kind::GatewayClass => self.gateway_classes.remove(key),
            Kind::HttpRoute => self.http_routes.remove(key),
            Kind::GrpcRoute => self.grpc_routes.remove(key),
            Kind::ReferenceGrant => self.reference_grants.remove(key),
            Kind::AuthorizationPolicy => self.authorization_policies.remove(key),
            Kind::PeerAuthentication => self.peer_authentications.remove(key),
        }
    }
}
