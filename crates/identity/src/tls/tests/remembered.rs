//! Chains are verified once while that is safe, and anew whenever it might not be.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Counts verifications of the chain beneath.
#[derive(Debug)]
struct Counting {
    beneath: ServerChain,
    count: Arc<AtomicUsize>,
}

impl Chain for Counting {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.beneath.verify(leaf, intermediates, now)
    }
}

struct Verifier {
    remembering: Remembering,
    count: Arc<AtomicUsize>,
}

impl Verifier {
    fn new(roots: &[&Issuer], usage: &[u8]) -> Self {
        let mut store = RootCertStore::empty();
        for root in roots {
            let root = crate::certificate::parse_pem(root.roots_pem()).unwrap();
            store.add(root[0].clone()).unwrap();
        }
        let roots = Arc::new(store);
        let provider = provider(KeyExchange::Standard);
        let count = Arc::new(AtomicUsize::new(0));
        let beneath = ServerChain {
            roots: roots.clone(),
            provider,
        };
        let counting = Counting {
            beneath,
            count: count.clone(),
        };
        let remembering = Remembering::new(Box::new(counting), &roots, usage);
        Self { remembering, count }
    }

    /// Whether the chain is accepted, and how many verifications there were so far.
    fn verify(&self, chain: &[CertificateDer<'_>], at: SystemTime) -> (bool, usize) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let now = UnixTime::since_unix_epoch(since);
        let accepted = self.remembering.verify(&chain[0], &chain[1..], now);
        (accepted.is_ok(), self.count.load(Ordering::Relaxed))
    }
}

/// A chain for `key` that is good for two hours.
fn chain(issuer: &Issuer, key: &Key) -> Vec<CertificateDer<'static>> {
    let now = SystemTime::now();
    let pem = issuer
        .sign_key(key, &identity("td", "a"), now - HOUR, 2 * HOUR)
        .unwrap();
    let (_, issued) = pem.split_last().unwrap();
    let parsed = issued.iter().map(|pem| crate::certificate::parse_pem(pem));
    parsed.flat_map(Result::unwrap).collect()
}

#[test]
fn a_chain_is_verified_once() {
    let issuer = root("td");
    let verifier = Verifier::new(&[&issuer], b"server");
    let chain = chain(&issuer, &Key::generate().unwrap());
    let now = SystemTime::now();
    for _ in 0..3 {
        assert_eq!(verifier.verify(&chain, now), (true, 1));
    }
    // Another config of the same roots profits, another direction does not.
    let sibling = Verifier::new(&[&issuer], b"server");
    assert_eq!(sibling.verify(&chain, now), (true, 0));
    let other = Verifier::new(&[&issuer], b"client");
    assert_eq!(other.verify(&chain, now), (true, 1));
}

#[test]
fn an_expired_chain_is_refused_though_it_was_verified() {
    let issuer = root("td");
    let verifier = Verifier::new(&[&issuer], b"server");
    let chain = chain(&issuer, &Key::generate().unwrap());
    let now = SystemTime::now();
    assert_eq!(verifier.verify(&chain, now), (true, 1));
    assert_eq!(verifier.verify(&chain, now + 2 * HOUR), (false, 2));
    assert_eq!(verifier.verify(&chain, now - 2 * HOUR), (false, 3));
    assert_eq!(verifier.verify(&chain, now), (true, 3));
}

#[test]
fn an_intermediate_that_expires_first_ends_it() {
    let now = SystemTime::now();
    let top = root("td");
    let middle = top.new_intermediate("mid", now - HOUR, HOUR + HOUR / 2);
    let middle = middle.unwrap();
    let verifier = Verifier::new(&[&top], b"server");
    let chain = chain(&middle, &Key::generate().unwrap());
    assert_eq!(verifier.verify(&chain, now), (true, 1));
    assert_eq!(verifier.verify(&chain, now + HOUR / 4), (true, 1));
    assert_eq!(verifier.verify(&chain, now + 3 * HOUR / 4).1, 2);
}

#[test]
fn other_roots_verify_anew() {
    let (ours, theirs) = (root("td"), root("td"));
    let chain = chain(&ours, &Key::generate().unwrap());
    let now = SystemTime::now();
    let first = Verifier::new(&[&ours], b"server");
    assert_eq!(first.verify(&chain, now), (true, 1));
    let more = Verifier::new(&[&ours, &theirs], b"server");
    assert_eq!(more.verify(&chain, now), (true, 1));
    let changed = Verifier::new(&[&theirs], b"server");
    assert_eq!(changed.verify(&chain, now), (false, 1));
}

#[test]
fn another_chain_of_the_same_key_is_another_one() {
    let issuer = root("td");
    let key = Key::generate().unwrap();
    let verifier = Verifier::new(&[&issuer], b"server");
    let (first, second) = (chain(&issuer, &key), chain(&issuer, &key));
    let now = SystemTime::now();
    assert_eq!(verifier.verify(&first, now), (true, 1));
    assert_eq!(verifier.verify(&second, now), (true, 2));
    let forged = chain(&root("td"), &key);
    assert_eq!(verifier.verify(&forged, now), (false, 3));
    assert_eq!(
        verifier.verify(&forged, now),
        (false, 4),
        "a refusal is not remembered"
    );
    // One byte of the signature.
    let mut altered = first[0].to_vec();
    *altered.last_mut().unwrap() ^= 1;
    let altered = [CertificateDer::from(altered)];
    assert!(!verifier.verify(&altered, now).0);
}

#[test]
fn the_proof_of_the_key_is_asked_for_every_time() {
    let issuer = root("td");
    let good = certificate(&issuer, &identity("td", "a"), KeyExchange::Standard);
    handshake(&good, &good).unwrap();
    // Somebody shows the same chain without its key.
    let thief = Arc::new(CertifiedKey::new(
        good.chain().to_vec(),
        Arc::new(Key::generate().unwrap()),
    ));
    let mut roots = RootCertStore::empty();
    roots.add(good.roots()[0].clone()).unwrap();
    let roots = Arc::new(roots);
    let provider = provider(KeyExchange::Standard);
    let server = server_config(
        provider.clone(),
        roots.clone(),
        good.identity(),
        thief.clone(),
    );
    let client = client_config(provider, roots, thief).unwrap();
    let thief = certificate(&issuer, &identity("td", "a"), KeyExchange::Standard)
        .with_configs(server.unwrap(), client);
    for text in [refusal(&thief, &good), refusal(&good, &thief)] {
        assert!(text.contains("BadSignature"), "{text}");
    }
}
