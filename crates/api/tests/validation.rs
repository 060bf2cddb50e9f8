//! What a real server said of objects that are wrong in one place, kind by kind: the same is said here, in the same order.
//!
//! `validation.tsv` holds a line `=`, path of the collection, valid object for each object that is changed, and below it a line
//! for each change: where (a JSON pointer), what is put there (nothing: it is removed), and one cell for each error. `status.tsv`
//! holds statuses likewise: below each object as it is created, what is written to its status, and one cell for each error.
//! `update.tsv` holds changes of objects that are stored, as `validation.tsv` those of new ones.

mod write;

use api::codec::{self, FieldValidation, Format};
use api::kinds::builtin;
use api::{Kind, Value};

struct Base {
    kind: &'static Kind,
    object: Value,
}

fn base(text: &str) -> Base {
    let (path, object) = text.split_once('\t').expect("a path and an object");
    let object = serde_json::from_str(object).expect("an object");
    Base { kind: write::kind_of(path).expect("a built-in kind"), object }
}

fn changed(object: &Value, pointer: &str, value: &str) -> Value {
    let mut changed = object.clone();
    let (parent, last) = pointer.rsplit_once('/').expect("a pointer");
    let last = last.replace("~1", "/").replace("~0", "~");
    let parent = changed.pointer_mut(parent).expect("a place");
    match parent {
        Value::Object(fields) if value.is_empty() => {
            fields.remove(&last);
        }
        Value::Object(fields) => {
            fields.insert(last, serde_json::from_str::<Value>(value).expect("a value"));
        }
        place => {
            let index: usize = last.parse().expect("an index");
            *place.get_mut(index).expect("an item") = serde_json::from_str(value).expect("a value");
        }
    }
    changed
}

#[test]
fn what_is_wrong_in_one_place_is_told_as_recorded() {
    let mut current = None;
    let mut different = Vec::new();
    for (index, line) in include_str!("validation.tsv").lines().enumerate() {
        if let Some(text) = line.strip_prefix("=\t") {
            current = Some(base(text));
            continue;
        }
        let Base { kind, object } = current.as_ref().expect("an object above its changes");
        let mut cells = line.split('\t');
        let (Some(pointer), Some(value)) = (cells.next(), cells.next()) else { panic!("line {}: {line}", index + 1) };
        let body = changed(object, pointer, value).to_string();
        let ours: Vec<String> = match write::checked(kind, &body, "d") {
            Ok((_, errors)) => errors.iter().map(|error| error.to_string().replace(['\t', '\n'], " ")).collect(),
            Err(message) => vec![message],
        };
        let theirs: Vec<&str> = cells.collect();
        if ours != theirs {
            different.push(format!("{}: {} {pointer}\n   ours {ours:#?}\n   them {theirs:#?}", index + 1, kind.kind));
        }
    }
    assert!(different.is_empty(), "{} rows differ\n{}", different.len(), different.join("\n"));
}

/// What is said of a status, written to the object as it was created.
fn status_errors(kind: &Kind, object: &Value, status: &str) -> Vec<String> {
    let rule = kind.strategy.subresource("status").expect("rules for the status");
    let (mut old, errors) = write::checked(kind, &object.to_string(), "d").expect("an object");
    assert!(errors.is_empty(), "{errors:?}");
    old["metadata"]["resourceVersion"] = "1".into();
    let mut body = old.clone();
    body["status"] = serde_json::from_str(status).expect("a status");
    let decoded = codec::decode(body.to_string().as_bytes(), Format::Json, kind, FieldValidation::Ignore);
    let new = decoded.expect("an object of the kind").value;
    let (_, errors) = write::part_checked(kind, rule, new, &old);
    errors.iter().map(|error| error.to_string().replace(['\t', '\n'], " ")).collect()
}

#[test]
fn what_is_wrong_in_a_status_is_told_as_recorded() {
    let mut current = None;
    let mut different = Vec::new();
    for (index, line) in include_str!("status.tsv").lines().enumerate() {
        if let Some(text) = line.strip_prefix("=\t") {
            current = Some(base(text));
            continue;
        }
        let Base { kind, object } = current.as_ref().expect("an object above its statuses");
        let (status, theirs) = line.split_once('\t').expect("a status and its errors");
        let theirs: Vec<&str> = theirs.split('\t').collect();
        let ours = status_errors(kind, object, status);
        if ours != theirs {
            different.push(format!("{}: {} {status}\n   ours {ours:#?}\n   them {theirs:#?}", index + 1, kind.kind));
        }
    }
    assert!(different.is_empty(), "{} rows differ\n{}", different.len(), different.join("\n"));
}

#[test]
fn what_may_not_change_is_told_as_recorded() {
    let mut current = None;
    let mut different = Vec::new();
    for (index, line) in include_str!("update.tsv").lines().enumerate() {
        if let Some(text) = line.strip_prefix("=\t") {
            current = Some(base(text));
            continue;
        }
        let Base { kind, object } = current.as_ref().expect("an object above its changes");
        let mut cells = line.split('\t');
        let (Some(pointer), Some(value)) = (cells.next(), cells.next()) else { panic!("line {}: {line}", index + 1) };
        let old = codec::decode(object.to_string().as_bytes(), Format::Json, *kind, FieldValidation::Ignore);
        let old = old.expect("a stored object").value;
        let ours: Vec<String> = match write::updated(kind, &changed(object, pointer, value).to_string(), &old) {
            Ok((_, errors)) => errors.iter().map(|error| error.to_string().replace(['\t', '\n'], " ")).collect(),
            Err(message) => vec![message],
        };
        let theirs: Vec<&str> = cells.collect();
        if ours != theirs {
            different.push(format!("{}: {} {pointer}\n   ours {ours:#?}\n   them {theirs:#?}", index + 1, kind.kind));
        }
    }
    assert!(different.is_empty(), "{} rows differ\n{}", different.len(), different.join("\n"));
}

#[test]
fn every_kind_that_is_stored_has_rows() {
    let rows = include_str!("validation.tsv");
    let named: Vec<&Kind> =
        rows.lines().filter_map(|line| line.strip_prefix("=\t")).map(|text| base(text).kind).collect();
    for kind in builtin().kinds().iter().filter(|kind| kind.is_stored()) {
        let has = named.iter().any(|other| other.kind == kind.kind && other.group == kind.group);
        assert!(has, "{} {}", kind.group, kind.kind);
    }
}
