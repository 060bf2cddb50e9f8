//! JSON documents into values, fast.
//!
//! Every update reads the stored object, every patch its body. What is plain (all that a server stores, nearly all that clients
//! send) is read here in one pass; whatever is not is left to serde_json, which knows what is wrong with it.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use super::map::Fields;
use super::{Map, Number, Text, Value};

/// The deepest body that is taken in, and so the deepest object that is stored.
const DEPTH_MAX: usize = crate::codec::DEPTH_MAX;
/// More digits and a sign may not fit.
const DIGITS_MAX: usize = 18;

impl Value {
    /// A document as a value. Of two fields with one name the last wins, in the place of the first.
    ///
    /// # Errors
    ///
    /// serde_json's: what is no JSON, nests deeper than 512 or is followed by something else.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        plain(json).map_or_else(|| serde_json::from_slice(json), Ok)
    }
}

/// The document, when it is valid, gives no field twice and is not unusual in another way.
pub(crate) fn plain(json: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(json).ok()?;
    let mut reader = Reader { text, bytes: json, at: 0, depth: 0, fields: Vec::new(), items: Vec::new() };
    let value = reader.value()?;
    (space_end(json, reader.at) == json.len()).then_some(value)
}

/// Text that is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Behind the value that begins at `at`. Its grammar is checked on the way, but for control characters within strings.
pub fn value_end(json: &[u8], at: usize) -> Result<usize, Malformed> {
    end_of_value(json, at).ok_or(Malformed)
}

/// Which of the values around a place are objects; the others are lists.
#[derive(Default)]
struct Around {
    depth: usize,
    objects: [u64; DEPTH_MAX.div_ceil(64)],
}

impl Around {
    fn enter(&mut self, is_object: bool) -> Option<()> {
        let (word, bit) = (self.depth / 64, 1 << (self.depth % 64));
        let objects = self.objects.get_mut(word)?;
        *objects = if is_object { *objects | bit } else { *objects & !bit };
        self.depth += 1;
        Some(())
    }

    fn is_object(&self) -> bool {
        let innermost = self.depth.wrapping_sub(1);
        self.objects.get(innermost / 64).is_some_and(|objects| objects & (1 << (innermost % 64)) != 0)
    }
}

fn end_of_value(json: &[u8], mut at: usize) -> Option<usize> {
    let mut around = Around::default();
    loop {
        match json.get(at)? {
            b'"' => at = step_over_string(json, at)?,
            open @ (b'{' | b'[') => {
                let is_object = *open == b'{';
                around.enter(is_object)?;
                at = space_end(json, at + 1);
                // The brackets' codes are two apart.
                if *json.get(at)? != *open + 2 {
                    at = if is_object { value_of_field(json, at)? } else { at };
                    continue;
                }
                around.depth -= 1;
                at += 1;
            }
            b't' => at += json[at..].starts_with(b"true").then_some(4)?,
            b'f' => at += json[at..].starts_with(b"false").then_some(5)?,
            b'n' => at += json[at..].starts_with(b"null").then_some(4)?,
            _ => at = number_end(json, at)?,
        }
        // Behind a value: the ends of those around it, then the next one.
        loop {
            if around.depth == 0 {
                return Some(at);
            }
            at = space_end(json, at);
            match (json.get(at)?, around.is_object()) {
                (b',', true) => at = value_of_field(json, space_end(json, at + 1))?,
                (b',', false) => at = space_end(json, at + 1),
                (b'}', true) | (b']', false) => {
                    around.depth -= 1;
                    at += 1;
                    continue;
                }
                _ => return None,
            }
            break;
        }
    }
}

/// Where the value begins of the field that begins at `at`.
fn value_of_field(json: &[u8], at: usize) -> Option<usize> {
    let colon = space_end(json, step_over_string(json, at)?);
    (json.get(colon)? == &b':').then(|| space_end(json, colon + 1))
}

