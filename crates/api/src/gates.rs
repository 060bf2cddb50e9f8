//! Fields behind feature gates that are off in v1.36: an object does not keep them, unless it already had them. Source: the
//! `dropDisabledFields` functions of `pkg/registry` and `pkg/api`.

use std::sync::LazyLock;

use hashbrown::HashMap;

use crate::schema::{Schema, Shape, TypeId};
use crate::{Kind, Value};

/// The type (without `io.k8s.api.`) and the fields of it that one gate guards.
const DISABLED: &[(&str, &[&str])] = &[
    ("apps.v1.RollingUpdateStatefulSetStrategy", &["maxUnavailable"]), // MaxUnavailableStatefulSet
    ("core.v1.Lifecycle", &["stopSignal"]),                            // ContainerStopSignals
    ("core.v1.PodSpec", &["schedulingGroup"]),                         // GenericWorkload
    ("core.v1.PodStatus", &["nodeAllocatableResourceClaimStatuses"]),  // DRANodeAllocatableResources
    ("core.v1.VolumeProjection", &["clusterTrustBundle"]),             // ClusterTrustBundleProjection
    ("core.v1.VolumeProjection", &["podCertificate"]),                 // PodCertificateRequest
    ("resource.v1.Device", &["nodeAllocatableResourceMappings"]),      // DRANodeAllocatableResources
    ("resource.v1.DeviceAttribute", &["bools", "ints", "strings", "versions"]), // DRAListTypeAttributes
    ("storage.v1.CSIDriverSpec", &["preventPodSchedulingIfMissing"]),  // CSIDriverPreventScheduling
];

/// The fields on the way to a disabled one, by type.
type Ways = HashMap<TypeId, Vec<(&'static str, Step)>>;

#[derive(Clone, Copy)]
enum Step {
    /// A field that one row of the table names, by the row's index.
    Disabled(usize),
    /// A field whose value, or whose items, are of a type with ways of its own.
    Below(TypeId),
    /// A map with values of such a type.
    Entries(TypeId),
}

static WAYS: LazyLock<Ways> = LazyLock::new(|| ways(Schema::builtin()));

fn ways(schema: &'static Schema) -> Ways {
    let mut ways = Ways::new();
    for (row, (name, fields)) in DISABLED.iter().enumerate() {
        let Some(id) = schema.type_id(&format!("io.k8s.api.{name}")) else { continue };
        ways.entry(id).or_default().extend(fields.iter().map(|field| (*field, Step::Disabled(row))));
    }
    // Types that lead to those found so far, until there are no more.
    loop {
        let mut found: Vec<(TypeId, &'static str, Step)> = Vec::new();
        for (id, ty) in schema.types() {
            for field in &ty.fields {
                let known = ways.get(&id).is_some_and(|own| own.iter().any(|(name, _)| *name == field.name));
                let Some(below) = below(schema, field.shape).filter(|(below, _)| !known && ways.contains_key(below))
                else {
                    continue;
                };
                found.push((id, &field.name, below.1));
            }
        }
        if found.is_empty() {
            return ways;
        }
        for (id, field, step) in found {
            ways.entry(id).or_default().push((field, step));
        }
    }
}

/// The type of a field's value, items or entries, and the step there.
fn below(schema: &Schema, shape: Shape) -> Option<(TypeId, Step)> {
    match shape {
        Shape::List(_) => schema.element_of(shape).type_id().map(|id| (id, Step::Below(id))),
        Shape::Map(_) => schema.element_of(shape).type_id().map(|id| (id, Step::Entries(id))),
        shape => shape.type_id().map(|id| (id, Step::Below(id))),
    }
}

/// Removes from `new` the fields of gates that `old` makes no use of.
pub(crate) fn drop_disabled(kind: &Kind, new: &mut Value, old: Option<&Value>) {
    if kind.custom().is_some() || rows_in(kind, new).is_empty() {
        return;
    }
    let used = old.map(|old| rows_in(kind, &mut old.clone())).unwrap_or_default();
    visit(kind.type_id, new, &mut |object, field, row| {
        if !used.contains(&row) {
            object.remove(field);
        }
    });
}

/// The rows of the table that an object has fields of.
fn rows_in(kind: &Kind, object: &mut Value) -> Vec<usize> {
    let mut rows = Vec::new();
    visit(kind.type_id, object, &mut |_, _, row| rows.push(row));
    rows
}

fn visit(id: TypeId, value: &mut Value, found: &mut dyn FnMut(&mut crate::Map, &str, usize)) {
    let Some(ways) = WAYS.get(&id) else { return };
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| visit(id, item, found)),
        Value::Object(object) => {
            for (field, step) in ways {
                match step {
                    Step::Disabled(row) if object.contains_key(field) => found(object, field, *row),
                    Step::Disabled(_) => {}
                    Step::Below(below) => {
                        let Some(value) = object.get_mut(field) else { continue };
                        let is_empty = |value: &Value| value.as_object().is_some_and(crate::Map::is_empty);
                        let was_empty = is_empty(value);
                        visit(*below, value, found);
                        // A lifecycle that was a signal and nothing else goes with it.
                        if is_empty(value) && !was_empty {
                            object.remove(field);
                        }
                    }
                    Step::Entries(below) => {
                        if let Some(Value::Object(entries)) = object.get_mut(field) {
                            entries.iter_mut().for_each(|(_, value)| visit(*below, value, found));
                        }
                    }
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use crate::json;
    use crate::kinds::builtin;

    use super::*;

    #[test]
    fn a_field_of_a_gate_that_is_off_stays_only_where_it_was() {
        let pods = builtin().by_kind("", "v1", "Pod").expect("pods");
        let pod = json!({"spec": {"schedulingGroup": {"podGroupName": "g"},
            "containers": [{"name": "c", "lifecycle": {"stopSignal": "SIGINT", "preStop": {}}},
                {"name": "d", "lifecycle": {"stopSignal": "SIGINT"}}, {"name": "e", "lifecycle": {}}],
            "volumes": [{"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"path": "p"}}]}}]}});
        let mut new = pod.clone();
        drop_disabled(pods, &mut new, None);
        assert_eq!(
            new,
            json!({"spec": {"containers": [{"name": "c", "lifecycle": {"preStop": {}}}, {"name": "d"},
                    {"name": "e", "lifecycle": {}}],
                "volumes": [{"name": "v", "projected": {"sources": [{}]}}]}})
        );
        let mut again = pod.clone();
        drop_disabled(pods, &mut again, Some(&pod));
        assert_eq!(again, pod);
    }

    #[test]
    fn every_row_names_fields_that_exist_and_can_be_reached() {
        let schema = Schema::builtin();
        for (name, fields) in DISABLED {
            let ty = schema.lookup(&format!("io.k8s.api.{name}")).expect(name);
            assert!(fields.iter().all(|field| ty.field(field).is_some()), "{name}");
        }
        let sets = builtin().by_kind("apps", "v1", "StatefulSet").expect("sets");
        let mut set = json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 1, "partition": 0}}}});
        drop_disabled(sets, &mut set, None);
        assert_eq!(set, json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}}));
    }
}
