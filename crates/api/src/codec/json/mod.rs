//! The JSON reader: one pass over the text, driven by the schema, straight into the normalised object.
//!
//! It follows Go's `encoding/json` as upstream uses it: a value of the wrong type is skipped and the first such error reported
//! at the end; an error of a type with its own reader (quantities, times, int-or-string) ends the reading at once and wins.

mod errors;
mod tokens;

use std::ops::Range;

use super::time::{self, Precision};
use super::{DEPTH_MAX, base64, raw};
use crate::quantity::Quantity;
use crate::schema::{Field, Omit, Schema, Shape, Type, TypeId};
use crate::value::Fields;
use crate::value::Number;
use crate::{Map, Value};

/// Strict errors kept, as upstream.
const STRICT_ERRORS_MAX: usize = 100;

pub(super) struct Parsed {
    pub(super) value: Value,
    pub(super) strict_errors: Vec<String>,
}

#[derive(Debug)]
pub(super) enum ParseError {
    /// Not JSON; the caller finds Go's words for it.
    Syntax,
    TooDeep,
    /// JSON, but not of this type: Go's error.
    Content(String),
}

type Result<T> = std::result::Result<T, ParseError>;

/// Reads `text` as an object of type `root`. With `strict`, unknown and duplicate fields are collected.
pub(super) fn parse(text: &str, schema: &Schema, root: TypeId, strict: bool) -> Result<Parsed> {
    let mut reader = Reader::new(text, schema, strict);
    reader.skip_space();
    let value = reader.value(Shape::Ref(root), GoType::Derived)?;
    reader.skip_space();
    if reader.at != reader.bytes.len() {
        return Err(ParseError::Syntax);
    }
    if let Some(message) = reader.type_error {
        return Err(ParseError::Content(message));
    }
    let value = value.unwrap_or_else(|| schema.zero(root));
    Ok(Parsed { value, strict_errors: reader.strict_errors })
}

/// Reads an object that only has to have metadata of the right type. With `strict`, duplicate fields are collected, and
/// unknown ones of the metadata.
pub(super) fn parse_resource(text: &str, strict: bool) -> Result<Parsed> {
    let mut reader = Reader::new(text, Schema::builtin(), strict);
    reader.skip_space();
    let value = match reader.peek()? {
        b'{' => {
            reader.deep = strict;
            reader.resource()?
        }
        // What is no object has no kind either, and that is what is said of it.
        _ => reader.any()?,
    };
    reader.skip_space();
    if reader.at != reader.bytes.len() {
        return Err(ParseError::Syntax);
    }
    match reader.type_error {
        Some(message) => Err(ParseError::Content(message)),
        None => Ok(Parsed { value, strict_errors: reader.strict_errors }),
    }
}

/// Reads metadata; the strict errors are the names of unknown fields.
pub(super) fn parse_metadata(text: &str) -> Result<Parsed> {
    let mut parsed = parse(text, Schema::builtin(), meta_type(), true)?;
    let name = |error: String| Some(error.strip_prefix("unknown field \"")?.strip_suffix('"')?.to_owned());
    parsed.strict_errors = parsed.strict_errors.into_iter().filter_map(name).collect();
    Ok(parsed)
}

fn meta_type() -> TypeId {
    Schema::builtin().type_id("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").unwrap_or(TypeId(0))
}

/// Reads a document of no particular type; `None` when it is not JSON or nests too deep.
pub(super) fn any(text: &str) -> Option<Value> {
    let mut reader = Reader::new(text, Schema::builtin(), false);
    reader.skip_space();
    let value = reader.any().ok()?;
    reader.skip_space();
    (reader.at == reader.bytes.len()).then_some(value)
}

/// One step from the root to the value being read.
enum Step<'s> {
    Field {
        owner: TypeId,
        field: &'s Field,
    },
    Index(usize),
    /// A map key, as the raw text between its quotes.
    Key(Range<usize>),
}

/// Go's name of the type being read: given by the schema, or following from the shape.
#[derive(Clone, Copy)]
enum GoType<'s> {
    Named(&'s str),
    Derived,
}

impl<'s> GoType<'s> {
    fn of(field: &'s Field) -> Self {
        field.go_type.as_deref().map_or(Self::Derived, Self::Named)
    }

