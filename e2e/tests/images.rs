//! Images as `make images` makes them, from the binaries of this build: an OCI layout whose digests are right, the same bytes
//! each time, and a layer in which the binary starts. Needs python3, strip and tar; says so when they are not there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;
use testkit::process::binary;

/// Image, its binary, and the argument that makes it print what it is.
const IMAGES: [(&str, &str, &str); 4] = [
    ("ztunnel", "ztunnel", "version"),
    ("control-plane", "control-plane", "--version"),
    ("waypoint", "waypoint", "version"),
    ("cli", "causeway", "--version"),
];

fn script() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("e2e lies in the workspace")
        .join("scripts/image")
}

/// Whether images can be packed here.
fn tools() -> bool {
    let missing = ["python3", "strip", "tar"].iter().find(|tool| {
        let out = Command::new(tool).arg("--version").output();
        !out.is_ok_and(|out| out.status.success())
    });
    if let Some(tool) = missing {
        println!("skipped: {tool} is missing");
    }
    missing.is_none()
}

fn bin_directory() -> PathBuf {
    let ztunnel = binary("ztunnel").expect("the binaries are built");
    ztunnel.parent().expect("a directory").to_path_buf()
}

fn image(arguments: &[&str]) -> Output {
    Command::new(script())
        .args(arguments)
        .output()
        .expect("scripts/image starts")
}

fn pack(name: &str, out: &Path) -> PathBuf {
    let bin = bin_directory();
    let paths = [&bin, out].map(|p| p.to_str().expect("UTF-8"));
    let done = image(&[
        "pack", name, "--tag", "t", "--bin", paths[0], "--out", paths[1],
    ]);
    assert!(
        done.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    let mut archives = std::fs::read_dir(out).expect("the directory").flatten();
    let archive = archives.find(|e| {
        let file = e.file_name();
        let file = file.to_string_lossy();
        file.starts_with(&format!("{name}-t-")) && file.ends_with(".tar")
    });
    archive.expect("an archive").path()
}

fn untar(archive: &Path, into: &Path) {
    let status = Command::new("tar")
        .arg("-xpf")
        .arg(archive)
        .arg("-C")
        .arg(into)
        .status();
    assert!(
        status.expect("tar starts").success(),
        "{}",
        archive.display()
    );
}

/// An unpacked archive: what its manifest and configuration say, and the layer unpacked.
struct Unpacked {
    manifest: Value,
    config: Value,
    root: TempDir,
}

/// Follows the descriptors by hand, each checked against the bytes that it names.
fn unpack(archive: &Path) -> Unpacked {
    let layout = tempfile::tempdir().expect("a directory");
    untar(archive, layout.path());
    let file = |path: &str| std::fs::read(layout.path().join(path)).expect("a file of the layout");
    let json = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).expect("JSON") };
    assert_eq!(json(&file("oci-layout"))["imageLayoutVersion"], "1.0.0");
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("a digest");
        let hex = digest.strip_prefix("sha256:").expect("SHA-256");
        let bytes = file(&format!("blobs/sha256/{hex}"));
        let found = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
        let found: String = found.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(found, hex);
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    };
    let index = json(&file("index.json"));
    let manifest = json(&blob(&index["manifests"][0]));
    let config = json(&blob(&manifest["config"]));
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(1));
    let layer = blob(&manifest["layers"][0]);
    // The layer is not compressed, so that it is what the configuration names.
    assert_eq!(
        config["rootfs"]["diff_ids"][0],
        manifest["layers"][0]["digest"]
    );
    let tar = layout.path().join("layer.tar");
    std::fs::write(&tar, layer).expect("the layer");
    let root = tempfile::tempdir().expect("a directory");
    untar(&tar, root.path());
    Unpacked {
        manifest,
        config,
        root,
    }
}

#[test]
fn each_binary_starts_in_its_layer_and_nothing_else_is_there() {
    if !tools() {
        return;
    }
    let out = tempfile::tempdir().expect("a directory");
    for (name, program, argument) in IMAGES {
        let unpacked = unpack(&pack(name, out.path()));
        let entry = &unpacked.config["config"]["Entrypoint"][0];
        assert_eq!(*entry, format!("/usr/local/bin/{program}"));
        let labels = &unpacked.manifest["annotations"];
        assert_eq!(labels["org.opencontainers.image.version"], "t");
        let root = unpacked.root.path();
        let tops: Vec<_> = std::fs::read_dir(root)
            .expect("the layer")
            .flatten()
            .collect();
        let known = ["etc", "lib", "lib64", "tmp", "usr"];
        assert!(
            tops.iter()
                .all(|t| known.iter().any(|k| t.file_name() == *k)),
            "{tops:?}"
        );
        assert!(!root.join("bin").exists() && !root.join("usr/bin").exists());
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: not root: chroot into the layer of {name} needs it");
            continue;
        }
        let printed = Command::new("chroot")
            .arg("--userspec=1337:1337")
            .arg(root)
            .args([entry.as_str().expect("a path"), argument])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin")
            .output()
            .expect("chroot starts");
        let text = String::from_utf8_lossy(&printed.stdout);
        assert!(
            printed.status.success() && text.contains(env!("CARGO_PKG_VERSION")),
            "{name}: {text} {}",
            String::from_utf8_lossy(&printed.stderr)
        );
    }
}

