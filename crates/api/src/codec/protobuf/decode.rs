//! Messages to normalised objects, one pass, driven by the schema.
//!
//! Fields come out in schema order with `omitempty` applied, as from the JSON reader. As in Go, unknown fields are ignored, the
//! last of several scalars wins, and several pieces of one embedded message are merged.

use std::borrow::Cow;

use crate::Value;
use ::base64::Engine;
use ::base64::engine::general_purpose::STANDARD;

use super::super::json::{self, go_float, present};
use super::super::time::{self, Precision};
use super::envelope;
use super::layout::{Layout, Place, find, layout};
use super::wire::{BYTES, FIXED64, Result, Tag, VARINT, Wire, WireError};
use crate::quantity::{Quantity, QuantityError};
use crate::schema::{Field, Schema, Shape, Type, TypeId};
use crate::{Map, codec};

/// Messages within each other; only JSON schemas nest without end. A message in a list is two levels of JSON.
const DEPTH_MAX: usize = codec::DEPTH_MAX / 2;

/// Reads a message of a built-in type.
pub(super) fn message(bytes: &[u8], id: TypeId, depth: usize) -> Result<Value> {
    if depth > DEPTH_MAX {
        return Err(WireError(codec::TOO_DEEP.into()));
    }
    let schema = Schema::builtin();
    let ty = schema.get(id);
    let mut reader = Reader { schema, ty, depth, slots: Vec::new() };
    reader.slots.resize_with(ty.fields.len(), Slot::default);
    reader.fields(bytes, layout(id))?;
    reader.finish()
}

/// What was read of a field.
#[derive(Default)]
enum Slot<'b> {
    #[default]
    Absent,
    Value(Value),
    /// The pieces of an embedded message, one after the other, which is what merges them.
    Message(Cow<'b, [u8]>),
    List(Vec<Value>),
    Map(Map),
}

struct Reader<'b> {
    schema: &'static Schema,
    ty: &'static Type,
    depth: usize,
    slots: Vec<Slot<'b>>,
}

impl<'b> Reader<'b> {
    fn fields(&mut self, bytes: &'b [u8], layout: &Layout) -> Result<()> {
        let mut wire = Wire::new(bytes);
        while let Some(tag) = wire.tag(self.ty.short_name())? {
            match find(layout, tag.number).map(|entry| &entry.place) {
                None => wire.skip(tag)?,
                Some(Place::Inline(inner)) => {
                    tag.expect(BYTES, || format!("{} of {}", tag.number, self.ty.short_name()))?;
                    let inner_bytes = wire.length_delimited()?;
                    self.fields(inner_bytes, inner)?;
                }
                Some(Place::Field(index)) => self.field(&mut wire, tag, *index)?,
            }
        }
        Ok(())
    }

    fn field(&mut self, wire: &mut Wire<'b>, tag: Tag, index: usize) -> Result<()> {
        let ty = self.ty;
        let field = &ty.fields[index];
        match field.shape {
            Shape::Ref(_) => {
                tag.expect(BYTES, || go_field_name(ty, field))?;
                let piece = wire.length_delimited()?;
                let slot = &mut self.slots[index];
                *slot = match std::mem::take(slot) {
                    Slot::Message(first) => {
                        let mut whole = first.into_owned();
                        whole.extend_from_slice(piece);
                        Slot::Message(Cow::Owned(whole))
                    }
                    _ => Slot::Message(Cow::Borrowed(piece)),
                };
            }
            Shape::List(_) if is_wrapped(ty, field) => {
                tag.expect(BYTES, || go_field_name(ty, field))?;
                let items = wrapped_strings(wire.length_delimited()?, ty.short_name())?;
                self.slots[index] = Slot::List(items);
            }
            Shape::List(element) => {
                let element = self.schema.element(element);
                let mut list = match std::mem::take(&mut self.slots[index]) {
                    Slot::List(list) => list,
                    _ => Vec::new(),
                };
                if tag.wire_type == BYTES && matches!(element, Shape::Int32 | Shape::Int64 | Shape::Bool) {
                    let mut packed = Wire::new(wire.length_delimited()?);
                    while !packed.is_empty() {
                        list.push(integer(packed.varint()?, element));
                    }
                } else {
                    let value = self.value(wire, tag, element, field)?;
                    list.push(value.unwrap_or_else(|| self.schema.zero_item(element)));
                }
                self.slots[index] = Slot::List(list);
            }
            Shape::Map(element) => {
                tag.expect(BYTES, || go_field_name(ty, field))?;
                let (key, value) = self.map_entry(wire.length_delimited()?, self.schema.element(element), field)?;
                match &mut self.slots[index] {
                    Slot::Map(map) => drop(map.insert(key, value)),
                    slot => *slot = Slot::Map(Map::from_iter([(key, value)])),
                }
            }
            shape => {
                let value = self.value(wire, tag, shape, field)?;
                self.slots[index] = value.map_or(Slot::Absent, Slot::Value);
            }
        }
        Ok(())
    }

