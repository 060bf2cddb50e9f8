//! Values against their schema, in the order and the words of upstream's OpenAPI validator. Source: `kube-openapi`
//! `pkg/validation`, `apiextensions-apiserver` `pkg/apiserver/validation`.
//!
//! What a value breaks is forgiven on an update when the value is what it was (ratcheting): the old value is carried along as
//! far as it can be told which one it was.

use super::formats;
use super::lists::same_key;
use super::structural::{Additional, Limits, Structural, Types};
use crate::schema::ListType;
use crate::{ErrorList, Map, Path, Value, field::go_quote};

/// Checks `value`. `path` is where it stands in the object; messages name fields by their path below it. `old` is the value
/// that is replaced, if any.
pub(super) fn validate(path: &Path, value: &Value, old: Option<&Value>, schema: &Structural, errors: &mut ErrorList) {
    for fault in check_value(&Place { name: String::new() }, value, old, schema).faults {
        fault.report(path, errors);
    }
}

/// A fault as the validator knows it, before it becomes a field error.
#[derive(Debug)]
struct Fault {
    /// Path below the root; `None`: the fault is nobody's in particular.
    name: Option<String>,
    message: String,
    what: What,
}

#[derive(Debug)]
enum What {
    Type(&'static str),
    TypeOf(Value),
    Required,
    TooLong(u64),
    TooMany { actual: usize, max: u64 },
    NotSupported { value: Value, allowed: Vec<String> },
    Invalid(Value),
}

impl Fault {
    fn report(self, root: &Path, errors: &mut ErrorList) {
        let path = match self.name.as_deref().map(|name| name.strip_prefix('.').unwrap_or(name)) {
            None | Some("") => root.clone(),
            Some(name) if root.as_str().is_empty() => Path::new(name),
            Some(name) => root.child(name),
        };
        match self.what {
            What::Type(found) => errors.type_invalid(path, found, self.message),
            What::TypeOf(value) => errors.type_invalid(path, value, self.message),
            What::Required => errors.required(path, ""),
            What::TooLong(max) => errors.too_long(path, usize::try_from(max).unwrap_or(usize::MAX)),
            What::TooMany { actual, max } => {
                errors.too_many(path, actual, usize::try_from(max).unwrap_or(usize::MAX));
            }
            What::NotSupported { value, allowed } => {
                let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
                errors.not_supported(path, value, &allowed);
            }
            What::Invalid(value) => errors.invalid(path, value, self.message),
        }
    }
}

/// Faults, and how many checks went well: alternatives are judged by that.
#[derive(Debug, Default)]
struct Outcome {
    faults: Vec<Fault>,
    matches: usize,
}

impl Outcome {
    fn is_valid(&self) -> bool {
        self.faults.is_empty()
    }

    fn add(&mut self, fault: Fault) {
        if !self.faults.iter().any(|known| known.message == fault.message) {
            self.faults.push(fault);
        }
    }

    fn merge(&mut self, other: Outcome) {
        other.faults.into_iter().for_each(|fault| self.add(fault));
        self.matches += other.matches;
    }

    fn of(fault: Fault) -> Self {
        Self { faults: vec![fault], matches: 0 }
    }
}

struct Place {
    /// `spec.list[0]`; empty at the root, and then the names below a map of no fields begin with a dot.
    name: String,
}

impl Place {
    fn property(&self, name: &str) -> Place {
        Place { name: if self.name.is_empty() { name.to_owned() } else { format!("{}.{name}", self.name) } }
    }

    fn entry(&self, name: &str) -> Place {
        Place { name: format!("{}.{name}", self.name) }
    }

    fn index(&self, index: usize) -> Place {
        Place { name: format!("{}[{index}]", self.name) }
    }

    fn fault(&self, what: What, text: &str) -> Fault {
        Fault { name: Some(self.name.clone()), message: format!("{} in body {text}", self.name), what }
    }

