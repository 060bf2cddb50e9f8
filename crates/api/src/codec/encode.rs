//! Objects to bytes: compact JSON in schema order.

use crate::{Text, Value};
use bytes::Bytes;

use crate::Map;
use crate::kind::Kind;
use crate::schema::{Field, Schema, Shape, TypeId};
use crate::value::is_plain;

/// Most objects are no larger than this, nor have more fields on the way to any value.
const OBJECT_BYTES: usize = 4096;
const OBJECT_FIELDS: usize = 64;

/// The JSON of an object of `kind`: `{"kind":…,"apiVersion":…,"metadata":{…`.
///
/// Decoded objects are in order already; fields that code added at the end of an object are put in their place here, so that
/// stored bytes never depend on who wrote a field first.
pub fn encode(kind: &Kind, value: &Value) -> Bytes {
    match kind.custom() {
        Some(_) => encode_resource(value),
        None => encode_type(&kind.schema, kind.type_id, value),
    }
}

/// A custom resource: what every object begins with, then its fields by name.
fn encode_resource(value: &Value) -> Bytes {
    let schema = Schema::builtin();
    let mut writer = Writer::new(schema);
    let Value::Object(map) = value else { return Bytes::from_static(b"{}") };
    let metadata = schema.type_id("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").map_or(Shape::Any, Shape::Ref);
    writer.out.push(b'{');
    let mut n = 0;
    for (name, shape) in [("kind", Shape::String), ("apiVersion", Shape::String), ("metadata", metadata)] {
        if let Some(value) = map.get(name) {
            writer.entry(n, name, shape, value);
            n += 1;
        }
    }
    let mut rest: Vec<(&Text, &Value)> = map.iter().collect();
    rest.retain(|(name, _)| !matches!(name.as_str(), "kind" | "apiVersion" | "metadata"));
    rest.sort_unstable_by_key(|(name, _)| *name);
    for (name, value) in rest {
        writer.key(n, name);
        writer.sorted(value);
        n += 1;
    }
    writer.out.push(b'}');
    writer.out.into()
}

/// A value without a type, the keys of every object sorted: how Go writes its maps.
pub(crate) fn encode_sorted(value: &Value) -> Vec<u8> {
    let mut writer = Writer { schema: Schema::builtin(), out: Vec::new(), places: Vec::new() };
    writer.sorted(value);
    writer.out
}

/// The same for a type of the built-in schema.
fn encode_type(schema: &Schema, type_id: TypeId, value: &Value) -> Bytes {
    let mut writer = Writer::new(schema);
    writer.value(Shape::Ref(type_id), value);
    writer.out.into()
}

struct Writer<'s> {
    schema: &'s Schema,
    out: Vec<u8>,
    /// Where the fields of the objects being written are in their types, innermost last.
    places: Vec<usize>,
}

impl<'s> Writer<'s> {
    fn new(schema: &'s Schema) -> Self {
        Self { schema, out: Vec::with_capacity(OBJECT_BYTES), places: Vec::with_capacity(OBJECT_FIELDS) }
    }

    fn value(&mut self, shape: Shape, value: &Value) {
        match (value, shape) {
            (Value::Object(map), Shape::Ref(id)) => self.object(id, map),
            (Value::Object(map), Shape::SchemaOrArray(id) | Shape::SchemaOrBool(id) | Shape::SchemaOrStrings(id)) => {
                self.object(id, map);
            }
            (Value::Array(list), Shape::SchemaOrArray(id)) => self.list(Shape::Ref(id), list),
            (Value::Object(map), Shape::Map(id)) => self.map(self.schema.element(id), map),
            (Value::Array(list), Shape::List(id)) => self.list(self.schema.element(id), list),
            (Value::String(text), _) => self.string(text),
            (Value::Null, _) => self.out.extend_from_slice(b"null"),
            (Value::Bool(true), _) => self.out.extend_from_slice(b"true"),
            (Value::Bool(false), _) => self.out.extend_from_slice(b"false"),
            // Writing to a Vec cannot fail.
            (Value::Number(number), _) => drop(serde_json::to_writer(&mut self.out, number)),
            // What has no schema, as it is.
            (Value::Object(map), _) => match map.written() {
                Some(text) => self.out.extend_from_slice(text.as_bytes()),
                None => self.entries(map, Shape::Any),
            },
            (Value::Array(list), _) => self.list(Shape::Any, list),
        }
    }

