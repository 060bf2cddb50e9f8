//! What a place in a typed object is for merging: a scalar, a list or a map, atomic or made of parts.

use super::element::Element;
use crate::occurrences::Occurrences;
use crate::schema::{ListType, MapType, Merge, Schema, Shape, Type, TypeId};
use crate::{Map, Value};

/// The step to each item of a list, none to what cannot be told apart.
pub(super) type Steps = Occurrences<Option<Element>>;

/// A place in the schema.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node<'s> {
    schema: &'s Schema,
    shape: Shape,
    /// Merge facts of the field that leads here.
    merge: Option<&'s Merge>,
    untyped: Untyped,
}

/// What is assumed of values without a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Untyped {
    /// Lists and maps are replaced as a whole.
    Atomic,
    /// Maps merge, lists do not.
    Deduced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    String,
    Numeric,
    Boolean,
    Any,
}

/// How the items of a list are told apart.
#[derive(Clone, Copy, Debug)]
pub(super) enum Items<'s> {
    /// They are not: the list is one value.
    Atomic,
    Set,
    Keyed(&'s [std::borrow::Cow<'static, str>]),
}

#[derive(Clone, Debug)]
pub(super) enum Atom<'s> {
    Scalar(Scalar),
    List {
        element: Node<'s>,
        items: Items<'s>,
    },
    /// `fields` are those of a struct; entries with other names have the type `element`, if any may exist.
    Map {
        fields: Option<&'s Type>,
        element: Option<Node<'s>>,
        atomic: bool,
    },
}

impl<'s> Node<'s> {
    pub(super) fn root(schema: &'s Schema, type_id: TypeId) -> Self {
        Self { schema, shape: Shape::Ref(type_id), merge: None, untyped: Untyped::Atomic }
    }

    fn of(self, shape: Shape, merge: Option<&'s Merge>) -> Self {
        Self { shape, merge, ..self }
    }

    fn untyped(self, untyped: Untyped) -> Self {
        Self { shape: Shape::Any, merge: None, untyped, ..self }
    }