    /// The type of the items of a list or map of this type.
    fn element(self) -> Self {
        match self {
            Self::Named(name) => match name
                .strip_prefix("[]")
                .or_else(|| name.strip_prefix("map[")?.split_once(']').map(|(_, element)| element))
            {
                Some(element) => Self::Named(element),
                None => Self::Derived,
            },
            Self::Derived => Self::Derived,
        }
    }
}

struct Reader<'s, 't> {
    text: &'t str,
    bytes: &'t [u8],
    at: usize,
    depth: usize,
    schema: &'s Schema,
    strict: bool,
    /// Duplicate fields of values without a type count as well.
    deep: bool,
    path: Vec<Step<'s>>,
    /// Values of the fields of the structs being read, innermost last; absent ones are `None`.
    slots: Vec<Option<Value>>,
    type_error: Option<String>,
    strict_errors: Vec<String>,
}

impl<'s, 't> Reader<'s, 't> {
    fn new(text: &'t str, schema: &'s Schema, strict: bool) -> Self {
        Self {
            text,
            bytes: text.as_bytes(),
            at: 0,
            depth: 0,
            schema,
            strict,
            deep: false,
            path: Vec::with_capacity(16),
            slots: Vec::with_capacity(64),
            type_error: None,
            strict_errors: Vec::new(),
        }
    }

    /// Reads a value; `None` for `null` and for values of a wrong type, which leave a Go variable as it was.
    fn value(&mut self, shape: Shape, go: GoType<'s>) -> Result<Option<Value>> {
        let first = self.peek()?;
        if first == b'n' {
            self.literal("null")?;
            return Ok(None);
        }
        match shape {
            Shape::String => match first {
                b'"' => Ok(Some(Value::String(self.string()?))),
                _ => self.mismatch(first, shape, go),
            },
            Shape::Bool => match first {
                b't' => self.literal("true").map(|()| Some(Value::Bool(true))),
                b'f' => self.literal("false").map(|()| Some(Value::Bool(false))),
                _ => self.mismatch(first, shape, go),
            },
            Shape::Int32 | Shape::Int64 => self.integer(first, shape, go),
            Shape::Double => self.double(first, shape, go),
            Shape::Bytes => match first {
                b'"' => self.base64(),
                b'[' => self.numbered_bytes().map(Some),
                _ => self.mismatch(first, shape, go),
            },
            Shape::Time => self.time(first, Precision::Seconds),
            Shape::MicroTime => self.time(first, Precision::Micros),
            Shape::Duration => self.duration(first),
            Shape::Quantity => self.quantity(),
            Shape::IntOrString => self.int_or_string(first),
            Shape::RawExtension => self.raw().map(Some),
            Shape::Free | Shape::FieldsV1 | Shape::Any => self.any().map(Some),
            Shape::SchemaOrArray(_) | Shape::SchemaOrBool(_) | Shape::SchemaOrStrings(_) => {
                self.schema_or(first, shape)
            }
            Shape::Ref(id) => match first {
                b'{' => self.object(id).map(Some),
                _ => self.mismatch(first, shape, go),
            },
            Shape::List(id) => match first {
                b'[' => self.list(self.schema.element(id), go.element()).map(Some),
                _ => self.mismatch(first, shape, go),
            },
            Shape::Map(id) => match first {
                b'{' => self.map(self.schema.element(id), go.element()).map(Some),
                _ => self.mismatch(first, shape, go),
            },
        }
    }

    /// The root of a resource whose schema is not ours.
    fn resource(&mut self) -> Result<Value> {
        let mut out = Map::new();
        self.enter()?;
        let mut first = true;
        while let Some(key) = self.next_key(&mut first)? {
            let name = self.text_of(&key)?;
            if self.strict && out.contains_key(&name) {
                self.strict_error("duplicate field", &key)?;
            }
            let value = if name == "metadata" {
                let before = self.strict_errors.len();
                let value = self.value(Shape::Ref(meta_type()), GoType::Derived)?;
                // Paths of metadata began at the metadata.
                for error in &mut self.strict_errors[before..] {
                    *error = error.replacen(" field \"", " field \"metadata.", 1);
                }
                value.unwrap_or_else(|| Value::Object(Map::new()))
            } else {
                self.path.push(Step::Key(key));
                let value = self.any()?;
                self.path.pop();
                value
            };
            out.insert(name, value);
        }
        self.leave();
        Ok(Value::Object(out))
    }

