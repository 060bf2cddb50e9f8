//! JSON documents into values, fast.
//!
//! Every update reads the stored object, every patch its body. What is plain (all that a server stores, nearly all that clients
//! send) is read here in one pass; whatever is not is left to serde_json, which knows what is wrong with it.

use serde::Deserialize as _;
use serde_json::de::SliceRead;

use super::map::Fields;
use super::skip::{number_end, plain_end, space_end, string_end};
use super::{DEPTH_MAX, Map, Number, Text, Value, known, value_end};

/// The name of field sets, and the depth of the objects that have them: those in a list of the metadata.
const FIELD_SET: &str = "fieldsV1";
const FIELD_SET_DEPTH_MAX: usize = 8;
/// More digits and a sign may not fit.
const DIGITS_MAX: usize = 18;

impl Value {
    /// A document as a value. Of two fields with one name the last wins, in the place of the first.
    ///
    /// # Errors
    ///
    /// serde_json's: what is no JSON, nests deeper than 1,024 or is followed by something else.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        if let Some(value) = plain(json) {
            return Ok(value);
        }
        let mut reader = unusual(json);
        let value = Self::deserialize(&mut reader)?;
        reader.end().map(|()| value)
    }
}

/// serde_json's reader of a document that is not [`plain`]. Its own limit of depth, of 127, does not hold for what is known not to be
/// too deep.
pub(crate) fn unusual(json: &[u8]) -> serde_json::Deserializer<SliceRead<'_>> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    if value_end(json, space_end(json, 0)).is_ok() {
        reader.disable_recursion_limit();
    }
    reader
}

/// The document, when it is valid, gives no field twice and is not unusual in another way.
pub(crate) fn plain(json: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(json).ok()?;
    let mut reader = Reader { text, bytes: json, at: 0, depth: 0, fields: Vec::new(), items: Vec::new() };
    let value = reader.value()?;
    (space_end(json, reader.at) == json.len()).then_some(value)
}

struct Reader<'t> {
    text: &'t str,
    bytes: &'t [u8],
    at: usize,
    depth: usize,
    /// The fields and items of the objects and lists being read, innermost last: how many there are is known at the end, and a
    /// list of just that size is made then.
    fields: Vec<(Text, Value)>,
    items: Vec<Value>,
}

