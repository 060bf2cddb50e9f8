//! AdmissionReview: what a hook is told, and what its answer means.

use api::json;
use api::{Status, Value};
use base64::Engine as _;

use super::Attributes;
use super::hook::ReviewVersion;
use crate::attributes::UserInfo;
use crate::verbs::{DeleteOptions, Request};

const GROUP: &str = "admission.k8s.io";

impl ReviewVersion {
    fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1Beta1 => "v1beta1",
        }
    }
}

/// Group, version and kind or resource.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub name: &'a str,
}

impl Named<'_> {
    fn kind(self) -> Value {
        json!({"group": self.group, "version": self.version, "kind": self.name})
    }

    fn resource(self) -> Value {
        json!({"group": self.group, "version": self.version, "resource": self.name})
    }
}

/// The request of a review. `kind` and `resource` are those the hook asked for, whose version the objects are in.
pub(super) fn request(
    uid: &str,
    version: ReviewVersion,
    attributes: &Attributes<'_>,
    (kind, resource): (Named<'_>, Named<'_>),
    object: &Value,
    old: &Value,
) -> Value {
    let mut request = describe(attributes, (kind, resource));
    let mut put = |field: &str, value: Value| request[field] = value;
    put("uid", uid.into());
    put("object", object.clone());
    put("oldObject", old.clone());
    json!({"kind": "AdmissionReview", "apiVersion": format!("{GROUP}/{}", version.name()), "request": request})
}

/// An AdmissionRequest without the objects, and without an identity.
pub(super) fn describe(attributes: &Attributes<'_>, (kind, resource): (Named<'_>, Named<'_>)) -> Value {
    let mut request = json!({"uid": "", "kind": kind.kind(), "resource": resource.resource()});
    let sub = attributes.subresource;
    let mut put = |field: &str, value: Value| request[field] = value;
    if !sub.is_empty() {
        put("subResource", sub.into());
    }
    put("requestKind", attributes.object_kind().kind());
    put("requestResource", attributes.resource().resource());
    if !sub.is_empty() {
        put("requestSubResource", sub.into());
    }
    for (field, text) in [("name", &attributes.name), ("namespace", &attributes.namespace)] {
        if !text.is_empty() {
            put(field, text.as_str().into());
        }
    }
    put("operation", attributes.operation.name().into());
    put("userInfo", user_info(attributes.user));
    put("object", Value::Null);
    put("oldObject", Value::Null);
    put("dryRun", attributes.dry_run.into());
    put("options", attributes.options.clone());
    request
}

fn user_info(user: &UserInfo) -> Value {
    let mut info = api::Map::new();
    let mut put = |field: &str, value: Value, present: bool| {
        if present {
            info.insert(field, value);
        }
    };
    put("username", user.name.as_str().into(), !user.name.is_empty());
    put("uid", user.uid.as_str().into(), !user.uid.is_empty());
    put("groups", json!(user.groups), !user.groups.is_empty());
    put("extra", json!(user.extra), !user.extra.is_empty());
    info.into()
}

/// What a hook decided.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub allowed: bool,
    /// A JSON patch; empty for none.
    pub patch: Vec<u8>,
    pub patch_type: String,
    pub status: Option<Status>,
    pub warnings: Vec<String>,
    pub audit_annotations: Vec<(String, String)>,
}

/// Why a body is no answer.
#[derive(Debug)]
pub(super) enum Bad {
    /// It cannot be read: the call itself failed.
    Unreadable(String),
    /// It says what it may not say.
    Invalid(String),
}

