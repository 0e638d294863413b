//! `descriptors/envoy.bin` is made of what `envoy-types` was generated from: with `CAUSEWAY_WRITE_DESCRIPTORS=1` this test
//! writes it (after an update of that crate), without, it compares.

// Helpers of tests may unwrap as tests do; clippy knows only the tests themselves.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumOptions, EnumValueDescriptorProto,
    FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MessageOptions,
};
use serde_json::Value;

/// Files that declare nothing but extensions of options, which are left out.
const OPTIONS: [&str; 4] = [
    "validate/",
    "udpa/annotations/",
    "envoy/annotations/",
    "xds/annotations/",
];

#[test]
fn the_descriptors_are_those_of_envoy_types() {
    let source = envoy_types().join("src/generated/types.bin");
    let all = FileDescriptorSet::decode(std::fs::read(source).unwrap().as_slice()).unwrap();
    let mut files: Vec<FileDescriptorProto> = all.file.into_iter().filter_map(stripped).collect();
    files.extend(of_istio());
    let known: BTreeSet<String> = files.iter().map(|file| file.name().to_owned()).collect();
    for file in &mut files {
        file.dependency.retain(|name| known.contains(name));
        file.public_dependency.clear();
    }
    let made = FileDescriptorSet { file: files }.encode_to_vec();
    let pool = prost_reflect::DescriptorPool::decode(made.as_slice());
    assert!(pool.is_ok(), "{pool:?}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("descriptors/envoy.bin");
    if std::env::var_os("CAUSEWAY_WRITE_DESCRIPTORS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let there = std::fs::read(&path).unwrap();
    let same = there == made;
    assert!(
        same,
        "set CAUSEWAY_WRITE_DESCRIPTORS=1 once: {} is not what envoy-types has",
        path.display()
    );
}

/// Where cargo keeps the sources of the crate that we build with.
fn envoy_types() -> PathBuf {
    let asked = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&asked.stderr);
    assert!(asked.status.success(), "{text}");
    let metadata: Value = serde_json::from_slice(&asked.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let found = packages
        .iter()
        .find(|package| package["name"] == "envoy-types");
    let manifest = found.unwrap()["manifest_path"].as_str().unwrap();
    Path::new(manifest).parent().unwrap().to_owned()
}

/// Without what JSON does not need.
fn stripped(mut file: FileDescriptorProto) -> Option<FileDescriptorProto> {
    if OPTIONS.iter().any(|prefix| file.name().starts_with(prefix)) {
        return None;
    }
    file.source_code_info = None;
    file.options = None;
    file.service.clear();
    file.extension.clear();
    file.enum_type.iter_mut().for_each(strip_enum);
    file.message_type.iter_mut().for_each(strip);
    Some(file)
}

fn strip(message: &mut DescriptorProto) {
    let map = message.options.take().and_then(|options| options.map_entry);
    message.options = map.map(|entry| MessageOptions {
        map_entry: Some(entry),
        ..MessageOptions::default()
    });
    for field in &mut message.field {
        field.options = None;
        field.json_name = None;
    }
    message
        .oneof_decl
        .iter_mut()
        .for_each(|one| one.options = None);
    message.extension.clear();
    message.enum_type.iter_mut().for_each(strip_enum);
    message.nested_type.iter_mut().for_each(strip);
}

fn strip_enum(one: &mut EnumDescriptorProto) {
    let alias = one.options.take().and_then(|options| options.allow_alias);
    one.options = alias.map(|alias| EnumOptions {
        allow_alias: Some(alias),
        ..EnumOptions::default()
    });
    one.value.iter_mut().for_each(|value| value.options = None);
}

/// Messages that istiod sends and `envoy-types` does not hold; the same as in `envoy::messages`.
fn of_istio() -> Vec<FileDescriptorProto> {
    let structure = ".google.protobuf.Struct";
    let typed_struct = message(
        "TypedStruct",
        vec![
            field("type_url", 1, Type::String, None),
            field("value", 2, Type::Message, Some(structure)),
        ],
    );
    let ranges = message(
        "IPRangeMatcher",
        vec![
            repeated(field(
                "ranges",
                1,
                Type::Message,
                Some(".xds.core.v3.CidrRange"),
            )),
            field(
                "on_match",
                2,
                Type::Message,
                Some(".xds.type.matcher.v3.Matcher.OnMatch"),
            ),
            field("exclusive", 3, Type::Bool, None),
        ],
    );
    let of_ranges = ".xds.type.matcher.v3.IPMatcher.IPRangeMatcher";
    let matcher = DescriptorProto {
        nested_type: vec![ranges],
        ..message(
            "IPMatcher",
            vec![repeated(field(
                "range_matchers",
                1,
                Type::Message,
                Some(of_ranges),
            ))],
        )
    };
    vec![
        file(
            "udpa/type/v1/typed_struct.proto",
            "udpa.type.v1",
            &["google/protobuf/struct.proto"],
            vec![typed_struct],
        ),
        file(
            "xds/type/matcher/v3/ip.proto",
            "xds.type.matcher.v3",
            &[
                "xds/core/v3/cidr.proto",
                "xds/type/matcher/v3/matcher.proto",
            ],
            vec![matcher],
        ),
        file(
            "stats/config.proto",
            "stats",
            &["google/protobuf/duration.proto"],
            stats(),
        ),
    ]
}

fn stats() -> Vec<DescriptorProto> {
    let entry = DescriptorProto {
        options: Some(MessageOptions {
            map_entry: Some(true),
            ..MessageOptions::default()
        }),
        ..message(
            "DimensionsEntry",
            vec![
                field("key", 1, Type::String, None),
                field("value", 2, Type::String, None),
            ],
        )
    };
    let metric = DescriptorProto {
        nested_type: vec![entry],
        ..message(
            "MetricConfig",
            vec![
                repeated(field(
                    "dimensions",
                    1,
                    Type::Message,
                    Some(".stats.MetricConfig.DimensionsEntry"),
                )),
                field("name", 2, Type::String, None),
                repeated(field("tags_to_remove", 3, Type::String, None)),
                field("match", 4, Type::String, None),
                field("drop", 5, Type::Bool, None),
            ],
        )
    };
    let reporter = EnumDescriptorProto {
        name: Some("Reporter".into()),
        value: ["UNSPECIFIED", "SERVER_GATEWAY"]
            .into_iter()
            .zip(0..)
            .map(|(name, number)| EnumValueDescriptorProto {
                name: Some(name.into()),
                number: Some(number),
                options: None,
            })
            .collect(),
        ..EnumDescriptorProto::default()
    };
    let plugin = message(
        "PluginConfig",
        vec![
            field("disable_host_header_fallback", 6, Type::Bool, None),
            field(
                "tcp_reporting_duration",
                7,
                Type::Message,
                Some(".google.protobuf.Duration"),
            ),
            repeated(field(
                "metrics",
                8,
                Type::Message,
                Some(".stats.MetricConfig"),
            )),
            field(
                "reporter",
                10,
                Type::Enum,
                Some(".stats.PluginConfig.Reporter"),
            ),
        ],
    );
    let plugin = DescriptorProto {
        enum_type: vec![reporter],
        ..plugin
    };
    vec![metric, plugin]
}

fn file(
    name: &str,
    package: &str,
    needs: &[&str],
    messages: Vec<DescriptorProto>,
) -> FileDescriptorProto {
    FileDescriptorProto {
        name: Some(name.into()),
        package: Some(package.into()),
        dependency: needs.iter().map(|one| (*one).to_owned()).collect(),
        message_type: messages,
        syntax: Some("proto3".into()),
        ..FileDescriptorProto::default()
    }
}

fn message(name: &str, field: Vec<FieldDescriptorProto>) -> DescriptorProto {
    DescriptorProto {
        name: Some(name.into()),
        field,
        ..DescriptorProto::default()
    }
}

fn field(name: &str, number: i32, kind: Type, of: Option<&str>) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.into()),
        number: Some(number),
        label: Some(Label::Optional.into()),
        r#type: Some(kind.into()),
        type_name: of.map(str::to_owned),
        ..FieldDescriptorProto::default()
    }
}

fn repeated(mut field: FieldDescriptorProto) -> FieldDescriptorProto {
    field.label = Some(Label::Repeated.into());
    field
}
