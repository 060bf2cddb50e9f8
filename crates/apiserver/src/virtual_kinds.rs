//! Kinds that are never stored: reviews answered on the spot, bindings, component statuses.

use api::json;
use api::{Status, Value, codec, defaults};

use crate::admit::{self, Operation};
use crate::authn;
use crate::authz::review;
use crate::gateway::Gateway;
use crate::ownership::{self, Ownership};
use crate::verbs::{self, Reply, Request};
use crate::write::{
    Moment, body_format, check_options, field_validation, reject_invalid, set_metadata, settle_namespace,
};

pub(crate) async fn dispatch(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    match (request.kind.resource.as_ref(), request.verb) {
        ("bindings", "create") => verbs::create_binding(gateway, request).await,
        ("componentstatuses", "get" | "list") => component_statuses(gateway, request).await,
        (_, "create") => answer_review(gateway, request).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// A review is created, answered and forgotten.
async fn answer_review(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    check_options(request)?;
    let kind = &request.kind;
    let format = body_format(&request.content_type)?;
    let mut decoded = codec::decode(&request.body, format, kind.as_ref(), field_validation(request)?)?;
    decoded.warnings.into_iter().for_each(|warning| request.notes.push(warning));
    let moment = Moment::now();
    defaults::apply_at(kind.as_ref(), &mut decoded.value, &moment.now);
    wipe_system_fields(&mut decoded.value);
    settle_namespace(request, &mut decoded.value)?;
    let managed = ownership::settle_new(request, &moment, &mut decoded.value, Ownership::Track);
    set_metadata(&mut decoded.value, "managedFields", managed);
    admit::body(gateway, request, Operation::Create, &mut decoded.value, &Value::Null).await?;
    let mut errors = api::ErrorList::new();
    (kind.strategy.validate)(&api::Cursor::root(&decoded.value), &mut errors);
    reject_invalid(kind, api::meta::name(&decoded.value), &errors)?;
    let object = decoded.value;
    let answered = match kind.kind.as_ref() {
        "SubjectAccessReview" => review::subject_access_review(&gateway.authz, object)?,
        "LocalSubjectAccessReview" => review::local_subject_access_review(&gateway.authz, &request.namespace, object)?,
        "SelfSubjectAccessReview" => review::self_subject_access_review(&gateway.authz, &request.user, object)?,
        "SelfSubjectRulesReview" => review::self_subject_rules_review(&gateway.authz, &request.user, object)?,
        "TokenReview" => authn::review::token_review(&gateway.authn, object, jiff::Timestamp::now()).await?,
        "SelfSubjectReview" => authn::review::self_subject_review(&request.user, object, jiff::Timestamp::now()),
        _ => return Err(Status::method_not_allowed()),
    };
    Ok(Reply::document(201, answered))
}

/// What only a server may say of an object.
fn wipe_system_fields(object: &mut Value) {
    for field in ["creationTimestamp", "uid"] {
        set_metadata(object, field, Value::Null);
    }
}

/// What upstream still answers for `kubectl get cs`: the parts of the control plane and whether they work.
async fn component_statuses(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    let store_error = gateway.objects.store().current_revision().await.err().map(|error| error.to_string());
    let parts = [("etcd-0", store_error)];
    let items: Vec<Value> = parts
        .iter()
        .map(|(name, error)| {
            let condition = match error {
                None => json!({ "type": "Healthy", "status": "True", "message": "ok" }),
                Some(error) => json!({ "type": "Healthy", "status": "False", "message": error }),
            };
            json!({ "metadata": { "name": name }, "conditions": [condition] })
        })
        .collect();
    if request.verb == "list" {
        let list = json!({ "kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": items });
        return Ok(Reply::document(200, list));
    }
    let found = items.into_iter().find(|item| api::meta::name(item) == request.name);
    let Some(mut item) = found else { return Err(Status::not_found(request.kind.as_ref().into(), &request.name)) };
    item["kind"] = "ComponentStatus".into();
    item["apiVersion"] = "v1".into();
    Ok(Reply::document(200, item))
}
