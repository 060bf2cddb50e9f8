//! An object as upstream's hashes see it: Go's memory, printed.
//!
//! Upstream hashes go-spew's `%#v` of a pod template (for names), of ports and of subsets (for their order): every field with its Go
//! name and type, pointers followed, maps sorted, absent values as `<nil>` or zero. The Go types come from a table; the notation is here.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use serde::Serialize;
use serde_json::{Map, Value};

/// A struct's fields in Go's order.
type Struct = Vec<Field>;

struct Field {
    name: &'static str,
    /// Empty when Go embeds the struct and JSON inlines it.
    json: &'static str,
    type_: &'static str,
}

static STRUCTS: LazyLock<HashMap<&'static str, Struct>> =
    LazyLock::new(|| read_table(include_str!("../data/go-types.tsv")));

/// A row `T<TAB>type` opens a struct, the rows after it are its fields.
fn read_table(table: &'static str) -> HashMap<&'static str, Struct> {
    let mut structs: HashMap<&'static str, Struct> = HashMap::new();
    let mut current = "";
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let mut cells = line.split('\t');
        let (Some(first), Some(second)) = (cells.next(), cells.next()) else { continue };
        match cells.next() {
            None => current = second,
            Some(type_) => structs.entry(current).or_default().push(Field { name: first, json: second, type_ }),
        }
    }
    structs
}

/// What upstream sorts a list of Go type `type_` by: FNV-1a, in 128 bits, of the dump of each.
pub(crate) fn sort_key(value: &impl Serialize, type_: &str) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0100_0000_0000_0000_0000_013b;
    // Typed objects always serialise; a failure would only leave them unsorted.
    let text = dump(&serde_json::to_value(value).unwrap_or_default(), type_);
    text.bytes().fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

/// The dump of a value of Go type `type_`.
pub(crate) fn dump(value: &Value, type_: &str) -> String {
    let mut out = String::with_capacity(4096);
    write(&mut out, Some(value), type_, true);
    out
}

/// Elements of slices and maps, and what a pointer leads to, are printed without their type.
fn write(out: &mut String, value: Option<&Value>, type_: &str, with_type: bool) {
    if with_type {
        out.push('(');
        out.push_str(type_.rsplit('/').next().unwrap_or(type_));
        out.push(')');
    }
    let value = value.filter(|value| !value.is_null());
    if let Some(target) = type_.strip_prefix('*') {
        return match value {
            Some(value) => write(out, Some(value), target, false),
            None => out.push_str(NIL),
        };
    }
    if let Some(element) = type_.strip_prefix("[]") {
        return write_slice(out, value.and_then(Value::as_array), element);
    }
    if let Some(element) = map_element(type_) {
        return write_map(out, value.and_then(Value::as_object), element);
    }
    match type_ {
        "bool" => out.push_str(if value == Some(&Value::Bool(true)) { "true" } else { "false" }),
        "int32" | "int64" => push(out, value.and_then(Value::as_i64).unwrap_or(0)),
        "v1.Time" => write_time(out, value.and_then(Value::as_str)),
        "resource.Quantity" => write_quantity(out, value.and_then(Value::as_str)),
        "intstr.IntOrString" => write_int_or_string(out, value),
        _ => match STRUCTS.get(type_) {
            Some(fields) => write_struct(out, value, fields),
            // Everything else is a string, or a name for one.
            None => out.push_str(value.and_then(Value::as_str).unwrap_or("")),
        },
    }
}

const NIL: &str = "<nil>";

fn push(out: &mut String, shown: impl std::fmt::Display) {
    // Writing to a string does not fail.
    let _ = write!(out, "{shown}");
}

/// The element type of a map, whose keys are always strings.
fn map_element(type_: &str) -> Option<&str> {
    match type_ {
        "v1.ResourceList" => Some("resource.Quantity"),
        _ => type_.strip_prefix("map[")?.split_once(']').map(|(_, element)| element),
    }
}

/// Empty lists and maps do not survive upstream's wire: they are nil.
fn write_slice(out: &mut String, items: Option<&Vec<Value>>, element: &str) {
    let Some(items) = items.filter(|items| !items.is_empty()) else { return out.push_str(NIL) };
    out.push('[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(' ');
        }
        write(out, Some(item), element, false);
    }
    out.push(']');
}

