//! The v2 document in protobuf, which is the form kubectl asks for: gnostic's `openapi.v2.Document`.
//!
//! Written from the JSON document by tables of field numbers. Extensions and other free values are `Any` messages that carry
//! YAML, of which JSON is a part. Source: google/gnostic `openapiv2/OpenAPIv2.proto`.

use crate::Value;

/// How a JSON value becomes a protobuf field.
enum Shape {
    Text,
    Bool,
    Int,
    Double,
    /// Repeated strings.
    Texts,
    /// `Any` messages: one, or one per item of a list.
    Any,
    /// A message; one per item of a list.
    Message(&'static Message),
    /// A message inside messages of which each only has this field.
    Inside(&'static [u32], &'static Shape),
    /// A schema, or a boolean in field 2.
    SchemaOrBool,
    /// Each item by where the parameter is.
    Parameters,
}

/// A message type: fields by JSON key, the field of `x-…` extensions, and the field of all other keys, whose entries are
/// `{1 name, 2 value}`.
struct Message {
    fields: &'static [(&'static str, u32, Shape)],
    extensions: u32,
    entries: Option<(u32, Shape)>,
}

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Shape::Text),
        ("info", 2, Shape::Message(&INFO)),
        ("paths", 8, Shape::Message(&PATHS)),
        ("definitions", 9, Shape::Message(&SCHEMAS)),
        ("security", 12, Shape::Message(&SECURITY_REQUIREMENT)),
        ("securityDefinitions", 13, Shape::Message(&SECURITY_DEFINITIONS)),
    ],
    extensions: 16,
    entries: None,
};
static INFO: Message =
    Message { fields: &[("title", 1, Shape::Text), ("version", 2, Shape::Text)], extensions: 7, entries: None };
static PATHS: Message = Message { fields: &[], extensions: 1, entries: Some((2, Shape::Message(&PATH_ITEM))) };
static PATH_ITEM: Message = Message {
    fields: &[
        ("get", 2, Shape::Message(&OPERATION)),
        ("put", 3, Shape::Message(&OPERATION)),
        ("post", 4, Shape::Message(&OPERATION)),
        ("delete", 5, Shape::Message(&OPERATION)),
        ("options", 6, Shape::Message(&OPERATION)),
        ("head", 7, Shape::Message(&OPERATION)),
        ("patch", 8, Shape::Message(&OPERATION)),
        ("parameters", 9, Shape::Parameters),
    ],
    extensions: 10,
    entries: None,
};
static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Shape::Texts),
        ("description", 3, Shape::Text),
        ("operationId", 5, Shape::Text),
        ("produces", 6, Shape::Texts),
        ("consumes", 7, Shape::Texts),
        ("parameters", 8, Shape::Parameters),
        ("responses", 9, Shape::Message(&RESPONSES)),
        ("schemes", 10, Shape::Texts),
    ],
    extensions: 13,
    entries: None,
};
static RESPONSES: Message =
    Message { fields: &[], extensions: 2, entries: Some((1, Shape::Inside(&[1], &Shape::Message(&RESPONSE)))) };
static RESPONSE: Message = Message {
    fields: &[("description", 1, Shape::Text), ("schema", 2, Shape::Inside(&[1], &Shape::Message(&SCHEMA)))],
    extensions: 5,
    entries: None,
};
static BODY_PARAMETER: Message = Message {
    fields: &[
        ("description", 1, Shape::Text),
        ("name", 2, Shape::Text),
        ("in", 3, Shape::Text),
        ("required", 4, Shape::Bool),
        ("schema", 5, Shape::Message(&SCHEMA)),
    ],
    extensions: 6,
    entries: None,
};
static QUERY_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Shape::Bool),
        ("in", 2, Shape::Text),
        ("description", 3, Shape::Text),
        ("name", 4, Shape::Text),
        ("type", 6, Shape::Text),
        ("uniqueItems", 20, Shape::Bool),
    ],
    extensions: 23,
    entries: None,
};
static PATH_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Shape::Bool),
        ("in", 2, Shape::Text),
        ("description", 3, Shape::Text),
        ("name", 4, Shape::Text),
        ("type", 5, Shape::Text),
        ("uniqueItems", 19, Shape::Bool),
    ],
    extensions: 22,
    entries: None,
};
static SCHEMAS: Message = Message { fields: &[], extensions: 0, entries: Some((1, Shape::Message(&SCHEMA))) };
static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Shape::Text),
        ("format", 2, Shape::Text),
        ("title", 3, Shape::Text),
        ("description", 4, Shape::Text),
        ("default", 5, Shape::Any),
        ("multipleOf", 6, Shape::Double),
        ("maximum", 7, Shape::Double),
        ("exclusiveMaximum", 8, Shape::Bool),
        ("minimum", 9, Shape::Double),
        ("exclusiveMinimum", 10, Shape::Bool),
        ("maxLength", 11, Shape::Int),
        ("minLength", 12, Shape::Int),
        ("pattern", 13, Shape::Text),
        ("maxItems", 14, Shape::Int),
        ("minItems", 15, Shape::Int),
        ("uniqueItems", 16, Shape::Bool),
        ("maxProperties", 17, Shape::Int),
        ("minProperties", 18, Shape::Int),
        ("required", 19, Shape::Texts),
        ("enum", 20, Shape::Any),
        ("additionalProperties", 21, Shape::SchemaOrBool),
        ("type", 22, Shape::Inside(&[1], &Shape::Text)),
        ("items", 23, Shape::Inside(&[1], &Shape::Message(&SCHEMA))),
        ("allOf", 24, Shape::Message(&SCHEMA)),
        ("properties", 25, Shape::Message(&SCHEMAS)),
        ("example", 30, Shape::Any),
    ],
    extensions: 31,
    entries: None,
};
static SECURITY_REQUIREMENT: Message =
    Message { fields: &[], extensions: 0, entries: Some((1, Shape::Message(&STRING_ARRAY))) };
