//! ImageLocality: prefers nodes that already hold the pod's images, weighted by size and by how many nodes hold them.

use std::sync::Arc;

use super::PluginArgs;
use crate::framework::{CycleState, ExtensionPoints, MAX_NODE_SCORE, Plugin, PreScore, Score, Scoring};
use crate::model::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;

pub(super) const NAME: &str = "ImageLocality";
/// Below this many bytes present, a node scores nothing.
const MIN_BYTES: i64 = 23 * 1024 * 1024;
/// At this many bytes per container, a node scores the most.
const MAX_BYTES_PER_CONTAINER: i64 = 1000 * 1024 * 1024;

struct ImageLocality;

pub(super) fn extend(_: &PluginArgs, points: &mut ExtensionPoints) {
    let plugin = Arc::new(ImageLocality);
    points.at_pre_score(&plugin).at_score(&plugin);
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        NAME
    }
}

impl PreScore for ImageLocality {
    fn pre_score(&self, _: &mut CycleState, _: &PodInfo, snapshot: &Snapshot, _: &[&NodeInfo]) -> Scoring {
        // When no node reports images every score is zero.
        if snapshot.has_images() { Scoring::Needed } else { Scoring::Skip }
    }
}

impl Score for ImageLocality {
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    fn score(&self, _: &CycleState, pod: &PodInfo, snapshot: &Snapshot, node: &NodeInfo) -> i64 {
        let mut bytes = 0;
        for image in &pod.images {
            if let Some(size) = node.facts.images.get(image) {
                let spread = f64::from(snapshot.nodes_with_image(image)) / snapshot.len() as f64;
                bytes += (*size as f64 * spread) as i64;
            }
        }
        let most = MAX_BYTES_PER_CONTAINER * i64::try_from(pod.images.len().max(1)).unwrap_or(1);
        MAX_NODE_SCORE * (bytes.clamp(MIN_BYTES, most) - MIN_BYTES) / (most - MIN_BYTES)
    }
}