    /// A map is a list of messages {1 key, 2 value}; both may be missing.
    fn map_entry(&self, bytes: &[u8], element: Shape, field: &Field) -> Result<(String, Value)> {
        let mut wire = Wire::new(bytes);
        let (mut key, mut value) = (String::new(), None);
        while let Some(tag) = wire.tag(self.ty.short_name())? {
            match tag.number {
                1 => key = text(wire.length_delimited()?),
                2 => value = self.value(&mut wire, tag, element, field)?,
                _ => wire.skip(tag)?,
            }
        }
        let value = match value {
            Some(Value::Array(list)) if list.is_empty() => Value::Null,
            Some(value) => value,
            None => self.schema.zero_item(element),
        };
        Ok((key, value))
    }

    /// One value; `None` for what prints as `null`.
    fn value(&self, wire: &mut Wire<'_>, tag: Tag, shape: Shape, field: &Field) -> Result<Option<Value>> {
        let expect = |wire_type| tag.expect(wire_type, || go_field_name(self.ty, field));
        match shape {
            Shape::Bool | Shape::Int32 | Shape::Int64 => {
                expect(VARINT)?;
                Ok(Some(integer(wire.varint()?, shape)))
            }
            Shape::Double => {
                expect(FIXED64)?;
                Ok(Some(go_float(f64::from_le_bytes(wire.fixed64()?))))
            }
            _ => {
                expect(BYTES)?;
                self.delimited(wire.length_delimited()?, shape)
            }
        }
    }

    fn delimited(&self, bytes: &[u8], shape: Shape) -> Result<Option<Value>> {
        let name = || self.ty.short_name();
        Ok(Some(match shape {
            Shape::String => Value::from(text(bytes)),
            Shape::Bytes => Value::from(STANDARD.encode(bytes)),
            Shape::Time => return instant(bytes, Precision::Seconds),
            Shape::MicroTime => return instant(bytes, Precision::Micros),
            Shape::Duration => {
                let [nanos] = integers(bytes, "Duration")?;
                time::duration_text(nanos.cast_signed()).into()
            }
            Shape::Quantity => quantity(bytes)?,
            Shape::IntOrString => int_or_string(bytes)?,
            Shape::RawExtension | Shape::Free | Shape::FieldsV1 | Shape::Any => return self.embedded(bytes, shape),
            Shape::SchemaOrArray(id) | Shape::SchemaOrBool(id) | Shape::SchemaOrStrings(id) => {
                return self.schema_or(bytes, shape, id);
            }
            Shape::Ref(id) => message(bytes, id, self.depth + 1)?,
            // Only in maps: a list there is wrapped in a message of its own.
            Shape::List(_) => Value::Array(wrapped_strings(bytes, name())?),
            Shape::Map(_) | Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Double => return Ok(None),
        }))
    }

