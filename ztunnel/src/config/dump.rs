//! The settings as `/config_dump` shows them: upstream's keys. No secret stands here. Called by `config`.

use std::time::Duration;

use identity::grpc::RootSource;
use serde_json::{Value, json};

use super::Config;
use crate::control::dns::Address;

pub(super) fn dump(config: &Config) -> Value {
    let Config {
        worker,
        workers,
        listeners,
        dns,
        zds,
        xds,
        ca,
        admin,
        own,
        termination,
        ..
    } = config;
    let any = if listeners.ipv6 { "[::]" } else { "0.0.0.0" };
    let bind = |port: u16| format!("{any}:{port}");
    let keepalive = worker.keepalive;
    json!({
        "proxy": true,
        "dnsProxy": dns.listen.is_some(),
        "dnsProxyAddr": dns.listen.map(|listen| match listen.address {
            Address::Localhost(port) => json!({ "Localhost": [listen.ipv6, port] }),
            Address::At(address) => json!({ "SocketAddr": address.to_string() }),
        }),
        "clusterDomain": &*dns.zone.domain,
        "preferedServiceNamespace": dns.zone.preferred.as_deref(),
        "proxyMode": "Shared",
        "adminAddr": { "Localhost": [true, admin.admin.port()] },
        "statsAddr": { "SocketAddr": admin.stats.to_string() },
        "readinessAddr": { "SocketAddr": admin.readiness.to_string() },
        "inboundAddr": bind(worker.ports.inbound),
        "inboundPlaintextAddr": bind(worker.ports.inbound_plain),
        "outboundAddr": bind(worker.ports.outbound),
        "illegalPorts": [worker.ports.outbound, worker.ports.inbound, worker.ports.inbound_plain],
        "windowSize": worker.stream_window,
        "connectionWindowSize": worker.connection_window,
        "frameSize": worker.frame_size,
        "poolMaxStreamsPerConn": worker.streams_per_tunnel,
        "poolUnusedReleaseTimeout": duration(worker.tunnel_idle),
        "socketConfig": {
            "keepaliveEnabled": keepalive.is_some(),
            "keepaliveTime": keepalive.map(|k| duration(k.time)),
            "keepaliveInterval": keepalive.map(|k| duration(k.interval)),
            "keepaliveRetries": keepalive.map(|k| k.retries),
            "userTimeoutEnabled": worker.user_timeout.is_some(),
        },
        "packetMark": worker.mark,
        "requireOriginalSource": worker.original_source,
        "numWorkerThreads": workers,
        "inpodUds": zds,
        "inpodPortReuse": listeners.reuse_port,
        "ipv6Enabled": listeners.ipv6,
        "network": &*own.network,
        "localNode": &*own.node,
        "clusterId": &*own.cluster,
        "xdsAddress": xds.grpc.as_ref().map(|grpc| grpc.address.as_str()),
        "xdsRootCert": xds.grpc.as_ref().map(|grpc| root(&grpc.root)),
        "altXdsHostname": xds.grpc.as_ref().and_then(|grpc| grpc.alt_hostname.as_deref()),
        "localXdsPath": xds.local,
        "caAddress": ca.grpc.address,
        "caRootCert": root(&ca.grpc.root),
        "altCaHostname": ca.grpc.alt_hostname,
        "secretTtl": duration(ca.request.ttl),
        "selfTerminationDeadline": duration(*termination),
        "enableEnhancedBaggage": worker.response_baggage,
        "xdsOnDemand": false,
        "fakeCa": false,
        "crlPath": null,
    })
}

fn duration(time: Duration) -> Value {
    json!({ "secs": time.as_secs(), "nanos": time.subsec_nanos() })
}

fn root(root: &RootSource) -> Value {
    match root {
        RootSource::File(path) => json!({ "File": path }),
        RootSource::System => "Default".into(),
        RootSource::Pem(_) => json!({ "Static": "PEM in the setting" }),
    }
}
