//! Small rules about single fields that many kinds share: ranges, paths, IntOrString, and immutability.

use crate::validate::labels::invalid_each;
use crate::validate::names;
use crate::{Cursor, ErrorList, FieldError, Path, Value, field::ErrorType};

pub const IMMUTABLE: &str = "field is immutable";
pub const NEGATIVE: &str = "must be greater than or equal to 0";
pub const NOT_POSITIVE: &str = "must be greater than zero";

/// The integer, when present, is not negative.
pub fn nonnegative(value: &Cursor<'_>, errors: &mut ErrorList) {
    if value.int() < 0 {
        value.invalid(errors, NEGATIVE);
    }
}

/// The integer fields `names` of `object` are not negative.
pub fn nonnegative_fields(object: &Cursor<'_>, names: &[&str], errors: &mut ErrorList) {
    for name in names {
        nonnegative(&object.field(name), errors);
    }
}

/// The field must be what it was; shows the new value. A field that is a plain text upstream, no choice and no pointer, is
/// [`immutable_text`].
pub fn immutable(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    if !same(new.value(), old.value()) {
        errors.invalid_choice(new.path(), new.value().clone(), IMMUTABLE);
    }
}

/// The plain text must be what it was; shows the new one.
pub fn immutable_text(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    if !same(new.value(), old.value()) {
        new.invalid(errors, IMMUTABLE);
    }
}

