//! The standard library: arithmetic, conversions, sizes, times, and strings.

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

use super::opaque::Opaque;
use super::structural::ListType;
use super::types::Type;
use super::value::{Eval, List, MapVal, Val, fail, no_such_overload, same_keys};

/// Seconds of the years 1 and 9999, between which times must be.
const UNIX_MIN: i64 = -62_135_596_800;
const UNIX_MAX: i64 = 253_402_300_799;
const SECOND: i64 = 1_000_000_000;

fn in_range(time: Timestamp) -> bool {
    (UNIX_MIN..=UNIX_MAX).contains(&time.as_second())
}

/// RFC 3339, any fraction, any offset.
pub(super) fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let has_shape = text.len() >= 20 && text.as_bytes()[10].eq_ignore_ascii_case(&b'T');
    if !has_shape {
        return None;
    }
    text.parse().ok()
}

/// Go's duration text, in nanoseconds.
pub(super) fn parse_duration(text: &str) -> Option<i64> {
    crate::codec::duration_nanos(text)
}

/// A double as Go prints it shortest (`%g`): with an exponent from a million on.
pub(super) fn go_float(d: f64) -> String {
    if d.is_nan() {
        return "NaN".to_owned();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() };
    }
    let scientific = format!("{d:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    format!("{d}")
}

fn seconds_text(nanoseconds: i64) -> String {
    format!("{}s", nanoseconds as f64 / SECOND as f64)
}

/// What `string()` makes of a value; `None` when it makes nothing of it.
pub(super) fn to_text(val: &Val<'_>) -> Option<String> {
    Some(match val {
        Val::String(text) => text.to_string(),
        Val::Bool(b) => b.to_string(),
        Val::Int(n) => n.to_string(),
        Val::Uint(n) => n.to_string(),
        Val::Double(d) => go_float(*d),
        Val::Duration(d) => seconds_text(*d),
        Val::Timestamp(time) => time.to_string(),
        Val::Type(t) => t.name().to_owned(),
        Val::Opaque(value @ (Opaque::Ip(_) | Opaque::Cidr(..))) => value.text()?,
        _ => return None,
    })
}

fn conversion<'a>(val: &Val<'a>, to: &Type) -> Eval<Val<'a>> {
    fail(format!("type conversion error from '{}' to '{to}'", val.type_of().name()))
}

pub(super) fn string<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match &args[0] {
        text @ Val::String(_) => Ok(text.clone()),
        Val::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Val::string(text)),
            Err(_) => fail("invalid UTF-8 in bytes, cannot convert to string"),
        },
        Val::Type(_) => conversion(&args[0], &Type::String),
        other => match to_text(other) {
            Some(text) => Ok(Val::string(text)),
            None => no_such_overload(),
        },
    }
}

pub(super) fn int<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match &args[0] {
        Val::Int(n) => Ok(Val::Int(*n)),
        Val::Uint(n) => i64::try_from(*n).map(Val::Int).or_else(|_| fail("integer overflow")),
        // Bounds are exclusive: they are not exact as doubles.
        Val::Double(d) if d.is_finite() && d.abs() < 9.223_372_036_854_775e18 => Ok(Val::Int(*d as i64)),
        Val::Double(_) => fail("integer overflow"),
        Val::Duration(d) => Ok(Val::Int(*d)),
        Val::Timestamp(time) => Ok(Val::Int(time.as_second())),
        Val::String(text) => match text.strip_prefix('+').unwrap_or(text).parse() {
            Ok(n) => Ok(Val::Int(n)),
            Err(_) => conversion(&args[0], &Type::Int),
        },
        _ => no_such_overload(),
    }
}

pub(super) fn uint<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match &args[0] {
        Val::Uint(n) => Ok(Val::Uint(*n)),
        Val::Int(n) => u64::try_from(*n).map(Val::Uint).or_else(|_| fail("unsigned integer overflow")),
        Val::Double(d) if *d >= 0.0 && *d < 1.844_674_407_370_955e19 => Ok(Val::Uint(*d as u64)),
        Val::Double(_) => fail("unsigned integer overflow"),
        Val::String(text) => match text.parse() {
            Ok(n) => Ok(Val::Uint(n)),
            Err(_) => conversion(&args[0], &Type::Uint),
        },
        _ => no_such_overload(),
    }
}

pub(super) fn double<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match &args[0] {
        Val::Double(d) => Ok(Val::Double(*d)),
        Val::Int(n) => Ok(Val::Double(*n as f64)),
        Val::Uint(n) => Ok(Val::Double(*n as f64)),
        Val::String(text) => match text.parse() {
            Ok(d) => Ok(Val::Double(d)),
            Err(_) => conversion(&args[0], &Type::Double),
        },
        _ => no_such_overload(),
    }
}

