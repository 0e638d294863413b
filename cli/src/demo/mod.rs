//! `causeway demo`: the whole mesh on this machine. Two nodes and their pods as network namespaces, the
//! real binaries, real traffic; what it prints is read from the running system.
//! Order of reading: `plan` (what there is), `mesh` (bring it up, take it down), `checks` (what is shown).
mod app;
mod checks;
mod client;
mod cni;
mod interrupt;
mod line;
mod manifests;
mod mesh;
mod net;
mod plan;
mod preflight;
mod process;
mod programs;
mod wire;

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use interrupt::Interrupt;
use line::Printer;
use mesh::Mesh;

/// Arguments of `causeway demo`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// End after the last line instead of staying up; exit code 1 when any line failed.
    #[arg(long)]
    once: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a command inside a pod or node of the running demo: `causeway demo exec client -- curl …`.
    Exec {
        /// The pod; or node1, node2 (admin pages of their ztunnel), hub (of the control plane).
        place: String,
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// An application inside a demo pod; the demo starts these itself.
    #[command(hide = true)]
    App {
        kind: app::Kind,
        #[arg(long)]
        name: String,
        #[arg(long)]
        port: u16,
    },
}

/// Runs what the arguments say.
///
/// # Errors
/// When the demo could not be brought up, or the verb failed.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.verb {
        None => show(arguments.once),
        Some(Verb::Exec { place, command }) => exec(place, command),
        Some(Verb::App { kind, name, port }) => {
            app::serve(*kind, name, *port).map(|()| ExitCode::SUCCESS)
        }
    }
}

fn show(once: bool) -> Result<ExitCode> {
    let binaries = preflight::binaries()?;
    preflight::check(&binaries)?;
    let interrupt = Interrupt::listen()?;
    let mut printer = Printer::new();
    let _lock = mesh::lock()?;
    let mut mesh = Mesh::new(binaries, interrupt.clone());
    let outcome = mesh.up(&mut printer).and_then(|()| {
        checks::run(&mut mesh, &mut printer)?;
        let good = printer.close();
        if !once {
            stay(&mut mesh, &printer, &interrupt)?;
        }
        Ok(good)
    });
    let logs = outcome
        .as_ref()
        .is_err_and(|_| !interrupt.asked())
        .then(|| mesh.keep_logs());
    printer.stage("everything taken down", || mesh.down())?;
    match outcome {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::from(1)),
        Err(_) if interrupt.asked() => Ok(ExitCode::from(130)),
        Err(fault) => match logs.flatten() {
            Some(path) => {
                Err(fault.context(format!("the demo failed (logs kept in {})", path.display())))
            }
            None => Err(fault),
        },
    }
}

/// Stays up until a signal, watching that nothing dies by itself.
fn stay(mesh: &mut Mesh, printer: &Printer, interrupt: &Interrupt) -> Result<()> {
    printer.say(&mesh.summary());
    while !interrupt.asked() {
        mesh.check_alive()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    printer.say("");
    Ok(())
}

fn exec(place: &str, command: &[String]) -> Result<ExitCode> {
    let Some(netns) = plan::netns_of(place) else {
        bail!(
            "no {place:?} in the demo; there are: {}",
            plan::places().join(", ")
        );
    };
    if !net::path(&netns).exists() {
        bail!("no demo runs: start one with `make demo` in another terminal");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("not root: entering a network namespace needs it; run again as root");
    }
    let status = Command::new("ip")
        .args(["netns", "exec", &netns])
        .args(command)
        .status()
        .context("run ip (Debian package iproute2)")?;
    Ok(ExitCode::from(
        u8::try_from(status.code().unwrap_or(1)).unwrap_or(1),
    ))
}
