//! What is signed, for whom and for how long; what is refused.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use rustls_pki_types::pem::PemObject as _;

use super::*;
use crate::certificate::Certificate;
use crate::tls::KeyExchange;

const HOUR: Duration = Duration::from_secs(3600);

/// Whole seconds, as certificates carry them.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn identity() -> Identity {
    Identity::new("td", "ns", "a").unwrap()
}

fn issued(issuer: &Issuer, ttl: Duration) -> Certificate {
    let key = Key::generate().unwrap();
    let csr = key.csr(&identity()).unwrap();
    let chain = issuer.sign_csr(&csr, &identity(), now(), ttl).unwrap();
    Certificate::from_chain(key, &chain, KeyExchange::Standard).unwrap()
}

#[test]
fn a_request_is_certified_for_the_given_identity_and_time() {
    let root = Issuer::new_root("td", now(), 100 * HOUR).unwrap();
    let certificate = issued(&root, 2 * HOUR);
    assert_eq!(*certificate.identity(), identity());
    assert_eq!(certificate.not_before(), now());
    assert_eq!(certificate.not_after(), now() + 2 * HOUR);
    assert_eq!(certificate.chain().len(), 1);
    assert_eq!(certificate.roots().len(), 1);
    let (_, leaf) = x509_parser::parse_x509_certificate(&certificate.chain()[0]).unwrap();
    assert!(!leaf.is_ca());
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(
        names.critical,
        "the subject is empty, so the name must be critical"
    );
}

#[test]
fn names_in_the_request_are_not_taken_over() {
    let root = Issuer::new_root("td", now(), 100 * HOUR).unwrap();
    let key = Key::generate().unwrap();
    let csr = key
        .csr(&Identity::new("td", "kube-system", "admin").unwrap())
        .unwrap();
    let chain = root.sign_csr(&csr, &identity(), now(), HOUR).unwrap();
    let certificate = Certificate::from_chain(key, &chain, KeyExchange::Standard).unwrap();
    assert_eq!(*certificate.identity(), identity());
}

#[test]
fn serial_numbers_differ_even_for_one_key() {
    let root = Issuer::new_root("td", now(), 100 * HOUR).unwrap();
    let key = Key::generate().unwrap();
    let serial = || {
        let chain = root.sign_key(&key, &identity(), now(), HOUR).unwrap();
        let certificate = Certificate::from_chain(key.clone(), &chain, KeyExchange::Standard);
        certificate.unwrap().serial().to_owned()
    };
    assert_ne!(serial(), serial());
}

#[test]
fn the_life_ends_with_the_issuer() {
    let root = Issuer::new_root("td", now(), 10 * HOUR).unwrap();
    assert_eq!(issued(&root, 1000 * HOUR).not_after(), now() + 10 * HOUR);
    let key = Key::generate().unwrap();
    let late = root
        .sign_key(&key, &identity(), now() + 11 * HOUR, HOUR)
        .unwrap_err();
    assert_eq!(
        late.to_string(),
        "the certificate authority's own certificate has expired"
    );
}

#[test]
fn a_ca_comes_back_from_its_files() {
    let root = Issuer::new_root("td", now(), 100 * HOUR).unwrap();
    let middle = root.new_intermediate("middle", now(), 50 * HOUR).unwrap();
    let lower = middle.new_intermediate("lower", now(), 40 * HOUR).unwrap();
    let files = CaFiles {
        certificate: &lower.intermediates[0],
        key: &lower.key_pem().unwrap(),
        chain: &lower.intermediates.concat(),
        root: root.roots_pem(),
    };
    let back = Issuer::from_pem(&files).unwrap();
    assert_eq!(back.intermediates, lower.intermediates);
    assert_eq!(back.not_after(), now() + 40 * HOUR);
    let certificate = issued(&back, HOUR);
    assert_eq!(certificate.chain().len(), 3);

    let root_files = CaFiles {
        certificate: root.roots_pem(),
        key: &root.key_pem().unwrap(),
        chain: "",
        root: root.roots_pem(),
    };
    assert_eq!(
        issued(&Issuer::from_pem(&root_files).unwrap(), HOUR)
            .chain()
            .len(),
        1
    );

    let other = CaFiles {
        key: &middle.key_pem().unwrap(),
        ..root_files
    };
    let error = Issuer::from_pem(&other)
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "certificate authority: ca-key.pem is not the key of ca-cert.pem"
    );
    let broken = CaFiles {
        certificate: "nothing",
        ..root_files
    };
    let error = Issuer::from_pem(&broken)
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "certificate authority: certificate chain: no certificate in PEM"
    );
}

