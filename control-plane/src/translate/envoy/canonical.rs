//! The same message in the same bytes. prost writes map entries in the order of a hash table, which differs from
//! map to map; a resource whose bytes differ would be pushed again for nothing. So the entries of maps are sorted in
//! the encoded form, wherever our messages have maps of more than one entry.

use envoy_types::pb::envoy::config::{
    cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
};
use prost::{
    Message,
    encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint},
};

/// Where maps lie below a message: its fields that are messages to look into, and what they are.
struct Shape(&'static [(u32, Kind)]);

enum Kind {
    /// A message.
    Message(&'static Shape),
    /// A map to messages: entries {1: key, 2: value}.
    Map(&'static Shape),
    /// `google.protobuf.Any`.
    Any,
}

use Kind::{Any, Map, Message as In};

static OPAQUE: Shape = Shape(&[]);
static VALUE: Shape = Shape(&[(5, In(&STRUCT)), (6, In(&LIST))]);
static LIST: Shape = Shape(&[(1, In(&VALUE))]);
static STRUCT: Shape = Shape(&[(1, Map(&VALUE))]);
static METADATA: Shape = Shape(&[(1, Map(&STRUCT))]);
static CLUSTER: Shape = Shape(&[(25, In(&METADATA)), (36, Map(&OPAQUE))]);
static ASSIGNMENT: Shape = Shape(&[(2, In(&LOCALITY))]);
static LOCALITY: Shape = Shape(&[(2, In(&ENDPOINT))]);
static ENDPOINT: Shape = Shape(&[(3, In(&METADATA))]);
static LISTENER: Shape = Shape(&[(3, In(&CHAIN)), (32, In(&MATCHER))]);
static CHAIN: Shape = Shape(&[(3, In(&FILTER))]);
/// Network and HTTP filters have their config in the same field.
static FILTER: Shape = Shape(&[(4, Any)]);
static MATCHER: Shape = Shape(&[(2, In(&TREE)), (3, In(&ON_MATCH))]);
static TREE: Shape = Shape(&[(2, In(&MATCH_MAP)), (4, In(&EXTENSION))]);
static MATCH_MAP: Shape = Shape(&[(1, Map(&ON_MATCH))]);
static ON_MATCH: Shape = Shape(&[(1, In(&MATCHER))]);
static EXTENSION: Shape = Shape(&[(2, Any)]);
static IP_MATCHER: Shape = Shape(&[(1, In(&IP_RANGE))]);
static IP_RANGE: Shape = Shape(&[(2, In(&ON_MATCH))]);
static HCM: Shape = Shape(&[(4, In(&ROUTES)), (5, In(&FILTER))]);
static ROUTES: Shape = Shape(&[(2, In(&VIRTUAL_HOST))]);
static VIRTUAL_HOST: Shape = Shape(&[(3, In(&ROUTE))]);
static ROUTE: Shape = Shape(&[(4, In(&METADATA)), (13, Map(&OPAQUE))]);
static RBAC: Shape = Shape(&[(1, In(&RULES))]);
static RULES: Shape = Shape(&[(2, Map(&OPAQUE))]);
static TYPED_STRUCT: Shape = Shape(&[(2, In(&STRUCT))]);

fn shape_of(type_url: &[u8]) -> &'static Shape {
    let name = std::str::from_utf8(type_url).unwrap_or_default();
    match name.rsplit('/').next().unwrap_or_default() {
        "xds.type.matcher.v3.IPMatcher" => &IP_MATCHER,
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" => &HCM,
        "envoy.extensions.filters.http.rbac.v3.RBAC"
        | "envoy.extensions.filters.network.rbac.v3.RBAC" => &RBAC,
        "udpa.type.v1.TypedStruct" => &TYPED_STRUCT,
        _ => &OPAQUE,
    }
}

pub(super) fn cluster(cluster: &Cluster) -> Vec<u8> {
    sorted(&cluster.encode_to_vec(), &CLUSTER)
}

pub(super) fn endpoints(assignment: &ClusterLoadAssignment) -> Vec<u8> {
    sorted(&assignment.encode_to_vec(), &ASSIGNMENT)
}

pub(super) fn listener(listener: &Listener) -> Vec<u8> {
    sorted(&listener.encode_to_vec(), &LISTENER)
}

/// One field as it stands in the bytes.
struct Field<'a> {
    number: u32,
    /// The content of a length-delimited field; `None` for numbers, which are copied as they are.
    content: Option<&'a [u8]>,
    whole: &'a [u8],
}

fn fields(mut bytes: &[u8]) -> Vec<Field<'_>> {
    const OWN: &str = "these bytes were encoded a moment ago";
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let start = bytes;
        let (number, wire) = decode_key(&mut bytes).expect(OWN);
        let mut content = None;
        match wire {
            WireType::Varint => drop(decode_varint(&mut bytes).expect(OWN)),
            WireType::ThirtyTwoBit => bytes = &bytes[4..],
            WireType::SixtyFourBit => bytes = &bytes[8..],
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut bytes).expect(OWN)).expect(OWN);
                let (inner, rest) = bytes.split_at(length);
                (content, bytes) = (Some(inner), rest);
            }
            WireType::StartGroup | WireType::EndGroup => unreachable!("proto3 has no groups"),
        }
        fields.push(Field {
            number,
            content,
            whole: &start[..start.len() - bytes.len()],
        });
    }
    fields
}

fn sorted(bytes: &[u8], shape: &Shape) -> Vec<u8> {
    if shape.0.is_empty() {
        return bytes.to_vec();
    }
    let mut out = Vec::with_capacity(bytes.len());
    // prost writes the entries of one map in a row.
    let mut entries: (u32, Vec<Vec<u8>>) = (0, Vec::new());
    for field in fields(bytes) {
        let kind = shape
            .0
            .iter()
            .find(|(number, _)| *number == field.number)
            .map(|(_, kind)| kind);
        if entries.0 != field.number {
            flush(&mut entries, &mut out);
        }
        match (kind, field.content) {
            (Some(In(shape)), Some(content)) => {
                put(field.number, &sorted(content, shape), &mut out)
            }
            (Some(Any), Some(content)) => put(field.number, &sorted_any(content), &mut out),
            (Some(Map(shape)), Some(content)) => {
                entries.0 = field.number;
                entries.1.push(sorted_entry(content, shape));
            }
            _ => out.extend_from_slice(field.whole),
        }
    }
    flush(&mut entries, &mut out);
    out
}

fn flush(entries: &mut (u32, Vec<Vec<u8>>), out: &mut Vec<u8>) {
    let (number, mut entries) = std::mem::take(entries);
    // An entry begins with its key.
    entries.sort();
    entries.iter().for_each(|entry| put(number, entry, out));
}

fn sorted_entry(entry: &[u8], shape: &Shape) -> Vec<u8> {
    let mut out = Vec::with_capacity(entry.len());
    for field in fields(entry) {
        match field.content.filter(|_| field.number == 2) {
            Some(content) => put(2, &sorted(content, shape), &mut out),
            None => out.extend_from_slice(field.whole),
        }
    }
    out
}

fn sorted_any(any: &[u8]) -> Vec<u8> {
    let fields = fields(any);
    let url = fields
        .iter()
        .find(|field| field.number == 1)
        .and_then(|field| field.content)
        .unwrap_or_default();
    let shape = shape_of(url);
    let mut out = Vec::with_capacity(any.len());
    for field in &fields {
        match field.content.filter(|_| field.number == 2) {
            Some(content) => put(2, &sorted(content, shape), &mut out),
            None => out.extend_from_slice(field.whole),
        }
    }
    out
}

fn put(number: u32, content: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}
