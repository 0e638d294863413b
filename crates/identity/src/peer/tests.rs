//! The walk to the names of a certificate on well-formed, mutilated and random bytes, and the texts.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::certificate::parse_pem;
use crate::issue::Issuer;
use crate::key::Key;

fn identity(account: &str) -> Identity {
    Identity::new("cluster.local", "ns", account).unwrap()
}

fn leaf() -> CertificateDer<'static> {
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    let issuer = Issuer::new_root("td", now, hour).unwrap();
    let chain = issuer
        .sign_key(&Key::generate().unwrap(), &identity("a"), now, hour)
        .unwrap();
    parse_pem(&chain[0]).unwrap().swap_remove(0)
}

/// One DER value.
fn der(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len();
    let mut out = vec![tag];
    match length {
        0..0x80 => out.push(length as u8),
        0x80..0x100 => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend(value);
    out
}

/// A certificate as far as this walk looks, with these extensions.
fn certificate(extensions: &[u8]) -> CertificateDer<'static> {
    let mut body = der(0xa0, &[2, 1, 2]);
    body.extend(der(2, &[1]));
    body.extend([0x30, 0].repeat(5));
    body.extend(der(0xa3, &der(0x30, extensions)));
    CertificateDer::from(der(0x30, &der(0x30, &body)))
}

fn names(critical: bool, names: &[u8]) -> Vec<u8> {
    let mut extension = der(6, &[0x55, 0x1d, 0x11]);
    if critical {
        extension.extend(der(1, &[0xff]));
    }
    extension.extend(der(4, &der(0x30, names)));
    der(0x30, &extension)
}

#[test]
fn a_leaf_of_ours_names_its_identity() {
    assert_eq!(leaf_identity(&leaf()).unwrap(), identity("a"));
    assert_eq!(peer_identity(Some(&[leaf()])).unwrap(), identity("a"));
}

#[test]
fn no_certificate_is_its_own_refusal() {
    assert_eq!(peer_identity(None), Err(PeerError::NoCertificate));
    assert_eq!(expect(Some(&[]), &[]), Err(PeerError::NoCertificate));
}

#[test]
fn other_extensions_and_other_kinds_of_names_are_passed_over() {
    let mut list = der(0x82, b"dns.example");
    list.extend(der(0x86, b"spiffe://cluster.local/ns/ns/sa/a"));
    list.extend(der(0x87, &[10, 0, 0, 1]));
    let other = der(
        0x30,
        &[der(6, &[0x55, 0x1d, 0x0f]), der(1, &[0xff]), der(4, &[3])].concat(),
    );
    for critical in [false, true] {
        let certificate = certificate(&[other.clone(), names(critical, &list)].concat());
        assert_eq!(leaf_identity(&certificate).unwrap(), identity("a"));
    }
}

#[test]
fn the_names_may_be_given_once() {
    let list = names(true, &der(0x86, b"spiffe://cluster.local/ns/ns/sa/a"));
    let error = leaf_identity(&certificate(&[list.clone(), list].concat())).unwrap_err();
    let want = "peer certificate is malformed: alternative names given twice";
    assert_eq!(error.to_string(), want);
}

#[test]
fn refusals_read_well() {
    let uri =
        |text: &[u8]| leaf_identity(&certificate(&names(true, &der(0x86, text)))).unwrap_err();
    let want = "peer certificate names \"spiffe://td/sa/a\", \
                want spiffe://<trust domain>/ns/<namespace>/sa/<service account>";
    assert_eq!(uri(b"spiffe://td/sa/a").to_string(), want);
    let hostile = uri(b"\x1b[31mred\n\xff").to_string();
    assert!(hostile.contains(r#""\u{1b}[31mred\n"#), "{hostile}");
    let long = uri(&[b'x'; 5000]).to_string();
    assert!(long.len() < 300 && long.contains("x\"…"), "{long}");

    let leaf = [leaf()];
    let none = expect(Some(&leaf), &[]).unwrap_err();
    assert_eq!(
        none.to_string(),
        "peer is spiffe://cluster.local/ns/ns/sa/a, expected nobody"
    );
    let other = expect(Some(&leaf), &[identity("b"), identity("c")]).unwrap_err();
    let want = "peer is spiffe://cluster.local/ns/ns/sa/a, expected \
                spiffe://cluster.local/ns/ns/sa/b or spiffe://cluster.local/ns/ns/sa/c";
    assert_eq!(other.to_string(), want);
    assert!(expect(Some(&leaf), &[identity("b"), identity("a")]).is_ok());
}

#[test]
fn every_cut_of_a_leaf_is_refused() {
    let leaf = leaf();
    for end in 0..leaf.len() {
        leaf_identity(&CertificateDer::from(&leaf[..end])).unwrap_err();
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = leaf_identity(&CertificateDer::from(bytes));
    }

    #[test]
    fn random_extensions_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = leaf_identity(&certificate(&bytes));
        let _ = leaf_identity(&certificate(&names(true, &bytes)));
    }

    #[test]
    fn a_flipped_byte_never_panics_nor_yields_a_second_name(at in 0usize..4000, to in any::<u8>()) {
        let list = names(true, &der(0x86, b"spiffe://cluster.local/ns/ns/sa/a"));
        let mut bytes = certificate(&list).to_vec();
        let at = at % bytes.len();
        bytes[at] = to;
        let _ = leaf_identity(&CertificateDer::from(bytes));
    }

    /// What this walk finds is what a general X.509 parser finds.
    #[test]
    fn agrees_with_a_general_parser(uris in proptest::collection::vec("[a-z:/]{1,40}", 0..4)) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        let uri = |u: &String| rcgen::SanType::URI(u.as_str().try_into().unwrap());
        params.subject_alt_names = uris.iter().map(uri).collect();
        let certificate = params.self_signed(&key).unwrap();
        let found = san::uris(certificate.der()).unwrap();
        prop_assert_eq!(found.count, uris.len());
        prop_assert_eq!(found.first, uris.first().map_or("", String::as_str).as_bytes());
    }
}
