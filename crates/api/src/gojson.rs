//! JSON read the way upstream's decoder reads it, where the difference is visible: syntax errors in Go's words, and the names
//! of duplicate fields. Values come out as ordinary [`Value`]s; the last of two duplicate fields wins.

use std::fmt;
use std::num::{IntErrorKind, ParseIntError};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::field::go_quote;
use crate::value::{Fields, Text, plain, unusual};
use crate::{Map, Value};

/// Duplicates remembered per document; a hostile body cannot make the error long.
const DUPLICATES_MAX: usize = 100;

/// A parsed document and the paths of fields that were given twice, e.g. `spec.replicas` or `items[0].name`.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub value: Value,
    pub duplicates: Vec<String>,
}

/// Parses one JSON document. The error is Go's text, e.g. `unexpected end of JSON input`.
pub fn parse(bytes: &[u8]) -> Result<Document, String> {
    if let Some(value) = plain(bytes) {
        return Ok(Document { value, duplicates: Vec::new() });
    }
    let mut duplicates = Vec::new();
    let mut deserializer = unusual(bytes);
    let seed = Seed { place: Place::Root, duplicates: &mut duplicates };
    let parsed = seed.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    match parsed {
        Ok(value) => Ok(Document { value, duplicates }),
        // What only serde_json refuses (nesting, lone surrogates, numbers out of range) keeps its own text.
        Err(error) => Err(syntax_error(bytes).unwrap_or_else(|| error.to_string())),
    }
}

/// Go's name for a JSON type in `cannot unmarshal` errors.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A value as Go's `fmt` prints it with `%v`: `map[a:1 b:[x y]]`, keys sorted, strings bare.
pub fn print(value: &Value) -> String {
    let mut out = String::new();
    print_into(value, &mut out);
    out
}

/// The integer that a number with a fraction of zero is.
pub fn whole(value: &Value) -> Option<i64> {
    const INTEGER_MAX: f64 = 9_007_199_254_740_992.0;
    let number = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() <= INTEGER_MAX)?;
    // The bound makes the conversion exact.
    #[allow(clippy::cast_possible_truncation)]
    Some(number as i64)
}

/// Whether there is a number like `1.0`, which is written as a whole one where no schema says that it is none.
pub fn has_whole_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64() && whole(value).is_some(),
        Value::Array(items) => items.iter().any(has_whole_fraction),
        Value::Object(map) => map.values().any(has_whole_fraction),
        _ => false,
    }
}

pub fn drop_whole_fractions(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Some(whole) = whole(value) {
                *value = whole.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(drop_whole_fractions),
        Value::Object(map) => map.values_mut().for_each(drop_whole_fractions),
        _ => {}
    }
}

/// A value as Go writes it that has made maps of the objects in it: their names are sorted.
pub fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().map(|(k, v)| (k.clone(), sorted(v))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect::<Map>())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

/// Go's `%s`: of what is no text, its type as well.
pub fn print_as_text(value: &Value) -> String {
    match value {
        Value::Null => "%!s(<nil>)".to_owned(),
        Value::Bool(_) => format!("%!s(bool={value})"),
        Value::Number(number) if number.is_f64() => format!("%!s(float64={value})"),
        Value::Number(_) => format!("%!s(int64={value})"),
        Value::String(_) | Value::Array(_) | Value::Object(_) => print(value),
    }
}

fn print_into(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::String(s) => out.push_str(s),
        // Whole ones are without a fraction.
        Value::Number(number) if number.is_f64() && whole(value).is_some() => {
            out.push_str(&value.to_string().replace(".0", ""))
        }
        Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                print_into(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            out.push_str("map[");
            for (i, (key, item)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                out.push_str(key);
                out.push(':');
                print_into(item, out);
            }
            out.push(']');
        }
    }
}

/// A value as Go's `json.Marshal` writes it from maps: keys sorted, no spaces, and `<`, `>`, `&` and the two line separators
/// escaped.
pub fn marshal(value: &Value) -> String {
    let mut out = String::new();
    marshal_into(value, &mut out);
    out
}

fn marshal_into(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => marshal_text(text, out),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                marshal_into(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            out.push('{');
            for (i, (key, item)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                marshal_text(key, out);
                out.push(':');
                marshal_into(item, out);
            }
            out.push('}');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
    }
}

