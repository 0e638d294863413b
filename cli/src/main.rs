//! The `causeway` command. Parses arguments, calls the verb, turns its error into an exit code.
use std::process::ExitCode;

use causeway_cli::{demo, probe};
use clap::{Parser, Subcommand};

/// Tools for the Causeway mesh.
#[derive(Debug, Parser)]
#[command(name = "causeway", version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the whole mesh on this machine: two nodes as network namespaces, the real binaries, real traffic.
    Demo(demo::Arguments),
    /// Say whether places can be reached from here.
    Probe(probe::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().verb {
        Verb::Demo(arguments) => demo::run(&arguments),
        Verb::Probe(arguments) => probe::run(&arguments),
    };
    match outcome {
        Ok(code) => code,
        Err(fault) => {
            #[allow(
                clippy::print_stderr,
                reason = "the one place where the command reports its failure"
            )]
            {
                eprintln!("causeway: {fault:#}");
            }
            ExitCode::from(2)
        }
    }
}
