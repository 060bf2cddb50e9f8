//! PATCH: read, patch, and replace what was read; again when somebody else was faster.

use api::codec::{self, FieldValidation, Target, yaml};
use api::patch::{Patch, PatchType};
use api::{Cursor, ErrorList, Path, Shape, Status, Value, defaults, gojson, meta};
use futures::FutureExt;

use super::update::replace;
use super::{Reply, Request, apply};
use crate::gateway::Gateway;
use crate::guaranteed::Live;
use crate::ownership::{self, Ownership};
use crate::storage::ObjectKey;
use crate::write::{Moment, check_options, field_validation, group_resource, invalid_as_it_says};

/// Media types that PATCH takes; of custom resources nobody knows a strategy.
const PATCH_MEDIA_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    STRATEGIC_MEDIA_TYPE,
    "application/apply-patch+yaml",
];
const STRATEGIC_MEDIA_TYPE: &str = "application/strategic-merge-patch+json";

/// Whether a body of this type is a patch of any form.
pub(crate) fn is_patch(media_type: &str) -> bool {
    PATCH_MEDIA_TYPES.contains(&media_type)
}

pub(crate) async fn patch(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    if request.content_type == apply::MEDIA_TYPE {
        return apply::apply(gateway, request).await;
    }
    patch_type(request)?;
    field_validation(request)?;
    check_options(request)?;
    let key = ObjectKey::new(&request.kind, &request.namespace, &request.name);
    let target = request.target(&key, "patch");
    let patch = &decode_patch(request);
    let attempt = |current| {
        let attempt = async move {
            let Some(current) = current else {
                return Err(Status::not_found(group_resource(request), &request.name));
            };
            // Nobody looks at what a patch of nothing says.
            let patch = patch.as_ref().map_err(Status::clone)?;
            let live = Live::decode(gateway, &request.kind, current).await?;
            let object = patched_object(request, patch, &live.object)?;
            replace(gateway, request, target, object, live, Ownership::Track).await
        };
        attempt.boxed()
    };
    gateway.guaranteed_update(target, attempt).await
}

/// Which patch the media type says it is, of those that the kind takes.
fn patch_type(request: &Request) -> Result<PatchType, Status> {
    let is_scale = request.subresource == "scale";
    let takes = |media_type: &str| media_type != STRATEGIC_MEDIA_TYPE || request.kind.custom().is_none() || is_scale;
    let patch_type = PatchType::from_media_type(&request.content_type).ok_or_else(Status::unsupported_patch_type)?;
    if !takes(&request.content_type) {
        let taken: Vec<&str> = PATCH_MEDIA_TYPES.into_iter().filter(|media_type| takes(media_type)).collect();
        return Err(Status::unsupported_media_type(&taken));
    }
    Ok(patch_type)
}

/// The patch in the body.
pub(super) fn decode_patch(request: &Request) -> Result<Patch, Status> {
    let patch_type = patch_type(request)?;
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

/// What a patch makes of an object, not yet decoded by schema; of an apply, the configuration.
pub(super) fn as_patched(request: &Request, old: &Value) -> Option<Value> {
    if request.content_type == apply::MEDIA_TYPE {
        return yaml::parse(&request.body).ok().map(|document| document.value);
    }
    let patch = decode_patch(request).ok()?;
    let kind = request.kind.as_ref();
    let target = Target::from(kind);
    Some(patch.apply(old, target.schema, Shape::Ref(target.type_id)).ok()?.object)
}

/// The result of a patch as a decoded object of `target`. What does not decode is 422: the patch is at fault.
pub(super) fn patched(request: &Request, target: Target<'_>, patch: &Patch, old: &Value) -> Result<Value, Status> {
    let old = &*codec::rewritten(old, &target);
    let mut patched = patch.apply(old, target.schema, Shape::Ref(target.type_id)).map_err(|error| error.status())?;
    if patch.patch_type() == PatchType::Strategic {
        // It is merged into an object of its type, which no patch makes another. What is no text does not fit there.
        for field in ["apiVersion", "kind"] {
            if let (Some(value), Value::Object(object)) = (old.get(field), &mut patched.object)
                && object.get(field).is_none_or(|given| given.is_null() || given.is_string())
            {
                object.insert(field, value.clone());
            }
        }
    }
    if let Some(custom) = request.kind.custom().filter(|_| request.subresource != "scale") {
        let (object, mut errors) = (Cursor::root(&patched.object), ErrorList::new());
        // That it is another kind is found out later.
        if object.field("kind").str() == request.kind.kind && !custom.validate_type(&object, &mut errors) {
            return Err(invalid_as_it_says(&patched.object, &errors));
        }
    }
    let refuse = |text: String| {
        let mut errors = ErrorList::new();
        let mut patched = patched.clone();
        match request.kind.custom() {
            Some(_) => patched.object = gojson::sorted(&patched.object),
            None => meta::put_in_order(&mut patched.object),
        }
        errors.invalid(Path::new("patch"), patch.shown(&patched), text);
        Status::invalid("", "", "", &errors)
    };
    let normalized =
        codec::normalize_changed(&patched.object, old, target).map_err(|error| refuse(patch.refusal(&error)))?;
    if let Some(fault) = (request.kind.strategy.decode_fault)(&normalized.value) {
        let is_strategic = patch.patch_type() == PatchType::Strategic;
        return Err(if is_strategic { Status::unknown(fault) } else { refuse(fault) });
    }
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
