//! What is read from the kernel: CPU time and memory of processes, what the whole machine did, queues of sockets. The texts
//! are parsed by pure functions. Called by the scenarios.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use serde::Serialize;
use testkit::topology::Namespace;

/// A tick of /proc/stat.
const TICK: Duration = Duration::from_millis(10);

/// CPU time that a process has used, also by threads that have ended, to the nanosecond.
///
/// # Errors
/// When it is gone.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid)?))
        .with_context(|| format!("CPU clock of process {pid}"))?;
    Ok(clock
        .now()
        .with_context(|| format!("CPU time of process {pid}"))?
        .into())
}

/// CPU time of several processes together.
///
/// # Errors
/// When one is gone.
pub fn cpu_times(pids: &[u32]) -> Result<Duration> {
    pids.iter().map(|pid| cpu_time(*pid)).sum()
}

/// Memory of a process, KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// Resident, shared pages divided by their users.
    pub pss: u64,
}

/// Memory of several processes together.
///
/// # Errors
/// When one is gone.
pub fn memory(pids: &[u32]) -> Result<Memory> {
    let mut sum = Memory::default();
    for pid in pids {
        let path = format!("/proc/{pid}/smaps_rollup");
        let one = parse_rollup(&fs::read_to_string(&path).context(path)?);
        sum.rss += one.rss;
        sum.pss += one.pss;
    }
    Ok(sum)
}

fn parse_rollup(text: &str) -> Memory {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
    };
    Memory {
        rss: field("Rss:").unwrap_or(0),
        pss: field("Pss:").unwrap_or(0),
    }
}

/// What the machine has done since it started, in ticks of all its CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    steal: u64,
    total: u64,
}

fn parse_stat(text: &str) -> Option<Ticks> {
    let line = text.lines().find(|line| line.starts_with("cpu "))?;
    let numbers: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map_while(|word| word.parse().ok())
        .collect();
    let [user, nice, system, idle, wait, irq, softirq, steal, ..] = numbers[..] else {
        return None;
    };
    let busy = user + nice + system + irq + softirq;
    Some(Ticks {
        busy,
        steal,
        total: busy + idle + wait + steal,
    })
}

/// A look at the machine.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    at: Instant,
    ticks: Ticks,
    own: Duration,
}

/// What happened between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Part of the machine's time that the hypervisor took.
    pub steal: f64,
    /// Part of the machine's time that others than this run used; 10 ms ticks, so never exact.
    pub outsiders: f64,
    /// CPU-seconds of the whole machine, idle not counted.
    pub busy: f64,
}

/// Looks at the machine; `pids` and this process are ours.
///
/// # Errors
/// When /proc cannot be read.
pub fn look(pids: &[u32]) -> Result<Look> {
    let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let kernel: Duration = kernel_threads().into_iter().filter_map(scheduled).sum();
    let own: Duration = ClockId::CLOCK_PROCESS_CPUTIME_ID.now()?.into();
    Ok(Look {
        at: Instant::now(),
        ticks: parse_stat(&text).context("/proc/stat has no cpu line")?,
        own: own + kernel + cpu_times(pids)?,
    })
}

impl Look {
    /// What happened since `before`.
    #[must_use]
    pub fn since(&self, before: &Look) -> Machine {
        let total = (self.ticks.total - before.ticks.total).max(1) as f64;
        let busy = (self.ticks.busy - before.ticks.busy) as f64 * TICK.as_secs_f64();
        let own = self.own.saturating_sub(before.own).as_secs_f64();
        Machine {
            steal: (self.ticks.steal - before.ticks.steal) as f64 / total,
            outsiders: ((busy - own) / (total * TICK.as_secs_f64())).max(0.0),
            busy,
        }
    }

    /// Time since `before`.
    #[must_use]
    pub fn wall_since(&self, before: &Look) -> Duration {
        self.at - before.at
    }
}

