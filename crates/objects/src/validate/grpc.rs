//! Checks of `GRPCRoute`, in line with the Gateway API's own validation.

use super::{Check, Checked, ensure, invalid, route};
use crate::grpc::{CallPath, GrpcMethodMatch, GrpcRoute, GrpcRule};

/// The Gateway API's limit for the names of services and methods.
const MAX_NAME: usize = 1024;

impl Check for GrpcRoute {
    fn check(&self) -> Checked {
        route::check_parents(&self.spec.parent_refs)?;
        self.spec
            .rules
            .iter()
            .enumerate()
            .try_for_each(|(i, rule)| check_rule(&format!("spec.rules[{i}]"), rule))
    }
}

fn check_rule(at: &str, rule: &GrpcRule) -> Checked {
    route::check_name(at, rule.name.as_ref())?;
    for (i, wanted) in rule.matches.iter().enumerate() {
        let at = format!("{at}.matches[{i}]");
        if let Some(method) = &wanted.method {
            check_method(&format!("{at}.method"), method)?;
        }
        route::check_headers(&at, &wanted.headers)?;
    }
    route::check_filters(&format!("{at}.filters"), &rule.filters)?;
    let of_backends = rule
        .backend_refs
        .iter()
        .flat_map(|backend| &backend.filters);
    for filter in rule.filters.iter().chain(of_backends) {
        ensure(
            !matches!(
                filter.r#type.as_str(),
                "RequestRedirect" | "URLRewrite" | "CORS"
            ),
            format!("{at}.filters"),
            format!("a GRPCRoute has no filter {}", filter.r#type),
        )?;
    }
    route::check_backends(at, &rule.backend_refs)
}

fn check_method(at: &str, wanted: &GrpcMethodMatch) -> Checked {
    ensure(
        wanted.service.is_some() || wanted.method.is_some(),
        at,
        "must name a service, a method, or both",
    )?;
    let parts = [
        ("service", &wanted.service, is_service as fn(&str) -> bool),
        ("method", &wanted.method, is_word),
    ];
    for (field, text, is_name) in parts {
        let Some(text) = text else { continue };
        let at = format!("{at}.{field}");
        ensure(text.len() <= MAX_NAME, at.clone(), "is too long")?;
        match wanted.r#type.as_deref().unwrap_or("Exact") {
            "Exact" => ensure(is_name(text), at, format!("`{text}` is no {field} name"))?,
            "RegularExpression" => route::regular(at, text)?,
            other => return invalid(format!("{at}.type"), route::unknown_type(other, "Exact")),
        }
    }
    // Two that are small enough may be too large together.
    match wanted.path() {
        CallPath::Regex(path) => route::regular(at.to_owned(), &path),
        CallPath::Exact(_) | CallPath::Prefix(_) => Ok(()),
    }
}

/// Words with dots between them.
fn is_service(text: &str) -> bool {
    text.strip_prefix('.')
        .unwrap_or(text)
        .split('.')
        .all(is_word)
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
