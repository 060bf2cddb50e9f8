//! ControllerRevisions: the history of a pod template, kept by DaemonSets and StatefulSets.

use std::sync::Arc;

use client::{Connection, Informer, ObjectKey};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::Resource;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::api_error::ApiErrorExt;
use crate::own_writes::OwnWrites;
use crate::ownership::{controller_of, controller_reference, name, namespace, uid};
use crate::template;

/// The label that says which revision a pod was made from.
pub(crate) const HASH_LABEL: &str = "controller-revision-hash";

/// The owner's history, and which of it is the present template.
pub(crate) struct History {
    /// By revision number, oldest first; `current` is the last that equals the present template.
    pub all: Vec<Arc<ControllerRevision>>,
    pub current: Arc<ControllerRevision>,
    /// The owner's collision count, raised when the name of a new revision was taken.
    pub collisions: Option<i32>,
}

pub(crate) fn hash_of(revision: &ControllerRevision) -> &str {
    let label = revision.metadata.labels.as_ref().and_then(|labels| labels.get(HASH_LABEL));
    label.map_or_else(|| name(&revision.metadata), String::as_str)
}

/// The patch that puts the template back, byte for byte as upstream stores it: whoever looks for the revision of a template compares
/// text, in which Go sorts keys.
fn data(template: &PodTemplateSpec) -> Result<Value, serde_json::Error> {
    let mut template = serde_json::to_value(template)?;
    template["$patch"] = json!("replace");
    let mut data = json!({ "spec": { "template": template } });
    data.sort_all_objects();
    Ok(data)
}

/// The template a revision holds.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// `OWNER-HASH`, with so much of the owner's name as leaves room for the hash.
fn revision_name(owner: &str, hash: &str) -> String {
    const OWNER_MAX: usize = 223;
    let end = owner.len().min(OWNER_MAX);
    format!("{}-{hash}", owner.get(..end).unwrap_or(owner))
}

/// Who keeps a history, and where it is read and written.
pub(crate) struct Keeper<'a> {
    pub connection: &'a Connection,
    pub revisions: &'a Informer<ControllerRevision>,
    pub own_writes: &'a OwnWrites,
    pub naming: Naming,
}

/// How a revision's hash is made and labelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// A DaemonSet's: from the template.
    Template,
    /// A StatefulSet's: from the revision's data.
    Data,
}

impl Naming {
    fn hash(self, template: &PodTemplateSpec, data: &Value, collisions: Option<i32>) -> String {
        match self {
            Naming::Template => template::hash(template, collisions),
            Naming::Data => template::data_hash(data, collisions),
        }
    }

    fn label(self) -> &'static str {
        match self {
            Naming::Template => HASH_LABEL,
            Naming::Data => "controller.kubernetes.io/hash",
        }
    }
}

/// Names tried for one revision: a collision of 32 bit hashes is rare, a second one on top is a bug.
const COLLISIONS_MAX: usize = 8;

