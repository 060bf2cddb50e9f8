//! What evaluation costs, in cel-go's units of roughly 100 nanoseconds of its own interpreter.

use super::opaque::Opaque;
use super::value::Val;

/// Reading a variable or a field.
pub(super) const SELECT: u64 = 1;
pub(super) const LIST: u64 = 10;
pub(super) const MAP: u64 = 30;
pub(super) const STRUCT: u64 = 40;
/// Per character that is looked at.
pub(super) const CHARACTER: f64 = 0.1;
/// Per character of a regular expression.
pub(super) const PATTERN: f64 = 0.25;
/// One question to the authorizer; two of them are what one expression may ask.
pub(super) const AUTHORIZATION: u64 = 350_000;

/// Times a factor, rounded up.
pub(super) fn scaled(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

fn size(val: &Val<'_>) -> u64 {
    match val {
        Val::Optional(Some(inner)) => size(inner),
        Val::Opaque(value) => value.size().unwrap_or(1),
        other => other.size().map_or(1, |size| size as u64),
    }
}

/// Cost of looking at everything in a value.
fn traversal(val: &Val<'_>) -> u64 {
    match val {
        Val::String(text) => (text.len() as f64 * CHARACTER) as u64,
        Val::Bytes(bytes) => (bytes.len() as f64 * CHARACTER) as u64,
        Val::List(list) => list.iter().map(|item| item.map_or(1, |item| traversal(&item))).sum(),
        Val::Map(map) => map
            .keys()
            .iter()
            .map(|key| {
                let value = map.get(key).ok().flatten();
                traversal(key) + value.map_or(1, |value| traversal(&value))
            })
            .sum(),
        _ => 1,
    }
}

/// Comparing every element with every other.
fn self_comparison(list: &Val<'_>) -> u64 {
    let size = size(list);
    let first = match list {
        Val::List(list) => list.get(0).and_then(Result::ok),
        _ => None,
    };
    let factor = if matches!(first, Some(Val::String(_) | Val::Bytes(_))) { 2.0 + CHARACTER } else { 2.0 };
    allocating(factor, size.saturating_mul(size))
}

fn allocating(factor: f64, size: u64) -> u64 {
    ((size as f64 * factor) as u64).saturating_add(1 + LIST)
}

/// Cost of a call that has been made; `result` is missing when it failed.
pub(super) fn of_call(function: &str, args: &[Val<'_>], result: Option<&Val<'_>>) -> u64 {
    let of = |index: usize| args.get(index).map_or(1, size);
    let is_text = matches!(args.first(), Some(Val::String(_) | Val::Bytes(_)));
    match function {
        "check" => AUTHORIZATION,
        "fieldSelector" | "labelSelector" => {
            let length = of(1);
            LIST + scaled(length, CHARACTER) + scaled(scaled(length, 0.5), (LIST + STRUCT) as f64)
        }
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => args.first().map_or(1, traversal),
        "url"
        | "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "jsonpatch.escapeKey"
        | "cidr"
        | "isIP"
        | "isCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver" => scaled(of(0), CHARACTER),
        "ip" if is_text => scaled(of(0), CHARACTER),
        "replace" | "split" | "ip.isCanonical" => scaled(of(0), 2.0 * CHARACTER),
        "join" => scaled(result.map_or(1, size), 2.0 * CHARACTER),
        "find" | "findAll" | "matches" => scaled(of(0) + 1, CHARACTER).saturating_mul(scaled(of(1), PATTERN)),
        "containsIP" | "containsCIDR" => contains(function, args),
        "validate" => match args.first() {
            Some(Val::Opaque(Opaque::Format(format))) => {
                scaled(of(1) + 1, CHARACTER).saturating_mul(scaled(format.regex_chars, PATTERN))
            }
            _ => 1,
        },
        "_==_" | "_!=_" => match args.first() {
            Some(Val::Opaque(_)) => 1,
            _ => scaled(of(0).min(of(1)), CHARACTER),
        },
        "_<_" | "_<=_" | "_>_" | "_>=_" if is_text => scaled(of(0).min(of(1)), CHARACTER),
        "_+_" if is_text => scaled(of(0) + of(1), CHARACTER),
        // The standard library looks at the whole string, whatever is searched for at its ends.
        "startsWith" | "endsWith" | "strings.quote" | "format" => scaled(of(0), CHARACTER),
        "bytes" | "string" if is_text => scaled(of(0), CHARACTER),
        "contains" => scaled(of(0), CHARACTER).saturating_mul(scaled(of(1), CHARACTER)),
        "@in" if matches!(args.get(1), Some(Val::List(_))) => of(1),
        "slice" | "reverse" | "lists.range" => allocating(1.0, result.map_or(1, size)),
        "flatten" => match args.get(1) {
            Some(Val::Int(depth)) => allocating(*depth as f64, of(0)),
            _ => allocating(1.0, of(0)),
        },
        "distinct" | "sort" => args.first().map_or(1, self_comparison),
        "@sortByAssociatedKeys" => args.get(1).map_or(1, self_comparison),
        "sets.contains" | "sets.intersects" => of(0).saturating_mul(of(1)).saturating_add(1),
        "sets.equivalent" => of(0).saturating_mul(of(1)).saturating_mul(2).saturating_add(1),
        _ => 1,
    }
}

fn contains(function: &str, args: &[Val<'_>]) -> u64 {
    let network = args.first().map_or(1, size);
    let mut cost = scaled(2 * network, CHARACTER);
    if function == "containsCIDR" {
        cost += scaled(network, CHARACTER) + 1;
    }
    match args.get(1) {
        Some(text @ Val::String(_)) => cost + scaled(size(text), CHARACTER),
        _ => cost,
    }
}
