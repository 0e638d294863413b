//! The authority's key and certificate in their directory: made at the first start, used again after.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    time::{Duration, SystemTime},
};

use identity::issue::{CaFiles, IssueError, Issuer};

const KEY: &str = "ca-key.pem";
const CERTIFICATE: &str = "ca-cert.pem";
const CHAIN: &str = "cert-chain.pem";
const ROOT: &str = "root-cert.pem";
/// Life of a root that we make.
const ROOT_TTL: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The files do not make an authority.
    #[error("{directory}: {source}")]
    Unusable {
        /// The directory.
        directory: String,
        /// Why.
        source: IssueError,
    },
}

/// Opens the authority in `directory`, or makes one there for `trust_domain`.
///
/// # Errors
/// See [`RootError`]. A directory that holds a key without its certificate is never written to.
pub fn open(directory: &Path, trust_domain: &str, now: SystemTime) -> Result<Issuer, RootError> {
    let key_path = directory.join(KEY);
    match fs::read_to_string(&key_path) {
        Ok(key) => {
            warn_if_open(&key_path);
            existing(directory, &key)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(directory, trust_domain, now)
        }
        Err(source) => Err(file(&key_path, source)),
    }
}

/// Writes the roots for clients, whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn publish(issuer: &Issuer, path: &Path) -> Result<(), RootError> {
    write(path, issuer.roots_pem().as_bytes(), 0o644)
}

fn existing(directory: &Path, key: &str) -> Result<Issuer, RootError> {
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read_to_string(&path).map_err(|source| file(&path, source))
    };
    let certificate = read(CERTIFICATE)?;
    let root = read(ROOT)?;
    let chain = match fs::read_to_string(directory.join(CHAIN)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other.map_err(|source| file(&directory.join(CHAIN), source))?,
    };
    let files = CaFiles {
        certificate: &certificate,
        key,
        chain: &chain,
        root: &root,
    };
    Issuer::from_pem(&files).map_err(|source| unusable(directory, source))
}

fn create(directory: &Path, trust_domain: &str, now: SystemTime) -> Result<Issuer, RootError> {
    fs::create_dir_all(directory).map_err(|source| file(directory, source))?;
    let not_before = now - Duration::from_secs(60);
    let issuer = Issuer::new_root(trust_domain, not_before, ROOT_TTL)
        .map_err(|source| unusable(directory, source))?;
    let key = issuer
        .key_pem()
        .map_err(|source| unusable(directory, source))?;
    // The key last: while it is missing, the next start begins anew.
    write(&directory.join(ROOT), issuer.roots_pem().as_bytes(), 0o644)?;
    write(
        &directory.join(CERTIFICATE),
        issuer.roots_pem().as_bytes(),
        0o644,
    )?;
    write(&directory.join(KEY), key.as_bytes(), 0o600)?;
    tracing::info!("made a new root in {}", directory.display());
    Ok(issuer)
}

/// Writes beside and renames, so that nobody reads half a file and the mode is right from the first byte.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), RootError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = Path::new(&name);
    let written = (|| {
        let _ = fs::remove_file(beside);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(beside, path)
    })();
    written.map_err(|source| file(path, source))
}

fn warn_if_open(path: &Path) {
    let mode = fs::metadata(path).map(|meta| meta.permissions().mode());
    if mode.is_ok_and(|mode| mode & 0o077 != 0) {
        tracing::warn!(
            "{}: others than its owner may read this key",
            path.display()
        );
    }
}

fn file(path: &Path, source: io::Error) -> RootError {
    RootError::File {
        path: path.display().to_string(),
        source,
    }
}

fn unusable(directory: &Path, source: IssueError) -> RootError {
    RootError::Unusable {
        directory: directory.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_made_once_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca");
        let first = open(&ca, "cluster.local", SystemTime::now()).unwrap();
        let mode = fs::metadata(ca.join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = open(&ca, "cluster.local", SystemTime::now()).unwrap();
        assert_eq!(first.roots_pem().trim(), again.roots_pem().trim());
        publish(&again, &dir.path().join("root.pem")).unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join("root.pem")).unwrap(),
            again.roots_pem()
        );
    }

    #[test]
    fn a_key_without_its_certificate_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), "cluster.local", SystemTime::now()).unwrap();
        let key = fs::read(dir.path().join(KEY)).unwrap();
        fs::remove_file(dir.path().join(CERTIFICATE)).unwrap();
        let error = open(dir.path(), "cluster.local", SystemTime::now())
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("ca-cert.pem: No such file"), "{error}");
        assert_eq!(fs::read(dir.path().join(KEY)).unwrap(), key);
        fs::write(dir.path().join(CERTIFICATE), "nonsense").unwrap();
        assert!(open(dir.path(), "cluster.local", SystemTime::now()).is_err());
    }
}
