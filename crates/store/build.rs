//! Compiles the protocol files with protox, so that no protoc is needed.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: &[&str] = &[
        "peer.proto",
        "raft_internal.proto",
        "rpc.proto",
        "auth.proto",
        "lease.proto",
        "lock.proto",
        "election.proto",
        "health.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    // The JSON gateway reads its messages by their descriptions.
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // `Bytes` fields are slices of the received frame: a value is not copied between the socket and the log.
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::proto::Codec")
        .extern_path(".etcdserverpb.WatchResponse", "crate::proto::WatchResponse")
        .compile_fds(descriptors)?;
    Ok(())
}
