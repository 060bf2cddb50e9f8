//! Amounts in resource lists have at most milli precision: finer ones are rounded up.

use crate::Value;

use crate::Map;
use crate::quantity::Quantity;

/// Rounds every quantity of a resource list up to whole thousandths.
pub(super) fn round_up_to_milli(list: &mut Map) {
    for value in list.values_mut() {
        if let Some(rounded) = value.as_str().and_then(rounded) {
            *value = Value::from(rounded);
        }
    }
}

/// The rounded amount of canonical text finer than a thousandth; `None` for everything else.
fn rounded(text: &str) -> Option<String> {
    let (digits, per_milli) = match text.as_bytes().last()? {
        b'n' => (&text[..text.len() - 1], 1_000_000),
        b'u' => (&text[..text.len() - 1], 1_000),
        _ => match text.split_once("e-") {
            Some((digits, "6")) => (digits, 1_000),
            Some((digits, "9")) => (digits, 1_000_000),
            _ => return None,
        },
    };
    let amount: i128 = digits.parse().ok()?;
    // Away from zero.
    let milli = (amount.abs() + per_milli - 1) / per_milli * amount.signum();
    let text = if text.contains("e-") { format!("{milli}e-3") } else { format!("{milli}m") };
    text.parse::<Quantity>().ok().map(|q| q.to_string())
}

#[cfg(test)]
mod tests {
    use super::rounded;

    #[test]
    fn only_finer_amounts_are_rounded() {
        assert_eq!(rounded("100u").as_deref(), Some("1m"));
        assert_eq!(rounded("1000001n").as_deref(), Some("2m"));
        assert_eq!(rounded("999999999n").as_deref(), Some("1"));
        assert_eq!(rounded("-1n").as_deref(), Some("-1m"));
        assert_eq!(rounded("500m"), None);
        assert_eq!(rounded("1Gi"), None);
    }
}
