//! What our control plane sends a waypoint, loaded by a plain Envoy (`--mode validate`), beside what istiod sent for the same
//! objects. Plain Envoy lacks Istio's own extensions: the same parts of both are taken out. Used by `foreign.rs`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use control_plane::store::Store;
use control_plane::translate::{Mesh, envoy, translate};
use envoy_types::pb::envoy::config::bootstrap::v3::{Bootstrap, bootstrap::StaticResources};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::extensions::bootstrap::internal_listener::v3::InternalListener;
use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3::FilterStateValue;
use envoy_types::pb::envoy::extensions::filters::http::set_filter_state::v3::Config as RequestState;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::set_filter_state::v3::Config as ConnectionState;
use envoy_types::pb::google::protobuf::{Any, UInt32Value};
use prost::{Message, Name as _};
use proto::discovery::DeltaDiscoveryResponse;

use e2e::cases::{self, Outcome};

/// Extensions of Istio that no plain Envoy has, by the end of their type URL.
const ISTIO_ONLY: [&str; 3] = [
    "/io.istio.http.peer_metadata.Config",
    "/stats.PluginConfig",
    "/envoy.tcp.metadataexchange.config.MetadataExchange",
];

/// A cluster that both must have, so that nothing is not taken for something.
const ECHO: &str = "inbound-vip|80|http|echo.app.svc.cluster.local";

type Named = BTreeMap<String, Vec<u8>>;

/// Envoy accepts what we send, as it accepts what istiod sends.
pub fn validated() -> Result<Outcome> {
    let binary = match cases::binary("ENVOY") {
        Ok(binary) => binary,
        Err(missing) => return Ok(Outcome::NotRun(missing)),
    };
    let theirs = validate(&binary, &captured()?).context("istiod's resources")?;
    let ours = validate(&binary, &translated()?).context("our resources")?;
    Ok(Outcome::Passed(format!("ours: {ours}; istiod's: {theirs}")))
}

fn testdata(name: &str) -> Result<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../control-plane/testdata/ambient");
    std::fs::read(dir.join(name)).with_context(|| name.to_owned())
}

fn captured() -> Result<envoy::Resources> {
    let of = |name: &str| -> Result<Named> {
        let push = DeltaDiscoveryResponse::decode(&testdata(name)?[..])?;
        let body =
            |resource: proto::discovery::Resource| Some((resource.name, resource.resource?.value));
        Ok(push.resources.into_iter().filter_map(body).collect())
    };
    Ok(envoy::Resources {
        clusters: of("cluster.pb")?,
        endpoints: of("endpoints.pb")?,
        listeners: of("listener.pb")?,
    })
}

fn translated() -> Result<envoy::Resources> {
    let mut store = Store::default();
    for name in ["app-objects.yaml", "ambient.yaml"] {
        let text = String::from_utf8(testdata(name)?)?;
        for object in objects::parse(&text).results.into_iter().flatten() {
            store.apply(objects::Change::Upsert(object));
        }
    }
    let mesh = Mesh::default();
    let index = mesh.index(&store);
    let translation = translate(&index);
    let waypoint = index.waypoints().next().context("the waypoint")?;
    Ok(envoy::translate(
        &index,
        &translation,
        waypoint,
        &mut Vec::new(),
    ))
}

