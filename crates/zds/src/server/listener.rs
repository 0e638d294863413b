//! The listening socket with its lock: a stale socket file is replaced, a live one is refused with
//! the process that holds it, and no two processes can both believe they own the path. Called by the
//! agent at start.
use std::fs::{File, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sys::seqpacket;
use tokio::io::unix::AsyncFd;

use super::BindError;
use crate::socket::watched;

/// A bound seqpacket socket; dropping it removes the socket file and releases the lock.
#[derive(Debug)]
pub struct Listener {
    fd: AsyncFd<seqpacket::Listener>,
    path: PathBuf,
    /// Held (flock) as long as we serve; the kernel releases it when the process dies.
    lock: File,
}

impl Listener {
    /// Binds `path`, taking over from a process that has died. Its directory is made if missing.
    /// Beside it stands `<path>.lock`.
    ///
    /// # Errors
    /// [`BindError::Taken`] when a living process serves the path (retry after it has stopped).
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let fault = |source| BindError::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(fault)?;
        }
        let lock = lock(path)?;
        // A server that knows no lock (upstream's) shows by answering.
        match seqpacket::Connection::connect(path) {
            Ok(_) => {
                return Err(BindError::Taken {
                    path: path.to_owned(),
                    pid: None,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(BindError::Taken {
                    path: path.to_owned(),
                    pid: None,
                });
            }
            Err(_stale_or_absent) => {}
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(error)),
            _ => {}
        }
        let socket = seqpacket::Listener::bind(path).map_err(fault)?;
        // Pods' namespaces pass through here: for root alone.
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(fault)?;
        let fd = watched(socket).map_err(fault)?;
        Ok(Self {
            fd,
            path: path.to_owned(),
            lock,
        })
    }

    /// The next connection. The ZDS server calls it itself; whoever uses the listener for another
    /// protocol may too. Cancel safe.
    ///
    /// # Errors
    /// What `accept` says; the listener usually stays usable.
    pub async fn accept(&self) -> io::Result<seqpacket::Connection> {
        loop {
            let mut ready = self.fd.readable().await?;
            if let Ok(accepted) = ready.try_io(|inner| inner.get_ref().accept()) {
                return accepted;
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Still under the lock, so this is our own socket file.
        let _ = std::fs::remove_file(&self.path);
        // Closing would do, were there no child between fork and exec that holds a copy.
        let _ = self.lock.unlock();
    }
}

fn lock(socket: &Path) -> Result<File, BindError> {
    let path = lock_path(socket);
    let fault = |source| BindError::Io {
        path: path.clone(),
        source,
    };
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(&path).map_err(fault)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            let pid = text.trim().parse().ok();
            return Err(BindError::Taken {
                path: socket.to_owned(),
                pid,
            });
        }
        Err(TryLockError::Error(error)) => return Err(fault(error)),
    }
    let written = file.set_len(0).and_then(|()| file.rewind());
    written
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(fault)?;
    Ok(file)
}

fn lock_path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}
