//! UPDATE, and the second half of PATCH: replacing the version last seen.

use api::strategy::GenerationSeen;
use api::{Cursor, ErrorList, Status, Value, meta, rules};
use futures::FutureExt;
use store::Revision;

use super::create::{authorize, create_object};
use super::{Reply, Request, as_sent};
use crate::admit::{self, Operation};
use crate::custom::conversion;
use crate::demands;
use crate::error::from_store;
use crate::gateway::Gateway;
use crate::guaranteed::{Live, Target, Tried};
use crate::http::options::parse_resource_version;
use crate::ownership::{self, Ownership};
use crate::storage::{ObjectKey, WriteOutcome};
use crate::write::{
    Moment, Stage, check_name, check_options, decode_body, decode_stored, deduplicate_owners, failed_precondition,
    group_resource, invalid_as_it_says, reject_invalid, set_metadata, settle_namespace, warnings, written,
};

pub(crate) async fn update(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    check_options(request)?;
    let mut first = Some(object_of(request)?);
    let key = ObjectKey::new(&request.kind, &request.namespace, &request.name);
    let target = request.target(&key, "update");
    let attempt = |current| {
        let first = first.take();
        let attempt = async move {
            // Decoded anew after a lost race: that is seldom needed, and a try changes the object.
            let object = first.map_or_else(|| object_of(request), Ok)?;
            match current {
                None => create_missing(gateway, request, object).await.map(Tried::Done),
                Some(current) => {
                    let live = Live::decode(gateway, &request.kind, current).await?;
                    replace(gateway, request, target, object, live, Ownership::Track).await
                }
            }
        };
        attempt.boxed()
    };
    gateway.guaranteed_update(target, attempt).await
}

/// The object in the body, which must be the one that the URL names.
fn object_of(request: &Request) -> Result<Value, Status> {
    let mut object = decode_body(request)?;
    ownership::keep_reset(&request.body, &mut object);
    settle_namespace(request, &mut object)?;
    check_name(&object, &request.name)?;
    Ok(object)
}

/// PUT to an object that is not there.
async fn create_missing(gateway: &Gateway, request: &Request, mut object: Value) -> Result<Reply, Status> {
    let is_whole = request.subresource.is_empty() && request.kind.rules.create_on_update;
    if !is_whole && !may_create_by_status(request) {
        return Err(Status::not_found(group_resource(request), &request.name));
    }
    if !meta::uid(&object).is_empty() {
        let key = ObjectKey::new(&request.kind, &request.namespace, &request.name);
        let text = failed_precondition(request, &key, "UID", meta::uid(&object), "");
        return Err(Status::conflict(group_resource(request), &request.name, &text));
    }
    set_metadata(&mut object, "resourceVersion", Value::Null);
    authorize(gateway, request)?;
    create_object(gateway, request, object, Ownership::Track).await
}

/// The status can be the first that is written of an object whose kind is created by updates; no other part can.
pub(super) fn may_create_by_status(request: &Request) -> bool {
    request.subresource == "status" && request.kind.rules.create_on_update
}

/// One try to put `object` (decoded and defaulted) in the place of `live`.
pub(super) async fn replace(
    gateway: &Gateway,
    request: &Request,
    target: Target<'_>,
    mut object: Value,
    live: Live,
    ownership: Ownership,
) -> Result<Tried<Reply>, Status> {
    let kind = &request.kind;
    let Live { stored: before, revision: seen, object: old, is_stale } = live;
    check_preconditions(request, target.key, &object, &old, seen)?;
    let moment = Moment::now();
    let mut notes = Vec::new();
    deduplicate_owners(request, Stage::Sent, &mut object, &mut notes);
    let mut managed = ownership::settle(request, &request.subresource, &moment, &old, &mut object, ownership);
    let mut admission =
        admit::mutate(gateway, request, Operation::Update, &mut object, &mut managed, Some(&old)).await?;
    deduplicate_owners(request, Stage::Admitted, &mut object, &mut notes);
    admit::escalation(gateway, request, &object, Some(&old))?;
    carry_over(request, &mut object, &old);
    prepare(request, &mut object, &old, &moment);
    ownership::restore(&mut object, managed, &old);
    let _serial = gateway.allocations.lock(kind).await;
    let allocated = gateway.allocations.on_update(gateway, request, &mut object, &old).await?;
    let unmet = demands::unmet(gateway, request, &object, Some(&old)).await;
    validate(request, &object, &old, &unmet)?;
    admit::validate(gateway, request, Operation::Update, &object, Some(&old), &mut admission).await?;
    warnings(request, &object, Some(&old), &mut notes);
    notes.append(&mut admission.warnings);

    let finished = is_finished(&object, &old);
    let stored = conversion::encode_for_store(gateway, kind, object).await?;
    if stored == before && !is_stale {
        return Ok(Tried::Done(Reply::object(200, written(&before, seen)?, notes)));
    }
    if request.is_dry_run() {
        return Ok(Tried::Done(Reply::object(200, written(&stored, seen)?, notes)));
    }
    if finished {
        return delete_finished(gateway, request, target, &stored, seen, notes).await;
    }
    allocated.reserve(gateway).await?;
    match gateway.put_over(target, seen, stored.clone()).await? {
        Tried::Done(revision) => {
            allocated.release_replaced(gateway).await;
            Ok(Tried::Done(Reply::object(200, written(&stored, revision)?, notes)))
        }
        Tried::LostRace(current) => {
            allocated.release(gateway).await;
            Ok(Tried::LostRace(current))
        }
    }
}

