//! Functions on strings beyond the standard ones, including regular expressions. Positions count characters.

use regex::{Regex, RegexBuilder};

use super::value::{Eval, Val, fail, no_such_overload};

/// Memory a regular expression may compile to (bytes).
const REGEX_MAX_BYTES: usize = 1 << 20;

/// Compiles a pattern; the error is not shown to clients.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern).size_limit(REGEX_MAX_BYTES).build().map_err(|error| error.to_string())
}

fn text<'v>(args: &'v [Val<'_>], index: usize) -> Eval<&'v str> {
    match args.get(index) {
        Some(Val::String(text)) => Ok(text),
        _ => no_such_overload(),
    }
}

/// `None`: the argument is not there.
fn number(args: &[Val<'_>], index: usize) -> Eval<Option<i64>> {
    match args.get(index) {
        None => Ok(None),
        Some(Val::Int(n)) => Ok(Some(*n)),
        Some(_) => no_such_overload(),
    }
}

fn out_of_range<T>(index: i64) -> Eval<T> {
    fail(format!("index out of range: {index}"))
}

pub(super) fn char_at<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let (text, index) = (text(args, 0)?, number(args, 1)?.unwrap_or(0));
    let length = text.chars().count();
    match usize::try_from(index) {
        Ok(at) if at <= length => Ok(Val::string(text.chars().nth(at).map(String::from).unwrap_or_default())),
        _ => out_of_range(index),
    }
}

pub(super) fn index_of(args: &[Val<'_>]) -> Eval<i64> {
    let (text, part) = (chars(text(args, 0)?), chars(text(args, 1)?));
    let from = number(args, 2)?.unwrap_or(0);
    let Ok(start) = usize::try_from(from) else { return out_of_range(from) };
    if part.is_empty() {
        return Ok(start.min(text.len()) as i64);
    }
    let found = (start..text.len()).find(|&i| text[i..].starts_with(&part));
    Ok(found.map_or(-1, |i| i as i64))
}

pub(super) fn last_index_of(args: &[Val<'_>]) -> Eval<i64> {
    let (text, part) = (chars(text(args, 0)?), chars(text(args, 1)?));
    let given = number(args, 2)?;
    if let Some(from) = given.filter(|from| *from < 0) {
        return out_of_range(from);
    }
    let from = given.map(|from| from as usize);
    if part.is_empty() {
        return Ok(from.map_or(text.len(), |from| from.min(text.len())) as i64);
    }
    if part.len() > text.len() || from.is_some_and(|from| from >= text.len()) {
        return Ok(-1);
    }
    let last = text.len() - part.len();
    let found = (0..=from.map_or(last, |from| from.min(last))).rev().find(|&i| text[i..].starts_with(&part));
    Ok(found.map_or(-1, |i| i as i64))
}

fn chars(text: &str) -> Vec<char> {
    text.chars().collect()
}

pub(super) fn lower<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::string(text(args, 0)?.to_ascii_lowercase()))
}

pub(super) fn upper<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::string(text(args, 0)?.to_ascii_uppercase()))
}

pub(super) fn trim<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::string(text(args, 0)?.trim()))
}

pub(super) fn replace<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let (text, old, new) = (text(args, 0)?, text(args, 1)?, text(args, 2)?);
    let count = number(args, 3)?.and_then(|n| usize::try_from(n).ok());
    Ok(Val::string(match count {
        Some(count) => text.replacen(old, new, count),
        None => text.replace(old, new),
    }))
}

/// As Go splits: an empty separator parts all characters, a limit of 0 gives nothing, a negative one is none.
pub(super) fn split<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let (text, separator) = (text(args, 0)?, text(args, 1)?);
    let limit = number(args, 2)?.and_then(|n| usize::try_from(n).ok());
    if limit == Some(0) {
        return Ok(Val::list(Vec::new()));
    }
    let parts: Vec<String> = match (separator.is_empty(), limit) {
        (true, None) => text.chars().map(String::from).collect(),
        (true, Some(limit)) => {
            let mut parts: Vec<String> = text.chars().take(limit - 1).map(String::from).collect();
            let rest: String = text.chars().skip(limit - 1).collect();
            if !rest.is_empty() {
                parts.push(rest);
            }
            parts
        }
        (false, None) => text.split(separator).map(str::to_owned).collect(),
        (false, Some(limit)) => text.splitn(limit, separator).map(str::to_owned).collect(),
    };
    Ok(Val::strings(parts))
}

pub(super) fn substring<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let text = chars(text(args, 0)?);
    let start = number(args, 1)?.unwrap_or(0);
    let end = number(args, 2)?;
    if let Some(end) = end.filter(|end| start > *end) {
        return fail(format!("invalid substring range. start: {start}, end: {end}"));
    }
    let within = |at: i64| usize::try_from(at).ok().filter(|at| *at <= text.len());
    let Some(from) = within(start) else { return out_of_range(start) };
    let to = match end {
        Some(end) => match within(end) {
            Some(to) => to,
            None => return out_of_range(end),
        },
        None => text.len(),
    };
    Ok(Val::string(text[from..to].iter().collect::<String>()))
}

pub(super) fn join<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let Val::List(list) = &args[0] else { return no_such_overload() };
    let separator = if args.len() > 1 { text(args, 1)? } else { "" };
    let mut out = String::new();
    for (i, item) in list.iter().enumerate() {
        if i > 0 {
            out.push_str(separator);
        }
        match item? {
            Val::String(part) => out.push_str(&part),
            other => return fail(format!("join: invalid input: {other}")),
        }
    }
    Ok(Val::string(out))
}

pub(super) fn quote<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let mut out = String::from("\"");
    for c in text(args, 0)?.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            other => out.push(other),
        }
    }
    out.push('"');
    Ok(Val::string(out))
}

/// The functions that take a pattern as their second argument.
pub(super) fn with_regex<'a>(function: &str, regex: &Regex, args: &[Val<'a>]) -> Eval<Val<'a>> {
    let subject = text(args, 0)?;
    match function {
        "matches" => Ok(Val::Bool(regex.is_match(subject))),
        "find" => Ok(Val::string(regex.find(subject).map_or("", |found| found.as_str()))),
        _ => {
            let limit = number(args, 2)?.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
            Ok(Val::strings(regex.find_iter(subject).take(limit).map(|found| found.as_str().to_owned())))
        }
    }
}
