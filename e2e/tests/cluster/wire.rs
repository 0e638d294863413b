//! A look at every packet of both nodes: on the wire between them and on the veth of every pod.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, anyhow};
use sys::{Netns, packet::Capture};

use crate::bed::Bed;

/// What an application of `echo` says: readable, unless it is encrypted.
const NEEDLE: &[u8] = b"plainly from";
/// Application data of TLS 1.2 and 1.3 (RFC 8446, 5.1).
const RECORD: &[u8] = &[0x17, 3, 3];
/// A tap that has been quiet for so long has seen all that was sent before.
const QUIET: Duration = Duration::from_millis(50);

/// Frames that were seen.
#[derive(Default)]
pub struct Seen {
    /// With what an application said.
    pub plain: u64,
    /// To or from port 15008, with an encrypted record.
    pub tls: u64,
    /// All.
    pub frames: u64,
}

/// Looks while `act` acts.
pub fn looked_at(bed: &Bed, act: impl FnOnce() -> Result<()>) -> Result<Seen> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut taps = Vec::new();
    for node in 1..=2 {
        let netns = Netns::open(&bed.node_namespace(node))?;
        for interface in interfaces(bed, node)? {
            taps.push(tap(Capture::open(&netns, &interface)?, stop.clone()));
        }
    }
    let acted = act();
    stop.store(true, Ordering::SeqCst);
    let mut seen = Seen::default();
    for tap in taps {
        let one = tap.join().map_err(|_| anyhow!("a tap died"))??;
        seen.plain += one.plain;
        seen.tls += one.tls;
        seen.frames += one.frames;
    }
    acted.map(|()| seen)
}

fn interfaces(bed: &Bed, node: usize) -> Result<BTreeSet<String>> {
    let listed = bed.on_node(node, &["ls", "/sys/class/net"])?;
    Ok(listed
        .split_whitespace()
        .filter(|name| *name != "lo")
        .map(str::to_owned)
        .collect())
}

fn tap(capture: Capture, stop: Arc<AtomicBool>) -> JoinHandle<std::io::Result<Seen>> {
    thread::spawn(move || {
        let mut seen = Seen::default();
        loop {
            match capture.next(QUIET) {
                Ok(Some(frame)) => note(&mut seen, &frame),
                Ok(None) if stop.load(Ordering::SeqCst) => return Ok(seen),
                Ok(None) => {}
                // A pod or a node ended, and its interface with it: it has nothing more to say.
                Err(error) if error.kind() == ErrorKind::NetworkDown => return Ok(seen),
                Err(error) => return Err(error),
            }
        }
    })
}

fn note(seen: &mut Seen, frame: &[u8]) {
    let holds = |needle: &[u8]| frame.windows(needle.len()).any(|window| window == needle);
    seen.frames += 1;
    seen.plain += u64::from(holds(NEEDLE));
    seen.tls += u64::from(holds(&15008_u16.to_be_bytes()) && holds(RECORD));
}
