//! Lines written beside the work: a bounded queue and one thread that writes batches. A slow or
//! blocked sink costs lines, which are counted, never time. Used for the process log and for the
//! access log of workers.
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// Bytes per write at most.
const BATCH: usize = 64 << 10;

/// Entries that may wait: single lines, or batches of them.
pub const QUEUE_LINES: usize = 10_000;
/// Bytes that may wait.
pub const QUEUE_BYTES: usize = 8 << 20;

enum Item {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Where lines go in. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Writer {
    queue: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
    waiting: Arc<AtomicUsize>,
}

impl Writer {
    /// Starts the writing thread for `sink`. It ends when the last clone is dropped.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(sink: impl Write + Send + 'static) -> std::io::Result<Self> {
        Self::with_capacity(sink, QUEUE_LINES)
    }

    /// As [`Writer::start`], with room for `lines`.
    ///
    /// # Errors
    /// As [`Writer::start`].
    pub fn with_capacity(sink: impl Write + Send + 'static, lines: usize) -> std::io::Result<Self> {
        let (queue, items) = sync_channel(lines);
        let waiting = Arc::new(AtomicUsize::new(0));
        let taken = waiting.clone();
        std::thread::Builder::new()
            .name("lines".into())
            .spawn(move || run(&items, &taken, sink))?;
        Ok(Self {
            queue,
            dropped: Arc::default(),
            waiting,
        })
    }

    /// Queues one line (with its newline). Never blocks: a full queue drops the line and counts it.
    pub fn write(&self, line: impl Into<Vec<u8>>) {
        self.write_lines(line, 1);
    }

    /// As [`Writer::write`], for `count` lines that belong to one moment: one wake-up for all of them.
    pub fn write_lines(&self, lines: impl Into<Vec<u8>>, count: u64) {
        let lines = lines.into();
        let len = lines.len();
        let full = self.waiting.fetch_add(len, Ordering::Relaxed) > QUEUE_BYTES;
        if full || self.queue.try_send(Item::Line(lines)).is_err() {
            self.waiting.fetch_sub(len, Ordering::Relaxed);
            self.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Lines lost so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything queued before has been written, at most `limit`. For the end of a
    /// process; it blocks the thread.
    pub fn flush(&self, limit: Duration) {
        let (done, written) = sync_channel(1);
        match self.queue.try_send(Item::Flush(done)) {
            Ok(()) => _ = written.recv_timeout(limit),
            // A sink this far behind will not catch up while we exit.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

fn run(items: &Receiver<Item>, taken: &AtomicUsize, sink: impl Write) {
    // One write for what has gathered, not one for each line.
    let mut sink = BufWriter::with_capacity(BATCH, sink);
    // A sink that fails (closed pipe) must not end the process: its lines are lost.
    while let Ok(first) = items.recv() {
        let mut next = Some(first);
        let mut waiting = Vec::new();
        while let Some(item) = next {
            match item {
                Item::Line(line) => {
                    let _ = sink.write_all(&line);
                    taken.fetch_sub(line.len(), Ordering::Relaxed);
                }
                Item::Flush(done) => waiting.push(done),
            }
            next = items.try_recv().ok();
        }
        let _ = sink.flush();
        for done in waiting {
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Condvar, Mutex};

    /// How far the sink is: `true` once a write has come, and whether it may go on.
    #[derive(Default)]
    struct Gate {
        entered: bool,
        open: bool,
    }
    type Gates = Arc<(Mutex<Gate>, Condvar)>;

    /// A sink that blocks until the gate opens.
    struct Gated(Gates, Arc<Mutex<Vec<u8>>>);
    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let mut gate = self.0.0.lock().unwrap();
            gate.entered = true;
            self.0.1.notify_all();
            while !gate.open {
                gate = self.0.1.wait(gate).unwrap();
            }
            self.1.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_blocked_sink_drops_and_counts_lines_and_never_blocks_the_caller() {
        let (gates, written) = (Gates::default(), Arc::new(Mutex::new(Vec::new())));
        let writer = Writer::with_capacity(Gated(gates.clone(), written.clone()), 4).unwrap();
        writer.write("line\n");
        let mut gate = gates.0.lock().unwrap();
        while !gate.entered {
            gate = gates.1.wait(gate).unwrap();
        }
        // From here on nothing is taken from the queue.
        drop(gate);
        for _ in 0..100 {
            writer.write("line\n");
        }
        assert_eq!(writer.dropped(), 96);
        gates.0.lock().unwrap().open = true;
        gates.1.notify_all();
        while written.lock().unwrap().len() != 5 * 5 {
            std::thread::yield_now();
        }
        writer.flush(Duration::from_secs(60));
        assert_eq!(writer.dropped(), 96);
    }
}