    /// A fault of the whole value in its logical parts; no field is named.
    fn logical(&self, text: &str) -> Fault {
        nameless(format!("{} {text}", go_quote(&self.name)))
    }
}

fn nameless(message: String) -> Fault {
    Fault { name: None, message, what: What::Invalid("".into()) }
}

/// A field, item or the root: what is wrong with it is forgiven when it did not change.
fn check_value(place: &Place, value: &Value, old: Option<&Value>, schema: &Structural) -> Outcome {
    let outcome = check(place, value, old, schema);
    match old {
        Some(old) if !outcome.is_valid() && old == value => Outcome::default(),
        _ => outcome,
    }
}

fn check(place: &Place, value: &Value, old: Option<&Value>, schema: &Structural) -> Outcome {
    static NONE: Limits = Limits::NONE;
    let limits = schema.limits.as_deref().unwrap_or(&NONE);
    let mut out = Outcome::default();
    if value.is_null() {
        out.merge(value_type(place, value, schema, limits));
        out.merge(enumeration(place, value, limits));
        return out;
    }
    if !schema.types.is_empty() || !limits.format.is_empty() {
        out.merge(value_type(place, value, schema, limits));
        out.matches += 1;
    }
    out.merge(logical(place, value, old, limits));
    out.matches += 1;
    match value {
        Value::String(text) => {
            out.merge(string(place, text, limits));
            out.matches += 1;
            if let Some(ok) = formats::matches(&limits.format, text) {
                if !ok {
                    let message = format!("must be of type {}: {}", limits.format, go_quote(text));
                    out.add(place.fault(What::TypeOf(value.clone()), &message));
                }
                out.matches += 1;
            }
        }
        Value::Number(_) => {
            out.merge(number(place, value, schema, limits));
            out.matches += 1;
        }
        Value::Array(items) => {
            out.merge(list(place, items, old, schema, limits));
            out.matches += 1;
        }
        _ => {}
    }
    out.merge(enumeration(place, value, limits));
    out.matches += 1;
    if let Value::Object(map) = value {
        out.merge(object(place, map, old, schema, limits));
        out.matches += 1;
    }
    out.matches += 1;
    out
}

fn value_type(place: &Place, value: &Value, schema: &Structural, limits: &Limits) -> Outcome {
    let good = Outcome { faults: Vec::new(), matches: 1 };
    let wrong = |wanted: &str, found: &'static str| {
        let message = format!("must be of type {wanted}: {}", go_quote(found));
        Outcome::of(place.fault(What::Type(found), &message))
    };
    let Some((found, found_format)) = Types::of(value) else {
        let is_missing = !schema.types.is_empty() && !schema.nullable;
        return if is_missing { wrong(&schema.types.text(), "null") } else { good };
    };
    let format = formats::supported(schema.types, &limits.format);
    let is_text = value.is_string() || value.is_array();
    let is_whole = found == Types::NUMBER && schema.types.has(Types::INTEGER) && is_integral(value);
    let is_number = found == Types::INTEGER && schema.types.has(Types::NUMBER);
    let fits = schema.types.has(found) || is_whole || is_number;
    let is_of_format = format.is_empty() || fits || found_format == format;
    if !is_text && !is_of_format {
        return wrong(format, found_format);
    }
    if !schema.types.has(Types::NUMBER) && !schema.types.has(Types::INTEGER) && !format.is_empty() && is_text {
        return good;
    }
    if fits { good } else { wrong(&schema.types.text(), found.name()) }
}

fn is_integral(value: &Value) -> bool {
    value.as_f64().is_some_and(|f| f.fract() == 0.0 && f.abs() <= 9_007_199_254_740_991.0)
}

