//! Service account token controller: fills Secrets of type `kubernetes.io/service-account-token`, and deletes those whose account
//! is gone. It makes none: that ended with Kubernetes v1.24.
//! Reads ServiceAccount, Secret. Writes Secret.

use std::fmt;
use std::sync::Arc;

use client::{Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, PostParams, Preconditions};

use crate::api_error::ApiErrorExt;
use crate::ownership::{name, namespace, uid};
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "serviceaccount-token-controller",
    alias: "serviceaccount-token",
    // It acts as the controller manager itself: it must work before any account has a token.
    account: "",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 5;
pub(crate) const TYPE: &str = "kubernetes.io/service-account-token";
pub(crate) const NAME_ANNOTATION: &str = "kubernetes.io/service-account.name";
pub(crate) const UID_ANNOTATION: &str = "kubernetes.io/service-account.uid";
const TOKEN: &str = "token";
const NAMESPACE: &str = "namespace";
const ROOT_CA: &str = "ca.crt";

/// Makes the token of an account that a Secret of this name holds; it lasts as long as the Secret does.
#[derive(Clone)]
pub struct TokenMaker(Arc<Make>);

type Make = dyn Fn(&ServiceAccount, &str) -> Result<String, String> + Send + Sync;

impl TokenMaker {
    pub fn new(make: impl Fn(&ServiceAccount, &str) -> Result<String, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }
}

impl fmt::Debug for TokenMaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenMaker")
    }
}

struct Controller {
    ctx: Ctx,
    accounts: Informer<ServiceAccount>,
    secrets: Informer<Secret>,
    maker: TokenMaker,
}

/// The Secrets that hold tokens; others are not worth a place in memory.
pub(crate) fn token_secrets(ctx: &Ctx) -> Informer<Secret> {
    ctx.informers.informer_of_fields(&format!("type={TYPE}"))
}

pub(crate) fn annotation<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    secret.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

async fn run(ctx: Ctx) {
    let Some(maker) = ctx.config.token_maker.clone() else {
        // Without --service-account-private-key-file there is nothing to sign with, as upstream.
        return ctx.shutdown.cancelled().await;
    };
    let accounts = ctx.informers.informer::<ServiceAccount>();
    let secrets = token_secrets(&ctx);
    secrets.add_index("account", |secret| {
        let account = annotation(secret, NAME_ANNOTATION);
        account.map(|account| ObjectKey::new(namespace(&secret.metadata), account).to_string()).into_iter().collect()
    });
    accounts.has_synced().await;
    secrets.has_synced().await;
    let queue = WorkQueue::default();
    secrets.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::of(event.object().as_ref()))
    });
    accounts.on_event({
        let (queue, secrets) = (queue.clone(), secrets.clone());
        move |event| {
            let account = ObjectKey::of(event.object().as_ref()).to_string();
            secrets.by_index("account", &account).iter().for_each(|secret| queue.add(ObjectKey::of(secret.as_ref())));
        }
    });
    let controller = Controller { ctx: ctx.clone(), accounts, secrets, maker };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

/// What a token Secret lacks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Missing {
    root_ca: bool,
    namespace: bool,
    token: bool,
}

fn missing(secret: &Secret, root_ca: &str) -> Missing {
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map_or(&[][..], |value| &value.0);
    Missing {
        root_ca: !root_ca.is_empty() && data(ROOT_CA) != root_ca.as_bytes(),
        namespace: data(NAMESPACE).is_empty(),
        token: data(TOKEN).is_empty(),
    }
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(secret) = self.secrets.get(key) else { return Ok(Requeue::Never) };
        let Some(account_name) = annotation(&secret, NAME_ANNOTATION) else { return Ok(Requeue::Never) };
        let Some(account) = self.account(&secret, account_name).await? else { return self.delete(key, &secret).await };
        let missing = missing(&secret, &self.ctx.config.root_ca_pem);
        if missing == Missing::default() {
            return Ok(Requeue::Never);
        }
        let mut changed = secret.as_ref().clone();
        let annotations = changed.metadata.annotations.get_or_insert_default();
        annotations.insert(NAME_ANNOTATION.to_owned(), account_name.to_owned());
        annotations.insert(UID_ANNOTATION.to_owned(), uid(&account.metadata).to_owned());
        let data = changed.data.get_or_insert_default();
        if missing.root_ca {
            data.insert(ROOT_CA.to_owned(), ByteString(self.ctx.config.root_ca_pem.clone().into_bytes()));
        }
        if missing.namespace {
            data.insert(NAMESPACE.to_owned(), ByteString(key.namespace.clone().into_bytes()));
        }
        if missing.token {
            let token = (self.maker.0)(&account, &key.name).map_err(ReconcileError::NotYet)?;
            data.insert(TOKEN.to_owned(), ByteString(token.into_bytes()));
        }
        let api = self.ctx.connection.namespaced::<Secret>(&key.namespace);
        match api.replace(&key.name, &PostParams::default(), &changed).await {
            Ok(_) => Ok(Requeue::Never),
            // The cache was behind: the next event brings the key back.
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(Requeue::Never),
            Err(error) => Err(error.into()),
        }
    }
}

impl Controller {
    /// The account the Secret is for; None when it is gone, or another of the same name.
    async fn account(&self, secret: &Secret, account: &str) -> Result<Option<Arc<ServiceAccount>>, ReconcileError> {
        let wanted = annotation(secret, UID_ANNOTATION).filter(|uid| !uid.is_empty());
        let is_it = |account: &Arc<ServiceAccount>| wanted.is_none_or(|wanted| wanted == uid(&account.metadata));
        let key = ObjectKey::new(namespace(&secret.metadata), account);
        if let Some(account) = self.accounts.get(&key).filter(is_it) {
            return Ok(Some(account));
        }
        let live = self.ctx.connection.namespaced::<ServiceAccount>(&key.namespace).get_opt(&key.name).await?;
        Ok(live.map(Arc::new).filter(is_it))
    }

    async fn delete(&self, key: &ObjectKey, secret: &Secret) -> Result<Requeue, ReconcileError> {
        let preconditions = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
        let api = self.ctx.connection.namespaced::<Secret>(&key.namespace);
        match api.delete(&key.name, &DeleteParams::default().preconditions(preconditions)).await {
            Ok(_) => Ok(Requeue::Never),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(Requeue::Never),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether an account lists a Secret: it was made for the account, in the days when the cluster did that.
pub(crate) fn lists(account: &ServiceAccount, secret: &Secret) -> bool {
    account.secrets.iter().flatten().any(|one| one.name.as_deref() == Some(name(&secret.metadata)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_secret_lacks_is_filled_and_what_it_has_stays() {
        let secret = |data| -> Secret { serde_json::from_value(json!({ "metadata": {}, "data": data })).unwrap() };
        assert_eq!(missing(&secret(json!({})), "ca"), Missing { root_ca: true, namespace: true, token: true });
        assert_eq!(missing(&secret(json!({})), ""), Missing { root_ca: false, namespace: true, token: true });
        let full = secret(json!({ "ca.crt": "Y2E=", "namespace": "bg==", "token": "dA==" }));
        assert_eq!(missing(&full, "ca"), Missing::default());
        assert!(missing(&full, "another").root_ca);
    }
}
