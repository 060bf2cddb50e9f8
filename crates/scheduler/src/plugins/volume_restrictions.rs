//! VolumeRestrictions: a disk that only one machine can have is not mounted twice, and a claim for one pod is used by one pod.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::PluginArgs;
use crate::framework::{
    ActionType, CycleState, EventHint, EventResource, ExtensionPoints, Filter, Narrowed, Plugin, PreFilter, Status,
};
use crate::model::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;

pub(super) const NAME: &str = "VolumeRestrictions";
const REASON_DISK: &str = "node(s) had no available disk";
const REASON_ONE_POD: &str =
    "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";

struct VolumeRestrictions;

/// Claims of the pod that only one pod may use, and how many others do.
#[derive(Clone, Default)]
struct OnePodClaims {
    names: Vec<String>,
    n_conflicts: i64,
}

pub(super) fn extend(_: &PluginArgs, points: &mut ExtensionPoints) {
    let plugin = Arc::new(VolumeRestrictions);
    points.listen(&plugin).at_pre_filter(&plugin).at_filter(&plugin);
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        NAME
    }

    fn events(&self) -> Vec<EventHint> {
        vec![
            EventHint::any(EventResource::AssignedPod, ActionType::DELETE),
            EventHint::any(EventResource::Node, ActionType::ADD),
            EventHint::any(EventResource::PersistentVolumeClaim, ActionType::ADD.and(ActionType::UPDATE_OTHER)),
        ]
    }
}

fn volumes(pod: &PodInfo) -> impl Iterator<Item = &core::Volume> {
    pod.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

/// A disk that is attached to one machine at a time.
fn is_disk(volume: &core::Volume) -> bool {
    volume.gce_persistent_disk.is_some()
        || volume.aws_elastic_block_store.is_some()
        || volume.iscsi.is_some()
        || volume.rbd.is_some()
}

/// Whether two pods cannot mount these on one node.
fn conflict(one: &core::Volume, other: &core::Volume) -> bool {
    if let (Some(a), Some(b)) = (&one.gce_persistent_disk, &other.gce_persistent_disk) {
        let both_read_only = a.read_only == Some(true) && b.read_only == Some(true);
        return a.pd_name == b.pd_name && !both_read_only;
    }
    if let (Some(a), Some(b)) = (&one.aws_elastic_block_store, &other.aws_elastic_block_store) {
        return a.volume_id == b.volume_id;
    }
    if let (Some(a), Some(b)) = (&one.iscsi, &other.iscsi) {
        let both_read_only = a.read_only == Some(true) && b.read_only == Some(true);
        return a.iqn == b.iqn && !both_read_only;
    }
    if let (Some(a), Some(b)) = (&one.rbd, &other.rbd) {
        let shares_monitor = a.monitors.iter().any(|monitor| b.monitors.contains(monitor));
        let both_read_only = a.read_only == Some(true) && b.read_only == Some(true);
        return shares_monitor && a.pool == b.pool && a.image == b.image && !both_read_only;
    }
    false
}

impl OnePodClaims {
    fn n_used_by(&self, namespace: &str, pod: &PodInfo) -> i64 {
        let shared = pod.claims.iter().filter(|claim| *pod.namespace == *namespace && self.names.contains(&claim.name));
        i64::try_from(shared.count()).unwrap_or(i64::MAX)
    }
}

impl PreFilter for VolumeRestrictions {
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> Result<Narrowed, Status> {
        let mut claims = OnePodClaims::default();
        for wanted in &pod.claims {
            let claim = snapshot.storage.claim(&pod.namespace, &wanted.name);
            if claim.is_some_and(|claim| claim.modes.iter().any(|mode| mode == "ReadWriteOncePod")) {
                claims.n_conflicts += i64::from(snapshot.users_of_claim(&pod.namespace, &wanted.name));
                claims.names.push(wanted.name.clone());
            }
        }
        if claims.names.is_empty() && !volumes(pod).any(is_disk) {
            return Ok(Narrowed::Skip);
        }
        state.set(claims);
        Ok(Narrowed::No)
    }

    fn add_pod(&self, state: &mut CycleState, pod: &PodInfo, added: &PodInfo, _: &NodeInfo, _: &Snapshot) {
        if let Some(claims) = state.get_mut::<OnePodClaims>() {
            claims.n_conflicts += claims.n_used_by(&pod.namespace, added);
        }
    }

    fn remove_pod(&self, state: &mut CycleState, pod: &PodInfo, removed: &PodInfo, _: &NodeInfo, _: &Snapshot) {
        if let Some(claims) = state.get_mut::<OnePodClaims>() {
            claims.n_conflicts -= claims.n_used_by(&pod.namespace, removed);
        }
    }
}

impl Filter for VolumeRestrictions {
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Status> {
        let disks = volumes(pod).filter(|volume| is_disk(volume));
        for disk in disks {
            if node.pods.iter().flat_map(|other| volumes(other)).any(|other| conflict(disk, other)) {
                return Err(Status::unschedulable(NAME, REASON_DISK));
            }
        }
        match state.get::<OnePodClaims>() {
            Some(claims) if claims.n_conflicts > 0 => Err(Status::unschedulable(NAME, REASON_ONE_POD)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::storage::{Claim, Storage};
    use crate::testing::{cluster, pod};

    fn user(name: &str, volume: Value) -> Arc<PodInfo> {
        pod(json!({ "metadata": { "name": name, "namespace": "d", "uid": name },
            "spec": { "containers": [], "volumes": [volume] } }))
    }

    #[test]
    fn a_claim_for_one_pod_is_refused_to_a_second_until_the_first_leaves() {
        let mut snapshot = cluster(&[json!({ "metadata": { "name": "a" } })]);
        let claim =
            json!({ "metadata": { "name": "c", "namespace": "d" }, "spec": { "accessModes": ["ReadWriteOncePod"] } });
        let mut storage = Storage::default();
        storage.claims.insert("d/c".into(), Arc::new(Claim::new(&serde_json::from_value(claim).unwrap())));
        snapshot.storage = Arc::new(storage);
        let volume = json!({ "name": "v", "persistentVolumeClaim": { "claimName": "c" } });
        let (first, second) = (user("first", volume.clone()), user("second", volume));
        assert!(snapshot.add_pod("a", first.clone()));
        let mut state = CycleState::default();
        VolumeRestrictions.pre_filter(&mut state, &second, &snapshot).unwrap();
        let node = snapshot.node("a").unwrap();
        let refused = VolumeRestrictions.filter(&state, &second, node).unwrap_err();
        assert_eq!(refused.message(), REASON_ONE_POD);
        VolumeRestrictions.remove_pod(&mut state, &second, &first, node, &snapshot);
        assert!(VolumeRestrictions.filter(&state, &second, node).is_ok());
    }

    #[test]
    fn a_disk_is_mounted_once_per_node_unless_all_only_read() {
        let disk =
            |read_only: bool| json!({ "name": "v", "gcePersistentDisk": { "pdName": "x", "readOnly": read_only } });
        let mut snapshot = cluster(&[json!({ "metadata": { "name": "a" } })]);
        assert!(snapshot.add_pod("a", user("reader", disk(true))));
        let node = snapshot.node("a").unwrap();
        let verdict = |read_only| VolumeRestrictions.filter(&CycleState::default(), &user("p", disk(read_only)), node);
        assert!(verdict(true).is_ok());
        assert_eq!(verdict(false).unwrap_err().message(), REASON_DISK);
    }
}
