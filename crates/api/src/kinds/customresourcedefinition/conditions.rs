//! What the server says about a definition in its status: which names it has been given, whether its objects are served, what
//! is wrong with its schemas, how far its removal is. Source: `apiextensions-apiserver` `pkg/controller`.

use crate::json;

use super::{Approval, approval_annotation, structural};
use crate::{Cursor, ErrorList, Map, Value};

/// Removed when the last object is gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// A condition without its time.
struct Condition {
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Condition {
    fn new(kind: &'static str, status: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status, reason, message: message.into() }
    }
}

/// Where a removal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    Pending,
    InProgress,
}

/// The definition with the status it should have; `None` when it has it. `is_taken(name, is_kind)`: another definition of the
/// group has the name, among resources or among kinds.
pub fn settle(definition: &Value, is_taken: &dyn Fn(&str, bool) -> bool, now: &str) -> Option<Value> {
    let mut new = definition.clone();
    names(&mut new, is_taken, now);
    let structure = non_structural(&Cursor::root(definition));
    match structure {
        Some(condition) => set(&mut new, condition, now),
        None => remove(&mut new, "NonStructuralSchema"),
    }
    match approval(&Cursor::root(definition)) {
        Some(condition) => set(&mut new, condition, now),
        None => remove(&mut new, "KubernetesAPIApprovalPolicyConformant"),
    }
    (new != *definition).then_some(new)
}

/// The definition as it is once its objects are served; `None` when that is not so yet, or is said already.
pub fn establish(definition: &Value, now: &str) -> Option<Value> {
    if is_true(definition, "Established") || !is_true(definition, "NamesAccepted") {
        return None;
    }
    let mut new = definition.clone();
    let message = "the initial names have been accepted";
    set(&mut new, Condition::new("Established", "True", "InitialNamesAccepted", message), now);
    Some(new)
}

/// The first delete: the definition goes when its objects have gone.
pub(super) fn begin_delete(definition: &mut Value, now: &str) {
    let metadata = object_at(definition, "metadata");
    metadata.insert("deletionTimestamp", now.into());
    let finalizers = metadata.entry("finalizers").or_insert(Value::Null);
    match finalizers {
        Value::Array(list) if list.iter().any(|f| f == CLEANUP_FINALIZER) => {}
        Value::Array(list) => list.push(CLEANUP_FINALIZER.into()),
        _ => *finalizers = json!([CLEANUP_FINALIZER]),
    }
    removing(definition, Removal::Pending, now);
}

/// Says how far a removal is.
pub fn removing(definition: &mut Value, removal: Removal, now: &str) {
    let (reason, message) = match removal {
        Removal::Pending => (
            "InstanceDeletionPending",
            "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
        ),
        Removal::InProgress => ("InstanceDeletionInProgress", "CustomResource deletion is in progress"),
    };
    set(definition, Condition::new("Terminating", "True", reason, message), now);
}