    fn object(&mut self, id: TypeId) -> Result<Value> {
        let schema = self.schema;
        let ty = schema.get(id);
        let base = self.slots.len();
        self.slots.resize_with(base + ty.fields.len(), || None);
        let mut seen = Seen::default();
        let mut next = 0;
        self.enter()?;
        let mut first = true;
        while let Some(key) = self.next_key(&mut first)? {
            let index = match self.plain_key(&key) {
                Some(name) => match ty.fields.get(next) {
                    // Most clients write fields in schema order.
                    Some(field) if field.name == name => Some(next),
                    _ => ty.field_index(name),
                },
                None => ty.field_index(&self.unescape(&key)?),
            };
            let Some(index) = index else {
                self.strict_error("unknown field", &key)?;
                self.skip()?;
                continue;
            };
            next = index + 1;
            let field = &ty.fields[index];
            if self.strict && !seen.insert(index) {
                self.strict_error("duplicate field", &key)?;
            }
            self.path.push(Step::Field { owner: id, field });
            let value = self.value(field.shape, GoType::of(field))?;
            self.path.pop();
            // A null leaves a scalar as an earlier duplicate made it, and empties everything else.
            if value.is_some() || field.pointer || !is_scalar(field.shape) {
                self.slots[base + index] = value;
            }
        }
        self.leave();
        Ok(self.finish(ty, base))
    }

    /// Builds the object from its slots, in field order.
    fn finish(&mut self, ty: &Type, base: usize) -> Value {
        // Most types have many more fields than an object of theirs sets, and a field takes a hundred bytes.
        let is_there = |(field, slot): &(&Field, &Option<Value>)| slot.is_some() || field.omit == Omit::Never;
        let n_fields = ty.fields.iter().zip(&self.slots[base..]).filter(is_there).count();
        let mut out = Fields::with_capacity(n_fields);
        for (field, slot) in ty.fields.iter().zip(self.slots.drain(base..)) {
            let value = match slot {
                Some(value) => present(self.schema, ty, field, value),
                None => self.schema.absent(field),
            };
            if let Some(value) = value {
                out.push(&*field.name, value);
            }
        }
        Value::Object(out.into_map())
    }

    fn list(&mut self, element: Shape, go: GoType<'s>) -> Result<Value> {
        let mut out = Vec::new();
        self.enter()?;
        while self.next_item(out.is_empty())? {
            self.path.push(Step::Index(out.len()));
            let value = self.value(element, go)?;
            self.path.pop();
            out.push(value.unwrap_or_else(|| self.schema.zero_item(element)));
        }
        self.leave();
        Ok(Value::Array(out))
    }

    fn map(&mut self, element: Shape, go: GoType<'s>) -> Result<Value> {
        let mut out = Map::new();
        let mut sorted = true;
        self.enter()?;
        let mut first = true;
        while let Some(key) = self.next_key(&mut first)? {
            let name = self.text_of(&key)?;
            if self.strict && out.contains_key(&name) {
                self.strict_error("duplicate field", &key)?;
            }
            self.path.push(Step::Key(key));
            let value = self.value(element, go)?;
            self.path.pop();
            let value = value.unwrap_or_else(|| self.schema.zero_item(element));
            sorted = sorted && out.keys().next_back().is_none_or(|last| *last < name);
            out.insert(name, value);
        }
        self.leave();
        if !sorted {
            out.sort_keys();
        }
        Ok(Value::Object(out))
    }

    fn integer(&mut self, first: u8, shape: Shape, go: GoType<'s>) -> Result<Option<Value>> {
        if !is_number_start(first) {
            return self.mismatch(first, shape, go);
        }
        let text = self.number()?;
        let fits = |n: &i64| shape == Shape::Int64 || i32::try_from(*n).is_ok();
        match text.parse::<i64>().ok().filter(fits) {
            Some(number) => Ok(Some(Value::from(number))),
            None => {
                let what = format!("number {text}");
                self.type_error(&what, shape, go);
                Ok(None)
            }
        }
    }