/// Deep equality where absent, null, `{}`-less maps and empty lists are one, as in Go's semantic equality.
pub fn same(a: &Value, b: &Value) -> bool {
    let empty = |v: &Value| match v {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    match (a, b) {
        // What was kept as text is the same when the text is.
        (Value::Object(x), Value::Object(y)) if x.written().or(y.written()).is_some() => x == y,
        (Value::Object(x), Value::Object(y)) => {
            x.iter().all(|(k, v)| y.get(k).map_or(empty(v), |w| same(v, w)))
                && y.iter().all(|(k, v)| x.contains_key(k) || empty(v))
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(v, w)| same(v, w)),
        (x, y) if empty(x) && empty(y) => true,
        (x, y) => x == y,
    }
}

/// A required string that must be one of `allowed` (reported in that order).
pub fn required_enum(value: &Cursor<'_>, allowed: &[&str], errors: &mut ErrorList) {
    if value.is_empty() {
        value.required(errors, "");
    } else {
        supported(value, allowed, errors);
    }
}

/// A string that, when present, must be one of `allowed`.
pub fn optional_enum(value: &Cursor<'_>, allowed: &[&str], errors: &mut ErrorList) {
    if value.is_set() {
        supported(value, allowed, errors);
    }
}

/// One of `allowed`, whatever it is.
pub fn supported(value: &Cursor<'_>, allowed: &[&str], errors: &mut ErrorList) {
    if !allowed.contains(&value.str()) {
        errors.no_such_choice(value.path(), value.str(), allowed);
    }
}

/// The same of a field that is a plain text upstream, no enum.
pub fn supported_text(value: &Cursor<'_>, allowed: &[&str], errors: &mut ErrorList) {
    if !allowed.contains(&value.str()) {
        errors.not_supported(value.path(), value.str(), allowed);
    }
}

/// A string checked by a name format; shows the string.
pub fn formatted(value: &Cursor<'_>, format: fn(&str) -> names::Messages, errors: &mut ErrorList) {
    invalid_each(errors, &value.path(), value.str(), format(value.str()));
}

/// As [`formatted`], when not empty.
pub fn formatted_if_set(value: &Cursor<'_>, format: fn(&str) -> names::Messages, errors: &mut ErrorList) {
    if !value.is_empty() {
        formatted(value, format, errors);
    }
}

/// As [`formatted`], also when empty, but not when absent.
pub fn formatted_if_present(value: &Cursor<'_>, format: fn(&str) -> names::Messages, errors: &mut ErrorList) {
    if value.is_set() {
        formatted(value, format, errors);
    }
}

/// Required, then checked by a name format.
pub fn required_formatted(value: &Cursor<'_>, format: fn(&str) -> names::Messages, errors: &mut ErrorList) {
    if value.is_empty() {
        value.required(errors, "");
    } else {
        formatted(value, format, errors);
    }
}

/// A port given as number or name.
pub fn port_number_or_name(port: &Cursor<'_>, errors: &mut ErrorList) {
    match port.value() {
        Value::String(name) => invalid_each(errors, &port.path(), name, names::port_name(name)),
        _ => {
            for message in names::port_number(port.int()) {
                errors.invalid(port.path(), port.int(), message);
            }
        }
    }
}

pub fn port_number(port: &Cursor<'_>, errors: &mut ErrorList) {
    for message in names::port_number(port.int()) {
        errors.invalid(port.path(), port.int(), message);
    }
}

/// Duplicate with an explanation, which plain duplicates do not have.
pub fn duplicate_because(errors: &mut ErrorList, path: Path, value: impl Into<Value>, detail: &str) {
    errors.push(FieldError {
        error_type: ErrorType::Duplicate,
        path,
        bad_value: value.into(),
        detail: detail.to_owned(),
    });
}

/// NotFound with an explanation.
pub fn not_found_because(errors: &mut ErrorList, path: Path, value: impl Into<Value>, detail: String) {
    errors.push(FieldError { error_type: ErrorType::NotFound, path, bad_value: value.into(), detail });
}

/// Required naming something other than a lone field.
pub fn required(errors: &mut ErrorList, path: Path, detail: &str) {
    errors.required(path, detail);
}

/// A path that stays below where it starts: relative, without `..` elements.
pub fn local_descending_path(value: &Cursor<'_>, errors: &mut ErrorList) {
    local_descending_path_at(value.str(), &value.path(), errors);
}

pub fn local_descending_path_at(text: &str, path: &Path, errors: &mut ErrorList) {
    if text.starts_with('/') {
        errors.invalid(path.clone(), text, "must be a relative path");
    }
    path_no_backsteps_at(text, path, errors);
}

/// No `..` element.
pub fn path_no_backsteps(value: &Cursor<'_>, errors: &mut ErrorList) {
    path_no_backsteps_at(value.str(), &value.path(), errors);
}

fn path_no_backsteps_at(text: &str, path: &Path, errors: &mut ErrorList) {
    if has_backsteps(text) {
        errors.invalid(path.clone(), text, "must not contain '..'");
    }
}

pub fn has_backsteps(text: &str) -> bool {
    text.split('/').any(|part| part == "..")
}

/// As [`local_descending_path`], and not starting with `..` at all (kubelet keeps such names for itself).
pub fn local_non_reserved_path(text: &str, path: &Path, errors: &mut ErrorList) {
    local_descending_path_at(text, path, errors);
    if text.starts_with("..") && !text.starts_with("../") {
        errors.invalid(path.clone(), text, "must not start with '..'");
    }
}

/// An IntOrString that is a number >= 0 or a percentage.
pub fn positive_int_or_percent(value: &Cursor<'_>, errors: &mut ErrorList) {
    match value.value() {
        Value::String(text) => {
            for message in names::percent(text) {
                errors.invalid_choice(value.path(), text.as_str(), message);
            }
        }
        _ => nonnegative(value, errors),
    }
}

/// A percentage may not exceed 100.
pub fn at_most_100_percent(value: &Cursor<'_>, errors: &mut ErrorList) {
    if percent_of(value).is_some_and(|percent| percent > 100) {
        value.invalid(errors, "must not be greater than 100%");
    }
}

/// The number of a well-formed percentage.
pub fn percent_of(value: &Cursor<'_>) -> Option<i64> {
    let text = value.value().as_str()?;
    if !names::percent(text).is_empty() {
        return None;
    }
    text.strip_suffix('%')?.parse().ok()
}

/// The number of an IntOrString, of a percentage its number; 0 when unreadable.
pub fn int_or_percent(value: &Cursor<'_>) -> i64 {
    value.opt_int().or_else(|| percent_of(value)).unwrap_or(0)
}

/// `host/path`, both parts non-empty; the whole string or part at fault is shown.
pub fn domain_prefixed_path(value: &Cursor<'_>, errors: &mut ErrorList) {
    let text = value.str();
    if text.is_empty() {
        value.required(errors, "");
        return;
    }
    let (host, path) = text.split_once('/').unwrap_or(("", ""));
    if host.is_empty() || path.is_empty() {
        errors.invalid(value.path(), text, "must be a domain-prefixed path (such as \"acme.io/foo\")");
        return;
    }
    invalid_each(errors, &value.path(), host, names::dns1123_subdomain(host));
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        let message = names::regex_error("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[]);
        errors.invalid(value.path(), path, message);
    }
}

/// `domain/name`, where both are the parts of a qualified name.
pub fn domain_prefixed_key(value: &Cursor<'_>, errors: &mut ErrorList) {
    if value.is_empty() {
        value.required(errors, "");
        return;
    }
    let messages = names::qualified_name(value.str());
    if !messages.is_empty() {
        invalid_each(errors, &value.path(), value.str(), messages);
    } else if !value.str().contains('/') {
        value.invalid(errors, "must be a domain-prefixed key (such as \"acme.io/foo\")");
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn semantic_equality_ignores_empty_lists_and_nulls() {
        assert!(same(&json!({"a": [], "b": 1}), &json!({"b": 1, "c": null})));
        assert!(!same(&json!({"a": [1]}), &json!({})));
        assert!(!same(&json!({"a": {}}), &json!({})), "a set pointer differs from nil");
    }

    #[test]
    fn reserved_paths_are_named_once() {
        let mut errors = ErrorList::new();
        local_non_reserved_path("../b", &Path::new("p"), &mut errors);
        local_non_reserved_path("..b", &Path::new("p"), &mut errors);
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "p: Invalid value: \"../b\": must not contain '..'",
                "p: Invalid value: \"..b\": must not start with '..'"
            ]
        );
    }
}
