//! The real binary: starts on a directory, notices edits, ends at SIGTERM, and says what keeps it from starting.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_control-plane"));
    command
        .env_clear()
        .env("MANIFESTS", dir.join("manifests"))
        .env("CA_DIR", dir.join("ca"))
        .env("ROOT_CERT_FILE", dir.join("root.pem"))
        .env("XDS_LISTEN", "127.0.0.1:0")
        .env("ADMIN_LISTEN", "127.0.0.1:0")
        .env("MONITORING_LISTEN", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Long enough for a busy machine; what hangs fails.
const LIMIT: Duration = Duration::from_secs(60);

/// A running control plane; killed when a test fails.
struct Running {
    child: Child,
    log: Receiver<String>,
    admin: String,
    monitoring: String,
}

impl Running {
    fn start(dir: &Path) -> Running {
        let mut child = command(dir).spawn().expect("the binary");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (send, log) = channel();
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|line| send.send(line))
        });
        let mut running = Running {
            child,
            log,
            admin: String::new(),
            monitoring: String::new(),
        };
        loop {
            let line = running.log.recv_timeout(LIMIT).expect("it serves");
            let address = line.rsplit("address=").next().expect("a last part");
            if line.contains("admin server") {
                running.admin = address.to_owned();
            } else if line.contains("monitoring server") {
                running.monitoring = address.to_owned();
            } else if line.contains("serving ADS") {
                return running;
            }
        }
    }

    fn get(&self, path: &str) -> String {
        ask(&self.admin, "GET", path)
    }
    /// Asks until the status says so.
    fn wait_for(&self, text: &str) {
        let end = Instant::now() + LIMIT;
        loop {
            let status = self.get("/status");
            if status.contains(text) {
                return;
            }
            assert!(Instant::now() < end, "no {text:?} in {status}");
        }
    }

    /// Its log from here to its end, and its exit code.
    fn ended(&mut self) -> (String, Option<i32>) {
        let mut rest = String::new();
        loop {
            match self.log.recv_timeout(LIMIT) {
                Ok(line) => rest += &(line + "\n"),
                // It closed its output: it ends.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {rest}"),
            }
        }
        (rest, self.child.wait().expect("an end").code())
    }
}

fn ask(address: &str, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a server");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn from_elsewhere_one_can_look_but_not_touch() {
    let dir = directory();
    let running = Running::start(dir.path());
    let asked = |method, path| ask(&running.monitoring, method, path);
    assert!(asked("GET", "/healthz/ready").starts_with("HTTP/1.1 200"));
    assert!(asked("GET", "/metrics").contains("causeway_translations_total"));
    for (method, path) in [
        ("POST", "/quitquitquit"),
        ("POST", "/logging?level=off"),
        ("GET", "/status"),
    ] {
        let answer = asked(method, path);
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
}

fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("manifests")).expect("a directory");
    dir
}

#[test]
fn it_serves_notices_edits_and_ends_at_sigterm() {
    let dir = directory();
    let file = dir.path().join("manifests/a.yaml");
    std::fs::write(&file, "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 10.1.0.1, ports: [{port: 80}]}\n").expect("written");
    let mut running = Running::start(dir.path());
    assert!(running.get("/healthz/ready").starts_with("HTTP/1.1 200"));
    assert!(running.get("/status").contains("\"addresses\": 1"));
    assert!(
        running
            .get("/metrics")
            .contains("causeway_translations_total 1")
    );
    assert!(
        std::fs::read_to_string(dir.path().join("root.pem"))
            .expect("the root")
            .contains("BEGIN CERTIFICATE")
    );
    std::fs::write(&file, "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 10.1.0, ports: [{port: 80}]}\n").expect("written");
    running.wait_for("a.yaml: Service default/s: spec.clusterIP: `10.1.0` is no IP address");
    assert!(
        running.get("/status").contains("\"addresses\": 1"),
        "the last good version stays"
    );
    std::fs::remove_file(&file).expect("removed");
    running.wait_for("\"addresses\": 0");
    let id = running.child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .expect("kill")
            .success()
    );
    let (rest, code) = running.ended();
    assert_eq!(code, Some(0));
    assert!(rest.contains("drained"), "{rest}");
}

fn failed(command: &mut Command) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the binary");
    (
        status.code(),
        String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned(),
    )
}

#[test]
fn it_says_what_keeps_it_from_starting() {
    let dir = directory();
    let (code, text) = failed(command(dir.path()).env("MANIFESTS", "/nowhere"));
    assert_eq!(code, Some(1));
    assert!(
        text.contains("MANIFESTS: cannot read directory /nowhere: No such file or directory"),
        "{text}"
    );
    let (code, text) = failed(command(dir.path()).env("XDS_LISTEN", "here"));
    assert_eq!(code, Some(2));
    assert!(
        text.contains("XDS_LISTEN=\"here\": allowed is an address with port"),
        "{text}"
    );
    let (code, text) = failed(command(dir.path()).arg("--settings"));
    assert_eq!(code, Some(0));
    assert!(text.contains("| `TOKENS_FILE` |"), "{text}");
}
