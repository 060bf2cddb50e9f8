//! Reading an object for its row: values by JSON pointer, and the texts that many kinds share.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::{Value, quantity, selector::LabelSelector, time};

/// What is shown for something that is not there.
pub(super) const NONE: &str = "<none>";
pub(super) const UNSET: &str = "<unset>";
pub(super) const UNKNOWN: &str = "<unknown>";

/// An object and the time its ages are relative to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub(super) object: &'a Value,
    pub(super) now: Timestamp,
}

impl<'a> Row<'a> {
    /// A part of the object at the same time.
    pub(super) fn at(&self, object: &'a Value) -> Row<'a> {
        Row { object, now: self.now }
    }

    pub(super) fn get(&self, pointer: &str) -> Option<&'a Value> {
        self.object.pointer(pointer).filter(|v| !v.is_null())
    }

    pub(super) fn has(&self, pointer: &str) -> bool {
        self.get(pointer).is_some()
    }

    /// The string there, or the empty string.
    pub(super) fn str(&self, pointer: &str) -> &'a str {
        self.get(pointer).and_then(Value::as_str).unwrap_or("")
    }

    pub(super) fn text(&self, pointer: &str) -> Value {
        self.str(pointer).into()
    }

    /// The string there, or `default` when it is empty.
    pub(super) fn text_or(&self, pointer: &str, default: &str) -> Value {
        match self.str(pointer) {
            "" => default.into(),
            text => text.into(),
        }
    }

    /// The integer there, or 0.
    pub(super) fn int(&self, pointer: &str) -> i64 {
        self.get(pointer).and_then(Value::as_i64).unwrap_or(0)
    }

    pub(super) fn bool_or(&self, pointer: &str, default: bool) -> Value {
        self.get(pointer).and_then(Value::as_bool).unwrap_or(default).into()
    }

    pub(super) fn items(&self, pointer: &str) -> impl DoubleEndedIterator<Item = Row<'a>> + ExactSizeIterator {
        let items = self.get(pointer).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let now = self.now;
        items.iter().map(move |object| Row { object, now })
    }

    pub(super) fn entries(&self, pointer: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.get(pointer).and_then(Value::as_object).into_iter().flatten().map(|(k, v)| (k.as_str(), v))
    }

    /// Number of items of a list or entries of a map.
    pub(super) fn count(&self, pointer: &str) -> usize {
        match self.get(pointer) {
            Some(Value::Array(items)) => items.len(),
            Some(Value::Object(map)) => map.len(),
            _ => 0,
        }
    }

    /// Strings of a list, joined.
    pub(super) fn joined(&self, pointer: &str, separator: &str) -> String {
        self.items(pointer).filter_map(|item| item.object.as_str()).collect::<Vec<_>>().join(separator)
    }

    pub(super) fn name(&self) -> Value {
        self.text("/metadata/name")
    }

    /// How long ago the object was created.
    pub(super) fn age(&self) -> Value {
        self.since("/metadata/creationTimestamp").into()
    }

    /// How long ago the time there was, or `<unknown>`.
    pub(super) fn since(&self, pointer: &str) -> String {
        time::age(self.str(pointer), self.now)
    }

    pub(super) fn is_being_deleted(&self) -> bool {
        self.has("/metadata/deletionTimestamp")
    }

    /// Status of a condition, or `None` when there is none of that type.
    pub(super) fn condition(&self, condition_type: &str) -> Option<Row<'a>> {
        self.items("/status/conditions").find(|c| c.str("/type") == condition_type)
    }

    /// Names and images of the containers of a pod spec.
    pub(super) fn containers(&self, pointer: &str) -> [Value; 2] {
        let all = |field: &str| {
            let parts: Vec<&str> = self.items(pointer).map(|c| c.str(field)).collect();
            Value::from(parts.join(","))
        };
        [all("/name"), all("/image")]
    }

    /// A map of labels as `a=b,c=d`, sorted, or `<none>`.
    pub(super) fn labels(&self, pointer: &str) -> Value {
        let parts: BTreeSet<String> =
            self.entries(pointer).map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
        if parts.is_empty() { NONE.into() } else { parts.into_iter().collect::<Vec<_>>().join(",").into() }
    }

    /// A label selector object as text, `<none>` when it selects by nothing.
    pub(super) fn selector(&self, pointer: &str) -> Value {
        match LabelSelector::from_object(self.get(pointer).unwrap_or(&Value::Null)) {
            Ok(selector) if selector.requirements().is_empty() => NONE.into(),
            Ok(selector) => selector.to_string().into(),
            Err(_) => "<error>".into(),
        }
    }

    /// A quantity in canonical form; absent is `0`.
    pub(super) fn quantity(&self, pointer: &str) -> String {
        self.get(pointer).and_then(|v| quantity::canonicalize(v).ok()).unwrap_or_else(|| "0".to_owned())
    }

    /// A string or a number as text; `default` when absent.
    pub(super) fn int_or_string(&self, pointer: &str, default: &str) -> Value {
        match self.get(pointer) {
            Some(Value::String(text)) => text.as_str().into(),
            Some(other) => other.to_string().into(),
            None => default.into(),
        }
    }
}

/// The first `max` items joined, and how many more there are.
pub(super) fn list_with_more(shown: &[String], count: usize, max: usize) -> String {
    let text = shown.join(",");
    if count > max { format!("{text} + {} more...", count - max) } else { text }
}
