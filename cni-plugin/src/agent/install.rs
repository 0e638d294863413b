//! Puts the plugin onto the node: its binary into the runtime's directory, its entry into the CNI configuration, and both
//! again whenever somebody else takes them out. Spawned by `run`; what goes where is decided in `conflist`.
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::readiness::Pending;
use runtime::{Readiness, Settings, Shutdown};
use serde_json::{Value, json};

use super::config::OwnPod;
use conflist::{Plan, Shape};

/// What stands in the files.
pub mod conflist;

/// The plugin's name: of its binary and of its entries.
pub const PLUGIN: &str = "causeway-cni";
/// A copy of the main CNI's file, if one is wanted, is called so.
const COPY: &str = "02-causeway-cni.conflist";
/// Between two looks at the node's files. A pod that starts in between without us is found and repaired.
const STEP: Duration = Duration::from_millis(500);

/// What is installed where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The CNI configuration of the node, as seen from here.
    pub conf_directory: PathBuf,
    /// The directory of plugins of the node, as seen from here.
    pub bin_directory: PathBuf,
    /// The plugin's binary; `None`: the one beside the agent's.
    pub binary: Option<PathBuf>,
    /// Which file, and how.
    pub shape: Shape,
    /// Our entry.
    pub entry: Value,
    /// Group may read a file that we make.
    pub group_read: bool,
}

/// Our entry in the configuration: all that the plugin knows when no agent answers.
#[must_use]
pub fn entry(socket: &Path, excluded: &[String], own: Option<&OwnPod>) -> Value {
    let exempt: Vec<Value> = own
        .map(|own| json!({"namespace": own.namespace, "daemonSet": own.daemon_set()}))
        .into_iter()
        .collect();
    json!({
        "type": PLUGIN,
        "agentSocket": socket,
        "excludeNamespaces": excluded,
        "exemptPods": exempt,
    })
}

impl Options {
    /// Reads the settings.
    pub fn read(s: &mut Settings<'_>, entry: Value) -> Self {
        let conf_directory = s.path(
            "MOUNTED_CNI_NET_DIR",
            "/host/etc/cni/net.d",
            "the node's CNI configuration, as mounted here",
        );
        let bin_directory = s.path(
            "MOUNTED_CNI_BIN_DIR",
            "/host/opt/cni/bin",
            "the node's CNI plugins, as mounted here",
        );
        let binary = s.optional_path(
            "PLUGIN_BINARY",
            "the plugin to install; not set: causeway-cni beside the agent's own binary",
        );
        let named = s.string(
            "CNI_CONF_NAME",
            "",
            "file of the CNI configuration to use; empty: the first one that is valid, as the runtime takes it",
        );
        let chained = s.boolean(
            "CHAINED_CNI_PLUGIN",
            true,
            "add the plugin to the list of the node's main CNI; false: write a configuration of its own",
        );
        let owned = s.boolean(
            "ISTIO_OWNED_CNI_CONFIG",
            false,
            "leave the main CNI's file alone and write a copy with the plugin that goes before it",
        );
        let owned_name = s.string(
            "ISTIO_OWNED_CNI_CONFIG_FILENAME",
            COPY,
            "the name of that copy",
        );
        let group_read = s.boolean(
            "CNI_CONF_GROUP_READ",
            false,
            "a configuration file that we make may be read by its group",
        );
        let former = [COPY.to_owned(), owned_name.clone()];
        let shape = Shape {
            named: Some(named).filter(|name| !name.is_empty()),
            chained,
            former: former
                .into_iter()
                .filter(|name| !owned || *name != owned_name)
                .collect(),
            owned: owned.then_some(owned_name),
        };
        Self {
            conf_directory,
            bin_directory,
            binary,
            shape,
            entry,
            group_read,
        }
    }

    fn source(&self) -> io::Result<PathBuf> {
        match &self.binary {
            Some(path) => Ok(path.clone()),
            None => Ok(std::env::current_exe()?.with_file_name(PLUGIN)),
        }
    }

    fn target(&self) -> PathBuf {
        self.bin_directory.join(PLUGIN)
    }
}

/// Device, inode, size and time of the installed binary: what tells ours from another.
type Stamp = (u64, u64, u64, i64, i64);

/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// All is in place, in this file; what is odd about the others is said.
    Installed(String, Vec<String>),
    /// There is nothing to join yet.
    Waiting(String),
    /// Something cannot be read or written.
    Failed(String),
}

/// Installs, and looks again until the agent drains.
pub async fn run(options: Options, readiness: Readiness, shutdown: Shutdown) {
    let mut pending: Option<Pending> = Some(readiness.register("CNI configuration"));
    let (mut last, mut stamp) = (None, None);
    loop {
        let (looked, before) = (options.clone(), stamp);
        let look = shutdown.spawn_blocking(move || step(&looked, before));
        let Ok((outcome, now)) = look.await else {
            return;
        };
        stamp = now;
        pending = match &outcome {
            Outcome::Installed(..) => None,
            _ => pending.or_else(|| Some(readiness.register("CNI configuration"))),
        };
        if last.as_ref() != Some(&outcome) {
            tell(&options, &outcome);
            last = Some(outcome);
        }
        tokio::select! {
            () = tokio::time::sleep(STEP) => {}
            () = shutdown.draining() => return,
        }
    }
}

