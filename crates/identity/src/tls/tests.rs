//! Handshakes between our two configs, in memory: what is negotiated and who is refused with which
//! words.

use std::time::{Duration, SystemTime};

use rustls::{ClientConnection, ServerConnection};

use super::*;
use crate::certificate::Certificate;
use crate::issue::Issuer;

mod remembered;

const HOUR: Duration = Duration::from_secs(3600);

fn identity(trust_domain: &str, account: &str) -> Identity {
    Identity::new(trust_domain, "ns", account).unwrap()
}

fn root(name: &str) -> Issuer {
    Issuer::new_root(name, SystemTime::now() - HOUR, 100 * HOUR).unwrap()
}

fn certificate(issuer: &Issuer, identity: &Identity, groups: KeyExchange) -> Certificate {
    let key = Key::generate().unwrap();
    let chain = issuer
        .sign_key(&key, identity, SystemTime::now() - HOUR, 2 * HOUR)
        .unwrap();
    Certificate::from_chain(key, &chain, groups).unwrap()
}

/// Signs a leaf with any alternative names.
fn odd_certificate(names: &[rcgen::SanType]) -> (Certificate, Certificate) {
    let issuer = root("td");
    let good = certificate(&issuer, &identity("td", "good"), KeyExchange::Standard);
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = rcgen::KeyPair::from_pem(&issuer.key_pem().unwrap()).unwrap();
    let ca = rcgen::Issuer::from_ca_cert_pem(issuer.roots_pem(), ca).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = names.to_vec();
    let leaf = params.signed_by(&key, &ca).unwrap();
    // The product refuses to build a certificate of such a leaf; put it into a good one's configs.
    let der = CertificateDer::from(leaf.der().to_vec());
    let key = Key::from_pem(&key.serialize_pem()).unwrap();
    let certified = Arc::new(CertifiedKey::new(vec![der], Arc::new(key)));
    let mut roots = RootCertStore::empty();
    roots.add(good.roots()[0].clone()).unwrap();
    let roots = Arc::new(roots);
    let provider = provider(KeyExchange::Standard);
    let server = server_config(
        provider.clone(),
        roots.clone(),
        good.identity(),
        certified.clone(),
    )
    .unwrap();
    let client = client_config(provider, roots, certified).unwrap();
    let odd = certificate(&issuer, &identity("td", "odd"), KeyExchange::Standard);
    (good, odd.with_configs(server, client))
}

/// Runs a handshake to its end; the first error of either side.
fn handshake(
    client: &Certificate,
    server: &Certificate,
) -> Result<(ClientConnection, ServerConnection), Error> {
    let mut client = ClientConnection::new(client.client_config(), server_name())?;
    let mut server = ServerConnection::new(server.server_config())?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok((client, server))
}

fn refusal(client: &Certificate, server: &Certificate) -> String {
    explain(&handshake(client, server).map(|_| ()).unwrap_err())
}

