//! The one request path: normalise → route → filters in the written order → answer or `forward` → report.
//! Called by `listener` for each request of an HTTP chain.

mod answer;

pub use answer::answer;

use crate::download::Download;
use crate::filters::{cors, fault, rbac};
use crate::forward;
use crate::headers::{clean_headers, forwarded_for};
use crate::model::listener::{Chain, ChainKind, HttpChain, HttpFilter, ServerMode};
use crate::model::route::{Abort, Route, RouteAction, RouteTable, VirtualHost};
use crate::model::text::RequestView;
use crate::pace::Uploading;
use crate::path::{Normalized, Options, normalize};
use crate::proxy::Proxy;
use crate::reason::Reason;
use crate::report::Record;
use crate::route;
use crate::state::Snapshot;
use crate::tunnel::Tunnel;
use crate::upload::{RECORDED, Upload};
use crate::verdict;
use answer::{direct, plain};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use std::net::IpAddr;
use std::sync::Arc;

/// A request on its way, and all that was found out about it.
pub struct Exchange {
    /// The configuration that this request is served under.
    pub snapshot: Arc<Snapshot>,
    /// Its chain.
    pub chain: Arc<Chain>,
    /// The tunnel it came through.
    pub tunnel: Arc<Tunnel>,
    /// The client's address, as policies mean it.
    pub remote: IpAddr,
    /// Head, as it will be sent up.
    pub head: http::request::Parts,
    /// Path with query, after normalisation and rewrites.
    pub target: String,
    /// `:authority`.
    pub authority: String,
    /// Its body.
    pub upload: Upload,
    /// Its report.
    pub record: Box<Record>,
    /// The client asks for a websocket, and may.
    pub upgrade: Option<hyper::upgrade::OnUpgrade>,
}

impl Exchange {
    /// What routes and policies look at.
    pub fn view(&self) -> RequestView<'_> {
        RequestView {
            method: self.head.method.as_str(),
            path: &self.target,
            authority: &self.authority,
            scheme: "http",
            headers: &self.head.headers,
        }
    }
}

/// A route with its surroundings.
#[derive(Clone)]
pub struct Chosen {
    /// The table.
    pub table: Arc<RouteTable>,
    /// Its host's place in the table.
    pub host: usize,
    /// The route.
    pub route: Arc<Route>,
}

impl Chosen {
    /// Its host.
    pub fn host(&self) -> &VirtualHost {
        &self.table.hosts[self.host]
    }
}

/// Serves one request; every error ends here as an answer. The client's connection is told when its body has ended.
pub async fn serve(
    proxy: Arc<Proxy>,
    tunnel: Arc<Tunnel>,
    chain: Arc<Chain>,
    (request, uploading): (Request<Incoming>, Uploading),
) -> Response<Download> {
    let snapshot = proxy.snapshot.load_full();
    // The chain of this moment, not of the connection's beginning: a push acts at the next request.
    let chain = snapshot.chain(&chain.name).cloned().unwrap_or(chain);
    let (mut head, body) = request.into_parts();
    let record = Box::new(Record::begin(
        proxy.reporter.clone(),
        chain.clone(),
        tunnel.clone(),
        &head,
    ));
    let ChainKind::Http(config) = &chain.kind else {
        return answer(record, &Reason::NoRoute, None);
    };
    let upgrade = take_upgrade(&mut head, config);
    let refused_upgrade = upgrade.is_none() && wants_upgrade(&head);
    let authority = authority_of(&head);
    let remote = forwarded_for(&head.headers).unwrap_or_else(|| tunnel.source().ip());
    let target = head
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str())
        .to_owned();
    let upload = Upload::new(body, RECORDED, Some(uploading));
    let mut exchange = Exchange {
        snapshot: snapshot.clone(),
        chain: chain.clone(),
        tunnel,
        remote,
        head,
        target,
        authority,
        upload,
        record,
        upgrade,
    };
    exchange.record.path = exchange.target.clone();
    exchange.record.authority = exchange.authority.clone();
    exchange.record.upload = Some(exchange.upload.clone());
    let checked = if let Err(policy) = verdict::connect(&snapshot, &exchange.tunnel) {
        Err(Stop::Reason(Reason::Denied(policy)))
    } else if refused_upgrade {
        Err(Stop::Reason(Reason::UpgradeRefused))
    } else {
        prepare(&mut exchange, config)
    };
    if let Err(stop) = checked {
        exchange.record.request = exchange.head.headers.clone();
        return stop.answer(exchange.record, config, None);
    }
    let chosen = choose(&exchange, config);
    exchange.record.request = exchange.head.headers.clone();
    if let Some(chosen) = &chosen {
        exchange.record.route = chosen.route.name.clone();
    }
    let origin = match filters(&proxy, &mut exchange, config, chosen.as_ref()).await {
        Ok(origin) => origin,
        Err(stop) => return stop.answer(exchange.record, config, chosen.as_ref()),
    };
    let Some(chosen) = chosen else {
        return answer(exchange.record, &Reason::NoRoute, Some(config));
    };
    let mut response = act(&proxy, exchange, config, &chosen).await;
    if let (Some(origin), Some(policy)) = (origin, &chosen.route.cors) {
        cors::decorate(policy, origin, response.headers_mut());
    }
    response
}

