//! The head of a request as it goes up: time limit, header changes, path and authority.

use crate::format::{Facts, Format};
use crate::model::route::{Forward, WeightedTarget};
use crate::request::{Chosen, Exchange};
use crate::route;
use http::Uri;
use http::header::{self, HeaderMap, HeaderValue};
use std::time::Duration;

/// The route's limit, or the gRPC client's where that is heeded.
pub fn time_limit(exchange: &Exchange, forward: &Forward) -> Option<Duration> {
    let (true, Some(ceiling)) = (exchange.record.grpc, forward.max_grpc_timeout) else {
        return forward.timeout;
    };
    let asked = exchange
        .head
        .headers
        .get("grpc-timeout")
        .and_then(|value| value.to_str().ok())
        .and_then(grpc_timeout);
    let ceiling = Some(ceiling).filter(|time| !time.is_zero());
    match (asked, ceiling) {
        (Some(asked), Some(ceiling)) => Some(asked.min(ceiling)),
        (asked, ceiling) => asked.or(ceiling),
    }
}

/// At most eight digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let n: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
    .filter(|time| !time.is_zero())
}

/// Header changes, path and authority of the request, in Envoy's order.
pub fn change_request(
    exchange: &mut Exchange,
    chosen: &Chosen,
    forward: &Forward,
    target: &WeightedTarget,
    timeout: Option<Duration>,
) {
    let per_try = forward
        .retry
        .as_ref()
        .and_then(|retry| retry.per_try_timeout);
    if let Some(limit) = per_try.or(timeout) {
        let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        exchange
            .head
            .headers
            .insert("x-envoy-expected-rq-timeout-ms", HeaderValue::from(millis));
    }
    let mut headers = std::mem::take(&mut exchange.head.headers);
    {
        let record = &exchange.record;
        let facts = |format: &Format, _: &HeaderMap| format.write(&**record as &dyn Facts, "");
        for changes in [
            &target.headers,
            &chosen.route.headers,
            &chosen.host().headers,
            &chosen.table.headers,
        ] {
            route::change_headers(&changes.request, &mut headers, &facts);
        }
    }
    let host = target.host.as_ref().or(forward.host.as_ref());
    if let Some(host) = host.and_then(|host| host.to_str().ok()) {
        if forward.append_forwarded_host
            && let Ok(old) = HeaderValue::from_str(&exchange.authority)
        {
            headers.append("x-forwarded-host", old);
        }
        exchange.authority = host.to_owned();
    }
    if let Some(rewrite) = &forward.rewrite {
        let new = route::rewrite(rewrite, &chosen.route.matches.path, &exchange.target);
        if let Ok(old) = HeaderValue::from_str(&exchange.target) {
            headers.insert("x-envoy-original-path", old);
        }
        exchange.target = new;
    }
    exchange.head.headers = headers;
}

/// Method, URI and headers for one protocol; `None` if they cannot be written.
pub fn request_head(exchange: &Exchange, http2: bool) -> Option<(http::Method, Uri, HeaderMap)> {
    let mut headers = exchange.head.headers.clone();
    let uri = if http2 {
        let parts = Uri::builder()
            .scheme("http")
            .authority(exchange.authority.as_str());
        parts
            .path_and_query(exchange.target.as_str())
            .build()
            .ok()?
    } else {
        headers.insert(
            header::HOST,
            HeaderValue::from_str(&exchange.authority).ok()?,
        );
        join_crumbs(&mut headers);
        // Without a word about it, hyper takes a GET for one without a body.
        if exchange.upload.ended_at().is_none() && !headers.contains_key(header::CONTENT_LENGTH) {
            let chunked = HeaderValue::from_static("chunked");
            headers.insert(header::TRANSFER_ENCODING, chunked);
        }
        exchange.target.parse().ok()?
    };
    if exchange.upgrade.is_some() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    Some((exchange.head.method.clone(), uri, headers))
}

/// HTTP/2 may send a cookie in pieces; HTTP/1.1 has one (RFC 9113, section 8.2.3).
fn join_crumbs(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if crumbs.len() < 2 {
        return;
    }
    if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crumbs_of_a_cookie_become_one() {
        let mut headers = HeaderMap::new();
        for crumb in ["a=1", "b=2; c=3", "d=4"] {
            headers.append(header::COOKIE, HeaderValue::from_static(crumb));
        }
        join_crumbs(&mut headers);
        let cookies: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3; d=4"]);
    }
}
