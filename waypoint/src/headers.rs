//! Headers of one hop, headers that a client may not set, and headers that Envoy adds. Called by `request` and
//! `forward`.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use rand::RngExt;
use std::net::IpAddr;

/// Takes away what a client may not tell, and adds what Envoy adds.
pub fn clean_headers(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    headers.remove(header::HOST);
    headers.remove("x-forwarded-client-cert");
    let control: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-envoy-"))
        .cloned()
        .collect();
    for name in control {
        headers.remove(name);
    }
    if !headers.contains_key("x-forwarded-proto") {
        headers.insert("x-forwarded-proto", HeaderValue::from_static("http"));
    }
    if !headers.contains_key("x-request-id")
        && let Ok(id) = HeaderValue::from_str(&random_uuid())
    {
        headers.insert("x-request-id", id);
    }
}

/// The client as the proxy before us tells it: the last address of `x-forwarded-for`, if it is one (Envoy's rule where
/// `use_remote_address` is off and no hop is to be skipped).
pub fn forwarded_for(headers: &HeaderMap) -> Option<IpAddr> {
    let mut values = headers.get_all("x-forwarded-for").iter();
    let last = values.rfind(|value| !value.is_empty())?;
    let last = last.to_str().ok()?;
    // Behind a comma at the very end stands no address.
    let last = last.rsplit(',').next()?.trim();
    last.parse().map(|ip: IpAddr| ip.to_canonical()).ok()
}

/// Headers of one hop, among them those that `connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    let trailers = headers
        .get(header::TE)
        .is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for name in named {
        headers.remove(name);
    }
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
        "te",
    ] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

fn random_uuid() -> String {
    let mut bytes: u128 = rand::rng().random();
    bytes = (bytes & !(0xf000u128 << 64)) | (0x4000u128 << 64);
    bytes = (bytes & !(0xc000u128 << 48)) | (0x8000u128 << 48);
    let hex = format!("{bytes:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}
