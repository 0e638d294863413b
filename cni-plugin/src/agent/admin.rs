//! The agent's admin port and its few metrics. Called by `run`.
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use runtime::admin::{Common, Router, Server, text_response};
use zds::server::Handle;

use super::config::Config;
use super::pods::Store;

pub(super) async fn serve(config: &Config, common: &Common) -> anyhow::Result<()> {
    let server = bind(config.admin_address).await?;
    server.serve(router(config.admin_address, common), &common.shutdown);
    if let Some(address) = config.probe_address {
        let server = bind(address).await?;
        server.serve(probes(Router::new(), common), &common.shutdown);
    }
    Ok(())
}

/// `[::]` takes both families; a node without IPv6 has only the other.
async fn bind(address: SocketAddr) -> std::io::Result<Server> {
    let bound = Server::bind(address).await;
    if bound.is_err() && address.ip() == Ipv6Addr::UNSPECIFIED {
        let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
        // What the first one says is about what was asked for.
        return Server::bind(v4).await.or(bound);
    }
    bound
}

/// What the kubelet asks, by upstream's names.
fn probes(router: Router, common: &Common) -> Router {
    let readiness = common.readiness.clone();
    let ready = move |_| {
        let (ready, text) = readiness.report();
        let status = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        std::future::ready(text_response(status, text))
    };
    let alive = |_| std::future::ready(text_response(StatusCode::OK, "alive\n"));
    router.route("/readyz", ready).route("/healthz", alive)
}

/// What the port offers. Who reaches the node may see how it is, but only the node itself may end the agent or change its
/// log: without it no pod of the mesh starts.
fn router(address: SocketAddr, common: &Common) -> Router {
    let router = probes(Router::new(), common);
    if address.ip().is_loopback() {
        return router.common(common);
    }
    router.readiness(&common.readiness).metrics(&common.metrics)
}

/// Gauges that are read when scraped.
pub(super) fn measure(registry: &runtime::metrics::Registry, pods: &Arc<Store>, ztunnel: &Handle) {
    let gauges = Gauges {
        pods: Arc::clone(pods),
        ztunnel: ztunnel.clone(),
    };
    registry.with(|registry| registry.register_collector(Box::new(gauges)));
}

struct Gauges {
    pods: Arc<Store>,
    ztunnel: Handle,
}

impl std::fmt::Debug for Gauges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gauges")
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let pods = self.pods.all();
        let enrolled = pods.iter().filter(|entry| entry.enrolled).count();
        let connected = *self.ztunnel.connected().borrow();
        for (name, help, count) in [
            (
                "causeway_cni_pods",
                "Pods of this node that the runtime told us of",
                pods.len(),
            ),
            (
                "causeway_cni_pods_enrolled",
                "Pods of this node that are in the mesh",
                enrolled,
            ),
            (
                "causeway_cni_ztunnels_connected",
                "Connected ztunnels",
                connected,
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}