/// Reads and checks the body of a hook's response.
pub(super) fn answer(body: &[u8], uid: &str, version: ReviewVersion, mutating: bool) -> Result<Answer, Bad> {
    let review: Value = Value::from_json(body).map_err(|_| {
        let error = api::gojson::parse(body).err().unwrap_or_else(|| "invalid JSON".into());
        Bad::Unreadable(format!("couldn't get version/kind; json parse error: {error}"))
    })?;
    if !review.is_object() {
        let what = api::gojson::type_name(&review);
        return Err(Bad::Unreadable(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {what} into Go value of type struct {{ \
             APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
        )));
    }
    let response = &review["response"];
    if response.is_null() {
        return Err(Bad::Invalid("webhook response was absent".into()));
    }
    check_types(response)?;
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    if version == ReviewVersion::V1 {
        check_v1(&review, uid)?;
    }
    let encoded = text(&response["patch"]);
    let patch = base64::prelude::BASE64_STANDARD.decode(&encoded).map_err(|error| {
        let at = match error {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            _ => encoded.len(),
        };
        Bad::Unreadable(format!("illegal base64 data at input byte {at}"))
    })?;
    let patch_type = response["patchType"].as_str();
    let patch_type = match version {
        ReviewVersion::V1 => check_patch(&patch, patch_type, mutating)?,
        // The old version never checked; a patch can only be a JSON patch.
        ReviewVersion::V1Beta1 => "JSONPatch",
    };
    let status = match &response["status"] {
        Value::Null => None,
        status => Some(api::value::from_value(status.clone()).map_err(|error| Bad::Unreadable(error.to_string()))?),
    };
    Ok(Answer {
        allowed: response["allowed"].as_bool().unwrap_or(false),
        patch: if mutating { patch } else { Vec::new() },
        patch_type: patch_type.to_owned(),
        status,
        warnings: response["warnings"].as_array().into_iter().flatten().map(text).collect(),
        audit_annotations: response["auditAnnotations"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.to_string(), text(value)))
            .collect(),
    })
}

/// Go refuses fields of another type than declared.
fn check_types(response: &Value) -> Result<(), Bad> {
    type Fits = fn(&Value) -> bool;
    const FIELDS: [(&str, &str, Fits); 6] = [
        ("uid", "types.UID", Value::is_string),
        ("allowed", "bool", Value::is_boolean),
        ("patch", "[]uint8", Value::is_string),
        ("patchType", "v1.PatchType", Value::is_string),
        ("auditAnnotations", "map[string]string", Value::is_object),
        ("warnings", "[]string", Value::is_array),
    ];
    for (field, go_type, fits) in FIELDS {
        let value = &response[field];
        if !value.is_null() && !fits(value) {
            let what = api::gojson::type_name(value);
            return Err(Bad::Unreadable(format!(
                "json: cannot unmarshal {what} into Go struct field AdmissionReview.response.{field} of type {go_type}"
            )));
        }
    }
    Ok(())
}

fn check_v1(review: &Value, uid: &str) -> Result<(), Bad> {
    let got = review["response"]["uid"].as_str().unwrap_or("");
    if got != uid {
        return Err(Bad::Invalid(format!("expected response.uid={uid:?}, got {got:?}")));
    }
    let (api_version, kind) = (review["apiVersion"].as_str().unwrap_or(""), review["kind"].as_str().unwrap_or(""));
    if (api_version, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        return Err(Bad::Invalid(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {group}/{version}, Kind={kind}"
        )));
    }
    Ok(())
}

fn check_patch<'t>(patch: &[u8], patch_type: Option<&'t str>, mutating: bool) -> Result<&'t str, Bad> {
    let refuse = |text: &str| Err(Bad::Invalid(text.to_owned()));
    match (mutating, patch.is_empty(), patch_type) {
        (false, false, _) => refuse("validating webhook may not return response.patch"),
        (false, true, Some(_)) => refuse("validating webhook may not return response.patchType"),
        (true, false, None) => refuse("webhook returned response.patch but not response.patchType"),
        (true, true, Some(_)) => refuse("webhook returned response.patchType but not response.patch"),
        (true, false, Some("")) => refuse("webhook returned invalid response.patchType of \"\""),
        (_, _, patch_type) => Ok(patch_type.unwrap_or("")),
    }
}

/// The refusal a client gets: the hook's own status, with a message that says who refused.
pub(super) fn denial(hook: &str, status: Option<Status>) -> Status {
    let mut status = status.unwrap_or_else(|| Status::bad_request("").without_reason());
    let denied = format!("admission webhook {hook:?} denied the request");
    status.message = match (status.message.as_str(), status.reason.as_str()) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    status.code = status.code.max(400);
    if status.status.is_empty() || status.status == "Success" {
        status.status = "Failure".into();
    }
    status
}

