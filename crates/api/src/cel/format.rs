//! `'…'.format([…])`: the clauses, at run time and as a check of literals.

use std::sync::Arc;

use super::standard::{go_float, to_text};
use super::types::Type;
use super::value::{Eval, Val, fail, no_such_overload};

/// Digits after the point where none are asked for.
const PRECISION: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clause {
    String,
    Decimal,
    Fixed(usize),
    Scientific(usize),
    Binary,
    Hex { upper: bool },
    Octal,
}

/// A piece of a format string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    /// Takes the next argument.
    Clause(Clause),
}

/// Reads a format string for a number of arguments. Clauses before a fault are in `pieces`.
pub(super) fn parse(format: &str, args: usize, pieces: &mut Vec<Piece>) -> Result<(), String> {
    let mut taken = 0;
    let mut chars = format.chars().peekable();
    let mut text = String::new();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            text.push('%');
            continue;
        }
        if taken >= args {
            return Err(format!("index {taken} out of range"));
        }
        if chars.peek().is_none() {
            return Err("unexpected end of string".to_owned());
        }
        let mut precision = None;
        if chars.next_if_eq(&'.').is_some() {
            const PARSING: &str = "could not parse formatting clause: error while parsing precision:";
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            if chars.peek().is_none() {
                return Err(format!("{PARSING} could not find end of precision specifier"));
            }
            let bad = || {
                format!(
                    "{PARSING} error while converting precision to integer: strconv.Atoi: parsing {digits:?}: invalid \
                     syntax"
                )
            };
            let value: usize = digits.parse().map_err(|_| bad())?;
            precision = Some(value.min(PRECISION_MAX));
        }
        let clause = match chars.next().unwrap_or(' ') {
            's' => Clause::String,
            'd' => Clause::Decimal,
            'f' => Clause::Fixed(precision.unwrap_or(PRECISION)),
            'e' => Clause::Scientific(precision.unwrap_or(PRECISION)),
            'b' => Clause::Binary,
            'x' => Clause::Hex { upper: false },
            'X' => Clause::Hex { upper: true },
            'o' => Clause::Octal,
            other => {
                return Err(format!("could not parse formatting clause: unrecognized formatting clause \"{other}\""));
            }
        };
        taken += 1;
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(Piece::Clause(clause));
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(())
}

/// More digits than any double has; asking for more only fills memory.
const PRECISION_MAX: usize = 1100;

impl Clause {
    /// Why a value of this type cannot be formatted, or nothing.
    pub(super) fn refuses(self, t: &Type) -> Option<String> {
        let name = t.name();
        let accepted = match self {
            Self::String => !matches!(t, Type::Object(_) | Type::Opaque(_) | Type::Optional(_) | Type::Error),
            Self::Decimal | Self::Octal => matches!(t, Type::Int | Type::Uint),
            Self::Fixed(_) | Self::Scientific(_) => matches!(t, Type::Double | Type::String),
            Self::Binary => matches!(t, Type::Int | Type::Uint | Type::Bool),
            Self::Hex { .. } => matches!(t, Type::Int | Type::Uint | Type::String | Type::Bytes),
        };
        (!accepted && !t.is_dyn()).then(|| self.refusal(name))
    }

    fn refusal(self, name: &str) -> String {
        let what = match self {
            Self::String => {
                "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, \
                 durations, and timestamps"
            }
            Self::Decimal => "decimal clause can only be used on integers",
            Self::Fixed(_) => "fixed-point clause can only be used on doubles",
            Self::Scientific(_) => "scientific clause can only be used on doubles",
            Self::Binary => "only integers and bools can be formatted as binary",
            Self::Hex { .. } => "only integers, byte buffers, and strings can be formatted as hex",
            Self::Octal => "octal clause can only be used on integers",
        };
        format!("{what}, was given {name}")
    }

    fn print(self, val: &Val<'_>) -> Result<String, String> {
        let refused = || self.refusal(val.type_of().name());
        Ok(match (self, val) {
            (Self::String, _) => return print_string(val).ok_or_else(refused),
            (Self::Decimal, Val::Int(n)) => n.to_string(),
            (Self::Decimal, Val::Uint(n)) => n.to_string(),
            (Self::Binary, Val::Int(n)) => signed(*n, |n| format!("{n:b}")),
            (Self::Binary, Val::Uint(n)) => format!("{n:b}"),
            (Self::Binary, Val::Bool(b)) => u8::from(*b).to_string(),
            (Self::Octal, Val::Int(n)) => signed(*n, |n| format!("{n:o}")),
            (Self::Octal, Val::Uint(n)) => format!("{n:o}"),
            (Self::Hex { upper }, Val::Int(n)) => cased(signed(*n, |n| format!("{n:x}")), upper),
            (Self::Hex { upper }, Val::Uint(n)) => cased(format!("{n:x}"), upper),
            (Self::Hex { upper }, Val::String(text)) => cased(hex(text.as_bytes()), upper),
            (Self::Hex { upper }, Val::Bytes(bytes)) => cased(hex(bytes), upper),
            (Self::Fixed(precision), _) => fixed(double(val).ok_or_else(refused)?, precision),
            (Self::Scientific(precision), _) => scientific(double(val).ok_or_else(refused)?, precision),
            _ => return Err(refused()),
        })
    }
}

