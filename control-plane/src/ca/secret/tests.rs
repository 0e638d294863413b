//! What a Secret holds through a whole rotation.

use identity::Key;

use super::*;
use crate::ca::rotation::due;

const HOUR: Duration = Duration::from_secs(3600);

fn plan() -> Plan {
    Plan {
        overlap: 2 * HOUR,
        life: 1000 * HOUR,
    }
}

fn start() -> (Fields, SystemTime) {
    // Whole seconds, as certificates and `since` have them.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    (create("td", now, &plan()).unwrap(), now)
}

fn step(fields: &Fields, step: Step, now: SystemTime) -> Fields {
    after(fields, step, "td", now, &plan()).unwrap()
}

fn roots(fields: &Fields) -> Vec<Vec<u8>> {
    let pem = issuer(fields).unwrap().roots_pem().to_owned();
    let roots = parse_pem(&pem).unwrap();
    roots.into_iter().map(|der| der.to_vec()).collect()
}

fn signing(fields: &Fields) -> Vec<u8> {
    parse_pem(text(fields, CERTIFICATE).unwrap()).unwrap()[0].to_vec()
}

#[test]
fn whoever_signs_was_announced_and_stays_trusted_for_an_overlap_each() {
    let (first, now) = start();
    assert_eq!(phase(&first).unwrap(), Phase::Steady);
    let old = signing(&first);
    let announced = step(&first, Step::Announce, now);
    assert_eq!(phase(&announced).unwrap(), Phase::Announced(now));
    assert_eq!(signing(&announced), old);
    assert_eq!(roots(&announced).len(), 2);
    let later = now + 2 * HOUR;
    let active = step(&announced, Step::Activate, later);
    assert_eq!(phase(&active).unwrap(), Phase::Retiring(later));
    let new = signing(&active);
    assert!(new != old && roots(&announced).contains(&new));
    assert_eq!(roots(&active), roots(&announced));
    let last = step(&active, Step::Retire, later + 2 * HOUR);
    assert_eq!(phase(&last).unwrap(), Phase::Steady);
    assert_eq!(roots(&last), [new]);
    assert_eq!(
        last.keys().collect::<Vec<_>>(),
        first.keys().collect::<Vec<_>>()
    );
}

#[test]
fn a_rotation_that_is_due_runs_to_its_end_and_no_further() {
    let (mut fields, start) = start();
    let mut steps = Vec::new();
    for hour in 0..1100 {
        let now = start + HOUR * hour;
        let ends = issuer(&fields).unwrap().not_after();
        let wanted = due(phase(&fields).unwrap(), ends, false, now, &plan());
        if wanted != Step::Rest {
            fields = step(&fields, wanted, now);
            steps.push((hour, wanted));
        }
    }
    let expected = [
        (800, Step::Announce),
        (802, Step::Activate),
        (804, Step::Retire),
    ];
    assert_eq!(steps, expected);
}

#[test]
fn steps_out_of_order_are_refused() {
    let (first, now) = start();
    for wrong in [Step::Activate, Step::Retire] {
        assert!(matches!(
            after(&first, wrong, "td", now, &plan()),
            Err(SecretError::Phase)
        ));
    }
    let announced = step(&first, Step::Announce, now);
    assert!(after(&announced, Step::Announce, "td", now, &plan()).is_err());
    assert_eq!(step(&announced, Step::Rest, now), announced);
}

/// Whether a server that trusts the roots of `trusting` accepts a client certificate of `signer`.
fn accepts(trusting: &Fields, signer: &Fields, now: SystemTime) -> bool {
    let key = Key::generate().unwrap();
    let who = "spiffe://td/ns/a/sa/b".parse().unwrap();
    let signer = issuer(signer)
        .unwrap()
        .new_intermediate("td", now, 2 * HOUR)
        .unwrap();
    let mut chain = signer.sign_key(&key, &who, now, HOUR).unwrap();
    chain.pop();
    let mut chain = parse_pem(&chain.concat()).unwrap();
    let mut store = rustls::RootCertStore::empty();
    for root in parse_pem(issuer(trusting).unwrap().roots_pem()).unwrap() {
        store.add(root).unwrap();
    }
    let provider = identity::tls::provider(identity::tls::KeyExchange::Standard);
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(store.into(), provider);
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let at = rustls::pki_types::UnixTime::since_unix_epoch(seconds);
    let leaf = chain.remove(0);
    verifier
        .build()
        .unwrap()
        .verify_client_cert(&leaf, &chain, at)
        .is_ok()
}

#[test]
fn certificates_are_accepted_by_whoever_is_at_most_one_phase_away() {
    let (first, now) = start();
    let announced = step(&first, Step::Announce, now);
    let active = step(&announced, Step::Activate, now);
    let last = step(&active, Step::Retire, now);
    let phases = [&first, &announced, &active, &last];
    let accepted = |trusting: usize, signer: usize| accepts(phases[trusting], phases[signer], now);
    for (one, other) in [(0, 1), (1, 2), (2, 3)] {
        assert!(
            accepted(one, other) && accepted(other, one),
            "{one} and {other}"
        );
    }
    // Two phases apart is why there are overlaps.
    assert!(!accepted(0, 2) && !accepted(3, 1));
}

#[test]
fn a_secret_of_istiods_own_root_is_taken_as_it_is() {
    let (mut fields, _) = start();
    fields.insert(ROOTS.into(), Vec::new());
    assert!(is_root(&fields).unwrap());
    assert_eq!(roots(&fields), [signing(&fields)]);
    fields.remove(ROOTS);
    fields.remove(CHAIN);
    assert_eq!(roots(&fields), [signing(&fields)]);
}

#[test]
fn what_is_no_authority_is_refused_with_the_field() {
    let (fields, _) = start();
    for (field, why) in [
        (CERTIFICATE, "ca-cert.pem is missing"),
        (KEY, "ca-key.pem is missing"),
    ] {
        let mut broken = fields.clone();
        broken.remove(field);
        let text = issuer(&broken).err().unwrap().to_string();
        assert!(text.starts_with(why), "{text}");
    }
    let (other, _) = start();
    let mut mixed = fields.clone();
    mixed.insert(KEY.into(), other[KEY].clone());
    let text = issuer(&mixed).err().unwrap().to_string();
    assert!(
        text.contains("ca-key.pem is not the key of ca-cert.pem"),
        "{text}"
    );
    let mut odd = fields;
    odd.insert(SINCE.into(), b"soon".to_vec());
    assert!(phase(&odd).is_err());
}