    fn double(&mut self, first: u8, shape: Shape, go: GoType<'s>) -> Result<Option<Value>> {
        if !is_number_start(first) {
            return self.mismatch(first, shape, go);
        }
        let text = self.number()?;
        match text.parse::<f64>().ok().filter(|f| f.is_finite()) {
            Some(number) => Ok(Some(go_float(number))),
            None => {
                let what = format!("number {text}");
                self.type_error(&what, shape, go);
                Ok(None)
            }
        }
    }

    fn base64(&mut self) -> Result<Option<Value>> {
        let text = self.string()?;
        match base64::canonical(text.into()) {
            Ok(text) => Ok(Some(text.into())),
            Err(error) => {
                self.type_error.get_or_insert(error);
                Ok(None)
            }
        }
    }

    /// Bytes as a list of numbers, which Go reads into any slice of bytes.
    fn numbered_bytes(&mut self) -> Result<Value> {
        let go = GoType::Named("uint8");
        let mut out = Vec::new();
        self.enter()?;
        while self.next_item(out.is_empty())? {
            let number = self.value(Shape::Int64, go)?.and_then(|number| number.as_i64()).unwrap_or(0);
            out.push(u8::try_from(number).unwrap_or_else(|_| {
                self.type_error(&format!("number {number}"), Shape::Int64, go);
                0
            }));
        }
        self.leave();
        Ok(base64::encode(&out).into())
    }

    fn time(&mut self, first: u8, precision: Precision) -> Result<Option<Value>> {
        if first != b'"' {
            return Err(self.own_reader_mismatch(first, "string")?);
        }
        let text = self.string()?;
        time::canonical(&text, precision).map(|t| t.map(Value::from)).map_err(ParseError::Content)
    }

    fn duration(&mut self, first: u8) -> Result<Option<Value>> {
        if first != b'"' {
            return Err(self.own_reader_mismatch(first, "string")?);
        }
        let text = self.string()?;
        time::canonical_duration(&text).map(|t| Some(t.into())).map_err(ParseError::Content)
    }

    /// A quantity is read from the raw text, so numbers keep their digits.
    fn quantity(&mut self) -> Result<Option<Value>> {
        let start = self.at;
        self.skip()?;
        let raw = &self.text[start..self.at];
        let inner = raw.strip_prefix('"').and_then(|r| r.strip_suffix('"')).unwrap_or(raw);
        let quantity: Quantity =
            inner.trim().parse().map_err(|e: crate::quantity::QuantityError| ParseError::Content(e.to_string()))?;
        Ok(Some(quantity.to_string().into()))
    }

    fn int_or_string(&mut self, first: u8) -> Result<Option<Value>> {
        if first == b'"' {
            return Ok(Some(Value::String(self.string()?)));
        }
        if !is_number_start(first) {
            return Err(self.own_reader_mismatch(first, "int32")?);
        }
        let text = self.number()?;
        match text.parse::<i32>() {
            Ok(number) => Ok(Some(Value::from(number))),
            Err(_) => Err(ParseError::Content(self.cannot_unmarshal(&format!("number {text}"), "int32"))),
        }
    }

    /// The three union types of CustomResourceDefinitions. Upstream reads what is inside with a lenient reader.
    fn schema_or(&mut self, first: u8, shape: Shape) -> Result<Option<Value>> {
        let strict = std::mem::take(&mut self.strict);
        let value = match (shape, first) {
            (Shape::SchemaOrArray(id) | Shape::SchemaOrBool(id) | Shape::SchemaOrStrings(id), b'{') => {
                self.object(id).map(Some)
            }
            (Shape::SchemaOrArray(id), b'[') => self.list(Shape::Ref(id), GoType::Derived).map(Some),
            (Shape::SchemaOrStrings(_), b'[') => self.list(Shape::String, GoType::Derived).map(Some),
            (Shape::SchemaOrBool(_), b't') => self.literal("true").map(|()| Some(Value::Bool(true))),
            (Shape::SchemaOrBool(_), b'f') => self.literal("false").map(|()| Some(Value::Bool(false))),
            (Shape::SchemaOrArray(_), _) => self.skip().map(|()| Some(Value::Null)),
            (Shape::SchemaOrBool(_), _) => Err(ParseError::Content("boolean or JSON schema expected".into())),
            (_, _) => Err(ParseError::Content("schema or string array expected".into())),
        };
        self.strict = strict;
        value
    }

