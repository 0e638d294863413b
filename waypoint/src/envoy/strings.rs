//! String, header, query and header-value messages → `model`. Used by routes, policies and filters.

use super::{At, Converted, flag, number, required, take};
use crate::format::Format;
use crate::model::route::{
    Changes, HeaderChanges, QueryTest, SetHeader, SetMode, Share, header_key,
};
use crate::model::text::{HeaderKey, HeaderMatch, HeaderTest, StringMatch};
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{
    CidrRange, DataSource, HeaderValue as ProtoHeader, HeaderValueOption, Metadata,
    RuntimeFractionalPercent, SubstitutionFormatString, data_source, substitution_format_string,
};
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, QueryParameterMatcher, header_matcher::HeaderMatchSpecifier,
    query_parameter_matcher::QueryParameterMatchSpecifier,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use http::{HeaderName, header::HeaderValue};
use ipnet::IpNet;
use regex::Regex;

/// Largest compiled regular expression in bytes; RE2's own limit is of this order.
const REGEX_LIMIT: usize = 1 << 20;

/// A regular expression that must match the whole text, or (for rewrites) any part.
pub fn regex(at: &At<'_>, matcher: RegexMatcher, whole: bool) -> Converted<Regex> {
    take!(at, matcher => RegexMatcher { regex } ignored { engine_type } refused {});
    let build = |text: &str| {
        let mut builder = regex::RegexBuilder::new(text);
        builder.size_limit(REGEX_LIMIT).build()
    };
    // It must be valid by itself: its brackets could close ours.
    let alone = build(&regex);
    let built = match alone {
        Ok(_) if whole => build(&format!("^(?:{regex})$")),
        alone => alone,
    };
    built.map_err(|_| {
        at.field("regex").refuse(format!(
            "{regex:?} is not a regular expression that can be used"
        ))
    })
}

/// A string matcher.
pub fn string(at: &At<'_>, matcher: StringMatcher) -> Converted<StringMatch> {
    take!(at, matcher => StringMatcher { ignore_case, match_pattern } ignored {} refused {});
    Ok(match required(at, "match_pattern", match_pattern)? {
        MatchPattern::Exact(text) => StringMatch::Exact(text, ignore_case),
        MatchPattern::Prefix(text) => StringMatch::Prefix(text, ignore_case),
        MatchPattern::Suffix(text) => StringMatch::Suffix(text, ignore_case),
        MatchPattern::Contains(text) => StringMatch::Contains(text, ignore_case),
        MatchPattern::SafeRegex(matcher) => {
            StringMatch::Regex(regex(&at.field("safe_regex"), matcher, true)?)
        }
        MatchPattern::Custom(_) => return Err(at.unsupported("custom")),
    })
}

/// A header condition.
pub fn header(at: &At<'_>, matcher: HeaderMatcher) -> Converted<HeaderMatch> {
    take!(at, matcher => HeaderMatcher { name, invert_match, treat_missing_header_as_empty, header_match_specifier }
        ignored {} refused {});
    let key = header_key(&name).ok_or_else(|| {
        at.field("name")
            .refuse(format!("{name:?} is not a header name"))
    })?;
    let test = match header_match_specifier {
        None => HeaderTest::Present(true),
        Some(HeaderMatchSpecifier::PresentMatch(wanted)) => HeaderTest::Present(wanted),
        Some(HeaderMatchSpecifier::ExactMatch(text)) => {
            HeaderTest::Value(StringMatch::Exact(text, false))
        }
        Some(HeaderMatchSpecifier::PrefixMatch(text)) => {
            HeaderTest::Value(StringMatch::Prefix(text, false))
        }
        Some(HeaderMatchSpecifier::SuffixMatch(text)) => {
            HeaderTest::Value(StringMatch::Suffix(text, false))
        }
        Some(HeaderMatchSpecifier::ContainsMatch(text)) => {
            HeaderTest::Value(StringMatch::Contains(text, false))
        }
        Some(HeaderMatchSpecifier::RangeMatch(range)) => HeaderTest::Range(range.start, range.end),
        Some(HeaderMatchSpecifier::SafeRegexMatch(matcher)) => HeaderTest::Value(
            StringMatch::Regex(regex(&at.field("safe_regex_match"), matcher, true)?),
        ),
        Some(HeaderMatchSpecifier::StringMatch(matcher)) => {
            HeaderTest::Value(string(&at.field("string_match"), matcher)?)
        }
    };
    Ok(HeaderMatch {
        key,
        test,
        invert: invert_match,
        missing_is_empty: treat_missing_header_as_empty,
    })
}

