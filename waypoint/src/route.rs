//! Where does this request go: pure selection from a route table, and the changes a route asks for.
//! Called by `request`; the random numbers are passed in.

#[cfg(test)]
mod tests;

use crate::format::Format;
use crate::model::route::{
    Changes, Forward, PathMatch, PathRewrite, QueryTest, Redirect, Route, RouteMatch, RouteTable,
    SetMode, WeightedTarget,
};
use crate::model::text::RequestView;
use crate::path::spelling;
use http::header::{HeaderMap, HeaderValue};
use rand::RngExt;
use std::borrow::Cow;
use std::sync::Arc;

/// The route of a request, if there is one, and the place of its virtual host in the table.
pub fn select<'a>(
    table: &'a RouteTable,
    request: &RequestView<'_>,
) -> Option<(usize, &'a Arc<Route>)> {
    let host = virtual_host(table, request.authority)?;
    let route = table.hosts[host]
        .routes
        .iter()
        .find(|route| matches(&route.matches, request))?;
    Some((host, route))
}

/// Exact names before the longest `*.suffix`, before the longest `prefix.*`, before `*`.
fn virtual_host(table: &RouteTable, authority: &str) -> Option<usize> {
    let authority = authority.to_ascii_lowercase();
    let mut best: Option<((u8, usize), usize)> = None;
    for (index, host) in table.hosts.iter().enumerate() {
        for domain in &host.domains {
            let rank = match domain.as_str() {
                exact if exact == authority => (3, exact.len()),
                "*" => (0, 0),
                other => match (other.strip_prefix('*'), other.strip_suffix('*')) {
                    (Some(suffix), _)
                        if authority.len() > suffix.len() && authority.ends_with(suffix) =>
                    {
                        (2, suffix.len())
                    }
                    (None, Some(prefix))
                        if authority.len() > prefix.len() && authority.starts_with(prefix) =>
                    {
                        (1, prefix.len())
                    }
                    _ => continue,
                },
            };
            if best.is_none_or(|(so_far, _)| rank > so_far) {
                best = Some((rank, index));
            }
        }
    }
    best.map(|(_, index)| index)
}

/// Does a request satisfy a route's conditions?
pub fn matches(wanted: &RouteMatch, request: &RequestView<'_>) -> bool {
    path_matches(&wanted.path, request)
        && wanted.headers.iter().all(|header| header.matches(request))
        && wanted
            .query
            .iter()
            .all(|(name, test)| query_matches(name, test, request))
        && (!wanted.grpc || is_grpc(request.headers))
}

fn path_matches(wanted: &PathMatch, request: &RequestView<'_>) -> bool {
    let spelled = RequestView {
        path: &spelling::upper(request.path),
        ..*request
    };
    let path = spelled.path_only();
    match wanted {
        PathMatch::Prefix(prefix, sensitive) => starts(spelled.path, prefix, *sensitive),
        PathMatch::Exact(exact, true) => path == exact,
        PathMatch::Exact(exact, false) => path.eq_ignore_ascii_case(exact),
        PathMatch::Separated(prefix, sensitive) => {
            starts(path, prefix, *sensitive)
                && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
        }
        PathMatch::Regex(regex) => spelling::any(request.path_only(), |path| regex.is_match(path)),
    }
}

fn starts(text: &str, prefix: &str, sensitive: bool) -> bool {
    match text.as_bytes().get(..prefix.len()) {
        Some(head) if sensitive => head == prefix.as_bytes(),
        Some(head) => head.eq_ignore_ascii_case(prefix.as_bytes()),
        None => false,
    }
}

fn query_matches(name: &str, test: &QueryTest, request: &RequestView<'_>) -> bool {
    match (test, request.query(name)) {
        (QueryTest::Present(wanted), value) => value.is_some() == *wanted,
        (QueryTest::Value(test), Some(value)) => test.matches(value),
        (QueryTest::Value(_), None) => false,
    }
}

/// `application/grpc`, with or without a suffix.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(http::header::CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    kind.starts_with(b"application/grpc") && matches!(kind.get(16), None | Some(b'+' | b';' | b' '))
}

