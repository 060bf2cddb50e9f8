//! PrioritySort: higher priority first, then the pod that has waited longer.

use std::sync::Arc;

use super::PluginArgs;
use crate::framework::{ExtensionPoints, Plugin, QueueSort};
use crate::queue::QueuedPod;

pub(super) const NAME: &str = "PrioritySort";

struct PrioritySort;

pub(super) fn extend(_: &PluginArgs, points: &mut ExtensionPoints) {
    points.at_queue_sort(&Arc::new(PrioritySort));
}

impl Plugin for PrioritySort {
    fn name(&self) -> &'static str {
        NAME
    }
}

impl QueueSort for PrioritySort {
    fn key(&self, queued: &QueuedPod) -> (i64, u128) {
        (-i64::from(queued.pod.priority), queued.timestamp.as_nanos())
    }
}
