//! One kind of the API server: lists it, watches it, and lists it anew when what the server knows may not fit what is
//! known here. Driven by `watch`; what it finds goes to `held`.
//!
//! A list comes as the beginning of a watch (streaming list) where the server can, else in pages.

use std::{collections::VecDeque, time::Duration};

use futures_util::{Stream, StreamExt as _};
use kube::{
    Client, Error,
    api::{ListParams, WatchEvent, WatchParams},
    core::Request,
};
use objects::Kind;
use tokio::time::{sleep, timeout};

use crate::{
    backoff,
    held::Report,
    lines::{self, Events},
    raw::{Page, Raw},
    resource,
    words::{is_unreachable, words},
};

/// Objects of one page.
const PAGE: u32 = 500;
/// The server ends a watch after this long, seconds; it may be at most 294.
const WATCH_LIFE: u32 = 290;
/// Bookmarks come every minute; a watch that is silent for longer than this is taken for dead.
const SILENCE: Duration = Duration::from_secs(100);
/// One answer (a page, or the beginning of a watch) may take this long.
const ANSWER: Duration = Duration::from_secs(30);
/// Time between two looks for a kind that the server does not have.
const ABSENT_PAUSE: Duration = Duration::from_secs(5);
/// Time before the first such look, which decides whether it has it.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// A watch that was begun again and has met no error for this long counts as running.
const PROOF: Duration = Duration::from_secs(1);
/// On the bookmark that ends the list at the beginning of a watch.
const LIST_ENDS: &str = "k8s.io/initial-events-end";

/// Where one kind stands.
enum State {
    /// Nothing is known, or what is known may be wrong.
    Unlisted,
    /// Some pages of a list are in.
    Paging { next: String },
    /// Everything is known as of `version`; no watch runs. `check`: the server may know less than we do.
    Listed { version: String, check: bool },
    /// A watch runs. `listing`: it has not yet given everything.
    Watching {
        version: String,
        events: Events,
        listing: bool,
    },
}

/// What ended an attempt.
enum Trouble {
    Api(Error),
    /// The server does not have the kind in the version that was asked for.
    Absent(Error),
    /// The server cannot list in the beginning of a watch.
    NoStreaming,
    /// Its history does not reach back to what we know.
    Expired,
    Text(&'static str),
}

/// Follows one kind.
pub(crate) struct Follow {
    client: Client,
    kind: Kind,
    selector: Option<String>,
    /// Index into [`resource::VERSIONS`].
    version: usize,
    streaming: bool,
    state: State,
    reports: VecDeque<Report>,
    failures: u32,
    away: bool,
    /// How often in a row the server did not have the kind.
    absent: u32,
    pause: Option<Duration>,
}

/// Everything that is heard about `kind`, for ever.
pub(crate) fn follow(
    client: Client,
    kind: Kind,
    selector: Option<String>,
) -> impl Stream<Item = (Kind, Report)> + Send {
    let follow = Follow {
        client,
        kind,
        selector,
        version: 0,
        streaming: true,
        state: State::Unlisted,
        reports: VecDeque::new(),
        failures: 0,
        away: false,
        absent: 0,
        pause: None,
    };
    futures_util::stream::unfold(follow, |mut follow| async move {
        let report = follow.next().await;
        Some(((follow.kind, report), follow))
    })
}

impl Follow {
    async fn next(&mut self) -> Report {
        loop {
            if let Some(report) = self.reports.pop_front() {
                return report;
            }
            if let Some(pause) = self.pause.take() {
                sleep(pause).await;
            }
            match self.advance().await {
                Ok(()) => {}
                Err(trouble) => self.failed(trouble),
            }
        }
    }

