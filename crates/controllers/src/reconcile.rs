//! The shell around every keyed controller: workers that take keys, reconcile them and put failures back.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use client::{ObjectKey, WorkQueue};
use futures::FutureExt;
use tokio::task::JoinSet;
use tracing::{debug, error, warn};

use crate::api_error::ApiErrorExt;
use crate::spec::Ctx;

/// When to look at a key again without being told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requeue {
    Never,
    After(Duration),
}

impl Requeue {
    pub(crate) fn after_seconds(seconds: i64) -> Self {
        Requeue::After(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }
}

/// Why a reconcile did not finish. The key comes back after its back-off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// The API server refused or could not be asked. Conflicts are the common case: the cache was behind.
    #[error("{}", .0.text())]
    Api(#[from] kube::Error),
    /// Something the controller waits for is not there yet.
    #[error("{0}")]
    NotYet(String),
}

impl ReconcileError {
    fn is_ordinary(&self) -> bool {
        match self {
            ReconcileError::Api(error) => {
                error.is_conflict() || error.is_not_found() || error.is_namespace_terminating()
            }
            ReconcileError::NotYet(_) => true,
        }
    }
}

/// A controller whose work is one key at a time.
pub(crate) trait Reconciler: Send + Sync + 'static {
    fn reconcile(&self, key: &ObjectKey) -> impl Future<Output = Result<Requeue, ReconcileError>> + Send;
}

/// Runs `n_workers` on the queue until the context's shutdown; then lets them finish what they have in hand.
pub(crate) async fn work<R: Reconciler>(
    ctx: &Ctx,
    name: &'static str,
    reconciler: Arc<R>,
    queue: WorkQueue<ObjectKey>,
    n_workers: usize,
) {
    queue.measure(ctx.config.metrics.queue(name));
    let mut workers = JoinSet::new();
    for _ in 0..n_workers {
        let (reconciler, queue) = (reconciler.clone(), queue.clone());
        workers.spawn(async move {
            while let Some(key) = queue.get().await {
                work_on(name, reconciler.as_ref(), &queue, &key).await;
                queue.done(&key);
            }
        });
    }
    ctx.shutdown.cancelled().await;
    queue.shut_down();
    while workers.join_next().await.is_some() {}
}

async fn work_on<R: Reconciler>(name: &'static str, reconciler: &R, queue: &WorkQueue<ObjectKey>, key: &ObjectKey) {
    // A bug in one key's rules must not end the controller.
    match AssertUnwindSafe(reconciler.reconcile(key)).catch_unwind().await {
        Ok(Ok(requeue)) => {
            queue.forget(key);
            if let Requeue::After(delay) = requeue {
                queue.add_after(key.clone(), delay);
            }
        }
        Ok(Err(failure)) => {
            let failures = queue.n_failures(key) + 1;
            // A key that fails for long is told of ever more rarely.
            if failure.is_ordinary() || !failures.is_power_of_two() {
                debug!(controller = name, %key, %failure, failures, "will try again");
            } else {
                warn!(controller = name, %key, %failure, failures, "reconcile failed, will try again");
            }
            queue.add_rate_limited(key.clone());
        }
        Err(_) => {
            error!(controller = name, %key, "reconcile panicked");
            queue.add_rate_limited(key.clone());
        }
    }
}