fn tell(options: &Options, outcome: &Outcome) {
    let directory = options.conf_directory.display();
    match outcome {
        Outcome::Installed(file, odd) => {
            tracing::info!(%directory, file, "the plugin is in the CNI configuration");
            for text in odd {
                tracing::warn!(%directory, "{text}");
            }
        }
        Outcome::Waiting(why) => {
            tracing::warn!(%directory, "waiting for a CNI configuration: {why}")
        }
        Outcome::Failed(why) => tracing::error!(%directory, "the plugin is not installed: {why}"),
    }
}

/// One look: what is missing is put there.
fn step(options: &Options, stamp: Option<Stamp>) -> (Outcome, Option<Stamp>) {
    let stamp = match binary(options, stamp) {
        Ok(stamp) => stamp,
        Err(error) => {
            let target = options.target();
            let hint = if error.kind() == io::ErrorKind::ReadOnlyFilesystem {
                "; this platform keeps its plugins elsewhere: set cniBinDir, or the chart's platform"
            } else {
                ""
            };
            let why = format!("{}: {error}{hint}", target.display());
            return (Outcome::Failed(why), None);
        }
    };
    let outcome = configure(options).unwrap_or_else(|error| {
        Outcome::Failed(format!("{}: {error}", options.conf_directory.display()))
    });
    (outcome, Some(stamp))
}

/// Copies the binary unless what is there is what we put there.
fn binary(options: &Options, before: Option<Stamp>) -> io::Result<Stamp> {
    let target = options.target();
    match stamp_of(&target) {
        Ok(now) if Some(now) == before => return Ok(now),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let source = options.source()?;
    let bytes = std::fs::read(&source)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot read {}: {e}", source.display())))?;
    if std::fs::read(&target).is_ok_and(|held| held == bytes) && is_executable(&target)? {
        return stamp_of(&target);
    }
    write_whole(&target, &bytes, 0o755)?;
    tracing::info!(path = %target.display(), "the plugin's binary is in place");
    stamp_of(&target)
}

fn is_executable(path: &Path) -> io::Result<bool> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o111 == 0o111)
}

fn stamp_of(path: &Path) -> io::Result<Stamp> {
    let m = std::fs::metadata(path)?;
    Ok((m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
}

fn configure(options: &Options) -> io::Result<Outcome> {
    let files = files(&options.conf_directory)?;
    Ok(
        match conflist::plan(&files, &options.shape, &options.entry) {
            Plan::InPlace { file, odd } => Outcome::Installed(file, odd),
            Plan::Wait(why) => Outcome::Waiting(why),
            Plan::Drop { copy, file, odd } => {
                let path = options.conf_directory.join(copy);
                std::fs::remove_file(&path)?;
                tracing::info!(path = %path.display(), "an earlier copy of the CNI configuration removed");
                Outcome::Installed(file, odd)
            }
            Plan::Write {
                file,
                text,
                replaces,
                odd,
            } => {
                write_conf(options, &file, &text, replaces.as_deref())?;
                Outcome::Installed(file, odd)
            }
        },
    )
}

fn write_conf(options: &Options, file: &str, text: &str, replaces: Option<&str>) -> io::Result<()> {
    let directory = &options.conf_directory;
    let path = directory.join(file);
    let like = replaces.map_or_else(|| path.clone(), |name| directory.join(name));
    let made = if options.group_read { 0o640 } else { 0o600 };
    let mode = std::fs::metadata(like).map_or(made, |m| m.permissions().mode() & 0o7777);
    write_whole(&path, text.as_bytes(), mode)?;
    if let Some(name) = replaces {
        std::fs::remove_file(directory.join(name))?;
    }
    tracing::info!(path = %path.display(), "CNI configuration written");
    Ok(())
}

/// Configuration files by name; one that vanishes while we look is not there.
fn files(directory: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        if !conflist::is_configuration(&name) {
            continue;
        }
        match std::fs::read(directory.join(&name)) {
            Ok(bytes) => {
                all.insert(name, String::from_utf8_lossy(&bytes).into_owned());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Whole or not at all: written beside, under a name that no runtime reads, and renamed.
fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    use std::io::Write;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.causeway-new"));
    // Of an attempt that was cut off.
    let _ = std::fs::remove_file(&beside);
    let mut file = std::fs::File::create_new(&beside)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.set_permissions(std::fs::Permissions::from_mode(mode)))
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

/// Takes our entries out of every configuration file, then the binary away. All is tried; what remains is said.
///
/// # Errors
/// One line for each thing that is still there.
pub fn remove(options: &Options) -> Result<(), Vec<String>> {
    let directory = &options.conf_directory;
    let mut left = Vec::new();
    let mut note = |what: &Path, done: io::Result<()>| {
        if let Err(error) = done
            && error.kind() != io::ErrorKind::NotFound
        {
            left.push(format!("{}: {error}", what.display()));
        }
    };
    match files(directory) {
        Ok(files) => {
            for (name, change) in conflist::removal(&files, &options.shape) {
                let path = directory.join(&name);
                let done = match change {
                    Some(text) => write_conf(options, &name, &text, None),
                    None => std::fs::remove_file(&path),
                };
                note(&path, done);
            }
        }
        Err(error) => note(directory, Err(error)),
    }
    let target = options.target();
    note(&target, std::fs::remove_file(&target));
    let again = files(directory).unwrap_or_default();
    for name in again
        .iter()
        .filter(|(_, text)| conflist::has_ours(text))
        .map(|(name, _)| name)
    {
        left.push(format!(
            "{}: still names {PLUGIN}",
            directory.join(name).display()
        ));
    }
    if left.is_empty() { Ok(()) } else { Err(left) }
}

#[cfg(test)]
mod tests;
