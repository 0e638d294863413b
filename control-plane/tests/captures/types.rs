//! Opens `Any`s: every type that the captures hold, by its URL.

use std::collections::BTreeMap;

use envoy_types::pb::{
    envoy::extensions::{
        access_loggers::file::v3::FileAccessLog,
        filters::{
            http::{
                cors::v3::{Cors, CorsPolicy},
                fault::v3::HttpFault,
                grpc_stats::v3::FilterConfig,
                jwt_authn::v3::JwtAuthentication,
                rbac::v3::Rbac as HttpRbac,
                router::v3::Router,
                set_filter_state::v3::Config as HttpState,
            },
            listener::{
                http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst,
                tls_inspector::v3::TlsInspector,
            },
            network::{
                http_connection_manager::v3::HttpConnectionManager, rbac::v3::Rbac as NetworkRbac,
                set_filter_state::v3::Config as NetworkState, tcp_proxy::v3::TcpProxy,
            },
        },
        matching::common_inputs::network::v3::{
            ApplicationProtocolInput, DestinationIpInput, DestinationPortInput,
        },
        path::r#match::uri_template::v3::UriTemplateMatchConfig,
        request_id::uuid::v3::UuidRequestIdConfig,
        retry::host::previous_hosts::v3::PreviousHostsPredicate,
        transport_sockets::{
            internal_upstream::v3::InternalUpstreamTransport,
            raw_buffer::v3::RawBuffer,
            tls::v3::{DownstreamTlsContext, UpstreamTlsContext},
        },
        upstreams::http::v3::HttpProtocolOptions,
    },
    google::protobuf::{StringValue, Struct, UInt32Value},
    xds::r#type::matcher::v3::matcher::OnMatch,
};
use prost::{Message, Name};

use crate::tree::{self, Tree};

#[derive(Clone, PartialEq, Message)]
struct TypedStruct {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Struct>,
}

#[derive(Clone, PartialEq, Message)]
struct IpMatcher {
    #[prost(message, repeated, tag = "1")]
    range_matchers: Vec<IpRangeMatcher>,
}

#[derive(Clone, PartialEq, Message)]
struct IpRangeMatcher {
    #[prost(message, repeated, tag = "1")]
    ranges: Vec<CidrRange>,
    #[prost(message, optional, tag = "2")]
    on_match: Option<OnMatch>,
}

#[derive(Clone, PartialEq, Message)]
struct CidrRange {
    #[prost(string, tag = "1")]
    address_prefix: String,
    #[prost(message, optional, tag = "2")]
    prefix_len: Option<UInt32Value>,
}

fn read<M: Message + Default + std::fmt::Debug>(bytes: &[u8]) -> Tree {
    tree::of(&M::decode(bytes).expect("a message of the type that its URL says"))
}

fn open(url: &str, bytes: &[u8]) -> Tree {
    macro_rules! types {
        ($($type:ty),* $(,)?) => {
            match url {
                $(url if url == <$type>::type_url() => read::<$type>(bytes),)*
                "type.googleapis.com/udpa.type.v1.TypedStruct" => read::<TypedStruct>(bytes),
                "type.googleapis.com/xds.type.matcher.v3.IPMatcher" => read::<IpMatcher>(bytes),
                // Istio's own, and what only refused shapes use: compared byte by byte.
                _ => Tree::Leaf(format!("{bytes:?}")),
            }
        };
    }
    types![
        ApplicationProtocolInput,
        Cors,
        CorsPolicy,
        DestinationIpInput,
        DestinationPortInput,
        DownstreamTlsContext,
        FileAccessLog,
        FilterConfig,
        HttpConnectionManager,
        HttpFault,
        HttpInspector,
        HttpProtocolOptions,
        HttpRbac,
        HttpState,
        InternalUpstreamTransport,
        JwtAuthentication,
        NetworkRbac,
        NetworkState,
        OriginalDst,
        PreviousHostsPredicate,
        RawBuffer,
        Router,
        StringValue,
        TcpProxy,
        TlsInspector,
        UpstreamTlsContext,
        UriTemplateMatchConfig,
        UuidRequestIdConfig,
    ]
}

/// A message's fields; if it is an `Any`, what is in it.
pub fn expand(message: &str, mut fields: BTreeMap<String, Tree>) -> Tree {
    if message != "Any" {
        return Tree::Fields(fields);
    }
    let Some(Tree::Leaf(url)) = fields.remove("type_url") else {
        panic!("an Any without type")
    };
    let url = url.trim_matches('"').to_owned();
    let bytes = match fields.remove("value") {
        Some(Tree::List(bytes)) => bytes.iter().map(byte).collect(),
        _ => Vec::new(),
    };
    let name = url.rsplit('/').next().unwrap_or_default().to_owned();
    Tree::Fields([(format!("@{name}"), open(&url, &bytes))].into())
}

fn byte(leaf: &Tree) -> u8 {
    match leaf {
        Tree::Leaf(text) if text == "default" => 0,
        Tree::Leaf(text) => text.parse().expect("a byte"),
        _ => panic!("bytes are leaves"),
    }
}
