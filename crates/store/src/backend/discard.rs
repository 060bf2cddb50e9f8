//! A backend for a store that is forgotten with the process. The keyspace in memory is all there is; only its size is counted.

use std::sync::Arc;

use super::{Backend, BackendError, Bucket, Row, Sizes};
use crate::StoreError;
use crate::mvcc::Rows;

#[derive(Debug, Default)]
pub(crate) struct DiscardBackend {
    bytes: u64,
}

impl Backend for DiscardBackend {
    fn commit(&mut self, rows: &[Row]) -> Result<(), BackendError> {
        let added = rows.iter().filter(|row| row.bucket == Bucket::Key).filter_map(|row| row.value.as_ref());
        self.bytes += added.map(|value| value.len() as u64).sum::<u64>();
        Ok(())
    }

    fn replace(&mut self, rows: &mut dyn Iterator<Item = Result<Row, StoreError>>) -> Result<(), BackendError> {
        self.bytes = 0;
        let rows = rows.collect::<Result<Vec<_>, _>>().map_err(|error| BackendError::Failed(error.to_string()))?;
        self.commit(&rows)
    }

    fn scan(&self, _bucket: Bucket, _visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), BackendError> {
        Ok(())
    }

    fn sizes(&self) -> Sizes {
        Sizes { file_bytes: self.bytes, in_use_bytes: self.bytes }
    }

    fn rows(&self) -> Option<Arc<dyn Rows>> {
        None
    }

    fn defragment(&mut self) -> Result<(), BackendError> {
        Ok(())
    }
}
