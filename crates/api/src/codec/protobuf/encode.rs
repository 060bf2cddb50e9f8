//! Objects to messages, in upstream's order: ascending field numbers, map entries by key.
//!
//! What is not a Go pointer is always written, zero or not; pointers and byte fields only when they are there.

use std::collections::BTreeMap;

use crate::{Text, Value};
use ::base64::Engine;
use ::base64::engine::general_purpose::STANDARD;

use super::super::time;
use super::decode::is_wrapped;
use super::layout::{Layout, Place, layout};
use super::wire::{FIXED64, WireWrite, put_message};
use crate::Map;
use crate::schema::{Field, Schema, Shape, Type, TypeId};

/// Writes the fields of an object of a built-in type; anything but an object is written as the zero object.
pub(super) fn message(out: &mut Vec<u8>, id: TypeId, value: &Value) {
    let empty = Map::new();
    fields(out, id, layout(id), value.as_object().unwrap_or(&empty));
}

fn fields(out: &mut Vec<u8>, id: TypeId, layout: &Layout, object: &Map) {
    let ty = Schema::builtin().get(id);
    for entry in layout {
        match &entry.place {
            Place::Inline(inner) => put_message(out, entry.number, |out| fields(out, id, inner, object)),
            Place::Field(index) => {
                let field = &ty.fields[*index];
                let value = object.get(field.name.as_ref()).filter(|value| !value.is_null());
                self::field(out, entry.number, ty, field, value);
            }
        }
    }
}

fn field(out: &mut Vec<u8>, number: u32, ty: &Type, field: &Field, value: Option<&Value>) {
    let schema = Schema::builtin();
    match (field.shape, value) {
        (Shape::List(_), Some(value)) if is_wrapped(ty, field) => put_message(out, number, |out| strings(out, value)),
        (Shape::List(element), Some(Value::Array(list))) => {
            let element = schema.element(element);
            for item in list {
                single(out, number, element, item);
            }
        }
        (Shape::Map(element), Some(Value::Object(map))) => {
            let element = schema.element(element);
            let sorted: BTreeMap<&Text, &Value> = map.iter().collect();
            for (key, value) in sorted {
                put_message(out, number, |out| {
                    out.put_bytes(1, key.as_bytes());
                    single(out, 2, element, value);
                });
            }
        }
        (Shape::List(_) | Shape::Map(_), _) => {}
        (shape, Some(value)) => single(out, number, shape, value),
        (Shape::Bytes, None) => {}
        (_, None) if field.pointer => {}
        (shape, None) => single(out, number, shape, &Value::Null),
    }
}

/// One value with its tag; `null` and values of another shape are written as the zero of the shape.
fn single(out: &mut Vec<u8>, number: u32, shape: Shape, value: &Value) {
    match shape {
        Shape::String => out.put_bytes(number, value.as_str().unwrap_or("").as_bytes()),
        Shape::Bool => out.put_integer(number, i64::from(value.as_bool().unwrap_or(false))),
        Shape::Int32 | Shape::Int64 => out.put_integer(number, value.as_i64().unwrap_or(0)),
        Shape::Double => {
            out.put_tag(number, FIXED64);
            out.extend_from_slice(&value.as_f64().unwrap_or(0.0).to_le_bytes());
        }
        Shape::Bytes => {
            let bytes = STANDARD.decode(value.as_str().unwrap_or("")).unwrap_or_default();
            out.put_bytes(number, &bytes);
        }
        _ => put_message(out, number, |out| composite(out, shape, value)),
    }
}

fn composite(out: &mut Vec<u8>, shape: Shape, value: &Value) {
    match shape {
        Shape::Ref(id) => message(out, id, value),
        Shape::Time | Shape::MicroTime => {
            if let Some((seconds, nanos)) = value.as_str().and_then(time::to_unix) {
                out.put_integer(1, seconds);
                out.put_integer(2, if shape == Shape::Time { 0 } else { i64::from(nanos) });
            }
        }
        Shape::Duration => out.put_integer(1, value.as_str().and_then(time::duration_nanos).unwrap_or(0)),
        Shape::Quantity => match value {
            Value::String(text) => out.put_bytes(1, text.as_bytes()),
            Value::Number(number) => out.put_bytes(1, number.to_string().as_bytes()),
            _ => out.put_bytes(1, b"0"),
        },
        Shape::IntOrString => {
            out.put_integer(1, i64::from(value.is_string()));
            out.put_integer(2, value.as_i64().unwrap_or(0));
            out.put_bytes(3, value.as_str().unwrap_or("").as_bytes());
        }
        Shape::RawExtension | Shape::Free | Shape::FieldsV1 | Shape::Any => {
            if !value.is_null() {
                let written = value.as_object().and_then(Map::written);
                out.put_bytes(1, written.map_or_else(|| value.to_string(), str::to_owned).as_bytes());
            }
        }
        Shape::SchemaOrBool(id) => {
            out.put_integer(1, i64::from(value.is_object() || *value == Value::Bool(true)));
            if value.is_object() {
                put_message(out, 2, |out| message(out, id, value));
            }
        }
        Shape::SchemaOrArray(id) | Shape::SchemaOrStrings(id) => match value {
            Value::Object(_) => put_message(out, 1, |out| message(out, id, value)),
            Value::Array(list) => {
                let element = if matches!(shape, Shape::SchemaOrArray(_)) { Shape::Ref(id) } else { Shape::String };
                for item in list {
                    single(out, 2, element, item);
                }
            }
            _ => {}
        },
        // Only in maps: a list there is wrapped in a message of its own.
        Shape::List(_) => strings(out, value),
        Shape::Map(_) | Shape::String | Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Double | Shape::Bytes => {}
    }
}

fn strings(out: &mut Vec<u8>, value: &Value) {
    for item in value.as_array().into_iter().flatten() {
        out.put_bytes(1, item.as_str().unwrap_or("").as_bytes());
    }
}
