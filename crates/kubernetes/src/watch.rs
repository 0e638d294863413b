//! The source: all wanted kinds of one API server, each followed on its own, told together. Used by the control plane
//! and by the node agent.

use std::{future::Future, pin::Pin};

use futures_util::{
    FutureExt as _, StreamExt as _,
    stream::{BoxStream, SelectAll},
};
use kube::Client;
use objects::{Event, Kind, Source};

use crate::{
    follow::follow,
    held::{Held, Report},
    resource,
};

/// Reports that are taken before readers are told, so that a server that never pauses does not keep them waiting.
const MOST_AT_ONCE: usize = 10_000;

/// What of the cluster is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    kinds: Vec<Kind>,
    node: Option<String>,
}

impl Wanted {
    /// These kinds, in all namespaces. Pods that have ended are never among them.
    #[must_use]
    pub fn kinds(kinds: impl IntoIterator<Item = Kind>) -> Wanted {
        let mut kinds: Vec<Kind> = kinds.into_iter().collect();
        kinds.sort_unstable();
        kinds.dedup();
        Wanted { kinds, node: None }
    }

    /// Every kind that the project reads.
    #[must_use]
    pub fn all() -> Wanted {
        Wanted::kinds(Kind::ALL.iter().copied())
    }

    /// Of pods, only those of this node.
    #[must_use]
    pub fn pods_of(mut self, node: &str) -> Wanted {
        self.node = Some(node.to_owned());
        self
    }
}

/// A [`Source`] that lists and watches. The first event comes when every kind was listed, or is known to be absent
/// (no CustomResourceDefinition); before that, and whenever something cannot be read, the log says why, and later the
/// faults do. While the server is away, all that was read stays. Works only while [`Source::next`] is awaited.
pub struct Watch {
    reports: SelectAll<BoxStream<'static, (Kind, Report)>>,
    held: Held,
}

impl Watch {
    /// A source on the server of `client`; nothing is asked yet.
    #[must_use]
    pub fn new(client: Client, wanted: Wanted) -> Watch {
        let Wanted { kinds, node } = wanted;
        let follow = |kind: &Kind| {
            let selector = resource::selector(*kind, node.as_deref());
            follow(client.clone(), *kind, selector).boxed()
        };
        Watch {
            reports: kinds.iter().map(follow).collect(),
            held: Held::new(kinds),
        }
    }

    fn take(&mut self, (kind, report): (Kind, Report)) {
        match &report {
            Report::Away(why) if self.held.is_news(kind, why) => tracing::warn!("{kind}: {why}"),
            Report::Back => tracing::info!("{kind}: the API server can be read again"),
            _ => {}
        }
        self.held.take(kind, report);
    }
}

impl Source for Watch {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Event> + Send + '_>> {
        Box::pin(async move {
            loop {
                if let Some(event) = self.held.event() {
                    return event;
                }
                match self.reports.next().await {
                    Some(report) => self.take(report),
                    // No kind was wanted.
                    None => std::future::pending().await,
                }
                for _ in 0..MOST_AT_ONCE {
                    match self.reports.next().now_or_never() {
                        Some(Some(report)) => self.take(report),
                        _ => break,
                    }
                }
            }
        })
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}