impl Reader<'_> {
    /// The next byte that is not space.
    fn next(&mut self) -> Option<u8> {
        self.at = space_end(self.bytes, self.at);
        self.bytes.get(self.at).copied()
    }

    fn value(&mut self) -> Option<Value> {
        match self.next()? {
            b'"' => self.string().map(Value::String),
            b'{' => self.nested(Self::object),
            b'[' => self.nested(Self::list),
            b't' => self.literal("true", Value::Bool(true)),
            b'f' => self.literal("false", Value::Bool(false)),
            b'n' => self.literal("null", Value::Null),
            _ => self.number(),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Option<Value>) -> Option<Value> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return None;
        }
        self.at += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Option<Value> {
        let first = self.fields.len();
        if self.next()? == b'}' {
            self.at += 1;
            return Some(Value::Object(Map::new()));
        }
        loop {
            if self.next()? != b'"' {
                return None;
            }
            let name = self.string()?;
            if self.next()? != b':' {
                return None;
            }
            self.at += 1;
            let value = if name == FIELD_SET { self.field_set() } else { self.value() }?;
            self.fields.push((name, value));
            let end = self.next()?;
            self.at += 1;
            match end {
                b',' => {}
                b'}' => break,
                _ => return None,
            }
        }
        Fields::distinct(self.fields.drain(first..).collect()).map(|fields| Value::Object(fields.into_map()))
    }

    /// A value that is likely to be [known](super::known). Deep down it may not be: how deep a known one is was looked at elsewhere.
    fn field_set(&mut self) -> Option<Value> {
        if self.depth > FIELD_SET_DEPTH_MAX || self.next()? != b'{' {
            return self.value();
        }
        let begin = self.at;
        if let Some((tree, length)) = known::find(&self.bytes[begin..]) {
            self.at += length;
            return Some(Value::Object(tree));
        }
        let value = self.value()?;
        if let Value::Object(tree) = &value {
            known::met(&self.bytes[begin..self.at], tree);
        }
        Some(value)
    }

    fn list(&mut self) -> Option<Value> {
        let first = self.items.len();
        if self.next()? == b']' {
            self.at += 1;
            return Some(Value::Array(Vec::new()));
        }
        loop {
            let item = self.value()?;
            self.items.push(item);
            let end = self.next()?;
            self.at += 1;
            match end {
                b',' => {}
                b']' => break,
                _ => return None,
            }
        }
        Some(Value::Array(self.items.drain(first..).collect()))
    }

    fn string(&mut self) -> Option<Text> {
        let start = self.at + 1;
        let end = plain_end(self.bytes, start);
        if self.bytes.get(end)? == &b'"' {
            self.at = end + 1;
            return self.text.get(start..end).map(Text::new);
        }
        let end = string_end(self.bytes, end)?;
        let text = serde_json::from_str::<String>(self.text.get(self.at..end)?).ok()?;
        self.at = end;
        Some(text.into())
    }

    fn literal(&mut self, word: &str, value: Value) -> Option<Value> {
        let end = self.at + word.len();
        (self.bytes.get(self.at..end)? == word.as_bytes()).then(|| {
            self.at = end;
            value
        })
    }

    fn number(&mut self) -> Option<Value> {
        let end = number_end(self.bytes, self.at)?;
        let number = self.text.get(self.at..end)?;
        self.at = end;
        let is_plain = number.len() <= DIGITS_MAX && number != "-0" && !number.contains(['.', 'e', 'E']);
        if !is_plain {
            return serde_json::from_str::<Number>(number).ok().map(Value::Number);
        }
        number.parse::<i64>().ok().map(|number| Value::Number(number.into()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::skip::{Malformed, value_end};
    use super::*;

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let number = prop_oneof![
            any::<i64>().prop_map(serde_json::Value::from),
            any::<u64>().prop_map(serde_json::Value::from),
            any::<f64>().prop_map(serde_json::Value::from),
        ];
        let text = prop_oneof!["[a-z]{0,30}", any::<String>()];
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(serde_json::Value::from),
            number,
            text.prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(4, 60, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(serde_json::Value::from),
                prop::collection::vec(("[a-c]{0,2}|.{0,9}", inner), 0..30)
                    .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    fn both(text: &[u8]) -> (Option<Value>, Option<Value>) {
        (Value::from_json(text).ok(), serde_json::from_slice(text).ok())
    }

    proptest! {
        #[test]
        fn documents_are_what_serde_json_reads(document in json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_vec_pretty(&document) } else { serde_json::to_vec(&document) }.unwrap();
            let (ours, theirs) = both(&text);
            prop_assert!(ours.is_some());
            prop_assert_eq!(&ours, &theirs);
            prop_assert_eq!(plain(&text), theirs);
            prop_assert_eq!(value_end(&text, 0), Ok(text.len()));
        }

        #[test]
        fn broken_documents_are_refused_as_serde_json_refuses_them(document in json(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut text = serde_json::to_vec(&document).unwrap();
            let at = at.index(text.len());
            text[at] = byte;
            let (ours, theirs) = both(&text);
            prop_assert_eq!(ours, theirs);
            let (ours, theirs) = both(&text[..at]);
            prop_assert_eq!(ours, theirs);
            // Control characters are not looked for.
            let is_valid = serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert!(value_end(&text, 0) == Ok(text.len()) || !is_valid);
            prop_assert!(value_end(&text, 0) != Ok(text.len()) || is_valid || byte < b' ');
        }
    }

    #[test]
    fn numbers_names_and_depths_at_the_edge() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        let many: String = (0..40).map(|n| format!("\"f{n}\":{n},")).collect();
        for text in [
            "0",
            "-0",
            "00",
            "01",
            "-",
            "-1",
            "1.0",
            "1e3",
            "1E+2",
            "1e999",
            "123456789012345678",
            "1234567890123456789",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775809",
            "1.",
            ".5",
            "+1",
            "",
            " ",
            "nul",
            "nulll",
            "{}",
            "[]",
            "{\"a\":1,\"b\":2,\"a\":3}",
            "{\"a\":1,}",
            "[1,]",
            "[1 2]",
            "{\"a\" 1}",
            "{a:1}",
            "\"\\ud800\"",
            "\"\\ud83d\\ude00\"",
            "\"a\nb\"",
            "\"\\x\"",
            "\"abc",
            "{\"a\":{\"b\":[1,{\"c\":\"d\\\"\"}]}} ",
            "[1]]",
            &deep(127),
            &format!("{{{many}\"f7\":1}}"),
            &format!("{{{many}\"f\":1}}"),
        ] {
            let (ours, theirs) = both(text.as_bytes());
            assert_eq!(ours, theirs, "{text}");
            let is_valid = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
            if text == "\"a\nb\"" {
                continue;
            }
            assert_eq!(
                value_end(text.as_bytes(), 0).is_ok_and(|end| text[end..].trim_end().is_empty()),
                is_valid,
                "{text}"
            );
        }
        assert_eq!(value_end(deep(DEPTH_MAX).as_bytes(), 0), Ok(2 * DEPTH_MAX));
        assert_eq!(value_end(deep(DEPTH_MAX + 1).as_bytes(), 0), Err(Malformed));
        // The same depth, be the document plain or not.
        for number in ["1", "1e3"] {
            let list = |depth| format!("{}{number}{}", "[".repeat(depth), "]".repeat(depth));
            assert_eq!(Value::from_json(list(DEPTH_MAX).as_bytes()).expect("deep").extent().depth, DEPTH_MAX);
            assert!(Value::from_json(list(DEPTH_MAX + 1).as_bytes()).is_err());
        }
        assert_eq!(plain(b"{\"a\":1,\"a\":3}"), None);
        assert_eq!(value_end(br#"{"a":{"b":"}\""},"c":1}"#, 5), Ok(16));
        assert_eq!(value_end(br#"{"a":12.5e3,"c":1}"#, 5), Ok(11));
        assert_eq!(value_end(b"{\"a\":", 0), Err(Malformed));
    }
}
