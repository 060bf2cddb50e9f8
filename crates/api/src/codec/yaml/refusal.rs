//! Why a text is not YAML, in the words of upstream's library, a port of libyaml. Our parser stops at the same places for reasons of
//! its own; which words stand for which reason is told here.

use granit_parser::{ErrorKind, ScanError};

use crate::Value;
use crate::field::go_quote;

/// The refusal of a whole text; `None` of one whose characters may all be in YAML.
pub(super) fn of_characters(text: &str) -> Option<String> {
    let is_control = |byte: u8| (byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r')) || byte == 0x7f;
    if text.bytes().any(is_control) {
        return Some("yaml: control characters are not allowed".to_owned());
    }
    // Where a key may begin, a tab begins nothing.
    let before = text.trim_start();
    let skipped = &text[..text.len() - before.len()];
    if before.is_empty() || !skipped.contains('\t') {
        return None;
    }
    let line = skipped.split('\t').next().unwrap_or("").matches('\n').count();
    Some(scanner("found character that cannot start any token", line))
}

/// The refusal of a text that our parser refuses.
pub(super) fn of(error: &ScanError, text: &str) -> String {
    let at = text.char_indices().nth(error.marker().index()).map_or(text.len(), |(at, _)| at);
    let line = error.marker().line().saturating_sub(1);
    let end = End::of(text);
    let separator =
        |open: char| if open == '{' { "did not find expected ',' or '}'" } else { "did not find expected ',' or ']'" };
    match error.kind() {
        ErrorKind::UnclosedFlowCollection { open } => match end.awaits_node {
            true => parser("did not find expected node content", end.line),
            false => parser(separator(*open), end.line),
        },
        ErrorKind::UnexpectedEofFlowSequence
        | ErrorKind::UnexpectedEofFlowMapping
        | ErrorKind::UnexpectedEofImplicitFlowMapping
        | ErrorKind::MisplacedFlowCollectionEnd
        | ErrorKind::ExpectedNodeContent => parser("did not find expected node content", line),
        ErrorKind::ExpectedFlowMappingSeparator => parser(separator('{'), line),
        ErrorKind::ExpectedFlowSequenceSeparator => parser(separator('['), line),
        ErrorKind::MismatchedFlowCollectionEnd { open, .. } => parser(separator(*open), line),
        ErrorKind::InvalidTrailingDoubleQuotedScalar
        | ErrorKind::InvalidTrailingSingleQuotedScalar
        | ErrorKind::InvalidColonPlacement => match innermost_flow(&text[..at]) {
            Some(open) => parser(separator(open), line),
            None => parser("did not find expected key", line),
        },
        ErrorKind::ExpectedBlockMappingKey => parser("did not find expected key", line),
        ErrorKind::ExpectedBlockSequenceEntry => parser("did not find expected '-' indicator", line),
        ErrorKind::ExpectedDocumentStart if text[at..].starts_with('%') || text.trim_start().starts_with('%') => {
            scanner("found unknown directive name", line)
        }
        ErrorKind::ExpectedDocumentStart => parser("did not find expected <document start>", line),
        ErrorKind::UnclosedQuotedScalar => scanner("found unexpected end of stream", text.matches('\n').count()),
        ErrorKind::DocumentIndicatorInQuotedScalar => scanner("found unexpected document indicator", line),
        ErrorKind::UnknownQuotedScalarEscape => scanner("found unknown escape character", line),
        ErrorKind::InvalidQuotedScalarHexEscape | ErrorKind::InvalidLowSurrogateHexEscape => {
            scanner("did not find expected hexdecimal number", line)
        }
        ErrorKind::InvalidUnicodeEscape
        | ErrorKind::InvalidLowSurrogate
        | ErrorKind::MissingLowSurrogate
        | ErrorKind::UnpairedLowSurrogate => scanner("found invalid Unicode character escape code", line),
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => scanner("could not find expected ':'", line + 1),
        ErrorKind::UnexpectedCharacter { .. }
        | ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation => scanner("found character that cannot start any token", line),
        ErrorKind::MissingTagUri => scanner("did not find expected tag URI", line),
        ErrorKind::MissingAnchorOrAliasName => scanner("did not find expected alphabetic or numeric character", line),
        ErrorKind::UndeclaredTagHandle => parser("found undefined tag handle", line),
        ErrorKind::UnknownAnchor => format!("yaml: unknown anchor '{}' referenced", alias_at(text, at)),
        ErrorKind::RecursionLimitExceeded => "yaml: exceeded max depth of 10000".to_owned(),
        ErrorKind::MappingValueNotAllowed
        | ErrorKind::MappingKeyNotAllowed
        | ErrorKind::BlockSequenceEntryNotAllowed => scanner(&error.info(), line),
        _ => scanner(&error.info(), line),
    }
}

/// A refusal while the text is cut into tokens; the first line is not named.
fn scanner(problem: &str, line: usize) -> String {
    if line == 0 { format!("yaml: {problem}") } else { format!("yaml: line {}: {problem}", line + 1) }
}

/// A refusal while tokens are put together: upstream names the line before.
fn parser(problem: &str, line: usize) -> String {
    if line == 0 { format!("yaml: {problem}") } else { format!("yaml: line {line}: {problem}") }
}

/// Where a text ends.
struct End {
    /// Counted from 0, past a last line without an end.
    line: usize,
    /// The last that was said begins or separates items, so that another was to follow.
    awaits_node: bool,
}

impl End {
    fn of(text: &str) -> Self {
        let is_open_line = !text.is_empty() && !text.ends_with('\n');
        let last = text.trim_end().chars().next_back();
        Self {
            line: text.matches('\n').count() + usize::from(is_open_line),
            awaits_node: matches!(last, Some('[' | '{' | ',' | ':')),
        }
    }
}

/// The bracket that was opened last before the end of `text` and is still open.
fn innermost_flow(text: &str) -> Option<char> {
    let mut open = Vec::new();
    let mut quote = None;
    let mut before = '\n';
    for c in text.chars() {
        let starts = before.is_whitespace() || matches!(before, '[' | '{' | ',' | ':');
        match (quote, c) {
            (Some(q), c) if q == c && before != '\\' => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') if starts => quote = Some(c),
            (None, '[' | '{') if starts => open.push(c),
            (None, ']' | '}') => drop(open.pop()),
            (None, _) => {}
        }
        before = c;
    }
    open.pop()
}

fn alias_at(text: &str, at: usize) -> &str {
    let (before, after) = text.split_at(at);
    let star = after.find('*').map(|star| at + star).or_else(|| before.rfind('*'));
    let name = star.map_or("", |star| &text[star + 1..]);
    let end = name.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-'))).unwrap_or(name.len());
    &name[..end]
}

/// A value as Go's `%#v` prints what the library makes of it.
pub(super) fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => go_quote(text),
        Value::Array(list) => {
            format!("[]interface {{}}{{{}}}", list.iter().map(go_syntax).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| format!("{}:{}", go_quote(key), go_syntax(value)));
            format!("map[interface {{}}]interface {{}}{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        scalar => scalar.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use crate::codec::yaml;

    fn check(refused: &str, text: &str) {
        assert_eq!(yaml::parse(text.as_bytes()).map(|d| d.value), Err(refused.to_owned()), "{text:?}");
    }

    #[test]
    fn refusals_are_those_of_upstreams_library() {
        check("yaml: line 1: did not find expected node content", "{");
        check("yaml: line 1: did not find expected node content", "a: [");
        check("yaml: line 1: did not find expected ',' or '}'", "{a: b");
        check("yaml: line 1: did not find expected ',' or ']'", "a: [b, c");
        check("yaml: line 1: did not find expected ',' or ']'", "a: [b\nc: d");
        check("yaml: did not find expected ',' or ']'", "[a}");
        check("yaml: did not find expected ',' or '}'", "{\"a\": \"b\" \"c\": \"d\"}");
        check("yaml: did not find expected node content", "a: }b");
        check("yaml: mapping values are not allowed in this context", "foo: bar: baz");
        check("yaml: line 2: mapping values are not allowed in this context", "a: b\n  c: d");
        check("yaml: block sequence entries are not allowed in this context", "a: - b");
        check("yaml: line 1: did not find expected '-' indicator", "- a\nb: c");
        check("yaml: line 4: did not find expected key", "apiVersion: v1\nkind: K\nmetadata:\n  name: a\n data: x");
        check("yaml: did not find expected key", "a: \"b\" c");
        check("yaml: line 2: found character that cannot start any token", "a:\n\tb: c");
        check("yaml: found character that cannot start any token", "\ta: b");
        check("yaml: found character that cannot start any token", "a: @b");
        check("yaml: found unexpected end of stream", "a: \"b");
        check("yaml: line 3: found unexpected end of stream", "a: \"b\nc: d\n");
        check("yaml: line 3: could not find expected ':'", "a: |\nb");
        check("yaml: unknown anchor 'x' referenced", "a: *x");
        check("yaml: did not find expected hexdecimal number", "\"a\\x\"");
        check("yaml: found unknown escape character", "\"a\\q\"");
        check("yaml: found unknown directive name", "%foo");
        check("yaml: control characters are not allowed", "a: \u{1}");
        check("yaml: invalid map key: []interface {}{\"a\"}", "[a]: b");
        check("yaml: invalid map key: map[interface {}]interface {}{\"a\":\"b\"}", "{a: b}: c");
        check("unsupported map key of type: %!s(<nil>), key: <nil>, value: 1", "~: 1");
        check("json: unsupported value: -Inf", "a: -.inf");
        check("yaml: !!binary value contains invalid base64 data", "a: !!binary x");
    }
}