/// Behind the string that begins at `at`.
fn step_over_string(json: &[u8], at: usize) -> Option<usize> {
    if json.get(at)? != &b'"' {
        return None;
    }
    let mut at = at + 1;
    loop {
        at += memchr2(b'"', b'\\', json.get(at..)?)?;
        if json[at] == b'"' {
            return Some(at + 1);
        }
        at = escape_end(json, at)?;
    }
}

/// Behind the escape that begins at `at`.
fn escape_end(json: &[u8], at: usize) -> Option<usize> {
    match json.get(at + 1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 2),
        b'u' => json.get(at + 2..at + 6)?.iter().all(u8::is_ascii_hexdigit).then_some(at + 6),
        _ => None,
    }
}

/// The fields of an object as text, one after the other. What becomes of a value is decided by its name: [`Members::value`] steps
/// over it, [`Members::object`] goes into it.
pub struct Members<'t> {
    json: &'t [u8],
    at: usize,
    begun: bool,
}

impl<'t> Members<'t> {
    /// Of the object that `json` begins with; `None` when that is another value.
    pub fn of(json: &'t [u8]) -> Option<Self> {
        Self::at(json, space_end(json, 0))
    }

    fn at(json: &'t [u8], at: usize) -> Option<Self> {
        (json.get(at)? == &b'{').then_some(Self { json, at: at + 1, begun: false })
    }

    /// The name of the next field; `None` behind the last.
    pub fn name(&mut self) -> Result<Option<Cow<'t, str>>, Malformed> {
        self.step().ok_or(Malformed)
    }

    fn step(&mut self) -> Option<Option<Cow<'t, str>>> {
        let mut at = space_end(self.json, self.at);
        match (self.json.get(at)?, self.begun) {
            (b'}', _) => {
                self.at = at + 1;
                return Some(None);
            }
            (b',', true) => at = space_end(self.json, at + 1),
            (_, false) => {}
            _ => return None,
        }
        self.begun = true;
        let end = step_over_string(self.json, at)?;
        let colon = space_end(self.json, end);
        if self.json.get(colon)? != &b':' {
            return None;
        }
        self.at = space_end(self.json, colon + 1);
        let name = &self.json[at..end];
        Some(Some(match memchr(b'\\', name) {
            Some(_) => Cow::Owned(serde_json::from_slice(name).ok()?),
            None => Cow::Borrowed(std::str::from_utf8(&name[1..name.len() - 1]).ok()?),
        }))
    }

    /// The value of the field whose name came last.
    pub fn value(&mut self) -> Result<&'t [u8], Malformed> {
        let begin = self.at;
        self.at = value_end(self.json, begin)?;
        Ok(&self.json[begin..self.at])
    }

    /// The fields of that value, for `visit` to read to their end; a value that is no object is stepped over.
    pub fn object(&mut self, visit: impl FnOnce(&mut Self) -> Result<(), Malformed>) -> Result<(), Malformed> {
        match Self::at(self.json, self.at) {
            Some(mut inner) => {
                visit(&mut inner)?;
                self.at = inner.at;
                Ok(())
            }
            None => self.value().map(drop),
        }
    }

    /// Behind what was read last.
    pub fn position(&self) -> usize {
        self.at
    }
}

fn space_end(json: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = json.get(at) {
        at += 1;
    }
    at
}

fn number_end(json: &[u8], mut at: usize) -> Option<usize> {
    let digits = |at: usize| at + json[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    if json.get(at)? == &b'-' {
        at += 1;
    }
    at = match json.get(at)? {
        b'0' => at + 1,
        b'1'..=b'9' => digits(at),
        _ => return None,
    };
    if json.get(at) == Some(&b'.') {
        let end = digits(at + 1);
        if end == at + 1 {
            return None;
        }
        at = end;
    }
    if let Some(b'e' | b'E') = json.get(at) {
        let signed = if let Some(b'+' | b'-') = json.get(at + 1) { at + 2 } else { at + 1 };
        let end = digits(signed);
        if end == signed {
            return None;
        }
        at = end;
    }
    Some(at)
}

/// Behind the closing quote of the string whose text begins at `at`; control characters are refused.
pub(crate) fn string_end(json: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at = plain_end(json, at);
        at = match json.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => escape_end(json, at)?,
            _ => return None,
        };
    }
}

