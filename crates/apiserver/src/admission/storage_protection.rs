//! StorageObjectInUseProtection: storage objects carry a finalizer until nothing uses them.

use api::json;
use api::{Status, Value};

use super::{Context, Operation, Request, list_mut};

const FINALIZERS: [(&str, &str, &str); 3] = [
    ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("", "persistentvolumes", "kubernetes.io/pv-protection"),
    ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
];

pub(super) fn admit(request: &Request<'_>, object: &mut Value, _: &mut Context<'_>) -> Result<(), Status> {
    let row = FINALIZERS.iter().find(|(group, resource, _)| request.is_whole(group, resource));
    let (Some((_, _, finalizer)), Operation::Create) = (row, request.operation) else { return Ok(()) };
    if let Some(finalizers) = list_mut(&mut object["metadata"], "finalizers")
        && !finalizers.iter().any(|f| f == finalizer)
    {
        finalizers.push(json!(finalizer));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::testing::{World, request},
        attributes::UserInfo,
    };

    #[test]
    fn a_claim_is_protected_once() {
        let user = UserInfo::default();
        let create = request(Operation::Create, "", "persistentvolumeclaims", &user);
        let world = World::new();
        let claim = world.run("StorageObjectInUseProtection", &create, json!({"metadata": {}})).unwrap();
        assert_eq!(claim["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
        assert_eq!(world.run("StorageObjectInUseProtection", &create, claim.clone()).unwrap(), claim);
    }
}