/// Gives the definition the names it asks for, as far as nobody else has them.
fn names(definition: &mut Value, is_taken: &dyn Fn(&str, bool) -> bool, now: &str) {
    let asked = definition.pointer("/spec/names").cloned().unwrap_or_default();
    let had = definition.pointer("/status/acceptedNames").cloned().unwrap_or_default();
    if asked == had {
        return;
    }
    let text = |of: &Value, field: &str| of.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
    let mut accepted = had.as_object().cloned().unwrap_or_default();
    let mut conflict: Option<(&'static str, String)> = None;
    let in_use = |name: &str| format!("{} is already in use", crate::field::go_quote(name));
    let one = |field: &str, reason, is_kind, accepted: &mut Map, conflict: &mut Option<_>| {
        let name = text(&asked, field);
        if name != text(&had, field) && is_taken(&name, is_kind) {
            *conflict = Some((reason, in_use(&name)));
        } else if name.is_empty() {
            accepted.remove(field);
        } else {
            accepted.insert(field, name.into());
        }
    };
    one("plural", "PluralConflict", false, &mut accepted, &mut conflict);
    one("singular", "SingularConflict", false, &mut accepted, &mut conflict);
    let list = |of: &Value| -> Vec<String> {
        let names = of.get("shortNames").and_then(Value::as_array).into_iter().flatten();
        names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let (short, had_short) = (list(&asked), list(&had));
    let taken: Vec<String> =
        short.iter().filter(|n| !had_short.contains(n) && is_taken(n, false)).map(|n| in_use(n)).collect();
    if !taken.is_empty() {
        let message = if taken.len() == 1 { taken.concat() } else { format!("[{}]", taken.join(", ")) };
        conflict = Some(("ShortNamesConflict", message));
    } else if let Some(names) = asked.get("shortNames") {
        accepted.insert("shortNames", names.clone());
    } else {
        accepted.remove("shortNames");
    }
    one("kind", "KindConflict", true, &mut accepted, &mut conflict);
    one("listKind", "ListKindConflict", true, &mut accepted, &mut conflict);
    match asked.get("categories") {
        Some(categories) => accepted.insert("categories", categories.clone()),
        None => accepted.remove("categories"),
    };
    for needed in ["plural", "kind"] {
        accepted.entry(needed).or_insert_with(|| "".into());
    }
    object_at(definition, "status").insert("acceptedNames", accepted.into());
    let was_established = is_true(definition, "Established");
    match conflict {
        Some((reason, message)) => {
            set(definition, Condition::new("NamesAccepted", "False", reason, message), now);
            if find(definition, "Established").is_none() {
                let message = "not all names are accepted";
                set(definition, Condition::new("Established", "False", "NotAccepted", message), now);
            }
        }
        None => {
            set(definition, Condition::new("NamesAccepted", "True", "NoConflicts", "no conflicts found"), now);
            if !was_established {
                let message = "the initial names have been accepted";
                set(definition, Condition::new("Established", "False", "Installing", message), now);
            }
        }
    }
}

/// Only definitions from before structural schemas were asked for have such a condition.
fn non_structural(definition: &Cursor<'_>) -> Option<Condition> {
    let mut errors = ErrorList::new();
    for version in definition.field("spec").field("versions").items() {
        let schema = version.fields(&["schema", "openAPIV3Schema"]);
        if !schema.is_set() {
            continue;
        }
        if let Some(reason) = structural::unsupported(schema.value()) {
            let name = version.field("name").str();
            let message = format!("failed to check validation schema for version {name}: {reason}");
            return Some(Condition::new("NonStructuralSchema", "Unknown", "StructuralError", message));
        }
        errors.extend(structural::validate(&schema));
    }
    let message = errors.aggregate_message();
    (!errors.is_empty()).then(|| Condition::new("NonStructuralSchema", "True", "Violations", message))
}

/// Groups of Kubernetes itself say whether their API was reviewed.
fn approval(definition: &Cursor<'_>) -> Option<Condition> {
    const KIND: &str = "KubernetesAPIApprovalPolicyConformant";
    if !super::is_protected(definition) {
        return None;
    }
    let annotation = approval_annotation(definition);
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    let own = super::APPROVAL;
    Some(match Approval::of(annotation) {
        Approval::Missing => {
            let message = format!("protected groups must have approval annotation \"{own}\", {see}");
            Condition::new(KIND, "False", "MissingAnnotation", message)
        }
        Approval::Invalid => {
            let message = format!(
                "protected groups must have approval annotation \"{own}\" with either a URL or a reason starting with \
                 \"unapproved\", {see}"
            );
            Condition::new(KIND, "False", "InvalidAnnotation", message)
        }
        Approval::Bypassed => {
            let message = format!("not approved: {}", crate::field::go_quote(annotation));
            Condition::new(KIND, "False", "UnapprovedAnnotation", message)
        }
        Approval::Approved => Condition::new(KIND, "True", "ApprovedAnnotation", format!("approved in {annotation}")),
    })
}

fn object_at<'v>(definition: &'v mut Value, field: &str) -> &'v mut Map {
    if !definition[field].is_object() {
        definition[field] = Value::Object(Map::new());
    }
    match &mut definition[field] {
        Value::Object(map) => map,
        _ => unreachable!("it was just made an object"),
    }
}

