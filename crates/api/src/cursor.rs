//! A read-only position in an object that knows its own path, so that a validation rule never spells a path twice.

use crate::Value;

use crate::{ErrorList, Map, Path};

static NULL: Value = Value::Null;

/// A value (possibly absent) at a path. Absent and `null` read alike, as a nil pointer or zero value does in Go.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    value: &'a Value,
    path: Path,
}

impl<'a> Cursor<'a> {
    /// The whole object.
    pub fn root(value: &'a Value) -> Self {
        Self { value, path: Path::root() }
    }

    /// `value` found elsewhere, reported at `path` (e.g. a pod template checked as a pod).
    pub fn at(value: &'a Value, path: Path) -> Self {
        Self { value, path }
    }

    pub fn path(&self) -> Path {
        self.path.clone()
    }

    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// Field `name` of an object; an absent cursor when there is none.
    pub fn field(&self, name: &str) -> Cursor<'a> {
        Cursor { value: self.value.get(name).unwrap_or(&NULL), path: self.path.child(name) }
    }

    /// The same value of a sibling document at `pointer`-like steps: `c.at_fields(&["spec", "replicas"])`.
    pub fn fields(&self, names: &[&str]) -> Cursor<'a> {
        names.iter().fold(self.clone(), |c, name| c.field(name))
    }

    /// Item `index` of a list; absent when out of range.
    pub fn index(&self, index: usize) -> Cursor<'a> {
        Cursor { value: self.value.get(index).unwrap_or(&NULL), path: self.path.index(index) }
    }

    /// Entry `key` of a map, with the path `map[key]`.
    pub fn key(&self, key: &str) -> Cursor<'a> {
        Cursor { value: self.value.get(key).unwrap_or(&NULL), path: self.path.key(key) }
    }

    /// Items of a list, each with its index in the path; empty for anything else.
    pub fn items(&self) -> impl Iterator<Item = Cursor<'a>> + '_ {
        let list: &'a [Value] = self.value.as_array().map_or(&[], Vec::as_slice);
        list.iter().enumerate().map(|(i, value)| Cursor { value, path: self.path.index(i) })
    }

    /// Entries of a map in stored order, each with the path `map[key]`; empty for anything else.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Cursor<'a>)> + '_ {
        let map: Option<&'a Map> = self.value.as_object();
        map.into_iter().flatten().map(|(k, value)| (k.as_str(), Cursor { value, path: self.path.key(k) }))
    }

    /// Present and not null.
    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// The string, or `""` when absent.
    pub fn str(&self) -> &'a str {
        self.value.as_str().unwrap_or("")
    }

    /// The integer, or 0 when absent.
    pub fn int(&self) -> i64 {
        self.value.as_i64().unwrap_or(0)
    }

    /// The integer, when present.
    pub fn opt_int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// The boolean, or false when absent.
    pub fn bool(&self) -> bool {
        self.value.as_bool().unwrap_or(false)
    }

    /// Number of items of a list or entries of a map; 0 for anything else.
    pub fn len(&self) -> usize {
        match self.value {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        }
    }

    /// No items, no entries, no text, or absent.
    pub fn is_empty(&self) -> bool {
        match self.value {
            Value::String(s) => s.is_empty(),
            Value::Null => true,
            Value::Array(_) | Value::Object(_) => self.len() == 0,
            _ => false,
        }
    }

    pub fn required(&self, errors: &mut ErrorList, detail: &str) {
        errors.required(self.path(), detail);
    }

    pub fn invalid(&self, errors: &mut ErrorList, detail: impl Into<String>) {
        errors.invalid(self.path(), self.value.clone(), detail);
    }

    pub fn forbidden(&self, errors: &mut ErrorList, detail: impl Into<String>) {
        errors.forbidden(self.path(), detail);
    }

    pub fn duplicate(&self, errors: &mut ErrorList) {
        errors.duplicate(self.path(), self.value.clone());
    }

    pub fn not_supported(&self, errors: &mut ErrorList, supported: &[&str]) {
        errors.not_supported(self.path(), self.value.clone(), supported);
    }

    /// The same of a field that upstream gave a type of its own.
    pub fn no_such_choice(&self, errors: &mut ErrorList, supported: &[&str]) {
        errors.no_such_choice(self.path(), self.value.clone(), supported);
    }
}
