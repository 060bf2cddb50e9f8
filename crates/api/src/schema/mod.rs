//! The one schema model: what fields a type has, in which order, of which shape, and how they merge.
//!
//! Built-in types come from an embedded table ([`Schema::builtin`]); a CRD fills the same structures at run time (see [`crate::custom`]). Field
//! order is the order of upstream's structs, which is the order of JSON keys. The model knows nothing of kinds, verbs or HTTP.

mod load;
mod zero;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::OnceLock;

use crate::{Map, Value};

type Str = Cow<'static, str>;

/// A type of one schema; meaningless in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(pub(crate) u32);

/// An element shape of a list or map, interned in its schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShapeId(pub(crate) u32);

/// The form of a value in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    /// Base64 text.
    Bytes,
    /// RFC 3339 with second precision.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// Go's duration text: `1m30s`.
    Duration,
    /// `100m`, `1Gi`, or a number; canonical text once decoded.
    Quantity,
    IntOrString,
    /// Any object, kept as it came (in embedded form).
    RawExtension,
    /// What the schema of a custom resource leaves open.
    Free,
    /// The field set of server-side apply.
    FieldsV1,
    /// Any JSON value.
    Any,
    /// A JSONSchemaProps or a list of them.
    SchemaOrArray(TypeId),
    /// A JSONSchemaProps or a boolean.
    SchemaOrBool(TypeId),
    /// A JSONSchemaProps or a list of strings.
    SchemaOrStrings(TypeId),
    Ref(TypeId),
    List(ShapeId),
    Map(ShapeId),
}

impl Shape {
    /// The type of a struct field; `None` for everything else, lists included.
    pub fn type_id(self) -> Option<TypeId> {
        match self {
            Shape::Ref(id) => Some(id),
            _ => None,
        }
    }
}

/// How a list merges in server-side apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    Map,
}

/// How an object merges in server-side apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MapType {
    #[default]
    Granular,
    Atomic,
}

/// How a field merges in a strategic merge patch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    pub merge: bool,
    pub retain_keys: bool,
    pub replace: bool,
}

/// Merge facts of a field or type; most have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// As declared; `None` when undeclared (an undeclared list is atomic).
    pub list_type: Option<ListType>,
    pub list_map_keys: Vec<Str>,
    pub map_type: Option<MapType>,
    pub patch_strategy: PatchStrategy,
    pub patch_merge_key: Option<Str>,
    pub union: Option<Union>,
}

/// A declared union: the discriminator (if any) and the field of each member with its discriminator value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Union {
    pub discriminator: Option<Str>,
    pub fields: Vec<(Str, Str)>,
}

/// When a zero field is left out of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Omit {
    Never,
    /// Go's `omitempty`: zero scalars, nil pointers, empty lists and maps; a struct value is never empty.
    Empty,
    /// Go's `omitzero`: also a struct value whose fields are all zero.
    Zero,
}

/// One field of a type.
#[derive(Clone, Debug)]
pub struct Field {
    pub name: Str,
    pub shape: Shape,
    /// A Go pointer: absent differs from zero.
    pub pointer: bool,
    /// A list whose default is for none: that it was given empty is kept until it is refused.
    pub tells_empty: bool,
    pub omit: Omit,
    /// Required by the OpenAPI document (decoding does not check it).
    pub required: bool,
    /// Go's name of the type, when it does not follow from the shape: `v1.RestartPolicy`.
    pub go_type: Option<Str>,
    /// Go's names of the embedded structs between the type and the field, each with a dot behind it: `VolumeSource.`.
    pub embedded_in: Option<Str>,
    /// Protobuf field numbers from the message to the field; more than one step for the fields of embedded messages.
    pub proto: Vec<u32>,
    pub enum_values: Vec<Str>,
    /// The `default` of the OpenAPI document as JSON text; not what defaulting does.
    pub openapi_default: Option<Str>,
    pub merge: Option<Box<Merge>>,
}

impl Field {
    /// `Atomic` when undeclared.
    pub fn list_type(&self) -> ListType {
        self.merge.as_ref().and_then(|m| m.list_type).unwrap_or_default()
    }

    pub fn list_map_keys(&self) -> &[Str] {
        self.merge.as_ref().map_or(&[], |m| &m.list_map_keys)
    }

