//! Settings of the DNS proxy, with upstream's names. Called by `config`.

use std::path::PathBuf;

use runtime::settings::Settings;

use super::Own;
use crate::control::dns::answer::Zone;
use crate::control::dns::{Address, Listen};
use crate::worker::listeners::Wanted;

/// The DNS proxy.
#[derive(Debug, Clone)]
pub struct Dns {
    /// Which sockets each pod gets; `None` = no DNS proxy.
    pub listen: Option<Listen>,
    /// What names mean here.
    pub zone: Zone,
    /// Who is asked what the mesh does not know.
    pub resolv_conf: PathBuf,
    /// `SO_MARK` of questions to them.
    pub mark: Option<u32>,
}

/// Upstream's port.
const PORT: u16 = 15053;
const ADDRESS: &str = "`localhost:` and a port, or an address with port";

impl Dns {
    pub(super) fn read(s: &mut Settings<'_>, own: &Own, listeners: &Wanted) -> Self {
        let on = s.parsed(
            "ISTIO_META_DNS_CAPTURE",
            true,
            "`true` or `false`",
            "Answer the pods' DNS where the node agent sends it here; names that the mesh does not know are passed on.",
            |text| text.to_ascii_lowercase().parse().ok(),
        );
        let meaning =
            "Where the DNS proxy listens in each pod; `localhost` is both loopback addresses.";
        let address = s.optional_parsed("DNS_PROXY_ADDR", ADDRESS, meaning, parse);
        let meta = "As DNS_PROXY_ADDR, and wins over it.";
        let address = s
            .optional_parsed("ISTIO_META_DNS_PROXY_ADDR", ADDRESS, meta, parse)
            .or(address)
            .unwrap_or(Address::Localhost(PORT));
        let listen = Listen {
            address,
            ipv6: listeners.ipv6,
            mark: listeners.mark,
            reuse_port: listeners.reuse_port,
        };
        let domain = s.string(
            "CLUSTER_DOMAIN",
            "cluster.local",
            "DNS domain of the cluster.",
        );
        let preferred = s.optional(
            "PREFERED_SERVICE_NAMESPACE",
            "Where several namespaces have a host name: this one counts after the asking pod's own.",
        );
        let resolv_conf = s.path(
            "DNS_RESOLV_CONF",
            "/etc/resolv.conf",
            "Its name servers are asked, from the pod's network namespace, what the mesh does not know.",
        );
        let zone = Zone {
            network: own.network.clone(),
            cluster: own.cluster.clone(),
            domain: domain.trim_matches('.').to_ascii_lowercase().into(),
            preferred: preferred.filter(|name| !name.is_empty()).map(Into::into),
            ipv6: listeners.ipv6,
        };
        Self {
            listen: on.then_some(listen),
            zone,
            resolv_conf,
            mark: listeners.mark,
        }
    }
}

fn parse(text: &str) -> Option<Address> {
    match text.strip_prefix("localhost:") {
        Some(port) => port.parse().ok().map(Address::Localhost),
        None => text.parse().ok().map(Address::At),
    }
}
