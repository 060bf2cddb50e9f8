//! VolumeBinding: a pod goes where its volumes are or can be, and its claims get volumes there.
//!
//! Claims that wait for their first consumer are matched with free volumes node by node, or left to a provisioner for the
//! chosen node. What was chosen is kept aside from `Reserve` until the API server shows it, so that no two pods get one volume.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;

use super::PluginArgs;
use crate::framework::{
    ActionType, BindContext, CycleState, EventHint, EventResource, ExtensionPoints, Filter, Narrowed, Plugin, PreBind,
    PreFilter, Reserve, Status, api_text,
};
use crate::model::storage::{Claim, SELECTED_NODE, Storage, Volume};
use crate::model::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;

pub(super) const NAME: &str = "VolumeBinding";
const REASON_IMMEDIATE: &str = "pod has unbound immediate PersistentVolumeClaims";
const REASON_BIND: &str = "node(s) didn't find available persistent volumes to bind";
const REASON_NODE: &str = "node(s) didn't match PersistentVolume's node affinity";
const REASON_SPACE: &str = "node(s) did not have enough free storage";
const REASON_GONE: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
/// On a volume: the scheduler chose it, not the user.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// How often the API server is asked whether the claims are bound.
const POLL: Duration = Duration::from_secs(1);

/// Arguments of VolumeBinding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeBindingArgs {
    /// How long a pod waits for its claims to be bound.
    pub bind_timeout: Duration,
}

impl Default for VolumeBindingArgs {
    fn default() -> VolumeBindingArgs {
        VolumeBindingArgs { bind_timeout: Duration::from_secs(600) }
    }
}

struct VolumeBinding {
    args: VolumeBindingArgs,
    chosen: Mutex<Chosen>,
}

/// What has been decided and is not yet seen.
#[derive(Default)]
struct Chosen {
    by_pod: HashMap<Arc<str>, Decision>,
    volumes: HashSet<String>,
}

/// What becomes of a pod's claims on one node.
#[derive(Clone, Debug, Default)]
struct Decision {
    bind: Vec<(Arc<Claim>, Arc<Volume>)>,
    provision: Vec<Arc<Claim>>,
}

impl Decision {
    fn is_empty(&self) -> bool {
        self.bind.is_empty() && self.provision.is_empty()
    }
}

/// The pod's claims, looked up once.
#[derive(Clone)]
struct PodClaims {
    storage: Arc<Storage>,
    bound: Vec<Arc<Claim>>,
    /// Bound when the pod has a node. Smallest first, so that small claims do not take big volumes.
    waiting: Vec<Arc<Claim>>,
}

pub(super) fn extend(args: &PluginArgs, points: &mut ExtensionPoints) {
    let plugin = Arc::new(VolumeBinding { args: args.volume_binding.clone(), chosen: Mutex::default() });
    points.listen(&plugin).at_pre_filter(&plugin).at_filter(&plugin).at_reserve(&plugin).at_pre_bind(&plugin);
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        NAME
    }

    fn events(&self) -> Vec<EventHint> {
        let changed = ActionType::ADD.and(ActionType::UPDATE_OTHER);
        vec![
            EventHint::any(EventResource::StorageClass, changed),
            EventHint::any(EventResource::PersistentVolumeClaim, changed),
            EventHint::any(EventResource::PersistentVolume, changed),
            EventHint::any(EventResource::Node, ActionType::ADD.and(ActionType::UPDATE_NODE_LABEL)),
            EventHint::any(EventResource::CsiNode, changed),
            EventHint::any(EventResource::CsiDriver, changed),
            EventHint::any(EventResource::CsiStorageCapacity, changed),
        ]
    }
}

