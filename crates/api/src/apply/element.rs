//! One step of a field path, kept in the form in which FieldsV1 writes it: `f:name`, `k:{"name":"c"}`, `v:"x"`, `i:0`.

use std::cmp::Ordering;
use std::fmt;

use crate::{Map, Text, Value, gojson};

/// A step from a value to one of its parts. The text is canonical, so equal steps have equal texts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Element(Text);

impl Element {
    /// An entry of a map or a field of a struct.
    pub fn field(name: &str) -> Self {
        let mut step = Text::with_capacity("f:".len() + name.len());
        step.push_str("f:");
        step.push_str(name);
        Self(step)
    }

    /// An item of a list, addressed by the values of its key fields.
    pub fn key(mut keys: Vec<(&str, Value)>) -> Self {
        keys.sort_by(|a, b| a.0.cmp(b.0));
        let map: Map = keys.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self(format!("k:{}", as_go_writes(&Value::Object(map))).into())
    }

    /// An item of a set.
    pub fn value(value: &Value) -> Self {
        Self(format!("v:{}", as_go_writes(value)).into())
    }

    /// From a key of a FieldsV1 object; `None` when it is none of the four forms.
    pub fn parse(text: &str) -> Option<Self> {
        let (form, rest) = text.split_once(':')?;
        match form {
            "f" => Some(Self(text.into())),
            "i" => rest.parse::<i64>().ok().map(|_| Self(text.into())),
            "v" => Some(Self::value(&serde_json::from_str(rest).ok()?)),
            "k" => {
                let map: Map = serde_json::from_str(rest).ok()?;
                Some(Self::key(map.iter().map(|(name, value)| (name.as_str(), value.clone())).collect()))
            }
            _ => None,
        }
    }

    /// The step as FieldsV1 writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same as a name of its own.
    pub(super) fn to_text(&self) -> Text {
        self.0.clone()
    }

    /// The name, when this is a field or map entry.
    pub fn field_name(&self) -> Option<&str> {
        self.0.strip_prefix("f:")
    }

    pub(super) fn is_key(&self) -> bool {
        self.0.starts_with("k:")
    }

    /// Name and value, when this is one key that is a plain string: most are.
    fn only_key(&self) -> Option<(&str, &str)> {
        let key = self.0.strip_prefix("k:{\"")?.strip_suffix("\"}")?;
        let (name, value) = key.split_once("\":\"")?;
        let is_plain = |text: &str| !text.contains(['"', '\\']);
        (is_plain(name) && is_plain(value)).then_some((name, value))
    }

    fn rank(&self) -> u8 {
        match self.0.as_bytes().first() {
            Some(b'f') => 0,
            Some(b'k') => 1,
            Some(b'v') => 2,
            _ => 3,
        }
    }

    fn json(&self) -> Value {
        self.0.get(2..).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
}

/// As error messages print it: `.name`, `[name="c"]`, `[="x"]`, `[0]`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rank() {
            0 => write!(f, ".{}", &self.0[2..]),
            1 => {
                let keys = self.json();
                let keys =
                    keys.as_object().into_iter().flatten().map(|(name, value)| format!("{name}={}", shown(value)));
                write!(f, "[{}]", keys.collect::<Vec<_>>().join(","))
            }
            2 => write!(f, "[={}]", shown(&self.json())),
            _ => write!(f, "[{}]", &self.0[2..]),
        }
    }
}

/// The JSON of a value, in which Go escapes what would mean something in a page.
fn as_go_writes(value: &Value) -> String {
    let json = value.to_string();
    if json.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) { gojson::html_safe(&json) } else { json }
}

/// A value as upstream prints it in a path: JSON but for maps, which no key should be.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(map) => map.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect(),
        Value::Array(list) => format!("[{}]", list.iter().map(shown).collect::<Vec<_>>().join(",")),
        scalar => scalar.to_string(),
    }
}

/// Fields, then keys, then values, then indices; inside a form by meaning rather than by text, so that port 80 precedes 443.
impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        let ranks = self.rank().cmp(&other.rank());
        if ranks != Ordering::Equal || self.0 == other.0 {
            return ranks;
        }
        let by_meaning = match self.rank() {
            0 => Ordering::Equal,
            1 => match (self.only_key(), other.only_key()) {
                (Some(own), Some(others)) => own.cmp(&others),
                _ => compare_keys(&self.json(), &other.json()),
            },
            _ => compare_values(&self.json(), &other.json()),
        };
        by_meaning.then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn compare_keys(a: &Value, b: &Value) -> Ordering {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return Ordering::Equal };
    for ((a_name, a_value), (b_name, b_value)) in a.iter().zip(b) {
        let order = a_name.cmp(b_name).then_with(|| compare_values(a_value, b_value));
        if order != Ordering::Equal {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

fn compare_values(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        _ => type_rank(a).cmp(&type_rank(b)),
    }
}

fn type_rank(value: &Value) -> u8 {
    match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    }
}
