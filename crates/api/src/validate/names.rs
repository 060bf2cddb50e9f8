//! Formats of names: what is wrong with one string, in upstream's words. Source: apimachinery `util/validation`.

/// Messages of what is wrong with a value; empty when it is fine.
pub type Messages = Vec<String>;

const DNS1123_LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1035_LABEL: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const LABEL_KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

pub const DNS1123_LABEL_MAX_CHARS: usize = 63;
pub const DNS1123_SUBDOMAIN_MAX_CHARS: usize = 253;
const LABEL_MAX_BYTES: usize = 63;

/// `<message> (e.g. 'a',  or 'b', regex used for validation is '<regex>')`.
pub fn regex_error(message: &str, regex: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{regex}')");
    }
    let mut out = format!("{message} (e.g. ");
    for (i, example) in examples.iter().enumerate() {
        if i > 0 {
            out.push_str(" or ");
        }
        out.push_str(&format!("'{example}', "));
    }
    out.push_str(&format!("regex used for validation is '{regex}')"));
    out
}

/// `must be no more than N characters`, the limit of formats that are also used in DNS.
pub fn max_chars_error(max: usize) -> String {
    format!("must be no more than {max} characters")
}

/// `must be no more than N bytes`, the limit of label keys and values.
pub fn max_bytes_error(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

pub fn inclusive_range_error(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn lower_or_digit(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// Matches `[a-z0-9]([-a-z0-9]*[a-z0-9])?`.
pub fn matches_dns1123_label(s: &str) -> bool {
    let bytes = s.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(&a), Some(&b)) if lower_or_digit(a) && lower_or_digit(b))
        && bytes.iter().all(|&b| lower_or_digit(b) || b == b'-')
}

fn matches_dns1123_subdomain(s: &str) -> bool {
    s.split('.').all(matches_dns1123_label)
}

fn matches_label_key(s: &str) -> bool {
    let bytes = s.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(a), Some(b)) if a.is_ascii_alphanumeric() && b.is_ascii_alphanumeric())
        && bytes.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A DNS label as in RFC 1123, at most 63 characters.
pub fn dns1123_label(value: &str) -> Messages {
    let mut out = Messages::new();
    if value.len() > DNS1123_LABEL_MAX_CHARS {
        out.push(max_chars_error(DNS1123_LABEL_MAX_CHARS));
    }
    if !matches_dns1123_label(value) {
        if matches_dns1123_subdomain(value) {
            out.push("must not contain dots".to_owned());
        } else {
            out.push(regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
                 with an alphanumeric character",
                DNS1123_LABEL,
                &["my-name", "123-abc"],
            ));
        }
    }
    out
}

/// DNS labels joined by dots as in RFC 1123, at most 253 characters.
pub fn dns1123_subdomain(value: &str) -> Messages {
    dns1123_subdomain_limited(value, max_chars_error)
}

fn dns1123_subdomain_limited(value: &str, too_long: fn(usize) -> String) -> Messages {
    let mut out = Messages::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX_CHARS {
        out.push(too_long(DNS1123_SUBDOMAIN_MAX_CHARS));
    }
    if !matches_dns1123_subdomain(value) {
        out.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start \
             and end with an alphanumeric character",
            DNS1123_SUBDOMAIN,
            &["example.com"],
        ));
    }
    out
}

/// As [`dns1123_subdomain`], with underscores allowed inside and at the start of labels (DNS search paths).
pub fn dns1123_subdomain_with_underscore(value: &str) -> Messages {
    let inner = |b: u8| lower_or_digit(b) || b == b'-' || b == b'_';
    let label_ok = |label: &str| {
        let bytes = label.strip_prefix('_').unwrap_or(label).as_bytes();
        matches!((bytes.first(), bytes.last()), (Some(&a), Some(&b)) if lower_or_digit(a) && lower_or_digit(b))
            && bytes.iter().all(|&b| inner(b))
    };
    let mut out = Messages::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX_CHARS {
        out.push(max_chars_error(DNS1123_SUBDOMAIN_MAX_CHARS));
    }
    if !value.split('.').all(label_ok) {
        out.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must \
             start and end with an alphanumeric character",
            "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    out
}

/// `*.` and a subdomain.
pub fn wildcard_dns1123_subdomain(value: &str) -> Messages {
    let mut out = Messages::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX_CHARS {
        out.push(max_chars_error(DNS1123_SUBDOMAIN_MAX_CHARS));
    }
    if !value.strip_prefix("*.").is_some_and(matches_dns1123_subdomain) {
        out.push(regex_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of \
             lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{DNS1123_SUBDOMAIN}"),
            &["*.example.com"],
        ));
    }
    out
}

