//! Descriptions of types and fields: embedded deflated, inflated for the build of one document.

use std::{collections::HashMap, io::Read};

use flate2::read::DeflateDecoder;

use crate::Value;

/// What `apiVersion` and `kind` say on every type; the extracted texts have no such fields.
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert \
                           recognized schemas to the latest internal value, and may reject unrecognized values. More info: \
                           https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the \
                    endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: \
                    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const LIST_METADATA: &str = "Standard list metadata. More info: \
                             https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// The whole table as text; drop it when the document is made.
pub(super) fn inflate() -> String {
    let mut text = String::new();
    let packed: &[u8] = include_bytes!("../../data/descriptions.tsv.deflate");
    // The data is ours and checked by a test; were it damaged, documents would lack descriptions.
    let _ = DeflateDecoder::new(packed).read_to_string(&mut text);
    text
}

/// Descriptions by definition and field; the field of a type's own description is empty. Values are JSON strings.
pub(super) struct Descriptions<'t>(HashMap<(&'t str, &'t str), &'t str>);

impl<'t> Descriptions<'t> {
    pub(super) fn parse(text: &'t str) -> Self {
        let row = |line: &'t str| {
            let mut cells = line.splitn(3, '\t');
            Some(((cells.next()?, cells.next()?), cells.next()?))
        };
        Self(text.lines().filter_map(row).collect())
    }

    /// The description of a field of a definition, or of the definition itself.
    pub(super) fn get(&self, definition: &str, field: &str) -> Option<Value> {
        if let Some(text) = self.0.get(&(definition, field)) {
            return serde_json::from_str(text).ok();
        }
        match field {
            "apiVersion" => Some(API_VERSION.into()),
            "kind" => Some(KIND.into()),
            "metadata" if definition.ends_with("List") => Some(LIST_METADATA.into()),
            _ => None,
        }
    }
}
