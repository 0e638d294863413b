//! What the demo needs of the machine, looked at before anything is made; every lack is named at once.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

/// The binaries that the demo starts.
pub const BINARIES: [&str; 5] = [
    "control-plane",
    "ztunnel",
    "waypoint",
    "cni-agent",
    "causeway-cni",
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
    if !nix::unistd::geteuid().is_root() {
        lacks.push(
            "not root: network namespaces and packet rules need it; run again as root".to_owned(),
        );
    } else {
        if !runs("ip", &["-V"]) {
            lacks.push("no command `ip`: install Debian's iproute2".to_owned());
        } else if let Some(lack) = kernel_lack() {
            lacks.push(lack);
        }
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
fn kernel_lack() -> Option<String> {
    match sys::Netns::create() {
        Err(e) => Some(format!(
            "no network namespaces: {e} (kernel option CONFIG_NET_NS, or a container without CAP_SYS_ADMIN)"
        )),
        Ok(_) if !Path::new("/proc/sys/net/ipv4/ip_forward").exists() => {
            Some("no IPv4 forwarding in /proc/sys".to_owned())
        }
        Ok(_) => None,
    }
}

fn runs(command: &str, arguments: &[&str]) -> bool {
    Command::new(command)
        .args(arguments)
        .output()
        .is_ok_and(|o| o.status.success())
}
