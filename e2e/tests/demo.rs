//! The demo as a user runs it, which is the whole path with the real binaries: every line passes, nothing is
//! left behind, also after a Ctrl-C half-way, and it says what it lacks.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::process::binary;

/// What a demo could leave behind: namespaces, its files, the packet rules of this namespace.
fn traces() -> Result<String> {
    let mut found = String::new();
    for (command, arguments) in [("ip", ["netns", "list"]), ("nft", ["list", "ruleset"])] {
        let out = Command::new(command)
            .args(arguments)
            .output()
            .with_context(|| format!("run {command}"))?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        // Other tests have namespaces of their own at the same time.
        found.extend(
            text.lines()
                .filter(|l| command == "nft" || l.contains("cw-demo"))
                .map(|l| format!("{l}\n")),
        );
    }
    for path in ["/run/cw-demo", "/run/cw-demo.lock"] {
        if std::path::Path::new(path).exists() {
            found.push_str(path);
        }
    }
    Ok(found)
}

fn shows_every_line_and_leaves_nothing() -> Result<()> {
    let before = traces()?;
    let out = Command::new(binary("causeway")?)
        .args(["demo", "--once"])
        .output()?;
    let said = String::from_utf8_lossy(&out.stdout);
    let failed = String::from_utf8_lossy(&out.stderr);
    println!("{said}{failed}");
    ensure!(out.status.success(), "the demo ended with {}", out.status);
    ensure!(said.matches("PASS ").count() == 14, "not 14 lines pass");
    ensure!(
        !said.contains("FAIL "),
        "a line failed, yet the exit code was 0"
    );
    ensure!(traces()? == before, "left behind:\n{}", traces()?);
    Ok(())
}

fn an_interrupt_half_way_leaves_nothing() -> Result<()> {
    let before = traces()?;
    // One interrupt after each stage of the set-up.
    for stage in [
        "two nodes",
        "control plane",
        "ztunnel and cni-agent",
        "pods added",
        "waypoints",
        "PASS L4 deny",
    ] {
        let mut demo = Command::new(binary("causeway")?)
            .args(["demo", "--once"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(demo.stdout.take().context("stdout")?).lines();
        for line in lines.by_ref() {
            if line?.contains(stage) {
                break;
            }
        }
        kill(Pid::from_raw(i32::try_from(demo.id())?), Signal::SIGINT)?;
        // Reads on to the end, so that the demo is never blocked on a full pipe.
        lines.by_ref().for_each(drop);
        let mut said = String::new();
        demo.stderr
            .take()
            .context("stderr")?
            .read_to_string(&mut said)?;
        let status = demo.wait()?;
        ensure!(
            status.code() == Some(130),
            "interrupted after {stage:?}, the demo ended with {status}: {said}"
        );
        ensure!(
            traces()? == before,
            "interrupted after {stage:?}, left behind:\n{}",
            traces()?
        );
    }
    Ok(())
}

fn a_second_demo_is_refused_in_words() -> Result<()> {
    let mut first = Command::new(binary("causeway")?)
        .args(["demo"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(first.stdout.take().context("stdout")?).lines();
    // The first stage is done: the slot is taken.
    lines.next().context("a line")??;
    let second = Command::new(binary("causeway")?)
        .args(["demo", "--once"])
        .output()?;
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    kill(Pid::from_raw(i32::try_from(first.id())?), Signal::SIGTERM)?;
    lines.by_ref().for_each(drop);
    let ended = first.wait()?;
    ensure!(
        second.status.code() == Some(2),
        "the second demo ended with {}",
        second.status
    );
    ensure!(
        text.contains("another demo runs on this machine: end it with Ctrl-C"),
        "it said {text:?}"
    );
    ensure!(
        ended.code() == Some(130),
        "asked to stop, the first demo ended with {ended}"
    );
    Ok(())
}

/// One test: a machine has one demo slot.
#[test]
fn the_demo() -> Result<()> {
    testkit::root_or_skip!();
    shows_every_line_and_leaves_nothing()?;
    an_interrupt_half_way_leaves_nothing()?;
    a_second_demo_is_refused_in_words()
}
