//! Attach/detach controller: keeps a VolumeAttachment for every CSI volume that a pod on a node uses, and tells the node which of
//! them are attached.
//! Reads Pod, Node, PersistentVolumeClaim, PersistentVolume, CSIDriver, VolumeAttachment. Writes VolumeAttachment, Node.status.
//!
//! One key per node. Nodes whose kubelet attaches by itself are left alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{EventType, Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{AttachedVolume, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::api_error::ApiErrorExt;
use crate::ephemeral_volume::claim_name;
use crate::ownership::{name, namespace};
use crate::pods;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "persistentvolume-attach-detach-controller",
    alias: "attachdetach",
    account: "attachdetach-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 5;
/// On a node: its kubelet leaves attaching to this controller.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// How soon a node with something to wait for is looked at again.
const LOOK_AGAIN: Requeue = Requeue::After(Duration::from_secs(5));

struct Controller {
    ctx: Ctx,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    drivers: Informer<CSIDriver>,
    attachments: Informer<VolumeAttachment>,
}

async fn run(ctx: Ctx) {
    let controller = Controller {
        pods: ctx.informers.informer(),
        nodes: ctx.informers.informer(),
        claims: ctx.informers.informer(),
        volumes: ctx.informers.informer(),
        drivers: ctx.informers.informer(),
        attachments: ctx.informers.informer(),
        ctx: ctx.clone(),
    };
    pods::index_by_node(&controller.pods);
    controller.attachments.add_index("node", |attachment| vec![attachment.spec.node_name.clone()]);
    controller.attachments.add_index("volume", |attachment| volume_of(attachment).into_iter().collect());
    controller.pods.add_index("claim name", |pod| {
        let namespace = namespace(&pod.metadata).to_owned();
        claim_names(pod).map(|claim| ObjectKey::new(&namespace, claim).to_string()).collect()
    });
    let queue = WorkQueue::default();
    controller.pods.on_event({
        let queue = queue.clone();
        move |event| {
            for pod in event.states().filter(|pod| claim_names(pod).next().is_some()) {
                let node = pods::node_name(pod);
                if !node.is_empty() {
                    queue.add(ObjectKey::cluster(node));
                }
            }
        }
    });
    controller.nodes.on_event({
        let queue = queue.clone();
        move |event| {
            let in_use = |node: &Node| node.status.as_ref().and_then(|status| status.volumes_in_use.clone());
            if !matches!(event, client::Event::Updated { old, new } if in_use(old) == in_use(new)) {
                queue.add(ObjectKey::of(event.object().as_ref()));
            }
        }
    });
    controller.claims.on_event({
        let (queue, pods) = (queue.clone(), controller.pods.clone());
        move |event| {
            let key = ObjectKey::of(event.object().as_ref()).to_string();
            for pod in pods.by_index("claim name", &key) {
                queue.add(ObjectKey::cluster(pods::node_name(&pod)));
            }
        }
    });
    controller.attachments.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::cluster(&event.object().spec.node_name))
    });
    controller.pods.has_synced().await;
    controller.nodes.has_synced().await;
    controller.claims.has_synced().await;
    controller.volumes.has_synced().await;
    controller.drivers.has_synced().await;
    controller.attachments.has_synced().await;
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

/// Names of the claims a pod mounts.
fn claim_names(pod: &Pod) -> impl Iterator<Item = String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(claim_name(pod, &volume.name)),
        (None, None) => None,
    })
}

fn volume_of(attachment: &VolumeAttachment) -> Option<String> {
    attachment.spec.source.persistent_volume_name.clone()
}

fn is_attached(attachment: &VolumeAttachment) -> bool {
    attachment.status.as_ref().is_some_and(|status| status.attached)
}

/// A volume that must be attached to a node.
#[derive(Clone, Debug, PartialEq)]
struct Wanted {
    volume: Arc<PersistentVolume>,
    driver: String,
    handle: String,
    /// One of the pods that use it, for events.
    pod: Arc<Pod>,
}

impl Wanted {
    /// The name node statuses have for it.
    fn unique_name(&self) -> String {
        unique_name(&self.driver, &self.handle)
    }
}

fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// The name upstream gives the attachment.
fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    let digest = Sha256::digest(format!("{handle}{driver}{node}").as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("csi-{hex}")
}