fn marshal_text(text: &str, out: &mut String) {
    out.push_str(&html_safe(&Value::from(text).to_string()));
}

/// JSON with what would mean something in a page escaped, as Go writes it.
pub(crate) fn html_safe(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            _ => out.push(c),
        }
    }
    out
}

/// Where a value is in its document: written out only of a field that is given twice.
#[derive(Clone, Copy)]
enum Place<'p> {
    Root,
    Field { of: &'p Place<'p>, name: &'p str },
    Item { of: &'p Place<'p>, at: usize },
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field { of: Place::Root, name } => f.write_str(name),
            Self::Field { of, name } => write!(f, "{of}.{name}"),
            Self::Item { of, at } => write!(f, "{of}[{at}]"),
        }
    }
}

struct Seed<'d> {
    place: Place<'d>,
    duplicates: &'d mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let place = Place::Item { of: &self.place, at: items.len() };
            match seq.next_element_seed(Seed { place, duplicates: &mut *self.duplicates })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = access.next_key::<Text>()? {
            let place = Place::Field { of: &self.place, name: &name };
            if fields.contains(&name) && self.duplicates.len() < DUPLICATES_MAX {
                let path = place.to_string();
                if !self.duplicates.contains(&path) {
                    self.duplicates.push(path);
                }
            }
            let value = access.next_value_seed(Seed { place, duplicates: &mut *self.duplicates })?;
            fields.insert(name, value);
        }
        Ok(Value::Object(fields.into_map()))
    }
}

/// The first syntax error of a document in the words of Go's `encoding/json`; `None` when its syntax is good.
pub fn syntax_error(bytes: &[u8]) -> Option<String> {
    Scanner { bytes, pos: 0 }.document().err()
}

/// Where the scanner is inside an open object or array.
enum Open {
    Object,
    Array,
}