/// A request that ends before it is forwarded.
enum Stop {
    Reason(Reason),
    /// An answer that is no failure: status, headers.
    Plain(StatusCode, HeaderMap),
}

impl Stop {
    fn answer(
        self,
        mut record: Box<Record>,
        config: &HttpChain,
        chosen: Option<&Chosen>,
    ) -> Response<Download> {
        match self {
            Self::Reason(reason) => {
                let mut response = answer(record, &reason, Some(config));
                decorate_operation(config, chosen, response.headers_mut());
                response
            }
            Self::Plain(status, headers) => {
                record.status = status.as_u16();
                record.flags = "";
                record.details = "direct_response".into();
                let mut response = plain(record, config, status, Bytes::new());
                response.headers_mut().extend(headers);
                response
            }
        }
    }
}

/// HTTP version, path and headers as Envoy's connection manager leaves them.
fn prepare(exchange: &mut Exchange, config: &HttpChain) -> Result<(), Stop> {
    if matches!(exchange.head.version, Version::HTTP_10 | Version::HTTP_09) && !config.http10 {
        return Err(Stop::Reason(Reason::Http10));
    }
    if exchange.authority.is_empty() || exchange.head.method == http::Method::CONNECT {
        return Err(Stop::Reason(Reason::BadRequest("missing_host_header")));
    }
    let options = Options {
        normalize: config.normalize_path,
        merge_slashes: config.merge_slashes,
        escaped: config.escaped_slashes,
    };
    match normalize(&exchange.target, options) {
        Normalized::Same => {}
        Normalized::Changed(target) => exchange.target = target,
        Normalized::Rejected => {
            return Err(Stop::Reason(Reason::BadRequest(
                "path_normalization_failed",
            )));
        }
        Normalized::Redirect(target) => {
            let mut headers = HeaderMap::new();
            let location = HeaderValue::from_str(&target);
            headers.insert(
                header::LOCATION,
                location.map_err(|_| Stop::Reason(Reason::BadRequest("path")))?,
            );
            return Err(Stop::Plain(StatusCode::TEMPORARY_REDIRECT, headers));
        }
    }
    clean_headers(&mut exchange.head.headers);
    Ok(())
}

fn authority_of(head: &http::request::Parts) -> String {
    match head.uri.authority() {
        Some(authority) => authority.as_str().to_owned(),
        None => head
            .headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default()
            .to_owned(),
    }
}

fn wants_upgrade(head: &http::request::Parts) -> bool {
    let connection = head.headers.get_all(header::CONNECTION).iter();
    let mut words = connection
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    head.headers.contains_key(header::UPGRADE) && words.any(|word| word.trim().eq_ignore_ascii_case("upgrade"))
        // An offer of h2c is not taken; it is no reason to refuse the request.
        && !head.headers.get(header::UPGRADE).is_some_and(|what| what.as_bytes().eq_ignore_ascii_case(b"h2c"))
}

fn take_upgrade(
    head: &mut http::request::Parts,
    config: &HttpChain,
) -> Option<hyper::upgrade::OnUpgrade> {
    let websocket = head
        .headers
        .get(header::UPGRADE)?
        .as_bytes()
        .eq_ignore_ascii_case(b"websocket");
    if !(config.websocket && websocket && wants_upgrade(head)) {
        return None;
    }
    head.extensions.remove::<hyper::upgrade::OnUpgrade>()
}

fn choose(exchange: &Exchange, config: &HttpChain) -> Option<Chosen> {
    let table = exchange.snapshot.routes(config)?;
    let (host, route) = route::select(table, &exchange.view())?;
    Some(Chosen {
        table: table.clone(),
        host,
        route: route.clone(),
    })
}

