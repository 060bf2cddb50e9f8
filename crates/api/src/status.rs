//! The `Status` object: what every refused or failed request is answered with, in upstream's words.

use serde::{Deserialize, Serialize};

use crate::field::go_quote;
use crate::{ErrorList, Kind};

/// A `meta/v1` Status. Failures are built by the constructors below and nowhere else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    #[serde(default = "kind_status")]
    pub kind: String,
    #[serde(default = "api_version_v1")]
    pub api_version: String,
    #[serde(default)]
    pub metadata: ListMeta,
    /// `Success` or `Failure`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// HTTP status code.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub code: u16,
}

/// The `metadata` of a Status; `continue` is only set on an expired list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ListMeta {
    #[serde(default, rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_token: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The resource's plural name, or the Kind for `Invalid`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    pub retry_after_seconds: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cause {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// Group and plural name of a resource, as errors name it.
#[derive(Clone, Copy, Debug)]
pub struct GroupResource<'a> {
    pub group: &'a str,
    pub resource: &'a str,
}

impl<'a> From<&'a Kind> for GroupResource<'a> {
    fn from(kind: &'a Kind) -> Self {
        Self { group: &kind.group, resource: &kind.resource }
    }
}

impl std::fmt::Display for GroupResource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.group.is_empty() { f.write_str(self.resource) } else { write!(f, "{}.{}", self.resource, self.group) }
    }
}

impl Status {
    fn failure(code: u16, reason: &str, message: impl Into<String>, details: Option<Details>) -> Self {
        Self {
            kind: kind_status(),
            api_version: api_version_v1(),
            metadata: ListMeta::default(),
            status: "Failure".into(),
            message: message.into(),
            reason: reason.into(),
            details,
            code,
        }
    }

    fn named(gr: GroupResource<'_>, name: &str) -> Details {
        Details { name: name.into(), group: gr.group.into(), kind: gr.resource.into(), ..Details::default() }
    }

    /// 200: what DELETE answers for most kinds.
    pub fn success(gr: GroupResource<'_>, name: &str, uid: &str) -> Self {
        let details = Details { uid: uid.into(), ..Self::named(gr, name) };
        Self { status: "Success".into(), code: 0, ..Self::failure(0, "", "", Some(details)) }
    }

    /// A bare success with a code (201 of pods/binding).
    pub fn success_code(code: u16) -> Self {
        Self { status: "Success".into(), ..Self::failure(code, "", "", None) }
    }

    pub fn not_found(gr: GroupResource<'_>, name: &str) -> Self {
        Self::failure(404, "NotFound", format!("{gr} {} not found", go_quote(name)), Some(Self::named(gr, name)))
    }

    /// Unknown resource of a known group, or unknown subresource.
    pub fn unknown_endpoint() -> Self {
        Self::failure(404, "NotFound", "the server could not find the requested resource", Some(Details::default()))
    }

    pub fn already_exists(gr: GroupResource<'_>, name: &str) -> Self {
        Self::failure(
            409,
            "AlreadyExists",
            format!("{gr} {} already exists", go_quote(name)),
            Some(Self::named(gr, name)),
        )
    }

    /// generateName ran out of tries.
    pub fn generate_name_conflict(gr: GroupResource<'_>, name: &str) -> Self {
        let details = Details { retry_after_seconds: 1, ..Self::named(gr, name) };
        let quoted = go_quote(name);
        let message =
            format!("{gr} {quoted} already exists, the server was not able to generate a unique name for the object");
        Self::failure(409, "AlreadyExists", message, Some(details))
    }

    pub fn conflict(gr: GroupResource<'_>, name: &str, error: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {gr} {}: {error}", go_quote(name));
        Self::failure(409, "Conflict", message, Some(Self::named(gr, name)))
    }

    /// The optimistic lock lost.
    pub fn modified(gr: GroupResource<'_>, name: &str) -> Self {
        let text = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(gr, name, text)
    }