/// The options that a verb was called with, as hooks see them.
pub(super) fn write_options(request: &Request, creates: bool) -> Value {
    let kind = if creates { "CreateOptions" } else { "UpdateOptions" };
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    let query = &request.query;
    let dry_run: Vec<&str> = query.all("dryRun").collect();
    if !dry_run.is_empty() {
        options["dryRun"] = json!(dry_run);
    }
    for field in ["fieldManager", "fieldValidation"] {
        if !query.text(field).is_empty() {
            options[field] = query.text(field).into();
        }
    }
    options
}

pub(super) fn delete_options(delete: &DeleteOptions) -> Value {
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
    if let Some(seconds) = delete.grace_period_seconds {
        options["gracePeriodSeconds"] = seconds.into();
    }
    let (uid, version) = (&delete.precondition_uid, &delete.precondition_resource_version);
    for (field, value) in [("uid", uid), ("resourceVersion", version)] {
        if let Some(value) = value {
            options["preconditions"][field] = value.as_str().into();
        }
    }
    if let Some(orphan) = delete.orphan_dependents {
        options["orphanDependents"] = orphan.into();
    }
    if let Some(policy) = &delete.propagation_policy {
        options["propagationPolicy"] = policy.as_str().into();
    }
    if delete.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(response: Value, mutating: bool) -> Result<bool, String> {
        let body = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
        match answer(body.to_string().as_bytes(), "u", ReviewVersion::V1, mutating) {
            Ok(answer) => Ok(answer.allowed),
            Err(Bad::Unreadable(text) | Bad::Invalid(text)) => Err(text),
        }
    }

    #[test]
    fn answers_are_checked_as_upstream_does() {
        assert_eq!(check(json!({"uid": "u", "allowed": true}), true), Ok(true));
        assert_eq!(check(json!({"uid": "u"}), false), Ok(false));
        assert_eq!(check(json!({"uid": "x"}), false), Err("expected response.uid=\"u\", got \"x\"".into()));
        assert_eq!(check(Value::Null, false), Err("webhook response was absent".into()));
        let patch = |patch_type: Value| json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": patch_type});
        assert_eq!(check(patch("JSONPatch".into()), true), Ok(true));
        let error = "webhook returned response.patch but not response.patchType";
        assert_eq!(check(patch(Value::Null), true), Err(error.into()));
        assert_eq!(check(patch(Value::Null), false), Err("validating webhook may not return response.patch".into()));
        let error = "json: cannot unmarshal string into Go struct field AdmissionReview.response.allowed of type bool";
        assert_eq!(check(json!({"uid": "u", "allowed": "yes"}), false), Err(error.into()));
    }

    #[test]
    fn what_is_no_review_is_not_read() {
        let read = |body: &str| match answer(body.as_bytes(), "u", ReviewVersion::V1, true) {
            Err(Bad::Unreadable(text) | Bad::Invalid(text)) => text,
            Ok(_) => panic!("{body} is no answer"),
        };
        let error =
            "couldn't get version/kind; json parse error: invalid character 'o' in literal null (expecting 'u')";
        assert_eq!(read("no"), error);
        let error = "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind=";
        assert_eq!(read(r#"{"response": {"uid": "u"}}"#), error);
    }

    #[test]
    fn a_denial_carries_the_hooks_status() {
        let status = |value: Value| Some(api::value::from_value(value).unwrap());
        let denied = denial("w", status(json!({"code": 403, "message": "no", "reason": "Forbidden"})));
        assert_eq!((denied.code, denied.message.as_str()), (403, "admission webhook \"w\" denied the request: no"));
        assert_eq!((denied.status.as_str(), denied.reason.as_str()), ("Failure", "Forbidden"));
        let denied = denial("w", None);
        let text = "admission webhook \"w\" denied the request without explanation";
        assert_eq!((denied.code, denied.message.as_str(), denied.reason.as_str()), (400, text, ""));
        let denied = denial("w", status(json!({"code": 200, "reason": "because"})));
        assert_eq!(
            (denied.code, denied.message.as_str()),
            (400, "admission webhook \"w\" denied the request: because")
        );
    }
}