/// resourceVersion and uid of the update must be those of the object it replaces, when given.
fn check_preconditions(
    request: &Request,
    key: &ObjectKey,
    object: &Value,
    old: &Value,
    revision: Revision,
) -> Result<(), Status> {
    let version = meta::resource_version(object);
    // Upstream lets the bare parse error through here.
    let wanted = parse_resource_version(version).map_err(|error| Status::unknown(error.cause()))?;
    let new_uid = meta::uid(object);
    // A patch has no precondition; what it makes of the uid is a matter of validation.
    if request.verb != "patch" && !new_uid.is_empty() && new_uid != meta::uid(old) {
        let text = failed_precondition(request, key, "UID", new_uid, meta::uid(old));
        return Err(Status::conflict(group_resource(request), &request.name, &text));
    }
    if wanted == Revision(0) {
        if request.kind.rules.unconditional_update {
            return Ok(());
        }
        let mut errors = ErrorList::new();
        errors.invalid(api::Path::new("metadata.resourceVersion"), 0, "must be specified for an update");
        // The resource is named here, not the kind.
        return Err(Status::invalid(&request.kind.group, &request.kind.resource, &request.name, &errors));
    }
    if wanted != revision {
        return Err(Status::modified(group_resource(request), &request.name));
    }
    Ok(())
}

/// Metadata that an update cannot touch.
fn carry_over(request: &Request, object: &mut Value, old: &Value) {
    let old_metadata = old.get("metadata");
    let old_field = |field: &str| old_metadata.and_then(|m| m.get(field)).cloned().unwrap_or(Value::Null);
    for field in ["generation", "creationTimestamp"] {
        set_metadata(object, field, old_field(field));
    }
    // What is stored loses it; a dry run stores nothing.
    if !request.is_dry_run() {
        set_metadata(object, "selfLink", Value::Null);
    }
    for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let missing = object.pointer(&format!("/metadata/{field}")).is_none_or(Value::is_null);
        if missing || (field == "deletionTimestamp" && meta::is_being_deleted(old)) {
            set_metadata(object, field, old_field(field));
        }
    }
    set_metadata(object, "resourceVersion", old_field("resourceVersion"));
    if request.kind.namespaced {
        set_metadata(object, "namespace", request.namespace.clone().into());
    }
}

fn prepare(request: &Request, object: &mut Value, old: &Value, moment: &Moment) {
    let strategy = request.kind.strategy;
    let context = moment.context(request);
    match request.subresource.as_str() {
        "" => rules::reset_for_update(&request.kind, object, old),
        "status" => rules::reset_for_status_update(&request.kind, object, old),
        _ => {}
    }
    let moves = |object: &Value| rules::bumps_generation(&request.kind, object, old);
    let moves_before = match strategy.generation_seen {
        GenerationSeen::Prepared => false,
        GenerationSeen::Decoded => moves(object),
        GenerationSeen::Sent => moves(&as_sent::filled(request, object, old)),
    };
    match strategy.subresource(&request.subresource) {
        Some(subresource) => (subresource.prepare_for_update)(object, old, &context),
        None if request.subresource.is_empty() => (strategy.prepare_for_update)(object, old, &context),
        None => {}
    }
    // A status write may carry annotations (a Deployment's revision), but never a new wish.
    if request.subresource != "status" && (moves_before || moves(object)) {
        let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        set_metadata(object, "generation", (generation + 1).into());
    }
}