const fn repeat(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Where the first quote, backslash or control character is, at or behind `at`; the end of the text when there is none.
///
/// Eight bytes at a time: a byte's high bit is left in `found` when it is one of these. Below the first of them nothing is borrowed,
/// so that the first is exact.
pub(crate) fn plain_end(json: &[u8], mut at: usize) -> usize {
    while let Some(eight) = json.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let eight = u64::from_le_bytes(*eight);
        let is_zero = |bytes: u64| bytes.wrapping_sub(repeat(1)) & !bytes;
        let control = eight.wrapping_sub(repeat(b' ')) & !eight;
        let found = (is_zero(eight ^ repeat(b'"')) | is_zero(eight ^ repeat(b'\\')) | control) & repeat(0x80);
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while json.get(at).is_some_and(|byte| !matches!(byte, b'"' | b'\\' | 0..b' ')) {
        at += 1;
    }
    at
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
            let value = self.value()?;
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
        assert!(Value::from_json(deep(512).as_bytes()).is_ok());
        assert!(Value::from_json(deep(513).as_bytes()).is_err());
        assert_eq!(value_end(deep(512).as_bytes(), 0), Ok(1024));
        assert_eq!(value_end(deep(513).as_bytes(), 0), Err(Malformed));
        assert_eq!(plain(b"{\"a\":1,\"a\":3}"), None);
        assert_eq!(value_end(br#"{"a":{"b":"}\""},"c":1}"#, 5), Ok(16));
        assert_eq!(value_end(br#"{"a":12.5e3,"c":1}"#, 5), Ok(11));
        assert_eq!(value_end(b"{\"a\":", 0), Err(Malformed));
    }

    #[test]
    fn members_are_names_and_the_text_of_values() {
        let of = |json: &'static str| {
            let mut members = Members::of(json.as_bytes())?;
            let mut all = Vec::new();
            Some(loop {
                match members.name() {
                    Ok(Some(name)) => match members.value() {
                        Ok(value) => all.push((name, value)),
                        Err(error) => break Err(error),
                    },
                    Ok(None) => break Ok(all),
                    Err(error) => break Err(error),
                }
            })
        };
        let text = r#" { "a" : {"b":[1, 2]} , "c\u0064":"x" ,"e":null} "#;
        let parts: [(&str, &str); 3] = [("a", r#"{"b":[1, 2]}"#), ("cd", r#""x""#), ("e", "null")];
        assert_eq!(of(text), Some(Ok(parts.map(|(name, value)| (name.into(), value.as_bytes())).to_vec())));
        assert_eq!(of("{}"), Some(Ok(Vec::new())));
        assert_eq!(of("[]"), None);
        for broken in [r#"{"a":1"#, r#"{"a":1,}"#, r#"{"a":1 "b":2}"#, r#"{,"a":1}"#, r#"{"a":tru}"#, r#"{a:1}"#] {
            assert_eq!(of(broken), Some(Err(Malformed)), "{broken}");
        }
    }

    #[test]
    fn members_of_members_are_read_on_the_way() {
        let mut members = Members::of(br#"{"a":{"b":1,"c":[{}]},"d":"e"} x"#).unwrap();
        assert_eq!(members.name().unwrap().as_deref(), Some("a"));
        let mut inner = Vec::new();
        members
            .object(|members| {
                while let Some(name) = members.name()? {
                    inner.push((name.into_owned(), members.value()?));
                }
                Ok(())
            })
            .unwrap();
        assert_eq!(inner, [("b".to_owned(), &b"1"[..]), ("c".to_owned(), b"[{}]")]);
        assert_eq!(members.name().unwrap().as_deref(), Some("d"));
        members.object(|_| Err(Malformed)).unwrap();
        assert_eq!((members.name(), members.position()), (Ok(None), 30));
    }
}