fn write_map(out: &mut String, entries: Option<&Map<String, Value>>, element: &str) {
    let Some(entries) = entries.filter(|entries| !entries.is_empty()) else { return out.push_str(NIL) };
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort_by_key(|(key, _)| *key);
    out.push_str("map[");
    for (index, (key, value)) in sorted.into_iter().enumerate() {
        if index > 0 {
            out.push(' ');
        }
        out.push_str(key);
        out.push(':');
        write(out, Some(value), element, false);
    }
    out.push(']');
}

fn write_struct(out: &mut String, value: Option<&Value>, fields: &[Field]) {
    out.push('{');
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            out.push(' ');
        }
        out.push_str(field.name);
        out.push(':');
        let member = if field.json.is_empty() { value } else { value.and_then(|value| value.get(field.json)) };
        write(out, member, field.type_, true);
    }
    out.push('}');
}

/// A template has no times of its own; one that a user wrote is shown as UTC.
fn write_time(out: &mut String, text: Option<&str>) {
    /// From year 1, Go's zero, to 1970.
    const UNIX_TO_GO_SECONDS: i64 = 62_135_596_800;
    let time = text.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let seconds = time.map_or(0, |time| time.as_second() + UNIX_TO_GO_SECONDS);
    push(out, format_args!("{{Time:(time.Time){{wall:(uint64)0 ext:(int64){seconds} loc:(*time.Location){NIL}}}}}"));
}

fn write_int_or_string(out: &mut String, value: Option<&Value>) {
    let (kind, number, text) = match value {
        Some(Value::String(text)) => (1, 0, text.as_str()),
        other => (0, other.and_then(Value::as_i64).unwrap_or(0), ""),
    };
    push(out, format_args!("{{Type:(intstr.Type){kind} IntVal:(int32){number} StrVal:(string){text}}}"));
}

/// What Go's `resource.Quantity` holds after parsing: an int64 with a decimal scale when that is exact, else a big decimal.
fn write_quantity(out: &mut String, text: Option<&str>) {
    let parsed = parse(text.unwrap_or("0"));
    let (value, scale) = parsed.small.unwrap_or((0, 0));
    push(out, format_args!("{{i:(resource.int64Amount){{value:(int64){value} scale:(resource.Scale){scale}}} "));
    match parsed.big {
        None => push(out, format_args!("d:(resource.infDecAmount){{Dec:(*inf.Dec){NIL}}} ")),
        Some(unscaled) => {
            let words = words(unscaled.unsigned_abs());
            push(out, "d:(resource.infDecAmount){Dec:(*inf.Dec){unscaled:(big.Int){");
            push(out, format_args!("neg:(bool){} abs:(big.nat){words}}} ", unscaled < 0));
            push(out, format_args!("scale:(inf.Scale){BIG_SCALE}}}}} "));
        }
    }
    push(out, format_args!("s:(string){} Format:(resource.Format){}}}", parsed.kept, parsed.format));
}

/// A big quantity is kept in nanos.
const BIG_SCALE: u32 = 9;

fn words(number: u128) -> String {
    let (low, high) = (number & u128::from(u64::MAX), number >> 64);
    match (low, high) {
        (0, 0) => NIL.to_owned(),
        (low, 0) => format!("[{low}]"),
        (low, high) => format!("[{low} {high}]"),
    }
}

struct Parsed<'a> {
    small: Option<(i64, i32)>,
    /// In nanos.
    big: Option<i128>,
    /// The text, where Go keeps it because printing would give it back.
    kept: &'a str,
    format: &'static str,
}

/// Go's limit of decimal digits that an int64 holds.
const INT64_DIGITS: i32 = 18;

