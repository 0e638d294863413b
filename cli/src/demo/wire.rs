//! Looks at every packet on the wire between the nodes while something is sent, and says what was
//! readable: the demo's proof that a secret does not show.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use sys::packet::Capture;

use super::net;
use super::plan::Node;

/// How long the tap waits before it asks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(20);
/// A tap looks no longer than that, whatever happens.
const LIMIT: Duration = Duration::from_secs(30);

/// What a tap saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Frames with a TCP payload or without.
    pub frames: u64,
    /// Their bytes from the link header on.
    pub bytes: u64,
    /// Frames that held the needle readable.
    pub readable: u64,
}

impl Seen {
    fn note(&mut self, frame: &[u8], needle: &[u8]) {
        self.frames += 1;
        self.bytes += frame.len() as u64;
        if holds(frame, needle) {
            self.readable += 1;
        }
    }
}

/// A running tap.
pub struct Tap {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<Seen>>,
}

impl Tap {
    /// Starts to look for `needle` on a node's end of the wire.
    ///
    /// # Errors
    /// When the tap cannot be opened.
    pub fn start(node: &Node, needle: &[u8]) -> Result<Self> {
        let (netns, interface) = net::uplink(node);
        let capture = Capture::open(&net::open(&netns)?, interface)?;
        let (stop, needle) = (Arc::new(AtomicBool::new(false)), needle.to_vec());
        let asked = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut seen, start) = (Seen::default(), Instant::now());
            loop {
                match capture.next(PATIENCE)? {
                    Some(frame) => seen.note(&frame, &needle),
                    // Quiet and asked to end: all that was sent before has been seen.
                    None if asked.load(Ordering::SeqCst) => return Ok(seen),
                    None => {}
                }
                if start.elapsed() > LIMIT {
                    return Ok(seen);
                }
            }
        });
        Ok(Self { stop, thread })
    }

    /// Ends the tap once the wire is quiet, and says what it saw.
    ///
    /// # Errors
    /// When reading packets failed.
    pub fn finish(self) -> Result<Seen> {
        self.stop.store(true, Ordering::SeqCst);
        Ok(self
            .thread
            .join()
            .map_err(|_| anyhow!("the packet tap died"))??)
    }
}

fn holds(frame: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && frame.windows(needle.len()).any(|w| w == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_needle_is_found_anywhere_in_a_frame() {
        let mut seen = Seen::default();
        seen.note(b"xxsecret", b"secret");
        seen.note(b"secre", b"secret");
        seen.note(b"", b"secret");
        assert_eq!(
            seen,
            Seen {
                frames: 3,
                bytes: 13,
                readable: 1
            }
        );
    }
}
