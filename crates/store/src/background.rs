//! Work that takes long and that nobody is in a hurry for: checksums and copies of the whole state.

use std::thread;

use tokio::sync::oneshot;

use crate::StoreError;

/// How far behind the threads of requests these stand: about a tenth of their share of a busy processor.
const NICENESS: i32 = 10;
const NICENESS_MAX: i32 = 19;

/// Gives this thread, and those that it starts from now on, the processor time that others leave: about a tenth of a busy processor.
pub fn stand_behind() {
    // On Linux a thread has a priority of its own, and nobody is refused a lower one.
    let present = rustix::process::getpriority_process(None).unwrap_or(0);
    let wanted = present.saturating_add(NICENESS).min(NICENESS_MAX);
    if let Err(error) = rustix::process::setpriority_process(None, wanted) {
        tracing::debug!(%error, "the thread keeps its priority");
    }
}

/// Starts `work` on a thread of its own, which gets the processor time that others leave.
///
/// # Errors
/// When there is no room for another thread.
pub fn spawn_background(name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(move || {
        stand_behind();
        work();
    });
    started.map(drop).map_err(|error| StoreError::Fatal(format!("{name}: {error}")))
}

/// The same, and waits for what comes of it.
///
/// # Errors
/// When there is no room for another thread, or `work` panics.
pub async fn in_background<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    let (sender, receiver) = oneshot::channel();
    spawn_background(name, move || drop(sender.send(work())))?;
    receiver.await.map_err(|_gone| StoreError::Fatal(format!("{name}: the thread ended early")))
}

/// Lets a thread that waits for a processor go first. To be called every 100 microseconds or so: a lower priority alone makes others
/// wait until the scheduler's slice is over, which takes milliseconds.
pub fn give_way() {
    thread::yield_now();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_done_in_the_background_stands_behind_the_rest() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        assert_eq!(in_background("test", priority).await.unwrap(), (priority() + NICENESS).min(NICENESS_MAX));
    }
}
