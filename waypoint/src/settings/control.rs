//! Where the control plane and the certificate authority are, and how both sides prove themselves. Called by `settings`.

use identity::grpc::{GrpcConfig, GrpcError, RootSource, Token};
use runtime::Settings;
use std::path::Path;

/// Relative to the working directory, which is `/` in the image.
const ROOT: &str = "./var/run/secrets/istio/root-cert.pem";
const CLUSTER_ROOT: &str = "./var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
const TOKEN: &str = "./var/run/secrets/tokens/istio-token";

/// The names of one of the two clients' settings.
struct Names {
    address: &'static str,
    root: &'static str,
    alt: &'static str,
    headers: &'static str,
    what: &'static str,
}

const XDS: Names = Names {
    address: "XDS_ADDRESS",
    root: "XDS_ROOT_CA",
    alt: "ALT_XDS_HOSTNAME",
    headers: "XDS_HEADER_",
    what: "the control plane",
};
const CA: Names = Names {
    address: "CA_ADDRESS",
    root: "CA_ROOT_CA",
    alt: "ALT_CA_HOSTNAME",
    headers: "CA_HEADER_",
    what: "the certificate authority",
};

/// What both clients have in common.
struct Common {
    cluster: String,
    token: Token,
    root: &'static str,
    /// `ISTIOD_SAN`.
    alt: Option<String>,
}

/// Reads both: the control plane, then the authority, which is the same server where nothing else is said.
pub fn read(
    s: &mut Settings<'_>,
    cluster: &str,
    discovery: Option<&str>,
) -> (GrpcConfig, GrpcConfig) {
    elsewhere(s);
    let common = Common {
        cluster: cluster.to_owned(),
        token: token(s),
        root: root(s),
        alt: s.optional(
            "ISTIOD_SAN",
            "A second name that both certificates may carry; ALT_XDS_HOSTNAME and ALT_CA_HOSTNAME win over it.",
        ),
    };
    let default = discovery.unwrap_or(super::DISCOVERY);
    let xds = client(s, &common, &XDS, default);
    let default = s.optional(
        "CA_ADDR",
        "Address of the certificate authority; upstream's other name of CA_ADDRESS.",
    );
    let default = default.unwrap_or_else(|| xds.address.clone());
    let ca = client(s, &common, &CA, &default);
    (xds, ca)
}

/// Settings of pilot-agent that say where our identity comes from and that we do not carry out: to let them pass would be
/// to run as somebody else than was meant.
fn elsewhere(s: &mut Settings<'_>) {
    let only = [
        ("CA_PROVIDER", "Citadel", "Kind of certificate authority."),
        ("FILE_MOUNTED_CERTS", "false", "Certificates from files."),
        ("PROV_CERT", "", "Directory of a certificate to begin with."),
    ];
    for (name, right, meaning) in only {
        let allowed = match right {
            "" => "nothing (not supported by this version)".to_owned(),
            right => format!("`{right}` (nothing else is supported by this version)"),
        };
        s.optional_parsed(name, &allowed, meaning, |text| {
            (text == right || text.is_empty()).then_some(())
        });
    }
}

fn token(s: &mut Settings<'_>) -> Token {
    let token = s.optional(
        "AUTH_TOKEN",
        "Token: a file (read again for each request) or the token itself.",
    );
    match token {
        Some(text) if Path::new(&text).exists() => Token::File(text.into()),
        Some(text) if text.is_empty() => Token::None,
        Some(text) => Token::Literal(text),
        None if Path::new(TOKEN).exists() => Token::File(TOKEN.into()),
        None => Token::None,
    }
}

/// Where the root stands that nothing else is said of.
fn root(s: &mut Settings<'_>) -> &'static str {
    let words = [
        ("istiod", ROOT),
        ("kubernetes", CLUSTER_ROOT),
        ("system", "SYSTEM"),
    ];
    let meaning = "Who signed the control plane's certificate; picks the default of XDS_ROOT_CA and CA_ROOT_CA.";
    let allowed =
        "`istiod`, `kubernetes`, `system`, or another word for a root that istiod hands out";
    s.optional_parsed("PILOT_CERT_PROVIDER", allowed, meaning, |text| {
        let known = words.iter().find(|(word, _)| *word == text);
        Some(known.map_or(ROOT, |(_, root)| *root))
    })
    .unwrap_or(ROOT)
}

fn client(s: &mut Settings<'_>, common: &Common, names: &Names, default: &str) -> GrpcConfig {
    let what = names.what;
    let meaning = format!("Address of {what}; without a scheme, https.");
    let given = s.string(names.address, default, &meaning);
    let address = match given.contains("://") {
        true => given.clone(),
        false => format!("https://{given}"),
    };
    let meaning = format!(
        "What the certificate of {what} must chain to: a file (read again at each connect), `SYSTEM`, or PEM. Without it, by PILOT_CERT_PROVIDER."
    );
    let root = s.optional(names.root, &meaning);
    let root = root.filter(|root| !root.is_empty());
    let meaning = format!("A second name that the certificate of {what} may carry.");
    let alt_hostname = s.optional(names.alt, &meaning);
    let headers = s.prefixed(
        names.headers,
        "The rest of the name becomes a gRPC header of each request.",
    );
    let config = GrpcConfig {
        address,
        root: RootSource::parse(root.as_deref().unwrap_or(common.root)),
        alt_hostname: alt_hostname.or_else(|| common.alt.clone()),
        token: common.token.clone(),
        cluster_id: common.cluster.clone(),
        headers,
        mark: None,
    };
    for error in config.check() {
        match error {
            GrpcError::Address(_) => s.fault(names.address, Some(given.clone()), ADDRESS),
            GrpcError::Header(name) => {
                let value = config.headers.iter().find(|(header, _)| *header == name);
                let value = value.map(|(_, value)| value.clone());
                s.fault(&format!("{}{name}", names.headers), value, HEADER);
            }
        }
    }
    config
}

const ADDRESS: &str = "`host:port`, `https://host:port`, or `http://host:port` for plaintext";
const HEADER: &str = "a name and a value that a gRPC header can carry";
