//! The tree by which `main_internal` picks a chain: destination address, then port, then (where it is not known) the
//! application protocol. What matches nothing is closed.

use std::{collections::BTreeMap, net::IpAddr};

use envoy_types::pb::{
    envoy::extensions::matching::common_inputs::network::v3::{
        ApplicationProtocolInput, DestinationIpInput, DestinationPortInput,
    },
    google::protobuf::{StringValue, UInt32Value},
    xds::{
        core::v3::TypedExtensionConfig,
        r#type::matcher::v3::{
            Matcher,
            matcher::{
                MatcherTree, MatcherType, OnMatch,
                matcher_tree::{MatchMap, TreeType},
                on_match,
            },
        },
    },
};
use prost::{Message, Name};

use super::{Layer, Served, endpoint::ip, name, pack, ports};

/// `xds.type.matcher.v3.IPMatcher`. (Not in envoy-types.)
#[derive(Clone, PartialEq, Message)]
pub(super) struct IpMatcher {
    #[prost(message, repeated, tag = "1")]
    pub range_matchers: Vec<IpRangeMatcher>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct IpRangeMatcher {
    #[prost(message, repeated, tag = "1")]
    pub ranges: Vec<CidrRange>,
    #[prost(message, optional, tag = "2")]
    pub on_match: Option<OnMatch>,
}

/// `xds.core.v3.CidrRange`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CidrRange {
    #[prost(string, tag = "1")]
    pub address_prefix: String,
    #[prost(message, optional, tag = "2")]
    pub prefix_len: Option<UInt32Value>,
}

impl Name for IpMatcher {
    const NAME: &'static str = "IPMatcher";
    const PACKAGE: &'static str = "xds.type.matcher.v3";

    fn type_url() -> String {
        "type.googleapis.com/xds.type.matcher.v3.IPMatcher".into()
    }
}

/// The whole tree.
pub(super) fn tree(served: &Served<'_>) -> Matcher {
    let mut ranges = Vec::new();
    for service in &served.services {
        let host = &service.wds.hostname;
        let by_port: BTreeMap<String, OnMatch> = ports(service.object)
            .map(|port| {
                let chain = |layer| name(port.number, layer, host);
                let on_match = match port.layers() {
                    [layer] => action(chain(*layer)),
                    _ => sniff(chain(Layer::Http), chain(Layer::Tcp)),
                };
                (port.number.to_string(), on_match)
            })
            .collect();
        let addresses: Vec<IpAddr> = service
            .wds
            .addresses
            .iter()
            .filter_map(|a| ip(&a.address))
            .collect();
        if !by_port.is_empty() && !addresses.is_empty() {
            let port = input("port", &DestinationPortInput {});
            let on_match = nested(matcher(port, exact(by_port), None));
            ranges.push(IpRangeMatcher {
                ranges: addresses.into_iter().map(single).collect(),
                on_match: Some(on_match),
            });
        }
    }
    let workloads = served
        .workloads
        .iter()
        .flat_map(|workload| &workload.addresses);
    let workloads: Vec<CidrRange> = workloads
        .filter_map(|address| ip(address))
        .map(single)
        .collect();
    if !workloads.is_empty() {
        let on_match = sniff("direct-http".into(), "direct-tcp".into());
        ranges.push(IpRangeMatcher {
            ranges: workloads,
            on_match: Some(on_match),
        });
    }
    let by_ip = TypedExtensionConfig {
        name: "ip".into(),
        typed_config: Some(pack::any(&IpMatcher {
            range_matchers: ranges,
        })),
    };
    matcher(
        input("ip", &DestinationIpInput {}),
        TreeType::CustomMatch(by_ip),
        None,
    )
}

/// The HTTP chain if the first bytes look like HTTP, else the TCP chain.
fn sniff(http: String, tcp: String) -> OnMatch {
    let map = ["'h2c'", "'http/1.1'"].map(|protocol| (protocol.to_owned(), action(http.clone())));
    let protocol = input("application-protocol", &ApplicationProtocolInput {});
    nested(matcher(protocol, exact(map.into()), Some(action(tcp))))
}

fn matcher(input: TypedExtensionConfig, tree: TreeType, otherwise: Option<OnMatch>) -> Matcher {
    let tree = MatcherTree {
        input: Some(input),
        tree_type: Some(tree),
    };
    Matcher {
        matcher_type: Some(MatcherType::MatcherTree(tree)),
        on_no_match: otherwise.map(Box::new),
    }
}

fn exact(map: BTreeMap<String, OnMatch>) -> TreeType {
    TreeType::ExactMatchMap(MatchMap {
        map: map.into_iter().collect(),
    })
}

fn input<M: Message + Name>(name: &str, config: &M) -> TypedExtensionConfig {
    TypedExtensionConfig {
        name: name.into(),
        typed_config: Some(pack::any(config)),
    }
}

fn action(chain: String) -> OnMatch {
    let value = StringValue {
        value: chain.clone(),
    };
    let action = TypedExtensionConfig {
        name: chain,
        typed_config: Some(pack::any(&value)),
    };
    OnMatch {
        on_match: Some(on_match::OnMatch::Action(action)),
        ..OnMatch::default()
    }
}

fn nested(matcher: Matcher) -> OnMatch {
    OnMatch {
        on_match: Some(on_match::OnMatch::Matcher(Box::new(matcher))),
        ..OnMatch::default()
    }
}

fn single(address: IpAddr) -> CidrRange {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    CidrRange {
        address_prefix: address.to_string(),
        prefix_len: pack::number(bits),
    }
}
