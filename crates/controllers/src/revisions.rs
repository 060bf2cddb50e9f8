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
}

pub(crate) fn hash_of(revision: &ControllerRevision) -> &str {
    let label = revision.metadata.labels.as_ref().and_then(|labels| labels.get(HASH_LABEL));
    label.map_or_else(|| name(&revision.metadata), String::as_str)
}

/// The patch that puts the template back, as upstream stores it.
fn data(template: &PodTemplateSpec) -> Result<Value, serde_json::Error> {
    let mut template = serde_json::to_value(template)?;
    template["$patch"] = json!("replace");
    Ok(json!({ "spec": { "template": template } }))
}

/// The template a revision holds.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// Who keeps a history, and where it is read and written.
pub(crate) struct Keeper<'a> {
    pub connection: &'a Connection,
    pub revisions: &'a Informer<ControllerRevision>,
    pub own_writes: &'a OwnWrites,
    /// The label of a revision that holds its hash.
    pub hash_label: &'static str,
}

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
        let current = match all.iter().rev().find(equal).cloned() {
            Some(current) if current.revision == highest => current,
            Some(current) => self.renumber(owner, &current, highest + 1).await?,
            None => self.create(owner, template, highest + 1, collisions).await?,
        };
        all.retain(|revision| name(&revision.metadata) != name(&current.metadata));
        all.push(current.clone());
        Ok(History { all, current })
    }

    async fn create<O: Resource<DynamicType = ()>>(
        &self,
        owner: &O,
        template: &PodTemplateSpec,
        number: i64,
        collisions: Option<i32>,
    ) -> Result<Arc<ControllerRevision>, kube::Error> {
        let data = data(template).map_err(kube::Error::SerdeError)?;
        let hash = template::hash(&data, collisions);
        let mut labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        labels.insert(self.hash_label.to_owned(), hash.clone());
        let revision = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", name(owner.meta()))),
                labels: Some(labels),
                annotations: owner.meta().annotations.clone(),
                owner_references: Some(vec![controller_reference(owner)]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(data)),
            revision: number,
        };
        let api = self.connection.namespaced::<ControllerRevision>(namespace(owner.meta()));
        let created = match api.create(&PostParams::default(), &revision).await {
            Ok(created) => created,
            // Ours already, and the cache was behind; anything else of that name is an error to retry.
            Err(error) if error.is_already_exists() => {
                let existing = api.get(name(&revision.metadata)).await?;
                let ours = controller_of(&existing.metadata).is_some_and(|one| one.uid == uid(owner.meta()));
                if !ours {
                    return Err(error);
                }
                existing
            }
            Err(error) => return Err(error),
        };
        self.own_writes.wrote(&ObjectKey::from_meta(owner.meta()), self.revisions, &created);
        Ok(Arc::new(created))
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
        assert_eq!(stored["spec"]["template"]["$patch"], "replace");
        let revision = ControllerRevision { data: Some(RawExtension(stored)), ..ControllerRevision::default() };
        assert_eq!(template_of(&revision), Some(template));
    }
}
