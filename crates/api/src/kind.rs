//! The record that describes a resource. Built-ins are rows of a static table; a CRD makes the same record at run time.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::Deref;

use crate::convert::Conversion;
use crate::custom::CustomVersion;
use crate::rules::WriteRules;
use crate::schema::{Schema, TypeId};
use crate::strategy::Strategy;

/// A static or computed string; built-in rows cost no allocation.
pub type Str = Cow<'static, str>;

/// A resource in one group and version, and everything generic code needs to serve it.
#[derive(Clone, Debug)]
pub struct Kind {
    /// API group, empty for the core group.
    pub group: Str,
    pub version: Str,
    /// CamelCase kind, e.g. `Deployment`. The list kind is this plus `List`.
    pub kind: Str,
    /// Plural resource name, e.g. `deployments`.
    pub resource: Str,
    pub singular: Str,
    pub namespaced: bool,
    /// Verbs in the alphabetical order of discovery: `create,delete,…`.
    pub verbs: Vec<Str>,
    pub short_names: Vec<Str>,
    pub categories: Vec<Str>,
    /// Key prefix below `/registry/`, without slashes at the ends: `pods`, `services/specs`. Empty: nothing is stored (reviews).
    pub storage_prefix: Str,
    /// The `apiVersion` of stored objects. It differs from [`Kind::api_version`] for events.k8s.io and autoscaling/v1, which
    /// share the storage of another group or version; see `conversion`.
    pub storage_version: Str,
    /// What discovery reports, so that clients see the values of a default upstream server.
    pub storage_version_hash: Str,
    /// Name of the schema definition, e.g. `io.k8s.api.apps.v1.Deployment`.
    pub type_name: Str,
    /// The schema that describes the objects, and the definition in it.
    pub schema: SchemaRef,
    pub type_id: TypeId,
    pub subresources: Vec<Subresource>,
    /// Field labels usable in field selectors besides `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<SelectableField>,
    /// The write path's facts: when status is cleared, when generation moves, what DELETE answers.
    pub rules: WriteRules,
    /// How this version becomes the stored one and back; `None` when it is the stored one.
    pub conversion: Option<&'static Conversion>,
    /// What differs per kind beyond this table.
    pub strategy: &'static Strategy,
}

/// The schema of a kind: the built-in one, or one a CRD brought.
#[derive(Clone, Debug)]
pub enum SchemaRef {
    Builtin(&'static Schema),
    Custom(CustomVersion),
}

impl SchemaRef {
    /// The version of a definition that brought the schema.
    pub fn custom(&self) -> Option<&CustomVersion> {
        match self {
            Self::Builtin(_) => None,
            Self::Custom(version) => Some(version),
        }
    }
}

impl Deref for SchemaRef {
    type Target = Schema;
    fn deref(&self) -> &Schema {
        match self {
            Self::Builtin(schema) => schema,
            Self::Custom(version) => version.types(),
        }
    }
}

/// A subresource as discovery lists it, e.g. `scale` with kind autoscaling/v1 Scale.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// `status`, `scale`, `binding`, … without the resource's name.
    pub name: Str,
    pub group: Str,
    pub version: Str,
    pub kind: Str,
    pub verbs: Vec<Str>,
    /// Name of the schema definition of request and response bodies.
    pub type_name: Str,
    pub type_id: TypeId,
}

/// A field label of a field selector and where its value is read.
#[derive(Clone, Debug)]
pub struct SelectableField {
    /// The label clients use: `status.phase`.
    pub label: Str,
    /// Path of object keys to the value in the *stored* form, booleans read as `true`/`false`.
    pub path: Vec<Str>,
    /// What absent reads as: `0` and `false` for the numbers and booleans of built-in kinds, else the empty string.
    pub zero: &'static str,
    /// Read instead when `path` reads as the empty string (the `source` of events).
    pub fallback: Option<Vec<Str>>,
}

impl Kind {
    /// The group that errors about an object name: that of the kind as it is stored, if it is.
    pub fn stored_group(&self) -> &str {
        if self.storage_version.is_empty() {
            return &self.group;
        }
        self.storage_version.rsplit_once('/').map_or("", |(group, _)| group)
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        group_version(&self.group, &self.version)
    }

    /// `pods`, `deployments.apps`: how errors and RBAC name it.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.resource.to_string() } else { format!("{}.{}", self.resource, self.group) }
    }

    pub fn list_kind(&self) -> String {
        if let Some(custom) = self.custom() {
            return custom.definition().list_kind.clone();
        }
        format!("{}List", self.kind)
    }

    /// Go's name of the type of an object, or of its list, as upstream's messages show it: `core.PodList`.
    pub fn go_type(&self, is_list: bool) -> String {
        let list = if is_list { "List" } else { "" };
        if self.custom().is_some() {
            return format!("unstructured.Unstructured{list}");
        }
        let package = self.stored_group().split('.').next().filter(|name| !name.is_empty()).unwrap_or("core");
        format!("{package}.{}{list}", self.kind)
    }

    /// Objects of this kind are kept in the store (reviews and bindings are not).
    pub fn is_stored(&self) -> bool {
        !self.storage_prefix.is_empty()
    }

    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}

/// Versions as Kubernetes orders them, the better one greater: stable ones before beta before alpha, later ones first, and
/// anything else after them in reverse alphabetical order.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    fn rank(version: &str) -> Option<(u8, u64, u64)> {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..digits].parse().ok().filter(|_| !rest.starts_with('0'))?;
        let tail = &rest[digits..];
        let (stability, minor) = match tail {
            "" => return Some((2, major, 0)),
            tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
                (Some(minor), _) => (1, minor),
                (None, Some(minor)) => (0, minor),
                (None, None) => return None,
            },
        };
        Some((stability, major, minor.parse().ok().filter(|_| !minor.starts_with('0'))?))
    }
    match (rank(a), rank(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

/// `v1` for the core group, `group/version` otherwise.
pub fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_stability_then_number() {
        let mut versions = ["v1", "v2beta1", "v10", "foo2", "v1alpha1", "v2", "v2beta3", "foo1", "v02"];
        versions.sort_by(|a, b| compare_versions(b, a));
        assert_eq!(versions, ["v10", "v2", "v1", "v2beta3", "v2beta1", "v1alpha1", "foo1", "foo2", "v02"]);
    }
}