    /// The entries of a map in the order in which they come.
    fn entries<'v>(&mut self, entries: impl IntoIterator<Item = (&'v Text, &'v Value)>, element: Shape) {
        self.out.push(b'{');
        for (n, (key, value)) in entries.into_iter().enumerate() {
            self.entry(n, key, element, value);
        }
        self.out.push(b'}');
    }

    fn object(&mut self, id: TypeId, map: &Map) {
        let ty = self.schema.get(id);
        // All are looked up before anything is written: an object is written once, however its fields lie.
        let first = self.places.len();
        self.places.extend(map.keys().map(|key| ty.field_index(key).unwrap_or(usize::MAX)));
        self.out.push(b'{');
        if self.places[first..].is_sorted() {
            for (n, (key, value)) in map.iter().enumerate() {
                self.field(n, ty.fields.get(self.places[first + n]), key, value);
            }
        } else {
            let places = self.places[first..].iter().copied();
            let mut entries: Vec<(usize, (&Text, &Value))> = places.zip(map.iter()).collect();
            entries.sort_by_key(|(at, _)| *at);
            for (n, (at, (key, value))) in entries.into_iter().enumerate() {
                self.field(n, ty.fields.get(at), key, value);
            }
        }
        self.places.truncate(first);
        self.out.push(b'}');
    }

    fn field(&mut self, n: usize, field: Option<&Field>, key: &str, value: &Value) {
        let Some(field) = field else { return self.entry(n, key, Shape::Any, value) };
        // The names of a type of Kubernetes need no escapes.
        self.out.reserve(key.len() + 4);
        if n > 0 {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.value(field.shape, value);
    }

    /// Keys of a Go map print sorted.
    fn map(&mut self, element: Shape, map: &Map) {
        if map.keys().zip(map.keys().skip(1)).all(|(a, b)| a <= b) {
            return self.entries(map, element);
        }
        let mut entries: Vec<(&Text, &Value)> = map.iter().collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        self.entries(entries, element);
    }

    fn entry(&mut self, n: usize, key: &str, element: Shape, value: &Value) {
        self.key(n, key);
        self.value(element, value);
    }

    fn key(&mut self, n: usize, key: &str) {
        if n > 0 {
            self.out.push(b',');
        }
        self.string(key);
        self.out.push(b':');
    }

    fn sorted(&mut self, value: &Value) {
        match value {
            Value::Object(map) => {
                let mut entries: Vec<(&Text, &Value)> = map.iter().collect();
                entries.sort_unstable_by_key(|(key, _)| *key);
                self.out.push(b'{');
                for (n, (key, value)) in entries.into_iter().enumerate() {
                    self.key(n, key);
                    self.sorted(value);
                }
                self.out.push(b'}');
            }
            Value::Array(list) => {
                self.out.push(b'[');
                for (n, value) in list.iter().enumerate() {
                    if n > 0 {
                        self.out.push(b',');
                    }
                    self.sorted(value);
                }
                self.out.push(b']');
            }
            scalar => self.value(Shape::Any, scalar),
        }
    }

    fn list(&mut self, element: Shape, list: &[Value]) {
        self.out.push(b'[');
        for (n, value) in list.iter().enumerate() {
            if n > 0 {
                self.out.push(b',');
            }
            self.value(element, value);
        }
        self.out.push(b']');
    }

    fn string(&mut self, text: &str) {
        if is_plain(text.as_bytes()) {
            self.out.reserve(text.len() + 2);
            self.out.push(b'"');
            self.out.extend_from_slice(text.as_bytes());
            self.out.push(b'"');
        } else {
            drop(serde_json::to_writer(&mut self.out, text));
        }
    }
}
