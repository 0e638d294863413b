//! Transport sockets: the TLS of the tunnel and the plain sockets around it.

use super::{At, Converted, flag, required, take, unpack};
use crate::model::cluster::PeerPrefix;
use envoy_types::pb::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use envoy_types::pb::envoy::config::core::v3::{TransportSocket, transport_socket};
use envoy_types::pb::envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::CombinedCertificateValidationContext;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
    SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext, common_tls_context,
    subject_alt_name_matcher::SanType, tls_parameters::TlsProtocol,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::{Any, value::Kind};

/// The SDS names that we answer ourselves: our own certificate, and the roots.
const OWN_SECRETS: (&str, &str) = ("default", "ROOTCA");

/// The `typed_config` of a transport socket.
pub fn config(at: &At<'_>, socket: TransportSocket) -> Converted<Any> {
    take!(at, socket => TransportSocket { config_type } ignored { name } refused {});
    let transport_socket::ConfigType::TypedConfig(any) = required(at, "typed_config", config_type)?;
    Ok(any)
}

/// The server side of the tunnel: mutual TLS with our own certificate. Returns the accepted prefixes.
pub fn downstream(at: &At<'_>, any: &Any) -> Converted<Vec<PeerPrefix>> {
    let context: DownstreamTlsContext = unpack(at, any)?;
    take!(at, context => DownstreamTlsContext { common_tls_context, require_client_certificate }
        ignored { disable_stateful_session_resumption, session_timeout, ocsp_staple_policy, session_ticket_keys_type }
        refused { require_sni, full_scan_certs_on_sni_mismatch, prefer_client_ciphers });
    if !flag(require_client_certificate, false) {
        return Err(at
            .field("require_client_certificate")
            .refuse("must be true"));
    }
    mesh_tls(
        &at.field("common_tls_context"),
        required(at, "common_tls_context", common_tls_context)?,
    )
}

/// The client side of the tunnel.
pub fn upstream(at: &At<'_>, any: &Any) -> Converted<Vec<PeerPrefix>> {
    let context: UpstreamTlsContext = unpack(at, any)?;
    take!(at, context => UpstreamTlsContext { common_tls_context } ignored { max_session_keys }
        refused { sni, auto_host_sni, auto_sni_san_validation, allow_renegotiation, enforce_rsa_key_usage });
    mesh_tls(
        &at.field("common_tls_context"),
        required(at, "common_tls_context", common_tls_context)?,
    )
}

fn mesh_tls(at: &At<'_>, context: CommonTlsContext) -> Converted<Vec<PeerPrefix>> {
    take!(at, context => CommonTlsContext { tls_params, tls_certificate_sds_secret_configs, alpn_protocols,
            validation_context_type }
        ignored {}
        refused { tls_certificates, tls_certificate_provider_instance, custom_tls_certificate_selector,
            tls_certificate_certificate_provider, tls_certificate_certificate_provider_instance, custom_handshaker,
            key_log });
    if let Some(params) = tls_params {
        let at = &at.field("tls_params");
        take!(at, params => TlsParameters { tls_maximum_protocol_version } ignored { tls_minimum_protocol_version }
            refused { cipher_suites, ecdh_curves, signature_algorithms, compliance_policies });
        let highest = TlsProtocol::try_from(tls_maximum_protocol_version);
        if !matches!(highest, Ok(TlsProtocol::TlSv13 | TlsProtocol::TlsAuto)) {
            return Err(at
                .field("tls_maximum_protocol_version")
                .refuse("must allow TLS 1.3, which HBONE is"));
        }
    }
    if alpn_protocols != ["h2"] {
        return Err(at.field("alpn_protocols").refuse("must be h2 alone"));
    }
    match tls_certificate_sds_secret_configs.as_slice() {
        [secret] if secret.name == OWN_SECRETS.0 => {}
        _ => {
            return Err(at
                .field("tls_certificate_sds_secret_configs")
                .refuse("must be the secret 'default' alone"));
        }
    }
    use common_tls_context::ValidationContextType;
    match required(at, "validation_context_type", validation_context_type)? {
        ValidationContextType::CombinedValidationContext(combined) => {
            combined_validation(&at.field("combined_validation_context"), combined)
        }
        ValidationContextType::ValidationContextSdsSecretConfig(secret) => {
            roots(&at.field("validation_context_sds_secret_config"), &secret).map(|()| Vec::new())
        }
        _ => Err(at
            .field("validation_context_type")
            .refuse("must take its roots from the secret 'ROOTCA'")),
    }
}

fn roots(at: &At<'_>, secret: &SdsSecretConfig) -> Converted<()> {
    if secret.name == OWN_SECRETS.1 {
        return Ok(());
    }
    Err(at.field("name").refuse(format!(
        "secret {:?} is not supported; only 'ROOTCA' is",
        secret.name
    )))
}