#[test]
fn the_same_files_give_the_same_bytes() {
    if !tools() {
        return;
    }
    let [one, two] = [(), ()].map(|()| tempfile::tempdir().expect("a directory"));
    let [a, b] =
        [&one, &two].map(|dir| std::fs::read(pack("cli", dir.path())).expect("an archive"));
    assert!(a == b, "two archives of the same files differ");
}

#[test]
fn the_bill_of_materials_names_every_crate_once_with_its_licence() {
    if !tools() {
        return;
    }
    let out = tempfile::tempdir().expect("a directory");
    let unpacked = unpack(&pack("ztunnel", out.path()));
    let path = unpacked
        .root
        .path()
        .join("usr/share/causeway/sbom.cdx.json");
    let bill: Value = serde_json::from_slice(&std::fs::read(path).expect("a bill")).expect("JSON");
    assert_eq!(bill["bomFormat"], "CycloneDX");
    let mut seen = BTreeMap::new();
    for part in bill["components"].as_array().expect("components") {
        let reference = part["bom-ref"].as_str().expect("a reference");
        assert!(seen.insert(reference, part).is_none(), "{reference} twice");
        if part["type"] == "library" {
            assert!(part["licenses"][0]["expression"].is_string(), "{part}");
        }
    }
    for wanted in [
        "pkg:cargo/rustls@",
        "pkg:cargo/ztunnel@",
        "pkg:cargo/tokio@",
        "file:/usr/local/bin/ztunnel",
    ] {
        assert!(seen.keys().any(|k| k.starts_with(wanted)), "{wanted}");
    }
    // Tests' own crates are not in the binary.
    assert!(!seen.keys().any(|k| k.starts_with("pkg:cargo/proptest@")));
}

#[test]
fn a_plugin_that_needs_the_nodes_c_library_is_refused() {
    if !tools() {
        return;
    }
    let out = tempfile::tempdir().expect("a directory");
    let bin = bin_directory();
    let path = out.path().to_str().expect("UTF-8");
    let dynamic = bin.join("ztunnel");
    let arguments = [
        "pack",
        "cni",
        "--bin",
        bin.to_str().expect("UTF-8"),
        "--out",
        path,
    ];
    let done = image(
        &[
            &arguments[..],
            &["--plugin", dynamic.to_str().expect("UTF-8")],
        ]
        .concat(),
    );
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success());
    assert!(
        text.contains("is linked dynamically, but it runs on the node itself"),
        "{text}"
    );
}

#[test]
fn a_binary_of_another_architecture_is_refused() {
    if !tools() {
        return;
    }
    let other = if cfg!(target_arch = "aarch64") {
        "amd64"
    } else {
        "arm64"
    };
    let out = tempfile::tempdir().expect("a directory");
    let path = out.path().to_str().expect("UTF-8");
    let bin = bin_directory();
    let bin = bin.to_str().expect("UTF-8");
    let done = image(&["pack", "cli", "--arch", other, "--bin", bin, "--out", path]);
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success());
    assert!(
        text.contains("build it for the architecture that is packed"),
        "{text}"
    );
}

#[test]
fn a_changed_archive_does_not_pass_the_check() {
    if !tools() {
        return;
    }
    let out = tempfile::tempdir().expect("a directory");
    let archive = pack("cli", out.path());
    let path = archive.to_str().expect("UTF-8");
    let good = image(&["check", path]);
    assert!(
        good.status.success(),
        "{}",
        String::from_utf8_lossy(&good.stderr)
    );
    let mut bytes = std::fs::read(&archive).expect("the archive");
    // In the middle lies the layer.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&archive, bytes).expect("the archive");
    let bad = image(&["check", path]);
    let text = String::from_utf8_lossy(&bad.stderr);
    assert!(
        !bad.status.success() && text.contains("has the digest"),
        "{text}"
    );
}
