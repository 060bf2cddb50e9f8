//! The `scale` subresource: a small object that stands for three fields of a bigger one.

use api::apply::{self as owner, ReplicasPaths, Writer};
use api::codec::Target;
use api::custom::Scale;
use api::json;
use api::kind::Subresource;
use api::selector::LabelSelector;
use api::{ErrorList, Kind, Path, Status, Value, codec, kinds, meta};
use futures::FutureExt;

use super::apply;
use super::patch::{decode_patch, patched};
use super::update::replace;
use super::{Reply, Request, get};
use crate::admit::{self, Operation};
use crate::gateway::Gateway;
use crate::guaranteed::Live;
use crate::ownership::{self, Ownership};
use crate::storage::ObjectKey;
use crate::write::{
    body_format, check_name, check_options, failed_precondition, field_validation, from_storage, group_resource,
    set_metadata,
};

const SCALE_VERSION: &str = "autoscaling/v1";

pub(crate) async fn get_scale(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    let object = get::read(gateway, request, request.query.text("resourceVersion")).await?;
    let object = object.parse().map_err(crate::error::from_read)?;
    let object = from_storage(&request.kind, object);
    Ok(Reply::document(200, scale_of(&request.kind, &object)?))
}

pub(crate) async fn update_scale(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    check_options(request)?;
    let format = body_format(&request.content_type)?;
    let decoded = codec::decode(&request.body, format, scale(request)?, field_validation(request)?)?;
    check_name(&decoded.value, &request.name)?;
    decoded.warnings.into_iter().for_each(|warning| request.notes.push(warning));
    change(gateway, request, |live| Ok(tracked(request, live, decoded.value.clone()))).await
}

pub(crate) async fn patch_scale(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    if request.content_type == apply::MEDIA_TYPE {
        return apply_scale(gateway, request).await;
    }
    let patch = decode_patch(request)?;
    check_options(request)?;
    let target = Target::from(scale(request)?);
    change(gateway, request, |live| Ok(tracked(request, live, patched(request, target, &patch, live)?))).await
}

async fn apply_scale(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    let config = apply::configuration(request)?.config;
    change(gateway, request, |live| {
        let manager = request.query.text("fieldManager");
        let force = request.query.flag("force");
        let applied = owner::apply(kinds::scale(), &writer(request, manager), live, &config, force);
        let applied = applied.map_err(|refused| refused.status())?.object;
        let normalized = codec::normalize(&applied, scale(request)?);
        normalized.map(|n| n.value).map_err(|e| Status::unknown(owner::unconvertible(&config, &e.reason)))
    })
    .await
}

/// Nobody is told when a scale was written.
fn writer<'a>(request: &'a Request, manager: &'a str) -> Writer<'a> {
    Writer { manager, subresource: &request.subresource, now: "" }
}

/// The scale of a plain write, with its owners.
fn tracked(request: &Request, live: &Value, mut scale: Value) -> Value {
    let manager = ownership::manager(request);
    let managed = owner::track_update(kinds::scale(), &writer(request, &manager), live, &scale);
    set_metadata(&mut scale, "managedFields", managed);
    scale
}

fn scale(request: &Request) -> Result<&Subresource, Status> {
    request.kind.subresource("scale").ok_or_else(Status::unknown_endpoint)
}

