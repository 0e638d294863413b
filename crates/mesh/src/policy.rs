//! L4 authorization policies as plain values, ready for evaluation: names parsed, CIDRs parsed. Built by
//! `xds::wds` and the control plane, evaluated by `authz`.

use std::{convert::Infallible, fmt, str::FromStr, sync::Arc};

use ipnet::IpNet;

/// Name of a policy, `namespace/name`; a name without a namespace has the empty one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Name in it.
    pub name: Arc<str>,
}

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: PolicyName,
    /// Which workloads it guards.
    pub scope: Scope,
    /// What a match means.
    pub action: Action,
    /// Rules, ORed. No rules: the policy never matches.
    pub rules: Box<[Rule]>,
    /// Never enforced; `authz::dry_run` tells what it would do.
    pub dry_run: bool,
    /// The control plane sent something that we do not understand, and this says what: the policy denies
    /// everything in its scope whatever the other fields say.
    pub invalid: Option<Arc<str>>,
}

/// Which workloads a policy guards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All of the mesh.
    Global,
    /// All of its own namespace.
    Namespace,
    /// Those that name it in `Workload::authorization_policies`.
    Selector,
}

/// What a match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Matching traffic is allowed; with any ALLOW policy in force all other traffic is not.
    Allow,
    /// Matching traffic is denied, whatever allows it.
    Deny,
}

/// A rule: clauses, ANDed. No clauses: matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// The clauses.
    pub clauses: Box<[Clause]>,
}

/// A clause: matches, ORed. No matches at all: the clause matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Clause {
    /// The matches.
    pub matches: Box<[Match]>,
}

/// A match: fields, ANDed; the values of a field, ORed; an empty field asks nothing. A match whose fields
/// are all empty matches nothing. `not_…` holds when none of its values matches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Match {
    /// Namespace of the caller's identity.
    pub namespaces: Box<[StringMatch]>,
    /// Not these namespaces (also true without an identity).
    pub not_namespaces: Box<[StringMatch]>,
    /// Identity of the caller, without `spiffe://`.
    pub principals: Box<[StringMatch]>,
    /// Not these identities (also true without an identity).
    pub not_principals: Box<[StringMatch]>,
    /// Namespace and service account of the caller's identity.
    pub service_accounts: Box<[ServiceAccountMatch]>,
    /// Not these accounts (also true without an identity).
    pub not_service_accounts: Box<[ServiceAccountMatch]>,
    /// Address of the caller.
    pub source_ips: Box<[IpNet]>,
    /// Not these callers.
    pub not_source_ips: Box<[IpNet]>,
    /// Address that is called.
    pub destination_ips: Box<[IpNet]>,
    /// Not these.
    pub not_destination_ips: Box<[IpNet]>,
    /// Port that is called, of the workload (not of the service).
    pub destination_ports: Box<[u16]>,
    /// Not these.
    pub not_destination_ports: Box<[u16]>,
}

/// A condition on a string that may be absent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// Equal.
    Exact(Arc<str>),
    /// Starts with it.
    Prefix(Arc<str>),
    /// Ends with it.
    Suffix(Arc<str>),
    /// Anything that is not empty.
    Presence,
}

/// A service account in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceAccountMatch {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Account.
    pub name: Arc<str>,
}

impl Policy {
    /// A policy that could not be understood: denies everything in `scope` and says `why`.
    #[must_use]
    pub fn invalid(name: PolicyName, scope: Scope, why: impl Into<Arc<str>>) -> Self {
        let why = Some(why.into());
        Self {
            name,
            scope,
            action: Action::Deny,
            rules: Box::default(),
            dry_run: false,
            invalid: why,
        }
    }
}

impl PolicyName {
    /// From its two parts.
    #[must_use]
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl FromStr for PolicyName {
    type Err = Infallible;

    /// Any string is a name: what stands before the first slash is the namespace.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let (namespace, name) = text.split_once('/').unwrap_or(("", text));
        Ok(Self::new(namespace, name))
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

impl StringMatch {
    /// Whether `value` fulfils the condition; nothing but presence is asked of an absent one, and it fails.
    #[must_use]
    pub fn matches(&self, value: Option<&str>) -> bool {
        let Some(value) = value else { return false };
        match self {
            Self::Exact(text) => value == &**text,
            Self::Prefix(text) => value.starts_with(&**text),
            Self::Suffix(text) => value.ends_with(&**text),
            Self::Presence => !value.is_empty(),
        }
    }
}

impl Match {
    /// Whether it asks nothing at all, and so matches nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

impl fmt::Display for StringMatch {
    /// As users write it in a policy: `x`, `x*`, `*x`, `*`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Presence => f.write_str("*"),
        }
    }
}

impl fmt::Display for ServiceAccountMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
        })
    }
}
