//! `causeway-cni`: called by the container runtime for each pod. Reads the call, asks the node's
//! agent, prints the previous result or an error. No state, no async, no decision of its own but
//! one: when the agent is away, a pod that may be in the mesh does not start.
use std::io::{Read, Write};
use std::process::ExitCode;

use cni_plugin::ask::{Reply, Request, ask};
use cni_plugin::spec::{Attachment, CniError, Code, Conf, PodRef, Verb, parse, versions};
use serde_json::Value;
use sys::Netns;

const HELP: &str = "\
causeway-cni: the CNI plugin of an ambient mesh; a container runtime calls it, with CNI_COMMAND and
other variables in the environment and the network configuration on stdin

usage: causeway-cni             answer such a call
       causeway-cni --version   print what this build is
       causeway-cni --help      print this

docs/configuration.md lists the keys of its entry in the network configuration.
";

fn main() -> ExitCode {
    // A runtime gives no arguments; a person who gives one would else wait for stdin.
    let text = match std::env::args().nth(1).as_deref() {
        None => return answer_call(),
        Some("--version" | "-V") => concat!("causeway-cni ", env!("CARGO_PKG_VERSION"), "\n"),
        Some("--help" | "-h" | "help") => HELP,
        Some(other) => {
            let text = format!("causeway-cni: unknown argument {other:?}\n\n{HELP}");
            let _ = std::io::stderr().write_all(text.as_bytes());
            return ExitCode::from(2);
        }
    };
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn answer_call() -> ExitCode {
    let mut stdin = Vec::new();
    let read = std::io::stdin().read_to_end(&mut stdin);
    let env = |name: &str| std::env::var(name).ok();
    let outcome = match read {
        Ok(_) => parse(&env, &stdin).map_err(|error| (error, String::new())),
        Err(e) => Err((
            CniError::new(Code::Io, "cannot read stdin").because(e),
            String::new(),
        )),
    };
    let outcome = outcome.and_then(|(verb, conf)| {
        run(&verb, &conf).map_err(|error| (error, conf.cni_version.clone()))
    });
    match outcome {
        Ok(answer) => {
            answer.iter().for_each(print);
            ExitCode::SUCCESS
        }
        Err((error, version)) => {
            print(&error.to_json(&version));
            ExitCode::FAILURE
        }
    }
}

fn print(answer: &Value) {
    // A runtime that closed our stdout cannot be told anything.
    let _ = writeln!(std::io::stdout(), "{answer}");
}

/// What to print; `None` = nothing.
fn run(verb: &Verb, conf: &Conf) -> Result<Option<Value>, CniError> {
    match verb {
        Verb::Version => Ok(Some(versions(conf))),
        Verb::Gc => Ok(None),
        // A runtime that is told no starts no pod at all, not even the agent's: each ADD answers for itself.
        Verb::Status => Ok(None),
        Verb::Add(attachment) => add(attachment, conf).map(|()| Some(conf.result())),
        Verb::Del(attachment) => del(attachment, conf).map(|()| None),
        Verb::Check(attachment) => check(attachment, conf).map(|()| None),
    }
}

/// The pod, unless it is none of the mesh's business.
fn subject<'a>(attachment: &'a Attachment, conf: &Conf) -> Option<&'a PodRef> {
    let pod = attachment.pod.as_ref()?;
    (!conf.is_exempt(pod)).then_some(pod)
}

fn add(attachment: &Attachment, conf: &Conf) -> Result<(), CniError> {
    let Some(pod) = subject(attachment, conf) else {
        return Ok(());
    };
    let path = attachment
        .netns
        .clone()
        .expect("parse() requires CNI_NETNS for ADD");
    let netns = Netns::open(&path).map_err(|e| {
        let text = format!("cannot open CNI_NETNS={}", path.display());
        CniError::new(Code::Io, text).because(e)
    })?;
    let container_id = attachment.container_id.clone();
    let request = Request::Add {
        container_id,
        pod: pod.clone(),
        netns: path,
        ips: conf.addresses(),
    };
    use std::os::fd::AsFd;
    expect_done(ask(
        &conf.socket(),
        &request,
        Some(netns.as_fd()),
        conf.timeout(),
    )?)
}

fn del(attachment: &Attachment, conf: &Conf) -> Result<(), CniError> {
    let Some(pod) = subject(attachment, conf) else {
        return Ok(());
    };
    let container_id = attachment.container_id.clone();
    let request = Request::Del {
        container_id,
        pod: pod.clone(),
    };
    match ask(&conf.socket(), &request, None, conf.timeout()) {
        Ok(reply) => expect_done(reply),
        Err(error) => {
            // The namespace goes away with its rules, and the agent finds out by itself.
            let _ = writeln!(
                std::io::stderr(),
                "causeway-cni: DEL goes on without the agent: {error}"
            );
            Ok(())
        }
    }
}

fn check(attachment: &Attachment, conf: &Conf) -> Result<(), CniError> {
    let Some(pod) = subject(attachment, conf) else {
        return Ok(());
    };
    let container_id = attachment.container_id.clone();
    let request = Request::Check {
        container_id,
        pod: pod.clone(),
    };
    expect_done(ask(&conf.socket(), &request, None, conf.timeout())?)
}

fn expect_done(reply: Reply) -> Result<(), CniError> {
    match reply {
        Reply::Done { .. } => Ok(()),
        Reply::Failed { code, msg, details } => Err(CniError { code, msg, details }),
    }
}
