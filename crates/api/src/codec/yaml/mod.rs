//! YAML read as upstream's YAML library reads it: YAML 1.1 scalars (`yes`, `0777`, `1_000`), anchors, merge keys, the first
//! document of a stream; and turned into the JSON value that the decoder continues with.

mod print;
mod refusal;

use std::collections::HashMap;

use base64::Engine as _;

use crate::{Text, Value};
use granit_parser::{Event, Parser, ScalarStyle, Span};
pub use print::print;

use super::{DEPTH_MAX, TOO_DEEP};
use crate::Map;
use crate::field::go_quote;

/// Values an expanded document may hold, so that aliases of aliases cannot fill memory.
const NODES_MAX: usize = 1_000_000;

/// A document as JSON.
#[derive(Debug)]
pub struct Document {
    /// Keys sorted, as upstream's conversion leaves them.
    pub value: Value,
    /// `line 5: key "name" already set in map`; the last value won.
    pub duplicates: Vec<String>,
}

pub(crate) struct Json {
    pub(crate) bytes: Vec<u8>,
    pub(crate) duplicates: Vec<String>,
}

/// The JSON form of a YAML body; the error is upstream's.
pub(crate) fn to_json(bytes: &[u8]) -> Result<Json, String> {
    let document = parse(bytes)?;
    let json = serde_json::to_vec(&document.value).map_err(|error| error.to_string())?;
    Ok(Json { bytes: json, duplicates: document.duplicates })
}

/// Reads the first document of a stream; an empty stream is `null`. Errors start with `yaml: `.
pub fn parse(bytes: &[u8]) -> Result<Document, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "yaml: invalid Unicode character".to_owned())?;
    if let Some(refused) = refusal::of_characters(text) {
        return Err(refused);
    }
    let parser = Parser::new_from_str(text);
    let mut builder = Builder { text, parser, anchors: HashMap::new(), nodes: 0, duplicates: Vec::new() };
    let value = loop {
        match builder.next()? {
            Some((Event::StreamStart | Event::DocumentStart(..), _)) => {}
            Some((Event::StreamEnd | Event::DocumentEnd, _)) | None => break Value::Null,
            Some((event, span)) => break builder.node(event, &span, 0)?.0,
        }
    };
    Ok(Document { value, duplicates: builder.duplicates })
}

struct Builder<'t> {
    text: &'t str,
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    anchors: HashMap<usize, Value>,
    nodes: usize,
    duplicates: Vec<String>,
}

impl<'t> Builder<'t> {
    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, String> {
        loop {
            match self.parser.next() {
                None => return Ok(None),
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(event)) => return Ok(Some(event)),
                Some(Err(error)) => return Err(refusal::of(&error, self.text)),
            }
        }
    }

    fn must_next(&mut self) -> Result<(Event<'t>, Span), String> {
        self.next()?.ok_or_else(|| "yaml: unexpected end of document".to_owned())
    }

    /// A value, and whether it is the plain scalar `<<`.
    fn node(&mut self, event: Event<'t>, span: &Span, depth: usize) -> Result<(Value, bool), String> {
        self.count(1)?;
        check_depth(depth)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let suffix = tag.as_deref().map(granit_parser::Tag::suffix);
                let value = match suffix {
                    Some("binary") => binary(&text)?,
                    Some("str" | "timestamp") => Value::from(text.as_ref()),
                    Some("int" | "float" | "bool" | "null") => resolve(&text)?,
                    _ if plain && tag.is_none() => resolve(&text)?,
                    _ => Value::from(text.as_ref()),
                };
                if plain && text == "<<" {
                    return Ok((value, true));
                }
                (value, anchor)
            }
            Event::SequenceStart(_, anchor, _) => (self.sequence(depth)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.mapping(depth)?, anchor),
            Event::Alias(id) => {
                let value = self
                    .anchors
                    .get(&id)
                    .cloned()
                    .ok_or_else(|| format!("yaml: line {}: anchor value contains itself", span.start.line()))?;
                let extent = value.extent();
                self.count(extent.values)?;
                check_depth(depth + extent.depth)?;
                (value, 0)
            }
            _ => return Err(format!("yaml: line {}: did not find expected node content", span.start.line())),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok((value, false))
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, String> {
        let mut out = Vec::new();
        loop {
            match self.must_next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Array(out)),
                (event, span) => out.push(self.node(event, &span, depth + 1)?.0),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, String> {
        let mut out = Map::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.must_next()?;
            if event == Event::MappingEnd {
                break;
            }
            let line = span.start.line();
            let (key, is_merge) = self.node(event, &span, depth + 1)?;
            let (event, span) = self.must_next()?;
            let (value, _) = self.node(event, &span, depth + 1)?;
            if is_merge {
                merge_sources(value, line, &mut merged)?;
                continue;
            }
            let name = key_text(key, &value)?;
            if out.insert(name.clone(), value).is_some() {
                self.duplicates.push(format!("line {line}: key {} already set in map", go_quote(&name)));
            }
        }
        for (name, value) in merged {
            out.entry(name).or_insert(value);
        }
        out.sort_keys();
        Ok(Value::Object(out))
    }

    fn count(&mut self, nodes: usize) -> Result<(), String> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES_MAX { Err("yaml: document contains excessive aliasing".to_owned()) } else { Ok(()) }
    }
}