fn validate(request: &Request, object: &Value, old: &Value, unmet: &ErrorList) -> Result<(), Status> {
    let Err(refused) = validate_stored(request, object, old, unmet) else {
        return validate_empty_lists(request, object, old, unmet);
    };
    // Custom resources are kept as they came.
    if request.kind.custom().is_some() {
        return Err(refused);
    }
    // Said again of the object as it was sent: messages show an empty list that was given otherwise than none.
    let again = as_sent::with_empty_lists(&request.kind, object, &as_sent::body(request, old).unwrap_or_default());
    let errors = as_sent::without_empty_lists(field_errors(request, &again, old, unmet.clone()));
    let again = reject_invalid(&request.kind, meta::name(object), &errors).err();
    let fields = |status: &Status| -> Vec<String> {
        let details = status.details.iter();
        details.flat_map(|details| &details.causes).map(|cause| cause.field.clone()).collect()
    };
    Err(again.filter(|again| fields(again) == fields(&refused)).unwrap_or(refused))
}

/// An empty list may be refused where none is not. Where the object had none before, sending an empty one changes nothing.
fn validate_empty_lists(request: &Request, object: &Value, old: &Value, unmet: &ErrorList) -> Result<(), Status> {
    let is_asked = request.subresource.is_empty() && request.kind.custom().is_none();
    if !is_asked || !as_sent::has_empty(&request.body) {
        return Ok(());
    }
    let sent = as_sent::filled(request, object, old);
    if sent == *object {
        return Ok(());
    }
    let (object, old) = (sent, as_sent::filled(request, old, old));
    let errors = as_sent::without_empty_lists(field_errors(request, &object, &old, unmet.clone()));
    reject_invalid(&request.kind, meta::name(&object), &errors)
}

fn validate_stored(request: &Request, object: &Value, old: &Value, unmet: &ErrorList) -> Result<(), Status> {
    let kind = &request.kind;
    let mut errors = ErrorList::new();
    let (new, old) = (Cursor::root(object), Cursor::root(old));
    if let Some(custom) = kind.custom() {
        if !custom.validate_type(&new, &mut errors) {
            return Err(invalid_as_it_says(object, &errors));
        }
        meta::validate_update(kind, &new, &old, &mut errors);
        let mut warnings = Vec::new();
        match request.subresource.as_str() {
            "status" => custom.validate_status_update(object, old.value(), &mut errors, &mut warnings),
            _ => custom.validate_update(object, old.value(), &mut errors, &mut warnings),
        }
        warnings.into_iter().for_each(|text| request.notes.push(text));
        return reject_invalid(kind, meta::name(object), &errors);
    }
    reject_invalid(kind, meta::name(object), &field_errors(request, object, old.value(), unmet.clone()))
}

/// What is wrong with the update of an object of a built-in kind, after `errors` that are known already.
fn field_errors(request: &Request, object: &Value, old: &Value, mut errors: ErrorList) -> ErrorList {
    let kind = &request.kind;
    let (new, old) = (Cursor::root(object), Cursor::root(old));
    meta::validate_update(kind, &new, &old, &mut errors);
    match kind.strategy.subresource(&request.subresource) {
        Some(subresource) => (subresource.validate_update)(&new, &old, &mut errors),
        None if request.subresource.is_empty() => (kind.strategy.validate_update)(&new, &old, &mut errors),
        None => {}
    }
    errors
}

/// The last finalizer is gone from an object that waits only for that.
fn is_finished(object: &Value, old: &Value) -> bool {
    let finalizers = |o: &Value| o.pointer("/metadata/finalizers").and_then(Value::as_array).map_or(0, Vec::len);
    let spec_finalizers = |o: &Value| o.pointer("/spec/finalizers").and_then(Value::as_array).map_or(0, Vec::len);
    let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    meta::is_being_deleted(object)
        && grace == 0
        && finalizers(object) == 0
        && spec_finalizers(object) == 0
        && finalizers(old) + spec_finalizers(old) > 0
}

async fn delete_finished(
    gateway: &Gateway,
    request: &Request,
    target: Target<'_>,
    stored: &::bytes::Bytes,
    seen: Revision,
    notes: Vec<String>,
) -> Result<Tried<Reply>, Status> {
    let kind = &request.kind;
    match gateway.objects.delete(target.key, seen).await.map_err(|e| from_store(kind, target.operation, e))? {
        WriteOutcome::Written(_) => {
            gateway.allocations.after_delete(gateway, kind, &decode_stored(kind, stored, seen)?).await;
            Ok(Tried::Done(Reply::object(200, written(stored, seen)?, notes)))
        }
        WriteOutcome::Conflict(current) => Ok(Tried::LostRace(current)),
    }
}
