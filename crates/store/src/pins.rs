//! Revisions that somebody still reads, so that sweeping leaves them alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::Revision;

#[derive(Debug, Default)]
pub(crate) struct Pins {
    readers: Mutex<BTreeMap<Revision, usize>>,
}

/// Keeps a revision readable for as long as it lives.
#[derive(Debug)]
pub(crate) struct Pin {
    pins: Arc<Pins>,
    revision: Revision,
}

impl Pins {
    /// To be called under the machine's lock, in which the revision was found readable.
    pub(crate) fn pin(self: &Arc<Self>, revision: Revision) -> Pin {
        *self.readers.lock().entry(revision).or_default() += 1;
        Pin { pins: self.clone(), revision }
    }

    /// The oldest revision in use; a very new one when none is.
    pub(crate) fn oldest(&self) -> Revision {
        self.readers.lock().first_key_value().map_or(Revision(i64::MAX), |(revision, _)| *revision)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut readers = self.pins.readers.lock();
        if let Some(n_readers) = readers.get_mut(&self.revision) {
            *n_readers -= 1;
            if *n_readers == 0 {
                readers.remove(&self.revision);
            }
        }
    }
}
