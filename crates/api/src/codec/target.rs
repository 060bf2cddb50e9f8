//! What a body should be, and whether what it says it is will do.

use crate::Value;

use super::Failure;
use crate::custom::CustomVersion;
use crate::kind::{Kind, Subresource, group_version};
use crate::kinds;
use crate::schema::{Schema, TypeId};

/// The type that a decoder must produce.
#[derive(Clone, Copy, Debug)]
pub struct Target<'t> {
    pub group: &'t str,
    pub version: &'t str,
    pub kind: &'t str,
    pub schema: &'t Schema,
    pub type_id: TypeId,
    /// The version of a definition that the objects are of; `None` for built-in types.
    pub custom: Option<&'t CustomVersion>,
    /// Objects of any group and version will do (DeleteOptions).
    any_group: bool,
}

/// Where upstream registers kinds; its errors name the place.
const SCHEME: &str = "pkg/api/legacyscheme/scheme.go:30";
const AGGREGATOR_SCHEME: &str = "k8s.io/kube-aggregator/pkg/apiserver/scheme/scheme.go:28";
const EXTENSIONS_SCHEME: &str = "k8s.io/apiextensions-apiserver/pkg/apiserver/apiserver.go:56";
const META_SCHEME: &str = "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27";

impl<'t> From<&'t Kind> for Target<'t> {
    fn from(kind: &'t Kind) -> Self {
        Self {
            group: &kind.group,
            version: &kind.version,
            kind: &kind.kind,
            schema: &kind.schema,
            type_id: kind.type_id,
            custom: kind.custom(),
            any_group: false,
        }
    }
}

/// Bodies of subresources are built-in types, whatever the resource.
impl<'t> From<&'t Subresource> for Target<'t> {
    fn from(sub: &'t Subresource) -> Self {
        Self {
            group: &sub.group,
            version: &sub.version,
            kind: &sub.kind,
            schema: Schema::builtin(),
            type_id: sub.type_id,
            custom: None,
            any_group: false,
        }
    }
}

impl<'t> Target<'t> {
    /// A built-in type by its definition name; `None` when there is no such type.
    pub fn builtin(group: &'t str, version: &'t str, kind: &'t str, type_name: &str) -> Option<Self> {
        let schema = Schema::builtin();
        Some(Self { group, version, kind, schema, type_id: schema.type_id(type_name)?, custom: None, any_group: false })
    }

    pub(super) fn delete_options() -> Target<'static> {
        let schema = Schema::builtin();
        let type_id = schema.type_id("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions").unwrap_or(TypeId(0));
        Target { group: "", version: "v1", kind: "DeleteOptions", schema, type_id, custom: None, any_group: true }
    }

    pub fn api_version(&self) -> String {
        group_version(self.group, self.version)
    }

    /// The common case, without allocation: both are given and right.
    pub(super) fn is_exactly(&self, api_version: &str, kind: &str) -> bool {
        kind == self.kind
            && match api_version.split_once('/') {
                Some((group, version)) => group == self.group && version == self.version && !group.is_empty(),
                None => self.group.is_empty() && api_version == self.version,
            }
    }

    /// Writes kind and apiVersion, which a client may leave out.
    pub(super) fn stamp(&self, value: &mut Value) {
        if let Some(object) = value.as_object_mut() {
            self.schema.set(self.type_id, object, "kind", Value::from(self.kind));
            self.schema.set(self.type_id, object, "apiVersion", Value::from(self.api_version()));
        }
    }

    /// Is an object that calls itself this acceptable? Empty parts mean "what was expected".
    pub(super) fn accept(&self, api_version: &str, kind: &str) -> Result<(), Failure> {
        let (group, version) = parse_group_version(api_version).map_err(Failure::Unrecognized)?;
        let kind = if kind.is_empty() { self.kind } else { kind };
        if self.any_group && kind == self.kind {
            return Ok(());
        }
        let (group, version) = match (group, version) {
            ("", "") => (self.group, self.version),
            (group, "") if group == self.group => (group, self.version),
            other => other,
        };
        if (group, version, kind) == (self.group, self.version, self.kind) {
            return Ok(());
        }
        let unfit = |text: String| Failure::Unfit { kind: kind.to_owned(), version: version.to_owned(), text };
        let api_version = group_version(group, version);
        if self.any_group || !is_registered(group, version, kind) {
            let scheme = self.scheme();
            return Err(unfit(format!(
                "no kind \"{kind}\" is registered for version \"{api_version}\" in scheme \"{scheme}\""
            )));
        }
        if group == self.group && kind == self.kind {
            let expected = self.api_version();
            let text = format!(
                "the API version in the data ({api_version}) does not match the expected API version ({expected})"
            );
            return Err(Failure::OtherVersion(text));
        }
        let to = if self.group.is_empty() { "core" } else { self.group.split('.').next().unwrap_or("") };
        Err(unfit(format!("converting ({version}.{kind}) to ({to}.{}): unknown conversion", self.kind)))
    }

    /// Objects of another version are refused, and of nothing else.
    pub(super) fn accept_version(&self, api_version: &str) -> Result<(), Failure> {
        parse_group_version(api_version).map_err(Failure::Unrecognized)?;
        let expected = self.api_version();
        if api_version.is_empty() || api_version == expected {
            return Ok(());
        }
        Err(Failure::OtherVersion(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({expected})"
        )))
    }

    /// An error about the content of an object that may be of this type.
    pub(super) fn unfit(&self, api_version: &str, kind: &str, text: String) -> Failure {
        let version = api_version.rsplit('/').next().unwrap_or("");
        Failure::Unfit {
            kind: if kind.is_empty() { self.kind } else { kind }.to_owned(),
            version: if version.is_empty() { self.version } else { version }.to_owned(),
            text,
        }
    }

    fn scheme(&self) -> &'static str {
        match self.group {
            _ if self.any_group => META_SCHEME,
            "apiregistration.k8s.io" => AGGREGATOR_SCHEME,
            "apiextensions.k8s.io" => EXTENSIONS_SCHEME,
            _ => SCHEME,
        }
    }
}