/// A claim that can never be used as it is; upstream's text.
fn refuse_claim(pod: &PodInfo, name: &str, is_ephemeral: bool, claim: Option<&Claim>) -> Option<String> {
    let Some(claim) = claim else {
        return Some(match is_ephemeral {
            true => format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\""),
            false => format!("persistentvolumeclaim \"{name}\" not found"),
        });
    };
    if claim.is_lost {
        let volume = claim.volume.as_deref().unwrap_or_default();
        return Some(format!("persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""));
    }
    if claim.is_going {
        return Some(format!("persistentvolumeclaim \"{name}\" is being deleted"));
    }
    if is_ephemeral && claim.owner.as_deref() != Some(&*pod.uid) {
        return Some(format!("PVC {} was not created for pod {} (pod is not owner)", claim.key(), pod.key()));
    }
    None
}

impl PreFilter for VolumeBinding {
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> Result<Narrowed, Status> {
        if pod.claims.is_empty() {
            return Ok(Narrowed::Skip);
        }
        let storage = snapshot.storage.clone();
        let (mut bound, mut waiting, mut immediate) = (Vec::new(), Vec::new(), false);
        for wanted in &pod.claims {
            let claim = storage.claim(&pod.namespace, &wanted.name);
            let refused = refuse_claim(pod, &wanted.name, wanted.is_ephemeral, claim.map(Arc::as_ref));
            if let Some(reason) = refused {
                return Err(Status::unresolvable(NAME, reason));
            }
            let Some(claim) = claim.cloned() else { continue };
            if claim.is_bound {
                bound.push(claim);
            } else if claim.volume.is_none() && storage.waits_for_consumer(&claim) {
                waiting.push(claim);
            } else {
                immediate = true;
            }
        }
        if immediate {
            return Err(Status::unresolvable(NAME, REASON_IMMEDIATE));
        }
        waiting.sort_by_key(|claim| claim.bytes);
        state.set(PodClaims { storage, bound, waiting });
        Ok(Narrowed::No)
    }
}

impl Filter for VolumeBinding {
    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Result<(), Status> {
        match state.get::<PodClaims>() {
            Some(claims) => self.decide(claims, node).map(drop),
            None => Ok(()),
        }
    }
}

impl VolumeBinding {
    /// What becomes of the claims on this node, or why it will not do.
    fn decide(&self, claims: &PodClaims, node: &NodeInfo) -> Result<Decision, Status> {
        let labels = &node.facts.labels;
        for claim in &claims.bound {
            let volume = claim.volume.as_ref().and_then(|name| claims.storage.volumes.get(name));
            let Some(volume) = volume else { return Err(Status::unresolvable(NAME, REASON_GONE)) };
            if !volume.is_usable_on(node.name(), labels) {
                return Err(Status::unresolvable(NAME, REASON_NODE));
            }
        }
        let mut decision = Decision::default();
        if claims.waiting.is_empty() {
            return Ok(decision);
        }
        let chosen = self.chosen.lock();
        for claim in &claims.waiting {
            // A node was chosen before, and its provisioner may be at work.
            if let Some(selected) = &claim.selected_node {
                if **selected != **node.name() {
                    return Err(Status::unresolvable(NAME, REASON_BIND));
                }
                decision.provision.push(claim.clone());
                continue;
            }
            let is_free = |volume: &Volume| {
                !chosen.volumes.contains(&volume.name)
                    && !decision.bind.iter().any(|(_, taken)| taken.name == volume.name)
            };
            let usable = |volume: &&Arc<Volume>| is_free(volume) && volume.is_usable_on(node.name(), labels);
            match best(&claims.storage, claim, usable) {
                Some(volume) => decision.bind.push((claim.clone(), volume)),
                None => {
                    can_provision(&claims.storage, claim, node)?;
                    decision.provision.push(claim.clone());
                }
            }
        }
        Ok(decision)
    }
}

/// The volume reserved for the claim, or else the smallest that does.
fn best(storage: &Storage, claim: &Claim, usable: impl Fn(&&Arc<Volume>) -> bool) -> Option<Arc<Volume>> {
    let key = claim.key();
    let fitting = storage.volumes.values().filter(|volume| !volume.is_going && volume.fits(claim)).filter(&usable);
    let is_for = |volume: &&Arc<Volume>| match &volume.claim {
        None => true,
        Some((of, uid)) => *of == key && (uid.is_empty() || *uid == claim.uid),
    };
    fitting.filter(is_for).min_by_key(|volume| (volume.claim.is_none(), volume.bytes)).cloned()
}

/// Whether the claim's class can make a volume for the node.
fn can_provision(storage: &Storage, claim: &Claim, node: &NodeInfo) -> Result<(), Status> {
    let labels = &node.facts.labels;
    let refuse = |reason: &'static str| Err(Status::unresolvable(NAME, reason));
    let Some(class) = storage.class_of(claim) else { return refuse(REASON_BIND) };
    let Some(provisioner) = &class.provisioner else { return refuse(REASON_BIND) };
    if !class.allows(labels) {
        return refuse(REASON_BIND);
    }
    if !storage.with_capacity.get(provisioner).copied().unwrap_or(false) {
        return Ok(());
    }
    let class_name = claim.class.as_deref().unwrap_or_default();
    let has_room = storage
        .capacities
        .values()
        .any(|capacity| capacity.class == class_name && capacity.bytes_max >= claim.bytes && capacity.is_for(labels));
    if has_room { Ok(()) } else { refuse(REASON_SPACE) }
}

impl Reserve for VolumeBinding {
    fn reserve(&self, state: &mut CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Status> {
        let Some(claims) = state.get::<PodClaims>() else { return Ok(()) };
        let decision = self.decide(claims, node)?;
        if decision.is_empty() {
            return Ok(());
        }
        let mut chosen = self.chosen.lock();
        chosen.volumes.extend(decision.bind.iter().map(|(_, volume)| volume.name.clone()));
        chosen.by_pod.insert(pod.uid.clone(), decision);
        Ok(())
    }

    fn unreserve(&self, _: &mut CycleState, pod: &PodInfo, _: &str) {
        self.release(pod);
    }
}

impl VolumeBinding {
    fn release(&self, pod: &PodInfo) {
        let mut chosen = self.chosen.lock();
        if let Some(decision) = chosen.by_pod.remove(&pod.uid) {
            for (_, volume) in &decision.bind {
                chosen.volumes.remove(&volume.name);
            }
        }
    }
}

impl PreBind for VolumeBinding {
    fn waits(&self, pod: &PodInfo) -> bool {
        self.chosen.lock().by_pod.contains_key(&pod.uid)
    }

    fn pre_bind<'a>(
        &'a self,
        ctx: &'a BindContext,
        pod: &'a PodInfo,
        node: &'a str,
    ) -> BoxFuture<'a, Result<(), Status>> {
        async move {
            let decision = self.chosen.lock().by_pod.get(&pod.uid).cloned();
            let Some(decision) = decision else { return Ok(()) };
            let bound = write(ctx, &decision, node).await;
            let waited = match bound {
                Ok(()) => tokio::time::timeout(self.args.bind_timeout, wait(ctx, &decision, node))
                    .await
                    .unwrap_or_else(|_| Err("context deadline exceeded".to_owned())),
                Err(error) => Err(error),
            };
            waited.map_err(|error| Status::error(NAME, format!("binding volumes: {error}")))?;
            self.release(pod);
            Ok(())
        }
        .boxed()
    }
}