/// The entries that a merge key brings: of one map, or of several with the first winning.
fn merge_sources(value: Value, line: usize, out: &mut Vec<(Text, Value)>) -> Result<(), String> {
    let refuse = || format!("yaml: line {line}: map merge requires map or sequence of maps as the value");
    match value {
        Value::Object(map) => out.extend(map),
        Value::Array(list) => {
            for item in list {
                match item {
                    Value::Object(map) => out.extend(map),
                    _ => return Err(refuse()),
                }
            }
        }
        _ => return Err(refuse()),
    }
    Ok(())
}

/// JSON has string keys only.
fn key_text(key: Value, value: &Value) -> Result<Text, String> {
    match key {
        Value::String(text) => Ok(text),
        Value::Bool(b) => Ok(b.to_string().into()),
        Value::Number(n) => Ok(n.to_string().into()),
        Value::Null => {
            let value = if value.is_null() { "<nil>".to_owned() } else { refusal::go_syntax(value) };
            Err(format!("unsupported map key of type: %!s(<nil>), key: <nil>, value: {value}"))
        }
        Value::Array(_) | Value::Object(_) => Err(format!("yaml: invalid map key: {}", refusal::go_syntax(&key))),
    }
}

/// What base64 stands for, as text.
fn binary(text: &str) -> Result<Value, String> {
    let packed: String = text.split_ascii_whitespace().collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(packed);
    let bytes = bytes.map_err(|_| "yaml: !!binary value contains invalid base64 data".to_owned())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned().into())
}

fn check_depth(depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX { Err(format!("yaml: {TOO_DEEP}")) } else { Ok(()) }
}

/// The YAML 1.1 meaning of a plain scalar.
fn resolve(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Ok(Value::Bool(true));
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Ok(Value::Bool(false));
        }
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Ok(Value::from(text));
    }
    if let Some(special) = text.strip_prefix(['+', '-']).or(Some(text)).filter(|t| t.starts_with('.')) {
        match special {
            ".inf" | ".Inf" | ".INF" => {
                let sign = if text.starts_with('-') { '-' } else { '+' };
                return Err(format!("json: unsupported value: {sign}Inf"));
            }
            ".nan" | ".NaN" | ".NAN" => return Err("json: unsupported value: NaN".to_owned()),
            _ => {}
        }
    }
    let plain = text.replace('_', "");
    if let Some(number) = integer(&plain) {
        return Ok(number);
    }
    match is_float(&plain).then(|| plain.parse::<f64>().ok()).flatten() {
        Some(number) if number.is_finite() => Ok(crate::codec::json::go_float(number)),
        _ => Ok(Value::from(text)),
    }
}

/// Go's `ParseInt` with base 0: prefixes `0x`, `0b`, `0o`, and a leading zero for octal.
fn integer(text: &str) -> Option<Value> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if negative {
        let number = -i128::from(magnitude);
        return i64::try_from(number).ok().map(Value::from);
    }
    Some(Value::from(magnitude))
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let mantissa_ok = digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty());
    let exponent_ok = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['+', '-']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    mantissa_ok && exponent_ok
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn plain_scalars_follow_yaml_1_1() {
        let value = |text: &str| parse(text.as_bytes()).expect("yaml").value;
        let text = "a: yes\nb: 'yes'\nc: 0777\nd: 1_000\ne: 1.0\nf: 08\ng: ~\nh: 0x1F\ni: 2024-01-01\nj: 1e3\nk: -5\nl: +.5\nm: 1.2.3\n";
        let expected = json!({
            "a": true, "b": "yes", "c": 511, "d": 1000, "e": 1, "f": 8, "g": null, "h": 31, "i": "2024-01-01", "j": 1000,
            "k": -5, "l": 0.5, "m": "1.2.3"
        });
        assert_eq!(value(text), expected);
        assert_eq!(value(""), Value::Null);
        assert_eq!(value("---\na: 1\n---\nb: 2\n"), json!({"a": 1}));
    }

    #[test]
    fn anchors_and_merge_keys_expand() {
        let text = "base: &b {x: 1, z: 2}\nuse:\n  <<: *b\n  z: 3\n";
        assert_eq!(
            parse(text.as_bytes()).expect("yaml").value,
            json!({"base": {"x": 1, "z": 2}, "use": {"x": 1, "z": 3}})
        );
    }

    #[test]
    fn duplicate_keys_are_named_with_their_line() {
        let document = parse(b"metadata:\n  name: a\n  name: b\n").expect("yaml");
        assert_eq!(document.value, json!({"metadata": {"name": "b"}}));
        assert_eq!(document.duplicates, [r#"line 3: key "name" already set in map"#]);
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for n in 1..8 {
            let item = format!("*a{},", n - 1).repeat(10);
            text.push_str(&format!("a{n}: &a{n} [{item}]\n"));
        }
        assert_eq!(parse(text.as_bytes()).expect_err("refused"), "yaml: document contains excessive aliasing");
    }
}
