//! Where and with what the figures were made.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::world::Binaries;

/// Name and value of each fact.
pub fn facts(binaries: &Binaries) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("date", output("date", &["-u", "+%F"])),
        ("machine", machine()),
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
    fn a_version_in_json_is_one_plain_line() {
        let text = "{\"version\":\"0.1.0\",\n \"gitRevision\":\"unknown\"}";
        assert_eq!(one_line(text), "version:0.1.0, gitRevision:unknown");
    }
}
