//! The command behind `make bench`. Parses arguments, checks what is needed, runs the scenarios, writes the report. As
//! `causeway-bench relay …` it is one of the plain relays that it compares with.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use causeway_bench::options::Options;
use causeway_bench::relay::{self, Targets};
use causeway_bench::report;
use causeway_bench::scenario::{self, Session};
use causeway_bench::world::Binaries;
use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Open files of this process and of those that it starts.
const FILES: u64 = 200_000;
/// Of them, for all else.
const SPARE: u64 = 2000;

/// Measure our ztunnel beside a peer's, plain relays and no mesh.
#[derive(Debug, Parser)]
#[command(
    name = "causeway-bench",
    version,
    about,
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Carry connections as a plain TCP relay; the benchmark starts these itself.
    #[command(hide = true)]
    Relay {
        port: u16,
        targets: Targets,
        mark: u32,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.role {
        Some(Role::Relay {
            port,
            targets,
            mark,
        }) => relay::run(port, &targets, mark).map(|()| true),
        None => measure(&arguments.options.settled()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(fault) => {
            say(&format!("causeway-bench: {fault:#}"));
            ExitCode::from(2)
        }
    }
}

/// True: every scenario came to its end.
fn measure(options: &Options) -> Result<bool> {
    if options.list {
        tell(&scenario::ids().join("\n"));
        return Ok(true);
    }
    ensure!(
        scenario::ids()
            .iter()
            .any(|id| options.wants(id, &scenario::ids())),
        "ONLY={} names no scenario; there are: {}",
        options.only,
        scenario::ids().join(", ")
    );
    if let Err(reason) = testkit::topology::supported() {
        bail!("{reason}; run as root on a machine with iproute2 and nftables");
    }
    if let Some(document) = &options.publish {
        ensure!(
            !options.quick && !options.keep_noise && options.only.is_empty(),
            "PUBLISH takes a whole run: without QUICK, KEEP_NOISE and ONLY"
        );
        ensure!(
            document.is_file(),
            "PUBLISH: no document {}",
            document.display()
        );
    }
    let options = &within(options, raise_open_files()?);
    let binaries = Binaries::find(options.peer_ztunnel.clone(), std::env::current_exe()?)?;
    if binaries.peer.is_none() {
        say("no peer: PEER_ZTUNNEL is not set; ours is compared with plain relays only");
    }
    let mut session = Session::new(options, &binaries, &say);
    session.run();
    let text = report::write(options, &binaries, &session.outcomes)?;
    tell(&text);
    Ok(session
        .outcomes
        .iter()
        .all(|outcome| outcome.fault.is_none()))
}

/// Raises the limit of open files as far as we may; what holds now. The ztunnels inherit it.
fn raise_open_files() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = hard.max(FILES);
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return Ok(wanted);
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// Idle connections have both their ends here.
fn within(options: &Options, files: u64) -> Options {
    let most = u32::try_from(files.saturating_sub(SPARE) / 2).unwrap_or(u32::MAX);
    let mut options = options.clone();
    if options.idle > most {
        say(&format!(
            "{files} open files allow {most} idle connections, not {}",
            options.idle
        ));
        options.idle = most;
    }
    options
}

/// How it goes on.
fn say(text: &str) {
    // Nobody listens any more: the files are written nevertheless.
    let _closed = writeln!(std::io::stderr(), "{text}");
}

/// What was asked for.
fn tell(text: &str) {
    let _closed = writeln!(std::io::stdout(), "{text}");
}
