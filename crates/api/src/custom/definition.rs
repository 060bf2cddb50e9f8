//! A CustomResourceDefinition as the server works with it, and the kinds it brings.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::CustomVersion;
use super::typed::ROOT;
use super::version::Compiled;
use crate::kind::{Kind, SchemaRef, SelectableField, Str, Subresource};
use crate::kinds::customresourcedefinition::conditions;
use crate::rules::{DeleteReturns, GcDefault, Generation, WriteRules};
use crate::schema::Schema;
use crate::strategy::Strategy;
use crate::{Map, Value, meta};

const VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
const STATUS_VERBS: [&str; 3] = ["get", "patch", "update"];
const SCALE_TYPE: &str = "io.k8s.api.autoscaling.v1.Scale";

/// What differs per kind is the schema's business.
static STRATEGY: Strategy = Strategy::DEFAULT;

/// A definition that was accepted by the server.
#[derive(Debug)]
pub struct Definition {
    /// `widgets.example.com`.
    pub name: String,
    pub uid: String,
    pub group: String,
    pub kind: String,
    pub list_kind: String,
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    /// Names among the resources of its group that it has been given.
    pub claimed_resources: Vec<String>,
    /// The same among the kinds.
    pub claimed_kinds: Vec<String>,
    /// Objects may have been stored under another schema than today's once this is more than 1.
    pub generation: i64,
    pub is_established: bool,
    pub names_are_accepted: bool,
    pub is_terminating: bool,
    /// It was deleted and waits for its objects to be.
    pub awaits_cleanup: bool,
    /// `spec.conversion`, when its strategy is `Webhook`.
    pub conversion_webhook: Option<Value>,
    pub(super) versions: Vec<Version>,
    /// Position of the storage version.
    storage: usize,
    stored_head: String,
    /// The definition as JSON, shared with whoever has it.
    source: Bytes,
}

/// One version of a definition.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) name: String,
    is_served: bool,
    /// What users of a deprecated version are told.
    pub(super) deprecation: Option<String>,
    pub(super) has_status: bool,
    pub(super) scale: Option<Scale>,
    selectable_fields: Vec<SelectableField>,
    pub(super) compiled: OnceLock<Compiled>,
}

/// Where the parts of a Scale are in an object, as steps.
#[derive(Clone, Debug)]
pub struct Scale {
    /// As written: `.spec.replicas`.
    pub spec_replicas_path: String,
    pub status_replicas_path: String,
    pub label_selector_path: Option<String>,
}

impl Definition {
    /// From the JSON of a stored definition; `None` when it has no version to store objects in.
    pub fn parse(source: Bytes) -> Option<Arc<Self>> {
        let object: Value = Value::from_json(&source).ok()?;
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
        let texts = |pointer: &str| -> Vec<String> {
            let list = object.pointer(pointer).and_then(Value::as_array);
            list.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        let is_true = |condition: &str| {
            let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
            conditions.into_iter().flatten().any(|c| c["type"] == condition && c["status"] == "True")
        };
        let claimed = |names: &[&str]| -> Vec<String> {
            let names = names.iter().map(|name| text(&format!("/status/acceptedNames/{name}")));
            names.filter(|name| !name.is_empty()).collect()
        };
        let short_names = texts("/status/acceptedNames/shortNames");
        let versions = object.pointer("/spec/versions").and_then(Value::as_array)?;
        let storage = versions.iter().position(|v| v["storage"] == true)?;
        let (group, kind) = (text("/spec/group"), text("/status/acceptedNames/kind"));
        let kind = if kind.is_empty() { text("/spec/names/kind") } else { kind };
        let list_kind = text("/status/acceptedNames/listKind");
        Some(Arc::new(Self {
            name: meta::name(&object).to_owned(),
            uid: meta::uid(&object).to_owned(),
            list_kind: if list_kind.is_empty() { format!("{kind}List") } else { list_kind },
            plural: text("/spec/names/plural"),
            singular: text("/status/acceptedNames/singular"),
            claimed_resources: [claimed(&["plural", "singular"]), short_names.clone()].concat(),
            claimed_kinds: claimed(&["kind", "listKind"]),
            short_names,
            categories: texts("/status/acceptedNames/categories"),
            namespaced: text("/spec/scope") == "Namespaced",
            generation: object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0),
            is_established: is_true("Established"),
            names_are_accepted: is_true("NamesAccepted"),
            is_terminating: is_true("Terminating"),
            awaits_cleanup: conditions::awaits_cleanup(&object),
            conversion_webhook: object
                .pointer("/spec/conversion")
                .filter(|conversion| conversion["strategy"] == "Webhook")
                .cloned(),
            versions: versions.iter().map(|version| Version::new(version, &group, &kind)).collect(),
            stored_head: format!(
                "{{\"kind\":\"{kind}\",\"apiVersion\":\"{group}/{}\",",
                versions[storage].get("name").and_then(Value::as_str).unwrap_or("")
            ),
            storage,
            source,
            group,
            kind,
        }))
    }

