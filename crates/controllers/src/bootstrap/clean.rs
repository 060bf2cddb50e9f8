//! Token cleaner: deletes bootstrap tokens when they end.
//! Reads and deletes Secret.

use std::sync::Arc;

use client::{Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Preconditions};

use super::{SECRET_NAMESPACE, expiration, token_secrets};
use crate::api_error::ApiErrorExt;
use crate::ownership::namespace;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "token-cleaner-controller",
    alias: "tokencleaner",
    account: "token-cleaner",
    on_by_default: false,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 10;

struct Controller {
    ctx: Ctx,
    secrets: Informer<Secret>,
}

async fn run(ctx: Ctx) {
    let secrets = token_secrets(&ctx);
    let queue = WorkQueue::default();
    secrets.on_event({
        let queue = queue.clone();
        move |event| {
            if namespace(&event.object().metadata) == SECRET_NAMESPACE {
                queue.add(ObjectKey::of(event.object().as_ref()));
            }
        }
    });
    secrets.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), secrets };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

/// Seconds until the token ends: none left when its end cannot be read; None when it lasts.
fn seconds_left(secret: &Secret, now: Timestamp) -> Option<i64> {
    match expiration(secret) {
        // Whole seconds, and never early.
        Ok(end) => end.map(|end| (end.duration_since(now).as_millis_f64() / 1000.0).ceil() as i64),
        Err(_) => Some(0),
    }
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(secret) = self.secrets.get(key) else { return Ok(Requeue::Never) };
        match seconds_left(&secret, Timestamp::now()) {
            None => return Ok(Requeue::Never),
            Some(left) if left > 0 => return Ok(Requeue::after_seconds(left)),
            Some(_) => {}
        }
        let preconditions = Preconditions {
            uid: secret.metadata.uid.clone(),
            resource_version: secret.metadata.resource_version.clone(),
        };
        let api = self.ctx.connection.namespaced::<Secret>(&key.namespace);
        match api.delete(&key.name, &DeleteParams::default().preconditions(preconditions)).await {
            Ok(_) => Ok(Requeue::Never),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(Requeue::Never),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sign::tests::secret;
    use super::*;

    #[test]
    fn a_token_ends_when_it_says() {
        let now: Timestamp = "2024-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(seconds_left(&secret("a", "2024-01-01T00:01:00Z"), now), Some(60));
        assert_eq!(seconds_left(&secret("a", "2023-12-31T23:59:00Z"), now), Some(-60));
        assert_eq!(seconds_left(&secret("a", ""), now), None);
        assert_eq!(seconds_left(&secret("a", "soon"), now), Some(0));
    }
}
