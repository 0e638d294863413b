//! Sending a request to an endpoint: cluster, header changes, tries with their time limits, mirrors, and the
//! head of the answer. Called by `request` for routes that forward.

mod clock;
mod head;
mod mirror;
mod upgrade;

use crate::cluster::{Counters, Guard, Host, Live, Outcome};
use crate::download::{Download, Held, grpc_status};
use crate::format::{Facts, Format};
use crate::headers::strip_hop_by_hop;
use crate::model::cluster::{Discovery, Endpoint, Health, Target, UpstreamHttp};
use crate::model::listener::ChainKind;
use crate::model::route::{Forward, Retry, WeightedTarget};
use crate::proxy::Proxy;
use crate::reason::Reason;
use crate::report::record::upstream_host;
use crate::request::{Chosen, Exchange, answer};
use crate::retry::{self, Ended};
use crate::route;
use crate::upstream::{Connection, DialError, Key, Return, UpBody};
use crate::verdict::Leave;
pub use clock::Late;

use clock::Clock;
use head::{change_request, request_head, time_limit};
use http::header::{HeaderMap, HeaderValue};
use http::{Request, Response, Version};
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Forwards a request. Every error is an answer.
pub async fn forward(
    proxy: &Arc<Proxy>,
    mut exchange: Exchange,
    chosen: &Chosen,
    forward: &Forward,
) -> Response<Download> {
    let config = exchange.chain.clone();
    let config = match &config.kind {
        ChainKind::Http(config) => Some(&**config),
        ChainKind::Tcp(_) => None,
    };
    if forward.websocket == Some(false) && exchange.upgrade.is_some() {
        return answer(exchange.record, &Reason::UpgradeRefused, config);
    }
    let picked = route::pick_target(forward, &mut rand::rng());
    let live = picked.and_then(|target| exchange.snapshot.cluster(&target.cluster).cloned());
    let live = live.filter(|live| live.config.discovery != Discovery::Fixed);
    let (Some(target), Some(live)) = (picked, live) else {
        return answer(
            exchange.record,
            &Reason::NoCluster(forward.not_found),
            config,
        );
    };
    exchange.record.went.live = Some(live.clone());
    let limit = live.config.limits.requests;
    let Some(counted) = Guard::within(
        &live.counters,
        |counters: &Counters| &counters.requests,
        limit,
    ) else {
        return answer(exchange.record, &Reason::Overflow, config);
    };
    let live = proxy.warmed(live).await;
    let timeout = time_limit(&exchange, forward);
    let mut leave = Leave::of(proxy, &mut exchange);
    change_request(&mut exchange, chosen, forward, target, timeout);
    exchange.record.request = exchange.head.headers.clone();
    mirror::start(proxy, &exchange, forward);
    let tries = Tries {
        proxy,
        live,
        forward,
        target,
        counted: Some(counted),
        timeout,
    };
    let tried = tokio::select! {
        biased;
        tried = tries.run(&mut exchange) => tried,
        policy = leave.taken() => Err(Reason::Denied(policy)),
    };
    match tried {
        Err(reason) => {
            let mut response = answer(exchange.record, &reason, config);
            let no_facts = |_: &Format, _: &HeaderMap| String::new();
            for changes in [
                &target.headers,
                &chosen.route.headers,
                &chosen.host().headers,
                &chosen.table.headers,
            ] {
                route::change_headers(&changes.response, response.headers_mut(), &no_facts);
            }
            response
        }
        Ok(done) => respond(proxy, exchange, (chosen, target), done, leave),
    }
}

/// What a successful try yields.
struct Done {
    response: Response<Incoming>,
    held: Held,
    clock: Clock,
    idle: Option<Duration>,
    sent: Instant,
}

struct Tries<'a> {
    proxy: &'a Arc<Proxy>,
    live: Arc<Live>,
    forward: &'a Forward,
    target: &'a WeightedTarget,
    counted: Option<Guard<Counters>>,
    timeout: Option<Duration>,
}

/// One try that got no usable answer.
enum Failed {
    /// The try's end and what to tell if it was the last.
    Ended(Ended, Reason),
    /// Nothing may follow.
    Final(Reason),
    /// An answer that the policy may want to replace.
    Answer(Box<Done>, Ended),
}

