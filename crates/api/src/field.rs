//! Field paths and field errors, with the texts of upstream's `field.Error` (apimachinery `validation/field`).

use std::fmt;

use crate::{Value, gojson};

/// A path to a field as upstream prints it: `spec.containers[0].ports[name]`.
///
/// Validation makes one for every field it looks at, also when all is well (a thousand for a pod): up to [`INLINE_MAX`] bytes lie in
/// it, without an allocation and copied as a whole.
#[derive(Clone)]
pub struct Path(Repr);

const INLINE_MAX: usize = 62;

#[derive(Clone)]
enum Repr {
    Inline(u8, [u8; INLINE_MAX]),
    Heap(Box<str>),
}

impl Path {
    /// The object itself; prints as the empty string.
    pub fn root() -> Self {
        Self::default()
    }

    /// A path from its printed form.
    pub fn new(path: impl AsRef<str>) -> Self {
        Self::default().with([path.as_ref()])
    }

    pub fn child(&self, name: &str) -> Self {
        if self.is_root() { self.with([name]) } else { self.with([".", name]) }
    }

    pub fn index(&self, index: usize) -> Self {
        self.with(["[", &index.to_string(), "]"])
    }

    /// An entry of a map, or an item of a list addressed by key: `metadata.labels[app]`.
    pub fn key(&self, key: &str) -> Self {
        self.with(["[", key, "]"])
    }

    fn is_root(&self) -> bool {
        matches!(self.0, Repr::Inline(0, _))
    }

    fn with<const N: usize>(&self, more: [&str; N]) -> Self {
        if let Repr::Inline(length, bytes) = &self.0 {
            let (mut length, mut bytes) = (usize::from(*length), *bytes);
            let fits = more.iter().all(|part| {
                let end = length + part.len();
                let free = bytes.get_mut(std::mem::replace(&mut length, end)..end);
                free.map(|free| free.copy_from_slice(part.as_bytes())).is_some()
            });
            if let (true, Ok(length)) = (fits, u8::try_from(length)) {
                return Self(Repr::Inline(length, bytes));
            }
        }
        Self(Repr::Heap([self.as_str(), &more.concat()].concat().into()))
    }

    pub fn as_str(&self) -> &str {
        match &self.0 {
            // It was put together from texts.
            Repr::Inline(length, bytes) => std::str::from_utf8(&bytes[..usize::from(*length)]).unwrap_or_default(),
            Repr::Heap(path) => path,
        }
    }
}

impl Default for Path {
    fn default() -> Self {
        Self(Repr::Inline(0, [0; INLINE_MAX]))
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl PartialEq for Path {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Path {}

impl PartialOrd for Path {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Path {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_root() { "<nil>" } else { self.as_str() })
    }
}

/// The kinds of field error, as upstream's `field.ErrorType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorType {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
    /// NotSupported, of a field that has a type of its own in Go (a choice), whose texts are shown as JSON shows them.
    NotSupportedChoice,
    /// Invalid, of such a field.
    InvalidChoice,
    /// Invalid, of a value that is too much to be shown.
    InvalidUnshown,
    /// Duplicate, of a value that is too much to be shown.
    DuplicateUnshown,
}

impl ErrorType {
    /// The `reason` of a `StatusCause`.
    pub fn cause_reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate | Self::DuplicateUnshown => "FieldValueDuplicate",
            Self::Invalid | Self::InvalidChoice | Self::InvalidUnshown => "FieldValueInvalid",
            Self::NotSupported | Self::NotSupportedChoice => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate | Self::DuplicateUnshown => "Duplicate value",
            Self::Invalid | Self::InvalidChoice | Self::InvalidUnshown => "Invalid value",
            Self::NotSupported | Self::NotSupportedChoice => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
            Self::TypeInvalid => "Invalid value",
        }
    }
}

/// One thing wrong with one field. `Display` prints `path: Invalid value: "x": detail`.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub error_type: ErrorType,
    pub path: Path,
    /// Printed for the types that show a value (Invalid, Duplicate, NotSupported, NotFound); `Null` prints `null`.
    pub bad_value: Value,
    pub detail: String,
}