struct Scanner<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl Scanner<'_> {
    fn document(&mut self) -> Result<(), String> {
        let mut open: Vec<Open> = Vec::new();
        loop {
            // A value starts here, unless an empty object or array ends at once.
            self.space();
            match self.peek()? {
                b'{' => {
                    self.pos += 1;
                    self.space();
                    if self.peek()? == b'}' {
                        self.pos += 1;
                    } else {
                        self.key()?;
                        open.push(Open::Object);
                        continue;
                    }
                }
                b'[' => {
                    self.pos += 1;
                    self.space();
                    if self.peek()? == b']' {
                        self.pos += 1;
                    } else {
                        open.push(Open::Array);
                        continue;
                    }
                }
                _ => self.scalar()?,
            }
            // A value ended here; close what it ends.
            loop {
                self.space();
                let Some(innermost) = open.last() else {
                    return if self.pos == self.bytes.len() { Ok(()) } else { self.bad("after top-level value") };
                };
                let (close, context) = match innermost {
                    Open::Object => (b'}', "after object key:value pair"),
                    Open::Array => (b']', "after array element"),
                };
                let c = self.peek()?;
                if c == close {
                    self.pos += 1;
                    open.pop();
                } else if c == b',' {
                    self.pos += 1;
                    if close == b'}' {
                        self.space();
                        self.key()?;
                    }
                    break;
                } else {
                    return self.bad(context);
                }
            }
        }
    }

    fn key(&mut self) -> Result<(), String> {
        if self.peek()? != b'"' {
            return self.bad("looking for beginning of object key string");
        }
        self.string()?;
        self.space();
        if self.peek()? != b':' {
            return self.bad("after object key");
        }
        self.pos += 1;
        Ok(())
    }

    fn scalar(&mut self) -> Result<(), String> {
        match self.peek()? {
            b'"' => self.string(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            b'-' | b'0'..=b'9' => self.number(),
            _ => self.bad("looking for beginning of value"),
        }
    }

    fn string(&mut self) -> Result<(), String> {
        self.pos += 1;
        loop {
            match self.peek()? {
                b'"' => {
                    self.pos += 1;
                    return Ok(());
                }
                b'\\' => {
                    self.pos += 1;
                    match self.peek()? {
                        b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => self.pos += 1,
                        b'u' => {
                            self.pos += 1;
                            for _ in 0..4 {
                                if !self.peek()?.is_ascii_hexdigit() {
                                    return self.bad("in \\u hexadecimal character escape");
                                }
                                self.pos += 1;
                            }
                        }
                        _ => return self.bad("in string escape code"),
                    }
                }
                c if c < 0x20 => return self.bad("in string literal"),
                _ => self.pos += 1,
            }
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), String> {
        for expected in word.chars() {
            if self.peek()? as char != expected {
                return self.bad(&format!("in literal {word} (expecting '{expected}')"));
            }
            self.pos += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), String> {
        if self.peek()? == b'-' {
            self.pos += 1;
        }
        match self.peek()? {
            b'0' => self.pos += 1,
            b'1'..=b'9' => self.digits(),
            _ => return self.bad("in numeric literal"),
        }
        if self.at(b".") {
            self.pos += 1;
            if !self.peek()?.is_ascii_digit() {
                return self.bad("after decimal point in numeric literal");
            }
            self.digits();
        }
        if self.at(b"eE") {
            self.pos += 1;
            if self.at(b"+-") {
                self.pos += 1;
            }
            if !self.peek()?.is_ascii_digit() {
                return self.bad("in exponent of numeric literal");
            }
            self.digits();
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.at(b"0123456789") {
            self.pos += 1;
        }
    }

    fn at(&self, set: &[u8]) -> bool {
        self.bytes.get(self.pos).is_some_and(|b| set.contains(b))
    }

    fn space(&mut self) {
        while self.at(b" \t\r\n") {
            self.pos += 1;
        }
    }

    fn peek(&self) -> Result<u8, String> {
        self.bytes.get(self.pos).copied().ok_or_else(|| "unexpected end of JSON input".to_owned())
    }

    fn bad(&self, context: &str) -> Result<(), String> {
        let shown = match self.peek()? {
            b'\'' => "'\\''".to_owned(),
            b'"' => "'\"'".to_owned(),
            c => {
                let quoted = go_quote(&(c as char).to_string());
                format!("'{}'", quoted.trim_matches('"'))
            }
        };
        Err(format!("invalid character {shown} {context}"))
    }
}

/// A decimal number as Go's `strconv.ParseInt` reads it, with its words for what is none.
pub fn parse_int(text: &str) -> Result<i64, String> {
    text.parse().map_err(|error: ParseIntError| {
        let what = match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.ParseInt: parsing {}: {what}", go_quote(text))
    })
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn syntax_errors_are_gos() {
        let cases = [
            ("", "unexpected end of JSON input"),
            ("str", "invalid character 's' looking for beginning of value"),
            ("{\"a\":1", "unexpected end of JSON input"),
            ("{a:1}", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("trve", "invalid character 'v' in literal true (expecting 'u')"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("\"\\q\"", "invalid character 'q' in string escape code"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1e-", "unexpected end of JSON input"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
        ];
        for (text, want) in cases {
            assert_eq!(parse(text.as_bytes()).expect_err(text), want, "{text}");
        }
    }

    #[test]
    fn duplicates_are_named_and_the_last_wins() {
        let document = parse(br#"{"a":1,"b":{"c":1,"c":2},"d":[{"e":1,"e":3}],"a":4}"#).expect("parses");
        assert_eq!(document.value, json!({"a": 4, "b": {"c": 2}, "d": [{"e": 3}]}));
        assert_eq!(document.duplicates, ["b.c", "d[0].e", "a"]);
    }

    #[test]
    fn values_print_as_go_maps() {
        let value = json!({"name": "c", "image": "q", "l": [1, true, null]});
        assert_eq!(print(&value), "map[image:q l:[1 true <nil>] name:c]");
    }

    proptest::proptest! {
        #[test]
        fn scanner_agrees_with_the_parser(text in "[\\[\\]{}:,\"a\\\\ 0-9.eE+tn-]{0,24}") {
            let parsed = serde_json::from_str::<Value>(&text);
            if parsed.is_ok() {
                assert_eq!(syntax_error(text.as_bytes()), None, "{text}");
            }
            if syntax_error(text.as_bytes()).is_some() {
                assert!(parsed.is_err(), "{text}");
            }
        }
    }
}
