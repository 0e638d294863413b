//! The real binaries as child processes of the demo, each inside a namespace, each with a log file. A
//! child that is dropped is ended: first asked, then killed, so that the demo leaves nothing behind.
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long an asked process may take before it is killed.
const GRACE: Duration = Duration::from_secs(3);

/// What to start.
#[derive(Clone, Debug)]
pub struct Program {
    /// Name in messages and of the log file.
    pub name: String,
    /// Path of the binary.
    pub binary: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its whole environment, apart from PATH.
    pub environment: Vec<(String, String)>,
    /// The network namespace it runs in.
    pub netns: String,
    /// Where its output goes; appended, so that a restart keeps what came before.
    pub log: PathBuf,
}

/// A started program.
#[derive(Debug)]
pub struct Running {
    program: Program,
    child: Child,
}

impl Program {
    /// Starts it.
    ///
    /// # Errors
    /// When the log cannot be opened or the binary not be run.
    pub fn start(self) -> Result<Running> {
        if let Some(directory) = self.log.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("make {}", directory.display()))?;
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("open {}", self.log.display()))?;
        let child = Command::new("ip")
            .args(["netns", "exec", &self.netns])
            .arg(&self.binary)
            .args(&self.arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C reaches the demo alone, which then ends its children in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", self.name))?;
        Ok(Running {
            program: self,
            child,
        })
    }
}

impl Running {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// Fails when it has ended by itself, with the last lines of its log.
    ///
    /// # Errors
    /// How it ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = fs::read_to_string(&self.program.log).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(5).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            bail!(
                "{} ended by itself ({status}); its log ends:\n{}",
                self.program.name,
                tail.join("\n")
            );
        }
        Ok(())
    }

    /// Kills it at once (SIGKILL) and starts it again, as a DaemonSet would.
    ///
    /// # Errors
    /// When it cannot be started again.
    pub fn kill_and_restart(&mut self) -> Result<()> {
        self.child
            .kill()
            .with_context(|| format!("kill {}", self.program.name))?;
        self.child.wait()?;
        *self = self.program.clone().start()?;
        Ok(())
    }

    fn ask(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0));
        // It may be gone already.
        if pid.as_raw() > 0 {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
    }

    fn gone(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.gone() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Ends several programs together: all are asked, then those that linger are killed.
pub fn end_all(programs: &mut Vec<Running>) {
    for program in programs.iter_mut() {
        program.ask();
    }
    let start = Instant::now();
    while start.elapsed() < GRACE && !programs.iter_mut().all(Running::gone) {
        std::thread::sleep(Duration::from_millis(10));
    }
    programs.clear();
}