/// What a node's attachments are to become.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    create: Vec<Wanted>,
    /// Cannot be attached, and why.
    refused: Vec<(Wanted, String)>,
    delete: Vec<Arc<VolumeAttachment>>,
    /// Names for `status.volumesAttached`, sorted.
    attached: Vec<String>,
    /// Newly attached, to tell of.
    news: Vec<Wanted>,
    waits: bool,
}

struct View<'a> {
    node: Option<&'a Node>,
    /// By attachment name.
    wanted: &'a BTreeMap<String, Wanted>,
    /// Attachments of this node.
    attachments: &'a [Arc<VolumeAttachment>],
    /// Attachments of a volume on any node.
    of_volume: &'a dyn Fn(&str) -> Vec<Arc<VolumeAttachment>>,
    /// The unique name of the volume of an attachment that this controller has made; others belong to whoever made them.
    unique_name: &'a dyn Fn(&VolumeAttachment) -> Option<String>,
}

/// Same view, same plan. Touches nothing.
fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let status = view.node.and_then(|node| node.status.as_ref());
    let in_use = status.and_then(|status| status.volumes_in_use.as_deref()).unwrap_or_default();
    let told = status.and_then(|status| status.volumes_attached.as_deref()).unwrap_or_default();
    let exists = |attachment: &str| view.attachments.iter().any(|one| name(&one.metadata) == attachment);
    for (attachment, wanted) in view.wanted {
        if exists(attachment) {
            continue;
        }
        let volume = name(&wanted.volume.metadata);
        let modes = wanted.volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
        let may_share = modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany");
        let elsewhere = !may_share && !(view.of_volume)(volume).is_empty();
        match elsewhere {
            true => {
                let why = format!(
                    "Multi-Attach error for volume \"{volume}\" Volume is already exclusively attached to one node and can't \
                     be attached to another"
                );
                plan.refused.push((wanted.clone(), why));
            }
            false => plan.create.push(wanted.clone()),
        }
    }
    for attachment in view.attachments {
        let is_wanted = view.wanted.get(name(&attachment.metadata));
        let unique = match is_wanted {
            Some(wanted) => Some(wanted.unique_name()),
            None => (view.unique_name)(attachment),
        };
        let is_in_use = unique.as_ref().is_some_and(|unique| in_use.contains(unique));
        match is_wanted {
            Some(wanted) if is_attached(attachment) => {
                let unique = wanted.unique_name();
                if !told.iter().any(|one| one.name == unique) {
                    plan.news.push(wanted.clone());
                }
                plan.attached.push(unique);
            }
            // Its driver is at work: the attachment's next event says more.
            Some(_) => {}
            // Mounted still: the kubelet must let go first.
            None if is_in_use => {
                plan.waits = true;
                plan.attached.extend(unique.filter(|_| is_attached(attachment)));
            }
            None if unique.is_none() || attachment.metadata.deletion_timestamp.is_some() => {}
            None => plan.delete.push(attachment.clone()),
        }
    }
    plan.waits |= !plan.refused.is_empty();
    plan.attached.sort();
    plan
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let node = self.nodes.get(key);
        let is_managed = |node: &Arc<Node>| {
            let annotations = node.metadata.annotations.as_ref();
            annotations.and_then(|all| all.get(MANAGED)).is_some_and(|value| value == "true")
        };
        if node.as_ref().is_some_and(|node| !is_managed(node)) {
            return Ok(Requeue::Never);
        }
        let wanted = if node.is_some() { self.wanted(&key.name) } else { BTreeMap::new() };
        let attachments = self.attachments.by_index("node", &key.name);
        let of_volume = |volume: &str| self.attachments.by_index("volume", volume);
        let unique = |attachment: &VolumeAttachment| {
            let volume = self.volumes.get(&ObjectKey::cluster(volume_of(attachment)?))?;
            let csi = volume.spec.as_ref()?.csi.as_ref()?;
            let is_own = name(&attachment.metadata) == attachment_name(&csi.volume_handle, &csi.driver, &key.name);
            is_own.then(|| unique_name(&csi.driver, &csi.volume_handle))
        };
        let plan = plan(&View {
            node: node.as_deref(),
            wanted: &wanted,
            attachments: &attachments,
            of_volume: &of_volume,
            unique_name: &unique,
        });
        // The node is told before a volume is taken away: its kubelet must not count on it any more.
        if let Some(node) = &node {
            self.tell_node(node, &plan.attached).await?;
        }
        for attachment in &plan.delete {
            let api: Api<VolumeAttachment> = self.ctx.connection.all();
            match api.delete(name(&attachment.metadata), &DeleteParams::default()).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        for wanted in &plan.create {
            self.attach(&key.name, wanted).await?;
        }
        for (wanted, why) in &plan.refused {
            self.ctx.events.event(wanted.pod.as_ref(), EventType::Warning, "FailedAttachVolume", why.clone());
        }
        for wanted in &plan.news {
            let message = format!("AttachVolume.Attach succeeded for volume \"{}\" ", name(&wanted.volume.metadata));
            self.ctx.events.event(wanted.pod.as_ref(), EventType::Normal, "SuccessfulAttachVolume", message);
        }
        Ok(if plan.waits { LOOK_AGAIN } else { Requeue::Never })
    }
}

