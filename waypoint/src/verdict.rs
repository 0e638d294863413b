//! Verdicts that are asked again while a tunnel or a request lives: may it go on under the configuration of this moment?
//! Called by `listener` for each CONNECT, by `tcp` and `request`, and by `forward` for what it sends up and down.

use crate::filters::rbac::{self, Verdict};
use crate::model::Rbac;
use crate::model::listener::{Chain, ChainKind, HttpFilter, TcpChain};
use crate::model::text::RequestView;
use crate::proxy::Proxy;
use crate::request::Exchange;
use crate::state::Snapshot;
use crate::tunnel::Tunnel;
use http::{HeaderMap, Method};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

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
struct Asked {
    method: Method,
    target: String,
    authority: String,
    headers: HeaderMap,
    remote: IpAddr,
}

impl Asked {
    /// The filters of its chain as they are now.
    fn judge(&self, chain: &Chain, tunnel: &Tunnel) -> Judged {
        let ChainKind::Http(chain) = &chain.kind else {
            return Ok(());
        };
        let view = RequestView {
            method: self.method.as_str(),
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

/// The policy that takes leave, or none if no policy gives it any more.
type Policy = Option<Arc<str>>;

/// The leave under which the bytes of a request flow. It is asked for again after each change of the configuration, and
/// costs next to nothing until there is one.
pub struct Leave {
    proxy: Arc<Proxy>,
    tunnel: Arc<Tunnel>,
    chain: Arc<str>,
    asked: Asked,
    /// The generation under which it was given last.
    given: u64,
    /// Ends with the next change. There once somebody waits: most requests are over before.
    change: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Leave {
    /// That of a request which its policies have let pass, before anything of it is changed. The record's copy of its
    /// headers is taken, which is about to be replaced.
    pub fn of(proxy: &Arc<Proxy>, exchange: &mut Exchange) -> Self {
        let asked = Asked {
            method: exchange.head.method.clone(),
            target: exchange.target.clone(),
            authority: exchange.authority.clone(),
            headers: std::mem::take(&mut exchange.record.request),
            remote: exchange.remote,
        };
        Self {
            proxy: proxy.clone(),
            tunnel: exchange.tunnel.clone(),
            chain: exchange.chain.name.clone(),
            asked,
            given: exchange.snapshot.generation,
            change: None,
        }
    }

    /// May it go on now?
    pub fn ask(&mut self) -> Judged {
        let snapshot = self.proxy.snapshot.load();
        if snapshot.generation == self.given {
            return Ok(());
        }
        connect(&snapshot, &self.tunnel)?;
        // A chain that is gone lets its requests end by themselves, as its service may have moved to another port.
        if let Some(chain) = snapshot.chain(&self.chain) {
            self.asked.judge(chain, &self.tunnel)?;
        }
        self.given = snapshot.generation;
        Ok(())
    }

    /// Ready when it is taken.
    pub fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<Policy> {
        loop {
            // What changes after this wakes; what changed before is seen by the question below.
            let change = self.change.get_or_insert_with(|| next(&self.proxy));
            let changed = change.as_mut().poll(cx);
            if let Err(policy) = self.ask() {
                return Poll::Ready(policy);
            }
            ready!(changed);
            self.change = None;
        }
    }

    /// Ends when it is taken.
    pub async fn taken(&mut self) -> Policy {
        std::future::poll_fn(|cx| self.poll_taken(cx)).await
    }
}

/// Ends with the next change of the configuration.
fn next(proxy: &Proxy) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let mut changes = proxy.changes.clone();
    changes.mark_unchanged();
    Box::pin(async move {
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
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