/// Runs the filters in order. Yields the origin that CORS admits.
async fn filters(
    proxy: &Proxy,
    exchange: &mut Exchange,
    config: &HttpChain,
    chosen: Option<&Chosen>,
) -> Result<Option<HeaderValue>, Stop> {
    let mut origin = None;
    for filter in &config.filters {
        match filter {
            HttpFilter::Rbac(filter) => authorize(exchange, filter)?,
            HttpFilter::Fault => inject(proxy, exchange, chosen).await?,
            HttpFilter::Cors => {
                let Some(policy) = chosen.and_then(|chosen| chosen.route.cors.as_ref()) else {
                    continue;
                };
                let headers = &exchange.head.headers;
                if let Some(response) = cors::preflight(policy, &exchange.head.method, headers) {
                    return Err(Stop::Plain(response.status(), response.headers().clone()));
                }
                origin = cors::admitted(policy, headers);
            }
        }
    }
    Ok(origin)
}

fn authorize(exchange: &Exchange, filter: &crate::model::Rbac) -> Result<(), Stop> {
    let view = exchange.view();
    let tunnel = &exchange.tunnel;
    let facts = rbac::Facts {
        peer: Some(tunnel.peer.uri()),
        source: tunnel.source().ip(),
        remote: exchange.remote,
        destination: tunnel.ip(),
        port: tunnel.authority.port,
        request: Some(&view),
    };
    if let Some(rbac::Verdict::Deny(policy)) = rbac::judge_shadow(filter, &facts) {
        tracing::debug!(
            policy = policy.as_deref().unwrap_or("none"),
            "dry run: would deny"
        );
    }
    match rbac::judge(filter, &facts) {
        rbac::Verdict::Pass => Ok(()),
        rbac::Verdict::Deny(policy) => Err(Stop::Reason(Reason::Denied(policy))),
    }
}

async fn inject(
    proxy: &Proxy,
    exchange: &mut Exchange,
    chosen: Option<&Chosen>,
) -> Result<(), Stop> {
    let Some(policy) = chosen.and_then(|chosen| chosen.route.fault.as_ref()) else {
        return Ok(());
    };
    let plan = fault::plan(policy, &exchange.view(), &mut rand::rng());
    if let Some(delay) = plan.delay {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = proxy.shutdown.forced() => {}
        }
    }
    match plan.abort {
        None => Ok(()),
        Some(Abort::Http(status)) => Err(Stop::Reason(Reason::Fault(status))),
        Some(Abort::Grpc(code)) => {
            exchange.record.grpc = true;
            exchange.record.grpc_status = Some(code);
            Err(Stop::Reason(Reason::Fault(StatusCode::OK)))
        }
    }
}

/// Does what the route says.
async fn act(
    proxy: &Arc<Proxy>,
    mut exchange: Exchange,
    config: &HttpChain,
    chosen: &Chosen,
) -> Response<Download> {
    match &chosen.route.action {
        RouteAction::Forward(forward) => {
            let mut response = forward::forward(proxy, exchange, chosen, forward).await;
            finish_head(config, chosen, response.headers_mut());
            response
        }
        RouteAction::Redirect(redirect) => {
            let location = route::location(redirect, &chosen.route.matches.path, &exchange.view());
            let record = &mut exchange.record;
            record.status = redirect.status.as_u16();
            record.flags = "";
            record.details = "direct_response".into();
            let mut response = plain(exchange.record, config, redirect.status, Bytes::new());
            if let Ok(location) = HeaderValue::from_str(&location) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            local_changes(chosen, response.headers_mut());
            finish_head(config, chosen, response.headers_mut());
            response
        }
        RouteAction::Direct { status, body } => {
            exchange.record.status = status.as_u16();
            exchange.record.flags = "";
            exchange.record.details = "direct_response".into();
            let mut response = direct(exchange.record, config, *status, body);
            local_changes(chosen, response.headers_mut());
            finish_head(config, chosen, response.headers_mut());
            response
        }
    }
}

fn local_changes(chosen: &Chosen, headers: &mut HeaderMap) {
    let no_facts = |_: &crate::format::Format, _: &HeaderMap| String::new();
    for changes in [
        &chosen.route.headers,
        &chosen.host().headers,
        &chosen.table.headers,
    ] {
        route::change_headers(&changes.response, headers, &no_facts);
    }
}

/// `server` and the decorator's operation.
fn finish_head(config: &HttpChain, chosen: &Chosen, headers: &mut HeaderMap) {
    match config.server_mode {
        ServerMode::Overwrite => drop(headers.insert(header::SERVER, config.server.clone())),
        ServerMode::IfAbsent if !headers.contains_key(header::SERVER) => {
            headers.insert(header::SERVER, config.server.clone());
        }
        ServerMode::IfAbsent | ServerMode::PassThrough => {}
    }
    decorate_operation(config, Some(chosen), headers);
}

fn decorate_operation(_: &HttpChain, chosen: Option<&Chosen>, headers: &mut HeaderMap) {
    if let Some(operation) = chosen.and_then(|chosen| chosen.route.operation.as_ref()) {
        headers.insert("x-envoy-decorator-operation", operation.clone());
    }
}