/// Runs Envoy over `resources`; how many they are.
fn validate(binary: &Path, resources: &envoy::Resources) -> Result<String> {
    let mut fixed = StaticResources::default();
    for body in resources.listeners.values() {
        let mut listener = Listener::decode(&body[..])?;
        plain_listener(&mut listener)?;
        fixed.listeners.push(listener);
    }
    for (name, body) in &resources.clusters {
        let mut cluster = Cluster::decode(&body[..])?;
        if cluster.eds_cluster_config.take().is_some() {
            let endpoints = resources.endpoints.get(name);
            let endpoints = endpoints.with_context(|| format!("no endpoints of {name}"))?;
            cluster.load_assignment = Some(ClusterLoadAssignment::decode(&endpoints[..])?);
            let fixed = ClusterDiscoveryType::Type(DiscoveryType::Static as i32);
            cluster.cluster_discovery_type = Some(fixed);
        }
        fixed.clusters.push(cluster);
    }
    let chains: usize = fixed
        .listeners
        .iter()
        .map(|one| one.filter_chains.len())
        .sum();
    ensure!(
        fixed.clusters.iter().any(|one| one.name == ECHO),
        "no cluster {ECHO}"
    );
    let counts = format!(
        "{} clusters, {} listeners with {chains} chains",
        fixed.clusters.len(),
        fixed.listeners.len()
    );
    let internal = InternalListener {
        buffer_size_kb: Some(UInt32Value { value: 64 }),
    };
    let bootstrap = Bootstrap {
        static_resources: Some(fixed),
        bootstrap_extensions: vec![TypedExtensionConfig {
            name: "envoy.bootstrap.internal_listener".into(),
            typed_config: Some(Any {
                type_url: format!("type.googleapis.com/{}", InternalListener::full_name()),
                value: internal.encode_to_vec(),
            }),
        }],
        ..Bootstrap::default()
    };
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("bootstrap.pb");
    std::fs::write(&path, bootstrap.encode_to_vec())?;
    let output = Command::new(binary)
        .args([
            "--mode",
            "validate",
            "-l",
            "error",
            "--service-node",
            "wp",
            "--service-cluster",
            "wp",
            "-c",
        ])
        .arg(&path)
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}\n{text}", output.status);
    Ok(counts)
}

fn plain_listener(listener: &mut Listener) -> Result<()> {
    for chain in &mut listener.filter_chains {
        chain.filters.retain(|one| match &one.config_type {
            Some(filter::ConfigType::TypedConfig(config)) => !istio_only(config),
            _ => true,
        });
        for one in &mut chain.filters {
            let Some(filter::ConfigType::TypedConfig(config)) = &mut one.config_type else {
                continue;
            };
            if config.type_url.ends_with(".HttpConnectionManager") {
                let mut manager = HttpConnectionManager::decode(&config.value[..])?;
                plain_manager(&mut manager)?;
                config.value = manager.encode_to_vec();
            }
            if config
                .type_url
                .ends_with("network.set_filter_state.v3.Config")
            {
                let mut state = ConnectionState::decode(&config.value[..])?;
                state.on_new_connection.iter_mut().for_each(plain_state);
                config.value = state.encode_to_vec();
            }
        }
    }
    Ok(())
}

fn plain_manager(manager: &mut HttpConnectionManager) -> Result<()> {
    manager.http_filters.retain(|one| match &one.config_type {
        Some(http_filter::ConfigType::TypedConfig(config)) => !istio_only(config),
        _ => true,
    });
    for one in &mut manager.http_filters {
        let Some(http_filter::ConfigType::TypedConfig(config)) = &mut one.config_type else {
            continue;
        };
        if config.type_url.ends_with("http.set_filter_state.v3.Config") {
            let mut state = RequestState::decode(&config.value[..])?;
            state.on_request_headers.iter_mut().for_each(plain_state);
            config.value = state.encode_to_vec();
        }
    }
    Ok(())
}

/// The same value, but not hashed when shared upstream.
fn plain_state(value: &mut FilterStateValue) {
    if value.factory_key == "istio.hashable_string" {
        value.factory_key = "envoy.string".to_owned();
    }
}

fn istio_only(config: &Any) -> bool {
    // A TypedStruct begins as an Any does: field 1 is the type URL, field 2 has a length.
    let inner = Any::decode(&config.value[..])
        .ok()
        .filter(|_| config.type_url.ends_with("TypedStruct"));
    let type_url = inner.map_or_else(|| config.type_url.clone(), |inner| inner.type_url);
    ISTIO_ONLY.iter().any(|end| type_url.ends_with(end))
}