pub(super) fn bool<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match &args[0] {
        Val::Bool(b) => Ok(Val::Bool(*b)),
        Val::String(text) => match &**text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Val::Bool(false)),
            _ => conversion(&args[0], &Type::Bool),
        },
        _ => no_such_overload(),
    }
}

pub(super) fn bytes<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match &args[0] {
        Val::Bytes(bytes) => Ok(Val::Bytes(bytes.clone())),
        Val::String(text) => Ok(Val::Bytes(text.as_bytes().into())),
        _ => no_such_overload(),
    }
}

pub(super) fn duration<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match &args[0] {
        Val::Duration(d) => Ok(Val::Duration(*d)),
        Val::String(text) => match parse_duration(text) {
            Some(d) => Ok(Val::Duration(d)),
            None => conversion(&args[0], &Type::Duration),
        },
        _ => no_such_overload(),
    }
}

pub(super) fn timestamp<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let time = match &args[0] {
        Val::Timestamp(time) => return Ok(Val::Timestamp(*time)),
        Val::Int(n) => Timestamp::from_second(*n).ok(),
        Val::String(text) => match parse_timestamp(text) {
            Some(time) => Some(time),
            None => return conversion(&args[0], &Type::Timestamp),
        },
        _ => return no_such_overload(),
    };
    match time {
        Some(time) if in_range(time) => Ok(Val::Timestamp(time)),
        _ => fail("timestamp overflow"),
    }
}

pub(super) fn size<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match args[0].size() {
        Some(size) => Ok(Val::Int(size as i64)),
        None => no_such_overload(),
    }
}

fn checked<'a, T>(result: Option<T>, make: impl FnOnce(T) -> Val<'a>, overflow: &str) -> Eval<Val<'a>> {
    match result {
        Some(value) => Ok(make(value)),
        None => fail(overflow),
    }
}

const INT: &str = "integer overflow";
const UINT: &str = "unsigned integer overflow";
const DURATION: &str = "duration overflow";

fn moved(time: Timestamp, by: i64) -> Option<Timestamp> {
    let nanoseconds = time.as_nanosecond().checked_add(i128::from(by))?;
    Timestamp::from_nanosecond(nanoseconds).ok().filter(|time| in_range(*time))
}

pub(super) fn add<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match (&args[0], &args[1]) {
        (Val::Int(a), Val::Int(b)) => checked(a.checked_add(*b), Val::Int, INT),
        (Val::Uint(a), Val::Uint(b)) => checked(a.checked_add(*b), Val::Uint, UINT),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a + b)),
        (Val::String(a), Val::String(b)) => Ok(Val::string(format!("{}{}", &**a, &**b))),
        (Val::Bytes(a), Val::Bytes(b)) => Ok(Val::Bytes([&**a, &**b].concat().into())),
        (Val::Duration(a), Val::Duration(b)) => checked(a.checked_add(*b), Val::Duration, DURATION),
        (Val::Timestamp(time), Val::Duration(d)) | (Val::Duration(d), Val::Timestamp(time)) => {
            checked(moved(*time, *d), Val::Timestamp, "timestamp overflow")
        }
        (Val::List(a), Val::List(b)) => join(a, b),
        _ => no_such_overload(),
    }
}

/// Two lists as one: sets do not repeat elements, and in lists that are maps the second wins.
fn join<'a>(a: &List<'a>, b: &List<'a>) -> Eval<Val<'a>> {
    let mut items = a.iter().collect::<Eval<Vec<_>>>()?;
    for item in b.iter() {
        let item = item?;
        match a.list_type() {
            ListType::Atomic => items.push(item),
            ListType::Set => {
                if !a.contains(&item)? {
                    items.push(item);
                }
            }
            ListType::Map(keys) => {
                let mut place = None;
                for (index, own) in items.iter().enumerate() {
                    if same_keys(own, &item, keys)? {
                        place = Some(index);
                    }
                }
                match place {
                    Some(index) => items[index] = item,
                    None => items.push(item),
                }
            }
        }
    }
    Ok(Val::list(items))
}

pub(super) fn subtract<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match (&args[0], &args[1]) {
        (Val::Int(a), Val::Int(b)) => checked(a.checked_sub(*b), Val::Int, INT),
        (Val::Uint(a), Val::Uint(b)) => checked(a.checked_sub(*b), Val::Uint, UINT),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a - b)),
        (Val::Duration(a), Val::Duration(b)) => checked(a.checked_sub(*b), Val::Duration, DURATION),
        (Val::Timestamp(time), Val::Duration(d)) => {
            let moved = d.checked_neg().and_then(|d| moved(*time, d));
            checked(moved, Val::Timestamp, "timestamp overflow")
        }
        (Val::Timestamp(a), Val::Timestamp(b)) => {
            let between = i64::try_from(a.as_nanosecond() - b.as_nanosecond()).ok();
            checked(between, Val::Duration, DURATION)
        }
        _ => no_such_overload(),
    }
}

