//! The schema of a custom resource as a tree, made for walking beside a value. Source: `apiextensions-apiserver`
//! `pkg/apiserver/schema`.

use std::sync::OnceLock;

use regex::Regex;

use crate::schema::ListType;
use crate::{Map, Value};

/// JSON types as bits, with the names that schemas and messages use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Types(u8);

const TYPES: [(&str, u8); 6] =
    [("array", 1), ("boolean", 2), ("integer", 4), ("number", 8), ("object", 16), ("string", 32)];

impl Types {
    pub(super) const ARRAY: Types = Types(1);
    pub(super) const BOOLEAN: Types = Types(2);
    pub(super) const INTEGER: Types = Types(4);
    pub(super) const NUMBER: Types = Types(8);
    pub(super) const OBJECT: Types = Types(16);
    pub(super) const STRING: Types = Types(32);
    const INT_OR_STRING: Types = Types(4 | 32);

    fn named(name: &str) -> Types {
        TYPES.iter().find(|(known, _)| *known == name).map_or(Types(0), |(_, bit)| Types(*bit))
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn has(self, other: Types) -> bool {
        self.0 & other.0 != 0
    }

    /// The name of a single type.
    pub(super) fn name(self) -> &'static str {
        TYPES.iter().find(|(_, bit)| *bit == self.0).map_or("", |(name, _)| name)
    }

    /// `integer,string`.
    pub(super) fn text(self) -> String {
        let names: Vec<&str> = TYPES.iter().filter(|(_, bit)| self.0 & bit != 0).map(|(name, _)| *name).collect();
        names.join(",")
    }

    /// The type of a value and its Go format; `None` for null.
    pub(super) fn of(value: &Value) -> Option<(Types, &'static str)> {
        Some(match value {
            Value::Null => return None,
            Value::Bool(_) => (Types(2), ""),
            Value::Number(n) if n.is_i64() => (Types::INTEGER, "int64"),
            Value::Number(_) => (Types::NUMBER, "float64"),
            Value::String(_) => (Types::STRING, ""),
            Value::Array(_) => (Types::ARRAY, ""),
            Value::Object(_) => (Types::OBJECT, ""),
        })
    }
}

/// One schema. Of the logical parts (`allOf`, `not`, …) only what restricts values is set.
#[derive(Debug, Default)]
pub(super) struct Structural {
    /// Empty when undeclared.
    pub(super) types: Types,
    pub(super) nullable: bool,
    pub(super) default: Option<Value>,
    /// Sorted by name.
    pub(super) properties: Box<[(Box<str>, Structural)]>,
    pub(super) items: Option<Box<Structural>>,
    pub(super) additional: Option<Additional>,
    pub(super) preserves_unknown: bool,
    pub(super) is_embedded: bool,
    pub(super) is_int_or_string: bool,
    pub(super) list_type: Option<ListType>,
    pub(super) list_map_keys: Box<[Box<str>]>,
    pub(super) is_atomic_map: bool,
    pub(super) limits: Option<Box<Limits>>,
}

/// `additionalProperties`.
#[derive(Debug)]
pub(super) enum Additional {
    Any(bool),
    Schema(Box<Structural>),
}

/// What restricts values beyond their type.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) maximum: Option<f64>,
    pub(super) exclusive_maximum: bool,
    pub(super) minimum: Option<f64>,
    pub(super) exclusive_minimum: bool,
    pub(super) multiple_of: Option<f64>,
    pub(super) max_length: Option<u64>,
    pub(super) min_length: Option<u64>,
    pub(super) max_items: Option<u64>,
    pub(super) min_items: Option<u64>,
    pub(super) unique_items: bool,
    pub(super) max_properties: Option<u64>,
    pub(super) min_properties: Option<u64>,
    pub(super) required: Vec<String>,
    pub(super) enumeration: Vec<Value>,
    /// As declared; dashes are part of messages.
    pub(super) format: String,
    pub(super) pattern: Option<Pattern>,
    pub(super) all_of: Vec<Structural>,
    pub(super) any_of: Vec<Structural>,
    pub(super) one_of: Vec<Structural>,
    pub(super) not: Option<Structural>,
}

/// A regular expression, compiled when first used.
#[derive(Debug)]
pub(super) struct Pattern {
    pub(super) text: String,
    regex: OnceLock<Option<Regex>>,
}

impl Pattern {
    /// `None` when the pattern is no regular expression; creation of the definition refuses those.
    pub(super) fn regex(&self) -> Option<&Regex> {
        self.regex.get_or_init(|| Regex::new(&self.text).ok()).as_ref()
    }
}

