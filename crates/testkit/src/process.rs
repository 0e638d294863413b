//! The real binaries as children of a test: found in the target directory, started inside a namespace,
//! logged to a file, killed on drop and when this process ends, whatever ends it.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::topology::Namespace;
use crate::wait;

/// A running binary; killed on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    name: String,
}

/// An HTTP/1.1 answer, as plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Everything after the empty line.
    pub body: String,
}

/// The path of one of our binaries, of the profile named by `CAUSEWAY_PROFILE` (release by default).
///
/// # Errors
/// A sentence that says how to build it, when it is not there.
pub fn binary(name: &str) -> Result<PathBuf> {
    let profile = env::var("CAUSEWAY_PROFILE").unwrap_or_else(|_| "release".to_owned());
    let path = target_dir()?.join(&profile).join(name);
    ensure!(
        path.exists(),
        "{} is missing: `make build` builds it (or set CAUSEWAY_PROFILE)",
        path.display()
    );
    Ok(path)
}

/// A test executable lies in `<target>/<profile>/deps/`, an example in `examples/`, whatever CARGO_TARGET_DIR was at build time.
fn target_dir() -> Result<PathBuf> {
    if let Some(given) = env::var_os("CARGO_TARGET_DIR") {
        return Ok(given.into());
    }
    let executable = env::current_exe().context("current_exe")?;
    let inner = |dir: &&Path| dir.ends_with("deps") || dir.ends_with("examples");
    let deps = executable.ancestors().find(inner);
    let profile = deps.and_then(Path::parent).or_else(|| executable.parent());
    profile
        .and_then(Path::parent)
        .map(Path::to_owned)
        .ok_or_else(|| anyhow!("no target dir above {executable:?}"))
}

/// A child to be started in a namespace, and where to send it.
type Wanted = (sys::Netns, Command, Sender<io::Result<Child>>);

/// The thread that starts all children: the kernel ends them when it ends, which is when this process does, however.
static STARTER: LazyLock<Mutex<Sender<Wanted>>> = LazyLock::new(|| {
    let (send, wanted) = channel::<Wanted>();
    thread::spawn(move || {
        for (netns, mut command, answer) in wanted {
            sys::child::ends_with_starter(&mut command);
            let child = netns.enter(|| command.spawn()).and_then(|child| child);
            let _nobody_waits = answer.send(child);
        }
    });
    Mutex::new(send)
});

fn spawn(netns: sys::Netns, command: Command) -> Result<Child> {
    let (answer, child) = channel();
    STARTER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((netns, command, answer))
        .map_err(|_| anyhow!("the thread that starts children is gone"))?;
    Ok(child.recv()??)
}

impl Process {
    /// Starts `binary` in `namespace` with only the given environment; output goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        namespace: &Namespace,
        binary: &Path,
        arguments: &[&str],
        environment: &BTreeMap<String, String>,
        log: &Path,
    ) -> Result<Self> {
        let netns = sys::Netns::open(&namespace.path())
            .with_context(|| format!("namespace {}", namespace.name()))?;
        Self::start_in(netns, binary, arguments, environment, log)
    }

    /// As [`Process::start`], in the namespace that this thread is in.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_here(
        binary: &Path,
        arguments: &[&str],
        environment: &BTreeMap<String, String>,
        log: &Path,
    ) -> Result<Self> {
        let netns = sys::Netns::open(Path::new("/proc/thread-self/ns/net"))
            .context("this thread's namespace")?;
        Self::start_in(netns, binary, arguments, environment, log)
    }

    fn start_in(
        netns: sys::Netns,
        binary: &Path,
        arguments: &[&str],
        environment: &BTreeMap<String, String>,
        log: &Path,
    ) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("{log:?}"))?;
        let mut command = Command::new(binary);
        command
            .args(arguments)
            .env_clear()
            .envs(environment)
            .stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        let child = spawn(netns, command).with_context(|| format!("start {}", binary.display()))?;
        let name = binary
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Ok(Self {
            child,
            log: log.to_owned(),
            name,
        })
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// CPU time that its present threads have used, to the nanosecond.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu_time(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // A thread may end between the two looks; `stat` counts in ticks of 10 ms, too coarse for short blocks.
            let schedstat = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            let used = schedstat.split(' ').next().unwrap_or_default();
            nanoseconds += used.parse().unwrap_or(0);
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait::until(&format!("end of {}", self.name), limit, || {
            self.child
                .try_wait()?
                .ok_or_else(|| anyhow!("still running"))
        })
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Polls `path` at `address` (inside `namespace`) until it answers 200.
    ///
    /// # Errors
    /// When it ended or was not ready within `limit`; the error carries the end of its log.
    pub fn wait_ready(
        &mut self,
        namespace: &Namespace,
        address: SocketAddr,
        limit: Duration,
    ) -> Result<()> {
        wait::until(&format!("{} ready", self.name), limit, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status}; log:\n{}", self.tail());
            }
            let answer = get(namespace, address, "/healthz/ready")?;
            ensure!(
                answer.status == 200,
                "{} {}; log:\n{}",
                answer.status,
                answer.body,
                self.tail()
            );
            Ok(())
        })
    }

    /// Waits until its log contains `text`.
    ///
    /// # Errors
    /// When that does not happen within `limit`; the error carries the end of the log.
    pub fn wait_log(&self, text: &str, limit: Duration) -> Result<()> {
        wait::until(
            &format!("`{text}` in the log of {}", self.name),
            limit,
            || {
                ensure!(self.log().contains(text), "log ends:\n{}", self.tail());
                Ok(())
            },
        )
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _may_have_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// One HTTP/1.1 GET from inside `namespace`.
///
/// # Errors
/// When nothing answers within two seconds, or not in HTTP.
pub fn get(namespace: &Namespace, address: SocketAddr, path: &str) -> Result<Answer> {
    request(namespace, address, "GET", path)
}

/// One HTTP/1.1 request without a body from inside `namespace`.
///
/// # Errors
/// When nothing answers within five seconds, or not in HTTP.
pub fn request(
    namespace: &Namespace,
    address: SocketAddr,
    method: &str,
    path: &str,
) -> Result<Answer> {
    let limit = Duration::from_secs(5);
    let mut stream = namespace.run(|| TcpStream::connect_timeout(&address, limit))??;
    stream.set_read_timeout(Some(limit))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").context("no end of the head")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("no status")?;
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    let body = if chunked {
        unchunk(body)
    } else {
        body.to_owned()
    };
    Ok(Answer { status, body })
}

fn unchunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = after.get(..size).filter(|chunk| !chunk.is_empty()) else {
            break;
        };
        body += chunk;
        rest = after.get(size + 2..).unwrap_or_default();
    }
    body
}
