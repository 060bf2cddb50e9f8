//! NodeVolumeLimits: a node's CSI drivers take so many volumes and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::PluginArgs;
use crate::framework::{
    ActionType, CycleState, EventHint, EventResource, ExtensionPoints, Filter, Narrowed, Plugin, PreFilter, Status,
};
use crate::model::storage::Storage;
use crate::model::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;

pub(super) const NAME: &str = "NodeVolumeLimits";
const REASON: &str = "node(s) exceed max volume count";

struct NodeVolumeLimits;

/// Volumes by driver. A volume that two pods share counts once.
type ByDriver = BTreeMap<String, BTreeSet<String>>;

#[derive(Clone)]
struct Wanted {
    storage: Arc<Storage>,
    volumes: ByDriver,
}

pub(super) fn extend(_: &PluginArgs, points: &mut ExtensionPoints) {
    let plugin = Arc::new(NodeVolumeLimits);
    points.listen(&plugin).at_pre_filter(&plugin).at_filter(&plugin);
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        NAME
    }

    fn events(&self) -> Vec<EventHint> {
        vec![
            EventHint::any(EventResource::CsiNode, ActionType::ADD.and(ActionType::UPDATE_OTHER)),
            EventHint::any(EventResource::AssignedPod, ActionType::DELETE),
            EventHint::any(EventResource::PersistentVolumeClaim, ActionType::ADD),
        ]
    }
}

/// The volumes of a pod's claims: those there are by handle, those to be made by claim.
fn volumes_of(storage: &Storage, pod: &PodInfo) -> ByDriver {
    let mut volumes = ByDriver::new();
    for wanted in &pod.claims {
        let Some(claim) = storage.claim(&pod.namespace, &wanted.name) else { continue };
        let volume = claim.volume.as_deref().and_then(|name| storage.volumes.get(name));
        let (driver, key) = match volume {
            Some(volume) => match &volume.csi {
                Some((driver, handle)) => (driver.clone(), handle.clone()),
                None => continue,
            },
            None => match storage.class_of(claim).and_then(|class| class.provisioner.clone()) {
                Some(provisioner) => (provisioner, claim.key()),
                None => continue,
            },
        };
        volumes.entry(driver).or_default().insert(key);
    }
    volumes
}

impl PreFilter for NodeVolumeLimits {
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> Result<Narrowed, Status> {
        let volumes = volumes_of(&snapshot.storage, pod);
        if volumes.is_empty() {
            return Ok(Narrowed::Skip);
        }
        state.set(Wanted { storage: snapshot.storage.clone(), volumes });
        Ok(Narrowed::No)
    }
}

impl Filter for NodeVolumeLimits {
    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Result<(), Status> {
        let Some(wanted) = state.get::<Wanted>() else { return Ok(()) };
        let Some(limits) = wanted.storage.limits.get(&**node.name()) else { return Ok(()) };
        let mut all = wanted.volumes.clone();
        all.retain(|driver, _| limits.contains_key(driver));
        if all.is_empty() {
            return Ok(());
        }
        for pod in node.pods.iter().filter(|pod| !pod.claims.is_empty()) {
            for (driver, volumes) in volumes_of(&wanted.storage, pod) {
                if let Some(known) = all.get_mut(&driver) {
                    known.extend(volumes);
                }
            }
        }
        let exceeds = |(driver, volumes): (&String, &BTreeSet<String>)| {
            i64::try_from(volumes.len()).unwrap_or(i64::MAX) > limits[driver]
        };
        if all.iter().any(exceeds) { Err(Status::unschedulable(NAME, REASON)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::storage::{Claim, Volume};
    use crate::testing::{cluster, pod};

    #[test]
    fn a_full_driver_takes_no_new_volume_but_a_shared_one() {
        let mut snapshot = cluster(&[json!({ "metadata": { "name": "a" } })]);
        let mut storage = Storage::default();
        for (name, handle) in [("one", "h1"), ("two", "h2"), ("same", "h1")] {
            let claim = json!({ "metadata": { "name": name, "namespace": "d" }, "spec": { "volumeName": name } });
            let volume =
                json!({ "metadata": { "name": name }, "spec": { "csi": { "driver": "x", "volumeHandle": handle } } });
            let claim = Claim::new(&serde_json::from_value(claim).unwrap());
            storage.claims.insert(claim.key(), Arc::new(claim));
            let volume = Volume::new(&Arc::new(serde_json::from_value(volume).unwrap()));
            storage.volumes.insert(name.into(), Arc::new(volume));
        }
        let limits = json!({ "metadata": { "name": "a" }, "spec": { "drivers": [
            { "name": "x", "nodeID": "a", "allocatable": { "count": 1 } },
        ] } });
        storage.set_limits(&serde_json::from_value(limits).unwrap());
        snapshot.storage = Arc::new(storage);
        let user = |claim: &str| {
            pod(json!({ "metadata": { "name": claim, "namespace": "d", "uid": claim }, "spec": { "containers": [],
                "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": claim } }] } }))
        };
        assert!(snapshot.add_pod("a", user("one")));
        let verdict = |claim: &str| {
            let mut state = CycleState::default();
            NodeVolumeLimits.pre_filter(&mut state, &user(claim), &snapshot).unwrap();
            NodeVolumeLimits.filter(&state, &user(claim), snapshot.node("a").unwrap()).map_err(|one| one.message())
        };
        assert_eq!(verdict("two"), Err(REASON.to_owned()));
        assert_eq!(verdict("same"), Ok(()));
    }
}
