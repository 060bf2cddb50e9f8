//! VolumeZone: a pod goes to the zone and region that the labels of its volumes name.

use std::sync::Arc;

use super::PluginArgs;
use crate::framework::{
    ActionType, CycleState, EventHint, EventResource, ExtensionPoints, Filter, Narrowed, Plugin, PreFilter, Status,
};
use crate::model::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;

pub(super) const NAME: &str = "VolumeZone";
const REASON: &str = "node(s) had no available volume zone";
/// Labels of volumes and nodes, each with the name it had before.
const TOPOLOGIES: [(&str, &str); 2] = [
    ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
];

struct VolumeZone;

/// Topology labels that the node must have, each with one of the values.
#[derive(Clone, Default)]
struct Wanted(Vec<(&'static str, &'static str, Vec<String>)>);

pub(super) fn extend(_: &PluginArgs, points: &mut ExtensionPoints) {
    let plugin = Arc::new(VolumeZone);
    points.listen(&plugin).at_pre_filter(&plugin).at_filter(&plugin);
}

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        NAME
    }

    fn events(&self) -> Vec<EventHint> {
        let changed = ActionType::ADD.and(ActionType::UPDATE_OTHER);
        vec![
            EventHint::any(EventResource::StorageClass, ActionType::ADD),
            EventHint::any(EventResource::Node, ActionType::ADD.and(ActionType::UPDATE_NODE_LABEL)),
            EventHint::any(EventResource::PersistentVolumeClaim, changed),
            EventHint::any(EventResource::PersistentVolume, changed),
        ]
    }
}

impl PreFilter for VolumeZone {
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> Result<Narrowed, Status> {
        let mut wanted = Wanted::default();
        for claim in &pod.claims {
            let claim = snapshot.storage.claim(&pod.namespace, &claim.name);
            let volume = claim.and_then(|claim| snapshot.storage.volumes.get(claim.volume.as_deref()?));
            let Some(volume) = volume else { continue };
            for (key, old) in TOPOLOGIES {
                if let Some(value) = volume.labels.get(key).or_else(|| volume.labels.get(old)) {
                    // A volume of several zones names them all.
                    wanted.0.push((key, old, value.split("__").map(str::to_owned).collect()));
                }
            }
        }
        if wanted.0.is_empty() {
            return Ok(Narrowed::Skip);
        }
        state.set(wanted);
        Ok(Narrowed::No)
    }
}

impl Filter for VolumeZone {
    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Result<(), Status> {
        let Some(wanted) = state.get::<Wanted>() else { return Ok(()) };
        let labels = &node.facts.labels;
        let has_topology = TOPOLOGIES.iter().any(|(key, old)| labels.contains_key(*key) || labels.contains_key(*old));
        // A node of no zone is a cluster without zones.
        let suits = |(key, old, values): &(&str, &str, Vec<String>)| {
            labels.get(*key).or_else(|| labels.get(*old)).is_some_and(|value| values.contains(value))
        };
        if !has_topology || wanted.0.iter().all(suits) { Ok(()) } else { Err(Status::unresolvable(NAME, REASON)) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::storage::{Claim, Storage, Volume};
    use crate::testing::{cluster, pod};

    #[test]
    fn a_volume_of_a_zone_keeps_its_pod_there() {
        let zone = "topology.kubernetes.io/zone";
        let mut snapshot = cluster(&[
            json!({ "metadata": { "name": "a", "labels": { zone: "za" } } }),
            json!({ "metadata": { "name": "b", "labels": { zone: "zb" } } }),
            json!({ "metadata": { "name": "nowhere" } }),
        ]);
        let claim = json!({ "metadata": { "name": "c", "namespace": "d" }, "spec": { "volumeName": "v" } });
        let volume = json!({ "metadata": { "name": "v", "labels": { zone: "za__zc" } } });
        let mut storage = Storage::default();
        storage.claims.insert("d/c".into(), Arc::new(Claim::new(&serde_json::from_value(claim).unwrap())));
        let volume = Volume::new(&Arc::new(serde_json::from_value(volume).unwrap()));
        storage.volumes.insert("v".into(), Arc::new(volume));
        snapshot.storage = Arc::new(storage);
        let user = pod(json!({ "metadata": { "name": "p", "namespace": "d" }, "spec": { "containers": [],
            "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "c" } }] } }));
        let mut state = CycleState::default();
        assert_eq!(VolumeZone.pre_filter(&mut state, &user, &snapshot), Ok(Narrowed::No));
        let suits = |node: &str| VolumeZone.filter(&state, &user, snapshot.node(node).unwrap()).is_ok();
        assert_eq!(["a", "b", "nowhere"].map(suits), [true, false, true]);
    }
}
