//! Carrying fields over between the stored object and the one a client sent: how a strategy says who owns which field.

use crate::{Map, Value};

/// Sets a top-level field, keeping its place when it was there.
pub fn set(object: &mut Value, field: &str, value: Value) {
    if let Value::Object(fields) = object {
        fields.insert(field, value);
    }
}

/// Takes `field` of `old` over into `new`, absence included.
pub fn keep(new: &mut Value, old: &Value, field: &str) {
    let Value::Object(fields) = new else { return };
    match old.get(field) {
        Some(value) => {
            fields.insert(field, value.clone());
        }
        None => {
            fields.remove(field);
        }
    }
}

/// As [`keep`] for a field of `metadata`, `spec` or `status`.
pub fn keep_in(new: &mut Value, old: &Value, part: &str, field: &str) {
    let empty = Value::Object(Map::new());
    if let Some(new) = new.get_mut(part) {
        keep(new, old.get(part).unwrap_or(&empty), field);
    }
}

/// An update of the main resource leaves the status alone.
pub fn keep_status(new: &mut Value, old: &Value) {
    keep(new, old, "status");
}

/// An update of the status leaves the spec alone.
pub fn keep_spec(new: &mut Value, old: &Value) {
    keep(new, old, "spec");
}

/// An update of the status leaves all metadata but managedFields alone (kinds added since this became the rule).
pub fn keep_metadata(new: &mut Value, old: &Value) {
    for field in
        ["deletionTimestamp", "generation", "selfLink", "labels", "annotations", "finalizers", "ownerReferences"]
    {
        keep_in(new, old, "metadata", field);
    }
}

/// Removes a field below the given parts, when it is there.
pub fn remove(object: &mut Value, parts: &[&str], field: &str) {
    let mut at = object;
    for part in parts {
        match at.get_mut(part) {
            Some(next) => at = next,
            None => return,
        }
    }
    if let Value::Object(fields) = at {
        fields.remove(field);
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn absence_is_kept_too() {
        let mut new = json!({"spec": {"a": 1}, "status": {"x": 1}});
        keep_status(&mut new, &json!({"spec": {"a": 2}}));
        assert_eq!(new, json!({"spec": {"a": 1}}));
    }

    #[test]
    fn metadata_of_a_status_update_is_the_stored_one() {
        let mut new = json!({"metadata": {"name": "a", "labels": {"x": "y"}, "managedFields": [1]}});
        keep_metadata(&mut new, &json!({"metadata": {"name": "a", "annotations": {"k": "v"}}}));
        assert_eq!(new, json!({"metadata": {"name": "a", "managedFields": [1], "annotations": {"k": "v"}}}));
    }
}
