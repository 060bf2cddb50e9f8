//! OpenAPI documents of what is served: v3 per group and version, v2 for everything.
//!
//! Made from the schema and the kinds when asked for, definition by definition, straight into bytes; nothing is kept here, so
//! whoever serves a document caches it. Descriptions are inflated for the time of one build.

mod custom;
mod definitions;
mod descriptions;
mod operations;
mod paths;
mod protobuf;
mod render;
mod structural;

use std::{collections::BTreeMap, fmt::Write as _};

use crate::json;
use bytes::Bytes;
use sha2::{Digest, Sha512};

use crate::{Kind, Schema, Value, discovery::ApiGroup};

pub use custom::CustomKind;
use definitions::Definitions;
use descriptions::Descriptions;

/// `info.version` of every document: major and minor of the API served.
const API_VERSION: &str = "1.36";

/// Which OpenAPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    V2,
    V3,
}

impl Form {
    /// A reference to a definition.
    fn reference(self, name: &str) -> Value {
        let prefix = match self {
            Form::V2 => "#/definitions/",
            Form::V3 => "#/components/schemas/",
        };
        json!({"$ref": format!("{prefix}{name}")})
    }
}

/// Path of a group and version below `/openapi/v3/`: `api/v1`, `apis/apps/v1`.
pub fn v3_path(group: &str, version: &str) -> String {
    match group {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    }
}

/// `/openapi/v3`: every document's path (see [`v3_path`]) with its [`hash`].
pub fn v3_index<'p>(documents: impl IntoIterator<Item = (&'p str, &'p str)>) -> Bytes {
    let paths: BTreeMap<&str, Value> = documents
        .into_iter()
        .map(|(path, hash)| (path, json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")})))
        .collect();
    json!({"paths": paths}).to_string().into()
}

/// The hash by which clients cache a document, also its ETag (in quotes): SHA-512 in upper-case hex.
pub fn hash(document: &[u8]) -> String {
    let mut out = String::with_capacity(128);
    for byte in Sha512::digest(document) {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02X}");
    }
    out
}

/// `/openapi/v3/{v3_path}`: the kinds of one group and version.
pub fn v3_document<'k>(group: &str, version: &str, kinds: impl IntoIterator<Item = &'k Kind>) -> Bytes {
    let kinds: Vec<&Kind> = kinds.into_iter().collect();
    let mut paths = vec![paths::resources_path(group, version)];
    paths.extend(kinds.iter().flat_map(|kind| paths::of_kind(kind)));
    let served = [("", "v1"), (group, version)];
    let served = if group.is_empty() { &served[1..] } else { &served[..] };
    let mut out = br#"{"openapi":"3.0.0","info":{"title":"Kubernetes","version":""#.to_vec();
    out.extend_from_slice(API_VERSION.as_bytes());
    out.extend_from_slice(br#""},"paths":"#);
    let roots = render::write_paths(&mut out, Form::V3, &mut paths);
    out.extend_from_slice(br#","components":{"schemas":"#);
    write_definitions(&mut out, Form::V3, roots, served, &[]);
    out.extend_from_slice(br#","securitySchemes":"#);
    out.extend_from_slice(security().to_string().as_bytes());
    out.extend_from_slice(b"}}");
    out.into()
}

/// `/openapi/v3/{v3_path}` of a group and version that CRDs brought.
pub fn v3_custom_document(kinds: &[CustomKind<'_>]) -> Bytes {
    let mut paths: Vec<_> = kinds.iter().flat_map(|custom| custom::paths(custom.kind)).collect();
    let mut out =
        br#"{"openapi":"3.0.0","info":{"title":"Kubernetes CRD Swagger","version":"v0.1.0"},"paths":"#.to_vec();
    let roots = render::write_paths(&mut out, Form::V3, &mut paths);
    out.extend_from_slice(br#","components":{"schemas":"#);
    write_definitions(&mut out, Form::V3, roots, custom::SCHEME, kinds);
    out.extend_from_slice(b"}}");
    out.into()
}

/// `/openapi/v2`: all built-in groups and all custom kinds in one document.
pub fn v2_document(groups: &[ApiGroup<'_>], custom: &[CustomKind<'_>]) -> Bytes {
    let mut paths = paths::roots(groups);
    let mut served = Vec::new();
    for group in groups {
        for version in &group.versions {
            served.push((group.name, version.version));
            paths.push(paths::resources_path(group.name, version.version));
            paths.extend(version.kinds.iter().flat_map(|kind| paths::of_kind(kind)));
        }
    }
    paths.extend(custom.iter().flat_map(|custom| custom::paths(custom.kind)));
    let mut out = br#"{"swagger":"2.0","info":{"title":"Kubernetes","version":""#.to_vec();
    out.extend_from_slice(API_VERSION.as_bytes());
    out.extend_from_slice(br#""},"paths":"#);
    let roots = render::write_paths(&mut out, Form::V2, &mut paths);
    out.extend_from_slice(br#","definitions":"#);
    write_definitions(&mut out, Form::V2, roots, &served, custom);
    out.extend_from_slice(br#","parameters":{},"securityDefinitions":"#);
    out.extend_from_slice(security().to_string().as_bytes());
    out.extend_from_slice(br#","security":[{"BearerToken":[]}]}"#);
    out.into()
}

/// The Content-Type of [`v2_protobuf`]; clients ask for it with `@` in place of the second dot.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// A v2 document made by [`v2_document`] in protobuf.
pub fn v2_protobuf(document: &[u8]) -> Bytes {
    // What is not JSON did not come from `v2_document`; its empty form is an empty document.
    protobuf::encode(&serde_json::from_slice(document).unwrap_or_default()).into()
}

fn security() -> Value {
    json!({"BearerToken": {
        "description": "Bearer Token authentication",
        "in": "header",
        "name": "authorization",
        "type": "apiKey",
    }})
}

/// The definitions that `roots` reach, sorted by name. `served`: groups and versions that generic options belong to.
fn write_definitions(
    out: &mut Vec<u8>,
    form: Form,
    mut roots: Vec<String>,
    served: &[(&str, &str)],
    custom: &[CustomKind<'_>],
) {
    if !custom.is_empty() {
        roots.extend([definitions::meta("ObjectMeta"), definitions::meta("ListMeta")]);
    }
    let own = custom::definitions(form, custom);
    let text = descriptions::inflate();
    let descriptions = Descriptions::parse(&text);
    let definitions = Definitions { form, schema: Schema::builtin(), descriptions: &descriptions, served };
    let names = definitions.reached_from(&roots);
    let definition = |name: &str| own.get(name).cloned().unwrap_or_else(|| definitions.definition(name));
    render::write_map(out, names.iter().map(|name| (name.as_str(), definition(name))));
}

/// `apps_v1`: the tag of a group and version's operations.
fn tag(group: &str, version: &str) -> String {
    let name = match group {
        "" => "core".to_owned(),
        group => {
            let mut words = group.strip_suffix(".k8s.io").unwrap_or(group).split('.');
            let first = words.next().unwrap_or("").to_owned();
            words.fold(first, |name, word| name + &paths::pascal(word))
        }
    };
    if version.is_empty() { name } else { format!("{name}_{version}") }
}

/// Group, version and kind as the extension of definitions and operations.
fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "kind": kind, "version": version})
}

#[cfg(test)]
mod tests;