/// Several header conditions.
pub fn headers(
    at: &At<'_>,
    field: &'static str,
    matchers: Vec<HeaderMatcher>,
) -> Converted<Vec<HeaderMatch>> {
    matchers
        .into_iter()
        .enumerate()
        .map(|(i, matcher)| header(&at.index(field, i), matcher))
        .collect()
}

/// A query parameter condition.
pub fn query(at: &At<'_>, matcher: QueryParameterMatcher) -> Converted<(String, QueryTest)> {
    take!(at, matcher => QueryParameterMatcher { name, query_parameter_match_specifier } ignored {} refused {});
    let test = match query_parameter_match_specifier {
        None => QueryTest::Present(true),
        Some(QueryParameterMatchSpecifier::PresentMatch(wanted)) => QueryTest::Present(wanted),
        Some(QueryParameterMatchSpecifier::StringMatch(matcher)) => {
            QueryTest::Value(string(&at.field("string_match"), matcher)?)
        }
    };
    Ok((name, test))
}

/// Parts of the four header lists that routes, virtual hosts and others have.
pub struct HeaderLists {
    /// `request_headers_to_add`.
    pub request_add: Vec<HeaderValueOption>,
    /// `request_headers_to_remove`.
    pub request_remove: Vec<String>,
    /// `response_headers_to_add`.
    pub response_add: Vec<HeaderValueOption>,
    /// `response_headers_to_remove`.
    pub response_remove: Vec<String>,
}

/// All header changes of one message.
pub fn header_changes(at: &At<'_>, lists: HeaderLists) -> Converted<HeaderChanges> {
    Ok(HeaderChanges {
        request: Changes {
            remove: removals(at, "request_headers_to_remove", lists.request_remove)?,
            set: additions(at, "request_headers_to_add", lists.request_add)?,
        },
        response: Changes {
            remove: removals(at, "response_headers_to_remove", lists.response_remove)?,
            set: additions(at, "response_headers_to_add", lists.response_add)?,
        },
    })
}

fn removals(at: &At<'_>, field: &'static str, names: Vec<String>) -> Converted<Vec<HeaderName>> {
    let one = |(i, name): (usize, String)| plain_name(&at.index(field, i), &name);
    names.into_iter().enumerate().map(one).collect()
}

fn additions(
    at: &At<'_>,
    field: &'static str,
    list: Vec<HeaderValueOption>,
) -> Converted<Vec<SetHeader>> {
    list.into_iter()
        .enumerate()
        .map(|(i, option)| set_header(&at.index(field, i), option))
        .collect()
}

/// An ordinary header: pseudo headers and `host` are changed by rewrites, not by header lists.
fn plain_name(at: &At<'_>, name: &str) -> Converted<HeaderName> {
    match header_key(name) {
        Some(HeaderKey::Name(name)) => Ok(name),
        _ => Err(at.refuse(format!("header {name:?} cannot be changed here"))),
    }
}