/// Points the chosen volumes at their claims, and the other claims at the node.
async fn write(ctx: &BindContext, decision: &Decision, node: &str) -> Result<(), String> {
    for (claim, volume) in &decision.bind {
        let api: Api<PersistentVolume> = Api::all(ctx.client.clone());
        let bound = reserved_for(volume, claim);
        api.replace(&volume.name, &PostParams::default(), &bound).await.map_err(api_text)?;
    }
    for claim in decision.provision.iter().filter(|claim| claim.selected_node.as_deref() != Some(node)) {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), &claim.namespace);
        let change = json!({ "metadata": { "uid": claim.uid, "annotations": { SELECTED_NODE: node } } });
        api.patch(&claim.name, &PatchParams::default(), &Patch::Merge(change)).await.map_err(api_text)?;
    }
    Ok(())
}

fn reserved_for(volume: &Volume, claim: &Claim) -> PersistentVolume {
    let mut bound = volume.volume.as_ref().clone();
    if volume.claim.is_none() {
        let annotations = bound.metadata.annotations.get_or_insert_default();
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    bound.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
        kind: Some("PersistentVolumeClaim".to_owned()),
        api_version: Some("v1".to_owned()),
        namespace: Some(claim.namespace.clone()),
        name: Some(claim.name.clone()),
        uid: Some(claim.uid.clone()),
        ..ObjectReference::default()
    });
    bound
}

