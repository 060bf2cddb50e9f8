//! Columns of custom resources: `additionalPrinterColumns` of a CRD, each a simple JSONPath into the object.

use crate::{Value, gojson, time};

use super::{Column, row::Row};

/// One entry of `additionalPrinterColumns`, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct CustomColumn {
    name: String,
    column_type: String,
    format: String,
    description: String,
    priority: i64,
    path: Option<Vec<Step>>,
}

/// A step of a JSONPath.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    /// `[*]` or `.*`
    All,
    /// `[?(@.type=="Ready")]`: items whose field has that text.
    Where(Vec<Step>, String),
}

impl CustomColumn {
    /// From an entry of `additionalPrinterColumns`. A path that cannot be understood shows nothing.
    pub fn from_object(column: &Value) -> Self {
        let text = |name: &str| column.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
        let name = text("name");
        let description = match text("description") {
            empty if empty.is_empty() => {
                format!("Custom resource definition column (in JSONPath format): {}", text("jsonPath"))
            }
            description => description,
        };
        Self {
            name,
            column_type: text("type"),
            format: text("format"),
            description,
            priority: column.get("priority").and_then(Value::as_i64).unwrap_or(0),
            path: parse(&text("jsonPath")),
        }
    }

    /// The one column a CRD without columns has.
    pub(super) fn age() -> Self {
        let path = vec![Step::Field("metadata".into()), Step::Field("creationTimestamp".into())];
        Self {
            name: "Age".into(),
            column_type: "date".into(),
            format: String::new(),
            description: super::Printer::of("*", "*")
                .columns()
                .get(1)
                .map(|c| c.description.clone())
                .unwrap_or_default(),
            priority: 0,
            path: Some(path),
        }
    }

    pub(super) fn definition(&self) -> Column {
        Column {
            name: self.name.clone(),
            column_type: self.column_type.clone(),
            format: self.format.clone(),
            description: self.description.clone(),
            priority: self.priority,
        }
    }

    pub(super) fn cell(&self, row: &Row<'_>) -> Value {
        let mut found = vec![row.object];
        for step in self.path.as_deref().unwrap_or_default() {
            found = found.into_iter().flat_map(|value| step.take(value)).collect();
        }
        let first = match (&self.path, found.first()) {
            (Some(_), Some(first)) if !first.is_null() => *first,
            _ => return Value::Null,
        };
        match self.column_type.as_str() {
            "string" if found.len() == 1 && first.is_string() => first.clone(),
            "string" => found.iter().map(|v| gojson::print(v)).collect::<Vec<_>>().join(",").into(),
            "integer" => first.as_i64().or(first.as_f64().map(|f| f as i64)).map_or(Value::Null, Value::from),
            "number" => {
                if first.is_number() {
                    first.clone()
                } else {
                    Value::Null
                }
            }
            "boolean" => {
                if first.is_boolean() {
                    first.clone()
                } else {
                    Value::Null
                }
            }
            "date" => match first.as_str() {
                Some(text) if time::parse(text).is_some() => time::age(text, row.now).into(),
                _ => "<invalid>".into(),
            },
            _ => Value::Null,
        }
    }
}

impl Step {
    fn take<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match (self, value) {
            (Step::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
            (Step::Index(i), Value::Array(items)) => {
                let index = if *i < 0 { i.saturating_add_unsigned(items.len() as u64) } else { *i };
                usize::try_from(index).ok().and_then(|i| items.get(i)).into_iter().collect()
            }
            (Step::All, Value::Array(items)) => items.iter().collect(),
            (Step::All, Value::Object(map)) => map.values().collect(),
            (Step::Where(path, wanted), Value::Array(items)) => {
                let matches = |item: &&Value| {
                    let mut found = vec![*item];
                    for step in path {
                        found = found.into_iter().flat_map(|v| step.take(v)).collect();
                    }
                    found.iter().any(|v| gojson::print(v) == *wanted)
                };
                items.iter().filter(matches).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`, `.metadata.labels.a\.b`, `.items[0]`, `.items[*]`.
fn parse(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = path.trim().trim_start_matches('{').trim_end_matches('}');
    rest = rest.strip_prefix('$').unwrap_or(rest);
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('[') {
            let end = closing_bracket(tail)?;
            let inside = tail[..end].trim();
            rest = &tail[end + 1..];
            let quoted = |s: &str| {
                let q = s.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
                s.strip_prefix(q)?.strip_suffix(q).map(str::to_owned)
            };
            steps.push(if inside == "*" {
                Step::All
            } else if let Some(name) = quoted(inside) {
                Step::Field(name)
            } else if let Some(filter) = inside.strip_prefix("?(").and_then(|s| s.strip_suffix(')')) {
                let (left, right) = filter.split_once("==")?;
                let right = right.trim();
                Step::Where(parse(left.trim().strip_prefix('@')?)?, quoted(right).unwrap_or_else(|| right.to_owned()))
            } else {
                Step::Index(inside.parse().ok()?)
            });
        } else {
            let tail = rest.strip_prefix('.')?;
            let mut name = String::new();
            let mut end = tail.len();
            let mut chars = tail.char_indices();
            while let Some((i, c)) = chars.next() {
                match c {
                    '\\' => name.extend(chars.next().map(|(_, c)| c)),
                    '.' | '[' => {
                        end = i;
                        break;
                    }
                    c => name.push(c),
                }
            }
            rest = &tail[end..];
            match name.as_str() {
                // `.` before a bracket, as in `.items.[0]`.
                "" if rest.starts_with('[') => {}
                "" => return None,
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Field(name)),
            }
        }
    }
    Some(steps)
}

/// Where a bracket ends, quotes respected.
fn closing_bracket(text: &str) -> Option<usize> {
    let mut quote = None;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (None, ']') => return Some(i),
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    fn cell(path: &str, column_type: &str) -> Value {
        let object = json!({
            "metadata": {"labels": {"a.b/c": "x"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"replicas": 3, "on": true, "names": ["p", "q"], "map": {"z": 1}},
            "status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}]},
        });
        let column = CustomColumn::from_object(&json!({"name": "n", "type": column_type, "jsonPath": path}));
        let now = time::parse("2026-01-01T00:01:00Z").expect("time");
        column.cell(&Row { object: &object, now })
    }

    #[test]
    fn paths_find_values() {
        let cases = [
            (".spec.replicas", "integer", json!(3)),
            (".spec.replicas", "string", json!("3")),
            (".spec.on", "boolean", json!(true)),
            (".spec.names[1]", "string", json!("q")),
            (".spec.names[-1]", "string", json!("q")),
            (".spec.names[*]", "string", json!("p,q")),
            (".spec.names", "string", json!("[p q]")),
            (".spec.map", "string", json!("map[z:1]")),
            (".spec.none", "string", Value::Null),
            (".status.conditions[?(@.type==\"Ready\")].status", "string", json!("True")),
            (".status.conditions[?(@.type=='A')].status", "string", json!("False")),
            (".metadata.labels.a\\.b/c", "string", json!("x")),
            (".metadata.labels['a.b/c']", "string", json!("x")),
            (".metadata.creationTimestamp", "date", json!("60s")),
            (".spec.names[0]", "date", json!("<invalid>")),
            (".spec[", "string", Value::Null),
        ];
        for (path, column_type, want) in cases {
            assert_eq!(cell(path, column_type), want, "{path}");
        }
    }
}
