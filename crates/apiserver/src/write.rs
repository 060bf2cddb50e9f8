//! The steps that every write shares: decoding, defaulting, admission, metadata, validation, encoding.

use std::collections::HashSet;

use ::bytes::Bytes;
use api::codec::{self, FieldValidation};
use api::status::GroupResource;
use api::strategy::Context;
use api::{Cursor, ErrorList, Kind, Map, Status, Value, defaults, meta};
use jiff::Timestamp;
use store::Revision;

use crate::gateway::Gateway;
use crate::storage::{ObjectBytes, ObjectKey, REGISTRY_PREFIX};
use crate::verbs::{Request, apply, as_sent};

/// What one write knows about its moment: fixed at the start, so that all fields of one object agree.
#[derive(Debug)]
pub(crate) struct Moment {
    /// RFC 3339 with seconds and `Z`.
    pub now: String,
    pub timestamp: Timestamp,
    pub uid: String,
}

impl Moment {
    pub(crate) fn now() -> Self {
        let timestamp = Timestamp::now();
        Self { now: rfc3339(timestamp), timestamp, uid: uuid::Uuid::new_v4().to_string() }
    }

    pub(crate) fn context<'a>(&'a self, request: &'a Request) -> Context<'a> {
        Context {
            now: &self.now,
            user: &request.user.name,
            groups: &request.user.groups,
            extra: &request.user.extra,
            uid: &self.uid,
            user_uid: &request.user.uid,
            sent: &request.body,
        }
    }
}

/// A time as objects carry it.
pub(crate) fn rfc3339(timestamp: Timestamp) -> String {
    timestamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Media types of request bodies that hold an object.
const OBJECT_MEDIA_TYPES: [&str; 3] = ["application/json", "application/yaml", codec::protobuf::MEDIA_TYPE];

/// The format of a body by its media type; JSON when none is given, as upstream.
pub(crate) fn body_format(content_type: &str) -> Result<codec::Format, Status> {
    match content_type {
        "" | "application/json" => Ok(codec::Format::Json),
        "application/yaml" => Ok(codec::Format::Yaml),
        codec::protobuf::MEDIA_TYPE => Ok(codec::Format::Protobuf),
        _ => Err(Status::unsupported_media_type(&OBJECT_MEDIA_TYPES)),
    }
}

const FIELD_VALIDATIONS: &[&str] = &["", "Ignore", "Strict", "Warn"];

/// How strict the client wants decoding to be.
pub(crate) fn field_validation(request: &Request) -> Result<FieldValidation, Status> {
    let text = request.query.text("fieldValidation");
    FieldValidation::from_query(text).ok_or_else(|| {
        let mut errors = ErrorList::new();
        errors.not_supported(api::Path::new("fieldValidation"), text, FIELD_VALIDATIONS);
        options_error(request, &errors)
    })
}

/// An error in the query parameters of a write, under the name of the options object that upstream reads them into.
pub(crate) fn options_error(request: &Request, errors: &ErrorList) -> Status {
    Status::invalid("meta.k8s.io", request.options_kind(), "", errors)
}

/// Checks the query parameters that every write takes.
pub(crate) fn check_options(request: &Request) -> Result<(), Status> {
    let mut errors = ErrorList::new();
    let is_apply = request.content_type == apply::MEDIA_TYPE;
    if request.verb == "patch" && !is_apply && request.query.all("force").next().is_some() {
        errors.forbidden(api::Path::new("force"), "may not be specified for non-apply patch");
    }
    let manager = Value::from(request.query.text("fieldManager"));
    meta::field_manager(&Cursor::at(&manager, api::Path::new("fieldManager")), &mut errors);
    check_dry_run(&request.query.all("dryRun").collect::<Vec<_>>(), &mut errors);
    // By itself it is told where the body is decoded.
    let validation = request.query.text("fieldValidation");
    if !errors.is_empty() && FieldValidation::from_query(validation).is_none() {
        errors.not_supported(api::Path::new("fieldValidation"), validation, FIELD_VALIDATIONS);
    }
    if errors.is_empty() { Ok(()) } else { Err(options_error(request, &errors)) }
}

/// `All` or nothing.
pub(crate) fn check_dry_run(values: &[&str], errors: &mut ErrorList) {
    if values.iter().any(|value| *value != "All") {
        errors.not_supported(api::Path::new("dryRun"), values.to_vec(), &["All"]);
    }
}

/// Decodes the body as an object of the request's kind and applies defaults.
pub(crate) fn decode_body(request: &Request) -> Result<Value, Status> {
    let format = body_format(&request.content_type)?;
    let mut decoded = codec::decode(&request.body, format, request.kind.as_ref(), field_validation(request)?)?;
    if let Some(fault) = (request.kind.strategy.decode_fault)(&decoded.value) {
        let (kind, version) = (&request.kind.kind, &request.kind.version);
        let text = format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {fault}");
        return Err(Status::bad_request(text));
    }
    defaults::apply_at(request.kind.as_ref(), &mut decoded.value, &rfc3339(Timestamp::now()));
    decoded.warnings.into_iter().for_each(|warning| request.notes.push(warning));
    if let Some(trail) = request.notes.trail() {
        trail.request_object(&decoded.value);
    }
    Ok(decoded.value)
}

/// What upstream's storage says when an object is not the one that the writer means; `field` is `UID` or `ResourceVersion`.
pub(crate) fn failed_precondition(
    request: &Request,
    key: &ObjectKey,
    field: &str,
    wanted: &str,
    found: &str,
) -> String {
    let unmet = unmet_precondition(field, wanted, found);
    let key = key.to_string();
    // A dry run judges before the storage has put its prefix before the key.
    let prefix = REGISTRY_PREFIX.trim_end_matches('/');
    let key = key.strip_prefix(prefix).filter(|_| request.is_dry_run()).unwrap_or(&key);
    format!("StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {unmet}")
}

/// A precondition that does not hold, in the words of those who look at it themselves.
pub(crate) fn unmet_precondition(field: &str, wanted: &str, found: &str) -> String {
    format!("Precondition failed: {field} in precondition: {wanted}, {field} in object meta: {found}")
}

/// How far a write has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Sent,
    /// Mutating admission has changed what it wanted to.
    Admitted,
}

