//! The TLS contexts of a waypoint: its own certificate and roots come over SDS from its own process.

use envoy_types::pb::envoy::{
    config::core::v3::{
        ApiConfigSource, ApiVersion, ConfigSource, GrpcService, TransportSocket,
        api_config_source::ApiType, config_source::ConfigSourceSpecifier, grpc_service,
        transport_socket,
    },
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
        SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext,
        common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
        subject_alt_name_matcher::SanType,
        tls_parameters::TlsProtocol,
    },
};
use prost::{Message, Name};

use super::pack::{any, flag, prefix, seconds};

/// For the listener: peers must show a certificate of the mesh.
pub(super) fn downstream(trust_domain: &str) -> TransportSocket {
    let context = DownstreamTlsContext {
        common_tls_context: Some(context(&[format!("spiffe://{trust_domain}/")])),
        require_client_certificate: flag(true),
        ..DownstreamTlsContext::default()
    };
    socket("tls", &context)
}

/// For a cluster: the peer's identity must begin with one of these.
pub(super) fn upstream(names: &[String]) -> TransportSocket {
    let context = UpstreamTlsContext {
        common_tls_context: Some(context(names)),
        ..UpstreamTlsContext::default()
    };
    socket("tls", &context)
}

/// A transport socket of any kind.
pub(super) fn socket<M: Message + Name>(name: &str, config: &M) -> TransportSocket {
    TransportSocket {
        name: name.into(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(config))),
    }
}

fn context(names: &[String]) -> CommonTlsContext {
    let version = i32::from(TlsProtocol::TlSv13);
    let san = |name: &String| SubjectAltNameMatcher {
        san_type: SanType::Uri.into(),
        matcher: Some(prefix(name)),
        ..SubjectAltNameMatcher::default()
    };
    let validation = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: names.iter().map(san).collect(),
            ..CertificateValidationContext::default()
        }),
        validation_context_sds_secret_config: Some(secret("ROOTCA")),
        ..CombinedCertificateValidationContext::default()
    };
    CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: version,
            tls_maximum_protocol_version: version,
            ..TlsParameters::default()
        }),
        tls_certificate_sds_secret_configs: vec![secret("default")],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
        alpn_protocols: vec!["h2".into()],
        ..CommonTlsContext::default()
    }
}

fn secret(name: &str) -> SdsSecretConfig {
    let target = grpc_service::EnvoyGrpc {
        cluster_name: "sds-grpc".into(),
        ..Default::default()
    };
    let service = GrpcService {
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(target)),
        ..GrpcService::default()
    };
    let api = ApiConfigSource {
        api_type: ApiType::Grpc.into(),
        transport_api_version: ApiVersion::V3.into(),
        grpc_services: vec![service],
        set_node_on_first_message_only: true,
        ..ApiConfigSource::default()
    };
    let source = ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(api)),
        initial_fetch_timeout: seconds(0),
        resource_api_version: ApiVersion::V3.into(),
        ..ConfigSource::default()
    };
    SdsSecretConfig {
        name: name.into(),
        sds_config: Some(source),
    }
}
