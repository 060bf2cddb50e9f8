//! A definition that is deleted takes its objects with it: they go first, then the finalizer that held the definition.

use std::sync::Arc;
use std::time::Duration;

use api::custom::Definition;
use api::kinds::customresourcedefinition::conditions::{self, Removal};
use api::{Kind, Status, Value, meta};
use futures::StreamExt as _;
use http::Method;
use store::Revision;

use super::keeper::{GROUP, RESOURCE};
use crate::cache::CachedObject;
use crate::gateway::Gateway;
use crate::serve::stopped;
use crate::startup::write;
use crate::storage::ObjectKey;
use crate::verbs::{self, Request};

/// Deletes under way at once.
const DELETES_AT_ONCE: usize = 16;
/// Objects that wait for finalizers of others are looked at again when something changes, and this often.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);
/// Tries to remove the finalizer against other writers.
const RACES_MAX: usize = 10;

/// Until the definition is gone, or the server stops.
pub(super) async fn run(gateway: &Arc<Gateway>, definition: &Arc<Definition>, mut object: Value, is_served: bool) {
    let now = crate::write::rfc3339(jiff::Timestamp::now());
    conditions::removing(&mut object, Removal::InProgress, &now);
    // Only news for whoever looks; somebody else's write says something newer.
    if let Err(status) = write(gateway, Method::PUT, GROUP, RESOURCE, "status", &object).await {
        tracing::debug!(%status, definition = definition.name, "cannot say that objects are being deleted");
    }
    let mut shutdown = gateway.shutdown.clone();
    loop {
        let outcome = tokio::select! {
            outcome = remove(gateway, definition, is_served) => outcome,
            () = stopped(&mut shutdown) => return,
        };
        match outcome {
            Ok(()) => return,
            Err(status) => {
                tracing::warn!(%status, definition = definition.name, "cannot delete the objects of a definition");
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn remove(gateway: &Gateway, definition: &Arc<Definition>, is_served: bool) -> Result<(), Status> {
    if is_served {
        remove_objects(gateway, &definition.storage_kind()).await?;
    }
    remove_finalizer(gateway, definition).await
}

async fn remove_objects(gateway: &Gateway, kind: &Arc<Kind>) -> Result<(), Status> {
    let Some(resource) = gateway.cache.resource(kind) else { return Ok(()) };
    let mut head = resource.head();
    loop {
        gateway.catch_up(kind, "list").await?;
        head.borrow_and_update();
        let objects = resource.list("");
        if objects.is_empty() && is_empty(gateway, kind).await? {
            return Ok(());
        }
        let mut results = futures::stream::iter(objects.into_iter().filter(|object| !is_going(object)))
            .map(|object| async move {
                let request = Request::of_server(kind, &object.stored.namespace, &object.stored.name, "delete");
                verbs::delete(gateway, &request).await
            })
            .buffer_unordered(DELETES_AT_ONCE);
        let mut failure = None;
        while let Some(result) = results.next().await {
            failure = failure.or(result.err().filter(|status| status.code != 404));
        }
        if let Some(status) = failure {
            return Err(status);
        }
        tokio::select! {
            _ = head.changed() => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

fn is_going(object: &CachedObject) -> bool {
    object.stored.parse().is_some_and(|object| meta::is_being_deleted(&object))
}

/// The store itself has none: the cache leaves out what it cannot read.
async fn is_empty(gateway: &Gateway, kind: &Kind) -> Result<bool, Status> {
    let prefix = ObjectKey::prefix(kind, "");
    let page = gateway.objects.page(&prefix, prefix.clone(), Revision(0), 1).await;
    Ok(page.map_err(|e| crate::error::from_store(kind, "list", e))?.kvs.is_empty())
}

async fn remove_finalizer(gateway: &Gateway, definition: &Definition) -> Result<(), Status> {
    let kind = gateway.kind(GROUP, "v1", RESOURCE)?;
    for _ in 0..RACES_MAX {
        let request = Request::of_server(&kind, "", &definition.name, "update");
        let object = match verbs::read(gateway, &request, "").await {
            Ok(object) => object,
            Err(status) if status.code == 404 => return Ok(()),
            Err(status) => return Err(status),
        };
        let mut object = object.parse().map_err(crate::error::from_read)?;
        if meta::uid(&object) != definition.uid || !conditions::awaits_cleanup(&object) {
            return Ok(());
        }
        conditions::remove_finalizer(&mut object);
        let body = serde_json::to_vec(&object).map_err(Status::internal)?;
        match verbs::update(gateway, &Request { body: body.into(), ..request }).await {
            Err(status) if status.code == 409 => {}
            Err(status) if status.code == 404 => return Ok(()),
            Err(status) => return Err(status),
            Ok(_) => return Ok(()),
        }
    }
    Err(Status::modified(kind.as_ref().into(), &definition.name))
}