impl Tries<'_> {
    async fn run(mut self, exchange: &mut Exchange) -> Result<Done, Reason> {
        let policy = self
            .forward
            .retry
            .clone()
            .filter(|_| exchange.upgrade.is_none());
        let left = policy.as_ref().map_or(0, |policy| policy.tries);
        let mut tried: Vec<Arc<Host>> = Vec::new();
        let mut retrying: Option<Guard<Counters>> = None;
        for n in 0..=left {
            if n > 0
                && let Some(policy) = &policy
            {
                let pause = retry::pause(policy, n, &mut rand::rng());
                self.wait(exchange, pause).await?;
                self.look_again();
            }
            let failed = match self.once(exchange, &mut tried, policy.as_ref()).await {
                Ok(mut done) => {
                    done.held.retry = retrying.take();
                    return Ok(done);
                }
                Err(failed) => failed,
            };
            let ended = match &failed {
                Failed::Ended(ended, _) | Failed::Answer(_, ended) => Some(*ended),
                Failed::Final(_) => None,
            };
            let again = n < left
                && exchange.upload.can_replay()
                && !exchange.upload.failed()
                && ended
                    .zip(policy.as_ref())
                    .is_some_and(|(ended, policy)| retry::wanted(policy, ended));
            retrying = if again { self.live.retry() } else { None };
            if retrying.is_some() {
                if let Failed::Answer(mut done, _) = failed {
                    self.counted = done.held.request.take();
                }
                continue;
            }
            return match failed {
                Failed::Answer(done, _) => Ok(*done),
                Failed::Ended(_, reason) | Failed::Final(reason) => Err(reason),
            };
        }
        Err(Reason::NoHealthyUpstream)
    }

    /// Endpoints that have gone since the request came are not tried, and new ones are.
    fn look_again(&mut self) {
        let snapshot = self.proxy.snapshot.load();
        let now = snapshot.cluster(&self.target.cluster);
        if let Some(live) = now.filter(|live| live.config.discovery != Discovery::Fixed) {
            self.live = live.clone();
        }
    }

    /// Sleeps, unless the route's time is up first.
    async fn wait(&self, exchange: &Exchange, pause: Duration) -> Result<(), Reason> {
        let until = Instant::now() + pause;
        if self
            .deadline(exchange)
            .is_some_and(|deadline| deadline <= until)
        {
            return Err(Reason::Timeout);
        }
        tokio::time::sleep_until(until).await;
        Ok(())
    }

    async fn once(
        &mut self,
        exchange: &mut Exchange,
        tried: &mut Vec<Arc<Host>>,
        policy: Option<&Retry>,
    ) -> Result<Done, Failed> {
        let host = self
            .pick(tried, policy)
            .ok_or(Failed::Final(Reason::NoHealthyUpstream))?;
        if policy.is_some_and(|policy| policy.avoid_previous_hosts) {
            tried.push(host.clone());
        }
        let busy = host.busy();
        exchange.record.went.host = Some(host.clone());
        let original = exchange.tunnel.destination();
        exchange.record.went.address = Some(upstream_host(&host.endpoint.target, original));
        let per_try = policy.and_then(|policy| policy.per_try_timeout);
        let sent = Instant::now();
        let clock = Clock {
            upload: exchange.upload.clone(),
            route: self.timeout,
            own: per_try.map(|limit| sent + limit),
        };
        let work = self.attempt(exchange, &host);
        let result = tokio::select! {
            biased;
            result = work => result,
            late = clock.clone().up() => Err(match late {
                Late::Route => Failed::Final(Reason::Timeout),
                Late::Try => Failed::Ended(Ended::TimedOut, Reason::TryTimeout),
            }),
        };
        let now = self.proxy.now();
        let (response, connection) = match result {
            Ok(pair) => pair,
            Err(failed) => {
                if !matches!(failed, Failed::Final(_)) {
                    self.live.record(&host, Outcome::Failed, now);
                }
                return Err(failed);
            }
        };
        let status = response.status().as_u16();
        self.live.record(&host, Outcome::Status(status), now);
        let ended = Ended::Answer(
            status,
            grpc_status(response.headers()).filter(|_| exchange.record.grpc),
        );
        let done = Done {
            response,
            held: Held {
                connection: Some(connection),
                host: Some(busy),
                request: None,
                retry: None,
            },
            clock,
            idle: self.forward.idle_timeout,
            sent,
        };
        if policy.is_some_and(|policy| retry::wanted(policy, ended)) {
            return Err(Failed::Answer(Box::new(self.with_count(done)), ended));
        }
        Ok(self.with_count(done))
    }

    /// The request counts against the cluster's limit until its answer has ended.
    fn with_count(&mut self, mut done: Done) -> Done {
        done.held.request = self.counted.take();
        done
    }

    fn pick(&self, tried: &[Arc<Host>], policy: Option<&Retry>) -> Option<Arc<Host>> {
        if self.live.config.discovery == Discovery::Passthrough {
            return Some(Arc::new(Host {
                endpoint: original_endpoint(),
                state: Arc::default(),
            }));
        }
        let draws = policy.map_or(1, |policy| policy.pick_attempts);
        self.live
            .pick(self.proxy.now(), &mut rand::rng(), tried, draws)
    }

    /// When the route's time is up; unknown while the client still sends.
    fn deadline(&self, exchange: &Exchange) -> Option<Instant> {
        Some(exchange.upload.ended_at()? + self.timeout?)
    }

    /// One try: a connection, then the request on it. A kept connection that was closed under us before the
    /// request was written is replaced without counting as a try.
    fn attempt<'a>(
        &self,
        exchange: &Exchange,
        host: &Arc<Host>,
    ) -> impl Future<Output = Result<(Response<Incoming>, Return), Failed>> + use<'a> {
        let http2 = speaks_http2(&self.live, exchange) && exchange.upgrade.is_none();
        let target = host.endpoint.target.clone();
        let original = exchange
            .tunnel
            .destination()
            .filter(|_| target == Target::Original);
        let key = Key {
            cluster: self.target.cluster.clone(),
            target,
            original,
            http2,
        };
        let (proxy, live, upload) = (
            self.proxy.clone(),
            self.live.clone(),
            exchange.upload.clone(),
        );
        let head = request_head(exchange, http2);
        async move {
            let head = head.ok_or(Failed::Final(Reason::BadRequest("bad_request_head")))?;
            loop {
                let connection: Connection = proxy
                    .upstream
                    .connection(&live, key.clone())
                    .await
                    .map_err(not_connected)?;
                let reused = connection.reused;
                let body = UpBody::new(upload.reader());
                let mut request = Request::new(body);
                *request.method_mut() = head.0.clone();
                *request.uri_mut() = head.1.clone();
                *request.headers_mut() = head.2.clone();
                *request.version_mut() = if http2 {
                    Version::HTTP_2
                } else {
                    Version::HTTP_11
                };
                let error = match connection.send(&proxy.upstream, &live, request).await {
                    Ok(done) => return Ok(done),
                    Err(error) => error,
                };
                if reused && error.is_canceled() && upload.can_replay() {
                    continue;
                }
                return Err(not_answered(&error, upload.failed()));
            }
        }
    }
}

