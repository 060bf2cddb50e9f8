//! ServiceAccount controller: keeps a ServiceAccount `default` in every active namespace.
//! Reads Namespace, ServiceAccount. Writes ServiceAccount.

use std::sync::Arc;

use client::{Event, Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;

use crate::api_error::ApiErrorExt;
use crate::namespace::is_active;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "serviceaccount-controller",
    alias: "serviceaccount",
    account: "service-account-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const NAME: &str = "default";

struct Controller {
    ctx: Ctx,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

async fn run(ctx: Ctx) {
    let namespaces = ctx.informers.informer::<Namespace>();
    let accounts = ctx.informers.informer::<ServiceAccount>();
    namespaces.has_synced().await;
    accounts.has_synced().await;
    let queue = WorkQueue::default();
    namespaces.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::of(event.object().as_ref()))
    });
    accounts.on_event({
        let queue = queue.clone();
        move |event| {
            if let Event::Deleted(account) = event {
                queue.add(ObjectKey::cluster(account.metadata.namespace.clone().unwrap_or_default()));
            }
        }
    });
    let controller = Controller { ctx: ctx.clone(), namespaces, accounts };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, 1).await;
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let account = ObjectKey::new(&key.name, NAME);
        let wanted = self.namespaces.get(key).is_some_and(|namespace| is_active(&namespace));
        if !wanted || self.accounts.get(&account).is_some() {
            return Ok(Requeue::Never);
        }
        let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        let api = self.ctx.connection.namespaced::<ServiceAccount>(&key.name);
        match api.create(&PostParams::default(), &account).await {
            Ok(_) => Ok(Requeue::Never),
            Err(error) if error.is_already_exists() || error.is_not_found() || error.is_namespace_terminating() => {
                Ok(Requeue::Never)
            }
            Err(error) => Err(error.into()),
        }
    }
}
