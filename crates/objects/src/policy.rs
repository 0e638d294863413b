//! Istio's security objects: `AuthorizationPolicy` and `PeerAuthentication`, every field that we honour.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;

use crate::meta::{Meta, Selector};

/// An `AuthorizationPolicy`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AuthorizationPolicy {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: AuthorizationSpec,
    /// Set on stand-ins for an object that was refused: why. Such a policy denies everything in its scope.
    #[serde(skip)]
    pub invalid: Option<Arc<str>>,
}

/// `spec` of an AuthorizationPolicy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationSpec {
    /// Pods it binds to; absent means the namespace (or mesh, in the root namespace).
    pub selector: Option<Selector>,
    /// Objects it binds to instead; then only waypoints apply it.
    pub target_refs: Vec<TargetRef>,
    /// The older form of `targetRefs` with one entry.
    pub target_ref: Option<TargetRef>,
    /// Rules, ORed; none means that nothing matches.
    pub rules: Vec<Rule>,
    /// What a match does.
    pub action: PolicyAction,
    /// For `CUSTOM`.
    pub provider: Option<serde_json::Value>,
}

impl AuthorizationSpec {
    /// `targetRefs` and `targetRef` together.
    pub fn targets(&self) -> impl Iterator<Item = &TargetRef> {
        self.target_refs.iter().chain(&self.target_ref)
    }
}

/// What a matching policy does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PolicyAction {
    /// Allow; with any ALLOW policy in force, what none allows is denied.
    #[default]
    Allow,
    /// Deny, before any ALLOW.
    Deny,
    /// Log only.
    Audit,
    /// Ask an external authorizer.
    Custom,
}

/// Reference to a Gateway, GatewayClass or Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    /// API group; empty is core.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace; only the policy's own is allowed.
    pub namespace: String,
}

/// One rule: (any `from`) and (any `to`) and (all `when`); an absent part matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// Sources.
    pub from: Vec<PolicyFrom>,
    /// Operations.
    pub to: Vec<PolicyTo>,
    /// Conditions.
    pub when: Vec<PolicyCondition>,
}

/// One entry of `from`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PolicyFrom {
    /// The source.
    pub source: PolicySource,
}

/// One entry of `to`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PolicyTo {
    /// The operation.
    pub operation: Operation,
}

/// Who: fields ANDed, values of one ORed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicySource {
    /// Peer identities without `spiffe://`.
    pub principals: Vec<String>,
    /// None of these.
    pub not_principals: Vec<String>,
    /// JWT principals (`iss/sub`).
    pub request_principals: Vec<String>,
    /// None of these.
    pub not_request_principals: Vec<String>,
    /// Peer namespaces.
    pub namespaces: Vec<String>,
    /// None of these.
    pub not_namespaces: Vec<String>,
    /// Peer service accounts, `name` or `namespace/name`.
    pub service_accounts: Vec<String>,
    /// None of these.
    pub not_service_accounts: Vec<String>,
    /// Peer addresses or CIDRs.
    pub ip_blocks: Vec<String>,
    /// None of these.
    pub not_ip_blocks: Vec<String>,
    /// Original client addresses (from `x-forwarded-for`).
    pub remote_ip_blocks: Vec<String>,
    /// None of these.
    pub not_remote_ip_blocks: Vec<String>,
}

/// What: fields ANDed, values of one ORed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Operation {
    /// HTTP hosts.
    pub hosts: Vec<String>,
    /// None of these.
    pub not_hosts: Vec<String>,
    /// Ports as text.
    pub ports: Vec<String>,
    /// None of these.
    pub not_ports: Vec<String>,
    /// HTTP methods.
    pub methods: Vec<String>,
    /// None of these.
    pub not_methods: Vec<String>,
    /// HTTP paths.
    pub paths: Vec<String>,
    /// None of these.
    pub not_paths: Vec<String>,
}

/// One entry of `when`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyCondition {
    /// The attribute, for example `source.principal` or `request.headers[x-user]`.
    pub key: String,
    /// Any of these.
    pub values: Vec<String>,
    /// None of these.
    pub not_values: Vec<String>,
}

/// A `PeerAuthentication`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PeerAuthentication {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: PeerAuthenticationSpec,
}

/// `spec` of a PeerAuthentication.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerAuthenticationSpec {
    /// Pods it binds to; absent means the namespace (or mesh, in the root namespace).
    pub selector: Option<Selector>,
    /// Mode for all ports.
    pub mtls: Option<Mtls>,
    /// Mode by port (only with a selector).
    pub port_level_mtls: BTreeMap<String, Mtls>,
}

impl PeerAuthenticationSpec {
    /// The mode for all ports; absent is `Unset`.
    #[must_use]
    pub fn mode(&self) -> MtlsMode {
        self.mtls.unwrap_or_default().mode
    }
}

/// The `mtls` member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Mtls {
    /// The mode.
    pub mode: MtlsMode,
}

/// Whether peers must prove an identity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MtlsMode {
    /// As the parent says.
    #[default]
    Unset,
    /// Never (read as `Permissive`: a tunnel is not turned off for a port).
    Disable,
    /// Both.
    Permissive,
    /// Always.
    Strict,
}
