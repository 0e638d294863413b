//! `filter_chain_matcher` → tables of `model::Inbound`. Only the shapes that istiod sends to waypoints.

use super::messages::{IpMatcher, IpRangeMatcher};
use super::strings::network;
use super::{At, Converted, number, required, take, unpack};
use crate::model::listener::{PortMatch, Protocols};
use envoy_types::pb::google::protobuf::{Any, StringValue};
use envoy_types::pb::xds::core::v3::TypedExtensionConfig;
use envoy_types::pb::xds::r#type::matcher::v3::Matcher;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_tree::{MatchMap, TreeType};
use envoy_types::pb::xds::r#type::matcher::v3::matcher::on_match::OnMatch as Next;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::{MatcherTree, MatcherType, OnMatch};
use ipnet::IpNet;
use std::collections::HashMap;
use std::sync::Arc;

const INPUTS: &str = "type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.";

/// The tables of a listener.
#[derive(Default)]
pub struct Tables {
    /// By CONNECT authority.
    pub authorities: HashMap<String, PortMatch>,
    /// By destination address.
    pub addresses: Vec<(IpNet, PortMatch)>,
}

/// One tree level: what is looked at, the branches, and what follows otherwise.
struct Tree {
    input: Any,
    branches: TreeType,
    otherwise: Option<OnMatch>,
}

fn tree(at: &At<'_>, matcher: Matcher) -> Converted<Tree> {
    take!(at, matcher => Matcher { on_no_match, matcher_type } ignored {} refused {});
    let tree = match required(at, "matcher_type", matcher_type)? {
        MatcherType::MatcherTree(tree) => tree,
        MatcherType::MatcherList(_) => return Err(at.unsupported("matcher_list")),
    };
    let at = &at.field("matcher_tree");
    take!(at, tree => MatcherTree { input, tree_type } ignored {} refused {});
    let input = required(at, "input", input)?;
    let input = required(&at.field("input"), "typed_config", input.typed_config)?;
    let otherwise = on_no_match.map(|next| *next);
    Ok(Tree {
        input,
        branches: required(at, "tree_type", tree_type)?,
        otherwise,
    })
}

/// The whole matcher: by authority first (when there is such a level), then by address.
pub fn tables(at: &At<'_>, matcher: Matcher) -> Converted<Tables> {
    let mut tables = Tables::default();
    let level = tree(at, matcher)?;
    let at_tree = &at.field("matcher_tree");
    match level.input.type_url.strip_prefix(INPUTS) {
        Some("DestinationIPInput") => {
            empty(&at_tree.field("input"), &level.input)?;
            if level.otherwise.is_some() {
                return Err(at.unsupported("on_no_match"));
            }
            addresses(at_tree, level.branches, &mut tables.addresses)?;
        }
        Some("FilterStateInput") => {
            filter_state(&at_tree.field("input"), &level.input)?;
            for (authority, next) in exact_map(at_tree, level.branches)? {
                let at = at_tree.key("exact_match_map", &authority);
                let ports = ports(&at, next)?;
                tables.authorities.insert(authority.clone(), ports);
            }
            if let Some(next) = level.otherwise {
                let inner = next_matcher(&at.field("on_no_match"), next)?;
                let inner = self::tables(&at.field("on_no_match.matcher"), inner)?;
                if !inner.authorities.is_empty() {
                    return Err(at
                        .field("on_no_match")
                        .refuse("looks at the authority twice"));
                }
                tables.addresses = inner.addresses;
            }
        }
        _ => return Err(bad_input(at_tree, &level.input)),
    }
    Ok(tables)
}

fn bad_input(at: &At<'_>, input: &Any) -> super::Refusal {
    at.field("input")
        .refuse(format!("type '{}' is not supported here", input.type_url))
}

/// The inputs that we know carry no options, but for the filter state's key.
fn empty(at: &At<'_>, input: &Any) -> Converted<()> {
    if input.value.is_empty() {
        Ok(())
    } else {
        Err(at.refuse("holds a field that this version does not know"))
    }
}

fn filter_state(at: &At<'_>, input: &Any) -> Converted<()> {
    use envoy_types::pb::envoy::extensions::matching::common_inputs::network::v3::FilterStateInput;
    let input: FilterStateInput = unpack(at, input)?;
    take!(at, input => FilterStateInput { key } ignored {} refused { field });
    if key == "io.istio.connect_authority" {
        return Ok(());
    }
    Err(at
        .field("key")
        .refuse(format!("{key:?} is not a key that can be asked for")))
}

