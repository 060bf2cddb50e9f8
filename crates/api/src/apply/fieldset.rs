//! The field set of an applied configuration, and whether the configuration fits the schema.

use std::collections::BTreeSet;

use super::element::Element;
use super::node::{Atom, Items, Node, Scalar, entries, items};
use super::set::{Level, Set};
use crate::{Value, gojson};

/// Every field that a value sets: leaves, atomic parts, list items, map entries.
pub(super) fn field_set(node: Node<'_>, value: &Value) -> Set {
    // The empty path stands for the object and is in no set.
    collect(node, value).1
}

/// Whether a value is a field of the set itself, and what is below it.
fn collect(node: Node<'_>, value: &Value) -> (bool, Set) {
    let atom = node.atom(Some(value));
    if atom.is_atomic() {
        return (true, Set::new());
    }
    let mut parts = Level::default();
    match &atom {
        Atom::Scalar(_) => return (true, Set::new()),
        Atom::List { element, items: kind } => {
            let list = items(Some(value));
            let steps = element.steps(*kind, list);
            for (at, step) in steps.firsts() {
                let Some(own) = step else { continue };
                let below = if steps.is_repeated(step) { Set::new() } else { collect(*element, &list[at]).1 };
                parts.put(own, true, below);
            }
        }
        Atom::Map { .. } => {
            for (name, entry) in entries(Some(value)).into_iter().flatten() {
                let Some(below) = atom.field(node, name) else { continue };
                let (member, below) = collect(below, entry);
                let empty = entry.is_null() || entry.as_object().is_some_and(crate::Map::is_empty);
                parts.put(&Element::field(name), member || empty || !atom.is_struct_field(name), below);
            }
        }
    }
    (false, parts.into_set())
}

/// What the schema has against a configuration, in upstream's words: `.spec.x: field not declared in schema`.
pub(super) fn check(node: Node<'_>, value: &Value) -> Result<(), String> {
    let mut errors = Vec::new();
    visit(node, value, &mut String::new(), &mut errors);
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(format!("errors:\n  {}", errors.join("\n  "))),
    }
}

fn visit(node: Node<'_>, value: &Value, path: &mut String, errors: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    let atom = node.atom(Some(value));
    match &atom {
        Atom::Scalar(scalar) => {
            if let Some(text) = wrong_scalar(*scalar, value) {
                refuse(errors, path, text);
            }
        }
        Atom::List { element, items: kind } => {
            let Some(list) = value.as_array() else {
                return refuse(errors, path, format!("expected list, got &{{{}}}", gojson::print(value)));
            };
            let mut seen = BTreeSet::new();
            for (index, item) in list.iter().enumerate() {
                let step = match kind {
                    Items::Atomic => format!("[{index}]"),
                    kind => match element.item(*kind, item) {
                        Err(text) => return refuse(errors, path, format!("element {index}: {text}")),
                        Ok(step) => {
                            let printed = step.to_string();
                            if !seen.insert(step) {
                                refuse(errors, path, format!("duplicate entries for key {printed}"));
                            }
                            printed
                        }
                    },
                };
                below(*element, item, path, &step, errors);
            }
        }
        Atom::Map { .. } => {
            let Some(map) = value.as_object() else {
                return refuse(errors, path, format!("expected map, got &{{{}}}", gojson::print(value)));
            };
            for (name, entry) in map {
                match atom.field(node, name) {
                    Some(node) => below(node, entry, path, &format!(".{name}"), errors),
                    None => {
                        errors.push(format!("{path}.{name}: field not declared in schema"));
                        // One such field of an object is enough.
                        return;
                    }
                }
            }
        }
    }
}

fn refuse(errors: &mut Vec<String>, path: &str, text: String) {
    errors.push(if path.is_empty() { text } else { format!("{path}: {text}") });
}

fn below(node: Node<'_>, value: &Value, path: &mut String, step: &str, errors: &mut Vec<String>) {
    let length = path.len();
    path.push_str(step);
    visit(node, value, path, errors);
    path.truncate(length);
}

fn wrong_scalar(scalar: Scalar, value: &Value) -> Option<String> {
    let unstructured = || format!("&value.valueUnstructured{{Value:{}}}", go_syntax(value));
    match scalar {
        Scalar::String if !value.is_string() => Some(format!("expected string, got {}", unstructured())),
        Scalar::Numeric if !value.is_number() => {
            Some(format!("expected numeric (int or float), got {}", go_type(value)))
        }
        Scalar::Boolean if !value.is_boolean() => Some(format!("expected boolean, got &{{{}}}", gojson::print(value))),
        Scalar::Any if value.is_object() || value.is_array() => {
            Some(format!("expected any scalar, got &{{{}}}", gojson::print(value)))
        }
        _ => None,
    }
}

/// Go's `%T`.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Go's `%#v`.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".into(),
        Value::String(text) => crate::field::go_quote(text),
        Value::Array(list) => {
            format!("[]interface {{}}{{{}}}", list.iter().map(go_syntax).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let mut entries: Vec<_> =
                map.iter().map(|(k, v)| format!("{}:{}", crate::field::go_quote(k), go_syntax(v))).collect();
            entries.sort();
            format!("map[string]interface {{}}{{{}}}", entries.join(", "))
        }
        other => other.to_string(),
    }
}
