//! A TCP chain: policies once, an endpoint, then bytes both ways until both ends have closed.
//! Called by `listener` for connections that are not HTTP, or need not be looked at.

use crate::cluster::{Counters, Guard, Outcome};
use crate::filters::rbac;
use crate::io::{Count, Counted, Io};
use crate::model::cluster::{Discovery, Target};
use crate::model::listener::{Chain, ChainKind, TcpChain};
use crate::proxy::Proxy;
use crate::report::TcpRecord;
use crate::report::record::upstream_host;
use crate::route;
use crate::tunnel::Tunnel;
use crate::upstream::DialError;
use crate::verdict;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Serves one connection to its end.
pub async fn serve(proxy: &Proxy, tunnel: Arc<Tunnel>, chain: Arc<Chain>, client: Io) {
    let ChainKind::Tcp(config) = &chain.kind else {
        return;
    };
    let mut record = TcpRecord::begin(proxy.reporter.clone(), chain.clone(), tunnel);
    if let Err(policy) = verdict::tcp(config, &record.tunnel) {
        record.termination = Some(rbac::details(policy.as_deref()));
        record.flags = "UAEX";
        return;
    }
    let Some(upstream) = connect(proxy, config, &mut record).await else {
        return;
    };
    let (upstream, _busy, _counted) = upstream;
    let tunnel = record.tunnel.clone();
    let meter = record.opened();
    let counting = async {
        loop {
            tokio::time::sleep(proxy.times.report).await;
            if let Some(meter) = &meter {
                meter.tell();
            }
        }
    };
    // A chain that is gone lets its connections end by themselves, as its service may have moved to another port.
    let cut = verdict::forbidden(proxy, |snapshot| {
        verdict::connect(snapshot, &tunnel)?;
        match snapshot.chain(&chain.name).map(|chain| &chain.kind) {
            Some(ChainKind::Tcp(now)) => verdict::tcp(now, &tunnel),
            _ => Ok(()),
        }
    });
    let why = tokio::select! {
        () = copy(config, client, upstream, &mut record) => None,
        why = cut => Some(why),
        never = counting => never,
    };
    if let Some(why) = why {
        tracing::info!(peer = %tunnel.peer, authority = tunnel.authority_text, why, "TCP connection cut");
        record.flags = "UAEX";
        record.termination = Some(why);
    }
}

type Connected = (
    Io,
    Option<Guard<crate::cluster::HostState>>,
    Guard<Counters>,
);

async fn connect(proxy: &Proxy, config: &TcpChain, record: &mut TcpRecord) -> Option<Connected> {
    let snapshot = proxy.snapshot.load_full();
    let index = route::weighted(
        config.targets.iter().map(|(_, weight)| *weight),
        &mut rand::rng(),
    )?;
    let live = config
        .targets
        .get(index)
        .and_then(|(name, _)| snapshot.cluster(name))
        .cloned();
    let Some(live) = live.filter(|live| live.config.discovery != Discovery::Fixed) else {
        record.flags = "NC";
        return None;
    };
    record.went.live = Some(live.clone());
    let limit = live.config.limits.connections;
    let Some(counted) = Guard::within(&live.counters, |counters| &counters.connections, limit)
    else {
        record.flags = "UO";
        return None;
    };
    let live = proxy.warmed(live).await;
    let original = record.tunnel.destination();
    let host = match live.config.discovery {
        Discovery::Passthrough => None,
        _ => match live.pick(proxy.now(), &mut rand::rng(), &[], 1) {
            Some(host) => Some(host),
            None => {
                record.flags = "UH";
                return None;
            }
        },
    };
    let target = host
        .as_ref()
        .map_or(Target::Original, |host| host.endpoint.target.clone());
    record.went.address = Some(upstream_host(&target, original));
    record.went.host = host.clone();
    match proxy.upstream.dialer.dial(&live, &target, original).await {
        Ok(io) => Some((io, host.map(|host| host.busy()), counted)),
        Err(error) => {
            if let Some(host) = &host {
                live.record(host, Outcome::Failed, proxy.now());
            }
            record.flags = if matches!(error, DialError::Overflow) {
                "UO"
            } else {
                "UF"
            };
            record.transport = Some(error.to_string());
            None
        }
    }
}

async fn copy(config: &TcpChain, client: Io, mut upstream: Io, record: &mut TcpRecord) {
    let count = record.count.clone();
    let mut client = Counted(client, count.clone());
    let limit = async {
        match config.max_duration {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        done = tokio::io::copy_bidirectional(&mut client, &mut upstream) => {
            if let Err(error) = done {
                tracing::debug!(%error, "TCP connection ended early");
                record.flags = "UC";
            }
        }
        () = quiet(config.idle_timeout, &count) => record.flags = "SI",
        () = limit => record.flags = "DT",
    }
}

/// Ends when no byte went either way for `limit`.
async fn quiet(limit: Option<Duration>, count: &Count) {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    let mut before = None;
    loop {
        let now = (count.read.load(Relaxed), count.written.load(Relaxed));
        if before == Some(now) {
            return;
        }
        before = Some(now);
        tokio::time::sleep(limit).await;
    }
}
