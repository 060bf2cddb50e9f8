//! Ownership of a Scale, which stands for one field of a bigger object: its entries are made of the object's, and go back into them.

use std::collections::BTreeMap;

use super::managed::{Fields, Managed, ManagerId, Operation, Owned};
use super::set::Set;
use crate::kind::Kind;
use crate::{Value, kinds};

/// Where the replicas are in each version of an object; `None` in versions of custom resources that have no scale.
#[derive(Debug)]
pub struct ReplicasPaths(BTreeMap<String, Option<Set>>);

impl ReplicasPaths {
    pub fn of(kind: &Kind) -> Self {
        let one = |path: &str| Set::of_fields([path.trim_start_matches('.')]);
        let paths = match kind.custom() {
            None => BTreeMap::from([(kind.api_version(), Some(one("spec.replicas")))]),
            Some(custom) => {
                custom.definition().replicas_paths().map(|(version, path)| (version, path.map(one))).collect()
            }
        };
        Self(paths)
    }

    fn of_version(&self, api_version: &str) -> Option<&Set> {
        self.0.get(api_version)?.as_ref()
    }
}

/// The owners of the replicas among those of the object, as owners of a Scale's `spec.replicas`.
pub fn owners_of_scale(paths: &ReplicasPaths, of_object: Option<&Value>) -> Result<Value, String> {
    let scale_version = kinds::scale().api_version();
    let managed = Managed::decode(of_object)?;
    let owns_replicas = |owned: &Owned| {
        paths.of_version(&owned.api_version).is_some_and(|path| !owned.fields.set().intersection(path).is_empty())
    };
    let owners = managed.entries.into_iter().filter(|(_, owned)| owns_replicas(owned)).map(|(id, owned)| {
        let fields = Fields::Parsed(Set::of_fields(["spec.replicas"]));
        (in_version(id, &scale_version), Owned { api_version: scale_version.clone(), fields, ..owned })
    });
    Ok(Managed { entries: owners.collect() }.encode())
}

/// The owners of the object after a write of its Scale. Whoever does not own the scale any more loses the replicas.
///
/// Plain writers are told apart by the version that they wrote in, and that of a Scale is another: the replicas of a plain writer go into
/// an entry of their own, without a time, as upstream has it.
pub fn owners_of_object(
    paths: &ReplicasPaths,
    own_version: &str,
    of_object: Option<&Value>,
    of_scale: &Value,
) -> Value {
    let mut of_scale = Managed::decode(Some(of_scale)).unwrap_or_default().entries;
    let mut entries = BTreeMap::new();
    for (id, mut owned) in Managed::decode(of_object).unwrap_or_default().entries {
        let Some(path) = paths.0.get(&owned.api_version) else { continue };
        if let Some(path) = path
            && of_scale.remove(&id).is_none()
        {
            owned.fields.subtract(path);
        }
        if !owned.fields.is_empty() {
            entries.insert(id, owned);
        }
    }
    let replicas = Set::of_fields(["spec.replicas"]);
    for (id, owned) in of_scale {
        let Some(path) = paths.of_version(own_version) else { continue };
        if owned.fields.set().intersection(&replicas).is_empty() {
            continue;
        }
        let fields = Fields::Parsed(path.clone());
        entries.insert(id, Owned { api_version: own_version.to_owned(), time: String::new(), fields });
    }
    Managed { entries }.encode()
}

fn in_version(id: ManagerId, api_version: &str) -> ManagerId {
    match id.operation {
        Operation::Apply => id,
        Operation::Update => ManagerId { api_version: api_version.to_owned(), ..id },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn the_replicas_go_to_who_owns_the_scale() {
        let deployment = kinds::builtin().by_kind("apps", "v1", "Deployment").expect("deployments");
        let paths = ReplicasPaths::of(deployment);
        let entry = |manager: &str, operation: &str, version: &str, fields: Value| {
            json!({"manager": manager, "operation": operation, "apiVersion": version, "time": "2026-01-01T00:00:00Z",
                "fieldsType": "FieldsV1", "fieldsV1": fields})
        };
        let both = json!({"f:spec": {"f:paused": {}, "f:replicas": {}}});
        let replicas = json!({"f:spec": {"f:replicas": {}}});
        let object = json!([
            entry("a", "Apply", "apps/v1", both.clone()),
            entry("u", "Update", "apps/v1", both.clone()),
            entry("x", "Update", "apps/v1", json!({"f:spec": {"f:paused": {}}})),
        ]);
        let scale = owners_of_scale(&paths, Some(&object)).expect("decodes");
        let expected = [
            entry("a", "Apply", "autoscaling/v1", replicas.clone()),
            entry("u", "Update", "autoscaling/v1", replicas.clone()),
        ];
        assert_eq!(scale, json!(expected));
        // Nothing has changed: the applier keeps its entry, the plain writer's falls apart.
        let after = owners_of_object(&paths, "apps/v1", Some(&object), &scale);
        let told: Vec<String> = after
            .as_array()
            .into_iter()
            .flatten()
            .map(|e| format!("{} {} {}", e["manager"], e["time"], e["fieldsV1"]))
            .collect();
        assert_eq!(
            told,
            [
                "\"a\" \"2026-01-01T00:00:00Z\" {\"f:spec\":{\"f:paused\":{},\"f:replicas\":{}}}",
                "\"u\" null {\"f:spec\":{\"f:replicas\":{}}}",
                "\"u\" \"2026-01-01T00:00:00Z\" {\"f:spec\":{\"f:paused\":{}}}",
                "\"x\" \"2026-01-01T00:00:00Z\" {\"f:spec\":{\"f:paused\":{}}}",
            ]
        );
        // Nobody owns the scale any more.
        let after =
            owners_of_object(&paths, "apps/v1", Some(&json!([entry("a", "Apply", "apps/v1", both)])), &json!([]));
        assert_eq!(after[0]["fieldsV1"], json!({"f:spec": {"f:paused": {}}}));
    }
}
