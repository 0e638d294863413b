//! What a test puts into its mesh: pods, services, policies.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use proto::security::{
    Action, Authorization, Clause, Match, Rule, Scope, StringMatch, string_match,
};
use proto::type_url::{ADDRESS, AUTHORIZATION};
use proto::workload::{
    Address, NetworkAddress, Port, PortList, Service, TunnelProtocol, Workload, WorkloadType,
    address,
};

use super::{Mesh, NAMESPACE};
use crate::zds::PodInfo;
use crate::{redirect, topology};

/// An enrolled pod.
pub struct Pod {
    /// Its namespace and addresses.
    pub net: topology::Pod,
    /// Itself as WDS has it.
    pub workload: Workload,
    /// Number of its node.
    pub node: usize,
}

impl Mesh {
    /// Adds a pod to the topology, the mesh and its ztunnel.
    pub fn pod(&self, node: usize, name: &str, account: &str) -> Result<Pod> {
        let pod = self.bare_pod(node, name, account)?;
        self.publish(&pod.workload);
        self.enrol(&pod)?;
        Ok(pod)
    }

    /// A pod that nobody has told the mesh of.
    pub fn bare_pod(&self, node: usize, name: &str, account: &str) -> Result<Pod> {
        let net = self.nodes[node].net.pod(name)?;
        let workload = Workload {
            uid: format!("Kubernetes//Pod/{NAMESPACE}/{name}"),
            name: name.to_owned(),
            namespace: NAMESPACE.to_owned(),
            addresses: vec![octets(net.ip), octets(net.ip6)],
            tunnel_protocol: TunnelProtocol::Hbone.into(),
            trust_domain: "cluster.local".to_owned(),
            service_account: account.to_owned(),
            node: format!("node{node}"),
            canonical_name: name.to_owned(),
            canonical_revision: "v1".to_owned(),
            workload_type: WorkloadType::Pod.into(),
            workload_name: name.to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            ..Workload::default()
        };
        Ok(Pod {
            net,
            workload,
            node,
        })
    }

    /// Captures the pod's traffic and hands it to its ztunnel.
    pub fn enrol(&self, pod: &Pod) -> Result<()> {
        redirect::capture(&pod.net)?;
        self.nodes[pod.node]
            .agent
            .add(&pod.uid(), &pod.net, pod.info())
    }

    /// Puts (or replaces) a workload in the mesh.
    pub fn publish(&self, workload: &Workload) {
        let address = Address {
            r#type: Some(address::Type::Workload(workload.clone())),
        };
        self.ads.set(ADDRESS, &workload.uid, &address);
    }

    /// Puts a service in the mesh that leads from `port` of `vip` to `target` of each of `pods`.
    pub fn service(
        &self,
        name: &str,
        vip: IpAddr,
        (port, target): (u16, u16),
        pods: &mut [&mut Pod],
    ) {
        let hostname = format!("{name}.{NAMESPACE}.svc.cluster.local");
        let ports = vec![Port {
            service_port: port.into(),
            target_port: target.into(),
            app_protocol: 0,
        }];
        for pod in pods {
            let key = format!("{NAMESPACE}/{hostname}");
            pod.workload.services.insert(
                key,
                PortList {
                    ports: ports.clone(),
                },
            );
            self.publish(&pod.workload);
        }
        let addresses = vec![NetworkAddress {
            address: octets(vip),
            ..NetworkAddress::default()
        }];
        let service = Service {
            name: name.to_owned(),
            namespace: NAMESPACE.to_owned(),
            hostname: hostname.clone(),
            addresses,
            ports,
            canonical: true,
            ..Service::default()
        };
        let address = Address {
            r#type: Some(address::Type::Service(service)),
        };
        self.ads
            .set(ADDRESS, &format!("{NAMESPACE}/{hostname}"), &address);
    }

    /// Puts a policy on the namespace, or on those workloads that name it.
    pub fn policy(&self, name: &str, scope: Scope, action: Action, matched: Match) {
        let clause = Clause {
            matches: vec![matched],
        };
        let policy = Authorization {
            name: name.to_owned(),
            namespace: NAMESPACE.to_owned(),
            scope: scope.into(),
            action: action.into(),
            rules: vec![Rule {
                clauses: vec![clause],
            }],
            ..Authorization::default()
        };
        self.ads
            .set(AUTHORIZATION, &format!("{NAMESPACE}/{name}"), &policy);
    }

    /// Takes a policy away.
    pub fn remove_policy(&self, name: &str) {
        self.ads
            .remove(AUTHORIZATION, &format!("{NAMESPACE}/{name}"));
    }
}

impl Pod {
    /// Its address with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.net.ip, port)
    }

    /// The Kubernetes uid.
    pub fn uid(&self) -> String {
        format!("uid-{}", self.workload.name)
    }

    /// What the node agent tells of it.
    pub fn info(&self) -> PodInfo {
        PodInfo {
            name: self.workload.name.clone(),
            namespace: NAMESPACE.to_owned(),
            service_account: self.workload.service_account.clone(),
        }
    }

    /// Its SPIFFE identity.
    pub fn identity(&self) -> String {
        format!(
            "spiffe://cluster.local/ns/{NAMESPACE}/sa/{}",
            self.workload.service_account
        )
    }
}

/// Matches a caller's service account.
pub fn principal(account: &str) -> Match {
    let exact = format!("cluster.local/ns/{NAMESPACE}/sa/{account}");
    let value = StringMatch {
        match_type: Some(string_match::MatchType::Exact(exact)),
    };
    Match {
        principals: vec![value],
        ..Match::default()
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