    pub fn map_type(&self) -> MapType {
        self.merge.as_ref().and_then(|m| m.map_type).unwrap_or_default()
    }

    pub fn patch_strategy(&self) -> PatchStrategy {
        self.merge.as_ref().map(|m| m.patch_strategy).unwrap_or_default()
    }

    pub fn patch_merge_key(&self) -> Option<&str> {
        self.merge.as_ref().and_then(|m| m.patch_merge_key.as_deref())
    }
}

/// A struct type.
#[derive(Clone, Debug)]
pub struct Type {
    /// Definition name: `io.k8s.api.core.v1.PodSpec`.
    pub name: Str,
    /// `group/version/Kind` of top-level types, as the OpenAPI document lists them (`/v1/Pod` for the core group).
    pub gvks: Vec<Str>,
    /// In JSON order.
    pub fields: Vec<Field>,
    pub merge: Option<Box<Merge>>,
    /// Objects of this type are stored as JSON by upstream, which keeps the difference between an empty list and none.
    pub keeps_empty_lists: bool,
    /// Fields without a description are kept; what they hold is what it looks like.
    pub keeps_unknown_fields: bool,
    /// Open-addressed table of field indices + 1, by name hash.
    buckets: Box<[u16]>,
}

impl Type {
    pub(crate) fn new(name: Str, gvks: Vec<Str>, fields: Vec<Field>, merge: Option<Box<Merge>>) -> Self {
        let keeps_empty_lists =
            name.starts_with("io.k8s.apiextensions-apiserver.") || name.starts_with("io.k8s.kube-aggregator.");
        let mut buckets = vec![0u16; (fields.len() * 2).next_power_of_two().max(2)];
        let mask = buckets.len() - 1;
        for (index, field) in fields.iter().enumerate() {
            let mut at = name_hash(field.name.as_bytes()) & mask;
            while buckets[at] != 0 {
                at = (at + 1) & mask;
            }
            buckets[at] = u16::try_from(index + 1).unwrap_or(u16::MAX);
        }
        Self { name, gvks, fields, merge, keeps_empty_lists, keeps_unknown_fields: false, buckets: buckets.into() }
    }

    /// Position of a field, by exact name.
    #[inline]
    pub fn field_index(&self, name: &str) -> Option<usize> {
        let mask = self.buckets.len() - 1;
        let mut at = name_hash(name.as_bytes()) & mask;
        loop {
            match self.buckets[at] {
                0 => return None,
                slot => {
                    let index = usize::from(slot) - 1;
                    if self.fields[index].name == name {
                        return Some(index);
                    }
                }
            }
            at = (at + 1) & mask;
        }
    }

    pub fn field(&self, name: &str) -> Option<&Field> {
        self.field_index(name).map(|i| &self.fields[i])
    }

    /// `PodSpec` of `io.k8s.api.core.v1.PodSpec`: the Go struct's name.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    /// `v1.PodSpec`: how Go prints the type.
    pub fn go_name(&self) -> String {
        let mut parts = self.name.rsplit('.');
        let (short, package) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        format!("{package}.{short}")
    }

    /// The whole value is replaced by server-side apply.
    pub fn is_atomic(&self) -> bool {
        self.merge.as_ref().is_some_and(|m| m.map_type == Some(MapType::Atomic))
    }
}

/// FNV-1a, enough for field names and without setup cost.
#[inline]
fn name_hash(name: &[u8]) -> usize {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &byte in name {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    (hash ^ (hash >> 32)) as usize
}

/// A closed set of types.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    types: Vec<Type>,
    shapes: Vec<Shape>,
    by_name: HashMap<Str, TypeId>,
    interned: HashMap<Shape, ShapeId>,
}