fn string(place: &Place, text: &str, limits: &Limits) -> Outcome {
    let length = text.chars().count() as u64;
    let fault = if let Some(max) = limits.max_length.filter(|max| length > *max) {
        place.fault(What::TooLong(max), &format!("should be at most {max} chars long"))
    } else if let Some(min) = limits.min_length.filter(|min| length < *min) {
        place.fault(What::Invalid(text.into()), &format!("should be at least {min} chars long"))
    } else if let Some(pattern) =
        limits.pattern.as_ref().filter(|pattern| !pattern.regex().is_some_and(|regex| regex.is_match(text)))
    {
        place.fault(What::Invalid(text.into()), &format!("should match '{}'", pattern.text))
    } else {
        return Outcome::default();
    };
    Outcome::of(fault)
}

fn number(place: &Place, value: &Value, schema: &Structural, limits: &Limits) -> Outcome {
    let mut out = Outcome { faults: Vec::new(), matches: 1 };
    let range = |out: &mut Outcome, of: &Value, what: &str| {
        let is_bad = if schema.types.has(Types::INTEGER) && !schema.is_int_or_string {
            let whole = of.as_i64().or_else(|| of.as_f64().filter(|f| f.fract() == 0.0).map(|f| f as i64));
            whole.is_none_or(|n| limits.format == "int32" && i32::try_from(n).is_err())
        } else {
            limits.format == "float" && of.as_f64().is_some_and(|f| f.abs() > f64::from(f32::MAX))
        };
        if is_bad {
            let format = match limits.format.as_str() {
                "" => "(default format)".to_owned(),
                format => format!("with format {format}"),
            };
            let types = schema.types.text();
            out.add(nameless(format!("{what} value must be of type {types} {format} in {}", place.name)));
        }
        !is_bad
    };
    range(&mut out, value, "Checked");
    if let Some(factor) = limits.multiple_of
        && range(&mut out, &limit_value(factor), "MultipleOf")
    {
        // Beside a whole number the factor is cut to one as well, and may be nothing then.
        let cut = if value.is_i64() { factor.trunc() } else { factor };
        if cut <= 0.0 {
            let shown = bound(value, factor);
            let message = format!("factor MultipleOf declared for {} must be positive: {shown}", place.name);
            let what = What::Invalid(limit_value(cut));
            out.add(Fault { name: Some(place.name.clone()), message, what });
        } else if !is_multiple(value, cut) {
            let text = format!("should be a multiple of {}", bound(value, factor));
            out.add(place.fault(What::Invalid(value.clone()), &text));
        }
    }
    let compare = |limit: f64| compare(value, limit);
    if let Some(min) = limits.minimum {
        range(&mut out, &limit_value(min), "Minimum boundary");
        let (bad, word) = match limits.exclusive_minimum {
            true => (compare(min).is_le(), "greater than"),
            false => (compare(min).is_lt(), "greater than or equal to"),
        };
        if bad {
            let text = format!("should be {word} {}", bound(value, min));
            out.add(place.fault(What::Invalid(value.clone()), &text));
        }
    }
    if let Some(max) = limits.maximum {
        range(&mut out, &limit_value(max), "Maximum boundary");
        let (bad, word) = match limits.exclusive_maximum {
            true => (compare(max).is_ge(), "less than"),
            false => (compare(max).is_gt(), "less than or equal to"),
        };
        if bad {
            let text = format!("should be {word} {}", bound(value, max));
            out.add(place.fault(What::Invalid(value.clone()), &text));
        }
    }
    out
}

/// Whole numbers are compared as such, with the limit cut to one.
fn compare(value: &Value, limit: f64) -> std::cmp::Ordering {
    match value.as_i64() {
        Some(n) => n.cmp(&(limit as i64)),
        None => value.as_f64().unwrap_or(0.0).total_cmp(&limit),
    }
}

/// A limit as a message shows it beside `value`.
fn bound(value: &Value, limit: f64) -> String {
    if value.is_i64() { (limit as i64).to_string() } else { go_float(limit) }
}

/// Go's `%v` of a float64: exponents beyond six digits.
fn go_float(number: f64) -> String {
    if number == 0.0 || (1e-4..1e6).contains(&number.abs()) {
        return number.to_string();
    }
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |rest| ("-", rest));
    format!("{digits}e{sign}{exponent:0>2}")
}

