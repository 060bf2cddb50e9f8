//! The requests of a level that are worked on, for dumps.

use parking_lot::Mutex;

use super::level::About;

/// A request that is worked on.
#[derive(Clone, Debug)]
pub(super) struct Executing {
    pub about: About,
    pub width: usize,
    /// The queue it came from.
    pub queue: Option<usize>,
    pub started: jiff::Timestamp,
}

/// All of them, in places that are used again. As many as were worked on at once.
#[derive(Debug, Default)]
pub(super) struct Executions(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    all: Vec<Option<Executing>>,
    free: Vec<usize>,
}

impl Executions {
    /// Returns the place.
    pub(super) fn begin(&self, executing: Executing) -> usize {
        let mut places = self.0.lock();
        match places.free.pop() {
            Some(at) => {
                places.all[at] = Some(executing);
                at
            }
            None => {
                places.all.push(Some(executing));
                places.all.len() - 1
            }
        }
    }

    pub(super) fn end(&self, at: usize) -> Option<Executing> {
        let mut places = self.0.lock();
        let ended = places.all.get_mut(at)?.take()?;
        places.free.push(at);
        Some(ended)
    }

    pub(super) fn all(&self) -> Vec<Executing> {
        self.0.lock().all.iter().flatten().cloned().collect()
    }
}
