//! Filters of rules and backends in Envoy's form.

use envoy_types::pb::envoy::{
    config::core::v3::{
        HeaderValue, HeaderValueOption, RuntimeFractionalPercent,
        header_value_option::HeaderAppendAction,
    },
    extensions::filters::http::cors::v3::CorsPolicy,
    r#type::{
        matcher::v3::StringMatcher,
        v3::{FractionalPercent, fractional_percent::DenominatorType},
    },
};
use objects::{CorsFilter, HeaderModifier, Mirror, Redirect, Rewrite, RouteFilter};

use super::super::{super::routes::is_host, pack};

const MILLION: u64 = 1_000_000;
/// How long browsers keep the answer to a preflight when a policy does not say, seconds (the Gateway API's default).
const MAX_AGE: u32 = 5;

/// Header changes as Envoy has them: removals act before additions.
#[derive(Default, Clone)]
pub(super) struct Headers {
    pub add: Vec<HeaderValueOption>,
    pub remove: Vec<String>,
    /// `Host`, which is set by a rewrite and not as a header.
    pub host: Option<String>,
}

impl Headers {
    /// These, and then those of a backend: what it removes is gone whoever put it there.
    pub fn then(mut self, of_backend: Headers) -> Headers {
        let removed = |option: &HeaderValueOption| {
            let key = option.header.as_ref().map_or("", |header| &header.key);
            let mut names = of_backend.remove.iter();
            names.any(|name| name.eq_ignore_ascii_case(key))
        };
        self.add.retain(|option| !removed(option));
        self.add.extend(of_backend.add);
        self.remove.extend(of_backend.remove);
        self.host = self.host.or(of_backend.host);
        self
    }

    /// Whether both change a header of the same name, so that their order counts.
    pub fn meets(&self, other: &Headers) -> bool {
        let names = |headers: &Headers| -> Vec<String> {
            let added = headers.add.iter().filter_map(|one| one.header.as_ref());
            let added = added.map(|header| header.key.to_ascii_lowercase());
            let removed = headers.remove.iter().map(|name| name.to_ascii_lowercase());
            added.chain(removed).collect()
        };
        let mine = names(self);
        names(other).iter().any(|name| mine.contains(name))
    }
}

/// Filters, sorted out. What cannot be carried out is not among them: `routes::unsupported` tells it.
#[derive(Default)]
pub(super) struct Filters<'a> {
    pub request: Headers,
    pub response: Headers,
    pub mirrors: Vec<&'a Mirror>,
    pub redirect: Option<&'a Redirect>,
    pub rewrite: Option<&'a Rewrite>,
    pub cors: Option<&'a CorsFilter>,
}

pub(super) fn sort(filters: &[RouteFilter]) -> Filters<'_> {
    let mut sorted = Filters::default();
    for filter in filters {
        let RouteFilter {
            r#type: _,
            request_header_modifier,
            response_header_modifier,
            request_mirror,
            request_redirect,
            url_rewrite,
            cors,
        } = filter;
        if let Some(modifier) = request_header_modifier {
            modify(&mut sorted.request, modifier);
        }
        if let Some(modifier) = response_header_modifier {
            modify(&mut sorted.response, modifier);
        }
        sorted.mirrors.extend(request_mirror);
        sorted.redirect = sorted.redirect.or(request_redirect.as_ref());
        sorted.rewrite = sorted.rewrite.or(url_rewrite.as_ref());
        sorted.cors = sorted.cors.or(cors.as_ref());
    }
    sorted
}

/// Names in lower case and in order, as istiod has them; of several entries with one name the first counts. `Host` never
/// goes into the lists of headers, which no proxy takes there.
fn modify(headers: &mut Headers, modifier: &HeaderModifier) {
    let lists = [
        (&modifier.set, HeaderAppendAction::OverwriteIfExistsOrAdd),
        (&modifier.add, HeaderAppendAction::AppendIfExistsOrAdd),
    ];
    for (list, action) in lists {
        let mut named = std::collections::BTreeMap::new();
        for header in list {
            named
                .entry(header.name.to_ascii_lowercase())
                .or_insert(&header.value);
        }
        for (key, value) in named {
            if is_host(&key) {
                headers.host = Some(value.clone());
                continue;
            }
            headers.add.push(HeaderValueOption {
                header: Some(HeaderValue {
                    key,
                    // `%` begins an operator in Envoy; the user means the character.
                    value: value.replace('%', "%%"),
                    ..HeaderValue::default()
                }),
                append_action: action.into(),
                ..HeaderValueOption::default()
            });
        }
    }
    let removed = modifier.remove.iter();
    let removed = removed.filter(|name| !is_host(name));
    headers.remove.extend(removed.cloned());
}

/// The share of requests that is mirrored; none if nothing is.
pub(super) fn share(mirror: &Mirror) -> Option<RuntimeFractionalPercent> {
    let millionths = match (&mirror.fraction, mirror.percent) {
        (Some(fraction), _) => {
            let denominator = u64::from(fraction.denominator.unwrap_or(100).max(1));
            Some(u64::from(fraction.numerator) * MILLION / denominator)
        }
        (None, percent) => percent.map(|percent| u64::from(percent) * MILLION / 100),
    };
    let (numerator, denominator) = match millionths {
        None => (100, DenominatorType::Hundred),
        Some(0) => return None,
        Some(share) => (share.min(MILLION), DenominatorType::Million),
    };
    Some(RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator: u32::try_from(numerator).unwrap_or_default(),
            denominator: denominator.into(),
        }),
        ..RuntimeFractionalPercent::default()
    })
}

/// A cross-origin policy. Preflights of origins that are not let in are answered here, without leave.
pub(super) fn cors(policy: &CorsFilter) -> CorsPolicy {
    CorsPolicy {
        allow_origin_string_match: policy
            .allow_origins
            .iter()
            .map(|text| origin(text))
            .collect(),
        allow_methods: policy.allow_methods.join(","),
        allow_headers: policy.allow_headers.join(","),
        expose_headers: policy.expose_headers.join(","),
        max_age: policy.max_age.unwrap_or(MAX_AGE).to_string(),
        allow_credentials: policy
            .allow_credentials
            .unwrap_or_default()
            .then_some(pack::TRUE),
        filter_enabled: Some(RuntimeFractionalPercent {
            default_value: Some(FractionalPercent {
                numerator: 100,
                denominator: DenominatorType::Hundred.into(),
            }),
            ..RuntimeFractionalPercent::default()
        }),
        forward_not_matching_preflights: pack::flag(false),
        ..CorsPolicy::default()
    }
}

/// `*` alone is any origin that has the form of one; inside, it stands for any part of a host.
fn origin(text: &str) -> StringMatcher {
    match text {
        "*" => pack::regex(r"^[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s?#]+$"),
        text if text.contains('*') => {
            let parts: Vec<String> = text.split('*').map(pack::escape).collect();
            pack::regex(format!("^{}$", parts.join(r"[^/\s?#]*")))
        }
        text => pack::exact(text),
    }
}
