//! CREATE.

use ::bytes::Bytes;
use api::{Status, Value, meta, rules};

use super::{Reply, Request, as_sent, name};
use crate::admit::{self, Operation};
use crate::attributes::Action;
use crate::custom::conversion;
use crate::demands;
use crate::error::from_store;
use crate::gateway::Gateway;
use crate::ownership::{self, Ownership};
use crate::storage::{ObjectBytes, ObjectKey, WriteOutcome};
use crate::write::{
    Moment, Stage, check_options, decode_body, deduplicate_owners, group_resource, set_metadata, settle_namespace,
    validate_create, warnings, written,
};

/// Tries with other suffixes before a generated name gives up, as upstream.
const GENERATE_NAME_TRIES: usize = 8;

pub(crate) async fn create(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    check_options(request)?;
    let mut prefix = String::new();
    for _ in 0..GENERATE_NAME_TRIES {
        // Decoded anew for each name: that is seldom needed, and what follows changes the object.
        let mut object = decode_body(request)?;
        settle_namespace(request, &mut object)?;
        let name = meta::name(&object).to_owned();
        meta::metadata_str(&object, "generateName").clone_into(&mut prefix);
        match create_object(gateway, request, object, Ownership::Track).await {
            Err(status) if status.reason == "AlreadyExists" && !prefix.is_empty() => {
                // A name that the client chose is taken, but it did say that another would do.
                if !name.is_empty() {
                    return Err(Status::generate_name_conflict(group_resource(request), &name));
                }
            }
            outcome => return outcome,
        }
    }
    Err(Status::generate_name_conflict(group_resource(request), &prefix))
}

/// Creates a decoded and defaulted object: the second half of POST, and what a PUT to a missing object becomes.
pub(crate) async fn create_object(
    gateway: &Gateway,
    request: &Request,
    mut object: Value,
    ownership: Ownership,
) -> Result<Reply, Status> {
    let kind = &request.kind;
    let moment = Moment::now();
    let version = meta::resource_version(&object).to_owned();
    let mut notes = Vec::new();
    deduplicate_owners(request, Stage::Sent, &mut object, &mut notes);
    let mut managed = ownership::settle_new(request, &moment, &mut object, ownership);
    let mut admission = admit::mutate(gateway, request, Operation::Create, &mut object, &mut managed, None).await?;
    deduplicate_owners(request, Stage::Admitted, &mut object, &mut notes);
    settle_namespace(request, &mut object)?;
    admit::escalation(gateway, request, &object, None)?;
    if meta::name(&object).is_empty() && !meta::metadata_str(&object, "generateName").is_empty() {
        let name = name::generate(meta::metadata_str(&object, "generateName"));
        set_metadata(&mut object, "name", name.into());
    }
    let _serial = gateway.allocations.lock(kind).await;
    prepare(request, &mut object, &moment);
    set_metadata(&mut object, "managedFields", managed);
    let allocated = gateway.allocations.on_create(gateway, request, &mut object).await?;
    let unmet = demands::unmet(gateway, request, &object, None).await;
    let sent = as_sent::created(request, &object);
    validate_create(kind, sent.as_ref().unwrap_or(&object), unmet)?;
    drop(sent);
    admit::validate(gateway, request, Operation::Create, &object, None, &mut admission).await?;
    warnings(request, &object, None, &mut notes);
    notes.append(&mut admission.warnings);
    let name = meta::name(&object).to_owned();
    let key = ObjectKey::new(kind, &request.namespace, &name);
    let stored = conversion::encode_for_store(gateway, kind, object).await?;
    if request.is_dry_run() {
        if gateway.objects.get(&key).await.map_err(|e| from_store(kind, "create", e))?.is_some() {
            notes.into_iter().for_each(|note| request.notes.push(note));
            return Err(already_exists(request, &name, false));
        }
        let shown = with_version(stored, &version)?;
        return Ok(Reply::object(201, ObjectBytes::unsaved(&shown).map_err(crate::error::from_read)?, notes));
    }
    // Said where it would be stored, as upstream: of an invalid object it is not the first thing to hear.
    if !version.is_empty() {
        return Err(Status::unknown("resourceVersion should not be set on objects to be created"));
    }
    allocated.reserve(gateway).await?;
    let outcome = gateway.objects.create(&key, stored.clone(), gateway.expires(kind)).await;
    match outcome.map_err(|e| from_store(kind, "create", e))? {
        WriteOutcome::Written(revision) => Ok(Reply::object(201, written(&stored, revision)?, notes)),
        WriteOutcome::Conflict(current) => {
            allocated.release(gateway).await;
            // What was said of the object goes with the refusal.
            notes.into_iter().for_each(|note| request.notes.push(note));
            let deleting = current.is_some_and(|c| contains(&c.value, b"\"deletionTimestamp\":"));
            Err(already_exists(request, &name, deleting))
        }
    }
}

/// A dry run shows the version that the client sent, which nothing has replaced.
fn with_version(stored: Bytes, version: &str) -> Result<Bytes, Status> {
    if version.is_empty() {
        return Ok(stored);
    }
    let mut object = Value::from_json(&stored).map_err(|error| Status::internal(error.to_string()))?;
    set_metadata(&mut object, "resourceVersion", version.into());
    Ok(object.to_string().into())
}

/// A write that turns out to be a create needs leave for that as well.
pub(super) fn authorize(gateway: &Gateway, request: &Request) -> Result<(), Status> {
    let action = Action::Resource {
        verb: "create".to_owned(),
        group: request.kind.group.to_string(),
        version: request.kind.version.to_string(),
        resource: request.kind.resource.to_string(),
        subresource: request.subresource.clone(),
        namespace: request.namespace.clone(),
        name: request.name.clone(),
    };
    gateway.authz.require(&request.user, &action, &[])
}

fn already_exists(request: &Request, name: &str, deleting: bool) -> Status {
    let mut status = Status::already_exists(group_resource(request), name);
    if deleting {
        status.message = format!("object is being deleted: {}", status.message);
    }
    status
}

/// System fields and the kind's own preparation.
fn prepare(request: &Request, object: &mut Value, moment: &Moment) {
    let kind = &request.kind;
    for cleared in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        set_metadata(object, cleared, Value::Null);
    }
    set_metadata(object, "creationTimestamp", moment.now.clone().into());
    set_metadata(object, "uid", moment.uid.clone().into());
    // Kinds without generations keep what the client says.
    if let Some(generation) = rules::generation_on_create(kind) {
        set_metadata(object, "generation", generation.into());
    }
    rules::reset_for_create(kind, object);
    (kind.strategy.prepare_for_create)(object, &moment.context(request));
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