fn find<'v>(definition: &'v Value, kind: &str) -> Option<&'v Value> {
    definition.pointer("/status/conditions")?.as_array()?.iter().find(|c| c["type"] == kind)
}

fn is_true(definition: &Value, kind: &str) -> bool {
    find(definition, kind).is_some_and(|condition| condition["status"] == "True")
}

fn remove(definition: &mut Value, kind: &str) {
    if let Some(list) = definition.pointer_mut("/status/conditions").and_then(Value::as_array_mut) {
        list.retain(|condition| condition["type"] != kind);
    }
}

/// Its time moves when its status does.
fn set(definition: &mut Value, condition: Condition, now: &str) {
    let Condition { kind, status, reason, message } = condition;
    let conditions = object_at(definition, "status").entry("conditions").or_insert(Value::Null);
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Value::Array(list) = conditions else { return };
    let time =
        list.iter().find(|c| c["type"] == kind && c["status"] == status).map(|c| c["lastTransitionTime"].clone());
    let time = time.filter(|time| !time.is_null()).unwrap_or_else(|| now.into());
    let new = json!({
        "type": kind, "status": status, "lastTransitionTime": time, "reason": reason, "message": message,
    });
    match list.iter_mut().find(|c| c["type"] == kind) {
        Some(known) => *known = new,
        None => list.push(new),
    }
}

/// The objects that are left need a look once more.
pub fn remove_finalizer(definition: &mut Value) {
    let metadata = object_at(definition, "metadata");
    if let Some(Value::Array(list)) = metadata.get_mut("finalizers") {
        list.retain(|finalizer| finalizer != CLEANUP_FINALIZER);
    }
}

/// Deletion was asked for and waits for the objects.
pub fn awaits_cleanup(definition: &Value) -> bool {
    let finalizers = definition.pointer("/metadata/finalizers").and_then(Value::as_array);
    crate::meta::is_being_deleted(definition)
        && finalizers.into_iter().flatten().any(|finalizer| finalizer == CLEANUP_FINALIZER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Value {
        json!({"metadata": {"name": "xs.e.com"}, "spec": {"group": "e.com",
            "names": {"plural": "xs", "singular": "x", "kind": "X", "listKind": "XList", "shortNames": ["ex"]},
            "versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"type": "object"}}}]}})
    }

    #[test]
    fn names_are_accepted_then_the_definition_is_established() {
        let accepted = settle(&definition(), &|_, _| false, "t1").expect("a change");
        assert_eq!(accepted["status"]["acceptedNames"], definition()["spec"]["names"]);
        assert_eq!(accepted["status"]["conditions"][0]["reason"], "NoConflicts");
        assert_eq!(accepted["status"]["conditions"][1]["reason"], "Installing");
        assert_eq!(settle(&accepted, &|_, _| false, "t2"), None);
        let established = establish(&accepted, "t2").expect("a change");
        let condition = &established["status"]["conditions"][1];
        assert_eq!((&condition["status"], &condition["lastTransitionTime"]), (&json!("True"), &json!("t2")));
        assert_eq!(establish(&established, "t3"), None);
    }

    #[test]
    fn names_of_others_are_left_to_them() {
        let refused = settle(&definition(), &|name, is_kind| is_kind && name == "XList", "t").expect("a change");
        assert_eq!(refused["status"]["acceptedNames"]["listKind"], Value::Null);
        assert_eq!(refused["status"]["acceptedNames"]["kind"], "X");
        let conditions = &refused["status"]["conditions"];
        assert_eq!(conditions[0]["reason"], "ListKindConflict");
        assert_eq!(conditions[0]["message"], "\"XList\" is already in use");
        assert_eq!(conditions[1]["message"], "not all names are accepted");
    }

    #[test]
    fn a_delete_waits_for_the_objects() {
        let mut object = definition();
        begin_delete(&mut object, "t");
        assert!(awaits_cleanup(&object));
        assert_eq!(object["status"]["conditions"][0]["reason"], "InstanceDeletionPending");
        remove_finalizer(&mut object);
        assert!(!awaits_cleanup(&object));
    }
}