static STRING_ARRAY: Message = Message { fields: &[], extensions: 0, entries: None };
static SECURITY_DEFINITIONS: Message =
    Message { fields: &[], extensions: 0, entries: Some((1, Shape::Inside(&[2], &Shape::Message(&API_KEY)))) };
static API_KEY: Message = Message {
    fields: &[
        ("type", 1, Shape::Text),
        ("name", 2, Shape::Text),
        ("in", 3, Shape::Text),
        ("description", 4, Shape::Text),
    ],
    extensions: 5,
    entries: None,
};

/// A message whose field 1 is a schema.
static INSIDE_SCHEMA: Shape = Shape::Inside(&[1], &Shape::Message(&SCHEMA));

/// The protobuf form of a v2 document.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    message(&DOCUMENT, document, &mut out);
    out
}

fn message(message: &Message, value: &Value, out: &mut Vec<u8>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        if let Some((_, number, shape)) = message.fields.iter().find(|(name, ..)| name == key) {
            field(*number, shape, value, out);
        } else if let Some((number, shape)) = &message.entries {
            entry(*number, key, shape, value, out);
        } else if key.starts_with("x-") {
            entry(message.extensions, key, &Shape::Any, value, out);
        }
    }
}

/// `{1 name, 2 value}`; an entry of an array of strings has a value without fields.
fn entry(number: u32, name: &str, shape: &Shape, value: &Value, out: &mut Vec<u8>) {
    let mut inner = Vec::new();
    bytes(1, name.as_bytes(), &mut inner);
    match (shape, value) {
        // An extension's value is one `Any`, also when it is a list.
        (Shape::Any, value) => any(2, value, &mut inner),
        (_, Value::Array(_)) => bytes(2, &[], &mut inner),
        _ => field(2, shape, value, &mut inner),
    }
    bytes(number, &inner, out);
}

fn field(number: u32, shape: &Shape, value: &Value, out: &mut Vec<u8>) {
    match shape {
        Shape::Text => bytes(number, value.as_str().unwrap_or("").as_bytes(), out),
        Shape::Bool => {
            key(number, 0, out);
            out.push(u8::from(value.as_bool() == Some(true)));
        }
        Shape::Int => {
            key(number, 0, out);
            varint(value.as_i64().unwrap_or(0).cast_unsigned(), out);
        }
        Shape::Double => {
            key(number, 1, out);
            out.extend_from_slice(&value.as_f64().unwrap_or(0.0).to_le_bytes());
        }
        Shape::Texts => {
            for text in value.as_array().into_iter().flatten().filter_map(Value::as_str) {
                bytes(number, text.as_bytes(), out);
            }
        }
        Shape::Any => match value {
            Value::Array(items) => items.iter().for_each(|item| any(number, item, out)),
            value => any(number, value, out),
        },
        Shape::Message(kind) => {
            let one = std::slice::from_ref(value);
            for value in value.as_array().map_or(one, Vec::as_slice) {
                let mut inner = Vec::new();
                message(kind, value, &mut inner);
                bytes(number, &inner, out);
            }
        }
        Shape::Inside(numbers, shape) => match numbers {
            [] => field(number, shape, value, out),
            [first, ..] => {
                let mut inner = Vec::new();
                field(*first, shape, value, &mut inner);
                bytes(number, &inner, out);
            }
        },
        Shape::SchemaOrBool if value.is_boolean() => {
            let mut inner = Vec::new();
            field(2, &Shape::Bool, value, &mut inner);
            bytes(number, &inner, out);
        }
        Shape::SchemaOrBool => field(number, &INSIDE_SCHEMA, value, out),
        Shape::Parameters => {
            for value in value.as_array().into_iter().flatten() {
                parameter(number, value, out);
            }
        }
    }
}

