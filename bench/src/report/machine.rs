//! Where and with what the figures were made.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::world::Binaries;

/// Name and value of each fact.
pub fn facts(binaries: &Binaries) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("date", output("date", &["-u", "+%F"])),
        ("machine", machine()),
        ("cipher", cipher()),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("ours", version(&binaries.ztunnel)),
        (
            "commit",
            output("git", &["describe", "--always", "--dirty"]),
        ),
    ];
    if let Some(peer) = &binaries.peer {
        facts.push(("peer", version(peer)));
    }
    facts
}

/// A TLS record's plaintext.
const RECORD: usize = 16_384;
/// Records of one measurement: about 0.2 s.
const RECORDS: u64 = 1 << 15;

/// What the cipher alone costs on this machine, without any copy or socket: no pair of proxies with TLS is below that.
fn cipher() -> String {
    let Ok(key) = UnboundKey::new(&AES_256_GCM, &[7; 32]).map(LessSafeKey::new) else {
        return "unknown".to_owned();
    };
    let (mut record, mut opened) = (vec![1; RECORD], vec![0; RECORD]);
    let begun = Instant::now();
    for number in 0..RECORDS {
        let nonce = || {
            let mut bytes = [0; 12];
            bytes[4..].copy_from_slice(&number.to_be_bytes());
            Nonce::assume_unique_for_key(bytes)
        };
        let tag = key.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut record);
        let good = tag.and_then(|tag| {
            key.open_separate_gather(nonce(), Aad::empty(), &record, tag.as_ref(), &mut opened)
        });
        if good.is_err() {
            return "unknown".to_owned();
        }
    }
    let seconds = begun.elapsed().as_secs_f64() * 1e9 / (RECORDS as f64 * RECORD as f64);
    format!(
        "AES-256-GCM in records of 16 KiB, sealed and opened: {seconds:.2} CPU-s/GB of both proxies' figure"
    )
}

fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |line: &str| {
        line.split_once(':')
            .map(|(_, value)| value.trim().to_owned())
    };
    let model = cpus
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(field);
    let count = cpus
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse::<u64>().ok());
    format!(
        "{count} CPUs ({}), {} GiB",
        model.unwrap_or_else(|| "unknown".to_owned()),
        kib.unwrap_or(0) >> 20
    )
}

/// What the binary says of itself, on one line without the quotes and braces of JSON.
fn version(binary: &Path) -> String {
    let text = output(&binary.display().to_string(), &["version"]);
    one_line(&text)
}

fn one_line(text: &str) -> String {
    let spaced = text.replace(',', ", ").replace(['"', '{', '}'], "");
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let good = output.ok().filter(|output| output.status.success());
    let text = good.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.filter(|text| !text.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cipher_has_a_cost() {
        let told = cipher();
        assert!(told.contains("CPU-s/GB"), "{told}");
    }

    #[test]
    fn a_version_in_json_is_one_plain_line() {
        let text = "{\"version\":\"0.1.0\",\n \"gitRevision\":\"unknown\"}";
        assert_eq!(one_line(text), "version:0.1.0, gitRevision:unknown");
    }
}