    /// Clients may use its objects.
    pub fn is_served(&self) -> bool {
        self.is_established || self.names_are_accepted
    }

    /// Keys of its objects begin with this, below `/registry/`.
    pub fn storage_prefix(&self) -> String {
        format!("{}/{}", self.group, self.plural)
    }

    /// The `openAPIV3Schema` of a version, null when it has none.
    pub fn schema_of(&self, version: &str) -> Value {
        let mut object: Value = Value::from_json(&self.source).unwrap_or_default();
        let versions = object.pointer_mut("/spec/versions").and_then(Value::as_array_mut);
        let found = versions.into_iter().flatten().find(|v| v["name"] == version);
        found.and_then(|v| v.pointer_mut("/schema/openAPIV3Schema").map(Value::take)).unwrap_or_default()
    }

    /// The `apiVersion` of every version, and where the replicas are in those that have a scale.
    pub fn replicas_paths(&self) -> impl Iterator<Item = (String, Option<&str>)> {
        self.versions.iter().map(|version| {
            let path = version.scale.as_ref().map(|scale| scale.spec_replicas_path.as_str());
            (format!("{}/{}", self.group, version.name), path)
        })
    }

    pub(super) fn version_object(&self, index: usize) -> Value {
        let mut object: Value = Value::from_json(&self.source).unwrap_or_default();
        object.pointer_mut(&format!("/spec/versions/{index}")).map(Value::take).unwrap_or_default()
    }

    /// How stored objects begin.
    pub(super) fn stored_head(&self) -> &str {
        &self.stored_head
    }

    pub(super) fn storage_index(&self) -> usize {
        self.storage
    }

    /// Its versions as kinds: those that are served.
    pub fn kinds(self: &Arc<Self>) -> Vec<Arc<Kind>> {
        let served = self.versions.iter().enumerate().filter(|(_, version)| version.is_served);
        served.map(|(index, _)| Arc::new(self.kind_of(index))).collect()
    }

    /// The kind in whose form objects are stored, served or not. It has the selectable fields of all versions, because the
    /// cache reads them from stored objects.
    pub fn storage_kind(self: &Arc<Self>) -> Arc<Kind> {
        let mut kind = self.kind_of(self.storage);
        for field in self.versions.iter().flat_map(|version| &version.selectable_fields) {
            if !kind.selectable_fields.iter().any(|known| known.path == field.path) {
                kind.selectable_fields.push(field.clone());
            }
        }
        Arc::new(kind)
    }

    /// The kind of any version, served or not.
    pub fn version_kind(self: &Arc<Self>, version: &str) -> Option<Kind> {
        let index = self.versions.iter().position(|v| v.name == version)?;
        Some(self.kind_of(index))
    }

    fn kind_of(self: &Arc<Self>, index: usize) -> Kind {
        let version = &self.versions[index];
        let own = |text: &str| Str::Owned(text.to_owned());
        let own_all = |list: &[String]| list.iter().map(|text| own(text)).collect();
        Kind {
            group: own(&self.group),
            version: own(&version.name),
            kind: own(&self.kind),
            resource: own(&self.plural),
            singular: own(&self.singular),
            namespaced: self.namespaced,
            verbs: VERBS.into_iter().map(Str::Borrowed).collect(),
            short_names: own_all(&self.short_names),
            categories: own_all(&self.categories),
            storage_prefix: self.storage_prefix().into(),
            storage_version: format!("{}/{}", self.group, self.versions[self.storage].name).into(),
            storage_version_hash: storage_version_hash(&self.group, &self.versions[self.storage].name, &self.kind)
                .into(),
            type_name: Str::Borrowed(""),
            schema: SchemaRef::Custom(CustomVersion::new(Arc::clone(self), index)),
            type_id: ROOT,
            subresources: self.subresources(version),
            selectable_fields: version.selectable_fields.clone(),
            rules: rules(version.has_status),
            conversion: None,
            strategy: &STRATEGY,
        }
    }

