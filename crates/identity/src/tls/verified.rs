//! Chains that were verified already: public-key work once per (chain, roots, direction) instead of once per handshake.
//! Used by the two certificate verifiers of `tls`. The proof that the peer holds the leaf's key is never remembered.
//!
//! Each thread has its own memory: a worker's handshakes take no lock and touch no line of another core, at the price of
//! one verification per thread. It is shared by all configs of the thread, since most have the same roots.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::{Error, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::certificate::LeafFacts;

/// Chains remembered per thread: at most twice this, about 70 bytes each.
const HALF: usize = 512;

type Digest = [u8; 32];

thread_local! {
    static VERIFIED: RefCell<Memory> = RefCell::default();
}

/// The work that is spared: from a leaf to one of the roots.
pub(super) trait Chain: fmt::Debug + Send + Sync {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error>;
}

/// Verifies chains, each once while it is remembered.
#[derive(Debug)]
pub(super) struct Remembering {
    chain: Box<dyn Chain>,
    trust: Digest,
}

impl Remembering {
    /// `usage` tells checks of clients from those of servers: the same chain may be good for one alone.
    pub(super) fn new(chain: Box<dyn Chain>, roots: &RootCertStore, usage: &[u8]) -> Self {
        Self {
            chain,
            trust: trust(roots, usage),
        }
    }

    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let key = presented(&self.trust, leaf, intermediates);
        if VERIFIED.with_borrow_mut(|memory| memory.holds(&key, now)) {
            return Ok(());
        }
        self.chain.verify(leaf, intermediates, now)?;
        // A member whose end cannot be read is no reason to refuse what webpki accepts, only to ask it again.
        if let Some(until) = first_end(leaf, intermediates) {
            VERIFIED.with_borrow_mut(|memory| memory.remember(key, now, until));
        }
        Ok(())
    }
}

/// What a verdict depends on beside the chain and the time. Whoever adds revocation lists adds their generation here.
fn trust(roots: &RootCertStore, usage: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    add(&mut context, usage);
    for root in &roots.roots {
        add(&mut context, &root.subject);
        add(&mut context, &root.subject_public_key_info);
        add(
            &mut context,
            root.name_constraints.as_deref().unwrap_or(&[]),
        );
    }
    finish(context)
}

fn presented(
    trust: &Digest,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Digest {
    let mut context = Context::new(&SHA256);
    add(&mut context, trust);
    add(&mut context, leaf);
    for intermediate in intermediates {
        add(&mut context, intermediate);
    }
    finish(context)
}

/// With its length, so that no two lists of parts look alike.
fn add(context: &mut Context, part: &[u8]) {
    context.update(&(part.len() as u64).to_be_bytes());
    context.update(part);
}

fn finish(context: Context) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// When the first member of a chain expires, Unix seconds.
fn first_end(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Option<u64> {
    let mut first = u64::MAX;
    for member in std::iter::once(leaf).chain(intermediates) {
        let end = LeafFacts::read(member).ok()?.not_after;
        let since: Duration = end.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        first = first.min(since.as_secs());
    }
    Some(first)
}

/// Two generations: a full younger one becomes the older one, which is forgotten. What is used moves to the younger.
#[derive(Default)]
struct Memory {
    young: HashMap<Digest, Span>,
    old: HashMap<Digest, Span>,
}

/// When a verdict holds: from the time of its verification until the first expiry, Unix seconds.
#[derive(Clone, Copy)]
struct Span {
    from: u64,
    until: u64,
}

impl Memory {
    fn holds(&mut self, key: &Digest, now: UnixTime) -> bool {
        let moved = self.old.remove(key);
        if let Some(span) = moved {
            self.insert(*key, span);
        }
        let now = now.as_secs();
        self.young
            .get(key)
            .is_some_and(|span| span.from <= now && now < span.until)
    }

    fn remember(&mut self, key: Digest, now: UnixTime, until: u64) {
        let from = now.as_secs();
        self.insert(key, Span { from, until });
    }

    fn insert(&mut self, key: Digest, span: Span) {
        if self.young.len() >= HALF {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, span);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn a_verdict_holds_from_its_time_until_the_first_expiry() {
        let mut memory = Memory::default();
        memory.remember([1; 32], at(100), 200);
        let times = [99, 100, 199, 200, 300];
        let held = times.map(|time| memory.holds(&[1; 32], at(time)));
        assert_eq!(held, [false, true, true, false, false]);
        assert!(!memory.holds(&[2; 32], at(150)));
    }

    #[test]
    fn memory_is_bounded_and_keeps_what_is_used() {
        let mut memory = Memory::default();
        let key = |number: u32| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_be_bytes());
            key
        };
        memory.remember(key(0), at(1), 9);
        for number in 1..10_000 {
            memory.remember(key(number), at(1), 9);
            assert!(memory.holds(&key(0), at(1)));
            assert!(memory.young.len() + memory.old.len() <= 2 * HALF);
        }
        assert!(!memory.holds(&key(1), at(1)));
    }
}