/// A limit as a value that can be checked itself.
fn limit_value(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 9.2e18 { Value::from(number as i64) } else { Value::from(number) }
}

fn is_multiple(value: &Value, factor: f64) -> bool {
    match value.as_i64() {
        Some(n) => n.checked_rem(factor as i64).is_none_or(|rest| rest == 0),
        None => {
            let n = value.as_f64().unwrap_or(0.0);
            let times = if factor < 1.0 { 1.0 / factor * n } else { n / factor };
            times.fract() == 0.0
        }
    }
}

fn list(place: &Place, items: &[Value], old: Option<&Value>, schema: &Structural, limits: &Limits) -> Outcome {
    let mut out = Outcome::default();
    let old = old.and_then(Value::as_array).map(Vec::as_slice);
    if let Some(below) = &schema.items {
        for (index, item) in items.iter().enumerate() {
            let before = old.and_then(|old| match schema.list_type {
                Some(ListType::Map) => same_key(old, item, &schema.list_map_keys),
                Some(ListType::Set | ListType::Atomic) | None => None,
            });
            out.merge(check_value(&place.index(index), item, before, below));
        }
    }
    let n = items.len();
    if let Some(min) = limits.min_items.filter(|min| (n as u64) < *min) {
        out.add(place.fault(What::Invalid(n.into()), &format!("should have at least {min} items")));
    }
    if let Some(max) = limits.max_items.filter(|max| (n as u64) > *max) {
        out.add(place.fault(What::TooMany { actual: n, max }, &format!("should have at most {max} items")));
    }
    if limits.unique_items && items.iter().enumerate().any(|(i, item)| items[..i].contains(item)) {
        out.add(place.fault(What::Invalid("".into()), "shouldn't contain duplicates"));
    }
    out.matches += 1;
    out
}

fn enumeration(place: &Place, value: &Value, limits: &Limits) -> Outcome {
    let allowed = &limits.enumeration;
    if allowed.is_empty() || allowed.iter().any(|other| same_scalar(value, other)) {
        return Outcome::default();
    }
    let texts: Vec<String> = allowed.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
    let message = format!("should be one of [{}]", texts.join(" "));
    Outcome::of(place.fault(What::NotSupported { value: value.clone(), allowed: texts }, &message))
}

/// Equal, numbers whatever their form.
fn same_scalar(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        _ => a == b,
    }
}

fn object(place: &Place, map: &Map, old: Option<&Value>, schema: &Structural, limits: &Limits) -> Outcome {
    let n = map.len();
    if let Some(min) = limits.min_properties.filter(|min| (n as u64) < *min) {
        return Outcome::of(place.fault(What::Invalid(n.into()), &format!("should have at least {min} properties")));
    }
    if let Some(max) = limits.max_properties.filter(|max| (n as u64) > *max) {
        let text = format!("should have at most {max} properties");
        return Outcome::of(place.fault(What::TooMany { actual: n, max }, &text));
    }
    let mut out = Outcome::default();
    let before = |name: &str| old.and_then(|old| old.get(name));
    match &schema.additional {
        Some(Additional::Any(false)) => {
            for name in map.keys().filter(|name| schema.property(name).is_none()) {
                let message = format!("{}.{name} in body is a forbidden property", place.name);
                let what = What::Invalid(name.as_str().into());
                out.add(Fault { name: Some(place.name.clone()), message, what });
            }
        }
        Some(Additional::Schema(below)) => {
            for (name, value) in map.iter().filter(|(name, _)| schema.property(name).is_none()) {
                out.merge(check_value(&place.entry(name), value, before(name), below));
            }
        }
        Some(Additional::Any(true)) | None => {}
    }
    for (name, property) in &schema.properties {
        if let Some(value) = map.get(name.as_ref()) {
            out.merge(check_value(&place.property(name), value, before(name), property));
        }
    }
    for name in limits.required.iter().filter(|name| !map.contains_key(name.as_str())) {
        out.add(place.entry(name).fault(What::Required, "is required"));
    }
    out
}

