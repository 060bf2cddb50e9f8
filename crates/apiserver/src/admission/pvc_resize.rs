//! PersistentVolumeClaimResize: a claim grows only when it is bound and its class says that volumes can.

use api::{Status, Value, quantity::Quantity};

use super::{Context, Operation, Request};

pub(super) fn validate(request: &Request<'_>, claim: &Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    if !request.is_whole("", "persistentvolumeclaims") || request.operation != Operation::Update {
        return Ok(());
    }
    let Some(old) = request.old else { return Ok(()) };
    if size(claim) <= size(old) {
        return Ok(());
    }
    if old["status"]["phase"] != "Bound" {
        return Err(request.forbidden(claim, "Only bound persistent volume claims can be expanded"));
    }
    let annotated = old["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    let class = annotated.or(old["spec"]["storageClassName"].as_str()).unwrap_or_default();
    let expands = !class.is_empty()
        && ctx.get("storage.k8s.io", "storageclasses", "", class).is_some_and(|c| c["allowVolumeExpansion"] == true);
    if expands {
        return Ok(());
    }
    let text = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    Err(request.forbidden(claim, text))
}

fn size(claim: &Value) -> Quantity {
    Quantity::from_value(&claim["spec"]["resources"]["requests"]["storage"]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;
    use crate::{
        admission::testing::{World, request},
        attributes::UserInfo,
    };

    #[test]
    fn growth_needs_a_bound_claim_and_a_class_that_allows_it() {
        let user = UserInfo::default();
        let claim = |size: &str, phase: &str, class: &str| {
            json!({"metadata": {"name": "a"}, "status": {"phase": phase},
                   "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}})
        };
        let world = World::new().with(
            "storage.k8s.io",
            "storageclasses",
            json!({"metadata": {"name": "fast"}, "allowVolumeExpansion": true}),
        );
        let check = |old: Value, new: Value| {
            let mut update = request(Operation::Update, "", "persistentvolumeclaims", &user);
            update.old = Some(&old);
            world.run("PersistentVolumeClaimResize", &update, new).map(|_| ())
        };
        assert_eq!(check(claim("1Gi", "Bound", "fast"), claim("2Gi", "Bound", "fast")), Ok(()));
        assert_eq!(check(claim("1Gi", "Pending", "x"), claim("1024Mi", "Pending", "x")), Ok(()));
        assert_eq!(
            check(claim("1Gi", "Pending", "fast"), claim("2Gi", "Pending", "fast")).unwrap_err(),
            "persistentvolumeclaims \"a\" is forbidden: Only bound persistent volume claims can be expanded"
        );
        assert_eq!(
            check(claim("1Gi", "Bound", "x"), claim("2Gi", "Bound", "x")).unwrap_err(),
            "persistentvolumeclaims \"a\" is forbidden: only dynamically provisioned pvc can be resized and the storageclass \
             that provisions the pvc must support resize"
        );
    }
}
