//! Cross-origin rules of a route: answers to preflights and headers of answers. Pure.

use crate::model::route::Cors;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};

/// The origin of this request, if the policy admits it.
pub fn admitted(policy: &Cors, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let text = origin.to_str().ok()?;
    policy
        .origins
        .iter()
        .any(|pattern| pattern.matches(text))
        .then(|| origin.clone())
}

/// The answer to a preflight that need not go upstream.
pub fn preflight(policy: &Cors, method: &Method, headers: &HeaderMap) -> Option<Response<()>> {
    let asks = headers
        .get(header::ACCESS_CONTROL_REQUEST_METHOD)
        .is_some_and(|value| !value.is_empty());
    if method != Method::OPTIONS || !headers.contains_key(header::ORIGIN) || !asks {
        return None;
    }
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::OK;
    let Some(origin) = admitted(policy, headers) else {
        return (!policy.forward_not_matching).then_some(response);
    };
    let out = response.headers_mut();
    out.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let asked = |name| headers.get(name).cloned();
    let values = [
        (
            header::ACCESS_CONTROL_ALLOW_METHODS,
            spelled_out(policy, policy.methods.as_ref(), || {
                asked(header::ACCESS_CONTROL_REQUEST_METHOD)
            }),
        ),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            spelled_out(policy, policy.headers.as_ref(), || {
                asked(header::ACCESS_CONTROL_REQUEST_HEADERS)
            }),
        ),
        (header::ACCESS_CONTROL_MAX_AGE, policy.max_age.clone()),
    ];
    for (name, value) in values {
        if let Some(value) = value {
            out.insert(name, value);
        }
    }
    credentials(policy, out);
    Some(response)
}

/// With credentials, browsers take `*` for a name: what was asked for is said instead (the Gateway API's rule).
fn spelled_out(
    policy: &Cors,
    value: Option<&HeaderValue>,
    asked: impl FnOnce() -> Option<HeaderValue>,
) -> Option<HeaderValue> {
    match value {
        Some(value) if policy.credentials && value == "*" => asked(),
        value => value.cloned(),
    }
}

/// Adds the headers of an actual answer.
pub fn decorate(policy: &Cors, origin: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if let Some(expose) = spelled_out(policy, policy.expose.as_ref(), || None) {
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose);
    }
    credentials(policy, headers);
}

fn credentials(policy: &Cors, headers: &mut HeaderMap) {
    if policy.credentials {
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::text::StringMatch;

    fn policy(forward: bool) -> Cors {
        Cors {
            origins: vec![StringMatch::Exact("https://a.example".into(), false)],
            methods: Some(HeaderValue::from_static("GET,POST")),
            headers: None,
            expose: None,
            max_age: Some(HeaderValue::from_static("3600")),
            credentials: true,
            forward_not_matching: forward,
        }
    }

    fn asking(origin: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        headers.insert(
            header::ACCESS_CONTROL_REQUEST_METHOD,
            HeaderValue::from_static("GET"),
        );
        headers
    }

    #[test]
    fn a_preflight_of_a_known_origin_is_answered() {
        let response = preflight(
            &policy(true),
            &Method::OPTIONS,
            &asking("https://a.example"),
        )
        .unwrap();
        assert_eq!(
            response.headers()["access-control-allow-origin"],
            "https://a.example"
        );
        assert_eq!(
            response.headers()["access-control-allow-methods"],
            "GET,POST"
        );
        assert_eq!(
            response.headers()["access-control-allow-credentials"],
            "true"
        );
        assert!(preflight(&policy(true), &Method::GET, &asking("https://a.example")).is_none());
    }

    #[test]
    fn with_credentials_a_star_becomes_what_was_asked_for() {
        let star = Some(HeaderValue::from_static("*"));
        let with = |credentials| Cors {
            methods: star.clone(),
            headers: star.clone(),
            expose: star.clone(),
            credentials,
            ..policy(true)
        };
        let told = |credentials, more: Option<&'static str>| {
            let mut asked = asking("https://a.example");
            if let Some(more) = more {
                asked.insert(
                    header::ACCESS_CONTROL_REQUEST_HEADERS,
                    HeaderValue::from_static(more),
                );
            }
            let response = preflight(&with(credentials), &Method::OPTIONS, &asked).unwrap();
            let text = |name: &str| {
                let value = response.headers().get(name)?;
                Some(value.to_str().unwrap().to_owned())
            };
            let [methods, headers] = [
                "access-control-allow-methods",
                "access-control-allow-headers",
            ]
            .map(text);
            (methods, headers)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(told(false, Some("x-a")), (some("*"), some("*")));
        assert_eq!(told(true, Some("x-a,x-b")), (some("GET"), some("x-a,x-b")));
        assert_eq!(told(true, None), (some("GET"), None));
        let mut headers = HeaderMap::new();
        let origin = HeaderValue::from_static("https://a.example");
        decorate(&with(true), origin.clone(), &mut headers);
        assert!(!headers.contains_key("access-control-expose-headers"));
        decorate(&with(false), origin, &mut headers);
        assert_eq!(headers["access-control-expose-headers"], "*");
    }

    #[test]
    fn an_unknown_origin_goes_upstream_or_is_answered_without_leave() {
        assert!(
            preflight(
                &policy(true),
                &Method::OPTIONS,
                &asking("https://b.example")
            )
            .is_none()
        );
        let bare = preflight(
            &policy(false),
            &Method::OPTIONS,
            &asking("https://b.example"),
        )
        .unwrap();
        assert!(bare.headers().is_empty());
    }
}
