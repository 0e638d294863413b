//! The demo as a user runs it, which is the whole path with the real binaries: every line passes, nothing is
//! left behind, also after a Ctrl-C half-way, and it says what it lacks.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use testkit::mesh::LIMIT;
use testkit::process::binary;
use testkit::wait;

/// What names a demo: its namespaces, its directory in /run, the configuration of its CNI.
const NAME: &str = "cw-demo";

/// Names of the processes that it starts.
const STARTED: [&str; 8] = [
    "control-plane",
    "ztunnel",
    "waypoint",
    "cni-agent",
    "causeway-cni",
    "causeway",
    "ip",
    "nft",
];

/// What a demo could leave behind: processes, namespaces, its files, the packet rules of this namespace.
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
                .filter(|l| command == "nft" || l.contains(NAME))
                .map(|l| format!("{l}\n")),
        );
    }
    for path in ["/run/cw-demo", "/run/cw-demo.lock"] {
        if std::path::Path::new(path).exists() {
            found.push_str(path);
        }
    }
    for entry in fs::read_dir("/proc")?.flatten() {
        let path = entry.path();
        // One that ends while it is looked at is not left behind.
        let read = |file| fs::read(path.join(file)).unwrap_or_default();
        let told = [read("cmdline"), read("environ")].concat();
        let told = String::from_utf8_lossy(&told).replace('\0', " ");
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        let ours = STARTED.contains(&name.trim_end());
        if ours && (told.contains(NAME) || told.contains("causeway demo app")) {
            found.push_str(&format!("process {}: {told}\n", path.display()));
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

/// As in a terminal: the whole group gets the signal, and an impatient user sends it again and again until it is over.
fn interrupted(demo: &mut Child) -> Result<ExitStatus> {
    let group = Pid::from_raw(i32::try_from(demo.id())?);
    wait::until("the end of the demo", LIMIT, || {
        killpg(group, Signal::SIGINT)?;
        demo.try_wait()?.context("still running")
    })
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
            .process_group(0)
            .spawn()?;
        let mut lines = BufReader::new(demo.stdout.take().context("stdout")?).lines();
        for line in lines.by_ref() {
            if line?.contains(stage) {
                break;
            }
        }
        // Reads on to the end, so that the demo is never blocked on a full pipe.
        let rest = thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
        let status = interrupted(&mut demo)?;
        let mut said = String::new();
        demo.stderr
            .take()
            .context("stderr")?
            .read_to_string(&mut said)?;
        let rest = rest.join().ok().context("the reader panicked")?.join("\n");
        ensure!(
            status.code() == Some(130),
            "interrupted after {stage:?}, the demo ended with {status}: {rest}\n{said}"
        );
        ensure!(
            rest.contains("✓ everything taken down"),
            "interrupted after {stage:?}: {rest}\n{said}"
        );
        ensure!(
            traces()? == before,
            "interrupted after {stage:?}, left behind:\n{}",
            traces()?
        );
    }
    Ok(())
}

/// Runs the demo where it cannot run, and compares what it says with `lacks`.
fn refused(command: &mut Command, lacks: &[String]) -> Result<()> {
    let before = traces()?;
    let out = command.args(["demo", "--once"]).output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    let want = format!(
        "causeway: the demo cannot run here:\n  - {}\n",
        lacks.join("\n  - ")
    );
    ensure!(said == want, "want {want:?}, it said {said:?}");
    ensure!(out.status.code() == Some(2), "it ended with {}", out.status);
    ensure!(out.stdout.is_empty(), "it began all the same");
    ensure!(traces()? == before, "left behind:\n{}", traces()?);
    Ok(())
}

fn it_says_which_commands_are_missing() -> Result<()> {
    let lacks = [
        "no command `ip`: install Debian's iproute2".to_owned(),
        "no command `nft`: install Debian's nftables".to_owned(),
    ];
    let nowhere = tempfile::tempdir()?;
    refused(
        Command::new(binary("causeway")?).env("PATH", nowhere.path()),
        &lacks,
    )
}

fn it_says_that_it_needs_root_and_its_binaries() -> Result<()> {
    // Where nobody may run it, and without the other binaries beside it.
    let place = tempfile::tempdir()?;
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755))?;
    let copy = place.path().join("causeway");
    fs::copy(binary("causeway")?, &copy)?;
    let missing = |name| {
        format!(
            "no {}/{name}: build with `cargo build --release --workspace --bins`, or run `make demo`",
            place.path().display()
        )
    };
    let others = [
        "control-plane",
        "ztunnel",
        "waypoint",
        "cni-agent",
        "causeway-cni",
    ];
    let root = "not root: network namespaces and packet rules need it; run again as root";
    let lacks: Vec<String> = others
        .map(missing)
        .into_iter()
        .chain([root.to_owned()])
        .collect();
    refused(
        Command::new(&copy).uid(65534).gid(65534).current_dir("/"),
        &lacks,
    )
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
    it_says_which_commands_are_missing()?;
    it_says_that_it_needs_root_and_its_binaries()?;
    shows_every_line_and_leaves_nothing()?;
    an_interrupt_half_way_leaves_nothing()?;
    a_second_demo_is_refused_in_words()
}