    /// Server-side apply met fields that others own; one cause per field, no object named.
    pub fn apply_conflict(message: impl Into<String>, causes: Vec<Cause>) -> Self {
        Self::failure(409, "Conflict", message, Some(Details { causes, ..Details::default() }))
    }

    /// Field errors of one object; `group` and `kind` name the Kind, not the resource.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &ErrorList) -> Self {
        let causes = errors
            .iter()
            .map(|e| Cause { reason: e.error_type.cause_reason().into(), message: e.body(), field: e.path.to_string() })
            .collect();
        let details =
            Details { name: name.into(), group: group.into(), kind: kind.into(), causes, ..Details::default() };
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let message = format!("{qualified} {} is invalid: {}", go_quote(name), errors.aggregate_message());
        Self::failure(422, "Invalid", message, Some(details))
    }

    /// Refused by authorization or admission: `<gr> "<name>" is forbidden: <error>`; an empty name is left out.
    pub fn forbidden(gr: GroupResource<'_>, name: &str, error: &str) -> Self {
        let message = match (gr.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {error}"),
            (false, true) => format!("{gr} is forbidden: {error}"),
            (false, false) => format!("{gr} {} is forbidden: {error}", go_quote(name)),
        };
        Self::failure(403, "Forbidden", message, Some(Self::named(gr, name)))
    }

    pub fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized", None)
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message, None)
    }

    /// `action` as upstream names it (`create`, `update`, `delete`, …).
    pub fn method_not_supported(gr: GroupResource<'_>, action: &str) -> Self {
        let details = Details { group: gr.group.into(), kind: gr.resource.into(), ..Details::default() };
        let message = format!("{action} is not supported on resources of kind \"{gr}\"");
        Self::failure(405, "MethodNotAllowed", message, Some(details))
    }

    /// The router knows the path but not the method.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::failure(405, "MethodNotAllowed", message, Some(Details::default()))
    }

    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::failure(406, "NotAcceptable", message, None)
    }

    /// A form was asked for that the answer does not have.
    pub fn not_acceptable_form(message: &str) -> Self {
        Self::failure(406, "NotAcceptable", message.to_owned(), None)
    }

    /// The client asked for protobuf, which the object cannot be written in.
    pub fn not_a_protobuf_message() -> Self {
        let message = "object *unstructured.Unstructured does not implement the protobuf marshalling interface and \
                       cannot be encoded to a protobuf message";
        Self::failure(406, "NotAcceptable", message, None)
    }

    /// The router produces none of the media types that the client takes.
    pub fn no_representation(available: &[&str]) -> Self {
        let message = format!("406: Not Acceptable\n\nAvailable representations: {}", available.join(", "));
        Self::failure(406, "NotAcceptable", message, Some(Details::default()))
    }

    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::failure(415, "UnsupportedMediaType", message, None)
    }

    /// A body that is a patch in no form that there is.
    pub fn unsupported_patch_type() -> Self {
        Self::failure(415, "UnsupportedMediaType", "415: Unsupported Media Type", Some(Details::default()))
    }

    pub fn request_entity_too_large(limit_bytes: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit_bytes}");
        Self::failure(413, "RequestEntityTooLarge", message, None)
    }

    /// 413 with a sentence of its own.
    pub fn too_large(message: &str) -> Self {
        Self::failure(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"), None)
    }

    /// 422 without any detail: a JSON patch that does not apply.
    pub fn unprocessable() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::failure(422, "Invalid", message, Some(Details::default()))
    }

    /// 500 of an error that has no reason of its own.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::failure(500, "", message, None)
    }

    /// 410 for watches and continue tokens older than what is kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message, None)
    }

    /// A resourceVersion that this server has not seen yet.
    pub fn too_large_resource_version(wanted: i64, current: i64) -> Self {
        let cause = Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        };
        let details = Details { causes: vec![cause], retry_after_seconds: 1, ..Details::default() };
        let message = format!("Timeout: Too large resource version: {wanted}, current: {current}");
        Self::failure(504, "Timeout", message, Some(details))
    }

    pub fn timeout(message: &str) -> Self {
        Self::failure(504, "Timeout", format!("Timeout: {message}"), Some(Details::default()))
    }

    pub fn server_timeout(gr: GroupResource<'_>, operation: &str) -> Self {
        let details = Details {
            name: operation.into(),
            group: gr.group.into(),
            kind: gr.resource.into(),
            retry_after_seconds: 2,
            ..Details::default()
        };
        let message =
            format!("The {operation} operation against {gr} could not be completed at this time, please try again.");
        Self::failure(500, "ServerTimeout", message, Some(details))
    }

    pub fn internal(error: impl std::fmt::Display) -> Self {
        let cause = Cause { message: error.to_string(), ..Cause::default() };
        let details = Details { causes: vec![cause], ..Details::default() };
        Self::failure(500, "InternalError", format!("Internal error occurred: {error}"), Some(details))
    }

    pub fn too_many_requests(message: &str, retry_after_seconds: u32) -> Self {
        let details = Details { retry_after_seconds, ..Details::default() };
        Self::failure(429, "TooManyRequests", message, Some(details))
    }

    /// What client-go and the API server make of another server's answer that is no success. `of`: the resource and name that
    /// were asked for; `said` is the answer's text.
    pub fn of_response(code: u16, verb: &str, of: Option<(GroupResource<'_>, &str)>, said: &str) -> Self {
        let unless_silent =
            |text: &str| if ["", "unknown"].contains(&said) { text.to_owned() } else { said.to_owned() };
        let (reason, message) = match code {
            409 if verb == "POST" => ("AlreadyExists", "the server reported a conflict".to_owned()),
            409 => ("Conflict", "the server reported a conflict".into()),
            404 => ("NotFound", "the server could not find the requested resource".into()),
            400 => ("BadRequest", "the server rejected our request for an unknown reason".into()),
            401 => ("Unauthorized", "the server has asked for the client to provide credentials".into()),
            403 => ("Forbidden", said.into()),
            406 => {
                let silent = "the server was unable to respond with a content type that the client supports";
                ("NotAcceptable", unless_silent(silent))
            }
            415 => ("UnsupportedMediaType", said.into()),
            405 => ("MethodNotAllowed", "the server does not allow this method on the requested resource".into()),
            422 => ("Invalid", "the server rejected our request due to an error in our request".into()),
            503 => ("ServiceUnavailable", "the server is currently unable to handle the request".into()),
            504 => {
                let text = "the server was unable to return a response in the time allotted, but may still be processing the request";
                ("Timeout", text.into())
            }
            429 => {
                let text = "the server has received too many requests and has asked us to try again later";
                ("TooManyRequests", text.into())
            }
            500.. => {
                let said = crate::field::go_quote(said);
                ("InternalError", format!("an error on the server ({said}) has prevented the request from succeeding"))
            }
            _ => {
                let text =
                    format!("the server responded with the status code {code} but did not return more information");
                ("", text)
            }
        };
        let Some((gr, name)) = of else { return Self::failure(code, reason, message, Some(Details::default())) };
        let suffix = if name.is_empty() { String::new() } else { format!(" {name}") };
        let message = format!("{message} ({} {gr}{suffix})", verb.to_ascii_lowercase());
        Self::failure(code, reason, message, Some(Self::named(gr, name)))
    }

    /// The same status without a reason.
    pub fn without_reason(mut self) -> Self {
        self.reason.clear();
        self
    }

    pub fn service_unavailable(message: &str) -> Self {
        Self::failure(503, "ServiceUnavailable", message, None)
    }

    /// Adds a cause to the details, creating them if needed.
    pub fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        let cause = Cause { reason: reason.into(), message: message.into(), field: field.into() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} {})", self.message, self.code, self.reason)
    }
}

impl std::error::Error for Status {}

fn kind_status() -> String {
    "Status".into()
}
fn api_version_v1() -> String {
    "v1".into()
}
fn is_zero(n: &u16) -> bool {
    *n == 0
}
fn is_zero_u32(n: &u32) -> bool {
    *n == 0
}
