//! The `certificates` of a dump: chains and roots, never keys.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use identity::Identity;
use identity::certificate::LeafFacts;
use identity::store::Status;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use crate::timestamp;

/// What is held of each identity.
pub(super) fn all(certificates: &[(Identity, Status)], now: SystemTime) -> Vec<Value> {
    certificates
        .iter()
        .map(|(identity, status)| one(identity, status, now))
        .collect()
}

fn one(identity: &Identity, status: &Status, now: SystemTime) -> Value {
    let held = status.certificate.as_deref();
    let list =
        |ders: &[CertificateDer<'static>]| ders.iter().filter_map(certificate).collect::<Vec<_>>();
    let state = match (held, &status.failure) {
        (Some(certificate), _) if certificate.valid_at(now) => "Available".to_owned(),
        (_, Some(failure)) => format!("Unavailable: {failure}"),
        (Some(_), None) => "Unavailable: expired".to_owned(),
        (None, None) => "Initializing".to_owned(),
    };
    json!({
        "identity": identity.to_string(),
        "state": state,
        "certChain": held.map(|certificate| list(certificate.chain())).unwrap_or_default(),
        "rootCerts": held.map(|certificate| list(certificate.roots())).unwrap_or_default(),
    })
}

pub(super) fn certificate(der: &CertificateDer<'static>) -> Option<Value> {
    let facts = LeafFacts::read(der).ok()?;
    Some(json!({
        // istioctl expects base64 of the PEM text.
        "pem": STANDARD.encode(pem(der)),
        "serialNumber": facts.serial,
        "validFrom": timestamp::seconds(facts.not_before),
        "expirationTime": timestamp::seconds(facts.not_after),
    }))
}

/// Characters in a line, as upstream writes them.
const LINE: usize = 60;

fn pem(der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text + "-----END CERTIFICATE-----\n"
}
