//! What the demo needs of the machine, looked at before anything is made; every lack is named at once.
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Result, bail};

/// The binaries that the demo starts.
pub const BINARIES: [&str; 5] = [
    "control-plane",
    "ztunnel",
    "waypoint",
    "cni-agent",
    "causeway-cni",
];

/// Each command that the demo runs, how it is asked for its version, and its Debian package.
const COMMANDS: [(&str, &str, &str); 2] = [("ip", "-V", "iproute2"), ("nft", "-v", "nftables")];

/// What the kernel may lack, the command that fails then, and its input. The rules are those that the agent writes.
const TRIALS: [(&str, &str, &str); 5] = [
    (
        "no veth pairs (CONFIG_VETH)",
        "ip link add try0 type veth peer name try1",
        "",
    ),
    (
        "no bridges (CONFIG_BRIDGE)",
        "ip link add try2 type bridge",
        "",
    ),
    (
        "no policy routing (CONFIG_IP_MULTIPLE_TABLES)",
        "ip rule add fwmark 0x111/0xfff lookup 100 pref 32764",
        "",
    ),
    (
        "no routing tables (CONFIG_IP_MULTIPLE_TABLES)",
        "ip route add local default dev lo table 100",
        "",
    ),
    (
        "no capture rules (CONFIG_NF_TABLES, CONFIG_NFT_NAT, CONFIG_NFT_REDIR, CONFIG_NFT_CT)",
        "nft -f -",
        include_str!("../../../cni-plugin/testdata/dual-stack.nft"),
    ),
];

/// Looks at rights, commands, binaries and the kernel.
///
/// # Errors
/// All that is missing, each with what to do.
pub fn check(binaries: &Path) -> Result<()> {
    let mut lacks: Vec<String> = BINARIES
        .iter()
        .map(|name| binaries.join(name))
        .filter(|path| !path.exists())
        .map(|path| {
            format!(
                "no {}: build with `cargo build --release --workspace --bins`, or run `make demo`",
                path.display()
            )
        })
        .collect();
    let commands: Vec<String> = COMMANDS
        .iter()
        .filter(|(name, version, _)| !runs(name, &[version]))
        .map(|(name, _, package)| format!("no command `{name}`: install Debian's {package}"))
        .collect();
    let all_there = commands.is_empty();
    lacks.extend(commands);
    if !nix::unistd::geteuid().is_root() {
        lacks.push(
            "not root: network namespaces and packet rules need it; run again as root".to_owned(),
        );
    } else if all_there {
        lacks.extend(kernel_lacks());
    }
    if lacks.is_empty() {
        return Ok(());
    }
    bail!("the demo cannot run here:\n  - {}", lacks.join("\n  - "));
}

/// Where the binaries lie: beside the running command.
///
/// # Errors
/// When the path of the running command cannot be read.
pub fn binaries() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    Ok(this.parent().map(Path::to_path_buf).unwrap_or_default())
}

/// Tries in a throw-away namespace what the mesh needs of the kernel.
fn kernel_lacks() -> Vec<String> {
    let netns = match sys::Netns::create() {
        Ok(netns) => netns,
        Err(e) => {
            return vec![format!(
                "no network namespaces: {e} (kernel option CONFIG_NET_NS, or a container without CAP_SYS_ADMIN)"
            )];
        }
    };
    let tried = TRIALS.iter().map(|(what, command, input)| {
        let words: Vec<&str> = command.split_whitespace().collect();
        let said = tried_in(&netns, &words, input).err()?;
        Some(format!("{what}: `{command}` says {said:?}"))
    });
    let mut lacks: Vec<String> = tried.flatten().collect();
    if !Path::new("/proc/sys/net/ipv4/ip_forward").exists() {
        lacks.push("no IPv4 forwarding in /proc/sys".to_owned());
    }
    if let Err(e) = sys::packet::Capture::open(&netns, "lo") {
        lacks.push(format!("no packet sockets (CONFIG_PACKET): {e}"));
    }
    lacks
}

/// Runs a command inside a namespace; what it said when it failed.
fn tried_in(netns: &sys::Netns, words: &[&str], input: &str) -> Result<(), String> {
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let run = || -> std::io::Result<Output> {
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ends before it has read all says why itself.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    };
    let out = netns.enter(run).and_then(|out| out);
    let out = out.map_err(|e| e.to_string())?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Err(said.lines().next().unwrap_or_default().trim().to_owned())
}

fn runs(command: &str, arguments: &[&str]) -> bool {
    Command::new(command)
        .args(arguments)
        .output()
        .is_ok_and(|o| o.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_that_fails_says_what_the_command_said() {
        if !nix::unistd::geteuid().is_root() {
            let _ = writeln!(std::io::stderr(), "skipped: a namespace needs root");
            return;
        }
        let netns = sys::Netns::create().unwrap();
        for (what, command, input) in TRIALS {
            let words: Vec<&str> = command.split_whitespace().collect();
            assert_eq!(tried_in(&netns, &words, input), Ok(()), "{what}");
        }
        let said = tried_in(&netns, &["ip", "link", "add", "x", "type", "nosuch"], "");
        assert!(said.is_err_and(|said| said.contains("Unknown device type")));
        let said = tried_in(
            &netns,
            &["nft", "-f", "-"],
            "add rule inet none none accept",
        );
        assert!(said.is_err_and(|said| said.contains("No such file or directory")));
    }
}