impl Schema {
    /// The types of all built-in kinds; parsed on first use.
    pub fn builtin() -> &'static Schema {
        static BUILTIN: OnceLock<Schema> = OnceLock::new();
        BUILTIN.get_or_init(|| load::parse(include_str!("../../data/schema.tsv")))
    }

    pub fn type_id(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied()
    }

    pub fn get(&self, id: TypeId) -> &Type {
        &self.types[id.0 as usize]
    }

    pub fn lookup(&self, name: &str) -> Option<&Type> {
        self.type_id(name).map(|id| self.get(id))
    }

    pub fn element(&self, id: ShapeId) -> Shape {
        self.shapes[id.0 as usize]
    }

    /// The shape of the items of a list or the values of a map; the shape itself for everything else.
    pub fn element_of(&self, shape: Shape) -> Shape {
        match shape {
            Shape::List(id) | Shape::Map(id) => self.element(id),
            other => other,
        }
    }

    pub fn field(&self, owner: TypeId, name: &str) -> Option<&Field> {
        self.get(owner).field(name)
    }

    /// All types, by id.
    pub fn types(&self) -> impl Iterator<Item = (TypeId, &Type)> {
        self.types.iter().enumerate().map(|(i, t)| (TypeId(i as u32), t))
    }

    /// Sets a field of an object, at its place in schema order when it is new.
    pub fn set(&self, owner: TypeId, object: &mut Map, name: &str, value: Value) {
        if let Some(slot) = object.get_mut(name) {
            *slot = value;
            return;
        }
        let at = self.insert_position(owner, object, name);
        object.shift_insert(at, name.to_owned(), value);
    }

    /// The field of an object, set to what `make` returns when it is absent or null.
    pub fn get_or_set<'m>(
        &self,
        owner: TypeId,
        object: &'m mut Map,
        name: &str,
        make: impl FnOnce() -> Value,
    ) -> &'m mut Value {
        if object.get(name).is_none_or(Value::is_null) {
            self.set(owner, object, name, make());
        }
        object.entry(name).or_insert(Value::Null)
    }

    /// Where a new field goes: before the first key that comes later in the schema.
    fn insert_position(&self, owner: TypeId, object: &Map, name: &str) -> usize {
        let ty = self.get(owner);
        let Some(index) = ty.field_index(name) else { return object.len() };
        object.keys().position(|key| ty.field_index(key).is_none_or(|other| other > index)).unwrap_or(object.len())
    }

    /// Go's name of a field's type as error messages print it, pointers looked through: `[]v1.Container`.
    pub fn go_type(&self, field: &Field) -> String {
        match &field.go_type {
            Some(go_type) => go_type.to_string(),
            None => self.go_shape(field.shape),
        }
    }

    pub(crate) fn go_shape(&self, shape: Shape) -> String {
        match shape {
            Shape::String => "string".into(),
            Shape::Bool => "bool".into(),
            Shape::Int32 => "int32".into(),
            Shape::Int64 => "int64".into(),
            Shape::Double => "float64".into(),
            Shape::Bytes => "[]uint8".into(),
            Shape::Time => "v1.Time".into(),
            Shape::MicroTime => "v1.MicroTime".into(),
            Shape::Duration => "v1.Duration".into(),
            Shape::Quantity => "resource.Quantity".into(),
            Shape::IntOrString => "intstr.IntOrString".into(),
            Shape::RawExtension | Shape::Free => "runtime.RawExtension".into(),
            Shape::FieldsV1 => "v1.FieldsV1".into(),
            Shape::Any => "v1.JSON".into(),
            Shape::SchemaOrArray(_) => "v1.JSONSchemaPropsOrArray".into(),
            Shape::SchemaOrBool(_) => "v1.JSONSchemaPropsOrBool".into(),
            Shape::SchemaOrStrings(_) => "v1.JSONSchemaPropsOrStringArray".into(),
            Shape::Ref(id) => self.get(id).go_name(),
            Shape::List(id) => format!("[]{}", self.go_shape(self.element(id))),
            Shape::Map(id) => format!("map[string]{}", self.go_shape(self.element(id))),
        }
    }

    pub(crate) fn intern(&mut self, shape: Shape) -> ShapeId {
        if let Some(&id) = self.interned.get(&shape) {
            return id;
        }
        let id = ShapeId(self.shapes.len() as u32);
        self.shapes.push(shape);
        self.interned.insert(shape, id);
        id
    }

    /// Adds a type; a name already known keeps its id and is replaced.
    pub(crate) fn add(&mut self, ty: Type) -> TypeId {
        if let Some(&id) = self.by_name.get(&ty.name) {
            self.types[id.0 as usize] = ty;
            return id;
        }
        let id = TypeId(self.types.len() as u32);
        self.by_name.insert(ty.name.clone(), id);
        self.types.push(ty);
        id
    }
}