/// The kernel's threads that do our network work when it is put off.
fn kernel_threads() -> Vec<u32> {
    static FOUND: std::sync::LazyLock<Vec<u32>> = std::sync::LazyLock::new(|| {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let network = |pid: &u32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.starts_with("ksoftirqd/")
        };
        pids.filter(network).collect()
    });
    FOUND.clone()
}

fn scheduled(pid: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}

/// Send and receive queue of a TCP socket, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    /// Not yet acknowledged.
    pub send: u64,
    /// Not yet read.
    pub receive: u64,
}

/// Queues of the established socket of `namespace` with these ports.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn queues(namespace: &Namespace, local: u16, remote: u16) -> Result<Option<Queues>> {
    let sockets = sockets(namespace)?;
    let fits =
        |socket: &&Socket| socket.local == local && socket.remote == remote && socket.established;
    Ok(sockets.iter().find(fits).map(|socket| socket.queues))
}

/// Established connections of `namespace` to a remote port.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn connections_to(namespace: &Namespace, remote: u16) -> Result<usize> {
    let sockets = sockets(namespace)?;
    let fits = |socket: &&Socket| socket.remote == remote && socket.established;
    Ok(sockets.iter().filter(fits).count())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    local: u16,
    remote: u16,
    established: bool,
    queues: Queues,
}

fn sockets(namespace: &Namespace) -> Result<Vec<Socket>> {
    let read = || {
        ["tcp", "tcp6"].map(|file| {
            fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default()
        })
    };
    let texts = namespace.run(read)?;
    Ok(texts
        .iter()
        .flat_map(|text| text.lines().filter_map(parse_socket))
        .collect())
}

/// `sl: local_address rem_address st tx_queue:rx_queue …`, numbers in hex.
fn parse_socket(line: &str) -> Option<Socket> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let port = |word: &str| u16::from_str_radix(word.rsplit(':').next()?, 16).ok();
    let (send, receive) = words.get(4)?.split_once(':')?;
    Some(Socket {
        local: port(words.get(1)?)?,
        remote: port(words.get(2)?)?,
        established: *words.get(3)? == "01",
        queues: Queues {
            send: u64::from_str_radix(send, 16).ok()?,
            receive: u64::from_str_radix(receive, 16).ok()?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_socket_table_is_read() {
        let line = "   3: 0201F40A:8124 0302F40A:1F90 01 00012C00:00000010 01:00000014 00000000     0        0 123 2 0";
        let queues = Queues {
            send: 0x12c00,
            receive: 0x10,
        };
        let socket = Socket {
            local: 0x8124,
            remote: 8080,
            established: true,
            queues,
        };
        assert_eq!(parse_socket(line), Some(socket));
        let head =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid";
        assert_eq!(parse_socket(head), None);
    }

    #[test]
    fn time_of_the_machine_is_split_into_busy_stolen_and_all() {
        let text = "cpu  100 20 30 1000 5 1 2 7 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        let ticks = Ticks {
            busy: 153,
            steal: 7,
            total: 1165,
        };
        assert_eq!(parse_stat(text), Some(ticks));
        assert_eq!(parse_stat("intr 5"), None);
    }

    #[test]
    fn what_nobody_of_us_used_was_used_by_outsiders() {
        let at = Instant::now();
        let look = |busy, steal, total, own| Look {
            at,
            ticks: Ticks { busy, steal, total },
            own: Duration::from_millis(own),
        };
        // Two seconds of CPU in all: 1.5 busy, of which 1.4 are ours.
        let machine = look(250, 2, 1200, 2400).since(&look(100, 0, 1000, 1000));
        assert!((machine.outsiders - 0.05).abs() < 1e-9, "{machine:?}");
        assert!((machine.steal - 0.01).abs() < 1e-9, "{machine:?}");
    }

    #[test]
    fn memory_is_read_from_the_rollup() {
        let text = "55-7f ---p 00000000 00:00 0 [rollup]\nRss:               10244 kB\nPss:                9000 kB\nPss_Dirty: 5 kB\n";
        assert_eq!(
            parse_rollup(text),
            Memory {
                rss: 10_244,
                pss: 9000
            }
        );
    }
}
