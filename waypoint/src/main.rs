//! The waypoint binary: reads the settings, starts `app`. All else is in the library, so that tests can reach it.

use runtime::exit::Exit;
use runtime::settings::Settings;
use std::io::Write as _;
use std::process::ExitCode;
use waypoint::app;
use waypoint::arguments::Arguments;
use waypoint::settings::{self, Waypoint};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const HELP: &str = "\
waypoint: the L7 proxy of an ambient mesh

usage: waypoint [proxy [waypoint]] [arguments]   run the proxy (the default)
       waypoint version                          print what this build is
       waypoint settings                         print all settings as a table
       waypoint help                             print this

Settings come from the environment; docs/configuration.md lists them. Of pilot-agent's arguments --domain,
--serviceCluster, --concurrency, --log_as_json and --log_output_level mean what they mean there; others are let pass.
";

fn main() -> ExitCode {
    let command = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "proxy".to_owned());
    match command.as_str() {
        "proxy" => proxy().into(),
        "version" | "--version" | "-V" => {
            print(concat!("waypoint ", env!("CARGO_PKG_VERSION"), "\n"))
        }
        "settings" | "--settings" => print(&runtime::settings::table(&settings::documentation())),
        "help" | "--help" | "-h" => print(HELP),
        other => {
            complain(&format!("unknown command {other:?}\n\n{HELP}"));
            Exit::BadSettings.into()
        }
    }
}

fn proxy() -> Exit {
    let arguments = Arguments::parse(std::env::args().skip(2));
    let settings = match settings::read(Settings::from_process(), &arguments) {
        Ok((settings, _)) => settings,
        Err(faults) => {
            complain(&format!("{faults}\n"));
            return Exit::BadSettings;
        }
    };
    let logs = match runtime::logs::init(settings.logs.0, &settings.logs.1) {
        Ok(logs) => logs,
        Err(error) => {
            complain(&format!("RUST_LOG: {error}\n"));
            return Exit::BadSettings;
        }
    };
    let exit = run(settings, &logs).unwrap_or_else(|error| {
        tracing::error!("{}", runtime::exit::explain(&*error));
        Exit::Failed
    });
    logs.flush();
    exit
}

fn run(settings: Waypoint, logs: &runtime::logs::Logs) -> anyhow::Result<Exit> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if settings.threads > 0 {
        builder.worker_threads(settings.threads);
    }
    let tokio = builder.enable_all().build()?;
    let exit = tokio.block_on(app::run(settings, logs));
    // What still runs was forced already.
    tokio.shutdown_background();
    exit
}

fn print(text: &str) -> ExitCode {
    // A closed pipe is the reader's choice.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn complain(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