/// The version of HTTP that a cluster is sent this request in.
fn speaks_http2(live: &Live, exchange: &Exchange) -> bool {
    match live.config.http {
        UpstreamHttp::Http1 => false,
        UpstreamHttp::Http2 => true,
        UpstreamHttp::AsClient => exchange.head.version == Version::HTTP_2,
    }
}

fn original_endpoint() -> Endpoint {
    Endpoint {
        target: Target::Original,
        health: Health::Healthy,
        weight: 1,
        priority: 0,
        mutual_tls: false,
        workload: Default::default(),
    }
}

fn not_connected(error: DialError) -> Failed {
    match error {
        DialError::Overflow => Failed::Final(Reason::Overflow),
        other => {
            let text: Arc<str> = other.to_string().into();
            Failed::Ended(Ended::NoConnection, Reason::ConnectFailure(text))
        }
    }
}

fn not_answered(error: &hyper::Error, client_failed: bool) -> Failed {
    if client_failed {
        return Failed::Final(Reason::ClientGone);
    }
    let refused = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<h2::Error>())
        .is_some_and(|error| error.reason() == Some(h2::Reason::REFUSED_STREAM));
    let ended = if refused {
        Ended::Refused
    } else {
        Ended::Reset
    };
    Failed::Ended(ended, Reason::UpstreamReset(error.to_string().into()))
}

/// The head of the answer, in Envoy's order.
fn respond(
    proxy: &Arc<Proxy>,
    mut exchange: Exchange,
    (chosen, target): (&Chosen, &WeightedTarget),
    done: Done,
    leave: Leave,
) -> Response<Download> {
    let Done {
        response,
        held,
        clock,
        idle,
        sent,
    } = done;
    let (mut head, body) = response.into_parts();
    let switching = head.status == http::StatusCode::SWITCHING_PROTOCOLS;
    if !switching {
        strip_hop_by_hop(&mut head.headers);
    }
    let (envoy_headers, stream_idle) = match &exchange.chain.kind {
        ChainKind::Http(config) => (config.envoy_headers, config.stream_idle_timeout),
        ChainKind::Tcp(_) => (false, None),
    };
    if envoy_headers {
        let millis = u64::try_from(sent.elapsed().as_millis()).unwrap_or(u64::MAX);
        head.headers
            .insert("x-envoy-upstream-service-time", HeaderValue::from(millis));
    }
    let record = &mut exchange.record;
    record.status = head.status.as_u16();
    record.flags = "";
    record.details = "via_upstream".into();
    record.grpc_status = grpc_status(&head.headers).filter(|_| record.grpc);
    {
        let facts = |format: &Format, _: &HeaderMap| format.write(&**record as &dyn Facts, "");
        for changes in [
            &target.headers,
            &chosen.route.headers,
            &chosen.host().headers,
            &chosen.table.headers,
        ] {
            route::change_headers(&changes.response, &mut head.headers, &facts);
        }
    }
    record.response = head.headers.clone();
    head.version = Version::HTTP_11;
    if switching {
        return upgrade::join(proxy, exchange, (head, body), held, leave);
    }
    let download = Download::upstream(body, exchange.record, held, leave)
        .until(clock.runs().then(|| clock.up()))
        .idle(idle.or(stream_idle));
    Response::from_parts(head, download)
}
