//! TTL: tells kubelets, by an annotation on their node, how long they may cache secrets: longer in larger clusters.
//! Reads Node. Writes Node.metadata.annotations.

use std::sync::Arc;

use client::{Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;

use crate::api_error::ApiErrorExt;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "ttl-controller",
    alias: "ttl",
    account: "ttl-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 5;
const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// Fewest nodes to fall back below, most nodes before going on to the next row, and the seconds in between.
const ROWS: [(usize, usize, u32); 5] =
    [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

struct Controller {
    ctx: Ctx,
    nodes: Informer<Node>,
    row: Mutex<usize>,
}

async fn run(ctx: Ctx) {
    let nodes = ctx.informers.informer::<Node>();
    let queue = WorkQueue::default();
    nodes.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::of(event.object().as_ref()))
    });
    nodes.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), nodes, row: Mutex::new(0) };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

/// The row for a number of nodes, coming from another: the borders overlap, so that nothing flips at one of them.
fn plan(mut row: usize, n_nodes: usize) -> usize {
    while n_nodes > ROWS[row].1 {
        row += 1;
    }
    while n_nodes < ROWS[row].0 {
        row -= 1;
    }
    row
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(node) = self.nodes.get(key) else { return Ok(Requeue::Never) };
        let seconds = {
            let mut row = self.row.lock();
            *row = plan(*row, self.nodes.len());
            ROWS[*row].2.to_string()
        };
        let annotations = node.metadata.annotations.as_ref();
        if annotations.and_then(|annotations| annotations.get(ANNOTATION)) == Some(&seconds) {
            return Ok(Requeue::Never);
        }
        let change = json!({ "metadata": { "annotations": { ANNOTATION: seconds } } });
        let api = self.ctx.connection.all::<Node>();
        match api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(change)).await {
            Ok(_) => Ok(Requeue::Never),
            Err(error) if error.is_not_found() => Ok(Requeue::Never),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_overlap_at_their_borders() {
        let seconds = |from: usize, n_nodes: usize| ROWS[plan(from, n_nodes)].2;
        assert_eq!([seconds(0, 0), seconds(0, 100), seconds(0, 101), seconds(0, 5000)], [0, 0, 15, 300]);
        assert_eq!([seconds(1, 90), seconds(1, 89), seconds(4, 1800), seconds(4, 1799)], [15, 0, 300, 60]);
    }
}
