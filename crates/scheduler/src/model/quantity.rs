//! Reading resource quantities (`100m`, `1.5Gi`, `2e3`) as whole or thousandth units, rounding up as upstream does.

/// The quantity in thousandths (CPU is counted so). `None` when the text is no quantity. Saturates at `i64::MAX`.
pub fn milli_value(text: &str) -> Option<i64> {
    scaled(text, 1000)
}

/// The quantity in whole units, rounded up. `None` when the text is no quantity. Saturates at `i64::MAX`.
pub fn value(text: &str) -> Option<i64> {
    scaled(text, 1)
}

fn scaled(text: &str, unit: i128) -> Option<i64> {
    let (negative, text) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (mantissa, fraction_digits) = mantissa(number)?;
    let (numerator, denominator) = multiplier(suffix)?;
    let top = mantissa.saturating_mul(numerator).saturating_mul(unit);
    let bottom = denominator.saturating_mul(10i128.checked_pow(fraction_digits)?);
    // Most quantities are whole, and dividing 128 bits is slow.
    let magnitude = match (bottom, negative) {
        (1, _) => top,
        (_, true) => top / bottom,
        (_, false) => top / bottom + i128::from(top % bottom != 0),
    };
    let magnitude = i64::try_from(magnitude).unwrap_or(i64::MAX);
    Some(if negative { -magnitude } else { magnitude })
}

/// The digits as an integer and how many of them stood behind the point.
fn mantissa(number: &str) -> Option<(i128, u32)> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    // Digits beyond the nano are below anything a resource is counted in.
    let fraction = &fraction[..fraction.len().min(12)];
    let mut total: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        total = total.saturating_mul(10).saturating_add(i128::from(digit - b'0'));
    }
    Some((total, u32::try_from(fraction.len()).ok()?))
}

/// A suffix as a fraction.
fn multiplier(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_in_their_unit_and_rounded_up() {
        for (text, milli, whole) in [
            ("0", 0, 0),
            ("100m", 100, 1),
            ("1", 1000, 1),
            ("1.5", 1500, 2),
            ("0.5Gi", 536_870_912_000, 536_870_912),
            ("2e3", 2_000_000, 2000),
            ("1u", 1, 1),
            ("-2", -2000, -2),
        ] {
            assert_eq!((milli_value(text), value(text)), (Some(milli), Some(whole)), "{text}");
        }
    }

    #[test]
    fn text_that_is_no_quantity_is_refused() {
        for text in ["", "abc", ".", "1.2.3", "1Zi", "--1"] {
            assert_eq!(value(text), None, "{text}");
        }
    }
}
