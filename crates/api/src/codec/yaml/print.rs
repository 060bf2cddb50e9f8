//! YAML written the way upstream's library writes it: keys in natural order, two spaces, list items at the level of their key,
//! strings plain where a YAML 1.1 reader would read them back as the same string, long ones folded at spaces.

use std::cmp::Ordering;
use std::sync::LazyLock;

use crate::{Text, Value};
use regex::Regex;

/// A space behind this column begins a new line.
const WIDTH: usize = 80;

/// A value as a YAML document, ending with a line break.
pub fn print(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => object(value, 0, &mut out),
        Value::Array(list) if !list.is_empty() => array(list, 0, &mut out),
        scalar => {
            text(scalar, 2, &mut out);
            out.push('\n');
        }
    }
    out
}

fn object(value: &Value, indent: usize, out: &mut String) {
    let Some(map) = value.as_object() else { return };
    let mut entries: Vec<(&Text, &Value)> = map.iter().collect();
    entries.sort_by(|(a, _), (b, _)| natural(a, b));
    for (n, (key, value)) in entries.into_iter().enumerate() {
        // The first entry of an object in a list follows the dash.
        if n > 0 || !out.ends_with("- ") {
            pad(indent, out);
        }
        string(key, None, out);
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
                text(scalar, indent + 2, out);
                out.push('\n');
            }
        }
    }
}

/// The order of keys: numbers within them count as numbers, and letters come after everything else, but not within digits.
fn natural(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let Some(i) = a.iter().zip(&b).position(|(x, y)| x != y) else { return a.len().cmp(&b.len()) };
    let within_digits = i > 0 && a[i - 1].is_numeric();
    match (a[i].is_alphabetic(), b[i].is_alphabetic()) {
        (true, true) => return a[i].cmp(&b[i]),
        (true, false) => return if within_digits { Ordering::Less } else { Ordering::Greater },
        (false, true) => return if within_digits { Ordering::Greater } else { Ordering::Less },
        (false, false) => {}
    }
    let has_zero = a[i] == '0' || b[i] == '0';
    let digits_before = a[..i].iter().rev().take_while(|c| c.is_ascii_digit());
    let seed = u64::from(has_zero && digits_before.into_iter().any(|c| *c != '0'));
    let number = |chars: &[char]| {
        let digits = chars[i..].iter().map_while(|c| c.to_digit(10));
        digits.fold((seed, 0), |(n, len), d| (n.wrapping_mul(10).wrapping_add(d.into()), len + 1))
    };
    number(&a).cmp(&number(&b)).then(a[i].cmp(&b[i]))
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
                text(scalar, indent + 2, out);
                out.push('\n');
            }
        }
    }
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn text(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::String(s) => string(s, Some(indent), out),
        // Numbers, booleans, null, and empty collections read the same in both languages.
        other => out.push_str(&other.to_string()),
    }
}

/// A string in the simplest style that keeps it. `indent` is that of continued lines; without it (for keys) there are none.
fn string(s: &str, indent: Option<usize>, out: &mut String) {
    let traits = Traits::of(s);
    let reads_back = matches!(super::resolve(s), Ok(Value::String(_))) && s != "<<" && !is_time_like(s);
    match indent {
        Some(indent) if s.contains('\n') && traits.literal => literal(s, indent, out),
        _ if s.contains('\n') || !reads_back || s.is_empty() => double_quoted(s, indent, out),
        _ if traits.plain => folded(s, "", indent, out),
        _ if traits.single_quoted => folded(&s.replace('\'', "''"), "'", indent, out),
        _ => double_quoted(s, indent, out),
    }
}

/// Which styles can hold a string.
struct Traits {
    plain: bool,
    single_quoted: bool,
    literal: bool,
}

impl Traits {
    fn of(s: &str) -> Self {
        const INDICATORS: &str = "#,[]{}&*!|>'\"%@`";
        let chars: Vec<char> = s.chars().collect();
        let blank_at = |i: usize| chars.get(i).is_none_or(|c| matches!(c, ' ' | '\t') || is_break(*c));
        let indicates = |(i, c): (usize, &char)| match c {
            '?' if i == 0 => blank_at(1),
            '-' if i == 0 => blank_at(1),
            ':' => blank_at(i + 1),
            '#' if i > 0 => blank_at(i - 1),
            c => i == 0 && INDICATORS.contains(*c),
        };
        let indicators = s.starts_with("---") || s.starts_with("...") || chars.iter().enumerate().any(indicates);
        let special = chars.iter().any(|c| !is_printable(*c));
        let pair = |first: fn(char) -> bool, second: fn(char) -> bool| {
            chars.windows(2).any(|pair| first(pair[0]) && second(pair[1]))
        };
        let (space_break, break_space) = (pair(is_space, is_break), pair(is_break, is_space));
        let edge = |c: Option<&char>| c.is_some_and(|c| is_space(*c) || is_break(*c));
        let edges = edge(chars.first()) || edge(chars.last());
        let trailing_space = chars.last().is_some_and(|c| is_space(*c));
        let line_breaks = chars.iter().any(|c| is_break(*c));
        let whole = !space_break && !special;
        Self {
            plain: whole && !indicators && !edges && !line_breaks,
            single_quoted: whole && !break_space && !line_breaks,
            literal: whole && !trailing_space,
        }
    }
}

