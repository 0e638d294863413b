//! Checks of `HTTPRoute`, in line with the Gateway API's own validation.

use super::{Check, Checked, cors, duration, ensure, invalid, is_subdomain};
use crate::route::{
    BackendRef, HeaderMatch, HttpRoute, Mirror, ParentRef, PathModifier, Redirect, RouteFilter,
    RouteMatch, RouteRule,
};

/// The Gateway API's limit for regular expressions and values.
const MAX_VALUE: usize = 4096;
/// Its limit for paths.
const MAX_PATH: usize = 1024;
/// Largest compiled regular expression in bytes. What waypoints take: one that is larger would cost them everything
/// else that they are told.
const REGEX_LIMIT: usize = 1 << 20;
/// Filters of which a rule may have one.
const ONCE: [&str; 5] = [
    "RequestHeaderModifier",
    "ResponseHeaderModifier",
    "RequestRedirect",
    "URLRewrite",
    "CORS",
];
/// Its limit for backends of one rule.
const MAX_BACKENDS: usize = 16;

impl Check for HttpRoute {
    fn check(&self) -> Checked {
        check_parents(&self.spec.parent_refs)?;
        self.spec
            .rules
            .iter()
            .enumerate()
            .try_for_each(|(i, rule)| check_rule(&format!("spec.rules[{i}]"), rule))
    }
}

pub(super) fn check_parents(parents: &[ParentRef]) -> Checked {
    for (i, ParentRef { name, .. }) in parents.iter().enumerate() {
        ensure(
            !name.is_empty(),
            format!("spec.parentRefs[{i}].name"),
            "is missing",
        )?;
    }
    Ok(())
}

/// It stands in logs.
pub(super) fn check_name(at: &str, name: Option<&String>) -> Checked {
    let Some(name) = name else { return Ok(()) };
    ensure(
        is_subdomain(name),
        format!("{at}.name"),
        format!("`{name}` must be lower case letters, digits, `-` and `.`"),
    )
}

fn check_rule(at: &str, rule: &RouteRule) -> Checked {
    check_name(at, rule.name.as_ref())?;
    for (i, wanted) in rule.matches.iter().enumerate() {
        check_match(&format!("{at}.matches[{i}]"), wanted)?;
    }
    check_filters(&format!("{at}.filters"), &rule.filters)?;
    check_backends(at, &rule.backend_refs)?;
    if let Some(timeouts) = &rule.timeouts {
        check_duration(format!("{at}.timeouts.request"), timeouts.request.as_ref())?;
        check_duration(
            format!("{at}.timeouts.backendRequest"),
            timeouts.backend_request.as_ref(),
        )?;
    }
    if let Some(retry) = &rule.retry {
        check_duration(format!("{at}.retry.backoff"), retry.backoff.as_ref())?;
        for (i, code) in retry.codes.iter().enumerate() {
            let good = (400..600).contains(code);
            ensure(
                good,
                format!("{at}.retry.codes[{i}]"),
                format!("{code} must be 400 to 599"),
            )?;
        }
    }
    Ok(())
}

