//! NodeResourcesBalancedAllocation: prefers nodes whose resources are used evenly, and pods that make them more even.

use std::sync::Arc;

use super::PluginArgs;
use super::node_resources_fit::{ResourceWeight, cpu_and_memory, usage};
use crate::framework::{CycleState, ExtensionPoints, MAX_NODE_SCORE, Plugin, PreScore, Score, Scoring};
use crate::model::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;

pub(super) const NAME: &str = "NodeResourcesBalancedAllocation";

/// Arguments of NodeResourcesBalancedAllocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeResourcesBalancedAllocationArgs {
    pub resources: Vec<ResourceWeight>,
}

impl Default for NodeResourcesBalancedAllocationArgs {
    fn default() -> NodeResourcesBalancedAllocationArgs {
        NodeResourcesBalancedAllocationArgs { resources: cpu_and_memory() }
    }
}

struct NodeResourcesBalancedAllocation {
    args: NodeResourcesBalancedAllocationArgs,
}

pub(super) fn extend(args: &PluginArgs, points: &mut ExtensionPoints) {
    let args = args.node_resources_balanced_allocation.clone();
    let plugin = Arc::new(NodeResourcesBalancedAllocation { args });
    points.at_pre_score(&plugin).at_score(&plugin);
}

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        NAME
    }
}

impl PreScore for NodeResourcesBalancedAllocation {
    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, _: &Snapshot, _: &[&NodeInfo]) -> Scoring {
        // Best-effort pods would all land on the one most even node.
        let asks = self.args.resources.iter().any(|resource| pod.requests.amount(&resource.name) != 0);
        if asks { Scoring::Needed } else { Scoring::Skip }
    }
}

/// The mean, spread and count of fractions, collected without a list.
#[derive(Default)]
struct Fractions {
    count: f64,
    sum: f64,
    squares: f64,
}

impl Fractions {
    #[allow(clippy::cast_precision_loss)]
    fn add(&mut self, requested: i64, allocatable: i64) {
        let fraction = (requested as f64 / allocatable as f64).min(1.0);
        self.count += 1.0;
        self.sum += fraction;
        self.squares += fraction * fraction;
    }

    /// 100 when all fractions are equal, less the further they are apart.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    fn balance(&self) -> i64 {
        if self.count < 2.0 {
            return MAX_NODE_SCORE;
        }
        let mean = self.sum / self.count;
        let deviation = (self.squares / self.count - mean * mean).max(0.0).sqrt();
        ((1.0 - deviation) * MAX_NODE_SCORE as f64 + 1e-9) as i64
    }
}

impl Score for NodeResourcesBalancedAllocation {
    fn score(&self, _: &CycleState, pod: &PodInfo, _: &Snapshot, node: &NodeInfo) -> i64 {
        let (mut with, mut without) = (Fractions::default(), Fractions::default());
        for resource in &self.args.resources {
            let (want, used, allocatable) = usage(pod, node, &resource.name, false);
            let is_scalar = !matches!(resource.name.as_str(), "cpu" | "memory" | "ephemeral-storage");
            if allocatable == 0 || is_scalar && want == 0 {
                continue;
            }
            with.add(used + want, allocatable);
            without.add(used, allocatable);
        }
        let half = MAX_NODE_SCORE / 2;
        half + (half + with.balance() - without.balance()) / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, pod};
    use serde_json::json;

    #[test]
    fn a_pod_that_evens_a_node_out_scores_higher() {
        let mut snapshot = cluster(&[
            json!({"metadata": {"name": "even"}, "status": {"allocatable": {"cpu": "10", "memory": "10", "pods": "9"}}}),
            json!({"metadata": {"name": "odd"}, "status": {"allocatable": {"cpu": "10", "memory": "10", "pods": "9"}}}),
        ]);
        let asking = |uid: &str, cpu: &str, memory: &str| {
            pod(json!({"metadata": {"name": uid, "uid": uid}, "spec": {"containers": [
                {"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}}))
        };
        snapshot.add_pod("odd", asking("a", "0", "4"));
        let plugin = NodeResourcesBalancedAllocation { args: NodeResourcesBalancedAllocationArgs::default() };
        let wish = asking("b", "4", "0");
        let scores: Vec<i64> =
            snapshot.nodes().map(|node| plugin.score(&CycleState::default(), &wish, &snapshot, node)).collect();
        assert_eq!(scores, [50 + (50 + 80 - 100) / 2, 50 + (50 + 100 - 80) / 2]);
    }
}
