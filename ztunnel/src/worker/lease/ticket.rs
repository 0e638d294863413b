//! The 32 bytes with which a lease opens: which worker offers it, made so that nobody else can make them. Pure. Used by
//! `lease`.

use aws_lc_rs::{constant_time, hmac};

use super::super::slots::Key;

/// Length of a nonce on the wire.
pub(in super::super) const NONCE: usize = 32;
/// Where its tag begins.
const TAG: usize = 16;
/// Its first byte. A TLS handshake begins with 0x16.
const FIRST: u8 = 0xca;

/// The key with which this process knows its own nonces; never leaves memory.
pub(in super::super) struct Secret(hmac::Key);

/// What a nonce says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Ticket {
    /// The worker that offers the lease.
    pub(in super::super) worker: u16,
    /// The lease there.
    pub(in super::super) lease: Key,
    /// Drawn anew for each offer.
    pub(in super::super) random: [u8; 5],
}

impl Secret {
    pub(in super::super) fn new(key: [u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &key))
    }

    /// The nonce of a ticket; it opens the door of this pod (uid) and no other.
    pub(in super::super) fn seal(&self, ticket: &Ticket, pod: &str) -> [u8; NONCE] {
        let mut nonce = [0; NONCE];
        nonce[0] = FIRST;
        nonce[1..3].copy_from_slice(&ticket.worker.to_be_bytes());
        nonce[3..11].copy_from_slice(&ticket.lease.to_bits().to_be_bytes());
        nonce[11..TAG].copy_from_slice(&ticket.random);
        let tag = self.tag(&nonce[..TAG], pod);
        nonce[TAG..].copy_from_slice(&tag.as_ref()[..NONCE - TAG]);
        nonce
    }

    /// The ticket, if this process has made the nonce for this pod.
    pub(in super::super) fn open(&self, nonce: &[u8], pod: &str) -> Option<Ticket> {
        let nonce: &[u8; NONCE] = nonce.try_into().ok()?;
        let (head, tag) = nonce.split_at(TAG);
        let expected = self.tag(head, pod);
        constant_time::verify_slices_are_equal(tag, &expected.as_ref()[..NONCE - TAG]).ok()?;
        let [first, a, b, lease @ .., r0, r1, r2, r3, r4] = *head.first_chunk::<TAG>()?;
        (first == FIRST).then(|| Ticket {
            worker: u16::from_be_bytes([a, b]),
            lease: Key::from_bits(u64::from_be_bytes(lease)),
            random: [r0, r1, r2, r3, r4],
        })
    }

    fn tag(&self, head: &[u8], pod: &str) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(head);
        context.update(pod.as_bytes());
        context.sign()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_of_this_process_and_the_right_pod_open_a_nonce() {
        let (ours, other) = (Secret::new([1; 32]), Secret::new([2; 32]));
        let ticket = Ticket {
            worker: 7,
            lease: Key::from_bits(0x1abc_0000_1234),
            random: *b"salty",
        };
        let nonce = ours.seal(&ticket, "pod-b");
        assert_ne!(nonce[0], 0x16);
        assert_eq!(ours.open(&nonce, "pod-b"), Some(ticket));
        assert_eq!(ours.open(&nonce, "pod-c"), None);
        assert_eq!(other.open(&nonce, "pod-b"), None);
        assert_eq!(ours.open(&nonce[..31], "pod-b"), None);
        for bit in 0..NONCE * 8 {
            let mut bent = nonce;
            bent[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ours.open(&bent, "pod-b"), None, "bit {bit}");
        }
    }
}