#[test]
fn both_sides_learn_the_identity_over_tls13_post_quantum_and_h2() {
    let issuer = root("td")
        .new_intermediate("mid", SystemTime::now() - HOUR, 50 * HOUR)
        .unwrap();
    let a = certificate(&issuer, &identity("td", "a"), KeyExchange::Standard);
    let b = certificate(&issuer, &identity("td", "b"), KeyExchange::Standard);
    let (client, server) = handshake(&a, &b).unwrap();
    assert_eq!(
        client.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    assert_eq!(client.alpn_protocol(), Some(ALPN));
    assert_eq!(server.alpn_protocol(), Some(ALPN));
    let suite = client.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
    let group = client.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    assert_eq!(server.server_name(), None);
    let seen = peer::expect(client.peer_certificates(), &[b.identity().clone()]).unwrap();
    assert_eq!(seen, *b.identity());
    assert_eq!(
        peer::peer_identity(server.peer_certificates()).unwrap(),
        *a.identity()
    );
}

#[test]
fn the_next_handshake_is_a_full_one() {
    let issuer = root("td");
    let a = certificate(&issuer, &identity("td", "a"), KeyExchange::Standard);
    for _ in 0..3 {
        let (client, server) = handshake(&a, &a).unwrap();
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(server.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn post_quantum_only_accepts_nothing_else() {
    let issuer = root("td");
    let strict = certificate(&issuer, &identity("td", "a"), KeyExchange::PostQuantumOnly);
    handshake(&strict, &strict).unwrap();
    let mut old = certificate(&issuer, &identity("td", "b"), KeyExchange::Standard);
    let provider = CryptoProvider {
        kx_groups: vec![kx_group::X25519],
        ..(*provider(KeyExchange::Standard)).clone()
    };
    let mut roots = RootCertStore::empty();
    roots.add(old.roots()[0].clone()).unwrap();
    let key = Key::generate().unwrap();
    let chain = issuer
        .sign_key(&key, old.identity(), SystemTime::now(), HOUR)
        .unwrap();
    let chain = crate::certificate::parse_pem(&chain[0]).unwrap();
    let certified = Arc::new(CertifiedKey::new(chain, Arc::new(key)));
    let client = client_config(Arc::new(provider), Arc::new(roots), certified).unwrap();
    let server = (*old.server_config()).clone();
    old = old.with_configs(server, client);
    assert!(
        refusal(&old, &strict).contains("NoKxGroupsInCommon"),
        "{}",
        refusal(&old, &strict)
    );
}

#[test]
fn a_foreign_root_is_refused_on_both_sides() {
    let ours = certificate(&root("td"), &identity("td", "a"), KeyExchange::Standard);
    let theirs = certificate(&root("td"), &identity("td", "a"), KeyExchange::Standard);
    assert_eq!(
        refusal(&ours, &theirs),
        "invalid peer certificate: UnknownIssuer"
    );
}

#[test]
fn an_expired_peer_is_refused() {
    let issuer = root("td");
    let good = certificate(&issuer, &identity("td", "a"), KeyExchange::Standard);
    let key = Key::generate().unwrap();
    let then = SystemTime::now() - 10 * HOUR;
    let issuer = Issuer::new_root("td", then, 100 * HOUR).unwrap();
    let chain = issuer.sign_key(&key, good.identity(), then, HOUR).unwrap();
    let old = Certificate::from_chain(key, &chain, KeyExchange::Standard).unwrap();
    assert!(!old.valid_at(SystemTime::now()));
    let text = refusal(&old, &old);
    assert!(text.contains("certificate expired"), "{text}");
}

#[test]
fn a_client_of_another_trust_domain_is_refused_by_name() {
    let issuer = root("shared");
    let client = certificate(&issuer, &identity("there", "a"), KeyExchange::Standard);
    let server = certificate(&issuer, &identity("here", "b"), KeyExchange::Standard);
    let text = refusal(&client, &server);
    let want = "peer spiffe://there/ns/ns/sa/a is of another trust domain, ours is here";
    assert!(text.contains(want), "{text}");
}

#[test]
fn a_dialled_server_of_another_trust_domain_is_left_to_the_expected_identity() {
    let issuer = root("shared");
    let certified = |td| certificate(&issuer, &identity(td, "a"), KeyExchange::Standard);
    // The server accepts its own trust domain only, so let the client be of the server's.
    let (client, server) = (certified("there"), certified("there"));
    let (connection, _) = handshake(&client, &server).unwrap();
    let error = peer::expect(connection.peer_certificates(), &[identity("here", "a")]).unwrap_err();
    let want = "peer is spiffe://there/ns/ns/sa/a, expected spiffe://here/ns/ns/sa/a";
    assert_eq!(error.to_string(), want);
}

#[test]
fn a_client_without_certificate_is_refused() {
    let server = certificate(&root("td"), &identity("td", "a"), KeyExchange::Standard);
    let mut roots = RootCertStore::empty();
    roots.add(server.roots()[0].clone()).unwrap();
    let mut client = (*server.client_config()).clone();
    client.client_auth_cert_resolver =
        rustls::ClientConfig::builder_with_provider(provider(KeyExchange::Standard))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
            .client_auth_cert_resolver;
    let config = (*server.server_config()).clone();
    let bare = server.with_configs(config, client);
    assert_eq!(refusal(&bare, &bare), "peer sent no certificates");
}

#[test]
fn any_other_names_than_one_spiffe_uri_are_refused_by_both_sides() {
    let uri = |text: &str| rcgen::SanType::URI(text.try_into().unwrap());
    let dns = rcgen::SanType::DnsName("a.example".try_into().unwrap());
    let cases = [
        (vec![dns.clone()], "has no URI name"),
        (vec![], "has no URI name"),
        (
            vec![uri("spiffe://td/ns/ns/sa/a"), uri("spiffe://td/ns/ns/sa/b")],
            "has 2 URI names, want exactly one",
        ),
        (
            vec![uri("https://td/ns/ns/sa/a")],
            "names \"https://td/ns/ns/sa/a\", want spiffe://",
        ),
        (
            vec![uri("spiffe://td/ns/ns/sa/a/b"), dns],
            "names \"spiffe://td/ns/ns/sa/a/b\"",
        ),
    ];
    for (names, want) in cases {
        let (good, odd) = odd_certificate(&names);
        for text in [refusal(&odd, &good), refusal(&good, &odd)] {
            assert!(text.contains(want), "{names:?}: {text}");
        }
    }
}
