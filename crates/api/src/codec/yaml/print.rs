//! YAML written the way upstream's library writes it: sorted keys, two spaces, list items at the level of their key, strings
//! plain where a YAML 1.1 reader would read them back as the same string.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// A value as a YAML document, ending with a line break.
pub fn print(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => object(value, 0, &mut out),
        Value::Array(list) if !list.is_empty() => array(list, 0, &mut out),
        scalar => {
            out.push_str(&text(scalar, 0));
            out.push('\n');
        }
    }
    out
}

fn object(value: &Value, indent: usize, out: &mut String) {
    let Some(map) = value.as_object() else { return };
    let mut entries: Vec<(&String, &Value)> = map.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    for (n, (key, value)) in entries.into_iter().enumerate() {
        // The first entry of an object in a list follows the dash.
        if n > 0 || !out.ends_with("- ") {
            pad(indent, out);
        }
        out.push_str(&one_line(key));
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                object(value, indent + 2, out);
            }
            Value::Array(list) if !list.is_empty() => {
                out.push('\n');
                array(list, indent, out);
            }
            scalar => {
                out.push(' ');
                out.push_str(&text(scalar, indent + 2));
                out.push('\n');
            }
        }
    }
}

fn array(list: &[Value], indent: usize, out: &mut String) {
    for (n, item) in list.iter().enumerate() {
        if n > 0 || !out.ends_with("- ") {
            pad(indent, out);
        }
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => object(item, indent + 2, out),
            Value::Array(inner) if !inner.is_empty() => array(inner, indent + 2, out),
            scalar => {
                out.push_str(&text(scalar, indent + 2));
                out.push('\n');
            }
        }
    }
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn text(value: &Value, indent: usize) -> String {
    match value {
        Value::String(s) => string(s, indent),
        // Numbers, booleans, null, and empty collections read the same in both languages.
        other => other.to_string(),
    }
}

fn string(s: &str, indent: usize) -> String {
    if s.contains('\n') && is_block(s) {
        return block(s, indent);
    }
    one_line(s)
}

fn one_line(s: &str) -> String {
    let reads_back = matches!(super::resolve(s), Ok(Value::String(_)));
    if reads_back && is_plain(s) && !is_time_like(s) { s.to_owned() } else { double_quoted(s) }
}

/// Upstream's library quotes what some YAML readers take for a date, a time or a number in base 60.
fn is_time_like(s: &str) -> bool {
    static TIME_LIKE: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(
            r"(?x)^(?:
                [0-9]{4}-[0-9]{1,2}-[0-9]{1,2}
                (?:[Tt\ ][0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})?)?
              | [-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?
            )$",
        )
        .ok()
    });
    s.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+')
        && TIME_LIKE.as_ref().is_some_and(|pattern| pattern.is_match(s))
}

/// Fit for a literal block: printable, no trailing spaces to lose, and no first line that would set another indent.
fn is_block(s: &str) -> bool {
    let printable = s.chars().all(|c| c == '\n' || c == '\t' || !c.is_control());
    printable && !s.starts_with([' ', '\n', '\t']) && !s.contains('\u{feff}')
}

fn block(s: &str, indent: usize) -> String {
    let body = s.trim_end_matches('\n');
    let chomp = match s.len() - body.len() {
        0 => "-",
        1 => "",
        _ => "+",
    };
    let mut out = format!("|{chomp}");
    // With `+` every trailing break counts; the caller adds the last one.
    let lines = if chomp == "+" { &s[..s.len() - 1] } else { body };
    for line in lines.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            pad(indent.max(2), &mut out);
            out.push_str(line);
        }
    }
    out
}

fn is_plain(s: &str) -> bool {
    const INDICATORS: &[char] =
        &['-', '?', ':', ',', '[', ']', '{', '}', '#', '&', '*', '!', '|', '>', '\'', '"', '%', '@', '`', '='];
    let starts_plain = match s.chars().next() {
        None => false,
        // A dash, question mark or colon is plain when a word follows directly.
        Some('-' | '?' | ':') => s.chars().nth(1).is_some_and(|c| c != ' ') && !s.starts_with("---"),
        Some(c) => !INDICATORS.contains(&c),
    };
    starts_plain
        && s != "<<"
        && !s.starts_with([' ', '\t'])
        && !s.ends_with([' ', '\t', ':'])
        && !s.starts_with("...")
        && !s.contains(": ")
        && !s.contains(" #")
        && !s.chars().any(|c| c.is_control() || c == '\u{feff}' || c == '\u{2028}' || c == '\u{2029}' || c == '\u{85}')
}

/// JSON's escapes are YAML's, but for the two line separators that YAML would fold.
fn double_quoted(s: &str) -> String {
    let json = Value::from(s).to_string();
    json.replace('\u{85}', "\\u0085")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
        .replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::print;
    use crate::codec::yaml::parse;

    #[test]
    fn what_looks_like_a_time_is_quoted() {
        let value = serde_json::json!({"a": "2026-11-23T01:19:31Z", "b": "2026-1-2", "c": "12:30", "d": "nginx:1", "e": "1.2.3.4"});
        assert_eq!(
            print(&value),
            "a: \"2026-11-23T01:19:31Z\"\nb: \"2026-1-2\"\nc: \"12:30\"\nd: nginx:1\ne: 1.2.3.4\n"
        );
    }

    #[test]
    fn objects_print_sorted_with_lists_at_key_level() {
        let value = json!({"kind": "Lease", "metadata": {"labels": {"on": "yes", "a": "1"}, "name": "a"}, "items": [{"b": 1, "a": [1, "x"]}, []], "empty": {}, "text": "one\ntwo\n"});
        let expected = "empty: {}\nitems:\n- a:\n  - 1\n  - x\n  b: 1\n- []\nkind: Lease\nmetadata:\n  labels:\n    a: \"1\"\n    \"on\": \"yes\"\n  name: a\ntext: |\n  one\n  two\n";
        assert_eq!(print(&value), expected);
    }

    #[test]
    fn what_is_printed_reads_back() {
        let texts = [
            "",
            " ",
            "a: b",
            "a #b",
            "- x",
            "-x",
            "---",
            "true",
            "y",
            "0777",
            "1e3",
            "~",
            "null",
            "2024-01-01",
            "'q'",
            "\"",
            "a\nb",
            "a\n",
            "a\n\n",
            "\na",
            "  a\nb",
            "a\n b\n",
            "tab\there",
            "\u{1}",
            "é",
            "=",
            "<<",
            "@x",
            "%y",
            "{}",
            "[",
            "x:",
            "a\\b",
            "#",
            "a\n\n\nb",
            "\u{2028}",
            "x \n y ",
        ];
        for text in texts {
            let value = json!({"k": text, "list": [text, {"k": text}], "deep": {text: {"x": text}}});
            let printed = print(&value);
            let back = parse(printed.as_bytes()).unwrap_or_else(|e| panic!("{text:?}: {e}\n{printed}"));
            let sorted = parse(&serde_json::to_vec(&value).unwrap_or_default()).map(|d| d.value);
            assert_eq!(Ok(back.value), sorted, "{text:?}\n{printed}");
        }
    }
}
