//! Entry point of the control plane.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use control_plane::{app, config::Config};
use runtime::{Settings, exit::Exit, logs};

/// Control plane of the mesh: reads manifests, configures ztunnels and waypoints, and issues their certificates.
/// All settings are environment variables; --settings lists them.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print every setting with its default and meaning, and end.
    #[arg(long)]
    settings: bool,
}

/// What to do instead of running.
#[derive(Subcommand)]
enum Command {
    /// Print every setting with its default and meaning, and end.
    Settings,
    /// Print what this build is, and end.
    Version,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Command::Version) = arguments.command {
        say(concat!("control-plane ", env!("CARGO_PKG_VERSION"), "\n"));
        return Exit::Clean.into();
    }
    let mut settings = Settings::from_process();
    let config = Config::read(&mut settings);
    if arguments.settings || matches!(arguments.command, Some(Command::Settings)) {
        say(&runtime::settings::table(settings.rows()));
        return Exit::Clean.into();
    }
    if let Err(faults) = settings.finish() {
        complain(&faults.to_string());
        return Exit::BadSettings.into();
    }
    let logs = match logs::init(config.log_format, &config.log_filter) {
        Ok(logs) => logs,
        Err(error) => {
            complain(&error.to_string());
            return Exit::BadSettings.into();
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let ended = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(app::run(config, &logs)));
    let exit = match ended {
        Ok(()) => Exit::Clean,
        Err(error) => {
            tracing::error!("{}", runtime::exit::explain(&*error));
            Exit::Failed
        }
    };
    logs.flush();
    exit.into()
}

/// To the user's terminal, before (or instead of) logs.
#[allow(clippy::print_stderr, reason = "logs do not run yet")]
fn complain(text: &str) {
    eprintln!("{text}");
}

fn say(text: &str) {
    print!("{text}");
}
