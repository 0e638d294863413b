//! Abuse of the codec: every flood ends with the code that it must end with, and what the codec holds for it is counted,
//! allocation by allocation.

#[path = "support/attacks.rs"]
mod attacks;

use allocation_counter::measure;
use attacks::{ATTACKS, Attack, End, Target, hello};
use causeway_hbone::proto::{Config, Connection, Limits, ProtocolError};

/// What a connection may hold for a hostile peer, bytes.
const MOST: u64 = 1 << 20;
/// And for each byte that the peer sent.
const FACTOR: u64 = 100;

/// A codec whose driver answers nothing and consumes nothing, and what it holds.
struct Victim {
    connection: Connection,
    held: i64,
    peak: u64,
    sent: u64,
}

impl Victim {
    fn new() -> Self {
        // Fewer resets than by default, for a short test; nothing else depends on that limit.
        let limits = Limits {
            resets: 20,
            ..Limits::default()
        };
        let config = Config {
            limits,
            ..Config::server()
        };
        let mut new = None;
        let counted = measure(|| new = Some(Connection::server(config)));
        Self {
            connection: new.expect("made"),
            held: counted.bytes_current,
            peak: 0,
            sent: 0,
        }
    }

    /// Takes bytes; `reads`: the peer takes what is said to it.
    fn take(&mut self, bytes: &[u8], reads: bool) -> Result<(), ProtocolError> {
        let (mut input, mut outcome) = (bytes, Ok(()));
        let counted = measure(|| {
            outcome = loop {
                match self.connection.receive(&mut input) {
                    Ok(Some(_)) => {}
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            if reads {
                *self.connection.output() = Vec::new();
            }
        });
        self.sent += bytes.len() as u64;
        self.peak = self.peak.max(self.held.unsigned_abs() + counted.bytes_max);
        self.held += counted.bytes_current;
        outcome
    }
}

fn target() -> Target {
    Target {
        authority: "10.0.0.1:80".to_owned(),
        talkative: "10.0.0.1:81".to_owned(),
    }
}

fn suffer(attack: &Attack, reads: bool) {
    let (mut victim, target) = (Victim::new(), target());
    victim.take(&hello(), true).expect("a good start");
    let mut end = End::Endured;
    for round in 0..attack.rounds {
        let outcome = victim.take(&(attack.round)(&target, round), reads);
        let name = attack.name;
        assert!(
            victim.peak < MOST && victim.peak < FACTOR * victim.sent,
            "{name}: {} bytes for {} in round {round}",
            victim.peak,
            victim.sent
        );
        if let Err(error) = outcome {
            end = End::Closed(error.code.0);
            break;
        }
    }
    assert_eq!(end, attack.end, "{}, reads: {reads}", attack.name);
}

#[test]
fn every_attack_ends_as_it_must_and_holds_little() {
    for attack in ATTACKS {
        for reads in [true, false] {
            suffer(attack, reads);
        }
    }
}