pub(super) fn multiply<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match (&args[0], &args[1]) {
        (Val::Int(a), Val::Int(b)) => checked(a.checked_mul(*b), Val::Int, INT),
        (Val::Uint(a), Val::Uint(b)) => checked(a.checked_mul(*b), Val::Uint, UINT),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a * b)),
        _ => no_such_overload(),
    }
}

pub(super) fn divide<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match (&args[0], &args[1]) {
        (Val::Int(_), Val::Int(0)) | (Val::Uint(_), Val::Uint(0)) => fail("division by zero"),
        (Val::Int(a), Val::Int(b)) => checked(a.checked_div(*b), Val::Int, INT),
        (Val::Uint(a), Val::Uint(b)) => checked(a.checked_div(*b), Val::Uint, UINT),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a / b)),
        _ => no_such_overload(),
    }
}

pub(super) fn modulo<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match (&args[0], &args[1]) {
        (Val::Int(_), Val::Int(0)) | (Val::Uint(_), Val::Uint(0)) => fail("modulus by zero"),
        (Val::Int(a), Val::Int(b)) => checked(a.checked_rem(*b), Val::Int, INT),
        (Val::Uint(a), Val::Uint(b)) => checked(a.checked_rem(*b), Val::Uint, UINT),
        _ => no_such_overload(),
    }
}

pub(super) fn negate<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match &args[0] {
        Val::Int(n) => checked(n.checked_neg(), Val::Int, INT),
        Val::Double(d) => Ok(Val::Double(-d)),
        _ => no_such_overload(),
    }
}

pub(super) fn not<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match &args[0] {
        Val::Bool(b) => Ok(Val::Bool(!b)),
        _ => no_such_overload(),
    }
}

pub(super) fn less<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Bool(args[0].compare(&args[1])? == Ordering::Less))
}

pub(super) fn less_equals<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Bool(args[0].compare(&args[1])? != Ordering::Greater))
}

pub(super) fn greater<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Bool(args[0].compare(&args[1])? == Ordering::Greater))
}

pub(super) fn greater_equals<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Bool(args[0].compare(&args[1])? != Ordering::Less))
}

pub(super) fn is_in<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match &args[1] {
        Val::List(list) => list.contains(&args[0]).map(Val::Bool),
        Val::Map(map) => Ok(Val::Bool(map.get(&args[0])?.is_some())),
        _ => no_such_overload(),
    }
}

/// An index as a whole number.
fn position(index: &Val<'_>) -> Result<i64, String> {
    match index {
        Val::Int(n) => Ok(*n),
        Val::Uint(n) => i64::try_from(*n).map_err(|_| format!("unsupported index value {n} in list")),
        Val::Double(d) if d.fract() == 0.0 && d.abs() < 9.0e15 => Ok(*d as i64),
        Val::Double(d) => Err(format!("unsupported index value {} in list", go_float(*d))),
        other => Err(format!("unsupported index type '{}' in list", other.type_of().name())),
    }
}

/// The element at an index or key, if it is there; what has neither is an error.
pub(super) fn element<'a>(operand: &Val<'a>, index: &Val<'a>) -> Eval<Option<Val<'a>>> {
    match operand {
        Val::List(list) => {
            let position = match position(index) {
                Ok(position) => position,
                Err(message) => return fail(message),
            };
            usize::try_from(position).ok().and_then(|position| list.get(position)).transpose()
        }
        Val::Map(map) => map.get(index),
        Val::Struct(made) => match index {
            Val::String(name) => Ok(made.fields.get(&**name).cloned()),
            _ => no_such_overload(),
        },
        _ => no_such_overload(),
    }
}

pub(super) fn index<'a>(operand: &Val<'a>, index: &Val<'a>) -> Eval<Val<'a>> {
    match element(operand, index)? {
        Some(found) => Ok(found),
        None if matches!(operand, Val::List(_)) => fail(format!("index out of bounds: {index}")),
        None => fail(format!("no such key: {index}")),
    }
}

pub(super) fn type_of<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Type(args[0].type_of()))
}

pub(super) fn same<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(args[0].clone())
}

fn two_strings<'a>(args: &[Val<'a>], test: impl FnOnce(&str, &str) -> bool) -> Eval<Val<'a>> {
    match (&args[0], &args[1]) {
        (Val::String(a), Val::String(b)) => Ok(Val::Bool(test(a, b))),
        _ => no_such_overload(),
    }
}

pub(super) fn contains<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    two_strings(args, |text, part| text.contains(part))
}

pub(super) fn starts_with<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    two_strings(args, |text, part| text.starts_with(part))
}

pub(super) fn ends_with<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    two_strings(args, |text, part| text.ends_with(part))
}

