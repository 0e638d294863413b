//! Which requests a rule wants, and which rule goes first.

use std::borrow::Cow;

use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, QueryParameterMatcher, RouteMatch, header_matcher::HeaderMatchSpecifier,
    query_parameter_matcher::QueryParameterMatchSpecifier, route_match::PathSpecifier,
};
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use objects::{CallPath, GrpcMethodMatch, HeaderMatch, RouteMatch as Wanted};

use super::super::{super::routes::Match, pack};

/// How specific a match is; the greater goes first. Of HTTP: exact path, longer prefix, expression, any path, then method,
/// number of headers, number of query parameters. Of gRPC: characters of the service, of the method, number of headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank([usize; 5]);

/// The path that a match asks for.
pub(super) enum Path<'a> {
    Exact(Cow<'a, str>),
    Prefix(Cow<'a, str>),
    Regex(Cow<'a, str>),
}

pub(super) fn path(wanted: Match<'_>) -> Path<'_> {
    match wanted {
        Match::Http(wanted) => of_http(wanted),
        Match::Grpc(wanted) => match &wanted.method {
            None => Path::Prefix("/".into()),
            Some(method) => of_grpc(method),
        },
    }
}

fn of_http(wanted: &Wanted) -> Path<'_> {
    let Some(path) = &wanted.path else {
        return Path::Prefix("/".into());
    };
    let value = Cow::from(path.value.as_deref().unwrap_or("/"));
    match path.r#type.as_deref() {
        Some("Exact") => Path::Exact(value),
        Some("RegularExpression") => Path::Regex(value),
        _ => Path::Prefix(value),
    }
}

fn of_grpc(wanted: &GrpcMethodMatch) -> Path<'static> {
    match wanted.path() {
        CallPath::Exact(path) => Path::Exact(path.into()),
        CallPath::Prefix(path) => Path::Prefix(path.into()),
        CallPath::Regex(path) => Path::Regex(path.into()),
    }
}

pub(super) fn rank(wanted: Match<'_>) -> Rank {
    match wanted {
        Match::Http(wanted) => rank_of_http(wanted),
        Match::Grpc(wanted) => {
            let length = |text: Option<&String>| text.map_or(0, String::len);
            let method = wanted.method.as_ref();
            Rank([
                length(method.and_then(|method| method.service.as_ref())),
                length(method.and_then(|method| method.method.as_ref())),
                first_of_name(&wanted.headers).len(),
                0,
                0,
            ])
        }
    }
}

fn rank_of_http(wanted: &Wanted) -> Rank {
    let (kind, length) = match of_http(wanted) {
        Path::Exact(value) => (3, value.len()),
        Path::Regex(value) => (1, value.len()),
        // A `/` at its end is no part of a prefix.
        Path::Prefix(value) => match value.trim_end_matches('/') {
            // Every path: before an expression it would leave that nothing.
            "" => (0, 0),
            value => (2, value.len()),
        },
    };
    Rank([
        kind,
        length,
        usize::from(wanted.method.is_some()),
        first_of_name(&wanted.headers).len(),
        wanted.query_params.len(),
    ])
}

/// Whether a prefix is to be replaced where the match asks for none.
pub(in super::super::super) fn needs_prefix(wanted: Match<'_>) -> bool {
    !matches!(path(wanted), Path::Prefix(_))
}

pub(super) fn translate(wanted: Match<'_>) -> RouteMatch {
    let specifier = match path(wanted) {
        Path::Exact(value) => PathSpecifier::Path(value.into()),
        Path::Regex(value) => PathSpecifier::SafeRegex(pack::regex_matcher(value)),
        // Envoy's separated prefix takes no `/` at its end, and `/` itself is a plain prefix.
        Path::Prefix(value) => match value.trim_end_matches('/') {
            "" => PathSpecifier::Prefix("/".into()),
            value => PathSpecifier::PathSeparatedPrefix(value.into()),
        },
    };
    let (headers, http) = match wanted {
        Match::Http(wanted) => (&wanted.headers[..], Some(wanted)),
        Match::Grpc(wanted) => (&wanted.headers[..], None),
    };
    let mut matchers: Vec<HeaderMatcher> = first_of_name(headers)
        .into_iter()
        .map(|(name, header)| matcher(&name, header.r#type.as_deref(), &header.value))
        .collect();
    let method = http.and_then(|http| http.method.as_ref());
    matchers.extend(method.map(|method| matcher(":method", None, method)));
    RouteMatch {
        path_specifier: Some(specifier),
        case_sensitive: pack::flag(true),
        headers: matchers,
        query_parameters: http.map(queries).unwrap_or_default(),
        ..RouteMatch::default()
    }
}

/// Headers by name in lower case and in order; of several entries with one name the first counts.
fn first_of_name(headers: &[HeaderMatch]) -> std::collections::BTreeMap<String, &HeaderMatch> {
    let mut named = std::collections::BTreeMap::new();
    for header in headers {
        named
            .entry(header.name.to_ascii_lowercase())
            .or_insert(header);
    }
    named
}

fn queries(wanted: &Wanted) -> Vec<QueryParameterMatcher> {
    let queries = wanted.query_params.iter().enumerate();
    let first = queries.filter(|(i, query)| {
        let before = &wanted.query_params[..*i];
        !before.iter().any(|other| other.name == query.name)
    });
    first
        .map(|(_, query)| QueryParameterMatcher {
            name: query.name.clone(),
            query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(text(
                query.r#type.as_deref(),
                &query.value,
            ))),
        })
        .collect()
}

fn matcher(name: &str, kind: Option<&str>, value: &str) -> HeaderMatcher {
    HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(text(kind, value))),
        ..HeaderMatcher::default()
    }
}

fn text(kind: Option<&str>, value: &str) -> StringMatcher {
    if kind == Some("RegularExpression") {
        pack::regex(value)
    } else {
        pack::exact(value)
    }
}
