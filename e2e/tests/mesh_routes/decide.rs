//! From manifests to what the waypoint decides about a call, without sockets. Used by `main`.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use control_plane::store::Store;
use control_plane::translate::{Mesh, envoy, translate};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use waypoint::filters::cors;
use waypoint::format::Format;
use waypoint::model::listener::ChainKind;
use waypoint::model::route::{Changes, Forward, Route, RouteAction};
use waypoint::model::text::RequestView;
use waypoint::route;
use waypoint::state::{Snapshot, State};

use crate::capture::Resource;
use crate::outcome::{Outcome, join};
use crate::table::{Call, WORLD};

/// Our waypoint's resources for the world and `routes`.
///
/// # Errors
/// When a manifest is refused.
pub fn resources(routes: &str) -> Result<Vec<Resource>> {
    let mut store = Store::default();
    for result in objects::parse(&format!("{WORLD}---\n{routes}")).results {
        let object = result.map_err(|fault| anyhow::anyhow!("{fault}"))?;
        store.apply(objects::Change::Upsert(object));
    }
    let mesh = Mesh::default();
    let index = mesh.index(&store);
    let translation = translate(&index);
    let waypoint = index.waypoints().next().context("the waypoint")?;
    let resources = envoy::translate(&index, &translation, waypoint, &mut Vec::new());
    let of = |type_url: &'static str, bodies: std::collections::BTreeMap<String, Vec<u8>>| {
        bodies.into_iter().map(move |(name, body)| Resource {
            type_url: type_url.to_owned(),
            name,
            body,
        })
    };
    let clusters = of(proto::type_url::CLUSTER, resources.clusters);
    let endpoints = of(proto::type_url::ENDPOINT, resources.endpoints);
    let listeners = of(proto::type_url::LISTENER, resources.listeners);
    Ok(clusters.chain(endpoints).chain(listeners).collect())
}

/// The same, compiled by the waypoint.
///
/// # Errors
/// When a manifest or a resource is refused.
pub fn state(routes: &str) -> Result<State> {
    let mut state = State::default();
    for Resource {
        type_url,
        name,
        body,
    } in resources(routes)?
    {
        let taken = state.upsert(&type_url, &name, &body);
        taken.map_err(anyhow::Error::msg)?;
    }
    Ok(state)
}

/// What the waypoint does with a call.
///
/// # Errors
/// When no chain is for it.
pub fn decide(snapshot: &Snapshot, call: &Call) -> Result<Outcome> {
    let to: SocketAddr = call.to.parse()?;
    let protocols = snapshot.inbound.choose(call.to, Some(to.ip()), to.port());
    let protocols = protocols.with_context(|| format!("no chains for {}", call.to))?;
    let chain = if call.grpc() {
        &protocols.http2
    } else {
        &protocols.http1
    };
    let chain = chain.as_ref().and_then(|name| snapshot.chain(name));
    let Some(ChainKind::Http(chain)) = chain.map(|chain| &chain.kind) else {
        bail!("no HTTP chain for {}", call.to)
    };
    let mut headers = HeaderMap::new();
    for (name, value) in call.headers() {
        let name = HeaderName::from_bytes(name.as_bytes())?;
        headers.append(name, HeaderValue::from_str(value)?);
    }
    let view = RequestView {
        method: call.method(),
        path: call.path,
        authority: call.host(),
        scheme: "http",
        headers: &headers,
    };
    let table = snapshot.routes(chain).context("routes")?;
    let Some((_, found)) = route::select(table, &view) else {
        return Ok(status(StatusCode::NOT_FOUND, &HeaderMap::new()));
    };
    if let Some(policy) = &found.cors {
        let method = Method::from_bytes(call.method().as_bytes())?;
        if let Some(answer) = cors::preflight(policy, &method, &headers) {
            return Ok(status(answer.status(), answer.headers()));
        }
    }
    match &found.action {
        RouteAction::Forward(forward) => forwarded(found, forward, &view, &headers),
        RouteAction::Redirect(redirect) => {
            let mut answer = HeaderMap::new();
            let location = route::location(redirect, &found.matches.path, &view);
            answer.insert("location", HeaderValue::from_str(&location)?);
            change(&found.headers.response, &mut answer);
            Ok(status(redirect.status, &answer))
        }
        RouteAction::Direct { status: code, .. } if call.grpc() => {
            let mut answer = HeaderMap::new();
            let grpc = waypoint::reason::grpc_status(*code);
            answer.insert("grpc-status", HeaderValue::from(grpc));
            Ok(status(StatusCode::OK, &answer))
        }
        RouteAction::Direct { status: code, .. } => Ok(status(*code, &HeaderMap::new())),
    }
}

fn status(code: StatusCode, headers: &HeaderMap) -> Outcome {
    Outcome {
        to: code.as_str().to_owned(),
        answer: texts(headers),
        ..Outcome::default()
    }
}

/// Services with their shares, and the request as the first of them gets it.
fn forwarded(
    found: &Route,
    forward: &Forward,
    view: &RequestView<'_>,
    headers: &HeaderMap,
) -> Result<Outcome> {
    let service = |cluster: &str| {
        let host = cluster.rsplit('|').next().unwrap_or_default();
        host.split('.').next().unwrap_or_default().to_owned()
    };
    let [first, ..] = &forward.targets[..] else {
        bail!("no target")
    };
    let to = match &forward.targets[..] {
        [only] => service(&only.cluster),
        several => {
            let parts = several.iter();
            let parts = parts.map(|one| format!("{}:{}", service(&one.cluster), one.weight));
            parts.collect::<Vec<_>>().join(",")
        }
    };
    let (mut request, mut answer) = (headers.clone(), HeaderMap::new());
    for changes in [&first.headers, &found.headers] {
        change(&changes.request, &mut request);
        change(&changes.response, &mut answer);
    }
    ensure!(forward.retry.is_some(), "no retries");
    let path = match &forward.rewrite {
        Some(rewrite) => route::rewrite(rewrite, &found.matches.path, view.path),
        None => view.path.to_owned(),
    };
    let host = first.host.as_ref().or(forward.host.as_ref());
    let host = host
        .and_then(|host| host.to_str().ok())
        .unwrap_or(view.authority);
    let mut request = texts(&request);
    request.insert("host".into(), host.to_owned());
    Ok(Outcome {
        to,
        path,
        request,
        answer: texts(&answer),
    })
}

fn change(changes: &Changes, headers: &mut HeaderMap) {
    let no_facts = |_: &Format, _: &HeaderMap| String::new();
    route::change_headers(changes, headers, &no_facts);
}

fn texts(headers: &HeaderMap) -> std::collections::BTreeMap<String, String> {
    let mut all = std::collections::BTreeMap::new();
    for (name, value) in headers {
        join(
            &mut all,
            name.as_str(),
            &String::from_utf8_lossy(value.as_bytes()),
        );
    }
    all
}
