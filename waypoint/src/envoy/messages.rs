//! Messages that istiod sends and `envoy-types` does not hold: Istio's own filters and two of xDS's.
//! Field numbers: istio/proxy `source/extensions/filters/**/config.proto`, cncf/xds `xds/type/**`, cncf/udpa.

use envoy_types::pb::google::protobuf::{Duration, Struct};
use envoy_types::pb::xds::core::v3::CidrRange;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::OnMatch;
use std::collections::HashMap;

/// `udpa.type.v1.TypedStruct`: a filter's config as JSON.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypedStruct {
    /// Type of the real config.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// Its fields.
    #[prost(message, optional, tag = "2")]
    pub value: Option<Struct>,
}

/// `xds.type.matcher.v3.IPMatcher`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IpMatcher {
    /// Ranges and what follows.
    #[prost(message, repeated, tag = "1")]
    pub range_matchers: Vec<IpRangeMatcher>,
}

/// `xds.type.matcher.v3.IPMatcher.IPRangeMatcher`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IpRangeMatcher {
    /// Any of these.
    #[prost(message, repeated, tag = "1")]
    pub ranges: Vec<CidrRange>,
    /// What follows.
    #[prost(message, optional, tag = "2")]
    pub on_match: Option<OnMatch>,
    /// Do not look at less specific ranges.
    #[prost(bool, tag = "3")]
    pub exclusive: bool,
}

/// `stats.PluginConfig`: Istio's metrics.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PluginConfig {
    /// Do not take the destination service from the host header.
    #[prost(bool, tag = "6")]
    pub disable_host_header_fallback: bool,
    /// How often long connections are reported.
    #[prost(message, optional, tag = "7")]
    pub tcp_reporting_duration: Option<Duration>,
    /// Changes of metrics.
    #[prost(message, repeated, tag = "8")]
    pub metrics: Vec<MetricConfig>,
    /// 0 by traffic direction, 1 server gateway.
    #[prost(int32, tag = "10")]
    pub reporter: i32,
}

/// `stats.MetricConfig`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetricConfig {
    /// Tag → CEL expression.
    #[prost(map = "string, string", tag = "1")]
    pub dimensions: HashMap<String, String>,
    /// Metric name without `istio_`; empty means all.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Tags left out.
    #[prost(string, repeated, tag = "3")]
    pub tags_to_remove: Vec<String>,
    /// CEL condition.
    #[prost(string, tag = "4")]
    pub r#match: String,
    /// Leave the metric out.
    #[prost(bool, tag = "5")]
    pub drop: bool,
}

/// Names of the messages above on the wire.
macro_rules! names {
    ($($ty:ident = $package:literal, $name:literal;)*) => {
        $(impl prost::Name for $ty {
            const NAME: &'static str = $name;
            const PACKAGE: &'static str = $package;
        })*
    };
}
names! {
    TypedStruct = "udpa.type.v1", "TypedStruct";
    IpMatcher = "xds.type.matcher.v3", "IPMatcher";
    PluginConfig = "stats", "PluginConfig";
}
