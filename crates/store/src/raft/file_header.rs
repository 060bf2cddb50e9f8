//! The first bytes of the log's files, looked at before the engine does.
//!
//! raft-engine believes the alignment that a file's header names and reserves as much memory. The header has no checksum, so one
//! flipped bit on the disk would end the process. Our files are never aligned: any other header is damaged.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::log::LogError;

const MAGIC: &[u8] = b"RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5";
/// The version whose header ends with an alignment.
const ALIGNED_VERSION: [u8; 8] = 2u64.to_be_bytes();
const NOT_ALIGNED: [u8; 8] = [0; 8];

/// Refuses a directory with a file whose header is damaged. What does not begin like a log file is the engine's to judge.
pub(super) fn check_all(dir: &Path) -> Result<(), LogError> {
    let failed = |error: std::io::Error| LogError::Failed(format!("{}: {error}", dir.display()));
    let files = match fs::read_dir(dir) {
        Ok(files) => files,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for file in files {
        let path = file.map_err(failed)?.path();
        if path.is_file() && is_damaged(&path).map_err(failed)? {
            return Err(LogError::Failed(format!("{}: the header is damaged", path.display())));
        }
    }
    Ok(())
}

fn is_damaged(path: &Path) -> std::io::Result<bool> {
    let mut header = [0; MAGIC.len() + 16];
    let mut file = File::open(path)?;
    match file.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    }
    let (magic, rest) = header.split_at(MAGIC.len());
    let (version, alignment) = rest.split_at(ALIGNED_VERSION.len());
    Ok(magic == MAGIC && version == ALIGNED_VERSION && alignment != NOT_ALIGNED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_claims_to_be_aligned_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0000000000000001.raftlog");
        let header = |alignment: u64| [MAGIC, &ALIGNED_VERSION, &alignment.to_be_bytes(), b"entries"].concat();
        fs::write(&path, header(0)).unwrap();
        check_all(dir.path()).unwrap();
        fs::write(&path, header(1 << 47)).unwrap();
        let refused = check_all(dir.path()).unwrap_err().to_string();
        assert!(refused.ends_with("0000000000000001.raftlog: the header is damaged"), "{refused}");
        fs::write(&path, b"short").unwrap();
        check_all(dir.path()).unwrap();
        check_all(&dir.path().join("not there")).unwrap();
    }
}