/// `ParametersItem {1 Parameter {1 body | 2 NonBodyParameter {3 query | 4 path}}}`
fn parameter(number: u32, value: &Value, out: &mut Vec<u8>) {
    let (kind, numbers): (_, &[u32]) = match value["in"].as_str() {
        Some("body") => (&BODY_PARAMETER, &[1, 1]),
        Some("path") => (&PATH_PARAMETER, &[4, 2, 1]),
        _ => (&QUERY_PARAMETER, &[3, 2, 1]),
    };
    let mut inner = Vec::new();
    message(kind, value, &mut inner);
    for number in numbers {
        let mut outer = Vec::new();
        bytes(*number, &inner, &mut outer);
        inner = outer;
    }
    bytes(number, &inner, out);
}

/// `Any {2 yaml}`
fn any(number: u32, value: &Value, out: &mut Vec<u8>) {
    let mut inner = Vec::new();
    bytes(2, format!("{value}\n").as_bytes(), &mut inner);
    bytes(number, &inner, out);
}

fn bytes(number: u32, value: &[u8], out: &mut Vec<u8>) {
    key(number, 2, out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

fn key(number: u32, wire_type: u32, out: &mut Vec<u8>) {
    varint(u64::from(number << 3 | wire_type), out);
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    /// Fields of a message: number and bytes of length-delimited ones, in order.
    fn fields(mut bytes: &[u8]) -> Vec<(u32, &[u8])> {
        let mut out = Vec::new();
        let next = |bytes: &mut &[u8]| {
            let (mut value, mut shift) = (0u64, 0);
            loop {
                let (first, rest) = bytes.split_first().expect("a byte");
                *bytes = rest;
                value |= u64::from(first & 0x7f) << shift;
                shift += 7;
                if first & 0x80 == 0 {
                    return value;
                }
            }
        };
        while !bytes.is_empty() {
            let key = next(&mut bytes);
            let len = match key & 7 {
                0 => {
                    next(&mut bytes);
                    0
                }
                1 => 8,
                _ => next(&mut bytes) as usize,
            };
            out.push(((key >> 3) as u32, &bytes[..len]));
            bytes = &bytes[len..];
        }
        out
    }

    fn only<'b>(bytes: &'b [u8], path: &[u32]) -> &'b [u8] {
        path.iter().fold(bytes, |bytes, number| {
            let found: Vec<_> = fields(bytes).into_iter().filter(|(n, _)| n == number).collect();
            assert_eq!(found.len(), 1, "field {number} of {path:?}");
            found[0].1
        })
    }

    #[test]
    fn a_small_document_has_gnostics_layout() {
        let document = json!({
            "swagger": "2.0",
            "definitions": {"a.B": {
                "type": "object",
                "properties": {"p": {"type": "array", "items": {"$ref": "#/definitions/a.C"}, "x-kubernetes-list-type": "set"}},
            }},
            "paths": {"/x": {"patch": {
                "x-kubernetes-action": "patch",
                "parameters": [{"name": "dryRun", "in": "query", "type": "string"}],
                "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/a.B"}}},
            }}},
        });
        let bytes = encode(&document);
        assert_eq!(only(&bytes, &[1]), b"2.0");
        assert_eq!(only(&bytes, &[9, 1, 1]), b"a.B");
        assert_eq!(only(&bytes, &[9, 1, 2, 22, 1]), b"object");
        assert_eq!(only(&bytes, &[9, 1, 2, 25, 1, 1]), b"p");
        assert_eq!(only(&bytes, &[9, 1, 2, 25, 1, 2, 23, 1, 1]), b"#/definitions/a.C");
        assert_eq!(only(&bytes, &[9, 1, 2, 25, 1, 2, 31, 2, 2]), b"\"set\"\n");
        assert_eq!(only(&bytes, &[8, 2, 1]), b"/x");
        assert_eq!(only(&bytes, &[8, 2, 2, 8, 8, 1, 2, 3, 4]), b"dryRun");
        assert_eq!(only(&bytes, &[8, 2, 2, 8, 9, 1, 2, 1, 2, 1, 1]), b"#/definitions/a.B");
        assert_eq!(only(&bytes, &[8, 2, 2, 8, 13, 1]), b"x-kubernetes-action");
    }
}