impl FieldError {
    /// The error without its path: the `message` of a `StatusCause`.
    pub fn body(&self) -> String {
        let mut out = self.error_type.text().to_owned();
        match self.error_type {
            ErrorType::Required
            | ErrorType::Forbidden
            | ErrorType::TooLong
            | ErrorType::TooMany
            | ErrorType::Internal
            | ErrorType::InvalidUnshown
            | ErrorType::DuplicateUnshown => {}
            ErrorType::NotFound
            | ErrorType::Duplicate
            | ErrorType::Invalid
            | ErrorType::NotSupported
            | ErrorType::TypeInvalid => {
                out.push_str(": ");
                out.push_str(&go_value(&self.bad_value));
            }
            ErrorType::NotSupportedChoice | ErrorType::InvalidChoice => {
                out.push_str(": ");
                out.push_str(&go_json(&self.bad_value));
            }
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// A value the way Go's field errors print it: strings as `%q`, everything else as JSON.
fn go_value(value: &Value) -> String {
    match value {
        Value::String(s) => go_quote(s),
        other => go_json(other),
    }
}

fn go_json(value: &Value) -> String {
    gojson::html_safe(&value.to_string())
}

/// Characters that Go does not print: controls, formats, and every space but the plain one.
pub(crate) fn is_unprintable(c: char) -> bool {
    let is_format = matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}');
    is_format || c.is_control() || (c.is_whitespace() && c != ' ')
}

/// Go's `strconv.Quote`: like a JSON string, except that control characters print as `\x01`, `\a`, `\b`, `\v`, `\f`.
pub fn go_quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if is_unprintable(c) => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// All that is wrong with an object, in the order in which upstream reports it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ErrorList(Vec<FieldError>);

impl ErrorList {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    pub fn extend(&mut self, other: ErrorList) {
        self.0.extend(other.0);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, FieldError> {
        self.0.iter()
    }

    pub fn required(&mut self, path: Path, detail: impl Into<String>) {
        self.add(ErrorType::Required, path, Value::Null, detail.into());
    }

    pub fn invalid(&mut self, path: Path, bad_value: impl Into<Value>, detail: impl Into<String>) {
        self.add(ErrorType::Invalid, path, bad_value.into(), detail.into());
    }

    /// Invalid, of a field that upstream gave a type of its own, such as one with few possible values.
    pub fn invalid_choice(&mut self, path: Path, bad_value: impl Into<Value>, detail: impl Into<String>) {
        self.add(ErrorType::InvalidChoice, path, bad_value.into(), detail.into());
    }

    /// Invalid, without saying the value: upstream's `OmitValueType`.
    pub fn invalid_unshown(&mut self, path: Path, detail: impl Into<String>) {
        self.add(ErrorType::InvalidUnshown, path, Value::Null, detail.into());
    }

    pub fn duplicate(&mut self, path: Path, bad_value: impl Into<Value>) {
        self.add(ErrorType::Duplicate, path, bad_value.into(), String::new());
    }

    pub fn not_found(&mut self, path: Path, bad_value: impl Into<Value>) {
        self.add(ErrorType::NotFound, path, bad_value.into(), String::new());
    }

    pub fn forbidden(&mut self, path: Path, detail: impl Into<String>) {
        self.add(ErrorType::Forbidden, path, Value::Null, detail.into());
    }

    /// `Unsupported value: "x": supported values: "a", "b"`; the caller gives the values in upstream's order (sorted for sets).
    pub fn not_supported(&mut self, path: Path, bad_value: impl Into<Value>, supported: &[&str]) {
        self.add(ErrorType::NotSupported, path, bad_value.into(), supported_values(supported));
    }

    /// The same of a field that upstream gave a type of its own, such as one with few possible values.
    pub fn no_such_choice(&mut self, path: Path, bad_value: impl Into<Value>, supported: &[&str]) {
        self.add(ErrorType::NotSupportedChoice, path, bad_value.into(), supported_values(supported));
    }

    /// `Too long: may not be more than N bytes`.
    pub fn too_long(&mut self, path: Path, max_bytes: usize) {
        let unit = if max_bytes == 1 { "byte" } else { "bytes" };
        self.add(ErrorType::TooLong, path, Value::Null, format!("may not be more than {max_bytes} {unit}"));
    }

    /// `Too many: N: must have at most M items`.
    pub fn too_many(&mut self, path: Path, actual: usize, max: usize) {
        let unit = if max == 1 { "item" } else { "items" };
        let mut detail = format!("must have at most {max} {unit}");
        if actual > 0 {
            detail = format!("{actual}: {detail}");
        }
        self.add(ErrorType::TooMany, path, Value::Null, detail);
    }

    pub fn internal(&mut self, path: Path, detail: impl Into<String>) {
        self.add(ErrorType::Internal, path, Value::Null, detail.into());
    }

    pub fn type_invalid(&mut self, path: Path, bad_value: impl Into<Value>, detail: impl Into<String>) {
        self.add(ErrorType::TypeInvalid, path, bad_value.into(), detail.into());
    }

    /// `e` alone, or `[e1, e2]`, duplicates removed: upstream's `Aggregate.Error()`.
    pub fn aggregate_message(&self) -> String {
        let mut seen = Vec::<String>::new();
        for error in &self.0 {
            let text = error.to_string();
            if !seen.contains(&text) {
                seen.push(text);
            }
        }
        match seen.len() {
            1 => seen.remove(0),
            _ => format!("[{}]", seen.join(", ")),
        }
    }

    fn add(&mut self, error_type: ErrorType, path: Path, bad_value: Value, detail: String) {
        self.0.push(FieldError { error_type, path, bad_value, detail });
    }
}

fn supported_values(supported: &[&str]) -> String {
    if supported.is_empty() {
        return String::new();
    }
    let quoted: Vec<String> = supported.iter().map(|s| go_quote(s)).collect();
    format!("supported values: {}", quoted.join(", "))
}

impl IntoIterator for ErrorList {
    type Item = FieldError;
    type IntoIter = std::vec::IntoIter<FieldError>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn values_are_shown_as_go_shows_them() {
        assert_eq!(go_value(&json!("a<b\u{2028}\u{a0}é\u{1}")), "\"a<b\\u2028\\u00a0é\\x01\"");
        assert_eq!(go_value(&json!({"a": "b<&>"})), r#"{"a":"b\u003c\u0026\u003e"}"#);
        let mut errors = ErrorList::new();
        errors.no_such_choice(Path::new("type"), "a<\u{a0}\u{1}", &["b"]);
        let shown = "type: Unsupported value: \"a\\u003c\u{a0}\\u0001\": supported values: \"b\"";
        assert_eq!(errors.aggregate_message(), shown);
        let mut errors = ErrorList::new();
        errors.invalid_choice(Path::new("type"), "a<", "no");
        errors.invalid(Path::new("name"), "a<", "no");
        let shown = r#"[type: Invalid value: "a\u003c": no, name: Invalid value: "a<": no]"#;
        assert_eq!(errors.aggregate_message(), shown);
    }
}
