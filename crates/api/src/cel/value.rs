//! Values at run time. Data of objects is not converted: lists and maps are looked into where they are.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use jiff::Timestamp;

use crate::value::Text as Name;
use crate::{Map, Value};

use super::ast::Literal;
use super::escape;
use super::opaque::Opaque;
use super::structural::{Form, Format, ListType, Structural};
use super::types::Type;

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The expression's own fault, in cel-go's words.
    #[error("{0}")]
    Failed(String),
    /// It costs more than it may.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostLimit,
}

pub(super) type Eval<T> = Result<T, EvalError>;

/// An error with a message.
pub(super) fn fail<T>(message: impl Into<String>) -> Eval<T> {
    Err(EvalError::Failed(message.into()))
}

pub(super) fn no_such_overload<T>() -> Eval<T> {
    fail("no such overload")
}

/// A string, borrowed from the data or shared.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Shared(Arc<str>),
}

impl std::ops::Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

/// A value of an expression, or of one of its variables.
#[derive(Clone, Debug)]
pub enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    /// Nanoseconds.
    Duration(i64),
    Timestamp(Timestamp),
    Type(Type),
    List(List<'a>),
    Map(MapVal<'a>),
    Optional(Option<Arc<Val<'a>>>),
    /// Made by the expression itself: `Object{…}`, `JSONPatch{…}`.
    Struct(Arc<Struct<'a>>),
    /// A value of an extension library.
    Opaque(Opaque),
    /// Data without a schema in data with one: it can only be compared.
    Unknown(&'a Value),
}

#[derive(Clone, Debug)]
pub struct Struct<'a> {
    pub name: Arc<str>,
    pub fields: BTreeMap<Arc<str>, Val<'a>>,
}

#[derive(Clone, Debug)]
pub enum List<'a> {
    /// Items in the data, with the schema of the list if there is one.
    Data(&'a [Value], Option<&'a Structural>),
    Made(Arc<Vec<Val<'a>>>),
}

#[derive(Clone, Debug)]
pub enum MapVal<'a> {
    Data(&'a Map, Option<&'a Structural>),
    Made(Arc<BTreeMap<Key<'a>, Val<'a>>>),
}

/// A key of a map. Numbers of different types are the same key when they are equal.
#[derive(Clone, Debug)]
pub enum Key<'a> {
    Bool(bool),
    Int(i64),
    Uint(u64),
    String(Text<'a>),
}

impl<'a> Key<'a> {
    /// `None`: no map has a key like this.
    fn from_val(val: &Val<'a>) -> Option<Self> {
        Some(match val {
            Val::Bool(b) => Self::Bool(*b),
            Val::Int(n) => Self::Int(*n),
            Val::Uint(n) => Self::Uint(*n),
            Val::Double(d) if d.fract() == 0.0 && d.abs() < 9.0e18 => Self::Int(*d as i64),
            Val::String(text) => Self::String(text.clone()),
            _ => return None,
        })
    }

    pub fn to_val(&self) -> Val<'a> {
        match self {
            Self::Bool(b) => Val::Bool(*b),
            Self::Int(n) => Val::Int(*n),
            Self::Uint(n) => Val::Uint(*n),
            Self::String(text) => Val::String(text.clone()),
        }
    }

    /// Kinds apart, numbers together.
    fn rank(&self) -> (u8, i128, &str) {
        match self {
            Self::Bool(b) => (0, i128::from(*b), ""),
            Self::Int(n) => (1, i128::from(*n), ""),
            Self::Uint(n) => (1, i128::from(*n), ""),
            Self::String(text) => (2, 0, text),
        }
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Key<'_> {}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl<'a> Val<'a> {
    /// Data without a schema.
    pub fn data(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(b) => Self::Bool(*b),
            Value::Number(n) => match n.as_i64() {
                Some(n) => Self::Int(n),
                None => Self::Double(n.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Self::String(Text::Borrowed(text)),
            Value::Array(items) => Self::List(List::Data(items, None)),
            Value::Object(map) => Self::Map(MapVal::Data(map, None)),
        }
    }

    /// Data described by a schema.
    pub fn structural(value: &'a Value, schema: &'a Structural) -> Eval<Self> {
        if value.is_null() {
            if schema.nullable {
                return Ok(Self::Null);
            }
            return fail("invalid data, got null for schema with nullable=false");
        }
        match (&schema.form, value) {
            (Form::IntOrString, Value::String(text)) => Ok(Self::String(Text::Borrowed(text))),
            (Form::IntOrString, Value::Number(n)) if n.is_i64() => Ok(Self::Int(n.as_i64().unwrap_or(0))),
            (Form::IntOrString, _) => {
                fail("invalid data, expected XIntOrString value to be either a string or integer")
            }
            (Form::Object(_) | Form::Map(_), Value::Object(map)) => Ok(Self::Map(MapVal::Data(map, Some(schema)))),
            (Form::Object(_) | Form::Map(_), _) => {
                fail("invalid data, expected a map for the provided schema with type=object")
            }
            (Form::List { items: None, .. }, _) => fail("invalid array type, expected Items with a non-empty Schema"),
            (Form::List { .. }, Value::Array(items)) => Ok(Self::List(List::Data(items, Some(schema)))),
            (Form::List { .. }, _) => fail("invalid data, expected an array for the provided schema with type=array"),
            (Form::String(format), Value::String(text)) => formatted(*format, text),
            (Form::String(_), other) => fail(format!("invalid data, expected string, got {}", go_type(other))),
            (Form::Number, Value::Number(n)) => Ok(Self::Double(n.as_f64().unwrap_or(f64::NAN))),
            (Form::Number, other) => fail(format!("invalid data, expected float, got {}", go_type(other))),
            (Form::Integer, Value::Number(n)) if n.is_i64() => Ok(Self::Int(n.as_i64().unwrap_or(0))),
            (Form::Integer, other) => fail(format!("invalid data, expected int, got {}", go_type(other))),
            (Form::Boolean, Value::Bool(b)) => Ok(Self::Bool(*b)),
            (Form::Boolean, other) => fail(format!("invalid data, expected bool, got {}", go_type(other))),
            (Form::Unknown, other) => Ok(Self::Unknown(other)),
            (Form::Untyped(kind), _) => fail(format!(
                "invalid type, expected object, array, number, integer, boolean or string, or no type with \
                 x-kubernetes-int-or-string or x-kubernetes-preserve-unknown-fields is true, got {kind}"
            )),
        }
    }

    pub fn string(text: impl Into<Arc<str>>) -> Self {
        Self::String(Text::Shared(text.into()))
    }

    pub(super) fn list(items: Vec<Val<'a>>) -> Self {
        Self::List(List::Made(Arc::new(items)))
    }

    pub(super) fn strings(items: impl IntoIterator<Item = String>) -> Self {
        Self::list(items.into_iter().map(Val::string).collect())
    }

    pub fn some(value: Val<'a>) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    pub(super) fn literal(literal: &Literal) -> Self {
        match literal {
            Literal::Null => Self::Null,
            Literal::Bool(b) => Self::Bool(*b),
            Literal::Int(n) => Self::Int(*n),
            Literal::Uint(n) => Self::Uint(*n),
            Literal::Double(d) => Self::Double(*d),
            Literal::String(text) => Self::string(text.clone()),
            Literal::Bytes(bytes) => Self::Bytes(bytes.clone()),
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// What `type()` of it is.
    pub(super) fn type_of(&self) -> Type {
        match self {
            Self::Null => Type::Null,
            Self::Bool(_) => Type::Bool,
            Self::Int(_) => Type::Int,
            Self::Uint(_) => Type::Uint,
            Self::Double(_) => Type::Double,
            Self::String(_) => Type::String,
            Self::Bytes(_) => Type::Bytes,
            Self::Duration(_) => Type::Duration,
            Self::Timestamp(_) => Type::Timestamp,
            Self::Type(_) => Type::Type(None),
            Self::List(_) => Type::list(Type::Dyn),
            Self::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Self::Optional(_) => Type::optional(Type::Dyn),
            Self::Struct(made) => Type::Object(made.name.clone()),
            Self::Opaque(value) => Type::object(value.type_name()),
            Self::Unknown(_) => Type::object("unknown"),
        }
    }

    /// Number of characters, bytes, items or entries; `None` for what has no size.
    pub(super) fn size(&self) -> Option<usize> {
        match self {
            Self::String(text) => Some(text.chars().count()),
            Self::Bytes(bytes) => Some(bytes.len()),
            Self::List(list) => Some(list.len()),
            Self::Map(map) => Some(map.len()),
            _ => None,
        }
    }

    /// Empty, zero, false or null.
    pub(super) fn is_zero(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(b) => !b,
            Self::Int(n) => *n == 0,
            Self::Uint(n) => *n == 0,
            Self::Double(d) => *d == 0.0,
            Self::Duration(d) => *d == 0,
            Self::Optional(inner) => inner.is_none(),
            Self::Struct(made) => made.fields.is_empty(),
            Self::String(_) | Self::Bytes(_) | Self::List(_) | Self::Map(_) => self.size() == Some(0),
            Self::Timestamp(_) | Self::Type(_) | Self::Opaque(_) | Self::Unknown(_) => false,
        }
    }

    pub(super) fn equals(&self, other: &Val<'a>) -> Eval<bool> {
        Ok(match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(_) | Self::Uint(_) | Self::Double(_), Self::Int(_) | Self::Uint(_) | Self::Double(_)) => {
                compare_numbers(self, other) == Some(Ordering::Equal)
            }
            (Self::String(a), Self::String(b)) => **a == **b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a.name() == b.name(),
            (Self::List(a), Self::List(b)) => a.equals(b)?,
            (Self::Map(a), Self::Map(b)) => a.equals(b)?,
            (Self::Optional(a), Self::Optional(b)) => match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => a.equals(b)?,
                _ => false,
            },
            (Self::Struct(a), Self::Struct(b)) => {
                if a.name != b.name || a.fields.len() != b.fields.len() {
                    return Ok(false);
                }
                for (name, value) in &a.fields {
                    match b.fields.get(name) {
                        Some(other) if value.equals(other)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Self::Opaque(a), Self::Opaque(b)) => a.equals(b),
            (Self::Unknown(a), Self::Unknown(b)) => a == b,
            _ => false,
        })
    }

    pub(super) fn compare(&self, other: &Val<'a>) -> Eval<Ordering> {
        Ok(match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Int(_) | Self::Uint(_) | Self::Double(_), Self::Int(_) | Self::Uint(_) | Self::Double(_)) => {
                match compare_numbers(self, other) {
                    Some(ordering) => ordering,
                    None => return fail("NaN values cannot be ordered"),
                }
            }
            (Self::String(a), Self::String(b)) => (**a).cmp(&**b),
            (Self::Bytes(a), Self::Bytes(b)) => a.cmp(b),
            (Self::Duration(a), Self::Duration(b)) => a.cmp(b),
            (Self::Timestamp(a), Self::Timestamp(b)) => a.cmp(b),
            _ => return no_such_overload(),
        })
    }

    /// The value as JSON, as upstream stores what an expression made.
    pub fn to_json(&self) -> Result<Value, String> {
        Ok(match self {
            Self::Null => Value::Null,
            Self::Bool(b) => Value::Bool(*b),
            Self::Int(n) => (*n).into(),
            Self::Uint(n) => (*n).into(),
            Self::Double(d) => crate::value::Number::from_f64(*d).map_or(Value::Null, Value::Number),
            Self::String(text) => Value::from(&**text),
            Self::Bytes(bytes) => base64::engine::general_purpose::STANDARD.encode(bytes).into(),
            Self::Duration(_) | Self::Timestamp(_) => super::standard::to_text(self).unwrap_or_default().into(),
            Self::List(list) => {
                let items = list.iter().map(|item| item.map_err(|e| e.to_string())?.to_json());
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            Self::Map(map) => {
                let mut out = Map::new();
                for key in map.keys() {
                    let value = map.get(&key).map_err(|e| e.to_string())?.unwrap_or(Val::Null);
                    match key {
                        Val::String(key) => out.insert(&*key, value.to_json()?),
                        other => {
                            return Err(format!("map key {} is of type {}, not string", show(&other), other.type_of()));
                        }
                    };
                }
                Value::Object(out)
            }
            Self::Optional(Some(inner)) => inner.to_json()?,
            Self::Optional(None) => return Err("optional.none() dereference".to_owned()),
            Self::Struct(made) => {
                let mut out = Map::new();
                for (name, value) in &made.fields {
                    out.insert(&**name, value.to_json()?);
                }
                Value::Object(out)
            }
            Self::Unknown(value) => (*value).clone(),
            Self::Type(t) => return Err(format!("type conversion not supported for '{t}'")),
            Self::Opaque(value) => value.text().ok_or_else(|| "no JSON for this type".to_owned())?.into(),
        })
    }
}

/// A value in an error message, as Go's `%v` prints it.
pub(super) fn show(val: &Val<'_>) -> String {
    match val {
        Val::String(text) => text.to_string(),
        Val::Null => "null".to_owned(),
        Val::Bool(b) => b.to_string(),
        Val::Int(n) => n.to_string(),
        Val::Uint(n) => n.to_string(),
        Val::Double(d) => super::standard::go_float(*d),
        Val::Type(t) => t.name().to_owned(),
        other => super::standard::to_text(other).unwrap_or_else(|| other.type_of().name().to_owned()),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn formatted<'a>(format: Format, text: &'a str) -> Eval<Val<'a>> {
    match format {
        Format::Plain => Ok(Val::String(Text::Borrowed(text))),
        Format::Bytes => match base64::engine::general_purpose::STANDARD.decode(text) {
            Ok(bytes) => Ok(Val::Bytes(bytes.into())),
            Err(error) => fail(format!("Invalid byte formatted string {text}: {error}")),
        },
        Format::Duration => match super::standard::parse_duration(text) {
            Some(nanoseconds) => Ok(Val::Duration(nanoseconds)),
            None => fail(format!("Invalid duration {text}: time: invalid duration {text:?}")),
        },
        Format::Date => match text.parse::<jiff::civil::Date>() {
            Ok(date) => match date.to_zoned(jiff::tz::TimeZone::UTC) {
                Ok(zoned) => Ok(Val::Timestamp(zoned.timestamp())),
                Err(error) => fail(format!("Invalid date formatted string {text}: {error}")),
            },
            Err(error) => fail(format!("Invalid date formatted string {text}: {error}")),
        },
        Format::DateTime => match super::standard::parse_timestamp(text) {
            Some(time) => Ok(Val::Timestamp(time)),
            None => fail(format!("Invalid date-time formatted string {text}")),
        },
    }
}

/// `None` when a NaN is among them.
fn compare_numbers(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    let integer = |val: &Val<'_>| match val {
        Val::Int(n) => Some(i128::from(*n)),
        Val::Uint(n) => Some(i128::from(*n)),
        _ => None,
    };
    let double = |val: &Val<'_>| match val {
        Val::Int(n) => *n as f64,
        Val::Uint(n) => *n as f64,
        Val::Double(d) => *d,
        _ => f64::NAN,
    };
    match (integer(a), integer(b)) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => double(a).partial_cmp(&double(b)),
    }
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        match self {
            Self::Data(items, _) => items.len(),
            Self::Made(items) => items.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, index: usize) -> Option<Eval<Val<'a>>> {
        match self {
            Self::Data(items, schema) => items.get(index).map(|item| match schema.and_then(|schema| schema.items()) {
                Some(schema) => Val::structural(item, schema),
                None => Ok(Val::data(item)),
            }),
            Self::Made(items) => items.get(index).cloned().map(Ok),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Eval<Val<'a>>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    pub(super) fn list_type(&self) -> &'a ListType {
        match self {
            Self::Data(_, Some(Structural { form: Form::List { list_type, .. }, .. })) => list_type,
            _ => &ListType::Atomic,
        }
    }

    pub(super) fn contains(&self, wanted: &Val<'a>) -> Eval<bool> {
        let mut error = None;
        for item in self.iter() {
            match item.and_then(|item| item.equals(wanted)) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(EvalError::CostLimit) => return Err(EvalError::CostLimit),
                Err(e) => error = Some(e),
            }
        }
        error.map_or(Ok(false), Err)
    }

    /// Sets and lists that are maps do not care for order.
    fn equals(&self, other: &List<'a>) -> Eval<bool> {
        if self.len() != other.len() {
            return Ok(false);
        }
        match self.list_type() {
            ListType::Atomic => {
                for (a, b) in self.iter().zip(other.iter()) {
                    if !a?.equals(&b?)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            ListType::Set => {
                for item in other.iter() {
                    if !self.contains(&item?)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            ListType::Map(keys) => {
                for item in other.iter() {
                    let item = item?;
                    match self.with_keys_of(&item, keys)? {
                        Some(own) if own.equals(&item)? => {}
                        _ => return Ok(false),
                    }
                }
                Ok(true)
            }
        }
    }

    /// The element that has the same keys as another.
    pub(super) fn with_keys_of(&self, other: &Val<'a>, keys: &[String]) -> Eval<Option<Val<'a>>> {
        for item in self.iter() {
            let item = item?;
            if same_keys(&item, other, keys)? {
                return Ok(Some(item));
            }
        }
        Ok(None)
    }
}

pub(super) fn same_keys<'a>(a: &Val<'a>, b: &Val<'a>, keys: &[String]) -> Eval<bool> {
    let (Val::Map(a), Val::Map(b)) = (a, b) else { return Ok(false) };
    for key in keys {
        let key = Val::string(escape::escape(key).unwrap_or_else(|| key.clone()));
        let same = match (a.get(&key)?, b.get(&key)?) {
            (Some(a), Some(b)) => a.equals(&b)?,
            (None, None) => true,
            _ => false,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

impl<'a> MapVal<'a> {
    pub fn len(&self) -> usize {
        match self {
            Self::Data(map, _) => map.len(),
            Self::Made(map) => map.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value at a key; a key of the wrong type for a map of data is an error.
    pub fn get(&self, key: &Val<'a>) -> Eval<Option<Val<'a>>> {
        match self {
            Self::Data(map, schema) => match key {
                Val::String(name) => Self::in_data(map, *schema, name),
                _ if schema.is_some() => no_such_overload(),
                _ => Ok(None),
            },
            Self::Made(map) => Ok(Key::from_val(key).and_then(|key| map.get(&key).cloned())),
        }
    }

    pub(super) fn field(&self, name: &str) -> Eval<Option<Val<'a>>> {
        match self {
            Self::Data(map, schema) => Self::in_data(map, *schema, name),
            Self::Made(map) => Ok(map.get(&Key::String(Text::Shared(name.into()))).cloned()),
        }
    }

    fn in_data(map: &'a Map, schema: Option<&'a Structural>, name: &str) -> Eval<Option<Val<'a>>> {
        let Some(schema) = schema else { return Ok(map.get(name).map(Val::data)) };
        let is_object = matches!(schema.form, Form::Object(_));
        let unescaped;
        let name = if is_object && name.contains("__") {
            match escape::unescape(name) {
                Some(plain) => unescaped = plain,
                None => return Ok(None),
            }
            &unescaped
        } else {
            name
        };
        let Some(value) = map.get(name) else { return Ok(None) };
        // A nullable field that is null is as good as absent; an entry of a map is not.
        if is_object && value.is_null() {
            return Ok(None);
        }
        schema.property(name).map(|schema| Val::structural(value, schema)).transpose()
    }

    /// All keys an expression can see, in a fixed order.
    pub fn keys(&self) -> Vec<Val<'a>> {
        match self {
            Self::Data(map, schema) => {
                let mut names: Vec<&'a Name> = map.keys().collect();
                names.sort();
                let visible = |name: &&Name| schema.is_none_or(|schema| schema.property(name).is_some());
                let is_object = schema.is_some_and(|schema| matches!(schema.form, Form::Object(_)));
                let shown = |name: &'a Name| match escape::escape(name) {
                    Some(escaped) if is_object => Val::string(escaped),
                    _ => Val::String(Text::Borrowed(name)),
                };
                names.into_iter().filter(visible).map(shown).collect()
            }
            Self::Made(map) => map.keys().map(Key::to_val).collect(),
        }
    }

    fn equals(&self, other: &MapVal<'a>) -> Eval<bool> {
        if self.len() != other.len() {
            return Ok(false);
        }
        if let (Self::Data(a, Some(schema)), Self::Data(b, _)) = (self, other) {
            // Fields that the schema does not know are compared as they are.
            let unknown = |name: &&Name| schema.property(name).is_none();
            if a.keys().filter(unknown).any(|name| b.get(name).is_some_and(|other| *other != a[name])) {
                return Ok(false);
            }
        }
        for key in self.keys() {
            match (self.get(&key)?, other.get(&key)?) {
                (Some(a), Some(b)) if a.equals(&b)? => {}
                (None, None) => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// A map made from entries; a key that comes twice, or is no key, is an error.
pub(super) fn make_map<'a>(entries: impl IntoIterator<Item = (Val<'a>, Val<'a>)>) -> Eval<Val<'a>> {
    let mut map = BTreeMap::new();
    for (key, value) in entries {
        insert(&mut map, &key, value)?;
    }
    Ok(Val::Map(MapVal::Made(Arc::new(map))))
}

pub(super) fn insert<'a>(map: &mut BTreeMap<Key<'a>, Val<'a>>, key: &Val<'a>, value: Val<'a>) -> Eval<()> {
    let Some(own) = Key::from_val(key) else {
        return fail(format!("unsupported key type: {}", key.type_of().name()));
    };
    if map.insert(own, value).is_some() {
        return fail(format!("insert failed: key {} already exists", show(key)));
    }
    Ok(())
}

impl fmt::Display for Val<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show(self))
    }
}
