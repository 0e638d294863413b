//! Checks of the `CORS` filter, in line with the Gateway API's own validation.

use super::{Checked, ensure, route::is_token};
use crate::route::CorsFilter;

/// The Gateway API's limit for origins and headers.
const MAX_ENTRIES: usize = 64;
const MAX_ORIGIN: usize = 253;

pub(super) fn check(at: &str, policy: &CorsFilter) -> Checked {
    check_list(at, "allowOrigins", &policy.allow_origins, is_origin)?;
    check_list(at, "allowMethods", &policy.allow_methods, is_token)?;
    check_list(at, "allowHeaders", &policy.allow_headers, is_token)?;
    check_list(at, "exposeHeaders", &policy.expose_headers, is_token)?;
    ensure(
        policy.max_age != Some(0),
        format!("{at}.maxAge"),
        "must be at least 1",
    )
}

fn check_list(at: &str, field: &str, list: &[String], is_good: fn(&str) -> bool) -> Checked {
    ensure(
        list.len() <= MAX_ENTRIES,
        format!("{at}.{field}"),
        format!("must be at most {MAX_ENTRIES}"),
    )?;
    ensure(
        list.len() < 2 || !list.iter().any(|entry| entry == "*"),
        format!("{at}.{field}"),
        "`*` must stand alone",
    )?;
    for (i, entry) in list.iter().enumerate() {
        ensure(
            entry == "*" || is_good(entry),
            format!("{at}.{field}[{i}]"),
            format!("`{entry}` is not allowed here"),
        )?;
    }
    Ok(())
}

/// `http://` or `https://`, a host that is a name, `*` or `*.` with a name, and perhaps a port.
fn is_origin(text: &str) -> bool {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    let Some(rest) = rest.filter(|_| text.len() <= MAX_ORIGIN) else {
        return false;
    };
    let (host, port) = match rest.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (rest, None),
    };
    let name = host.strip_prefix("*.").unwrap_or(host);
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    (host == "*" || name.split('.').all(label))
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}