impl Keeper<'_> {
    /// The history with the present template in it as the newest revision: found, renumbered, or made.
    pub(crate) async fn history<O: Resource<DynamicType = ()>>(
        &self,
        owner: &O,
        template: &PodTemplateSpec,
        collisions: Option<i32>,
    ) -> Result<History, kube::Error> {
        let mut all = self.revisions.controlled_by(uid(owner.meta()));
        all.sort_by_key(|revision| (revision.revision, name(&revision.metadata).to_owned()));
        let highest = all.last().map_or(0, |newest| newest.revision);
        let equal = |revision: &&Arc<ControllerRevision>| template_of(revision).as_ref() == Some(template);
        let (current, collisions) = match all.iter().rev().find(equal).cloned() {
            Some(current) if current.revision == highest => (current, collisions),
            Some(current) => (self.renumber(owner, &current, highest + 1).await?, collisions),
            None => self.create(owner, template, highest + 1, collisions).await?,
        };
        all.retain(|revision| name(&revision.metadata) != name(&current.metadata));
        all.push(current.clone());
        Ok(History { all, current, collisions })
    }

    /// Makes the revision, under another name when one of other data has it. Also returns the collision count that led there.
    async fn create<O: Resource<DynamicType = ()>>(
        &self,
        owner: &O,
        template: &PodTemplateSpec,
        number: i64,
        mut collisions: Option<i32>,
    ) -> Result<(Arc<ControllerRevision>, Option<i32>), kube::Error> {
        let data = data(template).map_err(kube::Error::SerdeError)?;
        let api = self.connection.namespaced::<ControllerRevision>(namespace(owner.meta()));
        let mut tries_left = COLLISIONS_MAX;
        loop {
            let revision = self.revision(owner, template, &data, number, collisions);
            let written = match api.create(&PostParams::default(), &revision).await {
                Ok(created) => created,
                Err(error) if error.is_already_exists() && tries_left > 0 => {
                    let existing = api.get(name(&revision.metadata)).await?;
                    let ours = controller_of(&existing.metadata).is_some_and(|one| one.uid == uid(owner.meta()));
                    let same = existing.data.as_ref().is_some_and(|existing| existing.0 == data);
                    if !(ours && same) {
                        tries_left -= 1;
                        collisions = Some(collisions.unwrap_or(0) + 1);
                        continue;
                    }
                    // The cache was behind.
                    existing
                }
                Err(error) => return Err(error),
            };
            self.own_writes.wrote(&ObjectKey::from_meta(owner.meta()), self.revisions, &written);
            return Ok((Arc::new(written), collisions));
        }
    }

    fn revision<O: Resource<DynamicType = ()>>(
        &self,
        owner: &O,
        template: &PodTemplateSpec,
        data: &Value,
        number: i64,
        collisions: Option<i32>,
    ) -> ControllerRevision {
        let hash = self.naming.hash(template, data, collisions);
        let mut labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        labels.insert(self.naming.label().to_owned(), hash.clone());
        ControllerRevision {
            metadata: ObjectMeta {
                name: Some(revision_name(name(owner.meta()), &hash)),
                labels: Some(labels),
                annotations: owner.meta().annotations.clone(),
                owner_references: Some(vec![controller_reference(owner)]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(data.clone())),
            revision: number,
        }
    }

    async fn renumber<O: Resource<DynamicType = ()>>(
        &self,
        owner: &O,
        revision: &ControllerRevision,
        number: i64,
    ) -> Result<Arc<ControllerRevision>, kube::Error> {
        let api = self.connection.namespaced::<ControllerRevision>(namespace(owner.meta()));
        // A whole replace: the API server refuses merge patches of revisions, whose data may not change.
        let renumbered = ControllerRevision { revision: number, ..revision.clone() };
        let written = api.replace(name(&revision.metadata), &PostParams::default(), &renumbered).await?;
        self.own_writes.wrote(&ObjectKey::from_meta(owner.meta()), self.revisions, &written);
        Ok(Arc::new(written))
    }

    /// Deletes the oldest revisions beyond the limit that neither are current nor have pods (`in_use` hashes or names).
    pub(crate) async fn trim<O: Resource<DynamicType = ()>>(
        &self,
        owner: &O,
        history: &History,
        in_use: &[String],
        limit: i32,
    ) -> Result<(), kube::Error> {
        let current = name(&history.current.metadata);
        let used = |revision: &Arc<ControllerRevision>| {
            name(&revision.metadata) == current
                || in_use.iter().any(|one| one == hash_of(revision) || one == name(&revision.metadata))
        };
        let unused: Vec<_> = history.all.iter().filter(|revision| !used(revision)).collect();
        let n_beyond = unused.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        let api = self.connection.namespaced::<ControllerRevision>(namespace(owner.meta()));
        for revision in unused.into_iter().take(n_beyond) {
            match api.delete(name(&revision.metadata), &DeleteParams::default()).await {
                Ok(_) => {
                    self.own_writes.deleted(&ObjectKey::from_meta(owner.meta()), self.revisions, revision.as_ref())
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_gives_back_its_template() {
        let template: PodTemplateSpec = serde_json::from_value(
            json!({ "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "name": "c" }] } }),
        )
        .unwrap();
        let stored = data(&template).unwrap();
        let sorted = r#"{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c"}]}}}}"#;
        assert_eq!(stored.to_string(), sorted);
        let revision = ControllerRevision { data: Some(RawExtension(stored)), ..ControllerRevision::default() };
        assert_eq!(template_of(&revision), Some(template));
    }
}
