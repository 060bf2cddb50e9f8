//! Labels, annotations and selectors of all kinds.

use crate::validate::names;
use crate::{Cursor, ErrorList, Path, Value};

/// Adds one Invalid error per message, showing `value`.
pub fn invalid_each(errors: &mut ErrorList, path: &Path, value: &str, messages: names::Messages) {
    for message in messages {
        errors.invalid(path.clone(), value, message);
    }
}

/// A label key at its own path.
pub fn label_key(key: &Cursor<'_>, errors: &mut ErrorList) {
    invalid_each(errors, &key.path(), key.str(), names::qualified_name(key.str()));
}

/// A map of labels: every error is reported at the map, not at the key.
pub fn labels(map: &Cursor<'_>, errors: &mut ErrorList) {
    let path = map.path();
    for (key, value) in map.entries() {
        invalid_each(errors, &path, key, names::qualified_name(key));
        invalid_each(errors, &path, value.str(), names::label_value(value.str()));
    }
}

pub const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;

/// A map of annotations: keys like label keys (in any case), and a limit on the whole.
pub fn annotations(map: &Cursor<'_>, errors: &mut ErrorList) {
    let path = map.path();
    let mut size = 0;
    for (key, value) in map.entries() {
        size += key.len() + value.str().len();
        invalid_each(errors, &path, key, names::qualified_name(&key.to_lowercase()));
    }
    if size > ANNOTATIONS_MAX_BYTES {
        errors.too_long(path, ANNOTATIONS_MAX_BYTES);
    }
}

/// A `meta/v1` LabelSelector; absent is fine.
pub fn selector(selector: &Cursor<'_>, errors: &mut ErrorList) {
    labels(&selector.field("matchLabels"), errors);
    for requirement in selector.field("matchExpressions").items() {
        let operator = requirement.field("operator");
        if !matches!(operator.str(), "In" | "NotIn" | "Exists" | "DoesNotExist") {
            errors.invalid_choice(operator.path(), operator.str(), "not a valid selector operator");
        }
        selector_requirement(&requirement, errors);
    }
}

/// Key and values of a requirement on labels. Its operator may be one that nobody knows yet.
pub fn selector_requirement(requirement: &Cursor<'_>, errors: &mut ErrorList) {
    requirement_values(requirement, errors);
    label_key(&requirement.field("key"), errors);
    for value in requirement.field("values").items() {
        invalid_each(errors, &value.path(), value.str(), names::label_value(value.str()));
    }
}

