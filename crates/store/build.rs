//! Compiles the protocol files with protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: &[&str] = &["peer.proto", "raft_internal.proto", "rpc.proto", "lease.proto", "health.proto"];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    // `Bytes` fields are slices of the received frame: a value is not copied between the socket and the log.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
