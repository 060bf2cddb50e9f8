//! What CEL knows of a value that a CRD's schema describes: how it reads at run time, which of it expressions may name, and how
//! big it can get.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Map, Value};

use super::escape::escape;
use super::types::Type;

/// Bytes of the largest request: bounds everything that has no bound of its own.
pub(super) const REQUEST_MAX_BYTES: i64 = 3 * 1024 * 1024;

// Sizes in JSON, quotation marks included.
const DURATION_MAX: i64 = 32;
const DURATION_MIN: i64 = 3;
const DATE: i64 = 12;
const DATETIME_MAX: i64 = 32;
const DATETIME_MIN: i64 = 21;
const STRING_MIN: i64 = 2;
const BOOL_MIN: i64 = 4;
const NUMBER_MIN: i64 = 1;

/// A structural schema, as far as CEL is concerned with it.
#[derive(Clone, Debug)]
pub struct Structural {
    pub(super) form: Form,
    pub(super) nullable: bool,
    /// `None`: expressions cannot name a value of this schema.
    exposed: Option<Exposed>,
}

#[derive(Clone, Debug)]
pub(super) enum Form {
    IntOrString,
    Object(Fields),
    /// An object whose values all have one schema.
    Map(Arc<Structural>),
    List {
        items: Option<Arc<Structural>>,
        list_type: ListType,
    },
    String(Format),
    Number,
    Integer,
    Boolean,
    /// `x-kubernetes-preserve-unknown-fields` without a type.
    Unknown,
    /// No type and no permission to have none.
    Untyped(String),
}

