//! A running Envoy: rendered from a template of `e2e/envoy/`, started inside a namespace, ended on drop. Used by `tunnel.rs`
//! and `pair.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use testkit::ca::Pem;
use testkit::mesh::LIMIT;
use testkit::process::{self, Process};
use testkit::topology::Namespace;
use testkit::wait;

/// Envoy terminates HBONE on 15008.
pub const TERMINATOR: &str = include_str!("../../envoy/terminator.yaml");
/// Envoy turns TCP to 127.0.0.1:9000 into HBONE.
pub const ORIGINATOR: &str = include_str!("../../envoy/originator.yaml");
/// Life of its certificates; longer than any run.
pub const LIFE: Duration = Duration::from_secs(24 * 3600);

/// The process and the directory of its files.
pub struct Envoy {
    _process: Process,
    _dir: TempDir,
}

impl Envoy {
    /// Starts `binary` with `template`, whose words in double braces are `values` and `certificates`, and waits until it is
    /// ready.
    ///
    /// # Errors
    /// When a word has no value, or Envoy refuses the config; the error carries its log.
    pub fn start(
        (binary, namespace): (&Path, &Namespace),
        template: &str,
        certificate: &Pem,
        values: &[(&str, &str)],
    ) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let path = |name| dir.path().join(name);
        fs::write(path("chain.pem"), &certificate.chain)?;
        fs::write(path("key.pem"), &certificate.key)?;
        fs::write(path("roots.pem"), &certificate.roots)?;
        let certificates = dir.path().display().to_string();
        let mut text = template.replace("{{certificates}}", &certificates);
        for (name, value) in values {
            text = text.replace(&format!("{{{{{name}}}}}"), value);
        }
        ensure!(!text.contains("{{"), "a word of the template has no value");
        fs::write(path("envoy.yaml"), text)?;
        let config = path("envoy.yaml").display().to_string();
        let mut process = Process::start(
            namespace,
            binary,
            &[
                "-c",
                &config,
                "--disable-hot-restart",
                "--concurrency",
                "1",
                "-l",
                "warning",
            ],
            &BTreeMap::new(),
            &path("envoy.log"),
        )?;
        let admin = SocketAddr::from(([127, 0, 0, 1], 15000));
        wait::until("Envoy ready", LIMIT, || {
            if !process.running() {
                bail!("it ended; log:\n{}", process.log());
            }
            let answer = process::get(namespace, admin, "/ready")?;
            ensure!(answer.status == 200, "{}", answer.body);
            Ok(())
        })
        .with_context(|| binary.display().to_string())?;
        Ok(Self {
            _process: process,
            _dir: dir,
        })
    }
}