    /// What the value here is; the value only matters where the schema does not say.
    pub(super) fn atom(self, value: Option<&Value>) -> Atom<'s> {
        let scalar = Atom::Scalar;
        match self.shape {
            Shape::String | Shape::Bytes | Shape::Duration => scalar(Scalar::String),
            Shape::Bool => scalar(Scalar::Boolean),
            Shape::Int32 | Shape::Int64 | Shape::Double => scalar(Scalar::Numeric),
            Shape::Time | Shape::MicroTime | Shape::Quantity => scalar(Scalar::Any),
            Shape::Free | Shape::FieldsV1 => self.untyped(Untyped::Deduced).free(value, Untyped::Deduced),
            // The document says of numbers that may be names only that they are one or the other.
            Shape::RawExtension | Shape::IntOrString => self.untyped(Untyped::Atomic).free(value, Untyped::Atomic),
            Shape::Any | Shape::SchemaOrArray(_) | Shape::SchemaOrBool(_) | Shape::SchemaOrStrings(_) => {
                self.free(value, self.untyped)
            }
            Shape::Ref(id) => {
                let ty = self.schema.get(id);
                // A field may say otherwise than its type.
                let declared = self.merge.and_then(|m| m.map_type);
                let atomic = declared.map_or_else(|| ty.is_atomic(), |map_type| map_type == MapType::Atomic);
                let element = ty.keeps_unknown_fields.then(|| self.untyped(Untyped::Deduced));
                Atom::Map { fields: Some(ty), element, atomic }
            }
            Shape::Map(id) => {
                let element = self.of(self.schema.element(id), None);
                Atom::Map { fields: None, element: Some(element), atomic: self.map_type() == MapType::Atomic }
            }
            Shape::List(id) => {
                let element = self.of(self.schema.element(id), None);
                let items = match (self.merge, self.merge.and_then(|m| m.list_type).unwrap_or_default()) {
                    (_, ListType::Set) => Items::Set,
                    (Some(merge), ListType::Map) => Items::Keyed(&merge.list_map_keys),
                    _ => Items::Atomic,
                };
                Atom::List { element, items }
            }
        }
    }

    fn map_type(self) -> MapType {
        self.merge.and_then(|m| m.map_type).unwrap_or_default()
    }

    /// A value without a schema is what it looks like.
    fn free(self, value: Option<&Value>, untyped: Untyped) -> Atom<'s> {
        match value {
            Some(Value::Array(_)) => Atom::List { element: self.untyped(Untyped::Atomic), items: Items::Atomic },
            Some(Value::Object(_)) => {
                Atom::Map { fields: None, element: Some(self.untyped(untyped)), atomic: untyped == Untyped::Atomic }
            }
            _ => Atom::Scalar(Scalar::Any),
        }
    }

    /// Two values of one place may differ in form only where the schema leaves the form open.
    pub(super) fn is_open(self) -> bool {
        matches!(
            self.shape,
            Shape::Any
                | Shape::RawExtension
                | Shape::Free
                | Shape::FieldsV1
                | Shape::SchemaOrArray(_)
                | Shape::SchemaOrBool(_)
                | Shape::SchemaOrStrings(_)
        )
    }

    /// The steps to the items of a list of these.
    pub(super) fn steps(self, items: Items<'_>, list: &[Value]) -> Steps {
        Occurrences::of(list.iter().map(|item| self.item(items, item).ok()))
    }

    /// The step to an item of a keyed list or set.
    pub(super) fn item(self, items: Items<'s>, item: &Value) -> Result<Element, String> {
        match items {
            Items::Keyed(keys) => self.keyed_item(keys, item),
            Items::Set | Items::Atomic => match item {
                Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
                Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
                scalar => Ok(Element::value(scalar)),
            },
        }
    }

    fn keyed_item(self, keys: &'s [std::borrow::Cow<'static, str>], item: &Value) -> Result<Element, String> {
        let map = match item {
            Value::Object(map) => map,
            Value::Null => return Err("associative list with keys may not have a null element".into()),
            _ => return Err("associative list with keys may not have non-map elements".into()),
        };
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(value) = map.get(key.as_ref()).cloned().or_else(|| self.default_of(key)) {
                values.push((key.as_ref(), value));
            }
        }
        if values.is_empty() {
            let quoted: Vec<String> = keys.iter().map(|key| crate::field::go_quote(key)).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values \
                 for any key fields)",
                quoted.join(" ")
            ));
        }
        Ok(Element::key(values))
    }

    /// The default of a key field, from the OpenAPI document.
    fn default_of(self, key: &str) -> Option<Value> {
        let Shape::Ref(id) = self.shape else { return None };
        let default = self.schema.field(id, key)?.openapi_default.as_deref()?;
        serde_json::from_str(default).ok()
    }
}

impl<'s> Atom<'s> {
    /// The place of a field or map entry below `node`, whose atom this is; `None` when the schema knows no such field.
    pub(super) fn field(&self, node: Node<'s>, name: &str) -> Option<Node<'s>> {
        let Atom::Map { fields, element, .. } = self else { return None };
        match fields.and_then(|ty| ty.field(name)) {
            Some(field) => Some(node.of(field.shape, field.merge.as_deref())),
            None => *element,
        }
    }

    pub(super) fn is_struct_field(&self, name: &str) -> bool {
        matches!(self, Atom::Map { fields: Some(ty), .. } if ty.field(name).is_some())
    }

    pub(super) fn is_atomic(&self) -> bool {
        matches!(self, Atom::Map { atomic: true, .. } | Atom::List { items: Items::Atomic, .. })
    }
}

/// The entries of a map, none for null and everything else.
pub(super) fn entries(value: Option<&Value>) -> Option<&Map> {
    value.and_then(Value::as_object)
}

/// The items of a list, none for null and everything else.
pub(super) fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
