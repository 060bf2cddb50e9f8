//! Quantities (`100m`, `1.5Gi`, `1e3`): exact decimal numbers that remember which suffix family they were written in.
//!
//! A value is `mantissa × 10^scale`, never floating point. As upstream, anything finer than a nano is rounded away from zero when
//! parsed, and a quantity that was written in canonical form prints as it was written.
//! Source: apimachinery `api/resource`. Mantissas of more than 38 digits are refused.

use std::{cmp::Ordering, fmt, str::FromStr};

use crate::Value;

/// Finest scale kept: nano.
const NANO: i32 = -9;

/// Largest number a binary suffix may reach.
const BINARY_MAX: i128 = i64::MAX as i128;

/// Largest written exponent; beyond it a number has no use and only makes arithmetic overflow.
const EXPONENT_MAX: u32 = 1_000_000;

/// The suffix family a quantity prints in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `n u m k M G T P E`
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`
    BinarySi,
    /// `e3`
    DecimalExponent,
}

/// Why a text is no quantity; upstream's texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An exact amount. Equality is of amounts (`1` equals `1000m`); `Display` prints the canonical form.
#[derive(Clone, Debug)]
pub struct Quantity {
    mantissa: i128,
    scale: i32,
    format: Format,
    /// The text it was parsed from, when that is what upstream would print again.
    text: Option<Box<str>>,
}

impl Default for Quantity {
    fn default() -> Self {
        Self { mantissa: 0, scale: 0, format: Format::DecimalSi, text: None }
    }
}

impl Quantity {
    /// A whole number in the given format.
    pub fn new(value: i64, format: Format) -> Self {
        Self { mantissa: value.into(), scale: 0, format, text: None }
    }

    /// Thousandths, e.g. of a CPU.
    pub fn from_milli(milli: i64, format: Format) -> Self {
        Self { mantissa: milli.into(), scale: -3, format, text: None }
    }

    /// From a JSON string or number, as objects carry it; null reads as zero.
    pub fn from_value(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::Null => Ok(Self::default()),
            Value::String(text) => text.trim().parse(),
            Value::Number(number) => number.to_string().parse(),
            _ => Err(QuantityError::Format),
        }
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn is_zero(&self) -> bool {
        self.mantissa == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.mantissa.signum() as i32
    }

    /// The amount in whole units, rounded away from zero, capped to the range of `i64`.
    pub fn value(&self) -> i64 {
        self.scaled_value(0)
    }

    /// The amount in thousandths, rounded away from zero, capped to the range of `i64`.
    pub fn milli_value(&self) -> i64 {
        self.scaled_value(-3)
    }

    /// The amount in units of `10^scale`, rounded away from zero, capped to the range of `i64`.
    pub fn scaled_value(&self, scale: i32) -> i64 {
        let (amount, _) = rescale(self.mantissa, self.scale, scale).unwrap_or_else(|| (saturated(self.mantissa), true));
        amount.clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    /// The amount in nanos, the finest unit kept; saturates at 38 digits.
    pub fn nanos(&self) -> i128 {
        rescale(self.mantissa, self.scale, NANO).map_or_else(|| saturated(self.mantissa), |(amount, _)| amount)
    }

    /// The amount as a float, for ratios only.
    pub fn to_f64(&self) -> f64 {
        self.mantissa as f64 * 10f64.powi(self.scale)
    }

    /// The sum. A zero takes over the other's format, as upstream. Saturates at 38 digits.
    pub fn add(&self, other: &Quantity) -> Quantity {
        self.combine(other, other.mantissa)
    }

    /// The difference; see [`Quantity::add`].
    pub fn sub(&self, other: &Quantity) -> Quantity {
        self.combine(other, other.mantissa.saturating_neg())
    }

    pub fn neg(&self) -> Quantity {
        Quantity { mantissa: self.mantissa.saturating_neg(), text: None, ..self.clone() }
    }

    fn combine(&self, other: &Quantity, other_mantissa: i128) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        if other_mantissa == 0 {
            return Quantity { format, text: None, ..self.clone() };
        }
        if self.is_zero() {
            return Quantity { mantissa: other_mantissa, scale: other.scale, format, text: None };
        }
        let scale = self.scale.min(other.scale);
        let up = |mantissa: i128, from: i32| {
            rescale(mantissa, from, scale).map_or(saturated(mantissa), |(amount, _)| amount)
        };
        let mantissa = up(self.mantissa, self.scale).saturating_add(up(other_mantissa, other.scale));
        Quantity { mantissa, scale, format, text: None }
    }

    fn canonical(&self) -> String {
        if self.is_zero() {
            return "0".to_owned();
        }
        if self.format == Format::BinarySi {
            let small = self.cmp(&Quantity::new(1024, Format::BinarySi)) == Ordering::Less
                && self.cmp(&Quantity::new(-1024, Format::BinarySi)) == Ordering::Greater;
            if let Some((whole, true)) = rescale(self.mantissa, self.scale, 0)
                && !small
            {
                return print_binary(whole);
            }
        }
        let format = if self.format == Format::BinarySi { Format::DecimalSi } else { self.format };
        print_decimal(self.mantissa, self.scale, format)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let parts = split(text)?;
        let (base, exponent, format) = suffix(parts.suffix).ok_or(QuantityError::Suffix)?;
        let digits = format!("{}{}", parts.whole, parts.fraction);
        if digits.is_empty() {
            return Err(QuantityError::Numeric);
        }
        let unsigned: i128 = digits.parse().map_err(|_| QuantityError::Numeric)?;
        let fraction_len = i32::try_from(parts.fraction.len()).map_err(|_| QuantityError::Numeric)?;
        let (mut mantissa, mut scale) = match base {
            // What does not fit here is far above the cap applied below.
            2 => (unsigned.saturating_mul(1i128 << exponent), -fraction_len),
            _ => (unsigned, exponent.saturating_sub(fraction_len)),
        };
        if scale < NANO {
            // A positive amount never becomes zero: rounding is away from zero.
            (mantissa, _) = rescale(mantissa, scale, NANO).unwrap_or((0, false));
            scale = NANO;
        }
        let mut format = format;
        if base == 2 {
            if rescale(mantissa, scale, 0).is_none_or(|(whole, _)| whole > BINARY_MAX) {
                (mantissa, scale) = (BINARY_MAX, 0);
            }
            let below_one = mantissa > 0 && rescale(mantissa, scale, 0).is_some_and(|(n, exact)| n == 1 && !exact);
            if below_one {
                format = Format::DecimalSi;
            }
        }
        let kept = text == "0" || is_canonical(&parts, &digits, unsigned, base, exponent, scale, format);
        let mantissa = if parts.negative { -mantissa } else { mantissa };
        Ok(Self { mantissa, scale, format, text: kept.then(|| text.into()) })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => f.pad(text),
            None => f.pad(&self.canonical()),
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.sign() != other.sign() || self.is_zero() {
            return self.sign().cmp(&other.sign());
        }
        let scale = self.scale.min(other.scale);
        // What does not fit is the larger amount: only the one with the larger scale can fail to fit.
        match (rescale(self.mantissa, self.scale, scale), rescale(other.mantissa, other.scale, scale)) {
            (Some((a, _)), Some((b, _))) => a.cmp(&b),
            (None, _) => self.sign().cmp(&0),
            (_, None) => 0.cmp(&self.sign()),
        }
    }
}

/// A canonical string, or what is wrong. What a decoder writes back for a quantity it read.
pub fn canonicalize(value: &Value) -> Result<String, QuantityError> {
    Quantity::from_value(value).map(|q| q.to_string())
}

struct Parts<'t> {
    negative: bool,
    whole: &'t str,
    fraction: &'t str,
    suffix: &'t str,
}

fn split(text: &str) -> Result<Parts<'_>, QuantityError> {
    if text.is_empty() {
        return Err(QuantityError::Format);
    }
    let negative = text.starts_with('-');
    let rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    let trimmed = rest.trim_start_matches('0');
    if trimmed.is_empty() {
        return Ok(Parts { negative: false, whole: "0", fraction: "", suffix: "" });
    }
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = trimmed.split_at(digits(trimmed));
    let whole = if whole.is_empty() { "0" } else { whole };
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let tail = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let tail = tail.strip_prefix(['-', '+']).unwrap_or(tail);
    if tail.bytes().all(|b| b.is_ascii_digit()) {
        Ok(Parts { negative, whole, fraction, suffix })
    } else {
        Err(QuantityError::Format)
    }
}

/// Base (2 or 10), exponent and format of a suffix.
fn suffix(text: &str) -> Option<(u32, i32, Format)> {
    const DECIMAL: [(&str, i32); 10] =
        [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
    const BINARY: [(&str, i32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
    if let Some((_, exponent)) = DECIMAL.iter().find(|(s, _)| *s == text) {
        return Some((10, *exponent, Format::DecimalSi));
    }
    if let Some((_, exponent)) = BINARY.iter().find(|(s, _)| *s == text) {
        return Some((2, *exponent, Format::BinarySi));
    }
    let exponent = text.strip_prefix(['e', 'E'])?;
    let exponent: i32 = exponent.parse().ok()?;
    (exponent.unsigned_abs() <= EXPONENT_MAX).then_some((10, exponent, Format::DecimalExponent))
}

/// Whether upstream keeps the written text instead of printing the number anew.
fn is_canonical(
    parts: &Parts<'_>,
    digits: &str,
    unsigned: i128,
    base: u32,
    exponent: i32,
    scale: i32,
    format: Format,
) -> bool {
    // Longer numbers take upstream's slow path, which keeps no text.
    const DIGITS_MAX: usize = 18;
    if base == 2 {
        let precision = 15 - parts.whole.len() as i32 - (exponent as f32 * 3.0 / 10.0) as i32 - 1;
        return parts.fraction.is_empty() && precision >= 0 && unsigned & 7 != 0 && format == Format::BinarySi;
    }
    let written_scale = exponent.saturating_sub(parts.fraction.len() as i32);
    digits.len() <= DIGITS_MAX
        && written_scale == scale
        && scale % 3 == 0
        && !digits.ends_with("000")
        && !digits.starts_with('0')
}

/// `mantissa × 10^from` in units of `10^to`, rounded away from zero, and whether that was exact; `None` when it does not fit.
fn rescale(mantissa: i128, from: i32, to: i32) -> Option<(i128, bool)> {
    if mantissa == 0 {
        return Some((0, true));
    }
    let shift = i64::from(from) - i64::from(to);
    if shift >= 0 {
        let factor = 10i128.checked_pow(u32::try_from(shift).ok()?)?;
        return Some((mantissa.checked_mul(factor)?, true));
    }
    let Some(divisor) = u32::try_from(-shift).ok().and_then(|s| 10i128.checked_pow(s)) else {
        return Some((mantissa.signum(), false));
    };
    let exact = mantissa % divisor == 0;
    Some((mantissa / divisor + if exact { 0 } else { mantissa.signum() }, exact))
}

fn saturated(mantissa: i128) -> i128 {
    if mantissa < 0 { i128::MIN } else { i128::MAX }
}

fn print_decimal(mut mantissa: i128, mut scale: i32, format: Format) -> String {
    while mantissa % 10 == 0 {
        mantissa /= 10;
        scale += 1;
    }
    while scale % 3 != 0 {
        mantissa = mantissa.saturating_mul(10);
        scale -= 1;
    }
    let suffix = match (format, scale) {
        (_, 0) => String::new(),
        (Format::DecimalExponent, _) => format!("e{scale}"),
        (_, -9) => "n".into(),
        (_, -6) => "u".into(),
        (_, -3) => "m".into(),
        (_, 3) => "k".into(),
        (_, 6) => "M".into(),
        (_, 9) => "G".into(),
        (_, 12) => "T".into(),
        (_, 15) => "P".into(),
        (_, 18) => "E".into(),
        // Beyond exa upstream drops the suffix and with it the meaning; an exponent keeps the amount.
        _ => format!("e{scale}"),
    };
    format!("{mantissa}{suffix}")
}

fn print_binary(mut whole: i128) -> String {
    const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut index = 0;
    while whole % 1024 == 0 && index + 1 < SUFFIXES.len() {
        whole /= 1024;
        index += 1;
    }
    format!("{whole}{}", SUFFIXES[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn quantities_print_canonically() {
        let cases = [
            ("0", "0"),
            ("00", "0"),
            ("-0", "0"),
            ("0Mi", "0"),
            (".", "0"),
            ("m", "0"),
            ("1", "1"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("1.5", "1500m"),
            ("0.1", "100m"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("1025Ki", "1025Ki"),
            ("1e3", "1e3"),
            ("1E3", "1E3"),
            ("1000e3", "1e6"),
            ("100e1", "1e3"),
            ("1.1e1", "1.1e1"),
            ("0.1Ki", "102400m"),
            ("0.5Mi", "512Ki"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("-0.1n", "-1n"),
            ("1.0001n", "2n"),
            ("512Mi", "512Mi"),
            ("8Gi", "8Gi"),
            ("64Gi", "64Gi"),
            ("1000Mi", "1000Mi"),
            ("2048Mi", "2Gi"),
            ("1Ki", "1Ki"),
            ("0.001Ki", "1024m"),
            ("-1.5Gi", "-1536Mi"),
            ("+5", "+5"),
            ("12345678901234567890", "12345678901234567890"),
            ("10Ei", "9223372036854775807"),
            ("1E", "1E"),
            ("1000E", "1e21"),
            ("3000000000Ki", "3000000000Ki"),
            ("100000000Mi", "100000000Mi"),
        ];
        for (text, want) in cases {
            assert_eq!(q(text).to_string(), want, "{text}");
        }
    }

    #[test]
    fn bad_texts_are_refused_with_upstreams_words() {
        for text in ["", "a", "1a", "1.2.3", "1 ", "1Mi2x", "0x1", "1-e"] {
            assert_eq!(text.parse::<Quantity>().map(|q| q.to_string()), Err(QuantityError::Format), "{text}");
        }
        for text in ["1mm", "1KM", "1i", "1e", "1-2", "--1", "1e99999999"] {
            assert_eq!(text.parse::<Quantity>().map(|q| q.to_string()), Err(QuantityError::Suffix), "{text}");
        }
    }

    #[test]
    fn values_round_up_and_away_from_zero() {
        let cases = [
            ("1", 1, 1000),
            ("1m", 1, 1),
            ("1001m", 2, 1001),
            ("-1500m", -2, -1500),
            ("1u", 1, 1),
            ("2Ki", 2048, 2_048_000),
        ];
        for (text, value, milli) in cases {
            assert_eq!((q(text).value(), q(text).milli_value()), (value, milli), "{text}");
        }
        assert_eq!(q("1e30").value(), i64::MAX);
    }

    #[test]
    fn sums_keep_the_left_format() {
        assert_eq!(q("100m").add(&q("900m")).to_string(), "1");
        assert_eq!(q("1Gi").add(&q("1Mi")).to_string(), "1025Mi");
        assert_eq!(q("0").add(&q("1Gi")).to_string(), "1Gi");
        assert_eq!(q("1Gi").sub(&q("1Gi")).to_string(), "0");
        assert_eq!(q("1").sub(&q("1500m")).to_string(), "-500m");
    }

    #[test]
    fn comparison_is_of_amounts() {
        assert_eq!(q("1"), q("1000m"));
        assert_eq!(q("1Ki"), q("1024"));
        assert!(q("1e40") > q("9E"));
        assert!(q("-1e40") < q("-9E"));
        assert!(q("0") > q("-1n"));
    }

    proptest::proptest! {
        #[test]
        fn canonical_form_is_stable_and_equal(text in "[+-]?[0-9]{0,6}(\\.[0-9]{0,4})?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|e[0-9])?") {
            if let Ok(parsed) = text.parse::<Quantity>() {
                let printed = parsed.to_string();
                let again: Quantity = printed.parse().expect("canonical form parses");
                assert_eq!(parsed, again, "{text} -> {printed}");
                assert_eq!(again.to_string(), printed);
            }
        }

        #[test]
        fn parsing_never_panics(text in "[-+0-9.eEinumkKMGTPx]{0,50}") {
            let _ = text.parse::<Quantity>();
        }
    }
}