fn is_space(c: char) -> bool {
    c == ' '
}

fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// As the library sees it; everything else is escaped.
fn is_printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}')
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

fn literal(s: &str, indent: usize, out: &mut String) {
    let body = s.trim_end_matches('\n');
    out.push('|');
    // The first line would set another indent.
    if s.starts_with([' ', '\n']) {
        out.push('2');
    }
    let chomp = match s.len() - body.len() {
        0 => "-",
        1 if !body.is_empty() => "",
        _ => "+",
    };
    out.push_str(chomp);
    // With `+` every trailing break counts; the caller adds the last one.
    let lines = if chomp == "+" { &s[..s.len() - 1] } else { body };
    for line in lines.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            pad(indent, out);
            out.push_str(line);
        }
    }
}

/// Characters on the last line.
fn column(out: &str) -> usize {
    out.chars().rev().take_while(|c| *c != '\n').count()
}

/// Text between two quotes (or none), its single spaces becoming line breaks once a line is full.
fn folded(s: &str, quote: &str, indent: Option<usize>, out: &mut String) {
    out.push_str(quote);
    let mut at = column(out);
    let mut after_space = false;
    let mut chars = s.chars().enumerate().peekable();
    while let Some((i, c)) = chars.next() {
        let next = chars.peek().map(|(_, c)| *c);
        let inside = quote.is_empty() || (i > 0 && next.is_some());
        match indent {
            Some(indent) if c == ' ' && !after_space && at > WIDTH && inside && next != Some(' ') => {
                out.push('\n');
                pad(indent, out);
                at = indent;
            }
            _ => {
                out.push(c);
                at += 1;
            }
        }
        after_space = c == ' ';
    }
    out.push_str(quote);
}

fn double_quoted(s: &str, indent: Option<usize>, out: &mut String) {
    out.push('"');
    let mut at = column(out);
    let mut after_space = false;
    let mut chars = s.chars().enumerate().peekable();
    while let Some((i, c)) = chars.next() {
        let next = chars.peek().map(|(_, c)| *c);
        match indent {
            Some(indent) if c == ' ' && !after_space && at > WIDTH && i > 0 && next.is_some() => {
                out.push('\n');
                pad(indent, out);
                at = indent;
                if next == Some(' ') {
                    out.push('\\');
                    at += 1;
                }
            }
            _ => {
                let before = out.len();
                escape(c, out);
                at += out[before..].chars().count();
            }
        }
        after_space = c == ' ';
    }
    out.push('"');
}

fn escape(c: char, out: &mut String) {
    let short = match c {
        '\0' => '0',
        '\u{7}' => 'a',
        '\u{8}' => 'b',
        '\t' => 't',
        '\n' => 'n',
        '\u{b}' => 'v',
        '\u{c}' => 'f',
        '\r' => 'r',
        '\u{1b}' => 'e',
        '"' | '\\' => c,
        '\u{85}' => 'N',
        '\u{2028}' => 'L',
        '\u{2029}' => 'P',
        c if is_printable(c) => return out.push(c),
        c => {
            let code = u32::from(c);
            let digits = match code {
                0..=0xff => format!("\\x{code:02X}"),
                0x100..=0xffff => format!("\\u{code:04X}"),
                _ => format!("\\U{code:08X}"),
            };
            return out.push_str(&digits);
        }
    };
    out.extend(['\\', short]);
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::print;
    use crate::codec::yaml::parse;

    #[test]
    fn what_looks_like_a_time_is_quoted() {
        let value =
            crate::json!({"a": "2026-11-23T01:19:31Z", "b": "2026-1-2", "c": "12:30", "d": "nginx:1", "e": "1.2.3.4"});
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
    fn strings_take_the_simplest_style_and_long_ones_are_folded() {
        let cases = [
            ("a: b", "k: 'a: b'\n"),
            ("it's #1 of: all", "k: 'it''s #1 of: all'\n"),
            ("tab\there", "k: \"tab\\there\"\n"),
            ("x \n y", "k: \"x \\n y\"\n"),
            (" a\nb\n", "k: |2\n   a\n  b\n"),
            ("\u{1f600}", "k: \"\\U0001F600\"\n"),
            ("yes", "k: \"yes\"\n"),
        ];
        for (text, expected) in cases {
            assert_eq!(print(&json!({ "k": text })), expected);
        }
        let words = "word ".repeat(20) + "end";
        let line = "word ".repeat(15) + "word";
        assert_eq!(print(&json!({ "k": words })), format!("k: {line}\n  word word word word end\n"));
        let quoted = words.replacen("word ", "word: ", 1);
        let line = line.replacen("word ", "word: ", 1);
        assert_eq!(print(&json!({ "k": quoted })), format!("k: '{line}\n  word word word word end'\n"));
    }

    #[test]
    fn keys_are_in_natural_order() {
        let value = json!({"a10": 1, "a2": 1, "B": 1, "a-b": 1, "a": 1, "f:x": 1, ".": 1, "ab": 1});
        assert_eq!(print(&value).replace(": 1\n", " ").replace('"', ""), ". B a a-b a2 a10 ab f:x ");
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
