//! How many carriers and handshakes there may be, together and from one address. Asked by `listener` for each
//! accepted connection; pure counting.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What peers may hold; constants but in tests.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Handshakes at once; further connections wait in the backlog.
    pub handshakes: usize,
    /// Handshakes at once from one address, so that a silent peer leaves room for others.
    pub handshakes_of_one: usize,
    /// Carriers at once, with their handshakes.
    pub carriers: usize,
    /// Carriers at once from one address. A pod's ztunnel needs one or two; gateways and NAT stand for many.
    pub carriers_of_one: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: 256,
            handshakes_of_one: 64,
            carriers: 16_384,
            carriers_of_one: 1024,
        }
    }
}

impl Limits {
    /// The defaults, for a process that may have so many files open: half of them are for carriers, the rest for what
    /// goes out, and one address gets a quarter of those.
    pub fn within(files: u64) -> Self {
        let usual = Self::default();
        let carriers = usual
            .carriers
            .min(usize::try_from(files / 2).unwrap_or(usize::MAX));
        Self {
            carriers,
            carriers_of_one: usual.carriers_of_one.min(carriers / 4),
            ..usual
        }
    }
}

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// There are too many carriers.
    #[error("too many carriers")]
    Carriers,
    /// There are too many from this address.
    #[error("too many carriers from this address")]
    CarriersOfOne,
    /// Too many from this address have not finished their handshake.
    #[error("too many handshakes from this address")]
    HandshakesOfOne,
}

#[derive(Debug, Default, Clone, Copy)]
struct Held {
    carriers: usize,
    handshakes: usize,
}

#[derive(Debug, Default)]
struct State {
    carriers: usize,
    of_one: HashMap<IpAddr, Held>,
}

/// The counts.
#[derive(Debug)]
pub struct Admission {
    /// What may be held.
    pub limits: Limits,
    state: Mutex<State>,
}

impl Admission {
    /// Nothing is held yet.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection from this address, or says why not.
    pub fn admit(self: &Arc<Self>, from: IpAddr) -> Result<Admitted, Full> {
        let from = from.to_canonical();
        let mut state = self.lock();
        if state.carriers >= self.limits.carriers {
            return Err(Full::Carriers);
        }
        let held = state.of_one.get(&from).copied().unwrap_or_default();
        if held.carriers >= self.limits.carriers_of_one {
            return Err(Full::CarriersOfOne);
        }
        if held.handshakes >= self.limits.handshakes_of_one {
            return Err(Full::HandshakesOfOne);
        }
        state.carriers += 1;
        let held = state.of_one.entry(from).or_default();
        held.carriers += 1;
        held.handshakes += 1;
        Ok(Admitted {
            admission: self.clone(),
            from,
            shaking: true,
        })
    }
}

/// A connection that counts while this lives.
#[derive(Debug)]
pub struct Admitted {
    admission: Arc<Admission>,
    from: IpAddr,
    shaking: bool,
}

impl Admitted {
    /// The handshake has ended.
    pub fn shaken(&mut self) {
        if !std::mem::take(&mut self.shaking) {
            return;
        }
        if let Some(held) = self.admission.lock().of_one.get_mut(&self.from) {
            held.handshakes -= 1;
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.shaken();
        let mut state = self.admission.lock();
        state.carriers -= 1;
        let Some(held) = state.of_one.get_mut(&self.from) else {
            return;
        };
        held.carriers -= 1;
        if held.carriers == 0 {
            state.of_one.remove(&self.from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carriers_leave_files_for_what_goes_out() {
        let carriers = |files| {
            let limits = Limits::within(files);
            (limits.carriers, limits.carriers_of_one)
        };
        assert_eq!(carriers(1024), (512, 128));
        assert_eq!(carriers(6000), (3000, 750));
        assert_eq!(carriers(u64::MAX), (16_384, 1024));
    }

    #[test]
    fn one_address_leaves_room_for_others() {
        let admission = Admission::new(Limits {
            handshakes: 9,
            handshakes_of_one: 2,
            carriers: 4,
            carriers_of_one: 3,
        });
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let admit = |from: &str| admission.admit(ip(from));
        let mut first = admit("10.0.0.1").unwrap();
        let mut second = admit("::ffff:10.0.0.1").unwrap();
        assert_eq!(admit("10.0.0.1").unwrap_err(), Full::HandshakesOfOne);
        first.shaken();
        first.shaken();
        let third = admit("10.0.0.1").unwrap();
        second.shaken();
        assert_eq!(admit("10.0.0.1").unwrap_err(), Full::CarriersOfOne);
        let other = admit("10.0.0.2").unwrap();
        assert_eq!(admit("10.0.0.3").unwrap_err(), Full::Carriers);
        drop(other);
        let _other = admit("10.0.0.3").unwrap();
        drop((first, second, third));
        assert_eq!(admission.lock().of_one.len(), 1);
        assert_eq!(admission.lock().carriers, 1);
        admit("10.0.0.1").unwrap();
    }
}
