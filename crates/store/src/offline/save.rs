//! A snapshot file of a data directory on which no store is running.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use super::OfflineError;
use super::data_dir::{VALUE_CACHE_BYTES, load_error, open_state};
use crate::backend::load;
use crate::bolt::Writer;
use crate::embedded::{LOG_DIR, Versions, buckets, catch_up, check_agreement, small_rows};
use crate::raft::{EngineLog, LogStore};
use crate::{Revision, StoreError};

/// Writes everything that a data directory knows, the end of its log included, to a snapshot file that is whole or not there. The directory is
/// left as it is. Returns the revision.
pub fn save(dir: &Path, file: &Path) -> Result<Revision, OfflineError> {
    let (_lock, backend) = open_state(dir)?;
    let mut machine = load(&backend, VALUE_CACHE_BYTES).map_err(load_error)?.machine;
    let log = EngineLog::open(&dir.join(LOG_DIR)).and_then(|mut log| log.load());
    let logged = log.map_err(|error| OfflineError::Data(error.to_string()))?;
    check_agreement(dir, machine.applied.0, &logged)?;
    catch_up(&mut machine, &logged, &mut Vec::new()).map_err(OfflineError::Data)?;
    let versions = Versions::of(&machine.keyspace, Revision(0)).map_err(OfflineError::Revision)?;
    let rows = small_rows(&machine);
    let snapshot = Writer::plan(buckets(rows, Arc::new(versions), None)).map_err(OfflineError::Revision)?;
    let part = file.with_extension("part");
    write(snapshot, &part).inspect_err(|_| {
        let _nothing_written = std::fs::remove_file(&part);
    })?;
    std::fs::rename(&part, file).map_err(|source| OfflineError::io(file, source))?;
    Ok(machine.keyspace.revision())
}

fn write(snapshot: Writer, part: &Path) -> Result<(), OfflineError> {
    let io = |source| OfflineError::io(part, source);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(part).map_err(io)?;
    let mut failed = None;
    let written = snapshot.run(&mut |chunk| {
        file.write_all(&chunk).map_err(|error| {
            failed = Some(error);
            StoreError::Stopped
        })
    });
    match (failed, written) {
        (Some(error), _) => return Err(io(error)),
        (None, Err(error)) => return Err(OfflineError::Data(error.to_string())),
        (None, Ok(())) => {}
    }
    file.sync_all().map_err(io)
}