/// `anyOf`, `oneOf`, `allOf` and `not`. Of alternatives that all fail, the one that went best says why.
fn logical(place: &Place, value: &Value, old: Option<&Value>, limits: &Limits) -> Outcome {
    let mut out = Outcome::default();
    if !limits.any_of.is_empty() {
        let mut best: Option<Outcome> = None;
        let mut success = None;
        for part in &limits.any_of {
            let outcome = check(place, value, old, part);
            if outcome.is_valid() {
                success = Some(outcome);
                break;
            }
            best = better(best, outcome);
        }
        match success {
            Some(outcome) => out.merge(outcome),
            None => {
                out.add(place.logical("must validate at least one schema (anyOf)"));
                out.merge(best.unwrap_or_default());
            }
        }
    }
    if !limits.one_of.is_empty() {
        let (mut best, mut first, mut n_valid) = (None, None, 0);
        for part in &limits.one_of {
            let outcome = check(place, value, old, part);
            if outcome.is_valid() {
                n_valid += 1;
                best = None;
                first = first.or(Some(outcome));
            } else if n_valid == 0 {
                best = better(best, outcome);
            }
        }
        if n_valid == 1 {
            out.merge(first.unwrap_or_default());
        } else {
            let found = match n_valid {
                0 => "Found none valid".to_owned(),
                n => format!("Found {n} valid alternatives"),
            };
            out.add(place.logical(&format!("must validate one and only one schema (oneOf). {found}")));
            out.merge(best.unwrap_or_default());
        }
    }
    if !limits.all_of.is_empty() {
        let mut n_valid = 0;
        for part in &limits.all_of {
            let outcome = check(place, value, old, part);
            n_valid += usize::from(outcome.is_valid());
            out.merge(outcome);
        }
        if n_valid != limits.all_of.len() {
            let tail = if n_valid == 0 { ". None validated" } else { "" };
            out.add(place.logical(&format!("must validate all the schemas (allOf){tail}")));
        }
    }
    if limits.not.as_ref().is_some_and(|not| check(place, value, old, not).is_valid()) {
        out.add(place.logical("must not validate the schema (not)"));
    }
    out.matches += 1;
    out
}