fn addresses(at: &At<'_>, branches: TreeType, out: &mut Vec<(IpNet, PortMatch)>) -> Converted<()> {
    let TreeType::CustomMatch(custom) = branches else {
        return Err(at.refuse("addresses must be matched by an IPMatcher"));
    };
    let at = &at.field("custom_match");
    let matcher: IpMatcher = unpack(at, &typed(at, custom)?)?;
    for (i, range) in matcher.range_matchers.into_iter().enumerate() {
        let at = &at.index("range_matchers", i);
        take!(at, range => IpRangeMatcher { ranges, on_match } ignored {} refused { exclusive });
        let ports = ports(&at.field("on_match"), required(at, "on_match", on_match)?)?;
        for (j, range) in ranges.into_iter().enumerate() {
            let length = number(range.prefix_len).unwrap_or(0);
            out.push((
                network(&at.index("ranges", j), &range.address_prefix, length)?,
                ports.clone(),
            ));
        }
    }
    Ok(())
}

fn typed(at: &At<'_>, extension: TypedExtensionConfig) -> Converted<Any> {
    required(at, "typed_config", extension.typed_config)
}

/// A level that looks at the port, at the protocol, or an action at once.
fn ports(at: &At<'_>, next: OnMatch) -> Converted<PortMatch> {
    let matcher = match next_of(at, next)? {
        Next::Action(action) => {
            let chain = chain_name(at, action)?;
            return Ok(PortMatch {
                ports: HashMap::new(),
                other: Some(Protocols::always(chain)),
            });
        }
        Next::Matcher(matcher) => *matcher,
    };
    let at = &at.field("matcher");
    let level = tree(at, matcher)?;
    let at_tree = &at.field("matcher_tree");
    match level.input.type_url.strip_prefix(INPUTS) {
        Some("DestinationPortInput") => {
            empty(&at_tree.field("input"), &level.input)?;
            let mut ports = HashMap::new();
            for (port, next) in exact_map(at_tree, level.branches)? {
                let at = at_tree.key("exact_match_map", &port);
                let number = port
                    .parse::<u16>()
                    .map_err(|_| at.refuse("is not a port"))?;
                ports.insert(number, protocols(&at, next)?);
            }
            let other = level
                .otherwise
                .map(|next| protocols(&at.field("on_no_match"), next))
                .transpose()?;
            Ok(PortMatch { ports, other })
        }
        Some("ApplicationProtocolInput") => {
            let protocols = by_protocol(at, level)?;
            Ok(PortMatch {
                ports: HashMap::new(),
                other: Some(protocols),
            })
        }
        _ => Err(bad_input(at_tree, &level.input)),
    }
}

/// An action at once, or a level that looks at the protocol.
fn protocols(at: &At<'_>, next: OnMatch) -> Converted<Protocols> {
    match next_of(at, next)? {
        Next::Action(action) => Ok(Protocols::always(chain_name(at, action)?)),
        Next::Matcher(matcher) => {
            let at = &at.field("matcher");
            let level = tree(at, *matcher)?;
            by_protocol(at, level)
        }
    }
}

fn by_protocol(at: &At<'_>, level: Tree) -> Converted<Protocols> {
    let at_tree = &at.field("matcher_tree");
    if level.input.type_url.strip_prefix(INPUTS) != Some("ApplicationProtocolInput") {
        return Err(bad_input(at_tree, &level.input));
    }
    empty(&at_tree.field("input"), &level.input)?;
    let mut out = Protocols::default();
    for (protocol, next) in exact_map(at_tree, level.branches)? {
        let at = at_tree.key("exact_match_map", &protocol);
        let Next::Action(action) = next_of(&at, next)? else {
            return Err(at.refuse("must name a chain"));
        };
        let chain = Some(chain_name(&at, action)?);
        match protocol.as_str() {
            "'h2c'" => out.http2 = chain,
            "'http/1.1'" => out.http1 = chain,
            // HTTP/1.0 goes where HTTP/1.1 goes, and is refused there unless it is accepted.
            "'http/1.0'" => {}
            _ => return Err(at.refuse("protocol is not supported")),
        }
    }
    if let Some(next) = level.otherwise {
        let at = at.field("on_no_match");
        let Next::Action(action) = next_of(&at, next)? else {
            return Err(at.refuse("must name a chain"));
        };
        out.other = Some(chain_name(&at, action)?);
    }
    Ok(out)
}

fn exact_map(at: &At<'_>, branches: TreeType) -> Converted<Vec<(String, OnMatch)>> {
    let TreeType::ExactMatchMap(MatchMap { map }) = branches else {
        return Err(at.refuse("only exact_match_map is supported here"));
    };
    let mut entries: Vec<_> = map.into_iter().collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(entries)
}

fn next_of(at: &At<'_>, next: OnMatch) -> Converted<Next> {
    take!(at, next => OnMatch { on_match } ignored {} refused { keep_matching });
    required(at, "on_match", on_match)
}

fn next_matcher(at: &At<'_>, next: OnMatch) -> Converted<Matcher> {
    match next_of(at, next)? {
        Next::Matcher(matcher) => Ok(*matcher),
        Next::Action(_) => Err(at.unsupported("action")),
    }
}

fn chain_name(at: &At<'_>, action: TypedExtensionConfig) -> Converted<Arc<str>> {
    let at = &at.field("action");
    let name: StringValue = unpack(at, &typed(at, action)?)?;
    Ok(name.value.into())
}
