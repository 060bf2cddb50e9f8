//! DefaultStorageClass and DefaultIngressClass: a claim or Ingress that names no class gets the default one, if there is one.

use std::cmp::Reverse;
use std::sync::Arc;

use api::json;
use api::{Status, Value, meta};

use super::{Context, Operation, Request};

const STORAGE_DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const INGRESS_DEFAULT: [&str; 1] = ["ingressclass.kubernetes.io/is-default-class"];

pub(super) fn admit_claim(request: &Request<'_>, claim: &mut Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    let is_new = request.is_whole("", "persistentvolumeclaims") && request.operation == Operation::Create;
    let has_class = !claim["spec"]["storageClassName"].is_null()
        || !claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].is_null();
    if !is_new || has_class {
        return Ok(());
    }
    if let Some(class) = newest_default(ctx.list("storage.k8s.io", "storageclasses", ""), &STORAGE_DEFAULT) {
        claim["spec"]["storageClassName"] = json!(class);
    }
    Ok(())
}

pub(super) fn admit_ingress(request: &Request<'_>, ingress: &mut Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    let is_new = request.is_whole("networking.k8s.io", "ingresses") && request.operation == Operation::Create;
    let has_class = !ingress["spec"]["ingressClassName"].is_null()
        || !ingress["metadata"]["annotations"]["kubernetes.io/ingress.class"].is_null();
    if !is_new || has_class {
        return Ok(());
    }
    if let Some(class) = newest_default(ctx.list("networking.k8s.io", "ingressclasses", ""), &INGRESS_DEFAULT) {
        ingress["spec"]["ingressClassName"] = json!(class);
    }
    Ok(())
}

/// Of several defaults the newest, then the first by name.
fn newest_default(classes: Vec<Arc<Value>>, annotations: &[&str]) -> Option<String> {
    let is_default = |class: &&Arc<Value>| annotations.iter().any(|a| class["metadata"]["annotations"][*a] == "true");
    let key = |class: &&Arc<Value>| {
        let created = meta::metadata_str(class, "creationTimestamp").to_owned();
        (Reverse(created), meta::name(class).to_owned())
    };
    classes.iter().filter(is_default).min_by_key(key).map(|class| meta::name(class).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::testing::{World, request},
        attributes::UserInfo,
    };

    #[test]
    fn the_newest_default_class_is_taken() {
        let class = |name: &str, created: &str, default: &str| json!({"metadata": {"name": name, "creationTimestamp": created, "annotations": {(STORAGE_DEFAULT[0]): default}}});
        let world = World::new()
            .with("storage.k8s.io", "storageclasses", class("old", "2020-01-01T00:00:00Z", "true"))
            .with("storage.k8s.io", "storageclasses", class("new", "2021-01-01T00:00:00Z", "true"))
            .with("storage.k8s.io", "storageclasses", class("other", "2022-01-01T00:00:00Z", "false"));
        let user = UserInfo::default();
        let create = request(Operation::Create, "", "persistentvolumeclaims", &user);
        let claim =
            |spec: Value| world.run("DefaultStorageClass", &create, json!({"spec": spec})).unwrap()["spec"].clone();
        assert_eq!(claim(json!({})), json!({"storageClassName": "new"}));
        assert_eq!(claim(json!({"storageClassName": ""})), json!({"storageClassName": ""}));
    }
}