impl Structural {
    /// From an `openAPIV3Schema`.
    pub(super) fn new(schema: &Value) -> Self {
        let Some(fields) = schema.as_object() else { return Self::default() };
        let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or("");
        let flag = |name: &str| fields.get(name).and_then(Value::as_bool).unwrap_or(false);
        let list = |name: &str| fields.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let is_int_or_string = flag("x-kubernetes-int-or-string");
        let mut properties: Vec<(Box<str>, Structural)> = fields
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(name, schema)| (name.as_str().into(), Structural::new(schema)))
            .collect();
        properties.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self {
            types: if is_int_or_string { Types::INT_OR_STRING } else { Types::named(text("type")) },
            nullable: flag("nullable"),
            default: fields.get("default").filter(|d| !d.is_null()).cloned(),
            properties: properties.into(),
            items: fields.get("items").filter(|i| i.is_object()).map(|i| Box::new(Structural::new(i))),
            additional: match fields.get("additionalProperties") {
                Some(Value::Bool(allows)) => Some(Additional::Any(*allows)),
                Some(schema @ Value::Object(_)) => Some(Additional::Schema(Box::new(Structural::new(schema)))),
                _ => None,
            },
            preserves_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            is_embedded: flag("x-kubernetes-embedded-resource"),
            is_int_or_string,
            list_type: match text("x-kubernetes-list-type") {
                "set" => Some(ListType::Set),
                "map" => Some(ListType::Map),
                "atomic" => Some(ListType::Atomic),
                _ => None,
            },
            list_map_keys: list("x-kubernetes-list-map-keys")
                .iter()
                .filter_map(|key| Some(key.as_str()?.into()))
                .collect(),
            is_atomic_map: text("x-kubernetes-map-type") == "atomic",
            limits: Limits::new(fields),
        }
    }

    pub(super) fn property(&self, name: &str) -> Option<&Structural> {
        let at = self.properties.binary_search_by(|(known, _)| known.as_ref().cmp(name)).ok()?;
        Some(&self.properties[at].1)
    }

    /// The schema of a field: its own, or that of entries without one. `Err`: nothing is known of such a field.
    pub(super) fn field(&self, name: &str) -> Result<Option<&Structural>, Unknown> {
        match (self.property(name), &self.additional) {
            (Some(property), _) => Ok(Some(property)),
            (None, Some(Additional::Schema(schema))) => Ok(Some(schema)),
            (None, Some(Additional::Any(_))) => Ok(None),
            (None, None) => Err(Unknown),
        }
    }
}

/// A field that no schema describes.
pub(super) struct Unknown;

impl Limits {
    /// No limits at all.
    pub(super) const NONE: Limits = Limits {
        maximum: None,
        exclusive_maximum: false,
        minimum: None,
        exclusive_minimum: false,
        multiple_of: None,
        max_length: None,
        min_length: None,
        max_items: None,
        min_items: None,
        unique_items: false,
        max_properties: None,
        min_properties: None,
        required: Vec::new(),
        enumeration: Vec::new(),
        format: String::new(),
        pattern: None,
        all_of: Vec::new(),
        any_of: Vec::new(),
        one_of: Vec::new(),
        not: None,
    };

    fn new(fields: &Map) -> Option<Box<Self>> {
        const OWN: &[&str] = &[
            "maximum",
            "minimum",
            "multipleOf",
            "maxLength",
            "minLength",
            "maxItems",
            "minItems",
            "uniqueItems",
            "maxProperties",
            "minProperties",
            "required",
            "enum",
            "format",
            "pattern",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
        ];
        if !OWN.iter().any(|name| fields.contains_key(name)) {
            return None;
        }
        let flag = |name: &str| fields.get(name).and_then(Value::as_bool).unwrap_or(false);
        let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or("");
        let float = |name: &str| fields.get(name).and_then(Value::as_f64);
        let count = |name: &str| fields.get(name).and_then(Value::as_u64);
        let list = |name: &str| fields.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let schemas = |name: &str| list(name).iter().map(Structural::new).collect();
        Some(Box::new(Self {
            maximum: float("maximum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            minimum: float("minimum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            multiple_of: float("multipleOf"),
            max_length: count("maxLength"),
            min_length: count("minLength"),
            max_items: count("maxItems"),
            min_items: count("minItems"),
            unique_items: flag("uniqueItems"),
            max_properties: count("maxProperties"),
            min_properties: count("minProperties"),
            required: list("required").iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect(),
            enumeration: list("enum").to_vec(),
            format: text("format").to_owned(),
            pattern: Some(text("pattern"))
                .filter(|pattern| !pattern.is_empty())
                .map(|pattern| Pattern { text: pattern.to_owned(), regex: OnceLock::new() }),
            all_of: schemas("allOf"),
            any_of: schemas("anyOf"),
            one_of: schemas("oneOf"),
            not: fields.get("not").filter(|not| not.is_object()).map(Structural::new),
        }))
    }
}
