//! PATCH: read, patch, and replace what was read; again when somebody else was faster.

use api::codec::{self, FieldValidation, Target};
use api::patch::{Patch, PatchType};
use api::{ErrorList, Path, Shape, Status, Value, defaults};

use super::update::{Replaced, replace};
use super::{Reply, Request, apply};
use crate::custom::conversion;
use crate::error::from_store;
use crate::gateway::Gateway;
use crate::ownership::{self, Ownership};
use crate::storage::ObjectKey;
use crate::write::{Moment, check_options, field_validation, group_resource};

/// Tries against other writers; upstream's number.
const RACES_MAX: usize = 5;

/// Media types that PATCH takes; of custom resources nobody knows a strategy.
const PATCH_MEDIA_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    STRATEGIC_MEDIA_TYPE,
    "application/apply-patch+yaml",
];
const STRATEGIC_MEDIA_TYPE: &str = "application/strategic-merge-patch+json";

pub(crate) async fn patch(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    if request.content_type == apply::MEDIA_TYPE {
        return apply::apply(gateway, request).await;
    }
    let patch = decode_patch(request)?;
    check_options(request)?;
    let key = ObjectKey::new(&request.kind, &request.namespace, &request.name);
    for _ in 0..RACES_MAX {
        let current = gateway.objects.get(&key).await.map_err(|e| from_store(&request.kind, "patch", e))?;
        let Some(current) = current else {
            return Err(Status::not_found(group_resource(request), &request.name));
        };
        let old = conversion::decode_stored(gateway, &request.kind, &current.value, current.mod_revision).await?;
        let object = patched_object(request, &patch, &old)?;
        match replace(gateway, request, &key, object, current, Ownership::Track).await? {
            Replaced::Done(reply) => return Ok(reply),
            Replaced::LostRace => {}
        }
    }
    Err(Status::modified(group_resource(request), &request.name))
}

/// The patch in the body, by its media type.
pub(super) fn decode_patch(request: &Request) -> Result<Patch, Status> {
    let is_scale = request.subresource == "scale";
    let takes = |media_type: &str| media_type != STRATEGIC_MEDIA_TYPE || request.kind.custom().is_none() || is_scale;
    let patch_type = PatchType::from_media_type(&request.content_type).ok_or_else(Status::unsupported_patch_type)?;
    if !takes(&request.content_type) {
        let taken: Vec<&str> = PATCH_MEDIA_TYPES.into_iter().filter(|media_type| takes(media_type)).collect();
        return Err(Status::unsupported_media_type(&taken));
    }
    let ignore = field_validation(request)? == codec::FieldValidation::Ignore;
    Patch::decode(patch_type, &request.body, ignore).map_err(|error| error.status())
}

/// The patched object, decoded as strictly as the client asked, with defaults.
fn patched_object(request: &Request, patch: &Patch, old: &Value) -> Result<Value, Status> {
    let kind = &request.kind;
    let mut object = patched(request, Target::from(kind.as_ref()), patch, old)?;
    apply::check_identity(request, &mut object)?;
    defaults::apply_at(kind.as_ref(), &mut object, &Moment::now().now);
    Ok(object)
}

/// The result of a patch as a decoded object of `target`. What does not decode is 422: the patch is at fault.
pub(super) fn patched(request: &Request, target: Target<'_>, patch: &Patch, old: &Value) -> Result<Value, Status> {
    let patched = patch.apply(old, target.schema, Shape::Ref(target.type_id)).map_err(|error| error.status())?;
    let refuse = |text: String| {
        let mut errors = ErrorList::new();
        errors.invalid(Path::new("patch"), patch.shown(&patched), text);
        Status::invalid("", "", "", &errors)
    };
    let normalized = codec::normalize(&patched.object, target).map_err(|error| refuse(error.message))?;
    let mut unknown = normalized.strict_errors;
    unknown.sort();
    let strict: Vec<String> = patch.strict_errors().iter().cloned().chain(unknown).collect();
    match field_validation(request)? {
        FieldValidation::Strict if !strict.is_empty() => {
            return Err(refuse(format!("strict decoding error: {}", strict.join(", "))));
        }
        FieldValidation::Ignore => {}
        FieldValidation::Warn | FieldValidation::Strict => strict.into_iter().for_each(|text| request.notes.push(text)),
    }
    let mut object = normalized.value;
    if patched.object.pointer("/metadata/managedFields").is_some_and(|list| *list == Value::Array(Vec::new())) {
        ownership::keep_reset(b"\"managedFields\":[]", &mut object);
    }
    Ok(object)
}
