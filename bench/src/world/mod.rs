//! What is measured, ready to carry traffic: namespaces, the real control plane on a directory of manifests, and the
//! subjects beside each other: our ztunnels (twice), the peer's, plain relays, and no mesh. Built by the scenarios.

mod manifests;
mod subject;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use testkit::process::{self, Process};
use testkit::topology::Topology;

pub use self::manifests::Policies;
pub use self::subject::{OUTBOUND, Pod, Subject};

/// Port of the loads.
pub const PORT: u16 = 8080;
/// Port of a second load beside the first.
pub const SECOND_PORT: u16 = 8081;
/// The account of all clients, unless they have one each.
const CLIENT: &str = "client";
const LIMIT: Duration = Duration::from_secs(90);

/// Who carries the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Name {
    /// Our ztunnels.
    Ours,
    /// A second pair of ours: what it differs from the first is the noise (the A/A control).
    Twin,
    /// The ztunnels of `PEER_ZTUNNEL`.
    Peer,
    /// Plain TCP relays.
    Relay,
    /// Nothing.
    Bare,
}

impl Name {
    /// As in tables and files.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Twin => "twin",
            Self::Peer => "peer",
            Self::Relay => "relay",
            Self::Bare => "bare",
        }
    }
}

/// The programs.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// Ours.
    pub ztunnel: PathBuf,
    /// Ours.
    pub control_plane: PathBuf,
    /// The peer's ztunnel, when there is one.
    pub peer: Option<PathBuf>,
    /// This program, for the role of the relay.
    pub bench: PathBuf,
}

impl Binaries {
    /// Ours from the target directory.
    ///
    /// # Errors
    /// Which one is missing, and how to build it.
    pub fn find(peer: Option<PathBuf>, bench: PathBuf) -> Result<Self> {
        if let Some(peer) = &peer {
            let found =
                fs::metadata(peer).with_context(|| format!("PEER_ZTUNNEL: {}", peer.display()))?;
            anyhow::ensure!(
                found.is_file() && found.permissions().mode() & 0o111 != 0,
                "PEER_ZTUNNEL: {} is not a program",
                peer.display()
            );
        }
        Ok(Self {
            ztunnel: process::binary("ztunnel")?,
            control_plane: process::binary("control-plane")?,
            peer,
            bench,
        })
    }
}

/// What to build.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who; a peer that there is no binary for is left out.
    pub subjects: Vec<Name>,
    /// Client pods of each subject.
    pub clients: usize,
    /// Server pods of each subject, on the other node.
    pub servers: usize,
    /// A service account for each pod, not one for all clients and one for all servers.
    pub many_accounts: bool,
    /// Worker threads of each ztunnel.
    pub workers: usize,
    /// More settings, the same for all ztunnels.
    pub settings: Vec<(String, String)>,
    /// Policies.
    pub policies: Policies,
}

impl Plan {
    /// One client, one server on the other node and one on the same, no policies.
    #[must_use]
    pub fn new(subjects: &[Name], workers: usize) -> Self {
        Self {
            subjects: subjects.to_vec(),
            clients: 1,
            servers: 1,
            many_accounts: false,
            workers,
            settings: Vec::new(),
            policies: Policies::None,
        }
    }
}

/// Everything that runs; dropped in this order.
pub struct World {
    /// In the order of the plan.
    pub subjects: Vec<Subject>,
    /// The control plane.
    pub control: Process,
    _topology: Topology,
    _dir: TempDir,
}

impl World {
    /// Brings it up and lets a first request pass everywhere.
    ///
    /// # Errors
    /// What did not come up, with the end of its log.
    pub fn start(plan: &Plan, binaries: &Binaries) -> Result<Self> {
        let topology = Topology::new()?;
        let dir = tempfile::tempdir()?;
        let mut subjects = Vec::new();
        for name in &plan.subjects {
            match name {
                Name::Peer if binaries.peer.is_none() => {}
                Name::Bare => {}
                _ => subjects.push(Subject::lay_out(*name, plan, &topology)?),
            }
        }
        if plan.subjects.contains(&Name::Bare) {
            let relay = subjects.iter().find(|subject| subject.name == Name::Relay);
            let relay = relay.context("no mesh stands on the nodes of the relays")?;
            subjects.push(relay.bare()?);
        }
        write_files(plan, &subjects, dir.path())?;
        let control = start_control(binaries, &topology, dir.path())?;
        let address = format!("https://{}:15012", topology.control_ip());
        for subject in &mut subjects {
            subject
                .start(plan, binaries, &address, dir.path())
                .with_context(|| format!("start of {}", subject.name.text()))?;
        }
        let world = Self {
            subjects,
            control,
            _topology: topology,
            _dir: dir,
        };
        for subject in &world.subjects {
            subject
                .probe()
                .with_context(|| format!("a first request with {}", subject.name.text()))?;
        }
        Ok(world)
    }

    /// The subject of a name.
    ///
    /// # Errors
    /// When the plan had none.
    pub fn subject(&self, name: Name) -> Result<&Subject> {
        let found = self.subjects.iter().find(|subject| subject.name == name);
        found.with_context(|| format!("no {} in this world", name.text()))
    }

    /// Those that are here, of `wanted`, in its order.
    #[must_use]
    pub fn present(&self, wanted: &[Name]) -> Vec<Name> {
        let here = |name: &&Name| self.subjects.iter().any(|subject| subject.name == **name);
        wanted.iter().filter(here).copied().collect()
    }

    /// Process ids of everything that was started.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let proxies = self.subjects.iter().flat_map(Subject::pids);
        proxies.chain([self.control.id()]).collect()
    }
}

fn write_files(plan: &Plan, subjects: &[Subject], dir: &Path) -> Result<()> {
    let manifests = dir.join("manifests");
    fs::create_dir_all(&manifests)?;
    let entries: Vec<_> = subjects.iter().flat_map(Subject::entries).collect();
    fs::write(manifests.join("mesh.yaml"), manifests::mesh(&entries))?;
    let policies = manifests::policies(plan.policies, CLIENT);
    if !policies.is_empty() {
        fs::write(manifests.join("policies.yaml"), policies)?;
    }
    let mut tokens = String::new();
    let meshed = subjects.iter().filter(|subject| subject.meshed());
    for node in meshed.flat_map(Subject::node_names) {
        let token: u128 = rand::random();
        fs::write(dir.join(format!("{node}.token")), format!("{token:032x}"))?;
        tokens.push_str(&format!("{token:032x} istio-system/ztunnel node={node}\n"));
    }
    fs::write(dir.join("tokens"), tokens)?;
    fs::set_permissions(dir.join("tokens"), fs::Permissions::from_mode(0o600))?;
    Ok(())
}

fn start_control(binaries: &Binaries, topology: &Topology, dir: &Path) -> Result<Process> {
    let show = |path: &str| dir.join(path).display().to_string();
    let address = topology.control_ip();
    let settings = [
        ("MANIFESTS", show("manifests")),
        ("CA_DIR", show("ca")),
        ("TOKENS_FILE", show("tokens")),
        ("XDS_LISTEN", format!("{address}:15012")),
        (
            "SERVER_NAMES",
            format!("istiod.istio-system.svc,localhost,{address}"),
        ),
    ];
    let environment: BTreeMap<_, _> = settings
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect();
    let log = dir.join("control-plane.log");
    let mut control = Process::start(
        topology.control(),
        &binaries.control_plane,
        &[],
        &environment,
        &log,
    )?;
    let ready = SocketAddr::from(([127, 0, 0, 1], 15014));
    control.wait_ready(topology.control(), ready, LIMIT)?;
    Ok(control)
}
