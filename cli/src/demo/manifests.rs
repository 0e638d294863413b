//! The demo's Kubernetes objects: built into the command, written out at start, edited while it runs the
//! way a user would edit them.
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        /// File name and text of each manifest of `demo/manifests/`.
        pub const FILES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../../demo/manifests/", $name)))),*];
    };
}

files![
    "00-mesh.yaml",
    "10-client.yaml",
    "11-outsider.yaml",
    "12-reviews-v1.yaml",
    "13-reviews-v2.yaml",
    "14-ratings.yaml",
    "15-ratings-flaky.yaml",
    "16-echo.yaml",
    "20-reviews-waypoint-pod.yaml",
    "21-ratings-waypoint-pod.yaml",
    "30-services.yaml",
    "40-waypoints.yaml",
    "50-reviews-route.yaml",
    "51-ratings-route.yaml",
    "60-echo-policy.yaml",
    "61-reviews-policy.yaml",
];

/// Writes all manifests into `directory`.
///
/// # Errors
/// When a file cannot be written; names it.
pub fn write_all(directory: &Path) -> Result<()> {
    for (name, text) in FILES {
        put(directory, name, text)?;
    }
    Ok(())
}

/// Replaces one manifest as a whole: readers see the old or the new text, never half of one.
///
/// # Errors
/// When the file cannot be written; names it.
pub fn put(directory: &Path, name: &str, text: &str) -> Result<()> {
    let path = directory.join(name);
    let staged = directory.join(format!(".{name}.new"));
    fs::write(&staged, text)
        .and_then(|()| fs::rename(&staged, &path))
        .with_context(|| format!("write {}", path.display()))
}

/// Edits one manifest: every occurrence of `from` becomes `to`.
///
/// # Errors
/// When the file is not there, does not hold `from`, or cannot be written.
pub fn edit(directory: &Path, name: &str, from: &str, to: &str) -> Result<()> {
    let path = directory.join(name);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    ensure!(
        text.contains(from),
        "{} does not hold {from:?}: was it edited by hand?",
        path.display()
    );
    put(directory, name, &text.replace(from, to))
}

/// Removes one manifest.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(directory: &Path, name: &str) -> Result<()> {
    let path = directory.join(name);
    fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
}
