//! A snapshot file as a backend that can only be read: its buckets are the same.

use std::sync::Arc;

use super::{Backend, BackendError, Bucket, Row, Sizes};
use crate::StoreError;
use crate::bolt::{BoltError, Reader};
use crate::mvcc::Rows;

pub(crate) struct SnapshotFile(pub(crate) Reader);

impl Backend for SnapshotFile {
    fn commit(&mut self, _rows: &[Row]) -> Result<(), BackendError> {
        Err(BackendError::Failed("snapshot files are not changed".to_owned()))
    }

    fn replace(&mut self, _rows: &mut dyn Iterator<Item = Result<Row, StoreError>>) -> Result<(), BackendError> {
        Err(BackendError::Failed("snapshot files are not changed".to_owned()))
    }

    fn scan(&self, bucket: Bucket, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), BackendError> {
        let failed = |error: BoltError| BackendError::Failed(error.to_string());
        let Some(rows) = self.0.bucket(bucket.name()).map_err(failed)? else { return Ok(()) };
        for row in rows {
            let (key, value) = row.map_err(failed)?;
            visit(&key, &value);
        }
        Ok(())
    }

    fn sizes(&self) -> Sizes {
        Sizes { file_bytes: self.0.size_bytes(), in_use_bytes: self.0.size_bytes() }
    }

    fn rows(&self) -> Option<Arc<dyn Rows>> {
        None
    }

    fn defragment(&mut self) -> Result<(), BackendError> {
        Err(BackendError::Failed("snapshot files are not changed".to_owned()))
    }
}
