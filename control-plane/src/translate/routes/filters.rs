//! Which filters can be carried out where they stand.

use objects::{HeaderModifier, HeaderValue, RouteFilter};

/// The first filter of a rule that cannot be carried out: the rule must not run without it.
pub(in super::super) fn unsupported(filters: &[RouteFilter]) -> Option<String> {
    filters
        .iter()
        .find_map(|filter| match filter.r#type.as_str() {
            kind @ "RequestHeaderModifier" => {
                changes_host(kind, filter.request_header_modifier.as_ref()?, false)
            }
            kind @ "ResponseHeaderModifier" => {
                changes_host(kind, filter.response_header_modifier.as_ref()?, true)
            }
            "RequestMirror" | "RequestRedirect" | "URLRewrite" | "CORS" => None,
            other => Some(other.to_owned()),
        })
}

/// The same for the filters of a backend, of which fewer can be carried out.
pub(in super::super) fn of_backend_unsupported(filters: &[RouteFilter]) -> Option<String> {
    unsupported(filters).or_else(|| {
        let beyond = |filter: &&RouteFilter| {
            let path = filter
                .url_rewrite
                .as_ref()
                .is_some_and(|rewrite| rewrite.path.is_some());
            path || matches!(
                filter.r#type.as_str(),
                "RequestMirror" | "RequestRedirect" | "CORS"
            )
        };
        filters
            .iter()
            .find(beyond)
            .map(|filter| filter.r#type.clone())
    })
}

/// A change of `Host` that no proxy can make: an answer has none, and a request exactly one.
fn changes_host(kind: &str, modifier: &HeaderModifier, answers: bool) -> Option<String> {
    let of = |headers: &[HeaderValue]| headers.iter().any(|header| is_host(&header.name));
    let changes = of(&modifier.add)
        || modifier.remove.iter().any(|name| is_host(name))
        || answers && of(&modifier.set);
    changes.then(|| format!("{kind} for Host other than `set`"))
}

/// Whether a header is the authority of a request.
pub(in super::super) fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host")
}
