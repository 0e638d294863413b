//! Small building blocks of Envoy's messages.

use std::time::Duration;

use envoy_types::pb::{
    envoy::{
        config::{
            accesslog::v3::{AccessLog, AccessLogFilter, access_log},
            core::v3::{
                Address, DataSource, EnvoyInternalAddress, Metadata, SocketAddress,
                SubstitutionFormatString, address, data_source, envoy_internal_address,
                socket_address, substitution_format_string,
            },
        },
        extensions::access_loggers::file::v3::{FileAccessLog, file_access_log},
        r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern},
    },
    google::protobuf::{self, Any, ListValue, Struct, Value, value::Kind},
};
use prost::{Message, Name};

/// Istio's default access log, text form.
const LOG_FORMAT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% ",
    "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% ",
    "\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% ",
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% ",
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n",
);

/// A message with its type.
pub(super) fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

/// `udpa.type.v1.TypedStruct`, by which extensions that Envoy itself does not know are configured. (Not in
/// envoy-types.)
#[derive(Clone, PartialEq, Message)]
pub(super) struct TypedStruct {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<Struct>,
}

impl Name for TypedStruct {
    const NAME: &'static str = "TypedStruct";
    const PACKAGE: &'static str = "udpa.type.v1";

    fn type_url() -> String {
        "type.googleapis.com/udpa.type.v1.TypedStruct".into()
    }
}

/// A [`TypedStruct`].
pub(super) fn typed_struct<const N: usize>(type_name: &str, fields: [(&str, Value); N]) -> Any {
    any(&TypedStruct {
        type_url: format!("type.googleapis.com/{type_name}"),
        value: Some(object(fields)),
    })
}

/// Istio's metrics extension: reporter SERVER_GATEWAY (field 10), no fallback to the host header (field 6).
pub(super) fn stats() -> Any {
    Any {
        type_url: "type.googleapis.com/stats.PluginConfig".into(),
        value: vec![6 << 3, 1, 10 << 3, 1],
    }
}

pub(super) fn object<const N: usize>(fields: [(&str, Value); N]) -> Struct {
    Struct {
        fields: fields.map(|(name, value)| (name.to_owned(), value)).into(),
    }
}

pub(super) fn text(text: impl Into<String>) -> Value {
    Value {
        kind: Some(Kind::StringValue(text.into())),
    }
}

pub(super) fn boolean(value: bool) -> Value {
    Value {
        kind: Some(Kind::BoolValue(value)),
    }
}

pub(super) fn nested(value: Struct) -> Value {
    Value {
        kind: Some(Kind::StructValue(value)),
    }
}

pub(super) fn list(values: Vec<Value>) -> Value {
    Value {
        kind: Some(Kind::ListValue(ListValue { values })),
    }
}

pub(super) fn metadata<const N: usize>(parts: [(&str, Struct); N]) -> Metadata {
    let filter_metadata = parts.map(|(name, part)| (name.to_owned(), part)).into();
    Metadata {
        filter_metadata,
        ..Metadata::default()
    }
}

pub(super) fn number(value: u32) -> Option<protobuf::UInt32Value> {
    Some(protobuf::UInt32Value { value })
}

pub(super) const TRUE: protobuf::BoolValue = protobuf::BoolValue { value: true };

pub(super) fn flag(value: bool) -> Option<protobuf::BoolValue> {
    Some(protobuf::BoolValue { value })
}

pub(super) fn time(duration: Duration) -> Option<protobuf::Duration> {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    // Below 1e9, so it fits.
    Some(protobuf::Duration {
        seconds,
        nanos: duration.subsec_nanos().cast_signed(),
    })
}

pub(super) fn seconds(seconds: u64) -> Option<protobuf::Duration> {
    time(Duration::from_secs(seconds))
}

/// Format text with Envoy's `%…%` operators.
pub(super) fn format(text: &str) -> SubstitutionFormatString {
    let source = DataSource {
        specifier: Some(data_source::Specifier::InlineString(text.into())),
        ..DataSource::default()
    };
    SubstitutionFormatString {
        format: Some(substitution_format_string::Format::TextFormatSource(source)),
        ..SubstitutionFormatString::default()
    }
}

/// A log line to standard output for what passes `filter`.
pub(super) fn access_log(filter: Option<AccessLogFilter>) -> AccessLog {
    let file = FileAccessLog {
        path: "/dev/stdout".into(),
        access_log_format: Some(file_access_log::AccessLogFormat::LogFormat(format(
            LOG_FORMAT,
        ))),
    };
    AccessLog {
        name: "envoy.access_loggers.file".into(),
        filter,
        config_type: Some(access_log::ConfigType::TypedConfig(any(&file))),
    }
}

pub(super) fn socket_address(ip: &str, port: u16) -> Address {
    let socket = SocketAddress {
        address: ip.into(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
        ..SocketAddress::default()
    };
    Address {
        address: Some(address::Address::SocketAddress(socket)),
    }
}

/// An address inside the proxy: a listener by name.
pub(super) fn internal_address(listener: &str, endpoint_id: &str) -> Address {
    use envoy_internal_address::AddressNameSpecifier::ServerListenerName;
    let internal = EnvoyInternalAddress {
        endpoint_id: endpoint_id.into(),
        address_name_specifier: Some(ServerListenerName(listener.into())),
    };
    Address {
        address: Some(address::Address::EnvoyInternalAddress(internal)),
    }
}

pub(super) fn string_match(pattern: MatchPattern) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(pattern),
        ignore_case: false,
    }
}

pub(super) fn exact(text: impl Into<String>) -> StringMatcher {
    string_match(MatchPattern::Exact(text.into()))
}

pub(super) fn prefix(text: impl Into<String>) -> StringMatcher {
    string_match(MatchPattern::Prefix(text.into()))
}

pub(super) fn suffix(text: impl Into<String>) -> StringMatcher {
    string_match(MatchPattern::Suffix(text.into()))
}

/// Matches the whole text.
pub(super) fn regex(pattern: impl Into<String>) -> StringMatcher {
    string_match(MatchPattern::SafeRegex(regex_matcher(pattern)))
}

pub(super) fn regex_matcher(pattern: impl Into<String>) -> RegexMatcher {
    RegexMatcher {
        regex: pattern.into(),
        engine_type: None,
    }
}

/// `text` so that a regular expression takes it literally.
pub(super) fn escape(text: &str) -> String {
    let special = |c: char| r"\.+*?()|[]{}^$".contains(c);
    text.chars()
        .flat_map(|c| special(c).then_some('\\').into_iter().chain([c]))
        .collect()
}
