//! What a service account's token says of itself, unproven: enough to see that it is not worth a question to the API server,
//! and never enough to believe it. Pure; called by `review`.

use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

/// Clocks differ.
const SKEW: Duration = Duration::from_secs(60);

/// The claims that we look at.
#[derive(Debug, Deserialize)]
struct Claims {
    #[serde(default)]
    aud: Audiences,
    exp: Option<u64>,
    #[serde(default)]
    sub: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Default for Audiences {
    fn default() -> Self {
        Audiences::Many(Vec::new())
    }
}

fn claims(token: &str) -> Option<Claims> {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice(&payload).ok()
}

/// Why no API server could accept the token for one of `audiences`.
pub(super) fn fault(token: &str, audiences: &[String], now: SystemTime) -> Option<String> {
    let Some(claims) = claims(token) else {
        return Some("the bearer token is no service account's: it is no JWT".to_owned());
    };
    let meant = match &claims.aud {
        Audiences::One(one) => std::slice::from_ref(one),
        Audiences::Many(many) => many,
    };
    if !meant.iter().any(|audience| audiences.contains(audience)) {
        let wanted = audiences.join(" or ");
        return Some(format!("the token is not for audience {wanted}"));
    }
    let end = claims.exp.map(|end| Duration::from_secs(end) + SKEW);
    let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    end.is_some_and(|end| end < now)
        .then(|| "the token has expired".to_owned())
}

/// Namespace and name of the account that the token claims to be of.
pub(super) fn claimed(token: &str) -> Option<(String, String)> {
    let subject = claims(token)?.sub;
    let account = subject.strip_prefix("system:serviceaccount:")?;
    let (namespace, name) = account.split_once(':')?;
    Some((namespace.to_owned(), name.to_owned()))
}

/// A token that says this, for tests.
#[cfg(test)]
pub(super) fn saying(claims: &serde_json::Value) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_an_api_server_could_accept_is_worth_a_question() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let of = |claims: serde_json::Value| {
            let audiences = ["istio-ca".to_owned(), "other".to_owned()];
            fault(&saying(&claims), &audiences, now)
        };
        let elsewhere = Some("the token is not for audience istio-ca or other".to_owned());
        let over = Some("the token has expired".to_owned());
        let table = [
            (json!({"aud": ["x", "istio-ca"], "exp": 1_000_001}), None),
            (json!({"aud": "istio-ca"}), None),
            (json!({"aud": "istio-ca", "exp": 999_990}), None),
            (json!({"aud": "istio-ca", "exp": 999_900}), over),
            (json!({"aud": ["x"], "exp": 1_000_001}), elsewhere.clone()),
            (json!({"sub": "system:serviceaccount:a:b"}), elsewhere),
        ];
        for (claims, expected) in table {
            assert_eq!(of(claims.clone()), expected, "{claims}");
        }
        for text in [
            "",
            "nonsense",
            "a.b.c",
            "a.b",
            "e30.e30.e30.e30",
            "e30.W10.e30",
        ] {
            let why = fault(text, &["istio-ca".to_owned()], now).expect("no token");
            assert!(why.contains("it is no JWT"), "{text}: {why}");
        }
    }

    #[test]
    fn the_account_is_what_the_subject_says() {
        let of = |subject: &str| claimed(&saying(&json!({"sub": subject})));
        let account = ("a".to_owned(), "b".to_owned());
        assert_eq!(of("system:serviceaccount:a:b"), Some(account));
        assert_eq!(of("admin"), None);
        assert_eq!(claimed("nonsense"), None);
    }
}
