//! Verdicts that are asked again while a tunnel lives: may it go on under the configuration of this moment? Called by
//! `listener` for each CONNECT, by `tcp` and `request`, and by `forward` for joined websockets.

use crate::filters::rbac::{self, Verdict};
use crate::model::Rbac;
use crate::model::listener::{Chain, ChainKind, HttpFilter, TcpChain};
use crate::model::text::RequestView;
use crate::proxy::Proxy;
use crate::request::Exchange;
use crate::state::Snapshot;
use crate::tunnel::Tunnel;
use http::HeaderMap;
use std::net::IpAddr;
use std::sync::Arc;

/// May pass; the error is the policy that denies, or none if no policy allowed it.
pub type Judged = Result<(), Option<Arc<str>>>;

fn each<'a>(filters: impl IntoIterator<Item = &'a Rbac>, facts: &rbac::Facts<'_>) -> Judged {
    for filter in filters {
        if let Verdict::Deny(policy) = rbac::judge(filter, facts) {
            return Err(policy);
        }
    }
    Ok(())
}

fn facts(tunnel: &Tunnel) -> rbac::Facts<'_> {
    let peer = Some(tunnel.peer.uri());
    rbac::Facts::of_connection(peer, tunnel.source(), tunnel.ip(), tunnel.authority.port)
}

/// The filters on CONNECTs. A tunnel that is there outlives its listener: only a policy cuts it.
pub fn connect(snapshot: &Snapshot, tunnel: &Tunnel) -> Judged {
    match &snapshot.terminate {
        Some(terminate) => each(&terminate.rbac, &facts(tunnel)),
        None => Ok(()),
    }
}

/// The filters of a TCP chain.
pub fn tcp(chain: &TcpChain, tunnel: &Tunnel) -> Judged {
    each(&chain.rbac, &facts(tunnel))
}

/// A request as its policies saw it, kept while bytes flow that belong to it.
#[derive(Clone)]
pub struct Asked {
    method: String,
    target: String,
    authority: String,
    headers: HeaderMap,
    remote: IpAddr,
}

impl Asked {
    /// The request as it stands now.
    pub fn of(exchange: &Exchange) -> Self {
        Self {
            method: exchange.head.method.to_string(),
            target: exchange.target.clone(),
            authority: exchange.authority.clone(),
            headers: exchange.head.headers.clone(),
            remote: exchange.remote,
        }
    }

    /// The filters of its chain as they are now.
    pub fn judge(&self, chain: &Chain, tunnel: &Tunnel) -> Judged {
        let ChainKind::Http(chain) = &chain.kind else {
            return Ok(());
        };
        let view = RequestView {
            method: &self.method,
            path: &self.target,
            authority: &self.authority,
            scheme: "http",
            headers: &self.headers,
        };
        let facts = rbac::Facts {
            remote: self.remote,
            request: Some(&view),
            ..facts(tunnel)
        };
        let filters = chain.filters.iter().filter_map(|filter| match filter {
            HttpFilter::Rbac(filter) => Some(&**filter),
            HttpFilter::Fault | HttpFilter::Cors => None,
        });
        each(filters, &facts)
    }
}

/// Ends when a change of the configuration forbids what goes on, and says why.
pub async fn forbidden(proxy: &Proxy, judge: impl Fn(&Snapshot) -> Judged) -> String {
    let mut changes = proxy.changes.clone();
    loop {
        // A change after this look wakes the wait below.
        changes.mark_unchanged();
        if let Err(policy) = judge(&proxy.snapshot.load_full()) {
            return rbac::details(policy.as_deref());
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