/// One header to set.
pub fn set_header(at: &At<'_>, option: HeaderValueOption) -> Converted<SetHeader> {
    take!(at, option => HeaderValueOption { header, append, append_action, keep_empty_value } ignored {} refused {});
    let at = &at.field("header");
    take!(at, required(at, "header", header)? => ProtoHeader { key, value } ignored {} refused { raw_value });
    let mode = match (append, HeaderAppendAction::try_from(append_action)) {
        (Some(append), _) if !append.value => SetMode::Overwrite,
        (_, Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => SetMode::Append,
        (_, Ok(HeaderAppendAction::AddIfAbsent)) => SetMode::IfAbsent,
        (_, Ok(HeaderAppendAction::OverwriteIfExistsOrAdd)) => SetMode::Overwrite,
        (_, Ok(HeaderAppendAction::OverwriteIfExists)) => SetMode::OverwriteIfPresent,
        (_, Err(_)) => {
            return Err(at
                .field("append_action")
                .refuse(format!("value {append_action} is not known")));
        }
    };
    let name = plain_name(&at.field("key"), &key)?;
    let format = Format::parse(&value).map_err(|why| at.field("value").refuse(why))?;
    if format
        .fixed()
        .is_some_and(|text| HeaderValue::from_str(text).is_err())
    {
        return Err(at.field("value").refuse("is not a header value"));
    }
    Ok(SetHeader {
        name,
        value: format,
        mode,
        keep_empty: keep_empty_value,
    })
}

/// A header value that is fixed; empty is none.
pub fn header_value(
    at: &At<'_>,
    field: &'static str,
    text: &str,
) -> Converted<Option<HeaderValue>> {
    if text.is_empty() {
        return Ok(None);
    }
    HeaderValue::from_str(text)
        .map(Some)
        .map_err(|_| at.field(field).refuse("is not a header value"))
}

/// A format string given inline.
pub fn format(at: &At<'_>, source: SubstitutionFormatString) -> Converted<Format> {
    take!(at, source => SubstitutionFormatString { format } ignored { omit_empty_values }
        refused { content_type, formatters, json_format_options });
    let text = match required(at, "format", format)? {
        substitution_format_string::Format::TextFormat(text) => text,
        substitution_format_string::Format::TextFormatSource(source) => {
            inline_text(&at.field("text_format_source"), source)?
        }
        substitution_format_string::Format::JsonFormat(_) => {
            return Err(at.unsupported("json_format"));
        }
    };
    Format::parse(&text).map_err(|why| at.field("text_format_source").refuse(why))
}

/// The bytes of an inline data source.
pub fn inline(at: &At<'_>, source: DataSource) -> Converted<Vec<u8>> {
    take!(at, source => DataSource { specifier } ignored {} refused { watched_directory });
    match required(at, "specifier", specifier)? {
        data_source::Specifier::InlineString(text) => Ok(text.into_bytes()),
        data_source::Specifier::InlineBytes(bytes) => Ok(bytes),
        data_source::Specifier::Filename(_) => Err(at.unsupported("filename")),
        data_source::Specifier::EnvironmentVariable(_) => {
            Err(at.unsupported("environment_variable"))
        }
    }
}

fn inline_text(at: &At<'_>, source: DataSource) -> Converted<String> {
    String::from_utf8(inline(at, source)?).map_err(|_| at.refuse("is not UTF-8"))
}

/// A share of requests.
pub fn share(at: &At<'_>, percent: Option<FractionalPercent>) -> Converted<Share> {
    let Some(FractionalPercent {
        numerator,
        denominator,
    }) = percent
    else {
        return Ok(Share { part: 0, of: 100 });
    };
    let of = match DenominatorType::try_from(denominator) {
        Ok(DenominatorType::Hundred) => 100,
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Err(_) => {
            return Err(at
                .field("denominator")
                .refuse(format!("value {denominator} is not known")));
        }
    };
    Ok(Share {
        part: numerator,
        of,
    })
}

/// A share that a runtime key could change; nothing means all.
pub fn runtime_share(at: &At<'_>, fraction: Option<RuntimeFractionalPercent>) -> Converted<Share> {
    let Some(fraction) = fraction else {
        return Ok(Share::ALL);
    };
    take!(at, fraction => RuntimeFractionalPercent { default_value } ignored { runtime_key } refused {});
    share(&at.field("default_value"), default_value)
}

/// An address range.
pub fn cidr(at: &At<'_>, range: CidrRange) -> Converted<IpNet> {
    let CidrRange {
        address_prefix,
        prefix_len,
    } = range;
    network(at, &address_prefix, number(prefix_len).unwrap_or(0))
}

/// An address range from its parts.
pub fn network(at: &At<'_>, address: &str, length: u32) -> Converted<IpNet> {
    let parsed = address.parse().ok().zip(u8::try_from(length).ok());
    parsed
        .and_then(|(ip, length)| IpNet::new(ip, length).ok())
        .map(|net| net.trunc())
        .ok_or_else(|| at.refuse(format!("{address}/{length} is not an address range")))
}

/// A string at `namespace` → `key` of `filter_metadata`; absent is empty.
pub fn metadata_text<'a>(metadata: Option<&'a Metadata>, namespace: &str, key: &str) -> &'a str {
    use envoy_types::pb::google::protobuf::value::Kind;
    let value = metadata
        .and_then(|metadata| metadata.filter_metadata.get(namespace))
        .and_then(|values| values.fields.get(key))
        .and_then(|value| value.kind.as_ref());
    match value {
        Some(Kind::StringValue(text)) => text,
        _ => "",
    }
}

/// `true` for the wrapped flag only.
pub fn is_true(value: Option<envoy_types::pb::google::protobuf::BoolValue>) -> bool {
    flag(value, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_valid_by_itself_and_matches_the_whole_text() {
        let regex = |text: &str| {
            let matcher = RegexMatcher {
                regex: text.into(),
                ..RegexMatcher::default()
            };
            regex(&At::root("x"), matcher, true)
        };
        assert!(!regex("a|b").unwrap().is_match("ac"));
        // Within our own brackets this would match whatever begins with `a`.
        assert!(regex("a)|(?:b").is_err());
    }
}
