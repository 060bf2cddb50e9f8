//! A value as a target for serde: how a Rust type becomes a tree.

use std::fmt::Display;

use serde::ser::{Error as _, Impossible, Serialize, SerializeMap, SerializeSeq, SerializeStruct};
use serde::ser::{SerializeStructVariant, SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer};
use serde_json::Error;

use super::{Map, Number, Text, Value};

/// Any serializable thing as a tree.
pub fn to_value(thing: impl Serialize) -> Result<Value, Error> {
    thing.serialize(Maker)
}

struct Maker;

impl Serializer for Maker {
    type Ok = Value;
    type Error = Error;
    type SerializeSeq = List;
    type SerializeTuple = List;
    type SerializeTupleStruct = List;
    type SerializeTupleVariant = Named<List>;
    type SerializeMap = Object;
    type SerializeStruct = Object;
    type SerializeStructVariant = Named<Object>;

    fn serialize_bool(self, b: bool) -> Result<Value, Error> {
        Ok(b.into())
    }

    fn serialize_i8(self, number: i8) -> Result<Value, Error> {
        Ok(number.into())
    }

    fn serialize_i16(self, number: i16) -> Result<Value, Error> {
        Ok(number.into())
    }

    fn serialize_i32(self, number: i32) -> Result<Value, Error> {
        Ok(number.into())
    }

    fn serialize_i64(self, number: i64) -> Result<Value, Error> {
        Ok(number.into())
    }

    fn serialize_i128(self, number: i128) -> Result<Value, Error> {
        Number::from_i128(number).map(Value::from).ok_or_else(|| Error::custom("number out of range"))
    }

    fn serialize_u8(self, number: u8) -> Result<Value, Error> {
        Ok(number.into())
    }

    fn serialize_u16(self, number: u16) -> Result<Value, Error> {
        Ok(number.into())
    }

    fn serialize_u32(self, number: u32) -> Result<Value, Error> {
        Ok(number.into())
    }

    fn serialize_u64(self, number: u64) -> Result<Value, Error> {
        Ok(number.into())
    }

    fn serialize_u128(self, number: u128) -> Result<Value, Error> {
        Number::from_u128(number).map(Value::from).ok_or_else(|| Error::custom("number out of range"))
    }

    fn serialize_f32(self, number: f32) -> Result<Value, Error> {
        Ok(f64::from(number).into())
    }

    fn serialize_f64(self, number: f64) -> Result<Value, Error> {
        Ok(number.into())
    }

    fn serialize_char(self, c: char) -> Result<Value, Error> {
        Ok(Value::from(&*c.encode_utf8(&mut [0; 4])))
    }

