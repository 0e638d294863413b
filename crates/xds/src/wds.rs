//! WDS resources to and from the mesh model. ztunnel (and the file source) decode, the control plane encodes.
//!
//! Decoding is strict: a resource that says something that we do not understand is refused as a whole, with
//! the path of the field and the bad value; the last good one stays. A refused policy that has no last good
//! one is replaced by one that denies; the addresses of a refused workload or service are not called, if its body
//! can be decoded at all (else nobody knows which addresses it meant). Extensions on workloads and services are
//! ignored (they are hints of other data planes); on policies they are conditions that we cannot check, so the policy
//! is refused.

mod address;
mod encode;
mod field;
mod intern;
mod policy;

use std::sync::Arc;

use mesh::{
    policy::{Policy, PolicyName, Scope},
    service::{Service, Vip},
    state::{RefusedAddress, Update},
    workload::Workload,
};
use prost::Message as _;
use proto::{security, type_url, workload as pb};

use self::intern::Interner;
pub use self::{
    encode::{
        encode_policy, encode_service, encode_workload, policy_message, service_message,
        workload_message,
    },
    field::FieldError,
};

/// Turns resources into updates of the mesh. Keeps one instance of each string that workloads share, so
/// one decoder should serve all resources of one state.
#[derive(Debug, Default)]
pub struct Decoder {
    interner: Interner,
}

/// A resource that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct Refused {
    /// Name of the resource.
    pub name: String,
    /// Which field, and what is wrong with it. Goes into the NACK.
    pub reason: FieldError,
    /// To be applied all the same: keeps what was refused from leaving a gap.
    pub instead: Option<Update>,
}

impl Decoder {
    /// A decoder that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes the resource `name` of type `type_url` ([`type_url::ADDRESS`], `WORKLOAD`, `AUTHORIZATION`).
    ///
    /// # Errors
    /// The resource is refused; see [`Refused::instead`].
    pub fn decode(
        &mut self,
        type_url: &str,
        name: &str,
        body: &[u8],
    ) -> Result<Update, Box<Refused>> {
        match type_url {
            type_url::ADDRESS => self.address(name, body),
            type_url::WORKLOAD => self.bare_workload(name, body),
            type_url::AUTHORIZATION => self.authorization(name, body),
            other => {
                let reason = FieldError::new(format!("type URL {other} is not one of WDS"));
                Err(refused_address(name, reason, Vec::new()))
            }
        }
    }

    /// The update for a resource of type `type_url` that the control plane removed; `None` for a foreign type.
    #[must_use]
    pub fn remove(&mut self, type_url: &str, name: &str) -> Option<Update> {
        match type_url {
            type_url::ADDRESS | type_url::WORKLOAD => Some(Update::RemoveAddress(name.into())),
            type_url::AUTHORIZATION => Some(Update::RemovePolicy(policy::name(name))),
            _ => None,
        }
    }

    /// Converts one workload message.
    ///
    /// # Errors
    /// Names the field and the bad value.
    pub fn workload(&mut self, message: &pb::Workload) -> Result<Workload, FieldError> {
        address::workload(&mut self.interner, message)
    }

    /// Converts one service message.
    ///
    /// # Errors
    /// Names the field and the bad value.
    pub fn service(&mut self, message: &pb::Service) -> Result<Service, FieldError> {
        address::service(&mut self.interner, message)
    }

    /// Converts one policy message.
    ///
    /// # Errors
    /// Names the field and the bad value.
    pub fn policy(&mut self, message: &security::Authorization) -> Result<Policy, FieldError> {
        policy::policy(&mut self.interner, message)
    }

    fn address(&mut self, name: &str, body: &[u8]) -> Result<Update, Box<Refused>> {
        let unread = |reason| refused_address(name, reason, Vec::new());
        let message =
            pb::Address::decode(body).map_err(|error| unread(field::undecodable(error)))?;
        match message.r#type {
            Some(pb::address::Type::Workload(message)) => self.named_workload(name, &message),
            Some(pb::address::Type::Service(message)) => self.named_service(name, &message),
            None => Err(unread(
                FieldError::new("neither workload nor service").at("address"),
            )),
        }
    }

    fn bare_workload(&mut self, name: &str, body: &[u8]) -> Result<Update, Box<Refused>> {
        match pb::Workload::decode(body) {
            Ok(message) => self.named_workload(name, &message),
            Err(error) => Err(refused_address(name, field::undecodable(error), Vec::new())),
        }
    }

    fn named_workload(
        &mut self,
        name: &str,
        message: &pb::Workload,
    ) -> Result<Update, Box<Refused>> {
        let workload = self.workload(message).map_err(|e| e.at("workload"));
        // A removal comes by resource name: under another name we could never remove it.
        let named = workload.and_then(|workload| {
            field::same_name(name, &workload.uid).map_err(|e| e.at("workload.uid"))?;
            Ok(Update::Workload(Arc::new(workload)))
        });
        named.map_err(|reason| refused_address(name, reason, address::claimed_by_workload(message)))
    }

    fn named_service(&mut self, name: &str, message: &pb::Service) -> Result<Update, Box<Refused>> {
        let service = self.service(message).map_err(|e| e.at("service"));
        let named = service.and_then(|service| {
            field::same_name(name, &service.key.to_string())
                .map_err(|e| e.at("service.hostname"))?;
            Ok(Update::Service(Arc::new(service)))
        });
        named.map_err(|reason| refused_address(name, reason, address::claimed_by_service(message)))
    }

    fn authorization(&mut self, name: &str, body: &[u8]) -> Result<Update, Box<Refused>> {
        let (scope, outcome) = match security::Authorization::decode(body) {
            Ok(message) => {
                let named = |policy: Policy| match policy.name == policy::name(name) {
                    true => Ok(policy),
                    false => field::same_name(name, &policy.name.to_string()).map(|()| policy),
                };
                let whole = || policy::nothing_dropped(&message, body.len());
                (
                    policy::scope(&message),
                    whole().and_then(|()| self.policy(&message).and_then(named)),
                )
            }
            Err(error) => (Err(FieldError::new("")), Err(field::undecodable(error))),
        };
        outcome
            .map(|policy| Update::Policy(Arc::new(policy)))
            .map_err(|reason| {
                let reason = reason.at("authorization");
                // Whom it was to guard is unknown with an unknown scope: then it guards everybody.
                let scope = scope.unwrap_or(Scope::Global);
                let denying = Policy::invalid(policy::name(name), scope, reason.to_string());
                let instead = Some(Update::RefusedPolicy(Arc::new(denying)));
                Box::new(Refused {
                    name: name.to_owned(),
                    reason,
                    instead,
                })
            })
    }
}

/// A refused workload or service: without its addresses, traffic there would look like traffic out of the mesh,
/// and pass its waypoint by. So would a service's host name, and be asked for elsewhere.
fn refused_address(name: &str, reason: FieldError, vips: Vec<Vip>) -> Box<Refused> {
    let refused = RefusedAddress {
        name: name.into(),
        vips: vips.into(),
        why: reason.to_string().into(),
    };
    let claims = !refused.vips.is_empty() || refused.service().is_some();
    let instead = claims.then(|| Update::RefusedAddress(Arc::new(refused)));
    Box::new(Refused {
        name: name.to_owned(),
        reason,
        instead,
    })
}

/// The resource name of a policy.
#[must_use]
pub fn policy_resource_name(name: &PolicyName) -> String {
    format!("{}/{}", name.namespace, name.name)
}

#[cfg(test)]
mod tests;