/// A part of a time: of a timestamp in UTC or in a zone, or of a duration as a whole number of units.
fn time_part<'a>(
    args: &[Val<'a>],
    part: impl FnOnce(&jiff::Zoned) -> i64,
    duration_unit: Option<i64>,
) -> Eval<Val<'a>> {
    match (&args[0], args.get(1), duration_unit) {
        (Val::Duration(d), None, Some(unit)) => Ok(Val::Int(d / unit)),
        (Val::Timestamp(time), None, _) => Ok(Val::Int(part(&time.to_zoned(TimeZone::UTC)))),
        (Val::Timestamp(time), Some(Val::String(zone)), _) => match time_zone(zone) {
            Ok(zone) => Ok(Val::Int(part(&time.to_zoned(zone)))),
            Err(message) => fail(message),
        },
        _ => no_such_overload(),
    }
}

/// A zone by its name, or an offset such as `-07:30`.
fn time_zone(name: &str) -> Result<TimeZone, String> {
    let Some((hours, minutes)) = name.split_once(':') else {
        return crate::time::zone(name).ok_or_else(|| format!("unknown time zone {name}"));
    };
    let number = |text: &str| {
        let bad = || format!("strconv.Atoi: parsing {text:?}: invalid syntax");
        text.strip_prefix('+').unwrap_or(text).parse::<i32>().map_err(|_| bad())
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    if !(0..60).contains(&minutes) {
        return Err(format!("timezone offset minutes out of range [0, 59]: {name}"));
    }
    let total = hours.checked_mul(60).map(|m| if name.starts_with('-') { m - minutes } else { m + minutes });
    let offset = total.and_then(|m| m.checked_mul(60)).and_then(|seconds| Offset::from_seconds(seconds).ok());
    offset.map(TimeZone::fixed).ok_or_else(|| format!("unknown time zone {name}"))
}

pub(super) fn full_year<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    time_part(args, |t| i64::from(t.year()), None)
}

pub(super) fn month<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    time_part(args, |t| i64::from(t.month()) - 1, None)
}

pub(super) fn day_of_year<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    time_part(args, |t| i64::from(t.day_of_year()) - 1, None)
}

pub(super) fn day_of_month<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    time_part(args, |t| i64::from(t.day()) - 1, None)
}

pub(super) fn date<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    time_part(args, |t| i64::from(t.day()), None)
}

pub(super) fn day_of_week<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    time_part(args, |t| i64::from(t.weekday().to_sunday_zero_offset()), None)
}

pub(super) fn hours<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    time_part(args, |t| i64::from(t.hour()), Some(3600 * SECOND))
}

pub(super) fn minutes<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    time_part(args, |t| i64::from(t.minute()), Some(60 * SECOND))
}

pub(super) fn seconds<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    time_part(args, |t| i64::from(t.second()), Some(SECOND))
}

pub(super) fn milliseconds<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    time_part(args, |t| i64::from(t.millisecond()), Some(SECOND / 1000))
}

pub(super) fn optional_of<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::some(args[0].clone()))
}

pub(super) fn optional_of_non_zero<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(if args[0].is_zero() { Val::Optional(None) } else { Val::some(args[0].clone()) })
}

pub(super) fn optional_none<'a>(_: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Optional(None))
}

pub(super) fn optional_value<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match &args[0] {
        Val::Optional(Some(inner)) => Ok((**inner).clone()),
        Val::Optional(None) => fail("optional.none() dereference"),
        _ => no_such_overload(),
    }
}

pub(super) fn optional_has_value<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match &args[0] {
        Val::Optional(inner) => Ok(Val::Bool(inner.is_some())),
        _ => no_such_overload(),
    }
}

pub(super) fn optional_unwrap<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let Val::List(list) = &args[0] else { return no_such_overload() };
    let mut items = Vec::new();
    for item in list.iter() {
        match item? {
            Val::Optional(Some(inner)) => items.push((*inner).clone()),
            Val::Optional(None) => {}
            other => return fail(format!("value {other} is not optional")),
        }
    }
    Ok(Val::list(items))
}

/// Adds an entry, or all entries of another map; keys must be new.
pub(super) fn map_insert<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let Val::Map(target) = &args[0] else { return no_such_overload() };
    let mut map = match target {
        MapVal::Made(map) => (**map).clone(),
        MapVal::Data(..) => return no_such_overload(),
    };
    match (&args[1], args.get(2)) {
        (key, Some(value)) => super::value::insert(&mut map, key, value.clone())?,
        (Val::Map(more), None) => {
            for key in more.keys() {
                if let Some(value) = more.get(&key)? {
                    super::value::insert(&mut map, &key, value)?;
                }
            }
        }
        _ => return no_such_overload(),
    }
    Ok(Val::Map(MapVal::Made(Arc::new(map))))
}
