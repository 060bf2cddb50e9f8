//! The golden data beside the workspace, for tests only.

use std::path::PathBuf;

use crate::Value;

/// A JSON file below `../shared`, or `None` (said aloud) when a plain clone has no such folder.
pub(crate) fn shared_json(path: &str) -> Option<Value> {
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    let file = manifest.join("../../../shared").join(path);
    match std::fs::read(&file) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).expect("golden data is JSON")),
        Err(_) => {
            eprintln!("skipped: {} is not there", file.display());
            None
        }
    }
}