/// Parses a quantity in the API server's canonical form.
fn parse(text: &str) -> Parsed<'_> {
    if text == "0" {
        return Parsed { small: Some((0, 0)), big: None, kept: text, format: "DecimalSI" };
    }
    let digits_end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '-' | '+')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let is_negative = number.starts_with('-');
    let unsigned = number.trim_start_matches(['-', '+']).trim_start_matches('0');
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let whole = if whole.is_empty() { "0" } else { whole };
    let (base, exponent, format) = interpret(suffix);
    let n_digits = i32::try_from(whole.len() + fraction.len()).unwrap_or(i32::MAX);
    let n_fraction = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
    let precision = match base {
        10 => INT64_DIGITS - n_digits,
        _ if fraction.is_empty() => 15 - n_digits - exponent * 3 / 10 - 1,
        _ => -1,
    };
    let scale = if base == 10 { exponent - n_fraction } else { 0 };
    let shifted = format!("{whole}{fraction}");
    if precision >= 0
        && scale >= -9
        && let Ok(value) = shifted.parse::<i64>()
    {
        let factor = if base == 2 { 1i64 << exponent } else { 1 };
        if let Some(result) = value.checked_mul(factor) {
            let is_canonical = match base {
                2 => exponent % 10 == 0 && value & 7 != 0,
                _ => scale % 3 == 0 && !shifted.ends_with("000") && !shifted.starts_with('0'),
            };
            let result = if is_negative { -result } else { result };
            let kept = if is_canonical { text } else { "" };
            return Parsed { small: Some((result, scale)), big: None, kept, format };
        }
    }
    let nanos = text.trim().parse::<api::quantity::Quantity>().map_or(0, |quantity| quantity.nanos());
    Parsed { small: None, big: Some(nanos), kept: "", format }
}

fn interpret(suffix: &str) -> (u8, i32, &'static str) {
    let decimal = |exponent| (10, exponent, "DecimalSI");
    let binary = |exponent| (2, exponent, "BinarySI");
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        other => match other.strip_prefix(['e', 'E']).and_then(|exponent| exponent.parse().ok()) {
            Some(exponent) => (10, exponent, "DecimalExponent"),
            None => decimal(0),
        },
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn ports_are_sorted_as_upstream_sorts_them() {
        let rows = [
            ("http", 8080, "TCP", None),
            ("https", 8443, "TCP", None),
            ("metrics", 9090, "TCP", None),
            ("dns", 53, "UDP", None),
            ("grpc", 9000, "TCP", Some("kubernetes.io/h2c")),
        ];
        // As Kubernetes v1.36.2 listed them.
        for (type_, expected) in [
            ("v1.EndpointPort", ["http", "grpc", "metrics", "dns", "https"]),
            ("discovery/v1.EndpointPort", ["http", "dns", "https", "metrics", "grpc"]),
        ] {
            let mut ports = rows.map(|(name, port, protocol, app_protocol)| {
                serde_json::json!({"name": name, "port": port, "protocol": protocol, "appProtocol": app_protocol})
            });
            ports.sort_by_cached_key(|port| super::sort_key(port, type_));
            assert_eq!(ports.each_ref().map(|port| port["name"].as_str().unwrap()), expected, "{type_}");
        }
    }

    use serde_json::json;

    use super::*;

    fn quantity(text: &str) -> String {
        dump(&json!(text), "resource.Quantity")
    }

    #[test]
    fn quantities_are_shown_as_go_holds_them() {
        let small = |value: i64, scale: i32, kept: &str, format: &str| {
            format!(
                "(resource.Quantity){{i:(resource.int64Amount){{value:(int64){value} scale:(resource.Scale){scale}}} \
                 d:(resource.infDecAmount){{Dec:(*inf.Dec)<nil>}} s:(string){kept} Format:(resource.Format){format}}}"
            )
        };
        assert_eq!(quantity("100m"), small(100, -3, "100m", "DecimalSI"));
        assert_eq!(quantity("2"), small(2, 0, "2", "DecimalSI"));
        assert_eq!(quantity("0"), small(0, 0, "0", "DecimalSI"));
        assert_eq!(quantity("1Gi"), small(1 << 30, 0, "1Gi", "BinarySI"));
        assert_eq!(quantity("128Mi"), small(128 << 20, 0, "", "BinarySI"), "a multiple of eight is printed anew");
        assert!(quantity("2Pi").contains("abs:(big.nat)[5764607523034234880 122070]}"), "{}", quantity("2Pi"));
    }

    #[test]
    fn ports_and_absent_members_have_their_types() {
        let shown = dump(&json!({ "httpGet": { "path": "/", "port": "web" } }), "v1.ProbeHandler");
        assert_eq!(
            shown,
            "(v1.ProbeHandler){Exec:(*v1.ExecAction)<nil> HTTPGet:(*v1.HTTPGetAction){Path:(string)/ \
             Port:(intstr.IntOrString){Type:(intstr.Type)1 IntVal:(int32)0 StrVal:(string)web} Host:(string) \
             Scheme:(v1.URIScheme) HTTPHeaders:([]v1.HTTPHeader)<nil>} TCPSocket:(*v1.TCPSocketAction)<nil> \
             GRPC:(*v1.GRPCAction)<nil>}"
        );
    }
}
