//! `LOCAL_XDS_PATH`: a mesh from a YAML file, in upstream's form (`workloads`, `services`, `policies`; the keys of a
//! config dump). Each entry becomes the WDS message that a control plane would send, so that it passes the same checks.
//! Called by `xds::local`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use mesh::state::Update;
use proto::security::{self, Authorization, string_match};
use proto::workload::{self as pb, gateway_address::Destination};
use serde::Deserialize;
use xds::wds::Decoder;

/// Reads the whole file.
///
/// # Errors
/// Names the entry and the field.
pub fn read(text: &str) -> anyhow::Result<Vec<Update>> {
    let file: File = serde_saphyr::from_str(text)?;
    let mut decoder = Decoder::new();
    let mut updates = Vec::new();
    for (at, service) in file.services.into_iter().enumerate() {
        let message = service
            .message()
            .with_context(|| format!("services[{at}]"))?;
        let service = decoder
            .service(&message)
            .with_context(|| format!("services[{at}]"))?;
        updates.push(Update::Service(Arc::new(service)));
    }
    for (at, workload) in file.workloads.into_iter().enumerate() {
        let message = workload
            .message()
            .with_context(|| format!("workloads[{at}]"))?;
        let workload = decoder
            .workload(&message)
            .with_context(|| format!("workloads[{at}]"))?;
        updates.push(Update::Workload(Arc::new(workload)));
    }
    for (at, policy) in file.policies.into_iter().enumerate() {
        let message = policy
            .message()
            .with_context(|| format!("policies[{at}]"))?;
        let policy = decoder
            .policy(&message)
            .with_context(|| format!("policies[{at}]"))?;
        updates.push(Update::Policy(Arc::new(policy)));
    }
    Ok(updates)
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct File {
    workloads: Vec<Workload>,
    services: Vec<Service>,
    policies: Vec<Policy>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Workload {
    uid: String,
    name: String,
    namespace: String,
    workload_ips: Vec<IpAddr>,
    hostname: String,
    network: String,
    protocol: Protocol,
    trust_domain: String,
    service_account: String,
    node: String,
    canonical_name: String,
    canonical_revision: String,
    workload_name: String,
    cluster_id: String,
    waypoint: Option<Gateway>,
    network_gateway: Option<Gateway>,
    authorization_policies: Vec<String>,
    /// `namespace/hostname` → service port → own port.
    services: BTreeMap<String, BTreeMap<u32, u32>>,
    capacity: Option<u32>,
}

#[derive(Deserialize, Default, Clone, Copy)]
enum Protocol {
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "HBONE")]
    Hbone,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Gateway {
    /// `network/address` or `namespace/hostname`.
    destination: String,
    hbone_mtls_port: u32,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Service {
    name: String,
    namespace: String,
    hostname: String,
    /// `network/address`.
    vips: Vec<String>,
    ports: BTreeMap<u32, u32>,
    subject_alt_names: Vec<String>,
    waypoint: Option<Gateway>,
    canonical: bool,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Policy {
    name: String,
    namespace: String,
    scope: Scope,
    action: Action,
    rules: Vec<Vec<Vec<Match>>>,
}

#[derive(Deserialize, Default, Clone, Copy)]
enum Scope {
    Global,
    #[default]
    Namespace,
    WorkloadSelector,
}

#[derive(Deserialize, Default, Clone, Copy)]
enum Action {
    #[default]
    Allow,
    Deny,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Match {
    namespaces: Vec<Text>,
    not_namespaces: Vec<Text>,
    principals: Vec<Text>,
    not_principals: Vec<Text>,
    source_ips: Vec<ipnet::IpNet>,
    not_source_ips: Vec<ipnet::IpNet>,
    destination_ips: Vec<ipnet::IpNet>,
    not_destination_ips: Vec<ipnet::IpNet>,
    destination_ports: Vec<u32>,
    not_destination_ports: Vec<u32>,
}

#[derive(Deserialize)]
enum Text {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Presence(()),
}

impl Workload {
    fn message(self) -> anyhow::Result<pb::Workload> {
        let services = self.services.into_iter().map(|(name, ports)| {
            (
                name,
                pb::PortList {
                    ports: self::ports(ports),
                },
            )
        });
        let protocol = match self.protocol {
            Protocol::Tcp => pb::TunnelProtocol::None,
            Protocol::Hbone => pb::TunnelProtocol::Hbone,
        };
        Ok(pb::Workload {
            uid: self.uid,
            name: self.name,
            namespace: self.namespace,
            addresses: self.workload_ips.into_iter().map(octets).collect(),
            hostname: self.hostname,
            network: self.network,
            tunnel_protocol: protocol.into(),
            trust_domain: self.trust_domain,
            service_account: self.service_account,
            node: self.node,
            canonical_name: self.canonical_name,
            canonical_revision: self.canonical_revision,
            workload_name: self.workload_name,
            workload_type: pb::WorkloadType::Pod.into(),
            cluster_id: self.cluster_id,
            waypoint: self
                .waypoint
                .map(Gateway::message)
                .transpose()
                .context("waypoint")?,
            network_gateway: self
                .network_gateway
                .map(Gateway::message)
                .transpose()
                .context("networkGateway")?,
            authorization_policies: self.authorization_policies,
            services: services.collect(),
            capacity: self.capacity,
            ..pb::Workload::default()
        })
    }
}

impl Gateway {
    fn message(self) -> anyhow::Result<pb::GatewayAddress> {
        let (scope, name) = self.destination.split_once('/').with_context(|| {
            format!(
                "destination {:?} is neither network/address nor namespace/hostname",
                self.destination
            )
        })?;
        let destination = match name.parse::<IpAddr>() {
            Ok(_) => Destination::Address(address(&self.destination)?),
            Err(_) => Destination::Hostname(pb::NamespacedHostname {
                namespace: scope.into(),
                hostname: name.into(),
            }),
        };
        Ok(pb::GatewayAddress {
            destination: Some(destination),
            hbone_mtls_port: self.hbone_mtls_port,
        })
    }
}

impl Service {
    fn message(self) -> anyhow::Result<pb::Service> {
        let addresses = self
            .vips
            .iter()
            .map(|vip| address(vip))
            .collect::<Result<_, _>>()
            .context("vips")?;
        Ok(pb::Service {
            name: self.name,
            namespace: self.namespace,
            hostname: self.hostname,
            addresses,
            ports: ports(self.ports),
            subject_alt_names: self.subject_alt_names,
            waypoint: self
                .waypoint
                .map(Gateway::message)
                .transpose()
                .context("waypoint")?,
            canonical: self.canonical,
            ..pb::Service::default()
        })
    }
}

impl Policy {
    fn message(self) -> anyhow::Result<Authorization> {
        let scope = match self.scope {
            Scope::Global => security::Scope::Global,
            Scope::Namespace => security::Scope::Namespace,
            Scope::WorkloadSelector => security::Scope::WorkloadSelector,
        };
        let action = match self.action {
            Action::Allow => security::Action::Allow,
            Action::Deny => security::Action::Deny,
        };
        let clause = |clause: Vec<Match>| security::Clause {
            matches: clause.into_iter().map(Match::message).collect(),
        };
        let rule = |rule: Vec<Vec<Match>>| security::Rule {
            clauses: rule.into_iter().map(clause).collect(),
        };
        if self.name.is_empty() {
            return Err(anyhow!("name is missing"));
        }
        Ok(Authorization {
            name: self.name,
            namespace: self.namespace,
            scope: scope.into(),
            action: action.into(),
            rules: self.rules.into_iter().map(rule).collect(),
            ..Authorization::default()
        })
    }
}

impl Match {
    fn message(self) -> security::Match {
        let texts = |list: Vec<Text>| list.into_iter().map(Text::message).collect();
        let ranges = |list: Vec<ipnet::IpNet>| {
            let range = |net: ipnet::IpNet| security::Address {
                address: octets(net.addr()),
                length: net.prefix_len().into(),
            };
            list.into_iter().map(range).collect()
        };
        security::Match {
            namespaces: texts(self.namespaces),
            not_namespaces: texts(self.not_namespaces),
            principals: texts(self.principals),
            not_principals: texts(self.not_principals),
            source_ips: ranges(self.source_ips),
            not_source_ips: ranges(self.not_source_ips),
            destination_ips: ranges(self.destination_ips),
            not_destination_ips: ranges(self.not_destination_ips),
            destination_ports: self.destination_ports,
            not_destination_ports: self.not_destination_ports,
            ..security::Match::default()
        }
    }
}

impl Text {
    fn message(self) -> security::StringMatch {
        let kind = match self {
            Self::Exact(text) => string_match::MatchType::Exact(text),
            Self::Prefix(text) => string_match::MatchType::Prefix(text),
            Self::Suffix(text) => string_match::MatchType::Suffix(text),
            Self::Presence(()) => string_match::MatchType::Presence(()),
        };
        security::StringMatch {
            match_type: Some(kind),
        }
    }
}

fn address(text: &str) -> anyhow::Result<pb::NetworkAddress> {
    let (network, address) = text
        .split_once('/')
        .with_context(|| format!("{text:?} is not network/address"))?;
    let address: IpAddr = address
        .parse()
        .with_context(|| format!("{text:?} is not network/address"))?;
    Ok(pb::NetworkAddress {
        network: network.into(),
        address: octets(address),
        length: None,
    })
}

fn ports(ports: BTreeMap<u32, u32>) -> Vec<pb::Port> {
    let port = |(service_port, target_port)| pb::Port {
        service_port,
        target_port,
        ..pb::Port::default()
    };
    ports.into_iter().map(port).collect()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
workloads:
- uid: cluster1//Pod/default/local
  name: local
  namespace: default
  serviceAccount: default
  workloadIps: ["10.0.0.1"]
  protocol: HBONE
  waypoint: {destination: "default/waypoint.default.svc.cluster.local", hboneMtlsPort: 15008}
  authorizationPolicies: ["default/deny-9999"]
  services:
    "default/example.com":
      80: 8080
services:
- name: example
  namespace: default
  hostname: example.com
  vips: ["/10.96.0.1"]
  ports: {80: 8080}
policies:
- name: deny-9999
  namespace: default
  scope: WorkloadSelector
  action: Deny
  rules:
  - - - notDestinationPorts: [9999]
      - principals: [{Exact: cluster.local/ns/default/sa/bad}]
"#;

    #[test]
    fn a_file_becomes_the_same_mesh_as_wds() {
        let mut state = mesh::state::State::new();
        state.apply(read(FILE).unwrap());
        let snapshot = state.snapshot();
        let workload = snapshot
            .workload_at("", "10.0.0.1".parse().unwrap())
            .unwrap();
        assert_eq!(&*workload.name, "local");
        assert!(workload.waypoint.is_some());
        let service = snapshot
            .service_at("", "10.96.0.1".parse().unwrap(), "default")
            .unwrap();
        assert_eq!(snapshot.endpoints(&service.key).count(), 1);
        assert_eq!(
            snapshot.policies().next().unwrap().rules[0].clauses[0]
                .matches
                .len(),
            2
        );
    }

    #[test]
    fn a_fault_names_the_entry_and_the_field() {
        let cases = [
            (
                "workloads: [{name: x, workloadIps: [\"10.0.0.1\"]}]",
                "workloads[0]",
            ),
            ("services: [{name: x, vips: [\"10.0.0.1\"]}]", "services[0]"),
            ("policies: [{namespace: x}]", "policies[0]"),
            ("policys: []", "policys"),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
