//! The golden data beside the workspace, for tests only.

use std::path::PathBuf;

use crate::Value;

/// A JSON file below `../shared`, or `None` (said aloud) when a plain clone has no such folder.
pub(crate) fn shared_json(path: &str) -> Option<Value> {
    match std::fs::read(place(path)) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).expect("golden data is JSON")),
        Err(_) => skipped(path),
    }
}

/// A text file below `../shared`.
pub(crate) fn shared_text(path: &str) -> Option<String> {
    std::fs::read_to_string(place(path)).ok().or_else(|| skipped(path))
}

/// The YAML documents of all files in a folder below `../shared` and in the folders in it, with the files' names.
pub(crate) fn shared_yaml(path: &str) -> Option<Vec<(String, Value)>> {
    let mut documents = Vec::new();
    let mut folders = vec![place(path)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { return skipped(path) };
        for entry in entries.map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
                continue;
            }
            let text = std::fs::read_to_string(&entry).expect("golden data is text");
            for part in text.split("\n---") {
                let document = crate::codec::yaml::parse(part.as_bytes()).expect("golden data is YAML");
                documents.push((entry.display().to_string(), document.value));
            }
        }
    }
    documents.retain(|(_, document)| document.is_object());
    Some(documents)
}

fn place(path: &str) -> PathBuf {
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.join("../../../shared").join(path)
}

fn skipped<T>(path: &str) -> Option<T> {
    eprintln!("skipped: {path} is not there");
    None
}