/// Reads the object, lets `edit` change its scale, and writes the replicas and their owners back.
async fn change(
    gateway: &Gateway,
    request: &Request,
    edit: impl Fn(&Value) -> Result<Value, Status> + Send + Sync,
) -> Result<Reply, Status> {
    let kind = &request.kind;
    let key = ObjectKey::new(kind, &request.namespace, &request.name);
    let parent = Request { admitted: true, ..request.for_subresource("") };
    let target = parent.target(&key, "update");
    let (edit, parent) = (&edit, &parent);
    let attempt = |current| {
        let attempt = async move {
            let Some(current) = current else {
                return Err(Status::not_found(group_resource(request), &request.name));
            };
            let live = Live::decode(gateway, kind, current).await?;
            let mut object = live.object.clone();
            let mut old_scale = scale_of(kind, &object)?;
            let paths = ReplicasPaths::of(kind);
            let owners = live.object.pointer("/metadata/managedFields");
            let owners_of_scale = owner::owners_of_scale(&paths, owners).map_err(Status::unknown)?;
            set_metadata(&mut old_scale, "managedFields", owners_of_scale);
            let mut scale = edit(&old_scale)?;
            admit::body(gateway, request, Operation::Update, &mut scale, &old_scale).await?;
            // Replicas of custom resources are judged as part of the object.
            if kind.custom().is_none() {
                validate(&scale, &request.name)?;
            }
            let wanted_version = meta::resource_version(&scale);
            if !wanted_version.is_empty() && wanted_version != meta::resource_version(&object) {
                return Err(Status::modified(group_resource(request), &request.name));
            }
            let wanted_uid = meta::uid(&scale);
            if !wanted_uid.is_empty() && wanted_uid != meta::uid(&object) {
                let text = failed_precondition(request, target.key, "UID", wanted_uid, meta::uid(&object));
                return Err(Status::conflict(group_resource(request), &request.name, &text));
            }
            let replicas = scale.pointer("/spec/replicas").cloned().unwrap_or(0.into());
            match custom_scale(kind) {
                Some(paths) => drop(Scale::set(&mut object, &paths.spec_replicas_path, replicas)),
                None => object["spec"]["replicas"] = replicas,
            }
            let of_scale = scale.pointer("/metadata/managedFields").unwrap_or(&Value::Null);
            let managed = owner::owners_of_object(&paths, &kind.api_version(), owners, of_scale);
            set_metadata(&mut object, "managedFields", managed);
            replace(gateway, parent, target, object, live, Ownership::Settled).await
        };
        attempt.boxed()
    };
    finish(kind, gateway.guaranteed_update(target, attempt).await?)
}

fn finish(kind: &Kind, reply: Reply) -> Result<Reply, Status> {
    let super::Content::Object(object) = &reply.content else { return Ok(reply) };
    let object = object.parse().map_err(crate::error::from_read)?;
    Ok(Reply { warnings: reply.warnings, ..Reply::document(reply.code, scale_of(kind, &from_storage(kind, object))?) })
}

fn validate(scale: &Value, name: &str) -> Result<(), Status> {
    let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    if replicas >= 0 {
        return Ok(());
    }
    let mut errors = ErrorList::new();
    errors.invalid(Path::new("spec.replicas"), replicas, "must be greater than or equal to 0");
    Err(Status::invalid("autoscaling", "Scale", name, &errors))
}

fn custom_scale(kind: &Kind) -> Option<&Scale> {
    kind.custom().and_then(|custom| custom.scale())
}

/// The scale of any object that has `spec.replicas`, or of a custom resource that says where its replicas are.
fn scale_of(kind: &Kind, object: &Value) -> Result<Value, Status> {
    let from = object.get("metadata").cloned().unwrap_or_default();
    let mut metadata = api::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = from.get(field) {
            metadata.insert(field, value.clone());
        }
    }
    let mut spec = api::Map::new();
    if let Some(paths) = custom_scale(kind) {
        let path = &paths.spec_replicas_path;
        let missing = || Status::internal(format!("the spec replicas field \"{path}\" does not exist"));
        let replicas = Scale::value(object, path).and_then(Value::as_i64).ok_or_else(missing)?;
        if replicas != 0 {
            spec.insert("replicas", replicas.into());
        }
        let current = Scale::value(object, &paths.status_replicas_path).and_then(Value::as_i64).unwrap_or(0);
        let mut status = json!({ "replicas": current });
        let selector = paths.label_selector_path.as_ref().and_then(|path| Scale::value(object, path)?.as_str());
        if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
            status["selector"] = selector.into();
        }
        return Ok(scale_document(metadata, spec, status));
    }
    let replicas = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    if replicas != 0 {
        spec.insert("replicas", replicas.into());
    }
    let selector = object.pointer("/spec/selector").cloned().unwrap_or_default();
    let mut status = json!({ "replicas": object.pointer("/status/replicas").cloned().unwrap_or(0.into()) });
    // ReplicationController has a plain map, the others a LabelSelector.
    let parsed = if kind.group.is_empty() {
        Ok(LabelSelector::from_map(&selector))
    } else {
        LabelSelector::from_object(&selector)
    };
    if let Ok(parsed) = parsed
        && !parsed.is_everything()
    {
        status["selector"] = parsed.to_string().into();
    }
    Ok(scale_document(metadata, spec, status))
}

fn scale_document(metadata: api::Map, spec: api::Map, status: Value) -> Value {
    json!({ "kind": "Scale", "apiVersion": SCALE_VERSION, "metadata": metadata, "spec": spec, "status": status })
}