/// Filters of a rule or a backend. Of those that change one thing there may be one each: which of two would count?
pub(super) fn check_filters(at: &str, filters: &[RouteFilter]) -> Checked {
    for (i, filter) in filters.iter().enumerate() {
        check_filter(&format!("{at}[{i}]"), filter)?;
        let twice = filters[..i]
            .iter()
            .any(|other| other.r#type == filter.r#type);
        ensure(
            !twice || !ONCE.contains(&filter.r#type.as_str()),
            format!("{at}[{i}].type"),
            format!("{} is there twice", filter.r#type),
        )?;
    }
    Ok(())
}

pub(super) fn check_backends(at: &str, backends: &[BackendRef]) -> Checked {
    ensure(
        backends.len() <= MAX_BACKENDS,
        format!("{at}.backendRefs"),
        format!("must be at most {MAX_BACKENDS}"),
    )?;
    for (i, backend) in backends.iter().enumerate() {
        let at = format!("{at}.backendRefs[{i}]");
        check_backend(&at, backend)?;
        check_filters(&format!("{at}.filters"), &backend.filters)?;
    }
    Ok(())
}

fn check_match(at: &str, wanted: &RouteMatch) -> Checked {
    if let Some(path) = &wanted.path {
        let value = path.value.as_deref().unwrap_or("/");
        match path.r#type.as_deref().unwrap_or("PathPrefix") {
            "RegularExpression" => regular(format!("{at}.path.value"), value)?,
            "PathPrefix" | "Exact" => plain_path(&format!("{at}.path.value"), value)?,
            other => {
                return invalid(
                    format!("{at}.path.type"),
                    unknown_type(other, "PathPrefix, Exact"),
                );
            }
        }
    }
    check_headers(at, &wanted.headers)?;
    for query in &wanted.query_params {
        let at = format!("{at}.queryParams");
        check_value(&at, query.r#type.as_deref(), &query.name, &query.value)?;
    }
    match &wanted.method {
        Some(method) => ensure(
            is_token(method),
            format!("{at}.method"),
            format!("`{method}` is no method"),
        ),
        None => Ok(()),
    }
}

pub(super) fn check_headers(at: &str, headers: &[HeaderMatch]) -> Checked {
    let at = format!("{at}.headers");
    headers.iter().try_for_each(|header| {
        check_value(&at, header.r#type.as_deref(), &header.name, &header.value)
    })
}

fn check_value(at: &str, kind: Option<&str>, name: &str, value: &str) -> Checked {
    ensure(
        is_token(name),
        format!("{at}.name"),
        format!("`{name}` is no valid name"),
    )?;
    match kind.unwrap_or("Exact") {
        "Exact" => ensure(
            value.len() <= MAX_VALUE,
            format!("{at}.value"),
            "is too long",
        ),
        "RegularExpression" => regular(format!("{at}.value"), value),
        other => invalid(format!("{at}.type"), unknown_type(other, "Exact")),
    }
}

pub(super) fn unknown_type(kind: &str, others: &str) -> String {
    format!("`{kind}` must be {others} or RegularExpression")
}

/// The Gateway API's rule: only what can stand in a path of a request, in the form that it has there.
fn plain_path(at: &str, value: &str) -> Checked {
    ensure(
        value.starts_with('/'),
        at,
        format!("`{value}` must begin with `/`"),
    )?;
    ensure(value.len() <= MAX_PATH, at, "is too long")?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@%".contains(&b);
    ensure(
        value.bytes().all(plain),
        at,
        format!("`{value}` holds a character that no path of a request has"),
    )
}

/// It must be good by itself (its brackets could close ours) and as waypoints use it, for the whole text.
pub(super) fn regular(at: String, pattern: &str) -> Checked {
    ensure(pattern.len() <= MAX_VALUE, at.clone(), "is too long")?;
    let build = |text: &str| {
        let mut builder = regex::RegexBuilder::new(text);
        builder.size_limit(REGEX_LIMIT).build()
    };
    match build(pattern).and_then(|_| build(&format!("^(?:{pattern})$"))) {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = error.to_string();
            let last = text
                .lines()
                .last()
                .unwrap_or("bad pattern")
                .trim()
                .to_owned();
            invalid(at, format!("`{pattern}` is no regular expression: {last}"))
        }
    }
}

/// A token of RFC 9110 §5.6.2, as header names and methods are.
pub(super) fn is_token(text: &str) -> bool {
    let mark = |b: u8| b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty()
        && text.len() <= 256
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || mark(b))
}

/// The member that `type` speaks of must be there, and no other: a redirect that is not there would forward.
fn check_members(at: &str, filter: &RouteFilter) -> Checked {
    let members = [
        (
            "RequestHeaderModifier",
            "requestHeaderModifier",
            filter.request_header_modifier.is_some(),
        ),
        (
            "ResponseHeaderModifier",
            "responseHeaderModifier",
            filter.response_header_modifier.is_some(),
        ),
        (
            "RequestMirror",
            "requestMirror",
            filter.request_mirror.is_some(),
        ),
        (
            "RequestRedirect",
            "requestRedirect",
            filter.request_redirect.is_some(),
        ),
        ("URLRewrite", "urlRewrite", filter.url_rewrite.is_some()),
        ("CORS", "cors", filter.cors.is_some()),
    ];
    for (kind, member, present) in members {
        let wanted = filter.r#type == kind;
        ensure(
            present || !wanted,
            format!("{at}.{member}"),
            format!("is missing for type {kind}"),
        )?;
        ensure(
            wanted || !present,
            format!("{at}.{member}"),
            format!("must not be set for type `{}`", filter.r#type),
        )?;
    }
    Ok(())
}

/// A host name that requests are sent to.
fn host(at: String, name: Option<&String>) -> Checked {
    let Some(name) = name else { return Ok(()) };
    ensure(
        is_subdomain(name),
        at,
        format!("`{name}` must be lower case letters, digits, `-` and `.`"),
    )
}

fn check_filter(at: &str, filter: &RouteFilter) -> Checked {
    check_members(at, filter)?;
    for (name, modifier) in [
        ("requestHeaderModifier", &filter.request_header_modifier),
        ("responseHeaderModifier", &filter.response_header_modifier),
    ] {
        let Some(modifier) = modifier else { continue };
        let names = modifier
            .set
            .iter()
            .chain(&modifier.add)
            .map(|h| &h.name)
            .chain(&modifier.remove);
        for header in names {
            ensure(
                is_token(header),
                format!("{at}.{name}"),
                format!("`{header}` is no header name"),
            )?;
        }
        let values = modifier.set.iter().chain(&modifier.add).map(|h| &h.value);
        for value in values {
            let clean = value
                .bytes()
                .all(|b| b == b'\t' || (0x20..0x7f).contains(&b));
            ensure(
                clean && value.len() <= MAX_VALUE,
                format!("{at}.{name}"),
                "a header value may hold only visible ASCII characters, and must not be too long",
            )?;
        }
    }
    if let Some(redirect) = &filter.request_redirect {
        check_redirect(&format!("{at}.requestRedirect"), redirect)?;
    }
    if let Some(rewrite) = &filter.url_rewrite {
        host(
            format!("{at}.urlRewrite.hostname"),
            rewrite.hostname.as_ref(),
        )?;
        if let Some(path) = &rewrite.path {
            check_modifier(&format!("{at}.urlRewrite.path"), path)?;
        }
    }
    if let Some(policy) = &filter.cors {
        cors::check(&format!("{at}.cors"), policy)?;
    }
    match &filter.request_mirror {
        Some(mirror) => check_mirror(&format!("{at}.requestMirror"), mirror),
        None => Ok(()),
    }
}

fn check_redirect(at: &str, redirect: &Redirect) -> Checked {
    let code = redirect.status_code.unwrap_or(302);
    let good = matches!(code, 301 | 302 | 303 | 307 | 308);
    ensure(
        good,
        format!("{at}.statusCode"),
        format!("{code} must be 301, 302, 303, 307 or 308"),
    )?;
    if let Some(scheme) = &redirect.scheme {
        let good = matches!(scheme.as_str(), "http" | "https");
        ensure(
            good,
            format!("{at}.scheme"),
            format!("`{scheme}` must be http or https"),
        )?;
    }
    host(format!("{at}.hostname"), redirect.hostname.as_ref())?;
    redirect
        .path
        .as_ref()
        .map_or(Ok(()), |path| check_modifier(&format!("{at}.path"), path))
}

fn check_modifier(at: &str, path: &PathModifier) -> Checked {
    let (field, value) = match path.r#type.as_str() {
        "ReplaceFullPath" => ("replaceFullPath", &path.replace_full_path),
        "ReplacePrefixMatch" => ("replacePrefixMatch", &path.replace_prefix_match),
        other => {
            return invalid(
                format!("{at}.type"),
                format!("`{other}` must be ReplaceFullPath or ReplacePrefixMatch"),
            );
        }
    };
    let at = format!("{at}.{field}");
    match value.as_deref() {
        None => invalid(at, "is missing"),
        // A prefix may be taken off, and leaves a `/`.
        Some("") if field == "replacePrefixMatch" => Ok(()),
        // It becomes part of a request line or of a `location`, where other text could name another host.
        Some(value) if value.starts_with("//") => invalid(
            at,
            format!("`{value}` must not begin with `//`, which names a host"),
        ),
        Some(value) => plain_path(&at, value),
    }
}

fn check_mirror(at: &str, mirror: &Mirror) -> Checked {
    check_backend(&format!("{at}.backendRef"), &mirror.backend_ref)?;
    ensure(
        mirror.percent.is_none_or(|p| p <= 100),
        format!("{at}.percent"),
        "must be 0 to 100",
    )?;
    let Some(fraction) = &mirror.fraction else {
        return Ok(());
    };
    ensure(
        mirror.percent.is_none(),
        format!("{at}.fraction"),
        "must not be set together with percent",
    )?;
    let denominator = fraction.denominator.unwrap_or(100);
    let good = denominator > 0 && fraction.numerator <= denominator;
    ensure(good, format!("{at}.fraction"), "must be between 0 and 1")
}

fn check_backend(at: &str, backend: &BackendRef) -> Checked {
    ensure(!backend.name.is_empty(), format!("{at}.name"), "is missing")?;
    let service = backend.kind.as_deref().unwrap_or("Service") == "Service";
    ensure(
        !service || backend.port.is_some(),
        format!("{at}.port"),
        "is required for a Service",
    )?;
    let weight = backend.weight.unwrap_or(1);
    ensure(
        weight <= 1_000_000,
        format!("{at}.weight"),
        format!("{weight} must be 0 to 1000000"),
    )
}

fn check_duration(at: String, text: Option<&String>) -> Checked {
    let Some(text) = text else { return Ok(()) };
    ensure(
        duration(text).is_some(),
        at,
        format!("`{text}` is no duration such as `5s` or `1m30s`"),
    )
}