    fn subresources(&self, version: &Version) -> Vec<Subresource> {
        let verbs = || STATUS_VERBS.into_iter().map(Str::Borrowed).collect();
        let mut out = Vec::new();
        if version.has_status {
            out.push(Subresource {
                name: "status".into(),
                group: self.group.clone().into(),
                version: version.name.clone().into(),
                kind: self.kind.clone().into(),
                verbs: verbs(),
                type_name: Str::Borrowed(""),
                type_id: ROOT,
            });
        }
        if let Some(type_id) = Schema::builtin().type_id(SCALE_TYPE).filter(|_| version.scale.is_some()) {
            out.push(Subresource {
                name: "scale".into(),
                group: "autoscaling".into(),
                version: "v1".into(),
                kind: "Scale".into(),
                verbs: verbs(),
                type_name: SCALE_TYPE.into(),
                type_id,
            });
        }
        out
    }
}

impl Version {
    fn new(version: &Value, group: &str, kind: &str) -> Self {
        let text = |pointer: &str| version.pointer(pointer).and_then(Value::as_str);
        let name = text("/name").unwrap_or("").to_owned();
        let deprecation = (version["deprecated"] == true).then(|| {
            text("/deprecationWarning").map_or_else(|| format!("{group}/{name} {kind} is deprecated"), str::to_owned)
        });
        let scale = version.pointer("/subresources/scale").filter(|scale| scale.is_object()).map(|scale| {
            let path = |field: &str| scale.get(field).and_then(Value::as_str).map(str::to_owned);
            Scale {
                spec_replicas_path: path("specReplicasPath").unwrap_or_default(),
                status_replicas_path: path("statusReplicasPath").unwrap_or_default(),
                label_selector_path: path("labelSelectorPath").filter(|path| !path.is_empty()),
            }
        });
        let fields = version.get("selectableFields").and_then(Value::as_array).into_iter().flatten();
        Self {
            is_served: version["served"] == true,
            deprecation,
            has_status: version.pointer("/subresources/status").is_some_and(Value::is_object),
            scale,
            selectable_fields: fields.filter_map(|f| selectable(f.get("jsonPath")?.as_str()?)).collect(),
            compiled: OnceLock::new(),
            name,
        }
    }
}

/// `.spec.color` is the label `spec.color`.
fn selectable(path: &str) -> Option<SelectableField> {
    let label = path.strip_prefix('.')?;
    let path = label.split('.').map(|step| Str::Owned(step.to_owned())).collect();
    Some(SelectableField { label: label.to_owned().into(), path, zero: "", fallback: None })
}

fn rules(has_status: bool) -> WriteRules {
    let status = || if has_status { vec![Str::Borrowed("status")] } else { Vec::new() };
    WriteRules {
        create_on_update: false,
        unconditional_update: false,
        clears_status_on_create: has_status,
        keeps_status_on_update: has_status,
        generation: Generation::AllButMetadata,
        gc_default: GcDefault::Background,
        delete_returns: DeleteReturns::Status,
        apply_resets: status(),
        status_apply_resets: vec![Str::Borrowed("spec")],
        status_update_restores: Vec::new(),
    }
}

/// Upstream's hash of what objects are stored as.
fn storage_version_hash(group: &str, version: &str, kind: &str) -> String {
    use base64::Engine as _;
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(format!("{group}/{version}/{kind}"));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

impl Scale {
    /// The value at a path of object fields: `.spec.replicas`.
    pub fn value<'v>(object: &'v Value, path: &str) -> Option<&'v Value> {
        path.trim_start_matches('.').split('.').try_fold(object, |value, step| value.get(step))
    }

    /// Sets the value at a path; objects on the way are made. `false`: something on the way is no object.
    pub fn set(object: &mut Value, path: &str, value: Value) -> bool {
        let mut steps: Vec<&str> = path.trim_start_matches('.').split('.').collect();
        let Some(last) = steps.pop() else { return false };
        let mut at = object;
        for step in steps {
            let Some(map) = at.as_object_mut() else { return false };
            at = map.entry(step).or_insert_with(|| Value::Object(Map::new()));
        }
        at.as_object_mut().map(|map| map.insert(last, value)).is_some()
    }
}