    /// One answer of the server.
    async fn advance(&mut self) -> Result<(), Trouble> {
        match std::mem::replace(&mut self.state, State::Unlisted) {
            State::Unlisted if self.streaming => {
                let events = self.watch("").await?;
                let version = String::new();
                self.reports.push_back(Report::Listing);
                self.state = State::Watching {
                    version,
                    events,
                    listing: true,
                };
                Ok(())
            }
            State::Unlisted => {
                let page = self.page(PAGE, None).await?;
                self.reports.push_back(Report::Listing);
                self.paged(page);
                Ok(())
            }
            State::Paging { next } => {
                let page = self.page(PAGE, Some(next)).await?;
                self.paged(page);
                Ok(())
            }
            State::Listed { version, check } => {
                let known = version.clone();
                self.state = State::Listed { version, check };
                if check && is_older(&self.page(1, None).await?.metadata.resource_version, &known) {
                    tracing::warn!(
                        "the API server knows less of {} than before (an older store was restored?); it is listed anew",
                        self.kind
                    );
                    self.state = State::Unlisted;
                    return Ok(());
                }
                let events = self.watch(&known).await?;
                self.state = State::Watching {
                    version: known,
                    events,
                    listing: false,
                };
                Ok(())
            }
            State::Watching {
                version,
                mut events,
                listing,
            } => {
                let patience = match (listing, self.away) {
                    (true, _) => ANSWER,
                    (false, true) => PROOF,
                    (false, false) => SILENCE,
                };
                let event = timeout(patience, events.next()).await;
                self.state = State::Watching {
                    version,
                    events,
                    listing,
                };
                match event {
                    Err(_) if listing => return Err(Trouble::NoStreaming),
                    Ok(None) if listing => {
                        return Err(Trouble::Text("the API server broke off a list"));
                    }
                    Err(_) if self.away => self.well(),
                    // Silence, and the end that is due: both are followed by a new watch from here.
                    Err(_) | Ok(None) => self.ended(),
                    Ok(Some(Ok(event))) => return self.event(event),
                    Ok(Some(Err(error))) => return Err(refusal(error, listing)),
                }
                Ok(())
            }
        }
    }

    fn ended(&mut self) {
        if let State::Watching { version, .. } = &mut self.state {
            let version = std::mem::take(version);
            self.state = State::Listed {
                version,
                check: true,
            };
        }
    }

    fn event(&mut self, event: WatchEvent<Raw>) -> Result<(), Trouble> {
        let State::Watching {
            version, listing, ..
        } = &mut self.state
        else {
            return Ok(());
        };
        match event {
            WatchEvent::Added(raw) | WatchEvent::Modified(raw) => {
                raw.meta("resourceVersion").clone_into(version);
                self.seen(raw);
            }
            WatchEvent::Deleted(raw) => {
                raw.meta("resourceVersion").clone_into(version);
                let (namespace, name) = (raw.meta("namespace"), raw.meta("name"));
                self.reports
                    .push_back(Report::Gone(namespace.into(), name.into()));
            }
            WatchEvent::Bookmark(bookmark) => {
                *version = bookmark.metadata.resource_version;
                if *listing && bookmark.metadata.annotations.contains_key(LIST_ENDS) {
                    *listing = false;
                    self.listed();
                }
            }
            WatchEvent::Error(status) => return Err(refusal(Error::Api(status), *listing)),
        }
        if self.away && !matches!(self.state, State::Watching { listing: true, .. }) {
            self.well();
        }
        Ok(())
    }

    fn seen(&mut self, raw: Raw) {
        let (namespace, name) = (raw.meta("namespace").into(), raw.meta("name").into());
        let parsed = objects::read(self.kind, raw.0);
        self.reports
            .push_back(Report::Seen(parsed, namespace, name));
    }

    fn paged(&mut self, page: Page) {
        page.items.into_iter().for_each(|raw| self.seen(raw));
        self.state = if page.metadata.r#continue.is_empty() {
            self.listed();
            State::Listed {
                version: page.metadata.resource_version,
                check: false,
            }
        } else {
            State::Paging {
                next: page.metadata.r#continue,
            }
        };
    }

    fn listed(&mut self) {
        self.well();
        self.reports.push_back(Report::Listed);
    }

    /// The server answers.
    fn well(&mut self) {
        (self.failures, self.absent) = (0, 0);
        if std::mem::take(&mut self.away) {
            self.reports.push_back(Report::Back);
        }
    }

