//! GET of one object.

use api::Status;

use super::{Reply, Request};
use crate::error::{from_not_fresh, from_read, from_store};
use crate::gateway::Gateway;
use crate::http::options::parse_resource_version;
use crate::storage::{self, ObjectBytes, ObjectKey};

/// Without resourceVersion: linearizable, from the store. With one: from the cache, once it is that fresh.
pub(crate) async fn get(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    if request.query.flag("export") {
        return Err(Status::bad_request("the export parameter, deprecated since v1.14, is no longer supported"));
    }
    let object = read(gateway, request, request.query.text("resourceVersion")).await?;
    Ok(Reply::object(200, object, Vec::new()))
}

pub(crate) async fn read(gateway: &Gateway, request: &Request, version: &str) -> Result<ObjectBytes, Status> {
    let kind = &request.kind;
    let missing = || Status::not_found(kind.as_ref().into(), &request.name);
    if version.is_empty() {
        let key = ObjectKey::new(kind, &request.namespace, &request.name);
        let current = gateway.objects.get(&key).await.map_err(|e| from_store(kind, "get", e))?.ok_or_else(missing)?;
        // Of an object from before a change of its schema the cache has today's form already.
        let is_current = kind.custom().is_none_or(|custom| custom.is_current(&current.value));
        let cached = gateway.cache.resource(kind).filter(|_| !is_current);
        let cached = cached.and_then(|resource| resource.get(&request.namespace, &request.name));
        if let Some(object) = cached.filter(|object| object.stored.mod_revision == current.mod_revision) {
            return Ok(object.bytes.clone());
        }
        return storage::read(kind, &current.value, current.mod_revision).map_err(from_read);
    }
    let wanted = parse_resource_version(version).map_err(|error| Status::unknown(error.to_string()))?;
    gateway.cache.wait_for(wanted).await.map_err(from_not_fresh)?;
    let resource = gateway.cache.resource(kind).ok_or_else(missing)?;
    let object = resource.get(&request.namespace, &request.name).ok_or_else(missing)?;
    Ok(object.bytes.clone())
}
