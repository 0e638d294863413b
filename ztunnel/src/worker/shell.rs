//! The thin epoll shell around [`Worker`](super::worker::Worker): one per thread. Called by `threads`.

use std::sync::Arc;

use arc_swap::ArcSwap;
use mesh::state::Snapshot;
use mio::Token;
use tokio::sync::mpsc;

use super::api::{Command, Notice, Settings};

/// Token of the waker; no entity ever has it.
pub(super) const WAKER: Token = Token(usize::MAX);

/// What control and a worker share.
pub(super) struct Inbox {
    pub(super) index: usize,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) notices: mpsc::Sender<Vec<Notice>>,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
}

/// The loop of one worker thread; returns when the worker has ended.
pub(super) fn run(_poll: mio::Poll, _inbox: Inbox, _settings: Arc<Settings>) {}