    /// Below values without a type, the path is only kept where somebody will hear of it.
    fn step_into(&mut self, step: Step<'s>) {
        if self.deep {
            self.path.push(step);
        }
    }

    fn step_out(&mut self) {
        if self.deep {
            self.path.pop();
        }
    }

    /// Any JSON, kept as it is.
    fn raw(&mut self) -> Result<Value> {
        self.peek()?;
        let begin = self.at;
        let mut value = self.any()?;
        if let Value::Object(map) = &mut value
            && let Some(Step::Field { owner, .. }) = self.path.last()
            && raw::is_kept_in(self.schema.get(*owner))
        {
            raw::keep_text(map, &self.text[begin..self.at]);
        }
        Ok(value)
    }

    fn any(&mut self) -> Result<Value> {
        match self.peek()? {
            b'{' => {
                let mut out = Map::new();
                self.enter()?;
                let mut first = true;
                while let Some(key) = self.next_key(&mut first)? {
                    let name = self.text_of(&key)?;
                    if self.deep && out.contains_key(&name) {
                        self.strict_error("duplicate field", &key)?;
                    }
                    self.step_into(Step::Key(key));
                    let value = self.any()?;
                    self.step_out();
                    out.insert(name, value);
                }
                self.leave();
                Ok(Value::Object(out))
            }
            b'[' => {
                let mut out = Vec::new();
                self.enter()?;
                while self.next_item(out.is_empty())? {
                    self.step_into(Step::Index(out.len()));
                    out.push(self.any()?);
                    self.step_out();
                }
                self.leave();
                Ok(Value::Array(out))
            }
            b'"' => Ok(Value::String(self.string()?)),
            b't' => self.literal("true").map(|()| Value::Bool(true)),
            b'f' => self.literal("false").map(|()| Value::Bool(false)),
            b'n' => self.literal("null").map(|()| Value::Null),
            _ => {
                let text = self.number()?;
                Ok(Value::Number(text.parse::<Number>().unwrap_or_else(|_| Number::from(0))))
            }
        }
    }
}

fn is_number_start(byte: u8) -> bool {
    byte == b'-' || byte.is_ascii_digit()
}

/// A field that was given a value: left out when Go would leave it out.
pub(super) fn present(schema: &Schema, ty: &Type, field: &Field, value: Value) -> Option<Value> {
    if field.pointer || field.tells_empty {
        return Some(value);
    }
    let omits = field.omit != Omit::Never;
    match &value {
        Value::Array(list) if list.is_empty() && matches!(field.shape, Shape::List(_)) => {
            match (omits, ty.keeps_empty_lists) {
                (true, _) => None,
                (false, true) => Some(value),
                (false, false) => Some(Value::Null),
            }
        }
        Value::Object(map) if map.is_empty() && matches!(field.shape, Shape::Map(_)) => {
            match (omits, ty.keeps_empty_lists) {
                (true, _) => None,
                (false, true) => Some(value),
                (false, false) => Some(Value::Null),
            }
        }
        Value::Object(_) if field.omit == Omit::Zero && value == schema.zero_shape(field.shape) => None,
        Value::String(s) if omits && s.is_empty() && matches!(field.shape, Shape::String | Shape::Bytes) => None,
        Value::Bool(false) if omits && field.shape == Shape::Bool => None,
        Value::Number(n)
            if omits
                && n.as_f64() == Some(0.0)
                && matches!(field.shape, Shape::Int32 | Shape::Int64 | Shape::Double) =>
        {
            None
        }
        _ => Some(value),
    }
}

/// Kinds of Go variable that `null` leaves alone.
fn is_scalar(shape: Shape) -> bool {
    matches!(shape, Shape::String | Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Double | Shape::Ref(_))
}

/// Whole floats print without a fraction, as in Go.
pub(crate) fn go_float(number: f64) -> Value {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT_MAX { Value::from(number as i64) } else { Value::from(number) }
}

/// Which fields of a struct have been read.
#[derive(Default)]
struct Seen([u64; 2]);

impl Seen {
    /// False when it was there already. Fields beyond 128 are not tracked; no type has as many.
    fn insert(&mut self, index: usize) -> bool {
        let Some(word) = self.0.get_mut(index / 64) else { return true };
        let bit = 1 << (index % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}