    fn serialize_str(self, text: &str) -> Result<Value, Error> {
        Ok(text.into())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<Value, Error> {
        Ok(bytes.iter().copied().collect())
    }

    fn serialize_none(self) -> Result<Value, Error> {
        Ok(Value::Null)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, thing: &T) -> Result<Value, Error> {
        thing.serialize(self)
    }

    fn serialize_unit(self) -> Result<Value, Error> {
        Ok(Value::Null)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Value, Error> {
        Ok(Value::Null)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<Value, Error> {
        Ok(variant.into())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, thing: &T) -> Result<Value, Error> {
        thing.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        thing: &T,
    ) -> Result<Value, Error> {
        Ok(Value::from_iter([(variant, thing.serialize(self)?)]))
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<List, Error> {
        Ok(List(Vec::with_capacity(length.unwrap_or(0))))
    }

    fn serialize_tuple(self, length: usize) -> Result<List, Error> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_struct(self, _: &'static str, length: usize) -> Result<List, Error> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Named<List>, Error> {
        Ok(Named { variant, content: self.serialize_seq(Some(length))? })
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Object, Error> {
        Ok(Object { map: Map::with_capacity(length.unwrap_or(0)), name: Text::default() })
    }

    fn serialize_struct(self, _: &'static str, length: usize) -> Result<Object, Error> {
        self.serialize_map(Some(length))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Named<Object>, Error> {
        Ok(Named { variant, content: self.serialize_map(Some(length))? })
    }

    fn collect_str<T: Display + ?Sized>(self, text: &T) -> Result<Value, Error> {
        Ok(Value::from(text.to_string()))
    }
}

struct List(Vec<Value>);

impl List {
    fn push<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), Error> {
        self.0.push(item.serialize(Maker)?);
        Ok(())
    }
}

macro_rules! list {
    ($trait:ident, $push:ident) => {
        impl $trait for List {
            type Ok = Value;
            type Error = Error;

            fn $push<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), Error> {
                self.push(item)
            }

            fn end(self) -> Result<Value, Error> {
                Ok(Value::Array(self.0))
            }
        }
    };
}

list!(SerializeSeq, serialize_element);
list!(SerializeTuple, serialize_element);
list!(SerializeTupleStruct, serialize_field);

struct Object {
    map: Map,
    /// Of the entry whose value comes next.
    name: Text,
}

impl SerializeMap for Object {
    type Ok = Value;
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, name: &T) -> Result<(), Error> {
        self.name = name.serialize(Namer)?;
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, thing: &T) -> Result<(), Error> {
        self.map.insert(std::mem::take(&mut self.name), thing.serialize(Maker)?);
        Ok(())
    }

    fn end(self) -> Result<Value, Error> {
        Ok(Value::Object(self.map))
    }
}

impl SerializeStruct for Object {
    type Ok = Value;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, thing: &T) -> Result<(), Error> {
        self.map.insert(name, thing.serialize(Maker)?);
        Ok(())
    }

    fn end(self) -> Result<Value, Error> {
        Ok(Value::Object(self.map))
    }
}

/// What an enum's variant holds, under its name.
struct Named<C> {
    variant: &'static str,
    content: C,
}

impl SerializeTupleVariant for Named<List> {
    type Ok = Value;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), Error> {
        self.content.push(item)
    }

    fn end(self) -> Result<Value, Error> {
        Ok(Value::from_iter([(self.variant, Value::Array(self.content.0))]))
    }
}

impl SerializeStructVariant for Named<Object> {
    type Ok = Value;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, thing: &T) -> Result<(), Error> {
        SerializeStruct::serialize_field(&mut self.content, name, thing)
    }

    fn end(self) -> Result<Value, Error> {
        Ok(Value::from_iter([(self.variant, Value::Object(self.content.map))]))
    }
}

/// The name of an entry: a text, or what has one.
struct Namer;

macro_rules! named_by_number {
    ($($method:ident: $number:ty),+) => { $(
        fn $method(self, number: $number) -> Result<Text, Error> {
            Ok(number.to_string().into())
        }
    )+ };
}

macro_rules! no_name {
    ($($method:ident($($arg:ty),*) -> $out:ty;)+) => { $(
        fn $method(self, $(_: $arg),*) -> Result<$out, Error> {
            Err(not_a_name())
        }
    )+ };
}

fn not_a_name() -> Error {
    Error::custom("key must be a string")
}

impl Serializer for Namer {
    type Ok = Text;
    type Error = Error;
    type SerializeSeq = Impossible<Text, Error>;
    type SerializeTuple = Impossible<Text, Error>;
    type SerializeTupleStruct = Impossible<Text, Error>;
    type SerializeTupleVariant = Impossible<Text, Error>;
    type SerializeMap = Impossible<Text, Error>;
    type SerializeStruct = Impossible<Text, Error>;
    type SerializeStructVariant = Impossible<Text, Error>;

    named_by_number!(
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64
    );

    no_name! {
        serialize_f32(f32) -> Text;
        serialize_f64(f64) -> Text;
        serialize_bytes(&[u8]) -> Text;
        serialize_none() -> Text;
        serialize_unit() -> Text;
        serialize_unit_struct(&'static str) -> Text;
        serialize_seq(Option<usize>) -> Self::SerializeSeq;
        serialize_tuple(usize) -> Self::SerializeTuple;
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Self::SerializeTupleVariant;
        serialize_map(Option<usize>) -> Self::SerializeMap;
        serialize_struct(&'static str, usize) -> Self::SerializeStruct;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Self::SerializeStructVariant;
    }

    fn serialize_bool(self, b: bool) -> Result<Text, Error> {
        Ok(Text::const_new(if b { "true" } else { "false" }))
    }

    fn serialize_char(self, c: char) -> Result<Text, Error> {
        Ok(Text::new(c.encode_utf8(&mut [0; 4])))
    }

    fn serialize_str(self, text: &str) -> Result<Text, Error> {
        Ok(Text::new(text))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<Text, Error> {
        Err(not_a_name())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<Text, Error> {
        Ok(Text::const_new(variant))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, thing: &T) -> Result<Text, Error> {
        thing.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<Text, Error> {
        Err(not_a_name())
    }
}