/// Equal owner references are kept once; the client is told. What a patch makes is only looked at once admitted.
pub(crate) fn deduplicate_owners(request: &Request, stage: Stage, object: &mut Value, warnings: &mut Vec<String>) {
    if stage == Stage::Sent && request.verb == "patch" {
        return;
    }
    let Some(owners) = object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut) else { return };
    if owners.len() < 2 {
        return;
    }
    let mut repeated = Vec::new();
    let mut texts = HashSet::new();
    owners.retain(|owner| {
        // Decoded references have their fields in one order.
        let is_new = texts.insert(owner.to_string());
        if !is_new {
            repeated.push(owner["uid"].as_str().unwrap_or("").to_owned());
        }
        is_new
    });
    if !repeated.is_empty() {
        let when = match stage {
            Stage::Sent => "",
            Stage::Admitted => " after mutating admission happens",
        };
        warnings.push(format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may \
             reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            repeated.join(", ")
        ));
    }
}

/// The object's namespace must be that of the request; an empty one is filled in.
pub(crate) fn settle_namespace(request: &Request, object: &mut Value) -> Result<(), Status> {
    let named = meta::namespace(object);
    if named == request.namespace {
        return Ok(());
    }
    if named.is_empty() || !request.kind.namespaced {
        if request.kind.namespaced {
            set_metadata(object, "namespace", request.namespace.clone().into());
        } else {
            set_metadata(object, "namespace", Value::Null);
        }
        return Ok(());
    }
    Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"))
}

/// The object's name must be that of the URL.
pub(crate) fn check_name(object: &Value, wanted: &str) -> Result<(), Status> {
    let name = meta::name(object);
    if name == wanted {
        return Ok(());
    }
    Err(Status::bad_request(if name.is_empty() {
        format!("the name of the object ({wanted} based on URL) was undeterminable: name must be provided")
    } else {
        format!("the name of the object ({name}) does not match the name on the URL ({wanted})")
    }))
}

/// The fields of an object's metadata; an object without any gets an empty one.
pub(crate) fn metadata_mut(object: &mut Value) -> &mut Map {
    if !object.get("metadata").is_some_and(Value::is_object) {
        object["metadata"] = Value::Object(Map::new());
    }
    match &mut object["metadata"] {
        Value::Object(map) => map,
        _ => unreachable!("metadata was just made an object"),
    }
}

/// Sets a field of metadata; `Null` removes it.
pub(crate) fn set_metadata(object: &mut Value, field: &str, value: Value) {
    let metadata = metadata_mut(object);
    if value.is_null() {
        metadata.remove(field);
    } else {
        metadata.insert(field, value);
    }
}

