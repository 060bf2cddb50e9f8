//! Paths into a schema: `.spec.name`, `.labels['a.b']`. Only fields that the schema has, and entries of its maps.

use crate::{Path, Value};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Brackets {
    Allowed,
    Refused,
}

/// The steps of a path and the schema it leads to, or what is wrong with the path.
pub(super) fn resolve<'s>(text: &str, root: &'s Value, brackets: Brackets) -> Result<(Vec<String>, &'s Value), String> {
    const NO_FIELD: &str = "does not refer to a valid field";
    const ENDED: &str = "unexpected end of JSON path";
    let mut schema = root;
    let mut steps = Vec::new();
    let mut rest = text;
    while let Some(token) = next_token(&mut rest) {
        let name = match token {
            "[" if brackets == Brackets::Refused => return Err("array notation is not allowed".to_owned()),
            "[" => unquoted(next_token(&mut rest).ok_or(ENDED)?)?,
            "." => next_token(&mut rest).ok_or(ENDED)?.to_owned(),
            other => return Err(format!("expected [ or . but got: {other}")),
        };
        let properties = schema.get("properties").and_then(Value::as_object).filter(|p| !p.is_empty());
        schema = match properties {
            Some(properties) => properties.get(&name),
            None => schema.get("additionalProperties").filter(|s| s.is_object()),
        }
        .ok_or(NO_FIELD)?;
        steps.push(name);
        if token == "[" {
            let end = next_token(&mut rest).ok_or(ENDED)?;
            if end != "]" {
                return Err(format!("expected ] but got {end}"));
            }
        }
    }
    Ok((steps, schema))
}

/// The printed form of a path below the value that `root` describes: `spec.labels[a.b]`; `None` when there is no such place.
pub(crate) fn printed(text: &str, root: &Value) -> Option<String> {
    let (steps, _) = resolve(text, root, Brackets::Allowed).ok()?;
    let mut schema = root;
    let mut out = Path::root();
    for step in &steps {
        let property = schema.get("properties").and_then(|properties| properties.get(step));
        out = if property.is_some() { out.child(step) } else { out.key(step) };
        schema = property.or_else(|| schema.get("additionalProperties"))?;
    }
    Some(out.as_str().to_owned())
}

/// A delimiter, a quoted string with its quotes, or the text up to the next delimiter.
fn next_token<'t>(rest: &mut &'t str) -> Option<&'t str> {
    let first = rest.chars().next()?;
    let is_delimiter = |c: char| matches!(c, '.' | '[' | ']');
    let length = if is_delimiter(first) {
        1
    } else if first == '\'' {
        closing_quote(rest).map_or(rest.len(), |at| at + 1)
    } else {
        rest.find(is_delimiter).unwrap_or(rest.len())
    };
    let (token, tail) = rest.split_at(length);
    *rest = tail;
    Some(token)
}

fn closing_quote(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    (1..bytes.len()).find(|&at| bytes[at] == b'\'' && bytes[at - 1] != b'\\')
}

/// The text of a quoted string, its escapes resolved.
fn unquoted(token: &str) -> Result<String, String> {
    let inner = token.strip_prefix('\'').and_then(|t| t.strip_suffix('\''));
    let inner = inner.ok_or_else(|| format!("expected single quoted string but got {token}"))?;
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        out.push(match chars.next() {
            Some('a') => '\u{7}',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\u{b}',
            Some(same @ ('\'' | '\\')) => same,
            other => {
                let shown: String = other.into_iter().collect();
                return Err(format!("invalid string literal: invalid escape char \\{shown}"));
            }
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn paths_name_fields_and_map_entries() {
        let schema =
            json!({"properties": {"a": {"additionalProperties": {"type": "string"}}, "b.c": {"type": "integer"}}});
        let steps = |text: &str| resolve(text, &schema, Brackets::Allowed).map(|(steps, _)| steps.join("/"));
        assert_eq!(steps(".a['x.y']"), Ok("a/x.y".to_owned()));
        assert_eq!(steps("['b.c']"), Ok("b.c".to_owned()));
        assert_eq!(steps(".nope"), Err("does not refer to a valid field".to_owned()));
        assert_eq!(steps("a"), Err("expected [ or . but got: a".to_owned()));
        assert_eq!(steps(".a[0]"), Err("expected single quoted string but got 0".to_owned()));
        assert_eq!(steps(".a['x'"), Err("unexpected end of JSON path".to_owned()));
    }
}
