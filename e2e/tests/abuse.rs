//! Abuse of a real ztunnel: peers with a valid certificate attack port 15008 of a pod, a neighbour works meanwhile. How each
//! attack ends and what is held for it are facts of `make test`; what it costs is printed by `make e2e`, time fails nothing.

#[path = "../../hbone/tests/support/attacks.rs"]
mod attacks;
#[path = "abuse/figures.rs"]
mod figures;
#[path = "abuse/peer.rs"]
mod peer;

use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use attacks::{ATTACKS, Attack, Target};
use peer::Front;
use testkit::echo::{self, Behaviour};
use testkit::mesh::{Mesh, Pod};
use tokio::task::LocalSet;

/// Hostile connections at once.
const CONNECTIONS: u64 = 8;
/// What the process may grow by for each of them, bytes.
const MOST: u64 = 1 << 20;
/// What must be closed is closed long before this, also on a busy machine (`make e2e` prints how soon).
const SOON: Duration = Duration::from_secs(10);
const LIFE: Duration = Duration::from_secs(3600);

/// Two nodes: a client and a hostile pod on the first, the server on the second.
struct World {
    mesh: Mesh,
    client: Pod,
    server: Pod,
    front: Front,
}

impl World {
    fn start() -> Result<Self> {
        let mesh = Mesh::start_with(2, &[("RUST_LOG", "info")])?;
        let (client, server) = (
            mesh.pod(0, "client", "client")?,
            mesh.pod(1, "server", "server")?,
        );
        // Without a ztunnel of its own: it speaks for itself.
        let from = mesh.bare_pod(0, "evil", "evil")?;
        mesh.publish(&from.workload);
        mesh.settle()?;
        echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
        echo::serve(&server.net.ns, 8081, Behaviour::Source)?;
        echo::serve(&server.net.ns, 8082, Behaviour::Sink)?;
        let front = Front {
            from,
            to: server.at(15008),
            certificate: mesh.ca.issue(&mesh.ca.identity("app", "evil"), LIFE),
            victim: mesh.ca.identity("app", "server"),
            target: Target {
                authority: server.at(8080).to_string(),
                talkative: server.at(8081).to_string(),
            },
        };
        Ok(Self {
            mesh,
            client,
            server,
            front,
        })
    }

    /// A connection of the well-behaved client.
    fn neighbour(&self) -> Result<TcpStream> {
        echo::connect(&self.client.net.ns, self.server.at(8080))
    }

    /// Resident memory of the victim, bytes.
    fn resident(&mut self) -> Result<u64> {
        let pid = self.mesh.nodes[1].ztunnel().id();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(kib.context("VmRSS")?.parse::<u64>()? << 10)
    }

    /// Some attacks of one kind at once: each must end as it must. How much the victim holds while those that it endures
    /// are still there, compared with before.
    async fn attack(&mut self, attack: &Attack) -> Result<i64> {
        let before = self.resident()?;
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = self.front.connect().await?;
            let (outcome, stream) = self.front.attack(stream, attack).await?;
            let name = attack.name;
            ensure!(outcome.end == attack.end, "{name}: {:?}", outcome.end);
            let closed = attack.end != attacks::End::Endured;
            ensure!(
                !closed || outcome.took < SOON,
                "{name}: closed only after {:?}",
                outcome.took
            );
            held.push(stream);
        }
        let during = self.resident()?;
        drop(held);
        Ok(during.cast_signed() - before.cast_signed())
    }
}

fn local<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, work)
}

#[test]
fn every_attack_on_15008_ends_as_it_must_holds_little_and_spares_the_neighbour() -> Result<()> {
    testkit::root_or_skip!();
    let mut world = World::start()?;
    let mut neighbour = world.neighbour()?;
    ensure!(echo::ping(&mut neighbour, b"before")? == b"before");
    // Buffers that workers share have their size after the first.
    local(world.attack(&ATTACKS[0]))?;
    for attack in ATTACKS {
        let grown = local(world.attack(attack))?;
        println!(
            "{}: {} KiB for {CONNECTIONS} connections",
            attack.name,
            grown >> 10
        );
        ensure!(
            grown < (CONNECTIONS * MOST).cast_signed(),
            "{}: {grown} bytes for {CONNECTIONS} connections",
            attack.name
        );
        ensure!(
            echo::ping(&mut neighbour, b"still")? == b"still",
            "{}",
            attack.name
        );
    }
    Ok(())
}