/// Kinds that belong to no group and are registered in every version of every one.
const OPTIONS: [&str; 7] =
    ["WatchEvent", "ListOptions", "GetOptions", "DeleteOptions", "CreateOptions", "UpdateOptions", "PatchOptions"];
/// Kinds that are registered beside those of the core group.
const UNVERSIONED: [&str; 6] = ["List", "Status", "APIVersions", "APIGroupList", "APIGroup", "APIResourceList"];

/// Kinds in versions that upstream can read and does not serve, by group and version.
const UNSERVED: [(&str, &str, &[&str]); 34] = [
    ("admissionregistration.k8s.io", "v1alpha1", &MUTATING_AND_VALIDATING_POLICIES),
    ("admissionregistration.k8s.io", "v1beta1", &MUTATING_AND_VALIDATING_POLICIES),
    ("admissionregistration.k8s.io", "v1beta1", &["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"]),
    ("apiextensions.k8s.io", "v1beta1", &["CustomResourceDefinition"]),
    ("apiregistration.k8s.io", "v1beta1", &["APIService"]),
    ("apps", "v1beta1", &["ControllerRevision", "Deployment", "DeploymentRollback", "Scale", "StatefulSet"]),
    ("apps", "v1beta2", &["ControllerRevision", "DaemonSet", "Deployment", "ReplicaSet", "Scale", "StatefulSet"]),
    ("authentication.k8s.io", "v1alpha1", &["SelfSubjectReview"]),
    ("authentication.k8s.io", "v1beta1", &["SelfSubjectReview", "TokenReview"]),
    ("authorization.k8s.io", "v1beta1", &["LocalSubjectAccessReview", "SelfSubjectAccessReview"]),
    ("authorization.k8s.io", "v1beta1", &["SelfSubjectRulesReview", "SubjectAccessReview"]),
    ("batch", "v1beta1", &["CronJob"]),
    ("certificates.k8s.io", "v1alpha1", &["ClusterTrustBundle"]),
    ("certificates.k8s.io", "v1beta1", &["CertificateSigningRequest", "ClusterTrustBundle", "PodCertificateRequest"]),
    ("coordination.k8s.io", "v1alpha2", &["LeaseCandidate"]),
    ("coordination.k8s.io", "v1beta1", &["Lease", "LeaseCandidate"]),
    ("discovery.k8s.io", "v1beta1", &["EndpointSlice"]),
    ("events.k8s.io", "v1beta1", &["Event"]),
    ("flowcontrol.apiserver.k8s.io", "v1beta1", &["FlowSchema", "PriorityLevelConfiguration"]),
    ("flowcontrol.apiserver.k8s.io", "v1beta2", &["FlowSchema", "PriorityLevelConfiguration"]),
    ("flowcontrol.apiserver.k8s.io", "v1beta3", &["FlowSchema", "PriorityLevelConfiguration"]),
    ("networking.k8s.io", "v1beta1", &["IPAddress", "Ingress", "IngressClass", "ServiceCIDR"]),
    ("node.k8s.io", "v1alpha1", &["RuntimeClass"]),
    ("node.k8s.io", "v1beta1", &["RuntimeClass"]),
    ("policy", "v1beta1", &["Eviction", "PodDisruptionBudget"]),
    ("rbac.authorization.k8s.io", "v1alpha1", &["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"]),
    ("rbac.authorization.k8s.io", "v1beta1", &["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"]),
    ("resource.k8s.io", "v1beta1", &["DeviceClass", "ResourceClaim", "ResourceClaimTemplate", "ResourceSlice"]),
    ("resource.k8s.io", "v1beta2", &["DeviceClass", "DeviceTaintRule", "ResourceClaim", "ResourceClaimTemplate"]),
    ("resource.k8s.io", "v1beta2", &["ResourceSlice"]),
    ("scheduling.k8s.io", "v1alpha2", &["PodGroup", "Workload"]),
    ("scheduling.k8s.io", "v1beta1", &["PriorityClass"]),
    ("storage.k8s.io", "v1alpha1", &["CSIStorageCapacity", "VolumeAttachment", "VolumeAttributesClass"]),
    (
        "storage.k8s.io",
        "v1beta1",
        &["CSIDriver", "CSINode", "CSIStorageCapacity", "StorageClass", "VolumeAttachment", "VolumeAttributesClass"],
    ),
];
const MUTATING_AND_VALIDATING_POLICIES: [&str; 4] = [
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

/// Does upstream know a type by this name, served or not?
fn is_registered(group: &str, version: &str, kind: &str) -> bool {
    let registry = kinds::builtin();
    let listed = kind.strip_suffix("List").and_then(|item| registry.by_kind(group, version, item));
    let is_versioned = registry.group(group).is_some_and(|group| group.versions.iter().any(|v| v.version == version));
    let is_unserved = UNSERVED.iter().any(|(g, v, kinds)| (*g, *v) == (group, version) && kinds.contains(&kind));
    registry.by_kind(group, version, kind).is_some()
        || is_unserved
        || listed.is_some_and(|item| item.has_verb("list"))
        || (is_versioned && OPTIONS.contains(&kind))
        || ((group, version) == ("", "v1") && UNVERSIONED.contains(&kind))
}

fn parse_group_version(text: &str) -> Result<(&str, &str), String> {
    if text.is_empty() || text == "/" {
        return Ok(("", ""));
    }
    match text.matches('/').count() {
        0 => Ok(("", text)),
        1 => Ok(text.split_once('/').unwrap_or(("", text))),
        _ => Err(format!("unexpected GroupVersion string: {text}")),
    }
}

/// apiVersion and kind of a well-formed document, as upstream looks for them before it decodes anything else.
pub(super) fn interpret(text: &str) -> Result<(String, String), Failure> {
    const TYPE_META: &str =
        r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
    let refuse = |what: &str, place: &str| {
        let text =
            format!("couldn't get version/kind; json parse error: json: cannot unmarshal {what} into Go {place}");
        Err(Failure::Unrecognized(text))
    };
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        // Only nesting beyond serde_json's limit gets here; the kind is then whatever was expected.
        Err(_) => return Ok((String::new(), String::new())),
    };
    let object = match &value {
        Value::Object(object) => object,
        Value::Null => return Ok((String::new(), String::new())),
        other => return refuse(crate::gojson::type_name(other), &format!("value of type {TYPE_META}")),
    };
    let mut found = [String::new(), String::new()];
    for (slot, field) in found.iter_mut().zip(["apiVersion", "kind"]) {
        match object.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::String(s)) => s.as_str().clone_into(slot),
            Some(other) => {
                return refuse(crate::gojson::type_name(other), &format!("struct field .{field} of type string"));
            }
        }
    }
    let [api_version, kind] = found;
    Ok((api_version, kind))
}