/// Which of the weighted clusters.
pub fn pick_target<'a>(forward: &'a Forward, rng: &mut impl RngExt) -> Option<&'a WeightedTarget> {
    if let [only] = forward.targets.as_slice() {
        return Some(only);
    }
    let index = weighted(forward.targets.iter().map(|target| target.weight), rng)?;
    forward.targets.get(index)
}

/// An index drawn by weight; `None` if all weights are 0.
pub fn weighted(
    weights: impl Iterator<Item = u32> + Clone,
    rng: &mut impl RngExt,
) -> Option<usize> {
    let sum: u64 = weights.clone().map(u64::from).sum();
    if sum == 0 {
        return None;
    }
    let mut drawn = rng.random_range(0..sum);
    for (index, weight) in weights.enumerate() {
        if drawn < u64::from(weight) {
            return Some(index);
        }
        drawn -= u64::from(weight);
    }
    None
}

/// The path (with query) after a rewrite, given what matched.
pub fn rewrite(rewrite: &PathRewrite, matched: &PathMatch, target: &str) -> String {
    let end = target.find(['?', '#']).unwrap_or(target.len());
    let (path, rest) = target.split_at(end);
    let new = match rewrite {
        PathRewrite::Full(new) if new.contains('?') => return new.clone(),
        PathRewrite::Full(new) => Cow::Borrowed(new.as_str()),
        PathRewrite::Regex(regex, substitution) => {
            let path = spelling::that(path, |path| regex.is_match(path));
            let new = regex.replace_all(&path, substitution.as_str());
            Cow::Owned(new.into_owned())
        }
        PathRewrite::Prefix(prefix) => Cow::Owned(match matched {
            PathMatch::Prefix(old, _) | PathMatch::Separated(old, _) => {
                format!("{prefix}{}", path.get(old.len()..).unwrap_or_default())
            }
            // A regular expression matches the whole path too.
            PathMatch::Exact(..) | PathMatch::Regex(_) => prefix.clone(),
        }),
    };
    format!("{new}{rest}")
}

/// The `location` of a redirect.
pub fn location(redirect: &Redirect, matched: &PathMatch, request: &RequestView<'_>) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(request.scheme);
    let (name, port) = split_port(request.authority);
    let host = redirect.host.as_deref().unwrap_or(name);
    // A port is kept only while the scheme is: 80 means nothing to https.
    let port = match (redirect.port, &redirect.scheme) {
        (Some(port), _) => Some(port),
        (None, None) if redirect.host.is_none() => port,
        _ => None,
    };
    let default = if scheme == "https" { 443 } else { 80 };
    let port = port
        .filter(|port| *port != default)
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    let target = match &redirect.path {
        Some(change) => rewrite(change, matched, request.path),
        None => request.path.to_owned(),
    };
    let target = match target.split_once('?') {
        Some((path, _)) if redirect.strip_query => path,
        _ => &target,
    };
    format!("{scheme}://{host}{port}{target}")
}

/// Name and port of an authority; a v6 address keeps its brackets.
fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((name, port))
            if !name.ends_with(':') && (!name.contains(':') || name.ends_with(']')) =>
        {
            (name, port.parse().ok())
        }
        _ => (authority, None),
    }
}

/// Applies header changes: removals, then additions.
pub fn change_headers(
    changes: &Changes,
    headers: &mut HeaderMap,
    facts: &dyn Fn(&Format, &HeaderMap) -> String,
) {
    for name in &changes.remove {
        headers.remove(name);
    }
    for set in &changes.set {
        let text = match set.value.fixed() {
            Some(text) => Cow::Borrowed(text),
            None => Cow::Owned(facts(&set.value, headers)),
        };
        let Ok(value) = HeaderValue::from_str(&text) else {
            continue;
        };
        if value.is_empty() && !set.keep_empty {
            continue;
        }
        let present = headers.contains_key(&set.name);
        match set.mode {
            SetMode::Append => drop(headers.append(set.name.clone(), value)),
            SetMode::IfAbsent if present => {}
            SetMode::OverwriteIfPresent if !present => {}
            SetMode::IfAbsent | SetMode::Overwrite | SetMode::OverwriteIfPresent => {
                headers.insert(set.name.clone(), value);
            }
        }
    }
}