    /// JSON inside a message {1 raw}, or again an enveloped object.
    fn embedded(&self, bytes: &[u8], shape: Shape) -> Result<Option<Value>> {
        let name = match shape {
            Shape::FieldsV1 => "FieldsV1",
            Shape::Any => "JSON",
            _ => "RawExtension",
        };
        let mut raw: &[u8] = &[];
        let mut wire = Wire::new(bytes);
        while let Some(tag) = wire.tag(name)? {
            if tag.number == 1 {
                tag.expect(BYTES, || "Raw".into())?;
                raw = wire.length_delimited()?;
            } else {
                wire.skip(tag)?;
            }
        }
        if raw.is_empty() {
            return Ok(None);
        }
        if raw.starts_with(&envelope::MAGIC) {
            return envelope::object(raw, self.depth + 1).map(Some);
        }
        match json::any(&String::from_utf8_lossy(raw)) {
            Some(Value::Null) => Ok(None),
            Some(value) if 2 * self.depth + value.extent().depth > codec::DEPTH_MAX => {
                Err(WireError(codec::TOO_DEEP.into()))
            }
            Some(mut value) => {
                if shape == Shape::RawExtension
                    && codec::raw::is_kept_in(self.ty)
                    && let (Value::Object(map), Ok(text)) = (&mut value, std::str::from_utf8(raw))
                {
                    codec::raw::keep_text(map, text.trim());
                }
                Ok(Some(value))
            }
            None => {
                Err(WireError(crate::gojson::syntax_error(raw).unwrap_or_else(|| "invalid embedded JSON".to_owned())))
            }
        }
    }

    /// The three union types of CustomResourceDefinitions, printed as their Go types print themselves.
    fn schema_or(&self, bytes: &[u8], shape: Shape, id: TypeId) -> Result<Option<Value>> {
        let (mut allows, mut schema, mut list) = (false, None, Vec::new());
        let mut wire = Wire::new(bytes);
        while let Some(tag) = wire.tag("JSONSchemaProps")? {
            match (shape, tag.number) {
                (Shape::SchemaOrBool(_), 1) => {
                    tag.expect(VARINT, || "Allows".into())?;
                    allows = wire.varint()? != 0;
                }
                (Shape::SchemaOrBool(_), 2) | (Shape::SchemaOrArray(_) | Shape::SchemaOrStrings(_), 1) => {
                    tag.expect(BYTES, || "Schema".into())?;
                    schema = Some(message(wire.length_delimited()?, id, self.depth + 1)?);
                }
                (Shape::SchemaOrArray(_), 2) => {
                    tag.expect(BYTES, || "JSONSchemas".into())?;
                    list.push(message(wire.length_delimited()?, id, self.depth + 1)?);
                }
                (Shape::SchemaOrStrings(_), 2) => {
                    tag.expect(BYTES, || "Property".into())?;
                    list.push(text(wire.length_delimited()?).into());
                }
                _ => wire.skip(tag)?,
            }
        }
        Ok(match shape {
            Shape::SchemaOrBool(_) => Some(schema.unwrap_or(Value::Bool(allows))),
            _ if !list.is_empty() => Some(Value::Array(list)),
            _ => schema,
        })
    }

    /// Builds the object from its slots, in field order.
    fn finish(self) -> Result<Value> {
        let mut out = Map::new();
        for (field, slot) in self.ty.fields.iter().zip(self.slots) {
            let value = match slot {
                Slot::Absent => None,
                Slot::Value(value) => Some(value),
                Slot::List(list) => Some(Value::Array(list)),
                Slot::Map(mut map) => {
                    map.sort_keys();
                    Some(Value::Object(map))
                }
                Slot::Message(bytes) => match field.shape {
                    Shape::Ref(id) => Some(message(&bytes, id, self.depth + 1)?),
                    _ => None,
                },
            };
            let value = match value {
                Some(value) => present(self.schema, self.ty, field, value),
                None => self.schema.absent(field),
            };
            if let Some(value) = value {
                out.push(&*field.name, value);
            }
        }
        Ok(Value::Object(out))
    }
}

