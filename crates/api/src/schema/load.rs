//! Reads the embedded type table.
//!
//! One type is a line `T <name> [attribute…]` followed by a line `<field> <shape> <flags> [attribute…]` per field, tab
//! separated. Shapes are a letter (see [`letter_shape`]), `@Name` for a type of the same package, `@full.name` for another,
//! with `[]` and `{}` in front for lists and maps. Flags: `p`ointer, `o`mitempty, omit`z`ero, `r`equired,
//! tells `e`mpty from none. Attributes are
//! `letter=value`. The table is ours and checked by a test, so a line that makes no sense is skipped, never a panic.

use std::borrow::Cow;
use std::collections::HashMap;

use super::{Field, ListType, MapType, Merge, Omit, PatchStrategy, Schema, Shape, Str, Type, TypeId, Union};

pub(super) fn parse(text: &'static str) -> Schema {
    let mut schema = Schema::default();
    let mut ids: HashMap<&'static str, TypeId> = HashMap::new();
    for name in text.lines().filter_map(|line| line.strip_prefix("T\t")).filter_map(|line| line.split('\t').next()) {
        ids.insert(name, TypeId(ids.len() as u32));
    }
    let mut current: Option<Header> = None;
    for line in text.lines() {
        match line.strip_prefix("T\t") {
            Some(rest) => {
                finish(&mut schema, current.take());
                current = Some(header(rest));
            }
            None => {
                if let Some(header) = &mut current
                    && let Some(field) = field(&mut schema, &ids, header.package, line)
                {
                    header.fields.push(field);
                }
            }
        }
    }
    finish(&mut schema, current);
    schema
}

struct Header {
    name: &'static str,
    package: &'static str,
    gvks: Vec<Str>,
    merge: Option<Box<Merge>>,
    fields: Vec<Field>,
}

fn header(rest: &'static str) -> Header {
    let mut cells = rest.split('\t');
    let name = cells.next().unwrap_or("");
    let package = name.rsplit_once('.').map_or("", |(package, _)| package);
    let mut header = Header { name, package, gvks: Vec::new(), merge: None, fields: Vec::new() };
    for (key, value) in cells.filter_map(|cell| cell.split_once('=')) {
        match key {
            "g" => header.gvks = list(value),
            _ => merge_attribute(&mut header.merge, key, value),
        }
    }
    header
}

fn finish(schema: &mut Schema, header: Option<Header>) {
    if let Some(h) = header {
        schema.add(Type::new(Cow::Borrowed(h.name), h.gvks, h.fields, h.merge));
    }
}

fn field(schema: &mut Schema, ids: &HashMap<&str, TypeId>, package: &str, line: &'static str) -> Option<Field> {
    let mut cells = line.split('\t');
    let (name, shape, flags) = (cells.next()?, cells.next()?, cells.next()?);
    let mut field = Field {
        name: Cow::Borrowed(name),
        shape: shape_of(schema, ids, package, shape)?,
        pointer: flags.contains('p'),
        tells_empty: flags.contains('e'),
        omit: match (flags.contains('z'), flags.contains('o')) {
            (true, _) => Omit::Zero,
            (false, true) => Omit::Empty,
            (false, false) => Omit::Never,
        },
        required: flags.contains('r'),
        go_type: None,
        embedded_in: None,
        proto: Vec::new(),
        enum_values: Vec::new(),
        openapi_default: None,
        merge: None,
    };
    for (key, value) in cells.filter_map(|cell| cell.split_once('=')) {
        match key {
            "n" => field.proto = value.split('.').filter_map(|n| n.parse().ok()).collect(),
            "G" => field.go_type = Some(Cow::Borrowed(value)),
            "I" => field.embedded_in = Some(Cow::Borrowed(value)),
            "e" => field.enum_values = value.split('|').map(Cow::Borrowed).collect(),
            "d" => field.openapi_default = Some(Cow::Borrowed(value)),
            _ => merge_attribute(&mut field.merge, key, value),
        }
    }
    Some(field)
}

fn shape_of(schema: &mut Schema, ids: &HashMap<&str, TypeId>, package: &str, text: &str) -> Option<Shape> {
    if let Some(inner) = text.strip_prefix("[]") {
        let inner = shape_of(schema, ids, package, inner)?;
        return Some(Shape::List(schema.intern(inner)));
    }
    if let Some(inner) = text.strip_prefix("{}") {
        let inner = shape_of(schema, ids, package, inner)?;
        return Some(Shape::Map(schema.intern(inner)));
    }
    match text.strip_prefix('@') {
        Some(name) if name.contains('.') => ids.get(name).copied().map(Shape::Ref),
        Some(name) => ids.get(format!("{package}.{name}").as_str()).copied().map(Shape::Ref),
        None => letter_shape(ids, package, text),
    }
}

fn letter_shape(ids: &HashMap<&str, TypeId>, package: &str, letter: &str) -> Option<Shape> {
    let props = || ids.get(format!("{package}.JSONSchemaProps").as_str()).copied();
    Some(match letter {
        "s" => Shape::String,
        "b" => Shape::Bool,
        "i" => Shape::Int32,
        "l" => Shape::Int64,
        "d" => Shape::Double,
        "y" => Shape::Bytes,
        "t" => Shape::Time,
        "u" => Shape::MicroTime,
        "D" => Shape::Duration,
        "Q" => Shape::Quantity,
        "I" => Shape::IntOrString,
        "R" => Shape::RawExtension,
        "F" => Shape::FieldsV1,
        "A" => Shape::Any,
        "1" => Shape::SchemaOrArray(props()?),
        "2" => Shape::SchemaOrBool(props()?),
        "3" => Shape::SchemaOrStrings(props()?),
        _ => return None,
    })
}

fn merge_attribute(merge: &mut Option<Box<Merge>>, key: &str, value: &'static str) {
    let merge = merge.get_or_insert_default();
    match key {
        "l" => {
            merge.list_type = match value {
                "set" => Some(ListType::Set),
                "map" => Some(ListType::Map),
                _ => Some(ListType::Atomic),
            }
        }
        "k" => merge.list_map_keys = list(value),
        "m" => merge.map_type = Some(if value == "atomic" { MapType::Atomic } else { MapType::Granular }),
        "s" => {
            let has = |word: &str| value.split(',').any(|v| v == word);
            merge.patch_strategy =
                PatchStrategy { merge: has("merge"), retain_keys: has("retainKeys"), replace: has("replace") };
        }
        "y" => merge.patch_merge_key = Some(Cow::Borrowed(value)),
        "u" => merge.union = union(value),
        _ => {}
    }
}

/// `discriminator=type;queuing->Queuing` (a dash for none).
fn union(value: &'static str) -> Option<Union> {
    let (discriminator, fields) = value.strip_prefix("discriminator=")?.split_once(';')?;
    let fields = fields.split(',').filter_map(|f| f.split_once("->"));
    Some(Union {
        discriminator: (discriminator != "-").then_some(Cow::Borrowed(discriminator)),
        fields: fields.map(|(f, v)| (Cow::Borrowed(f), Cow::Borrowed(v))).collect(),
    })
}

fn list(value: &'static str) -> Vec<Str> {
    value.split(',').map(Cow::Borrowed).collect()
}