/// Properties by their own names.
pub(super) type Fields = BTreeMap<String, Arc<Structural>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ListType {
    Atomic,
    Set,
    /// With the names of the keys.
    Map(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Plain,
    Bytes,
    Duration,
    Date,
    DateTime,
}

#[derive(Clone, Debug)]
struct Exposed {
    kind: ExposedKind,
    /// Most elements, characters or entries there can be.
    elements_max: i64,
    /// Bytes of the smallest value in JSON.
    size_min: i64,
}

#[derive(Clone, Debug)]
enum ExposedKind {
    Scalar(Type),
    /// Fields by escaped name, with the names of their schemas.
    Object(BTreeMap<Arc<str>, Arc<Structural>>),
    Map(Arc<Structural>),
    List(Arc<Structural>),
}

/// A name of a type and its fields, for the checker.
pub(super) type ObjectTypes = BTreeMap<Arc<str>, BTreeMap<Arc<str>, Type>>;

impl Structural {
    /// Reads a schema of a CRD (`openAPIV3Schema` or any part of one). `is_root`: of a resource, which has type and metadata
    /// even if the schema does not say so.
    pub fn new(schema: &Value, is_root: bool) -> Self {
        let flag = |name: &str| schema[name].as_bool() == Some(true);
        let kind = schema["type"].as_str().unwrap_or("");
        let nullable = flag("nullable");
        if flag("x-kubernetes-int-or-string") {
            let elements_max = schema["maxLength"].as_i64().map_or(REQUEST_MAX_BYTES - 2, |n| n.max(0) * 4);
            let exposed = Exposed { kind: ExposedKind::Scalar(Type::Dyn), elements_max, size_min: 1 };
            return Self { form: Form::IntOrString, nullable, exposed: Some(exposed) };
        }
        let with_meta;
        let schema = if is_root {
            with_meta = with_type_and_meta(schema);
            &with_meta
        } else {
            schema
        };
        let (form, exposed) = match kind {
            "object" => Self::object(schema),
            "array" => Self::array(schema),
            "string" => Self::string(schema),
            "boolean" => (Form::Boolean, Some(Exposed::scalar(Type::Bool, 0, BOOL_MIN))),
            "number" => (Form::Number, Some(Exposed::scalar(Type::Double, 0, NUMBER_MIN))),
            "integer" => (Form::Integer, Some(Exposed::scalar(Type::Int, 0, NUMBER_MIN))),
            _ if flag("x-kubernetes-preserve-unknown-fields") => (Form::Unknown, None),
            other => (Form::Untyped(other.to_owned()), None),
        };
        Self { form, nullable, exposed }
    }

    fn child(schema: &Value) -> Arc<Self> {
        Arc::new(Self::new(schema, schema["x-kubernetes-embedded-resource"].as_bool() == Some(true)))
    }

    fn object(schema: &Value) -> (Form, Option<Exposed>) {
        let additional = schema.get("additionalProperties").filter(|s| s.is_object()).map(Self::child);
        let properties: Option<Fields> = schema["properties"]
            .as_object()
            .map(|properties| properties.iter().map(|(name, s)| (name.to_string(), Self::child(s))).collect());
        let exposed = match &additional {
            Some(values) => values.exposed.as_ref().map(|own| {
                let estimate = (REQUEST_MAX_BYTES - 2) / (own.size_min + 6);
                let elements_max = schema["maxProperties"].as_i64().map_or(estimate, |n| n.max(0));
                Exposed { kind: ExposedKind::Map(values.clone()), elements_max, size_min: 2 }
            }),
            None => Some(Self::exposed_object(schema, properties.as_ref())),
        };
        let form = match (properties, additional) {
            (Some(properties), _) => Form::Object(properties),
            (None, Some(values)) => Form::Map(values),
            (None, None) => Form::Object(Fields::new()),
        };
        (form, exposed)
    }

    fn exposed_object(schema: &Value, properties: Option<&Fields>) -> Exposed {
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let (mut fields, mut size_min) = (BTreeMap::new(), 2);
        for (name, property) in properties.into_iter().flatten() {
            let Some(own) = &property.exposed else { continue };
            if let Some(escaped) = escape(name) {
                fields.insert(Arc::from(escaped), property.clone());
            }
            let defaulted = !schema["properties"][name]["default"].is_null();
            if required.contains(&name.as_str()) && !defaulted {
                size_min += name.len() as i64 + own.size_min + 4;
            }
        }
        Exposed { kind: ExposedKind::Object(fields), elements_max: 0, size_min }
    }

    fn array(schema: &Value) -> (Form, Option<Exposed>) {
        let items = schema.get("items").filter(|s| s.is_object()).map(Self::child);
        let exposed = items.as_ref().and_then(|items| {
            let own = items.exposed.as_ref()?;
            let estimate = (REQUEST_MAX_BYTES - 2) / (own.size_min + 1);
            let elements_max = schema["maxItems"].as_i64().map_or(estimate, |n| n.max(0));
            Some(Exposed { kind: ExposedKind::List(items.clone()), elements_max, size_min: 2 })
        });
        let list_type = match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => ListType::Set,
            Some("map") => {
                let keys = schema["x-kubernetes-list-map-keys"].as_array();
                ListType::Map(keys.into_iter().flatten().filter_map(|k| k.as_str().map(str::to_owned)).collect())
            }
            _ => ListType::Atomic,
        };
        (Form::List { items, list_type }, exposed)
    }

    fn string(schema: &Value) -> (Form, Option<Exposed>) {
        let max_length = schema["maxLength"].as_i64().map(|n| n.max(0));
        let whole = REQUEST_MAX_BYTES - 2;
        let (format, exposed) = match schema["format"].as_str().unwrap_or("") {
            "byte" => (Format::Bytes, Exposed::scalar(Type::Bytes, max_length.unwrap_or(whole), STRING_MIN)),
            "duration" => (Format::Duration, Exposed::scalar(Type::Duration, DURATION_MAX, DURATION_MIN)),
            "date" => (Format::Date, Exposed::scalar(Type::Timestamp, DATE, DATE)),
            "date-time" => (Format::DateTime, Exposed::scalar(Type::Timestamp, DATETIME_MAX, DATETIME_MIN)),
            _ => {
                let values = schema["enum"].as_array().filter(|values| !values.is_empty());
                let longest = |values: &Vec<Value>| {
                    values.iter().filter_map(Value::as_str).map(str::len).max().unwrap_or(0) as i64
                };
                // A limit in characters bounds the bytes only four times as high.
                let elements_max = max_length.map(|n| n * 4).or(values.map(longest)).unwrap_or(whole);
                (Format::Plain, Exposed::scalar(Type::String, elements_max, STRING_MIN))
            }
        };
        (Form::String(format), Some(exposed))
    }

    /// The schema of a property of an object, or of the values of a map.
    pub fn property(&self, name: &str) -> Option<&Arc<Structural>> {
        match &self.form {
            Form::Object(fields) => fields.get(name),
            Form::Map(values) => Some(values),
            _ => None,
        }
    }

    /// The schema of the items of a list.
    pub fn items(&self) -> Option<&Arc<Structural>> {
        match &self.form {
            Form::List { items, .. } => items.as_ref(),
            _ => None,
        }
    }

    /// Can rules be written for a value of this schema?
    pub fn is_exposed(&self) -> bool {
        self.exposed.is_some()
    }

    /// How often a value of this schema can occur in one request, at most.
    pub fn cardinality_max(&self) -> u64 {
        let size_min = self.exposed.as_ref().map_or(2, |own| own.size_min);
        u64::try_from(REQUEST_MAX_BYTES / (size_min + 1)).unwrap_or(0)
    }

    /// The type of a value, objects named after `path`; collects the types of all objects in it.
    pub(super) fn declare(&self, path: &str, objects: &mut ObjectTypes) -> Option<Type> {
        Some(match &self.exposed.as_ref()?.kind {
            ExposedKind::Scalar(t) => t.clone(),
            ExposedKind::List(items) => Type::list(items.declare(&format!("{path}.@idx"), objects)?),
            ExposedKind::Map(values) => Type::map(Type::String, values.declare(&format!("{path}.@elem"), objects)?),
            ExposedKind::Object(fields) => {
                let mut types = BTreeMap::new();
                for (name, field) in fields {
                    if let Some(t) = field.declare(&format!("{path}.{name}"), objects) {
                        types.insert(name.clone(), t);
                    }
                }
                objects.insert(path.into(), types);
                Type::object(path)
            }
        })
    }

    /// Most elements of what a path leads to; the path begins with the variable. `None`: nobody knows.
    pub(super) fn elements_max(&self, path: &[Arc<str>]) -> Option<u64> {
        let mut current = self.exposed.as_ref()?;
        for step in path.get(1..)? {
            current = match (&**step, &current.kind) {
                ("@items", ExposedKind::List(inner)) | ("@values", ExposedKind::Map(inner)) => {
                    inner.exposed.as_ref()?
                }
                // Keys are strings without a bound of their own.
                ("@keys", ExposedKind::Map(_)) => return Some(0),
                (name, ExposedKind::Object(fields)) => fields.get(name)?.exposed.as_ref()?,
                _ => return None,
            };
        }
        u64::try_from(current.elements_max).ok()
    }
}

impl Exposed {
    fn scalar(t: Type, elements_max: i64, size_min: i64) -> Self {
        Self { kind: ExposedKind::Scalar(t), elements_max, size_min }
    }
}

/// Adds what every resource has: kind, apiVersion, and the names in metadata.
fn with_type_and_meta(schema: &Value) -> Value {
    let mut with = schema.clone();
    let Some(object) = with.as_object_mut() else { return with };
    let text = crate::json!({"type": "string"});
    let slot = object.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    let Some(properties) = slot.as_object_mut() else { return with };
    for name in ["kind", "apiVersion"] {
        properties.insert(name.to_owned(), text.clone());
    }
    let metadata = crate::json!({"type": "object", "properties": {"name": text, "generateName": text}});
    properties.insert("metadata", metadata);
    with
}
