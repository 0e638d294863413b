//! Quick figure: CPU of two nodes with real mTLS tunnels against a pair of plain relays, in one process, blocks
//! interleaved. Bulk (one stream) in CPU-s per GB and 64 connections with 1 KB ping-pong in CPU-us per message.
//! `cargo run --release -p ztunnel --example relay_ratio [bulk|messages]`. Ratios only; the machine's noise is in them.

// An example prints; it has no log.
#![allow(clippy::print_stdout, missing_docs)]

#[path = "../../tests/common/mod.rs"]
mod common;
mod relay;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const BLOCK: Duration = Duration::from_millis(1500);
const ROUNDS: usize = 4;
const PEERS: usize = 64;
const MESSAGE: usize = 1024;

fn main() {
    let only = std::env::args().nth(1);
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let pair = common::Pair::start(1, |_| {});
    serve(pair.app.try_clone().expect("a listener can be duplicated"));
    let app = pair.app.local_addr().expect("bound");
    let far = relay::start(app);
    let near = relay::start(far);
    let mut figures: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 0..ROUNDS {
        // A B, then B A: what drifts hits both alike.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for which in order {
            let to = [pair.vip, near][which];
            let prefix = ["worker-", "relay-"][which];
            let name = ["tunnels", "relays "][which];
            if wanted("bulk") {
                let (cpu, gbits) = bulk(to, prefix);
                println!("{name} bulk {cpu:.3} CPU-s/GB at {gbits:.1} Gb/s");
                figures[which][0].push(cpu);
            }
            if wanted("messages") {
                let (cpu, rate) = ping_pong(to, prefix);
                println!("{name} messages {cpu:.2} CPU-us at {rate:.0}/s");
                figures[which][1].push(cpu);
            }
        }
    }
    for (index, name) in ["bulk", "messages"]
        .into_iter()
        .enumerate()
        .filter(|(_, name)| wanted(name))
    {
        let ratio = median(&mut figures[0][index]) / median(&mut figures[1][index]);
        println!("{name}: {ratio:.2}x of the relay pair");
    }
}

/// The application: the first byte says what is wanted: `b` = take everything, else echo messages.
fn serve(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 20];
                let mut kind = [0];
                if stream.read_exact(&mut kind).is_err() {
                    return;
                }
                let _ = stream.write_all(&kind);
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    if kind[0] != b'b' && stream.write_all(&buffer[..n]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn open(to: SocketAddr, kind: u8) -> TcpStream {
    let mut stream = TcpStream::connect(to).expect("the proxy listens");
    stream.set_nodelay(true).expect("a TCP socket");
    let mut answer = [0];
    stream
        .write_all(&[kind])
        .and_then(|()| stream.read_exact(&mut answer))
        .expect("the path works");
    stream
}

fn bulk(to: SocketAddr, prefix: &str) -> (f64, f64) {
    let mut stream = open(to, b'b');
    let chunk = vec![7; 1 << 20];
    let (cpu, start) = (cpu_seconds(prefix), Instant::now());
    let mut bytes = 0_f64;
    while start.elapsed() < BLOCK {
        stream.write_all(&chunk).expect("the path works");
        bytes += chunk.len() as f64;
    }
    let gigabytes = bytes / 1e9;
    (
        (cpu_seconds(prefix) - cpu) / gigabytes,
        gigabytes * 8.0 / start.elapsed().as_secs_f64(),
    )
}

fn ping_pong(to: SocketAddr, prefix: &str) -> (f64, f64) {
    let streams: Vec<_> = (0..PEERS).map(|_| open(to, b'e')).collect();
    let (cpu, start) = (cpu_seconds(prefix), Instant::now());
    let running: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            thread::spawn(move || {
                let (mut count, mut buffer) = (0_u64, [0; MESSAGE]);
                while start.elapsed() < BLOCK {
                    stream
                        .write_all(&[1; MESSAGE])
                        .and_then(|()| stream.read_exact(&mut buffer))
                        .expect("the path works");
                    count += 1;
                }
                count
            })
        })
        .collect();
    let messages: u64 = running.into_iter().map(|one| one.join().unwrap_or(0)).sum();
    let seconds = start.elapsed().as_secs_f64();
    (
        (cpu_seconds(prefix) - cpu) * 1e6 / messages as f64,
        messages as f64 / seconds,
    )
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// CPU of all threads of this process whose name starts with `prefix`, from the scheduler's nanosecond account.
fn cpu_seconds(prefix: &str) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let of = |task: std::path::PathBuf| -> Option<f64> {
        let name = std::fs::read_to_string(task.join("comm")).ok()?;
        let account = std::fs::read_to_string(task.join("schedstat")).ok()?;
        let nanos: f64 = account.split(' ').next()?.parse().ok()?;
        name.starts_with(prefix).then_some(nanos / 1e9)
    };
    tasks.filter_map(|task| of(task.ok()?.path())).sum()
}
