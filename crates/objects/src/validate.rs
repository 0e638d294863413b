//! Checks that types alone cannot make. What passes here can be translated without errors. Called by `parse`.

use std::{net::IpAddr, time::Duration};

use crate::{
    core::{EndpointSlice, Namespace, Node, Pod, Service, ServiceAccount},
    gateway::{Gateway, GatewayClass},
};

mod cors;
mod grant;
mod grpc;
mod policy;
mod route;

/// Why an object is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Invalid {
    pub field: String,
    pub why: String,
}

pub(crate) type Checked = Result<(), Invalid>;

/// The checks of one kind; the first fault ends them.
pub(crate) trait Check {
    fn check(&self) -> Checked {
        Ok(())
    }
}

pub(crate) fn invalid(field: impl Into<String>, why: impl Into<String>) -> Checked {
    Err(Invalid {
        field: field.into(),
        why: why.into(),
    })
}

/// `condition`, or the fault.
pub(crate) fn ensure(condition: bool, field: impl Into<String>, why: impl Into<String>) -> Checked {
    if condition {
        Ok(())
    } else {
        invalid(field, why)
    }
}

/// A DNS-1123 label.
pub(crate) fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// A DNS-1123 subdomain, as most object names must be.
pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253
        && text
            .split('.')
            .all(|part| is_label(part) || part.len() > 63 && is_long_label(part))
}

fn is_long_label(part: &str) -> bool {
    part.split_at_checked(63)
        .is_some_and(|(head, tail)| is_label(head) && is_subdomain(tail))
}

/// A Gateway API duration: up to four numbers with units `h`, `m`, `s`, `ms` in falling order, for example `1m30s`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let (mut rest, mut total, mut next_unit) = (text, 0_u64, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest
            .get(..digits)
            .filter(|d| (1..=5).contains(&d.len()))?
            .parse()
            .ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = UNITS
            .iter()
            .position(|(name, _)| *name == &rest[..letters])
            .filter(|unit| *unit >= next_unit)?;
        total = total.checked_add(number.checked_mul(UNITS[unit].1)?)?;
        next_unit = unit + 1;
        rest = &rest[letters..];
    }
    (!text.is_empty()).then(|| Duration::from_millis(total))
}

fn ip(field: String, text: &str) -> Checked {
    ensure(
        text.parse::<IpAddr>().is_ok(),
        field,
        format!("`{text}` is no IP address"),
    )
}

fn protocol(field: String, text: &str) -> Checked {
    ensure(
        matches!(text, "" | "TCP" | "UDP" | "SCTP"),
        field,
        format!("`{text}` must be TCP, UDP or SCTP"),
    )
}

impl Check for Namespace {
    fn check(&self) -> Checked {
        ensure(
            is_label(&self.metadata.name),
            "metadata.name",
            "must be lower case letters, digits and `-`",
        )
    }
}

impl Check for Node {}

impl Check for ServiceAccount {}

impl Check for GatewayClass {
    fn check(&self) -> Checked {
        waypoint_for(&self.metadata)
    }
}

/// A word that is not known would leave what is bound without its waypoint.
fn waypoint_for(meta: &crate::Meta) -> Checked {
    const LABEL: &str = "istio.io/waypoint-for";
    let word = meta.label(LABEL).unwrap_or("service");
    ensure(
        matches!(word, "service" | "workload" | "all" | "none"),
        format!("metadata.labels[{LABEL}]"),
        format!("`{word}` must be service, workload, all or none"),
    )
}

impl Check for Pod {
    fn check(&self) -> Checked {
        // The service account becomes part of an identity: nothing but a plain name may stand there.
        let account = &self.spec.service_account_name;
        ensure(
            account.is_empty() || is_subdomain(account),
            "spec.serviceAccountName",
            format!("`{account}` must be lower case letters, digits, `-` and `.`"),
        )?;
        if !self.status.pod_ip.is_empty() {
            ip("status.podIP".into(), &self.status.pod_ip)?;
        }
        for (i, address) in self.status.pod_ips.iter().enumerate() {
            ip(format!("status.podIPs[{i}].ip"), &address.ip)?;
        }
        Ok(())
    }
}

impl Check for Service {
    fn check(&self) -> Checked {
        let none = |text: &str| matches!(text, "" | "None");
        if !none(&self.spec.cluster_ip) {
            ip("spec.clusterIP".into(), &self.spec.cluster_ip)?;
        }
        for (i, address) in self
            .spec
            .cluster_ips
            .iter()
            .enumerate()
            .filter(|(_, a)| !none(a))
        {
            ip(format!("spec.clusterIPs[{i}]"), address)?;
        }
        for (i, port) in self.spec.ports.iter().enumerate() {
            ensure(
                port.port != 0,
                format!("spec.ports[{i}].port"),
                "must be 1 to 65535",
            )?;
            protocol(format!("spec.ports[{i}].protocol"), &port.protocol)?;
            let twin = |other: &crate::ServicePort| {
                other.port == port.port && other.protocol == port.protocol
            };
            let unique = !self.spec.ports[..i].iter().any(twin);
            ensure(
                unique,
                format!("spec.ports[{i}].port"),
                format!("port {} is there twice", port.port),
            )?;
        }
        Ok(())
    }
}

impl Check for EndpointSlice {
    fn check(&self) -> Checked {
        if self.address_type == "FQDN" {
            return Ok(());
        }
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            for (j, address) in endpoint.addresses.iter().enumerate() {
                ip(format!("endpoints[{i}].addresses[{j}]"), address)?;
            }
        }
        Ok(())
    }
}

impl Check for Gateway {
    fn check(&self) -> Checked {
        waypoint_for(&self.metadata)?;
        ensure(
            !self.spec.gateway_class_name.is_empty(),
            "spec.gatewayClassName",
            "is missing",
        )?;
        for (i, listener) in self.spec.listeners.iter().enumerate() {
            ensure(
                listener.port != 0,
                format!("spec.listeners[{i}].port"),
                "must be 1 to 65535",
            )?;
            let from = &listener.allowed_routes.namespaces.from;
            ensure(
                matches!(from.as_str(), "" | "Same" | "All" | "Selector" | "None"),
                format!("spec.listeners[{i}].allowedRoutes.namespaces.from"),
                format!("`{from}` must be Same, All, Selector or None"),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_follow_the_gateway_api() {
        let table = [
            ("5s", Some(5_000)),
            ("1m30s", Some(90_000)),
            ("1h2m3s4ms", Some(3_723_004)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("1s1m", None),
            ("1.5s", None),
            ("100000s", None),
            ("5d", None),
            ("5sé", None),
        ];
        for (text, millis) in table {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn names_are_plain() {
        for good in ["a", "a-b.c0", &"x".repeat(63)] {
            assert!(is_subdomain(good), "{good}");
        }
        for bad in ["", "A", "a/b", "a..b", "-a", "a_b", "é", &"x".repeat(254)] {
            assert!(!is_subdomain(bad), "{bad}");
        }
    }
}
