//! JSON text, stepped over: where a value ends, and the fields of an object, without making anything of them.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use super::DEPTH_MAX;

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
                    at = if is_object { field(json, at)?.1 } else { at };
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
                (b',', true) => at = field(json, space_end(json, at + 1))?.1,
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

/// Of the field that begins at `at`: where its name ends, and where its value begins.
fn field(json: &[u8], at: usize) -> Option<(usize, usize)> {
    let name_end = step_over_string(json, at)?;
    let colon = space_end(json, name_end);
    (json.get(colon)? == &b':').then(|| (name_end, space_end(json, colon + 1)))
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
        let (end, value) = field(self.json, at)?;
        self.at = value;
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

pub(crate) fn space_end(json: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = json.get(at) {
        at += 1;
    }
    at
}

/// Behind the number that begins at `at`.
pub(crate) fn number_end(json: &[u8], mut at: usize) -> Option<usize> {
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
/// Eight bytes at a time, of which the first that is special is exact.
pub(crate) fn plain_end(json: &[u8], mut at: usize) -> usize {
    while let Some(eight) = json.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let found = special(u64::from_le_bytes(*eight));
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

/// The high bit of each of eight bytes that ends plain text: quotes, backslashes and control characters. Below the first of them
/// nothing is borrowed, so that it is right about that one, and about there being none.
fn special(eight: u64) -> u64 {
    let is_zero = |bytes: u64| bytes.wrapping_sub(repeat(1)) & !bytes;
    let control = eight.wrapping_sub(repeat(b' ')) & !eight;
    (is_zero(eight ^ repeat(b'"')) | is_zero(eight ^ repeat(b'\\')) | control) & repeat(0x80)
}

/// Whether a whole text needs no escapes. The last bytes are looked at twice rather than one by one.
pub(crate) fn is_plain(text: &[u8]) -> bool {
    let (whole, _) = text.as_chunks::<8>();
    match (text.first_chunk::<4>(), text.last_chunk::<4>(), text.last_chunk::<8>()) {
        (_, _, Some(last)) => whole.iter().chain([last]).all(|eight| special(u64::from_le_bytes(*eight)) == 0),
        (Some(first), Some(last), None) => {
            special(u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last))) == 0
        }
        _ => plain_end(text, 0) == text.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    proptest::proptest! {
        #[test]
        fn text_is_plain_up_to_its_first_special_byte(text in "[ -~é\u{7f}\u{1}\n]{0,20}") {
            let first = text.bytes().position(|byte| matches!(byte, b'"' | b'\\' | 0..b' '));
            assert_eq!(plain_end(text.as_bytes(), 0), first.unwrap_or(text.len()));
            assert_eq!(is_plain(text.as_bytes()), first.is_none());
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
