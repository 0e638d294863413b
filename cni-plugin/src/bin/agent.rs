//! `cni-agent`: reads the settings, sets up logs and signals, runs `cni_plugin::agent`.
use std::process::ExitCode;

use cni_plugin::agent::{self, Config};
use runtime::admin::Common;
use runtime::exit::Exit;
use runtime::metrics::Registry;
use runtime::{Readiness, Settings, Shutdown};

const HELP: &str = "\
cni-agent: the node agent of an ambient mesh: decides which pods are in it, and captures their traffic

usage: cni-agent              run the agent
       cni-agent uninstall    delete the agents' DaemonSet (DAEMONSET_NAME, in POD_NAMESPACE), wait until
                              each has taken the mesh off its node, and look whether anything is left
       cni-agent --settings   print all settings as a table
       cni-agent --version    print what this build is
       cni-agent --help       print this

LEAVE_NODE=true takes the mesh off this node alone.

Settings come from the environment; docs/configuration.md lists them.
";

fn main() -> ExitCode {
    let mut settings = Settings::from_process();
    let config = Config::read(&mut settings);
    match std::env::args().nth(1).as_deref() {
        None => run(settings, config),
        Some("uninstall") => uninstall(),
        Some("--settings" | "settings") => print(&runtime::settings::table(settings.rows())),
        Some("--version" | "-V" | "version") => {
            print(concat!("cni-agent ", env!("CARGO_PKG_VERSION"), "\n"))
        }
        Some("--help" | "-h" | "help") => print(HELP),
        Some(other) => fail(
            Exit::BadSettings,
            &format!("unknown argument {other:?}\n\n{HELP}"),
        ),
    }
}

fn run(settings: Settings<'_>, config: Config) -> ExitCode {
    if let Err(faults) = settings.finish() {
        return fail(Exit::BadSettings, &faults.to_string());
    }
    let logs = match runtime::logs::init(config.log_format, &config.log_filter) {
        Ok(logs) => logs,
        Err(error) => return fail(Exit::BadSettings, &error.to_string()),
    };
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let tokio = match tokio {
        Ok(tokio) => tokio,
        Err(error) => return fail(Exit::Failed, &format!("cannot start: {error}")),
    };
    let outcome = tokio.block_on(async {
        let shutdown = Shutdown::new();
        runtime::shutdown::signals(&shutdown).map_err(|e| (Exit::Failed, e.into()))?;
        let common = Common {
            readiness: Readiness::new(),
            metrics: Registry::new(),
            logs: logs.clone(),
            shutdown,
        };
        agent::run(config, common).await
    });
    logs.flush();
    match outcome {
        Ok(()) => Exit::Clean.into(),
        Err((exit, error)) => fail(exit, &format!("{error:#}")),
    }
}

fn uninstall() -> ExitCode {
    let mut settings = Settings::from_process();
    let release = agent::uninstall::Release::read(&mut settings);
    if let Err(faults) = settings.finish() {
        return fail(Exit::BadSettings, &faults.to_string());
    }
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let removed = match tokio {
        Ok(tokio) => tokio.block_on(release.remove()),
        Err(error) => return fail(Exit::Failed, &format!("cannot start: {error}")),
    };
    match removed {
        Ok(text) => print(&text),
        Err(error) => fail(Exit::Failed, &format!("{error:#}")),
    }
}

fn print(text: &str) -> ExitCode {
    use std::io::Write;
    // A closed pipe is the reader's choice.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Exit::Clean.into()
}

fn fail(exit: Exit, text: &str) -> ExitCode {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "cni-agent: {text}");
    exit.into()
}
