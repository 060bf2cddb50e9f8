//! What a real server said of objects that are wrong in one place, kind by kind: the same is said here, in the same order.
//!
//! `validation.tsv` holds a line `=`, path of the collection, valid object for each object that is changed, and below it a line
//! for each change: where (a JSON pointer), what is put there (nothing: it is removed), and one cell for each error. `status.tsv`
//! holds statuses likewise: below each object as it is created, what is written to its status, and one cell for each error.
//! `update.tsv` holds changes of objects that are stored, as `validation.tsv` those of new ones.

mod write;

use api::codec::{self, FieldValidation, Format};
use api::kinds::builtin;
use api::{ErrorList, Kind, Value};

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

/// Says what `ours` says of each row, given the object above it and the row's first `n` cells; the others are what a real server said.
fn said_alike(rows: &str, n: usize, ours: impl Fn(&Base, &[&str]) -> Vec<String>) {
    let mut current = None;
    let mut different = Vec::new();
    for (index, line) in rows.lines().enumerate() {
        if let Some(text) = line.strip_prefix("=\t") {
            current = Some(base(text));
            continue;
        }
        let base = current.as_ref().expect("an object above its rows");
        let cells: Vec<&str> = line.split('\t').collect();
        assert!(cells.len() >= n, "line {}: {line}", index + 1);
        let (given, theirs) = cells.split_at(n);
        let ours = ours(base, given);
        if ours != theirs {
            let (kind, at) = (&base.kind.kind, given[0]);
            different.push(format!("{}: {kind} {at}\n   ours {ours:#?}\n   them {theirs:#?}", index + 1));
        }
    }
    assert!(different.is_empty(), "{} rows differ\n{}", different.len(), different.join("\n"));
}

/// Errors as the cells have them.
fn texts(errors: &ErrorList) -> Vec<String> {
    errors.iter().map(|error| error.to_string().replace(['\t', '\n'], " ")).collect()
}

fn answered(answer: Result<(Value, ErrorList), String>) -> Vec<String> {
    answer.map_or_else(|message| vec![message], |(_, errors)| texts(&errors))
}

fn decoded(kind: &Kind, object: &Value) -> Value {
    let decoded = codec::decode(object.to_string().as_bytes(), Format::Json, kind, FieldValidation::Ignore);
    decoded.expect("an object of the kind").value
}

#[test]
fn what_is_wrong_in_one_place_is_told_as_recorded() {
    said_alike(include_str!("validation.tsv"), 2, |Base { kind, object }, cells| {
        answered(write::checked(kind, &changed(object, cells[0], cells[1]).to_string(), "d"))
    });
}

#[test]
fn what_may_not_change_is_told_as_recorded() {
    said_alike(include_str!("update.tsv"), 2, |Base { kind, object }, cells| {
        answered(write::updated(kind, &changed(object, cells[0], cells[1]).to_string(), &decoded(kind, object)))
    });
}

/// Statuses are written to the object as it was created.
#[test]
fn what_is_wrong_in_a_status_is_told_as_recorded() {
    said_alike(include_str!("status.tsv"), 1, |Base { kind, object }, cells| {
        let rule = kind.strategy.subresource("status").expect("rules for the status");
        let (mut old, errors) = write::checked(kind, &object.to_string(), "d").expect("an object");
        assert!(errors.is_empty(), "{errors:?}");
        old["metadata"]["resourceVersion"] = "1".into();
        let mut body = old.clone();
        body["status"] = serde_json::from_str(cells[0]).expect("a status");
        texts(&write::part_checked(kind, rule, decoded(kind, &body), &old).1)
    });
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
