//! The quick figure: CPU time per GB and per message of two ztunnels, against two plain relays in the same place, in the
//! same run, in interleaved blocks. `make quick-figure`; QUICK_FIGURE="<rounds> <seconds per block>", WORKERS=<per
//! ztunnel>, ONLY=<part of a row's name>. Ends with exit code 1 when a ratio is above its bound. Needs root.

mod load;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use causeway_bench::relay;
use load::{Kind, Way};
use testkit::mesh::{LIMIT, Mesh, Pod};
use testkit::process::Process;
use testkit::redirect;

const PORT: u16 = 8080;
/// The ztunnels may cost so many times what the relays cost, by the median of the blocks' ratios.
const BOUND: f64 = 1.5;
/// Where the capture rules lead to, and what they leave alone.
const OUTBOUND: u16 = 15001;
const INBOUND: u16 = 15008;
const MARK: u32 = 0x539;
const KINDS: [(&str, Kind); 3] = [
    ("bulk up, CPU-s/GB", Kind::Up),
    ("bulk down, CPU-s/GB", Kind::Down),
    ("64 x 1 KiB, CPU-us/message", Kind::Messages(64)),
];

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [role, port, target] = arguments.as_slice() {
        anyhow::ensure!(role == "relay", "no role {role}");
        relay::run(port.parse()?, &target.parse()?, MARK)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Err(reason) = testkit::topology::supported() {
        bail!("{reason}");
    }
    let plan = env::var("QUICK_FIGURE").unwrap_or_else(|_| "15 0.5".to_owned());
    let (rounds, seconds) = plan
        .split_once(' ')
        .context("QUICK_FIGURE is \"<rounds> <seconds>\"")?;
    let time = Duration::from_secs_f64(seconds.parse()?);
    let workers = env::var("WORKERS").unwrap_or_else(|_| "2".to_owned());
    let only = env::var("ONLY").unwrap_or_default();
    let kinds: Vec<_> = KINDS
        .iter()
        .filter(|(name, _)| name.contains(&only))
        .collect();
    let stage = Stage::set_up(&workers)?;
    let mut seen = vec![[Vec::new(), Vec::new()]; kinds.len()];
    for round in 0..rounds.parse::<usize>()? {
        for (index, (_, kind)) in kinds.iter().enumerate() {
            // A B, then B A: drift of the machine falls on both.
            for turn in 0..2 {
                let peer = (round + turn) % 2;
                seen[index][peer].push(stage.block(peer, *kind, time)?);
            }
        }
    }
    println!(
        "{workers} workers per ztunnel; medians (lowest..highest) of {rounds} blocks of {seconds} s"
    );
    let mut all_met = true;
    for ((name, kind), [ours, relays]) in kinds.iter().zip(&seen) {
        let ratios = ours
            .iter()
            .zip(relays)
            .map(|(ours, relays)| ours.cost / relays.cost);
        let met = median(ratios.clone()).is_some_and(|ratio| ratio <= BOUND);
        all_met &= met;
        println!(
            "{name:28} ztunnels {}  relays {}  ratio {}, at most {BOUND}: {}  of the best quarter {:.2}   {} {} against {}",
            spread(ours.iter().map(|one| one.cost)),
            spread(relays.iter().map(|one| one.cost)),
            spread(ratios),
            if met { "met" } else { "NOT met" },
            best_quarter(ours) / best_quarter(relays),
            if matches!(kind, Kind::Messages(_)) {
                "messages/s"
            } else {
                "Gb/s"
            },
            spread(ours.iter().map(|one| one.rate)),
            spread(relays.iter().map(|one| one.rate)),
        );
    }
    Ok(ExitCode::from(u8::from(!all_met)))
}

/// Both peers, each with a client and a server pod on two nodes.
struct Stage {
    /// Client and server pod: of the ztunnels, of the relays.
    pods: [[Pod; 2]; 2],
    relays: [Process; 2],
    mesh: Mesh,
}

/// One block's figures.
#[derive(Clone, Copy)]
struct Figures {
    /// CPU-s per GB or CPU-us per message.
    cost: f64,
    /// Gb/s or messages per second.
    rate: f64,
}

impl Stage {
    fn set_up(workers: &str) -> Result<Self> {
        let mut mesh = Mesh::start_with(2, &[("ZTUNNEL_WORKER_THREADS", workers)])?;
        mesh.tells = false;
        let tunnelled = [
            mesh.pod(0, "client", "client")?,
            mesh.pod(1, "server", "server")?,
        ];
        let plain = [
            mesh.bare_pod(0, "rclient", "none")?,
            mesh.bare_pod(1, "rserver", "none")?,
        ];
        mesh.settle()?;
        // The same rules and marks as for a ztunnel, so that both take the same way through the kernel.
        let start = |pod: &Pod, port: u16, target: u16| -> Result<Process> {
            redirect::capture(&pod.net)?;
            let target = plain[1].at(target).to_string();
            let arguments = ["relay", &port.to_string(), &target];
            let log = tempfile::NamedTempFile::new()?.into_temp_path().keep()?;
            let relay = Process::start(
                &pod.net.ns,
                &env::current_exe()?,
                &arguments,
                &BTreeMap::new(),
                &log,
            )?;
            relay.wait_log("relay ready", LIMIT)?;
            fs::remove_file(log)?;
            Ok(relay)
        };
        let relays = [
            start(&plain[0], OUTBOUND, INBOUND)?,
            start(&plain[1], INBOUND, PORT)?,
        ];
        Ok(Self {
            pods: [tunnelled, plain],
            relays,
            mesh,
        })
    }

    fn block(&self, peer: usize, kind: Kind, time: Duration) -> Result<Figures> {
        let [client, server] = &self.pods[peer];
        let way = Way {
            client: &client.net,
            server: &server.net.ns,
            target: server.at(PORT),
        };
        let ztunnels = self
            .mesh
            .nodes
            .iter()
            .filter_map(|node| node.ztunnel.as_ref());
        let processes: Vec<&Process> = match peer {
            0 => ztunnels.collect(),
            _ => self.relays.iter().collect(),
        };
        let cpu = || processes.iter().map(|process| process.cpu_time()).sum();
        let block = load::run(&way, kind, time, cpu)?;
        let (count, wall) = (block.count as f64, block.wall.as_secs_f64());
        let per = block.cpu.as_secs_f64() / count;
        Ok(match kind {
            Kind::Messages(_) => Figures {
                cost: per * 1e6,
                rate: count / wall,
            },
            _ => Figures {
                cost: per * 1e9,
                rate: count * 8.0 / wall / 1e9,
            },
        })
    }
}

/// The cost below which the cheapest quarter of the blocks lies: what others do on the machine only ever adds.
fn best_quarter(blocks: &[Figures]) -> f64 {
    let mut costs: Vec<f64> = blocks.iter().map(|block| block.cost).collect();
    costs.sort_by(f64::total_cmp);
    costs.get(costs.len() / 4).copied().unwrap_or(f64::NAN)
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Median with the lowest and the highest.
fn spread(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let digits = if values.last().is_some_and(|last| *last > 100.0) {
        0
    } else {
        2
    };
    let (Some(low), Some(high)) = (values.first(), values.last()) else {
        return "-".to_owned();
    };
    let middle = values[values.len() / 2];
    format!("{middle:.digits$} ({low:.digits$}..{high:.digits$})")
}