#[test]
fn a_server_is_certified_by_names_and_addresses() {
    let root = Issuer::new_root("td", now(), 100 * HOUR).unwrap();
    let key = Key::generate().unwrap();
    let names = ["istiod.istio-system.svc", "127.0.0.1", "::1"];
    let chain = root.sign_server(&key, &names, now(), HOUR).unwrap();
    let leaf = parse_pem(&chain[0]).unwrap().swap_remove(0);
    let leaf = rustls::server::ParsedCertificate::try_from(&leaf).unwrap();
    for name in names {
        let name = rustls_pki_types::ServerName::try_from(name).unwrap();
        rustls::client::verify_server_name(&leaf, &name).unwrap();
    }
    let error = root
        .sign_server(&key, &["bücher.example"], now(), HOUR)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "name \"bücher.example\" cannot stand in a certificate"
    );
}

#[test]
fn keys_do_not_show() {
    let key = Key::generate().unwrap();
    assert_eq!(format!("{key:?}"), "Key(P-256, hidden)");
    let pem = key.to_pem().unwrap();
    assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    let back = Key::from_pem(&pem).unwrap();
    assert_eq!(back.der_bytes(), key.der_bytes());
    let error = Key::from_pem("rubbish").unwrap_err().to_string();
    assert!(
        error.starts_with("not a P-256 private key in PEM: "),
        "{error}"
    );
}

#[test]
fn a_chain_of_another_key_is_refused() {
    let root = Issuer::new_root("td", now(), 100 * HOUR).unwrap();
    let chain = root
        .sign_key(&Key::generate().unwrap(), &identity(), now(), HOUR)
        .unwrap();
    let build = |chain: &[String]| {
        let key = Key::generate().unwrap();
        Certificate::from_chain(key, chain, KeyExchange::Standard)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        build(&chain),
        "leaf certificate: its public key is not ours"
    );
    assert_eq!(
        build(&[]),
        "certificate chain of 0 entries: want a leaf and, last, the roots"
    );
    let short = "certificate chain of 1 entries: want a leaf and, last, the roots";
    assert_eq!(build(&chain[..1]), short);
    assert_eq!(
        build(&["x".into(), "y".into()]),
        "certificate chain: no certificate in PEM"
    );
}

proptest! {
    /// Requests come from clients: whatever they send ends in an error or a chain.
    #[test]
    fn a_mutilated_request_never_panics(
        flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..8),
        cut in any::<proptest::sample::Index>(),
    ) {
        let root = Issuer::new_root("td", now(), HOUR).unwrap();
        let csr = Key::generate().unwrap().csr(&identity()).unwrap();
        let mut der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(csr.as_bytes())
            .unwrap()
            .as_ref()
            .to_vec();
        for (at, to) in flips {
            let at = at % der.len();
            der[at] = to;
        }
        der.truncate(cut.index(der.len()) + 1);
        let _ = root.sign_csr(&pem("CERTIFICATE REQUEST", &der), &identity(), now(), HOUR);
    }

    #[test]
    fn a_text_that_is_no_request_never_panics(text in ".{0,300}") {
        let root = Issuer::new_root("td", now(), HOUR).unwrap();
        root.sign_csr(&text, &identity(), now(), HOUR).unwrap_err();
    }
}