fn better(best: Option<Outcome>, other: Outcome) -> Option<Outcome> {
    match best {
        Some(best) if best.matches >= other.matches => Some(best),
        _ => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    fn faults(schema: Value, value: Value, old: Option<Value>) -> Vec<String> {
        let mut errors = ErrorList::new();
        validate(&Path::root(), &value, old.as_ref(), &Structural::new(&schema), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn types_and_limits_are_told_in_upstreams_words() {
        let schema = |own: Value| json!({"properties": {"spec": {"type": "object", "properties": {"a": own}}}});
        let check = |own: Value, value: Value, expected: &[&str]| {
            assert_eq!(faults(schema(own.clone()), json!({"spec": {"a": value}}), None), expected, "{own} {value}");
        };
        check(
            json!({"type": "integer"}),
            json!(1.5),
            &[
                "spec.a: Invalid value: \"number\": spec.a in body must be of type integer: \"number\"",
                "<nil>: Invalid value: \"\": Checked value must be of type integer (default format) in spec.a",
            ],
        );
        check(json!({"type": "integer"}), json!(2.0), &[]);
        check(json!({"type": "number"}), json!(2), &[]);
        check(
            json!({"type": "integer", "minimum": 1, "maximum": 10}),
            json!(0),
            &["spec.a: Invalid value: 0: spec.a in body should be greater than or equal to 1"],
        );
        check(
            json!({"type": "integer", "format": "int32"}),
            json!(3_000_000_000_i64),
            &["<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in spec.a"],
        );
        check(
            json!({"type": "string", "maxLength": 2}),
            json!("abc"),
            &["spec.a: Too long: may not be more than 2 bytes"],
        );
        check(
            json!({"type": "string", "pattern": "^a$"}),
            json!("b"),
            &["spec.a: Invalid value: \"b\": spec.a in body should match '^a$'"],
        );
        check(
            json!({"type": "string", "enum": ["x", "y"]}),
            json!("b"),
            &["spec.a: Unsupported value: \"b\": supported values: \"x\", \"y\""],
        );
        check(
            json!({"type": "array", "maxItems": 1, "items": {"type": "string"}}),
            json!(["a", 2]),
            &[
                "spec.a[1]: Invalid value: \"integer\": spec.a[1] in body must be of type string: \"integer\"",
                "spec.a: Too many: 2: must have at most 1 item",
            ],
        );
        check(json!({"type": "object", "required": ["b"]}), json!({}), &["spec.a.b: Required value"]);
        check(
            json!({"type": "string"}),
            Value::Null,
            &["spec.a: Invalid value: \"null\": spec.a in body must be of type string: \"null\""],
        );
        check(json!({"type": "string", "nullable": true}), Value::Null, &[]);
        check(
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            &["spec.a: Invalid value: \"boolean\": spec.a in body must be of type integer,string: \"boolean\""],
        );
        check(
            json!({"type": "string", "format": "date-time"}),
            json!("x"),
            &["spec.a: Invalid value: \"x\": spec.a in body must be of type date-time: \"x\""],
        );
    }

    #[test]
    fn of_failed_alternatives_the_best_one_says_why() {
        let schema = json!({"properties": {"spec": {"type": "object", "anyOf": [
            {"properties": {"a": {"minLength": 3}}}, {"properties": {"b": {"maxLength": 1}}}],
            "oneOf": [{"required": ["a"]}, {"required": ["b"]}], "not": {"required": ["c"]}}}});
        assert_eq!(
            faults(schema.clone(), json!({"spec": {"a": "x", "b": "yy"}}), None),
            [
                "<nil>: Invalid value: \"\": \"spec\" must validate at least one schema (anyOf)",
                "spec.a: Invalid value: \"x\": spec.a in body should be at least 3 chars long",
                "<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
            ]
        );
        assert_eq!(
            faults(schema, json!({"spec": {"a": "abc", "c": 1}}), None),
            ["<nil>: Invalid value: \"\": \"spec\" must not validate the schema (not)"]
        );
    }

    #[test]
    fn what_did_not_change_is_forgiven() {
        let schema = json!({"properties": {"spec": {"properties": {"a": {"maximum": 5}, "b": {"maximum": 5},
            "m": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"properties": {"v": {"maximum": 5}}}},
            "same": {"items": {"maximum": 5}}, "longer": {"items": {"maximum": 5}}}}}});
        let old = json!({"spec": {"a": 9, "b": 1, "m": [{"k": "x", "v": 9}], "same": [9], "longer": [9]}});
        let new = json!({"spec": {"a": 9, "b": 7, "m": [{"k": "new", "v": 1}, {"k": "x", "v": 9, "w": 1}], "same": [9],
            "longer": [9, 1]}});
        // Nobody can tell which item of another list was which, unless it has keys.
        assert_eq!(
            faults(schema, new, Some(old)),
            [
                "spec.b: Invalid value: 7: spec.b in body should be less than or equal to 5",
                "spec.longer[0]: Invalid value: 9: spec.longer[0] in body should be less than or equal to 5",
            ]
        );
    }

    #[test]
    fn a_part_is_named_from_where_it_stands() {
        let mut errors = ErrorList::new();
        let schema = Structural::new(&json!({"type": "object", "properties": {"n": {"type": "integer"}}}));
        validate(&Path::new("status"), &json!(5), None, &schema, &mut errors);
        validate(&Path::new("status"), &json!({"n": "x"}), None, &schema, &mut errors);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "status: Invalid value: \"integer\":  in body must be of type object: \"integer\"",
                "status.n: Invalid value: \"string\": n in body must be of type integer: \"string\"",
            ]
        );
    }
}
