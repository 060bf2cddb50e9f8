//! What an untouched Go struct looks like in JSON.

use super::{Field, Omit, Schema, Shape, TypeId};
use crate::{Map, Text, Value};

impl Schema {
    /// The JSON of a type whose fields are all zero: `{}` for most, `{"containers":null}` for a PodSpec.
    pub fn zero(&self, id: TypeId) -> Value {
        let mut out = Map::new();
        for field in &self.get(id).fields {
            if let Some(value) = self.absent(field) {
                out.push(&*field.name, value);
            }
        }
        Value::Object(out)
    }

    /// What an absent field prints as; `None` when it is left out.
    pub fn absent(&self, field: &Field) -> Option<Value> {
        if field.pointer {
            return (field.omit == Omit::Never).then_some(Value::Null);
        }
        match field.shape {
            Shape::Ref(_)
            | Shape::Time
            | Shape::MicroTime
            | Shape::RawExtension
            | Shape::Free
            | Shape::Any
            | Shape::FieldsV1
            | Shape::Quantity
            | Shape::IntOrString
            | Shape::Duration
                if field.omit != Omit::Zero =>
            {
                Some(self.zero_shape(field.shape))
            }
            shape if field.omit == Omit::Never => Some(self.zero_shape(shape)),
            _ => None,
        }
    }

    /// The zero of one field of a type, even when an absent one would be left out; `None` for an unknown field.
    pub fn zero_field(&self, owner: TypeId, name: &str) -> Option<Value> {
        let field = self.field(owner, name)?;
        if field.pointer || field.omit == Omit::Zero { self.absent(field) } else { Some(self.zero_shape(field.shape)) }
    }

    /// The zero of an item of a list or an entry of a map: unlike a field, it cannot be without bytes.
    pub(crate) fn zero_item(&self, shape: Shape) -> Value {
        if shape == Shape::Bytes { Value::String(Text::default()) } else { self.zero_shape(shape) }
    }

    pub(crate) fn zero_shape(&self, shape: Shape) -> Value {
        match shape {
            Shape::String => Value::String(Text::default()),
            Shape::Bool => Value::Bool(false),
            Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => Value::from(0),
            Shape::Quantity => Value::String("0".into()),
            Shape::Duration => Value::String("0s".into()),
            Shape::Ref(id) => self.zero(id),
            Shape::Bytes
            | Shape::Time
            | Shape::MicroTime
            | Shape::RawExtension
            | Shape::Free
            | Shape::FieldsV1
            | Shape::Any
            | Shape::SchemaOrArray(_)
            | Shape::SchemaOrBool(_)
            | Shape::SchemaOrStrings(_)
            | Shape::List(_)
            | Shape::Map(_) => Value::Null,
        }
    }
}