fn combined_validation(
    at: &At<'_>,
    combined: CombinedCertificateValidationContext,
) -> Converted<Vec<PeerPrefix>> {
    take!(at, combined => CombinedCertificateValidationContext { default_validation_context,
            validation_context_sds_secret_config }
        ignored {}
        refused { validation_context_certificate_provider, validation_context_certificate_provider_instance });
    roots(
        &at.field("validation_context_sds_secret_config"),
        &required(
            at,
            "validation_context_sds_secret_config",
            validation_context_sds_secret_config,
        )?,
    )?;
    let Some(context) = default_validation_context else {
        return Ok(Vec::new());
    };
    let at = &at.field("default_validation_context");
    take!(at, context => CertificateValidationContext { match_typed_subject_alt_names } ignored {}
        refused { trusted_ca, ca_certificate_provider_instance, system_root_certs, watched_directory,
            verify_certificate_spki, verify_certificate_hash, match_subject_alt_names,
            require_signed_certificate_timestamp, crl, allow_expired_certificate, trust_chain_verification,
            custom_validator_config, only_verify_leaf_cert_crl, max_verify_depth, suppress_client_ca_list });
    let names = match_typed_subject_alt_names.into_iter().enumerate();
    names
        .map(|(i, name)| peer_prefix(&at.index("match_typed_subject_alt_names", i), name))
        .collect()
}

fn peer_prefix(at: &At<'_>, name: SubjectAltNameMatcher) -> Converted<PeerPrefix> {
    take!(at, name => SubjectAltNameMatcher { san_type, matcher } ignored {} refused { oid });
    if !matches!(SanType::try_from(san_type), Ok(SanType::Uri)) {
        return Err(at.field("san_type").refuse("must be URI"));
    }
    match required(at, "matcher", matcher)? {
        StringMatcher {
            ignore_case: false,
            match_pattern: Some(MatchPattern::Prefix(prefix)),
        } => Ok(PeerPrefix(prefix)),
        _ => Err(at.field("matcher").refuse("only a prefix is supported")),
    }
}

/// The socket of a service cluster: plain bytes, as they travel inside the tunnel or to a plain endpoint.
pub fn plain(at: &At<'_>, socket: Option<TransportSocket>) -> Converted<()> {
    let Some(socket) = socket else { return Ok(()) };
    let any = config(at, socket)?;
    let at = &at.field("typed_config");
    if any.type_url == super::type_url::<RawBuffer>() {
        return unpack::<RawBuffer>(at, &any).map(drop);
    }
    if any.type_url != super::type_url::<InternalUpstreamTransport>() {
        return Err(at.refuse(format!(
            "transport socket type '{}' is not supported",
            any.type_url
        )));
    }
    let internal: InternalUpstreamTransport = unpack(at, &any)?;
    take!(at, internal => InternalUpstreamTransport { transport_socket } ignored { passthrough_metadata } refused {});
    plain(&at.field("transport_socket"), transport_socket)
}

/// Sockets by what an endpoint's metadata says, as istiod has them for services that another proxy serves: HBONE first, Istio's
/// own TLS for sidecars perhaps, then plain. Whether there is such TLS: we do not speak it, so that endpoints which want
/// it get nothing.
pub fn by_endpoint(at: &At<'_>, matches: Vec<TransportSocketMatch>) -> Converted<bool> {
    let mut seen = Vec::new();
    for (i, one) in matches.into_iter().enumerate() {
        let at = &at.index("transport_socket_matches", i);
        take!(at, one => TransportSocketMatch { r#match, transport_socket } ignored { name } refused {});
        let socket = required(at, "transport_socket", transport_socket)?;
        let fields = r#match.unwrap_or_default().fields;
        let wanted: Vec<(&str, &str)> = fields
            .iter()
            .map(|(key, value)| match &value.kind {
                Some(Kind::StringValue(text)) => (key.as_str(), text.as_str()),
                _ => (key.as_str(), ""),
            })
            .collect();
        let sort = match wanted[..] {
            [("tunnel", "http")] => Sort::Tunnel,
            [("tlsMode", "istio")] => Sort::MutualTls,
            [] => Sort::Plain,
            _ => return Err(at.field("match").refuse("is none that istiod writes")),
        };
        if sort != Sort::MutualTls {
            plain(&at.field("transport_socket"), Some(socket))?;
        }
        seen.push(sort);
    }
    match seen[..] {
        [] | [Sort::Tunnel, Sort::Plain] => Ok(false),
        [Sort::Tunnel, Sort::MutualTls, Sort::Plain] => Ok(true),
        _ => Err(at
            .field("transport_socket_matches")
            .refuse("must be HBONE first and plain last")),
    }
}

/// What endpoints a socket is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Tunnel,
    MutualTls,
    Plain,
}