impl Controller {
    /// What the node's pods need attached, by attachment name.
    fn wanted(&self, node: &str) -> BTreeMap<String, Wanted> {
        let mut wanted = BTreeMap::new();
        for pod in self.pods.by_index("node", node).into_iter().filter(|pod| needs_volumes(pod)) {
            let in_namespace = namespace(&pod.metadata).to_owned();
            for claim in claim_names(&pod) {
                let Some(claim) = self.claims.get(&ObjectKey::new(&in_namespace, claim)) else { continue };
                let is_bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
                let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|_| is_bound);
                let volume = volume.and_then(|volume| self.volumes.get(&ObjectKey::cluster(volume)));
                let Some(volume) = volume else { continue };
                let csi = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref());
                let Some((driver, handle)) = csi.map(|csi| (csi.driver.clone(), csi.volume_handle.clone())) else {
                    continue;
                };
                let rules = self.drivers.get(&ObjectKey::cluster(&driver));
                if rules.is_some_and(|rules| rules.spec.attach_required == Some(false)) {
                    continue;
                }
                let attachment = attachment_name(&handle, &driver, node);
                wanted.entry(attachment).or_insert(Wanted { volume, driver, handle, pod: pod.clone() });
            }
        }
        wanted
    }

    async fn attach(&self, node: &str, wanted: &Wanted) -> Result<(), ReconcileError> {
        let attachment = VolumeAttachment {
            metadata: ObjectMeta {
                name: Some(attachment_name(&wanted.handle, &wanted.driver, node)),
                ..ObjectMeta::default()
            },
            spec: VolumeAttachmentSpec {
                attacher: wanted.driver.clone(),
                node_name: node.to_owned(),
                source: VolumeAttachmentSource {
                    persistent_volume_name: wanted.volume.metadata.name.clone(),
                    ..VolumeAttachmentSource::default()
                },
            },
            status: None,
        };
        let api: Api<VolumeAttachment> = self.ctx.connection.all();
        match api.create(&PostParams::default(), &attachment).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_already_exists() => Ok(()),
            Err(error) => {
                let volume = name(&wanted.volume.metadata);
                let message = format!("AttachVolume.Attach failed for volume \"{volume}\" : {}", error.text());
                self.ctx.events.event(wanted.pod.as_ref(), EventType::Warning, "FailedAttachVolume", message);
                Err(error.into())
            }
        }
    }

    async fn tell_node(&self, node: &Node, attached: &[String]) -> Result<(), ReconcileError> {
        let told = node.status.as_ref().and_then(|status| status.volumes_attached.as_deref()).unwrap_or_default();
        let mut known: Vec<&str> = told.iter().map(|one| one.name.as_str()).collect();
        known.sort_unstable();
        if known == attached {
            return Ok(());
        }
        let list: Vec<AttachedVolume> =
            attached.iter().map(|volume| AttachedVolume { name: volume.clone(), device_path: String::new() }).collect();
        let change = json!({ "metadata": { "uid": node.metadata.uid }, "status": { "volumesAttached": list } });
        let api: Api<Node> = self.ctx.connection.all();
        match api.patch_status(name(&node.metadata), &PatchParams::default(), &Patch::Merge(change)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Until it has ended, or is being deleted and none of its containers runs.
fn needs_volumes(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let runs = |one: &k8s_openapi::api::core::v1::ContainerStatus| {
        one.state.as_ref().is_some_and(|state| state.terminated.is_none() && state.waiting.is_none())
    };
    !pods::is_terminal(pod) && (pod.metadata.deletion_timestamp.is_none() || statuses.into_iter().any(runs))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(mode: &str) -> BTreeMap<String, Wanted> {
        let volume = json!({
            "metadata": { "name": "pv" },
            "spec": { "accessModes": [mode], "csi": { "driver": "d", "volumeHandle": "h" } },
        });
        let wanted = Wanted {
            volume: Arc::new(serde_json::from_value(volume).unwrap()),
            driver: "d".into(),
            handle: "h".into(),
            pod: Arc::default(),
        };
        [(attachment_name("h", "d", "n"), wanted)].into()
    }

    fn attachment(node: &str, attached: bool) -> Arc<VolumeAttachment> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": { "name": attachment_name("h", "d", node) },
                "spec": { "attacher": "d", "nodeName": node, "source": { "persistentVolumeName": "pv" } },
                "status": { "attached": attached },
            }))
            .unwrap(),
        )
    }

    fn node(in_use: &[&str], told: &[&str]) -> Node {
        let told: Vec<_> = told.iter().map(|name| json!({ "name": name, "devicePath": "" })).collect();
        serde_json::from_value(json!({
            "metadata": { "name": "n" }, "status": { "volumesInUse": in_use, "volumesAttached": told },
        }))
        .unwrap()
    }

    fn planned(
        node: &Node,
        wanted: &BTreeMap<String, Wanted>,
        here: &[Arc<VolumeAttachment>],
        everywhere: &[Arc<VolumeAttachment>],
    ) -> Plan {
        plan(&View {
            node: Some(node),
            wanted,
            attachments: here,
            of_volume: &|_| everywhere.to_vec(),
            unique_name: &|_| Some(unique_name("d", "h")),
        })
    }

    #[test]
    fn an_attachment_that_somebody_else_made_is_left_alone() {
        let here = [attachment("n", true)];
        let plan = plan(&View {
            node: Some(&node(&[], &[])),
            wanted: &BTreeMap::new(),
            attachments: &here,
            of_volume: &|_| Vec::new(),
            unique_name: &|_| None,
        });
        assert_eq!(plan, Plan::default());
    }

    #[test]
    fn a_volume_is_attached_told_of_and_taken_away_when_the_kubelet_lets_go() {
        const NAME: &str = "kubernetes.io/csi/d^h";
        let (wants, none) = (wanted("ReadWriteOnce"), BTreeMap::new());
        let fresh = planned(&node(&[], &[]), &wants, &[], &[]);
        assert_eq!(fresh.create.len(), 1);
        let here = [attachment("n", true)];
        let attached = planned(&node(&[], &[]), &wants, &here, &here);
        assert_eq!((attached.attached.as_slice(), attached.news.len()), (&[NAME.to_owned()][..], 1));
        let in_use = planned(&node(&[NAME], &[NAME]), &none, &here, &here);
        assert!(in_use.waits && in_use.delete.is_empty() && in_use.attached == [NAME]);
        let free = planned(&node(&[], &[NAME]), &none, &here, &here);
        assert_eq!((free.delete.len(), free.attached.len()), (1, 0));
    }

    #[test]
    fn a_volume_for_one_node_is_not_attached_to_a_second() {
        let elsewhere = [attachment("other", true)];
        let refused = planned(&node(&[], &[]), &wanted("ReadWriteOnce"), &[], &elsewhere);
        assert!(refused.create.is_empty() && refused.refused[0].1.starts_with("Multi-Attach error for volume \"pv\""));
        let shared = planned(&node(&[], &[]), &wanted("ReadWriteMany"), &[], &elsewhere);
        assert_eq!(shared.create.len(), 1);
    }

    #[test]
    fn attachments_have_upstreams_names() {
        let name = attachment_name("h", "d", "n");
        assert_eq!(name.len(), "csi-".len() + 64);
    }
}