/// The only field whose list type is a message of its own.
pub(super) fn is_wrapped(ty: &Type, field: &Field) -> bool {
    field.name == "verbs" && ty.name == "io.k8s.apimachinery.pkg.apis.meta.v1.APIResource"
}

fn wrapped_strings(bytes: &[u8], message: &str) -> Result<Vec<Value>> {
    let mut wire = Wire::new(bytes);
    let mut items = Vec::new();
    while let Some(tag) = wire.tag(message)? {
        if tag.number == 1 {
            tag.expect(BYTES, || "Items".into())?;
            items.push(text(wire.length_delimited()?).into());
        } else {
            wire.skip(tag)?;
        }
    }
    Ok(items)
}

/// Go keeps the low bits of a number that is too large.
fn integer(raw: u64, shape: Shape) -> Value {
    match shape {
        Shape::Bool => Value::Bool(raw != 0),
        Shape::Int32 => Value::from(raw as i32),
        _ => Value::from(raw.cast_signed()),
    }
}

/// A message of integers numbered from 1, absent ones zero.
fn integers<const N: usize>(bytes: &[u8], message: &str) -> Result<[u64; N]> {
    let mut out = [0; N];
    let mut wire = Wire::new(bytes);
    while let Some(tag) = wire.tag(message)? {
        match out.get_mut(tag.number as usize - 1) {
            Some(slot) => {
                tag.expect(VARINT, || format!("{} of {message}", tag.number))?;
                *slot = wire.varint()?;
            }
            None => wire.skip(tag)?,
        }
    }
    Ok(out)
}

fn instant(bytes: &[u8], precision: Precision) -> Result<Option<Value>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let [seconds, nanos] = integers(bytes, "Timestamp")?;
    let text = time::from_unix(seconds.cast_signed(), nanos as i32, precision).map_err(WireError)?;
    Ok(text.map(Value::from))
}

fn quantity(bytes: &[u8]) -> Result<Value> {
    let mut given = None;
    let mut wire = Wire::new(bytes);
    while let Some(tag) = wire.tag("Quantity")? {
        if tag.number == 1 {
            tag.expect(BYTES, || "String".into())?;
            given = Some(text(wire.length_delimited()?));
        } else {
            wire.skip(tag)?;
        }
    }
    let Some(given) = given else { return Ok(Value::String("0".into())) };
    let quantity: Quantity = given.parse().map_err(|e: QuantityError| WireError(e.to_string()))?;
    Ok(quantity.to_string().into())
}

fn int_or_string(bytes: &[u8]) -> Result<Value> {
    let (mut kind, mut number, mut string) = (0, 0, String::new());
    let mut wire = Wire::new(bytes);
    while let Some(tag) = wire.tag("IntOrString")? {
        match tag.number {
            1 => {
                tag.expect(VARINT, || "Type".into())?;
                kind = wire.varint()?;
            }
            2 => {
                tag.expect(VARINT, || "IntVal".into())?;
                number = wire.varint()? as i32;
            }
            3 => {
                tag.expect(BYTES, || "StrVal".into())?;
                string = text(wire.length_delimited()?);
            }
            _ => wire.skip(tag)?,
        }
    }
    match kind {
        0 => Ok(Value::from(number)),
        1 => Ok(string.into()),
        _ => Err(WireError("impossible IntOrString.Type".into())),
    }
}

/// Go does not check; what is not UTF-8 becomes U+FFFD when it is printed.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The name of the Go struct field, which errors show.
fn go_field_name(ty: &Type, field: &Field) -> String {
    match field.name.as_ref() {
        "metadata" if ty.short_name().ends_with("List") => "ListMeta".into(),
        "metadata" => "ObjectMeta".into(),
        "uid" => "UID".into(),
        "apiVersion" => "APIVersion".into(),
        "apiGroup" => "APIGroup".into(),
        "ip" => "IP".into(),
        "url" => "URL".into(),
        name => {
            let mut chars = name.chars();
            chars.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + chars.as_str())
        }
    }
}