/// A DNS label as in RFC 1035: like RFC 1123, but starting with a letter.
pub fn dns1035_label(value: &str) -> Messages {
    let mut out = Messages::new();
    if value.len() > DNS1123_LABEL_MAX_CHARS {
        out.push(max_chars_error(DNS1123_LABEL_MAX_CHARS));
    }
    if !(matches_dns1123_label(value) && value.as_bytes()[0].is_ascii_lowercase()) {
        out.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, \
             and end with an alphanumeric character",
            DNS1035_LABEL,
            &["my-name", "abc-123"],
        ));
    }
    out
}

/// `[prefix/]name`: label keys, condition types, finalizers, resource names and much else.
pub fn qualified_name(value: &str) -> Messages {
    const FORM: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
                        character";
    let examples = ["MyName", "my.name", "123-abc"];
    let mut out = Messages::new();
    let name = match value.split_once('/') {
        None => value,
        Some((_, rest)) if rest.contains('/') => {
            out.push(format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex_error(FORM, LABEL_KEY, &examples)
            ));
            return out;
        }
        Some((prefix, name)) => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".to_owned());
            } else {
                let messages = dns1123_subdomain_limited(prefix, max_bytes_error);
                out.extend(messages.into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX_BYTES {
        out.push(format!("name part {}", max_bytes_error(LABEL_MAX_BYTES)));
    }
    if !matches_label_key(name) {
        out.push(format!("name part {}", regex_error(FORM, LABEL_KEY, &examples)));
    }
    out
}

/// The value of a label: empty, or like the name part of a qualified name.
pub fn label_value(value: &str) -> Messages {
    let mut out = Messages::new();
    if value.len() > LABEL_MAX_BYTES {
        out.push(max_bytes_error(LABEL_MAX_BYTES));
    }
    if !value.is_empty() && !matches_label_key(value) {
        out.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and \
             end with an alphanumeric character",
            &format!("({LABEL_KEY})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    out
}

/// A port name (IANA service name), at most 15 characters.
pub fn port_name(value: &str) -> Messages {
    let mut out = Messages::new();
    if value.len() > 15 {
        out.push(max_chars_error(15));
    }
    if value.is_empty() || !value.bytes().all(|b| lower_or_digit(b) || b == b'-') {
        out.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        out.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        out.push("must not begin or end with a hyphen".to_owned());
    }
    out
}

/// A port number from 1 to 65535.
pub fn port_number(port: i64) -> Messages {
    in_range(port, 1, 65535)
}

pub fn in_range(value: i64, low: i64, high: i64) -> Messages {
    if (low..=high).contains(&value) { Messages::new() } else { vec![inclusive_range_error(low, high)] }
}

/// A user or group id as the kernel and container runtimes accept it.
pub fn unix_id(id: i64) -> Messages {
    in_range(id, 0, i64::from(i32::MAX))
}

/// `N%`.
pub fn percent(value: &str) -> Messages {
    let digits = value.strip_suffix('%').unwrap_or("");
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Messages::new();
    }
    vec![regex_error(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

pub fn http_header_name(value: &str) -> Messages {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Messages::new();
    }
    vec![regex_error(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// The name of an environment variable: printable ASCII without `=`.
pub fn env_var_name(value: &str) -> Messages {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if value.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        return Messages::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// A key of a ConfigMap or Secret, which becomes a file name.
pub fn config_map_key(value: &str) -> Messages {
    let mut out = Messages::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX_CHARS {
        out.push(max_chars_error(DNS1123_SUBDOMAIN_MAX_CHARS));
    }
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        out.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match value {
        "." => out.push("must not be '.'".to_owned()),
        ".." => out.push("must not be '..'".to_owned()),
        v if v.starts_with("..") => out.push("must not start with '..'".to_owned()),
        _ => {}
    }
    out
}

/// A C identifier (protobuf and CEL names).
pub fn c_identifier(value: &str) -> Messages {
    let mut bytes = value.bytes();
    let head_ok = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if head_ok && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Messages::new();
    }
    vec![regex_error(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
        "[A-Za-z_][A-Za-z0-9_]*",
        &["my_name", "MY_NAME", "MyName"],
    )]
}

/// A name that can be one segment of a URL path (RBAC objects, API services, events).
pub fn path_segment(value: &str) -> Messages {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    path_segment_prefix(value)
}

/// What [`path_segment`] asks of a generateName.
pub fn path_segment_prefix(value: &str) -> Messages {
    ["/", "%"].iter().filter(|c| value.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// generateName may end with a dash, which a name may not: checked as if it were a letter.
pub fn mask_trailing_dash(name: &str) -> String {
    match name.strip_suffix('-') {
        Some(head) if !head.is_empty() => format!("{head}a"),
        _ => name.to_owned(),
    }
}

fn masked(name: &str, prefix: bool) -> std::borrow::Cow<'_, str> {
    if prefix { mask_trailing_dash(name).into() } else { name.into() }
}

/// Name rule of most kinds.
pub fn subdomain_name(name: &str, prefix: bool) -> Messages {
    dns1123_subdomain(&masked(name, prefix))
}

/// Upstream's format `k8s-long-name`: it looks at names alone, not at what names are generated from, and counts bytes.
pub fn long_name(name: &str, prefix: bool) -> Messages {
    let messages = if prefix { Vec::new() } else { subdomain_name(name, false) };
    messages.into_iter().map(|m| m.replace("no more than 253 characters", "no more than 253 bytes")).collect()
}

/// Name rule of namespaces, services, stateful sets.
pub fn label_name(name: &str, prefix: bool) -> Messages {
    dns1123_label(&masked(name, prefix))
}

/// Name rule of RBAC kinds, events and others without a stricter format.
pub fn path_segment_name(name: &str, prefix: bool) -> Messages {
    if prefix { path_segment_prefix(name) } else { path_segment(name) }
}

/// Names of roles and bindings; what a name is generated from must be one as well.
pub fn rbac_name(name: &str, _prefix: bool) -> Messages {
    path_segment(name)
}

/// No rule beyond what generic code asks.
pub fn any_name(_: &str, _: bool) -> Messages {
    Messages::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains_say_what_is_wrong() {
        assert_eq!(dns1123_label("web-0"), Messages::new());
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(dns1123_label(&"x".repeat(64)), ["must be no more than 63 characters"]);
        assert_eq!(
            dns1123_subdomain("Bad_Name"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and \
              end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(dns1035_label("a1"), Messages::new());
        assert_eq!(dns1035_label("1a").len(), 1);
    }

    #[test]
    fn qualified_names_report_prefix_and_name() {
        assert_eq!(qualified_name("example.com/MyName"), Messages::new());
        assert_eq!(qualified_name("/x"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name("example.com/")[0], "name part must be non-empty");
        assert_eq!(qualified_name(&"x".repeat(64)), ["name part must be no more than 63 bytes"]);
        assert!(qualified_name("a/b/c")[0].starts_with("a valid label key must consist of"));
    }

    #[test]
    fn config_map_keys_may_not_climb() {
        assert_eq!(config_map_key("..data"), ["must not start with '..'"]);
        assert_eq!(config_map_key("a b").len(), 1);
        assert_eq!(config_map_key("tls.crt"), Messages::new());
    }

    #[test]
    fn port_names_collect_every_message() {
        assert_eq!(
            port_name("-1--"),
            [
                "must contain at least one letter (a-z)",
                "must not contain consecutive hyphens",
                "must not begin or end with a hyphen"
            ]
        );
    }
}
