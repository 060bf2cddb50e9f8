//! Formats of strings that values are checked against. Source: `kube-openapi` `pkg/validation/strfmt`.

use std::net::Ipv6Addr;
use std::sync::LazyLock;

use regex::Regex;

use super::structural::Types;
use crate::validate::{names, net};

/// Whether a text is of a format; dashes in the format's name do not count.
type Check = fn(&str) -> bool;

static FORMATS: &[(&str, Check)] = &[
    ("bsonobjectid", |s| s.len() == 24 && s.bytes().all(|b| b.is_ascii_hexdigit())),
    ("byte", |s| BASE64.is_match(s)),
    ("cidr", is_cidr),
    ("creditcard", is_credit_card),
    ("date", |s| s.len() == 10 && s.parse::<jiff::civil::Date>().is_ok()),
    ("datetime", is_date_time),
    ("duration", is_duration),
    ("email", is_email),
    ("hexcolor", |s| HEX_COLOR.is_match(s)),
    ("hostname", is_hostname),
    ("ipv4", |s| s.contains('.') && net::parse_ip_sloppy(s).is_some()),
    ("ipv6", |s| s.parse::<Ipv6Addr>().is_ok()),
    ("isbn", |s| is_isbn10(s) || is_isbn13(s)),
    ("isbn10", is_isbn10),
    ("isbn13", is_isbn13),
    ("k8slongname", |s| names::dns1123_subdomain(s).is_empty()),
    ("k8sshortname", |s| names::dns1123_label(s).is_empty()),
    ("mac", |s| MAC.is_match(s)),
    ("password", |_| true),
    ("rgbcolor", |s| RGB_COLOR.is_match(s)),
    ("ssn", |s| SSN.is_match(s)),
    ("uri", is_uri),
    ("uuid", |s| UUID.is_match(s)),
    ("uuid3", |s| UUID3.is_match(s)),
    ("uuid4", |s| UUID4.is_match(s)),
    ("uuid5", |s| UUID5.is_match(s)),
];

/// `None` for a format that nobody checks.
pub(super) fn matches(format: &str, text: &str) -> Option<bool> {
    find(format).map(|check| check(text))
}

/// The format, unless values of these types are not checked against it.
pub(super) fn supported(types: Types, format: &str) -> &str {
    let is_known = if types == Types::INTEGER {
        matches!(format, "int32" | "int64")
    } else if types == Types::NUMBER {
        matches!(format, "float" | "double")
    } else {
        find(format).is_some()
    };
    if is_known { format } else { "" }
}

fn find(format: &str) -> Option<Check> {
    if format.is_empty() {
        return None;
    }
    let plain = format.replace('-', "");
    FORMATS.iter().find(|(name, _)| *name == plain).map(|(_, check)| *check)
}

macro_rules! patterns {
    ($($name:ident = $pattern:expr;)*) => {
        $(
            static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($pattern).unwrap());
        )*
    };
}

patterns! {
    BASE64 = r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$";
    HEX_COLOR = r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$";
    RGB_COLOR = r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$";
    MAC = r"^([0-9a-fA-F]{2}[:-]){5}([0-9a-fA-F]{2}[:-]?){1}$|^([0-9a-fA-F]{2}[:-]){7}[0-9a-fA-F]{2}$|^([0-9a-fA-F]{4}\.){2,3}[0-9a-fA-F]{4}$";
    SSN = r"^\d{3}[- ]?\d{2}[- ]?\d{4}$";
    UUID = r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
    UUID3 = r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
    UUID4 = r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$";
    UUID5 = r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$";
    HOSTNAME = r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z0-9\p{S}\p{L}])(-?[a-zA-Z0-9\p{S}\p{L}]){1,62})$";
    DATE_TIME = r"^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}(:\d{2}(\.\d+)?)?([Zz]|[+-]\d{2}:?\d{2})?$";
    GO_DURATION = r"^[+-]?(0|(\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)((\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))*)$";
    WORD_DURATION = r"^(\d+)\s*(nanos?|ns|nanosecs?|nanoseconds?|us|µs|micros?|microsecs?|microseconds?|ms|millis?|millisecs?|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|weeks?)$";
}

fn is_cidr(text: &str) -> bool {
    net::parse_cidr_sloppy(text).is_some()
}

fn is_date_time(text: &str) -> bool {
    // Months and hours out of range match the pattern; the date decides.
    DATE_TIME.is_match(text)
        && text.get(..10).is_some_and(|date| date.parse::<jiff::civil::Date>().is_ok())
        && text.get(11..13).and_then(|hour| hour.parse::<u8>().ok()).is_some_and(|hour| hour < 24)
        && text.get(14..16).and_then(|minute| minute.parse::<u8>().ok()).is_some_and(|minute| minute < 60)
}

fn is_duration(text: &str) -> bool {
    GO_DURATION.is_match(text) || WORD_DURATION.is_match(&text.trim().to_lowercase())
}