fn double(val: &Val<'_>) -> Option<f64> {
    match val {
        Val::Double(d) => Some(*d),
        Val::String(text) => match &**text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn signed(n: i64, print: impl FnOnce(u64) -> String) -> String {
    let digits = print(n.unsigned_abs());
    if n < 0 { format!("-{digits}") } else { digits }
}

fn cased(text: String, upper: bool) -> String {
    if upper { text.to_uppercase() } else { text }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn special(d: f64) -> Option<&'static str> {
    match d {
        d if d.is_nan() => Some("NaN"),
        d if d == f64::INFINITY => Some("∞"),
        d if d == f64::NEG_INFINITY => Some("-∞"),
        _ => None,
    }
}

/// With commas between thousands, as numbers are written in English.
fn fixed(d: f64, precision: usize) -> String {
    if let Some(special) = special(d) {
        return special.to_owned();
    }
    let plain = format!("{:.precision$}", d.abs());
    let (whole, fraction) = plain.split_once('.').map_or((plain.as_str(), None), |(w, f)| (w, Some(f)));
    let mut out = String::new();
    if d.is_sign_negative() {
        out.push('-');
    }
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// `1.052033 × 10⁰³`, with narrow spaces.
fn scientific(d: f64, precision: usize) -> String {
    if let Some(special) = special(d) {
        return special.to_owned();
    }
    let plain = format!("{d:.precision$e}");
    let (mantissa, exponent) = plain.split_once('e').unwrap_or((&plain, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ("⁻", digits),
        None => ("", exponent),
    };
    let raised: String = format!("{digits:0>2}")
        .bytes()
        .map(|digit| ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][usize::from(digit - b'0') % 10])
        .collect();
    format!("{mantissa}\u{202f}×\u{202f}10{sign}{raised}")
}

fn print_string(val: &Val<'_>) -> Option<String> {
    match val {
        Val::List(list) => {
            let items: Option<Vec<String>> = list.iter().map(|item| print_element(&item.ok()?)).collect();
            Some(format!("[{}]", items?.join(", ")))
        }
        Val::Map(map) => {
            let mut entries = Vec::new();
            for key in map.keys() {
                let value = map.get(&key).ok()??;
                entries.push(format!("{}:{}", print_element(&key)?, print_element(&value)?));
            }
            entries.sort();
            Some(format!("{{{}}}", entries.join(", ")))
        }
        Val::Null => Some("null".to_owned()),
        Val::Bytes(bytes) => String::from_utf8(bytes.to_vec()).ok(),
        Val::Opaque(_) => None,
        other => to_text(other),
    }
}

/// An element of a list or map: quoted where a literal would be.
fn print_element(val: &Val<'_>) -> Option<String> {
    let quote = |text: &str| crate::field::go_quote(text);
    Some(match val {
        Val::String(text) => quote(text),
        Val::Bytes(bytes) => format!("b{}", quote(&String::from_utf8_lossy(bytes))),
        Val::Double(d) if !d.is_finite() => quote(&go_float(*d)),
        Val::Double(d) => format!("{d:.PRECISION$}"),
        Val::Timestamp(_) => format!("timestamp({})", to_text(val)?),
        Val::Duration(_) => format!("duration({})", to_text(val)?),
        Val::Type(t) => format!("type({})", t.name()),
        other => print_string(other)?,
    })
}

pub(super) fn format<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let (Val::String(format), Val::List(values)) = (&args[0], &args[1]) else { return no_such_overload() };
    let mut pieces = Vec::new();
    if let Err(message) = parse(format, values.len(), &mut pieces) {
        return fail(message);
    }
    let mut out = String::new();
    let mut values = values.iter();
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.push_str(&text),
            Piece::Clause(clause) => {
                let Some(value) = values.next() else { return no_such_overload() };
                match clause.print(&value?) {
                    Ok(text) => out.push_str(&text),
                    Err(message) => return fail(format!("error during formatting: {message}")),
                }
            }
        }
    }
    Ok(Val::String(super::value::Text::Shared(Arc::from(out))))
}
