//! Literal objects for tests: JSON in, parsed pods and nodes out.

use std::sync::Arc;

use serde_json::Value;

use crate::model::{NodeFacts, PodInfo};
use crate::snapshot::Snapshot;

pub(crate) fn pod(object: Value) -> Arc<PodInfo> {
    Arc::new(PodInfo::new(Arc::new(serde_json::from_value(object).unwrap())))
}

pub(crate) fn node(object: Value) -> Arc<NodeFacts> {
    Arc::new(NodeFacts::new(&serde_json::from_value(object).unwrap()))
}

/// A snapshot of these nodes.
pub(crate) fn cluster(nodes: &[Value]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for object in nodes {
        snapshot.put_node(node(object.clone()));
    }
    snapshot.settle();
    snapshot
}