/// One address, with or without a name in front of it.
fn is_email(text: &str) -> bool {
    let address = match text.trim().strip_suffix('>') {
        Some(named) => named.rsplit_once('<').map_or("", |(_, address)| address),
        None => text.trim(),
    };
    let is_atom = |s: &str| {
        !s.is_empty()
            && s.split('.').all(|part| {
                !part.is_empty()
                    && part.chars().all(|c| c.is_alphanumeric() || !c.is_ascii() || "!#$%&'*+-/=?^_`{|}~".contains(c))
            })
    };
    let is_local = |s: &str| is_atom(s) || (s.len() >= 2 && s.starts_with('"') && s.ends_with('"'));
    let is_domain = |s: &str| is_atom(s) || (s.starts_with('[') && s.ends_with(']'));
    address.rsplit_once('@').is_some_and(|(local, domain)| is_local(local) && is_domain(domain))
}

fn is_hostname(text: &str) -> bool {
    HOSTNAME.is_match(text) && text.len() <= 255 && text.split('.').all(|label| label.len() <= 63)
}

/// What an HTTP request could name: an absolute URI or an absolute path.
fn is_uri(text: &str) -> bool {
    let is_printable = |s: &str| !s.is_empty() && s.bytes().all(|b| b > b' ' && b != 0x7f);
    let escapes_are_whole = || {
        text.match_indices('%')
            .all(|(at, _)| text.as_bytes().get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)))
    };
    let is_scheme = |s: &str| {
        s.starts_with(|c: char| c.is_ascii_alphabetic())
            && s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    };
    let has_place = match text.split_once(':') {
        _ if text.starts_with('/') => true,
        Some((scheme, rest)) => is_scheme(scheme) && !rest.is_empty(),
        None => false,
    };
    is_printable(text) && has_place && escapes_are_whole()
}

fn digits_of(text: &str) -> Option<Vec<u32>> {
    text.chars().map(|c| c.to_digit(10)).collect()
}

fn is_credit_card(text: &str) -> bool {
    let Some(digits) = digits_of(&text.replace([' ', '-'], "")) else { return false };
    let doubled = |d: u32| if d > 4 { d * 2 - 9 } else { d * 2 };
    let sum: u32 = digits.iter().rev().enumerate().map(|(i, d)| if i % 2 == 1 { doubled(*d) } else { *d }).sum();
    (12..=19).contains(&digits.len()) && sum.is_multiple_of(10)
}

fn is_isbn10(text: &str) -> bool {
    let plain = text.replace([' ', '-'], "");
    let Some((head, check)) = plain.split_at_checked(9) else { return false };
    let Some(digits) = digits_of(head) else { return false };
    let check = match check {
        "X" => Some(10),
        check if check.len() == 1 => check.parse().ok(),
        _ => None,
    };
    let sum: u32 = (1..).zip(&digits).map(|(i, d)| i * d).sum();
    check.is_some_and(|check: u32| (sum + 10 * check).is_multiple_of(11))
}

fn is_isbn13(text: &str) -> bool {
    let Some(digits) = digits_of(&text.replace([' ', '-'], "")) else { return false };
    let sum: u32 = digits.iter().enumerate().map(|(i, d)| if i % 2 == 1 { 3 * d } else { *d }).sum();
    digits.len() == 13 && sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_know_their_texts() {
        let cases = [
            ("byte", "aGk=", "a"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("credit-card", "4111 1111 1111 1111", "4111 1111 1111 1112"),
            ("date", "2026-01-31", "2026-02-31"),
            ("date-time", "2026-01-31T10:00:00Z", "2026-13-31T10:00:00Z"),
            ("duration", "1h30m", "1 x"),
            ("email", "a@b.c", "a b@c"),
            ("hexcolor", "#ff0000", "#ggg"),
            ("hostname", "a.example.com", "-a"),
            ("ipv4", "1.2.3.4", "1.2.3"),
            ("ipv4", "01.2.3.4", "::1"),
            ("ipv6", "::1", "1.2.3.4"),
            ("isbn10", "0-306-40615-2", "0-306-40615-3"),
            ("isbn13", "978-3-16-148410-0", "978-3-16-148410-1"),
            ("k8s-short-name", "a-b", "A"),
            ("mac", "01:02:03:04:ab:cd", "01:02"),
            ("rgbcolor", "rgb(1,2,3)", "rgb(1,2)"),
            ("ssn", "111-22-3333", "111"),
            ("uri", "https://a.example/x", "a b"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
        ];
        for (format, good, bad) in cases {
            assert_eq!((matches(format, good), matches(format, bad)), (Some(true), Some(false)), "{format}");
        }
        assert_eq!(matches("whatever", "x"), None);
        assert_eq!(supported(Types::INTEGER, "int32"), "int32");
        assert_eq!(supported(Types::STRING, "int32"), "");
    }
}
