//! Which requests a rule wants, and which rule goes first.

use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, QueryParameterMatcher, RouteMatch, header_matcher::HeaderMatchSpecifier,
    query_parameter_matcher::QueryParameterMatchSpecifier, route_match::PathSpecifier,
};
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use objects::RouteMatch as Wanted;

use super::super::pack;

/// How specific a match is; the greater goes first: exact path, longer prefix, expression, then method, number of
/// headers, number of query parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    path: u8,
    length: usize,
    method: bool,
    headers: usize,
    queries: usize,
}

/// The path that a match asks for.
pub(super) enum Path<'a> {
    Exact(&'a str),
    Prefix(&'a str),
    Regex(&'a str),
}

pub(super) fn path(wanted: Option<&Wanted>) -> Path<'_> {
    let Some(path) = wanted.and_then(|wanted| wanted.path.as_ref()) else {
        return Path::Prefix("/");
    };
    let value = path.value.as_deref().unwrap_or("/");
    match path.r#type.as_deref() {
        Some("Exact") => Path::Exact(value),
        Some("RegularExpression") => Path::Regex(value),
        _ => Path::Prefix(value),
    }
}

pub(super) fn rank(wanted: Option<&Wanted>) -> Rank {
    let (path, length) = match path(wanted) {
        Path::Exact(value) => (3, value.len()),
        Path::Prefix(value) => (2, value.len()),
        Path::Regex(value) => (1, value.len()),
    };
    Rank {
        path,
        length,
        method: wanted.is_some_and(|wanted| wanted.method.is_some()),
        headers: wanted.map_or(0, |wanted| wanted.headers.len()),
        queries: wanted.map_or(0, |wanted| wanted.query_params.len()),
    }
}

pub(super) fn translate(wanted: Option<&Wanted>) -> RouteMatch {
    let specifier = match path(wanted) {
        Path::Exact(value) => PathSpecifier::Path(value.into()),
        Path::Regex(value) => PathSpecifier::SafeRegex(pack::regex_matcher(value)),
        // Envoy's separated prefix takes no `/` at its end, and `/` itself is a plain prefix.
        Path::Prefix(value) => match value.trim_end_matches('/') {
            "" => PathSpecifier::Prefix("/".into()),
            value => PathSpecifier::PathSeparatedPrefix(value.into()),
        },
    };
    let mut headers: Vec<HeaderMatcher> = Vec::new();
    let mut query_parameters = Vec::new();
    if let Some(wanted) = wanted {
        headers.extend(
            wanted
                .method
                .iter()
                .map(|method| header(":method", None, method)),
        );
        headers.extend(
            wanted
                .headers
                .iter()
                .map(|h| header(&h.name, h.r#type.as_deref(), &h.value)),
        );
        query_parameters.extend(
            wanted
                .query_params
                .iter()
                .map(|query| QueryParameterMatcher {
                    name: query.name.clone(),
                    query_parameter_match_specifier: Some(
                        QueryParameterMatchSpecifier::StringMatch(text(
                            query.r#type.as_deref(),
                            &query.value,
                        )),
                    ),
                }),
        );
    }
    RouteMatch {
        path_specifier: Some(specifier),
        case_sensitive: pack::flag(true),
        headers,
        query_parameters,
        ..RouteMatch::default()
    }
}

fn header(name: &str, kind: Option<&str>, value: &str) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_ascii_lowercase(),
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