    fn failed(&mut self, trouble: Trouble) {
        let why = match trouble {
            Trouble::Expired => {
                tracing::info!(
                    "the API server's history of {} ended; it is listed anew",
                    self.kind
                );
                self.state = State::Unlisted;
                self.pause = Some(backoff::pause(1, rand::random()));
                return;
            }
            Trouble::NoStreaming => {
                self.streaming = false;
                self.state = State::Unlisted;
                return;
            }
            // A kind of the server itself is there, in the one version that there is: whoever denies it is not (yet) the
            // server.
            Trouble::Absent(_) if resource::may_be_absent(self.kind) => return self.missing(),
            // What comes back may be another server, or this one with another store: what is known of it counts no more.
            Trouble::Api(error) | Trouble::Absent(error) => {
                if is_unreachable(&error) {
                    (self.state, self.streaming) = (State::Unlisted, true);
                }
                words(&error)
            }
            Trouble::Text(text) => text.to_owned(),
        };
        if let State::Watching { listing, .. } = self.state {
            match listing {
                true => self.state = State::Unlisted,
                false => self.ended(),
            }
        }
        self.failures = self.failures.saturating_add(1);
        self.pause = Some(backoff::pause(self.failures, rand::random()));
        self.away = true;
        self.reports.push_back(Report::Away(why));
    }

    /// The server does not have the kind in this version, and after the last one: not at all. That must be so twice: a server
    /// that starts denies for a moment what it is about to serve.
    fn missing(&mut self) {
        self.state = State::Unlisted;
        if self.version + 1 < resource::VERSIONS.len() {
            self.version += 1;
            return;
        }
        self.version = 0;
        self.absent = self.absent.saturating_add(1);
        self.pause = Some(match self.absent {
            1 => SECOND_LOOK,
            _ => ABSENT_PAUSE,
        });
        if self.absent == 1 {
            tracing::info!(
                "the API server has no kind {}; it is looked for again",
                self.kind
            );
        }
        if self.absent > 1 {
            let absent = self.absent;
            self.well();
            self.absent = absent;
            self.reports.push_back(Report::Absent);
        }
    }

    fn path(&self) -> String {
        resource::path(self.kind, resource::VERSIONS[self.version])
    }

    /// One page of a list; `limit` 1 without `next` asks only how far the server is.
    async fn page(&mut self, limit: u32, next: Option<String>) -> Result<Page, Trouble> {
        let mut ask = ListParams::default().limit(limit);
        ask.field_selector.clone_from(&self.selector);
        ask.continue_token = next;
        let request = Request::new(self.path())
            .list(&ask)
            .map_err(Error::BuildRequest);
        let answer = timeout(ANSWER, self.client.request(request.map_err(Trouble::Api)?)).await;
        answer
            .unwrap_or_else(|_| Err(Error::Service(SLOW.into())))
            .map_err(|error| refusal(error, false))
    }

    /// A watch from `version` on; an empty one means with a list before it.
    async fn watch(&mut self, version: &str) -> Result<Events, Trouble> {
        let ask = WatchParams {
            field_selector: self.selector.clone(),
            timeout: Some(WATCH_LIFE),
            bookmarks: true,
            send_initial_events: version.is_empty(),
            ..WatchParams::default()
        };
        let request = Request::new(self.path())
            .watch(&ask, version)
            .map_err(Error::BuildRequest);
        let begun = lines::begin(&self.client, request.map_err(Trouble::Api)?);
        let answer = timeout(ANSWER, begun).await;
        let events = answer.unwrap_or_else(|_| Err(Error::Service(SLOW.into())));
        events.map_err(|error| refusal(error, version.is_empty()))
    }
}

const SLOW: &str = "no answer within 30 s";

/// What an error means; `listing`: it ended a watch that was to begin with a list.
fn refusal(error: Error, listing: bool) -> Trouble {
    let Error::Api(status) = &error else {
        return Trouble::Api(error);
    };
    match status.code {
        400 | 422 if listing => Trouble::NoStreaming,
        404 => Trouble::Absent(error),
        410 => Trouble::Expired,
        _ => Trouble::Api(error),
    }
}

/// Whether the server's version is before ours. Versions are decimal numbers; others are not compared.
fn is_older(server: &str, ours: &str) -> bool {
    match (server.parse::<u64>(), ours.parse::<u64>()) {
        (Ok(server), Ok(ours)) => server < ours,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