/// Until the volume controller has bound all claims, or a provisioner gave up on this node.
async fn wait(ctx: &BindContext, decision: &Decision, node: &str) -> Result<(), String> {
    let claims = decision.bind.iter().map(|(claim, _)| claim).chain(&decision.provision);
    for claim in claims {
        let provisions = decision.provision.iter().any(|one| one.uid == claim.uid);
        let api: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), &claim.namespace);
        loop {
            let live = Claim::new(&api.get(&claim.name).await.map_err(api_text)?);
            if live.is_bound {
                break;
            }
            if live.is_going {
                return Err(format!("claim \"{}\" is being deleted", claim.key()));
            }
            if provisions && live.selected_node.as_deref() != Some(node) {
                return Err(format!("provisioning failed for PVC \"{}\"", claim.name));
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::model::storage::{Capacity, Class};
    use crate::testing::{cluster, pod};

    fn claim(name: &str, more: Value) -> (String, Arc<Claim>) {
        let mut object = json!({
            "metadata": { "name": name, "namespace": "d", "uid": name },
            "spec": { "storageClassName": "late", "accessModes": ["ReadWriteOnce"],
                "resources": { "requests": { "storage": "1Gi" } } },
        });
        for (key, value) in more.as_object().unwrap() {
            object[key] = value.clone();
        }
        let claim = Claim::new(&serde_json::from_value(object).unwrap());
        (claim.key(), Arc::new(claim))
    }

    fn volume(name: &str, size: &str, node: Option<&str>) -> (String, Arc<Volume>) {
        let affinity = node.map(|node| {
            json!({ "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "host", "operator": "In", "values": [node] },
            ] }] } })
        });
        let object: PersistentVolume = serde_json::from_value(json!({
            "metadata": { "name": name },
            "spec": { "storageClassName": "late", "accessModes": ["ReadWriteOnce"], "capacity": { "storage": size },
                "nodeAffinity": affinity },
        }))
        .unwrap();
        (name.to_owned(), Arc::new(Volume::new(&Arc::new(object))))
    }

    fn class(provisioner: &str) -> (String, Arc<Class>) {
        let object = json!({ "metadata": {}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer" });
        ("late".to_owned(), Arc::new(Class::new(&serde_json::from_value(object).unwrap())))
    }

    fn snapshot(storage: Storage) -> Snapshot {
        let node = |name: &str| json!({ "metadata": { "name": name, "labels": { "host": name } } });
        let mut snapshot = cluster(&[node("a"), node("b")]);
        snapshot.storage = Arc::new(storage);
        snapshot
    }

    fn user(claim: &str) -> Arc<PodInfo> {
        pod(json!({ "metadata": { "name": "p", "namespace": "d", "uid": "p" }, "spec": { "containers": [],
            "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": claim } }] } }))
    }

    fn plugin() -> VolumeBinding {
        VolumeBinding { args: VolumeBindingArgs::default(), chosen: Mutex::default() }
    }

    /// Verdicts for the nodes a and b.
    fn verdicts(plugin: &VolumeBinding, snapshot: &Snapshot, pod: &PodInfo) -> [Result<(), String>; 2] {
        let mut state = CycleState::default();
        let refused = plugin.pre_filter(&mut state, pod, snapshot).err().map(|status| status.message());
        ["a", "b"].map(|node| match &refused {
            Some(refused) => Err(refused.clone()),
            None => plugin.filter(&state, pod, snapshot.node(node).unwrap()).map_err(|status| status.message()),
        })
    }

    #[test]
    fn claims_must_exist_and_be_bound_unless_they_wait_for_the_pod() {
        let mut storage = Storage::default();
        storage.claims.extend([claim("now", json!({}))]);
        let snapshot = snapshot(storage);
        let missing = verdicts(&plugin(), &snapshot, &user("none"));
        assert_eq!(missing[0], Err("persistentvolumeclaim \"none\" not found".into()));
        assert_eq!(verdicts(&plugin(), &snapshot, &user("now"))[0], Err(REASON_IMMEDIATE.into()));
    }

    #[test]
    fn a_waiting_claim_takes_the_smallest_volume_of_the_node_and_keeps_it_from_others() {
        let mut storage = Storage::default();
        storage.claims.extend([claim("c", json!({})), claim("other", json!({}))]);
        storage.classes.extend([class("kubernetes.io/no-provisioner")]);
        storage.volumes.extend([volume("big", "9Gi", Some("a")), volume("small", "2Gi", Some("a"))]);
        let snapshot = snapshot(storage);
        let plugin = plugin();
        assert_eq!(verdicts(&plugin, &snapshot, &user("c")), [Ok(()), Err(REASON_BIND.into())]);
        let (mut state, pod) = (CycleState::default(), user("c"));
        plugin.pre_filter(&mut state, &pod, &snapshot).unwrap();
        plugin.reserve(&mut state, &pod, snapshot.node("a").unwrap()).unwrap();
        assert!(plugin.chosen.lock().volumes.contains("small"));
        assert!(plugin.waits(&pod));
        assert_eq!(verdicts(&plugin, &snapshot, &user("other"))[0], Ok(()), "the big one is left");
        plugin.unreserve(&mut state, &pod, "a");
        assert!(plugin.chosen.lock().volumes.is_empty());
    }

    #[test]
    fn provisioning_needs_room_where_the_driver_says_how_much_there_is() {
        let mut storage = Storage::default();
        storage.claims.extend([claim("c", json!({}))]);
        storage.classes.extend([class("csi.example")]);
        let roomy = snapshot(storage.clone());
        assert_eq!(verdicts(&plugin(), &roomy, &user("c")), [Ok(()), Ok(())]);
        storage.with_capacity.insert("csi.example".into(), true);
        let capacity = json!({ "metadata": {}, "storageClassName": "late", "capacity": "5Gi",
            "nodeTopology": { "matchLabels": { "host": "b" } } });
        let capacity = Capacity::new(&serde_json::from_value(capacity).unwrap());
        storage.capacities.insert("x".into(), Arc::new(capacity));
        assert_eq!(verdicts(&plugin(), &snapshot(storage), &user("c")), [Err(REASON_SPACE.into()), Ok(())]);
    }

    #[test]
    fn a_bound_volume_decides_where_the_pod_can_go() {
        let mut storage = Storage::default();
        let bound = json!({
            "metadata": { "name": "c", "namespace": "d", "uid": "c", "annotations": { "pv.kubernetes.io/bind-completed": "yes" } },
            "spec": { "volumeName": "v" },
        });
        storage.claims.extend([claim("c", bound)]);
        assert_eq!(verdicts(&plugin(), &snapshot(storage.clone()), &user("c"))[0], Err(REASON_GONE.into()));
        storage.volumes.extend([volume("v", "1Gi", Some("b"))]);
        assert_eq!(verdicts(&plugin(), &snapshot(storage), &user("c")), [Err(REASON_NODE.into()), Ok(())]);
    }
}
