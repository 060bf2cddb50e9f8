//! Server-side apply: PATCH with a configuration. It creates what is not there.

use api::apply::{self, Writer};
use api::codec::{FieldValidation, normalize, yaml};
use api::{ErrorList, Path, Status, Value, defaults, gojson, meta};
use futures::FutureExt;

use super::create::{authorize, create_object};
use super::update::{may_create_by_status, replace};
use super::{Reply, Request};
use crate::error::from_store;
use crate::gateway::Gateway;
use crate::guaranteed::{Live, Tried};
use crate::ownership::Ownership;
use crate::storage::ObjectKey;
use crate::write::{
    Moment, check_name, check_options, field_validation, group_resource, options_error, set_metadata, settle_namespace,
};

pub(crate) const MEDIA_TYPE: &str = "application/apply-patch+yaml";

pub(super) async fn apply(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    let Configuration { config, duplicates } = configuration(request)?;
    let key = ObjectKey::new(&request.kind, &request.namespace, &request.name);
    let target = request.target(&key, "patch");
    let (config, found) = (&config, duplicates.as_slice());
    let attempt = |current| {
        let attempt = async move {
            let Some(current) = current else {
                return match create(gateway, request, config, found).await {
                    Err(status) if status.reason == "AlreadyExists" && !request.is_dry_run() => {
                        let current = gateway.objects.get(target.key).await;
                        Ok(Tried::LostRace(current.map_err(|e| from_store(&request.kind, "patch", e))?))
                    }
                    outcome => outcome.map(Tried::Done),
                };
            };
            let live = Live::decode(gateway, &request.kind, current).await?;
            let object = merged(request, &live.object, config)?;
            refuse_duplicates(request, found)?;
            replace(gateway, request, target, object, live, Ownership::Settled).await
        };
        attempt.boxed()
    };
    let reply = gateway.guaranteed_update(target, attempt).await?;
    // A warning is one line.
    duplicates.into_iter().for_each(|line| request.notes.push(line));
    Ok(reply)
}

/// Apply to an object that is not there.
async fn create(gateway: &Gateway, request: &Request, config: &Value, duplicates: &[String]) -> Result<Reply, Status> {
    if !request.subresource.is_empty() && !may_create_by_status(request) {
        return Err(Status::not_found(group_resource(request), &request.name));
    }
    let zero = request.kind.schema.zero(request.kind.type_id);
    let mut object = merged(request, &zero, config)?;
    refuse_duplicates(request, duplicates)?;
    let uid = meta::uid(&object);
    if !uid.is_empty() {
        let text = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
        return Err(Status::conflict(group_resource(request), &request.name, &text));
    }
    set_metadata(&mut object, "resourceVersion", Value::Null);
    authorize(gateway, request)?;
    create_object(gateway, request, object, Ownership::Settled).await
}

/// The configuration laid over `live`, decoded, with defaults and the ownership that follows.
fn merged(request: &Request, live: &Value, config: &Value) -> Result<Value, Status> {
    let kind = &request.kind;
    let moment = Moment::now();
    let manager = request.query.text("fieldManager");
    let writer = Writer { manager, subresource: &request.subresource, now: &moment.now };
    let applied = apply::apply(kind, &writer, live, config, request.query.flag("force"));
    let applied = applied.map_err(|refused| refused.status())?;
    let normalized = normalize(&applied.object, kind.as_ref())
        .map_err(|error| Status::unknown(apply::unconvertible(config, &error.reason)))?;
    let mut object = normalized.value;
    check_identity(request, &mut object)?;
    defaults::apply_at(kind.as_ref(), &mut object, &moment.now);
    Ok(object)
}

/// A patch leaves the object where the URL says it is.
pub(super) fn check_identity(request: &Request, object: &mut Value) -> Result<(), Status> {
    settle_namespace(request, object)?;
    check_name(object, &request.name)
}

/// The body of an apply.
pub(super) struct Configuration {
    pub config: Value,
    /// What strict decoding has against the body, a line each; judged once the configuration itself has proved good.
    duplicates: Vec<String>,
}

/// The configuration in the body, with the options that only apply has.
pub(super) fn configuration(request: &Request) -> Result<Configuration, Status> {
    if request.query.text("fieldManager").is_empty() {
        let mut errors = ErrorList::new();
        errors.required(Path::new("fieldManager"), "is required for apply patch");
        return Err(options_error(request, &errors));
    }
    check_options(request)?;
    let validation = field_validation(request)?;
    let refuse = |text: String| Status::bad_request(format!("error decoding YAML: {text}"));
    let document =
        yaml::parse(&request.body).map_err(|error| refuse(format!("error converting YAML to JSON: {error}")))?;
    let config = match document.value {
        Value::Object(map) => Value::Object(map),
        Value::Null => Value::Object(api::Map::new()),
        other => {
            let name = gojson::type_name(&other);
            return Err(refuse(format!(
                "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {name} into Go value of type \
                 map[string]interface {{}}"
            )));
        }
    };
    let duplicates = if validation == FieldValidation::Ignore { Vec::new() } else { document.duplicates };
    Ok(Configuration { config, duplicates })
}

fn refuse_duplicates(request: &Request, duplicates: &[String]) -> Result<(), Status> {
    if duplicates.is_empty() || field_validation(request)? != FieldValidation::Strict {
        return Ok(());
    }
    let lines = duplicates.join("\n  ");
    Err(Status::bad_request(format!(
        "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {lines}"
    )))
}
