//! SchedulingGates: a pod with scheduling gates stays out of the queue until they are gone.

use std::sync::Arc;

use super::PluginArgs;
use crate::framework::{
    ActionType, EventHint, EventObject, EventResource, ExtensionPoints, Hint, Plugin, PreEnqueue, Status,
};
use crate::model::PodInfo;

pub(super) const NAME: &str = "SchedulingGates";

struct SchedulingGates;

pub(super) fn extend(_: &PluginArgs, points: &mut ExtensionPoints) {
    let plugin = Arc::new(SchedulingGates);
    points.listen(&plugin).at_pre_enqueue(&plugin);
}

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        NAME
    }

    fn events(&self) -> Vec<EventHint> {
        vec![EventHint::judged(EventResource::TargetPod, ActionType::UPDATE_POD_GATES_ELIMINATED, gates_gone)]
    }
}

fn gates_gone(_: &PodInfo, event: EventObject<'_>) -> Hint {
    match event {
        EventObject::Pod { new: Some(pod), .. } if pod.gates.is_empty() => Hint::Queue,
        _ => Hint::Skip,
    }
}

impl PreEnqueue for SchedulingGates {
    fn pre_enqueue(&self, pod: &PodInfo) -> Result<(), Status> {
        if pod.gates.is_empty() {
            return Ok(());
        }
        Err(Status::unresolvable(NAME, format!("waiting for scheduling gates: [{}]", pod.gates.join(" "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;
    use serde_json::json;

    #[test]
    fn gated_pod_is_kept_out_with_the_names_of_its_gates() {
        let gated = pod(json!({"metadata": {"name": "p"}, "spec": {"containers": [],
            "schedulingGates": [{"name": "a"}, {"name": "b"}]}}));
        let status = SchedulingGates.pre_enqueue(&gated).unwrap_err();
        assert_eq!(status.message(), "waiting for scheduling gates: [a b]");
        let open = pod(json!({"metadata": {"name": "p"}, "spec": {"containers": []}}));
        assert_eq!(SchedulingGates.pre_enqueue(&open), Ok(()));
    }
}