/// Whether there are values is a matter of the operator.
pub fn requirement_values(requirement: &Cursor<'_>, errors: &mut ErrorList) {
    let values = requirement.field("values");
    match requirement.field("operator").str() {
        "In" | "NotIn" if values.is_empty() => {
            values.required(errors, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            values.forbidden(errors, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        _ => {}
    }
}

/// No labels and no expressions: selects everything.
pub fn is_empty_selector(selector: &Cursor<'_>) -> bool {
    selector.field("matchLabels").is_empty() && selector.field("matchExpressions").is_empty()
}

/// Whether a LabelSelector selects an object with these labels. A nil selector selects nothing; an unreadable one is `None`.
pub fn selector_matches(selector: &Cursor<'_>, labels: &Cursor<'_>) -> Option<bool> {
    if !selector.is_set() {
        return Some(false);
    }
    let mut problems = ErrorList::new();
    self::selector(selector, &mut problems);
    if !problems.is_empty() {
        return None;
    }
    for (key, value) in selector.field("matchLabels").entries() {
        if labels.field(key).value().as_str() != Some(value.str()) {
            return Some(false);
        }
    }
    for requirement in selector.field("matchExpressions").items() {
        let actual = labels.value().get(requirement.field("key").str()).and_then(Value::as_str);
        let listed = |text: &str| requirement.field("values").items().any(|v| v.str() == text);
        let matched = match requirement.field("operator").str() {
            "In" => actual.is_some_and(listed),
            "NotIn" => !actual.is_some_and(listed),
            "Exists" => actual.is_some(),
            _ => actual.is_none(),
        };
        if !matched {
            return Some(false);
        }
    }
    Some(true)
}

/// A core NodeSelector (required node affinity).
pub fn node_selector(selector: &Cursor<'_>, errors: &mut ErrorList) {
    let terms = selector.field("nodeSelectorTerms");
    if terms.is_empty() {
        terms.required(errors, "must have at least one node selector term");
        return;
    }
    for term in terms.items() {
        node_selector_term(&term, true, errors);
    }
}

/// One term; preferred terms accept values that are no label values.
pub fn node_selector_term(term: &Cursor<'_>, check_values: bool, errors: &mut ErrorList) {
    for requirement in term.field("matchExpressions").items() {
        node_selector_requirement(&requirement, check_values, errors);
    }
    for requirement in term.field("matchFields").items() {
        node_field_requirement(&requirement, errors);
    }
}

fn node_selector_requirement(requirement: &Cursor<'_>, check_values: bool, errors: &mut ErrorList) {
    let values = requirement.field("values");
    match requirement.field("operator").str() {
        "In" | "NotIn" => {
            if values.is_empty() {
                values.required(errors, "must be specified when `operator` is 'In' or 'NotIn'");
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                values.forbidden(errors, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
        }
        "Gt" | "Lt" => {
            if values.len() != 1 {
                values.required(errors, "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
        }
        other => errors.invalid_choice(requirement.field("operator").path(), other, "not a valid selector operator"),
    }
    label_key(&requirement.field("key"), errors);
    if check_values {
        for value in values.items() {
            invalid_each(errors, &value.path(), value.str(), names::label_value(value.str()));
        }
    }
}

fn node_field_requirement(requirement: &Cursor<'_>, errors: &mut ErrorList) {
    let values = requirement.field("values");
    match requirement.field("operator").str() {
        "In" | "NotIn" => {
            if values.len() != 1 {
                values.required(
                    errors,
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                );
            }
        }
        other => errors.invalid_choice(requirement.field("operator").path(), other, "not a valid selector operator"),
    }
    let key = requirement.field("key");
    if key.str() != "metadata.name" {
        errors.invalid(key.path(), key.str(), "not a valid field selector key");
        return;
    }
    for value in values.items() {
        invalid_each(errors, &value.path(), value.str(), names::dns1123_subdomain(value.str()));
    }
}

/// `meta/v1` Conditions of a status.
pub fn conditions(list: &Cursor<'_>, errors: &mut ErrorList) {
    let mut seen = Vec::new();
    for condition in list.items() {
        let kind = condition.field("type");
        if seen.contains(&kind.str()) {
            errors.duplicate(kind.path(), kind.str());
        } else {
            seen.push(kind.str());
        }
        meta_condition(&condition, errors);
    }
}

const REASON_MAX_BYTES: usize = 1024;
const MESSAGE_MAX_BYTES: usize = 32 * 1024;

fn meta_condition(condition: &Cursor<'_>, errors: &mut ErrorList) {
    label_key(&condition.field("type"), errors);
    let status = condition.field("status");
    if !matches!(status.str(), "True" | "False" | "Unknown") {
        errors.no_such_choice(status.path(), status.str(), &["False", "True", "Unknown"]);
    }
    let generation = condition.field("observedGeneration");
    if generation.int() < 0 {
        generation.invalid(errors, "must be greater than or equal to zero");
    }
    let time = condition.field("lastTransitionTime");
    if !time.is_set() {
        time.required(errors, "");
    }
    let reason = condition.field("reason");
    if reason.is_empty() {
        reason.required(errors, "");
    } else {
        if !is_condition_reason(reason.str()) {
            reason.invalid(
                errors,
                names::regex_error(
                    "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric \
                     characters or '_,:', and must end with an alphanumeric character or '_'",
                    "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
                    &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
                ),
            );
        }
        if reason.str().len() > REASON_MAX_BYTES {
            errors.too_long(reason.path(), REASON_MAX_BYTES);
        }
    }
    if condition.field("message").str().len() > MESSAGE_MAX_BYTES {
        errors.too_long(condition.field("message").path(), MESSAGE_MAX_BYTES);
    }
}

fn is_condition_reason(reason: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = reason.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(|&b| word(b))
        && bytes.iter().all(|&b| word(b) || matches!(b, b',' | b':'))
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    fn errors_of(value: Value, rule: fn(&Cursor<'_>, &mut ErrorList)) -> Vec<String> {
        let mut errors = ErrorList::new();
        rule(&Cursor::at(&value, Path::new("s")), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn selector_operators_decide_about_values() {
        let value = json!({"matchExpressions": [
            {"key": "a", "operator": "In"}, {"key": "a", "operator": "Exists", "values": ["x"]}, {"key": "a", "operator": "Eq"}]});
        assert_eq!(
            errors_of(value, selector),
            [
                "s.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                "s.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                "s.matchExpressions[2].operator: Invalid value: \"Eq\": not a valid selector operator",
            ]
        );
    }

    #[test]
    fn annotations_have_a_total_size() {
        let value = json!({"a": "x".repeat(ANNOTATIONS_MAX_BYTES)});
        assert_eq!(errors_of(value, annotations), ["s: Too long: may not be more than 262144 bytes"]);
    }

    #[test]
    fn nil_selector_selects_nothing_and_not_in_accepts_absence() {
        let selector = json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]});
        let labels = json!({"c": "d"});
        assert_eq!(selector_matches(&Cursor::root(&selector), &Cursor::root(&labels)), Some(true));
        assert_eq!(selector_matches(&Cursor::root(&Value::Null), &Cursor::root(&labels)), Some(false));
    }
}