/// 422 with all errors, if there are any.
pub(crate) fn reject_invalid(kind: &Kind, name: &str, errors: &ErrorList) -> Result<(), Status> {
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(kind.stored_group(), &kind.kind, name, errors)) }
}

/// 422 for an object that is not of the kind it should be: it is named as it names itself.
pub(crate) fn invalid_as_it_says(object: &Value, errors: &ErrorList) -> Status {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or("");
    let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
    Status::invalid(group, text("kind"), meta::name(object), errors)
}

/// Everything that is wrong with a new object, after `errors` that are known already.
pub(crate) fn validate_create(kind: &Kind, object: &Value, mut errors: ErrorList) -> Result<(), Status> {
    let cursor = Cursor::root(object);
    if let Some(custom) = kind.custom() {
        if !custom.validate_type(&cursor, &mut errors) {
            return Err(invalid_as_it_says(object, &errors));
        }
        meta::validate_create(kind, &cursor, &mut errors);
        custom.validate(object, &mut errors);
        return reject_invalid(kind, meta::name(object), &errors);
    }
    meta::validate_new(kind, &cursor, &mut errors);
    reject_invalid(kind, meta::name(object), &as_sent::without_empty_lists(errors))
}

/// An object as it is stored: in storage version and canonical form, without a resourceVersion.
pub(crate) fn encode_for_storage(kind: &Kind, object: Value) -> Bytes {
    let mut stored = match (kind.conversion, kind.custom()) {
        (Some(conversion), _) => (conversion.to_storage)(object),
        (None, Some(custom)) => custom.to_storage(object),
        (None, None) => object,
    };
    set_metadata(&mut stored, "resourceVersion", Value::Null);
    codec::encode(storage_kind(kind), &stored)
}

/// A stored form in the version of `kind`.
pub(crate) fn from_storage(kind: &Kind, stored: Value) -> Value {
    match (kind.conversion, kind.custom()) {
        (Some(conversion), _) => (conversion.from_storage)(stored),
        (None, Some(custom)) => custom.from_storage(stored),
        (None, None) => stored,
    }
}

/// An object in the version of `from` in that of `to`, another version of the same resource.
pub(crate) fn convert(object: Value, from: &Kind, to: &Kind) -> Value {
    if (&from.group, &from.version) == (&to.group, &to.version) {
        return object;
    }
    let stored = match (from.conversion, from.custom()) {
        (Some(conversion), _) => (conversion.to_storage)(object),
        (None, Some(custom)) => custom.to_storage(object),
        (None, None) => object,
    };
    from_storage(to, stored)
}

/// The kind in whose form `kind` is stored.
fn storage_kind(kind: &Kind) -> &Kind {
    api::kinds::builtin().storage_kind(kind).map_or(kind, |storage| storage.as_ref())
}

/// What a client gets back for a version just written (or, in a dry run, for one that would have been).
pub(crate) fn written(stored: &Bytes, revision: Revision) -> Result<ObjectBytes, Status> {
    ObjectBytes::from_stored(stored, revision).map_err(crate::error::from_read)
}

/// A stored value as an object in the version of the request, with its resourceVersion.
pub(crate) fn decode_stored(kind: &Kind, value: &Bytes, revision: Revision) -> Result<Value, Status> {
    let object = written(value, revision)?.parse().map_err(crate::error::from_read)?;
    Ok(from_storage(kind, object))
}

/// `labels:{app:web}`-like warnings of the strategy, after those of decoding. `old` is `None` on create.
pub(crate) fn warnings(request: &Request, new: &Value, old: Option<&Value>, out: &mut Vec<String>) {
    let (kind, old) = (&request.kind, old.map(Cursor::root));
    match (request.subresource.as_str(), &old) {
        ("status", Some(_)) => return (kind.strategy.status_warnings)(&Cursor::root(new), out),
        (subresource, Some(_)) if !subresource.is_empty() => return,
        _ => (kind.strategy.warnings)(&Cursor::root(new), old.as_ref(), out),
    }
    if kind.custom().is_some() {
        meta::finalizer_warnings(&Cursor::root(new), old.as_ref(), out);
    }
}

/// The resource as errors name it.
pub(crate) fn group_resource(request: &Request) -> GroupResource<'_> {
    request.kind.as_ref().into()
}

impl Gateway {
    /// Events expire; nothing else does.
    pub(crate) fn expires(&self, kind: &Kind) -> bool {
        kind.storage_prefix == "events"
    }
}
