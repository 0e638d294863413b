//! Compiles our own .proto texts without a system protoc.
use std::error::Error;

const FILES: [&str; 5] = ["workload", "authorization", "ca", "zds", "discovery"];

fn main() -> Result<(), Box<dyn Error>> {
    let files: Vec<String> = FILES.iter().map(|f| format!("proto/{f}.proto")).collect();
    println!("cargo::rerun-if-changed=proto");
    let set = protox::compile(&files, ["proto"])?;
    // `Any.value` and other bytes stay `Vec<u8>`: resources are decoded once and dropped.
    // `Workload.services` is ordered: the same workload always encodes to the same bytes.
    tonic_prost_build::configure()
        .build_transport(false)
        .btree_map(".istio.workload.Workload.services")
        .compile_fds(set)?;
    Ok(())
}
