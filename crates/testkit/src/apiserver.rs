//! A real kube-apiserver on a real etcd, on loopback and without nodes or controllers: for tests of what reads and writes
//! objects. Its binaries are built once (`e2e/tools`); a test that does not find them says so and is skipped.
//!
//! The store can be stopped, copied and put back, as when an operator restores a backup.

use std::{
    collections::BTreeMap,
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use crate::process::Process;

/// Long enough for a busy machine.
const END: Duration = Duration::from_secs(60);
const TOKEN: &str = "admin-of-the-test";

/// The two binaries.
#[derive(Debug, Clone)]
pub struct Binaries {
    etcd: PathBuf,
    server: PathBuf,
}

impl Binaries {
    /// From `CAUSEWAY_KUBE_BIN`, else from the user's cache.
    ///
    /// # Errors
    /// What is missing, and where it was looked for: the reason to skip.
    pub fn find() -> Result<Binaries, String> {
        let path = |variable| {
            env::var_os(variable)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let cache = || path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")));
        let directory =
            path("CAUSEWAY_KUBE_BIN").or_else(|| Some(cache()?.join("causeway/kube-bin")));
        let directory = directory.ok_or("neither CAUSEWAY_KUBE_BIN nor HOME is set")?;
        let binary = |name: &str| {
            let binary = directory.join(name);
            let missing = || {
                format!(
                    "{} is not there (CAUSEWAY_KUBE_BIN names its directory)",
                    binary.display()
                )
            };
            binary.is_file().then(|| binary.clone()).ok_or_else(missing)
        };
        Ok(Binaries {
            etcd: binary("etcd")?,
            server: binary("kube-apiserver")?,
        })
    }
}

/// The running pair; both end on drop, and with this process.
#[derive(Debug)]
pub struct ApiServer {
    binaries: Binaries,
    directory: PathBuf,
    ports: Ports,
    etcd: Option<Process>,
    server: Option<Process>,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    store: u16,
    peer: u16,
    server: u16,
}

impl ApiServer {
    /// Starts both with an empty store; everything lies in `directory`, which is emptied. The server takes some seconds to
    /// answer: wait until `/readyz` does.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start(binaries: Binaries, directory: &Path) -> Result<ApiServer> {
        if directory.exists() {
            fs::remove_dir_all(directory).with_context(|| format!("{}", directory.display()))?;
        }
        fs::create_dir_all(directory)?;
        let mut server = ApiServer {
            binaries,
            directory: directory.to_owned(),
            ports: Ports::free()?,
            etcd: None,
            server: None,
        };
        server.write_files()?;
        server.start_store()?;
        server.start_server()?;
        Ok(server)
    }

    /// A kubeconfig of an administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// What the server has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("server.log")).unwrap_or_default()
    }

    /// Starts whatever does not run.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn resume(&mut self) -> Result<()> {
        if self.etcd.is_none() {
            self.start_store()?;
        }
        if self.server.is_none() {
            self.start_server()?;
        }
        Ok(())
    }

    /// Ends the server at once; its connections break.
    pub fn stop_server(&mut self) {
        self.server = None;
    }

    /// Ends both, the store in order.
    ///
    /// # Errors
    /// When the store does not end.
    pub fn stop(&mut self) -> Result<()> {
        self.stop_server();
        if let Some(mut etcd) = self.etcd.take() {
            etcd.signal(Signal::SIGTERM)?;
            etcd.wait(END)?;
        }
        Ok(())
    }

    /// Keeps a copy of the store, which must be stopped.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn back_up(&self) -> Result<()> {
        copy(&self.directory.join("etcd"), &self.directory.join("backup"))
    }

    /// Puts the copy in place of the store, which must be stopped.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn restore(&self) -> Result<()> {
        copy(&self.directory.join("backup"), &self.directory.join("etcd"))
    }

    fn write_files(&self) -> Result<()> {
        let write = |name: &str, text: &str| fs::write(self.directory.join(name), text);
        let key = rcgen::KeyPair::generate()?;
        write("accounts.key", &key.serialize_pem())?;
        write("accounts.pub", &key.public_key_pem())?;
        write(
            "tokens.csv",
            &format!("{TOKEN},admin,admin,system:masters\n"),
        )?;
        let config = format!(
            "{{apiVersion: v1, kind: Config, current-context: test, clusters: [{{name: test, cluster: {{server: \
             'https://127.0.0.1:{}', insecure-skip-tls-verify: true}}}}], users: [{{name: admin, user: {{token: {TOKEN}}}}}], \
             contexts: [{{name: test, context: {{cluster: test, user: admin}}}}]}}\n",
            self.ports.server
        );
        write("kubeconfig", &config)?;
        Ok(())
    }

    fn start_store(&mut self) -> Result<()> {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let (client, peer) = (url(self.ports.store), url(self.ports.peer));
        let arguments = [
            "--name=test".to_owned(),
            format!("--data-dir={}", self.directory.join("etcd").display()),
            "--unsafe-no-fsync".to_owned(),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=test={peer}"),
        ];
        self.etcd = Some(self.spawn(&self.binaries.etcd, &arguments, "etcd.log")?);
        Ok(())
    }

    fn start_server(&mut self) -> Result<()> {
        let file = |name: &str| self.directory.join(name).display().to_string();
        let arguments = [
            format!("--etcd-servers=http://127.0.0.1:{}", self.ports.store),
            format!("--secure-port={}", self.ports.server),
            "--bind-address=127.0.0.1".to_owned(),
            // Nobody is sent there: there is no Service of the server.
            "--advertise-address=192.0.2.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            format!("--cert-dir={}", file("certificates")),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", file("accounts.pub")),
            format!(
                "--service-account-signing-key-file={}",
                file("accounts.key")
            ),
            // Pods are made by tests, for accounts that they may not have made.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--profiling=false".to_owned(),
        ];
        self.server = Some(self.spawn(&self.binaries.server, &arguments, "server.log")?);
        Ok(())
    }

    fn spawn(&self, binary: &Path, arguments: &[String], log: &str) -> Result<Process> {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let home = ("HOME".to_owned(), self.directory.display().to_string());
        let environment = BTreeMap::from([home]);
        Process::start_here(binary, &arguments, &environment, &self.directory.join(log))
    }
}

impl Ports {
    /// Three that nobody listens on now.
    fn free() -> Result<Ports> {
        let listeners = [0; 3].map(|port| TcpListener::bind(("127.0.0.1", port)));
        let mut ports = Vec::new();
        for listener in &listeners {
            let listener = listener
                .as_ref()
                .map_err(|error| anyhow::anyhow!("a port: {error}"))?;
            ports.push(listener.local_addr()?.port());
        }
        Ok(Ports {
            store: ports[0],
            peer: ports[1],
            server: ports[2],
        })
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("{}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
