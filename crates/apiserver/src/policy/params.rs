//! The parameters of a policy: objects that a binding names, by name or by selector.

use std::sync::Arc;

use api::selector::LabelSelector;
use api::{Kind, Value};

use super::definition::{Binding, ParamKind};
use crate::error::from_store;
use crate::gateway::Gateway;
use crate::source::ObjectSource;
use crate::storage::ObjectKey;
use crate::write::{decode_stored, from_storage};

/// The kind of a policy's parameters.
pub(super) fn kind_of(gateway: &Gateway, wanted: &ParamKind) -> Result<Arc<Kind>, String> {
    let (group, version) = wanted.api_version.split_once('/').unwrap_or(("", &wanted.api_version));
    if let Some(kind) = gateway.catalog.builtin().by_kind(group, version, &wanted.kind) {
        return Ok(Arc::clone(kind));
    }
    let custom = gateway.catalog.snapshot();
    let found = custom.of_group_version(group, version).iter().find(|kind| *kind.kind == *wanted.kind).cloned();
    found.ok_or_else(|| {
        format!("failed to find resource referenced by paramKind: '{group}/{version}, Kind={}'", wanted.kind)
    })
}

/// What the policy is evaluated with, once each; null is "without". `kind`: of the parameters, if the policy has any. The error is
/// one of configuration.
pub(super) async fn collect(
    gateway: &Gateway,
    kind: Option<&Kind>,
    binding: &Binding,
    namespace: &str,
) -> Result<Vec<Value>, String> {
    let reference = &binding.param_ref;
    let Some(kind) = kind.filter(|_| !reference.is_null()) else { return Ok(vec![Value::Null]) };
    let text = |field: &str| reference[field].as_str().unwrap_or("");
    let own = text("namespace");
    let namespace = match (kind.namespaced, own) {
        (false, "") => "",
        (false, _) => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned()),
        (true, "") if namespace.is_empty() => {
            return Err(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".to_owned()
            );
        }
        (true, "") => namespace,
        (true, own) => own,
    };
    let found = match text("name") {
        "" => {
            let selector = LabelSelector::from_object(&reference["selector"]).map_err(|error| error.to_string())?;
            let all = gateway.cache.list(&kind.group, &kind.resource, namespace);
            let objects = all.iter().filter_map(|stored| stored.parse());
            objects.filter(|object| selector.matches_object(object)).map(|object| shown(kind, object)).collect()
        }
        name => named(gateway, kind, namespace, name).await?.into_iter().collect::<Vec<_>>(),
    };
    if found.is_empty() && text("parameterNotFoundAction") == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(found)
}

/// From the cache, or from the store when the cache does not have it yet.
async fn named(gateway: &Gateway, kind: &Kind, namespace: &str, name: &str) -> Result<Option<Value>, String> {
    if let Some(object) = gateway.cache.get(&kind.group, &kind.resource, namespace, name).and_then(|s| s.parse()) {
        return Ok(Some(shown(kind, object)));
    }
    let stored = gateway.objects.get(&ObjectKey::new(kind, namespace, name)).await;
    let stored = stored.map_err(|error| from_store(kind, "get", error).message)?;
    let decoded = stored.map(|stored| decode_stored(kind, &stored.value, stored.mod_revision)).transpose();
    decoded.map_err(|status| status.message)
}

/// A cached object in the version that the policy asks for.
fn shown(kind: &Kind, object: Value) -> Value {
    let mut object = from_storage(kind, object);
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.kind.to_string().into();
    object
}
