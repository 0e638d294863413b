//! The ztunnel binary: reads the settings, starts `app`. All else is in the library, so that tests can reach it.

use std::io::Write as _;
use std::process::ExitCode;

use runtime::exit::Exit;
use runtime::settings::Settings;
use ztunnel::config::Config;
use ztunnel::{app, control::dump};

/// Control work is light beside the workers; two threads keep a long decode from delaying a probe.
const CONTROL_THREADS: usize = 2;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const HELP: &str = "\
ztunnel: the node proxy of an ambient mesh

usage: ztunnel [proxy] [ignored arguments]   run the proxy (the default)
       ztunnel version                       print what this build is
       ztunnel settings                      print all settings as a table
       ztunnel help                          print this

Settings come from the environment; docs/configuration.md lists them.
";

fn main() -> ExitCode {
    let command = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "proxy".to_owned());
    match command.as_str() {
        "proxy" => proxy().into(),
        "version" | "--version" | "-V" => print(&format!("{}\n", dump::version())),
        "settings" | "--settings" => print(&runtime::settings::table(&Config::documentation())),
        "help" | "--help" | "-h" => print(HELP),
        other => {
            complain(&format!("unknown command {other:?}\n\n{HELP}"));
            Exit::BadSettings.into()
        }
    }
}

fn proxy() -> Exit {
    let config = match Config::read(Settings::from_process()) {
        Ok(config) => config,
        Err(faults) => {
            complain(&format!("{faults}\n"));
            return Exit::BadSettings;
        }
    };
    let logs = match runtime::logs::init(config.logs.format, &config.logs.filter) {
        Ok(logs) => logs,
        Err(error) => {
            complain(&format!("RUST_LOG: {error}\n"));
            return Exit::BadSettings;
        }
    };
    let exit = run(config, &logs).unwrap_or_else(|error| {
        tracing::error!("{}", runtime::exit::explain(&*error));
        Exit::Failed
    });
    logs.flush();
    exit
}

fn run(config: Config, logs: &runtime::logs::Logs) -> anyhow::Result<Exit> {
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()?;
    let exit = control.block_on(app::run(config, logs));
    // What still runs was forced and given its second already.
    control.shutdown_background();
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
