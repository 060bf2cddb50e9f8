//! Controller references: who owns what, and taking or letting go of objects by selector.

use client::selector::Labels;
use client::{Connection, LabelSelectorExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::api_error::ApiErrorExt;

pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

pub(crate) fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or("")
}

/// The reference that makes `owner` the controller of an object.
pub(crate) fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: uid(owner.meta()).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The group of an apiVersion.
pub(crate) fn group(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

/// Whether the reference points at a kind: version differences within the group do not matter.
pub(crate) fn refers_to<K: Resource<DynamicType = ()>>(owner: &OwnerReference) -> bool {
    owner.kind == K::kind(&()) && group(&owner.api_version) == K::group(&())
}

/// What an owner should do about one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Keep,
    Adopt,
    Release,
    /// Another's, or not matching.
    Leave,
}

/// Upstream's rule: an owner keeps what it controls and selects, lets go of what it no longer selects, and takes selected
/// orphans; an owner being deleted changes nothing.
pub(crate) fn claim(owner: &ObjectMeta, selector: &LabelSelector, object: &ObjectMeta) -> Claim {
    let selected = selector.takes(object.labels.as_ref());
    let owner_goes = owner.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(reference) if reference.uid != uid(owner) => Claim::Leave,
        Some(_) if selected => Claim::Keep,
        Some(_) if owner_goes => Claim::Leave,
        Some(_) => Claim::Release,
        None if owner_goes || !selected || object.deletion_timestamp.is_some() => Claim::Leave,
        None => Claim::Adopt,
    }
}

/// Makes `owner` the controller of an orphan, and gives it the finalizer that the owner's objects have. Refused by the server when
/// the object was replaced meanwhile.
pub(crate) async fn adopt<O, K>(
    connection: &Connection,
    owner: &O,
    object: &ObjectMeta,
    finalizer: Option<&str>,
) -> Result<K, kube::Error>
where
    O: Resource<DynamicType = ()>,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut change = json!({ "metadata": { "uid": object.uid, "ownerReferences": [controller_reference(owner)] } });
    if let Some(finalizer) = finalizer {
        change["metadata"]["finalizers"] = json!([finalizer]);
    }
    api_of::<K>(connection, object).patch(name(object), &PatchParams::default(), &Patch::Strategic(change)).await
}

/// Takes `owner` off an object, and the finalizer with it. An object that is gone, or was replaced, needs no release.
pub(crate) async fn release<K>(
    connection: &Connection,
    owner: &ObjectMeta,
    object: &ObjectMeta,
    finalizer: Option<&str>,
) -> Result<Option<K>, kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let gone = json!([{ "$patch": "delete", "uid": uid(owner) }]);
    let mut change = json!({ "metadata": { "uid": object.uid, "ownerReferences": gone } });
    if let Some(finalizer) = finalizer {
        change["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
    }
    match api_of::<K>(connection, object).patch(name(object), &PatchParams::default(), &Patch::Strategic(change)).await
    {
        Ok(released) => Ok(Some(released)),
        Err(error) if error.is_not_found() || error.is_invalid() => Ok(None),
        Err(error) => Err(error),
    }
}

fn api_of<K>(connection: &Connection, object: &ObjectMeta) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    connection.namespaced(object.namespace.as_deref().unwrap_or(""))
}

pub(crate) fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or("")
}

pub(crate) fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or("")
}

/// A selector of exactly these labels.
pub(crate) fn map_selector(labels: &Labels) -> LabelSelector {
    LabelSelector { match_labels: Some(labels.clone()), match_expressions: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn meta(labels: &[(&str, &str)], controller: Option<&str>) -> ObjectMeta {
        let owner = controller.map(|uid| OwnerReference {
            uid: uid.into(),
            controller: Some(true),
            ..OwnerReference::default()
        });
        ObjectMeta {
            labels: Some(labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn claims_follow_selector_and_controller() {
        let selector = map_selector(&[("app".to_owned(), "a".to_owned())].into());
        let owner = ObjectMeta { uid: Some("me".into()), ..ObjectMeta::default() };
        let going = ObjectMeta { deletion_timestamp: Some(clock::now()), ..owner.clone() };
        let (matching, other) = (&[("app", "a")][..], &[("app", "b")][..]);
        for (labels, controller, expected, expected_going) in [
            (matching, Some("me"), Claim::Keep, Claim::Keep),
            (other, Some("me"), Claim::Release, Claim::Leave),
            (matching, None, Claim::Adopt, Claim::Leave),
            (other, None, Claim::Leave, Claim::Leave),
            (matching, Some("you"), Claim::Leave, Claim::Leave),
        ] {
            let object = meta(labels, controller);
            assert_eq!(claim(&owner, &selector, &object), expected, "{labels:?} {controller:?}");
            assert_eq!(claim(&going, &selector, &object), expected_going, "{labels:?} {controller:?}, owner going");
        }
    }
}
