//! Bootstrap signer: keeps a signature of the ConfigMap kube-public/cluster-info by every bootstrap token that is for signing, so
//! that a machine that knows the token knows that it found its cluster.
//! Reads Secret, ConfigMap. Writes ConfigMap.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use client::{Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::PostParams;
use ring::hmac;

use super::{SECRET_NAMESPACE, SECRET_PREFIX, data, is_expired, token_secrets};
use crate::api_error::ApiErrorExt;
use crate::ownership::{name, namespace};
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "bootstrap-signer-controller",
    alias: "bootstrapsigner",
    account: "bootstrap-signer",
    on_by_default: false,
    run: |ctx| run(ctx).boxed(),
};

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const KUBECONFIG: &str = "kubeconfig";
const SIGNATURE_PREFIX: &str = "jws-kubeconfig-";

struct Controller {
    ctx: Ctx,
    config_maps: Informer<ConfigMap>,
    secrets: Informer<Secret>,
}

async fn run(ctx: Ctx) {
    let config_maps = ctx.informers.informer_of_fields::<ConfigMap>(&format!("metadata.name={NAME}"));
    let secrets = token_secrets(&ctx);
    let queue = WorkQueue::default();
    let wake = {
        let queue = queue.clone();
        move || queue.add(ObjectKey::new(NAMESPACE, NAME))
    };
    secrets.on_event({
        let wake = wake.clone();
        move |_| wake()
    });
    config_maps.on_event(move |_| wake());
    config_maps.has_synced().await;
    secrets.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), config_maps, secrets };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, 1).await;
}

/// Id and secret of a token that is for signing now.
fn signing_token(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let id = name(&secret.metadata).strip_prefix(SECRET_PREFIX)?;
    let is_good = namespace(&secret.metadata) == SECRET_NAMESPACE
        && secret.metadata.deletion_timestamp.is_none()
        && data(secret, "token-id") == Some(id)
        && data(secret, "usage-bootstrap-signing") == Some("true")
        && !is_expired(secret, now);
    let token = data(secret, "token-secret").filter(|token| !token.is_empty())?;
    is_good.then_some((id, token))
}

/// A JSON Web Signature (RFC 7515, HS256) whose payload is left out.
fn detached_signature(content: &str, id: &str, token: &str) -> String {
    let header = BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let payload = BASE64_URL_SAFE_NO_PAD.encode(content);
    let key = hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes());
    let signature = BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&key, format!("{header}.{payload}").as_bytes()));
    format!("{header}..{signature}")
}

/// The ConfigMap's data with exactly the signatures of these tokens; None when it has them already. Same view, same plan.
fn plan(old: &BTreeMap<String, String>, secrets: &[Arc<Secret>], now: Timestamp) -> Option<BTreeMap<String, String>> {
    let content = old.get(KUBECONFIG)?;
    let mut new: BTreeMap<String, String> = old.clone();
    new.retain(|key, _| !key.starts_with(SIGNATURE_PREFIX));
    for (id, token) in secrets.iter().filter_map(|secret| signing_token(secret, now)) {
        new.insert(format!("{SIGNATURE_PREFIX}{id}"), detached_signature(content, id, token));
    }
    (new != *old).then_some(new)
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(config_map) = self.config_maps.get(key) else { return Ok(Requeue::Never) };
        let old = config_map.data.clone().unwrap_or_default();
        let Some(new) = plan(&old, &self.secrets.list(), Timestamp::now()) else { return Ok(Requeue::Never) };
        let changed = ConfigMap { data: Some(new), ..config_map.as_ref().clone() };
        let api = self.ctx.connection.namespaced::<ConfigMap>(NAMESPACE);
        match api.replace(NAME, &PostParams::default(), &changed).await {
            Ok(_) => Ok(Requeue::Never),
            Err(error) if error.is_not_found() => Ok(Requeue::Never),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn secret(id: &str, expiration: &str) -> Arc<Secret> {
        let text = |text: &str| base64::prelude::BASE64_STANDARD.encode(text);
        Arc::new(
            serde_json::from_value(json!({
                "metadata": { "name": format!("{SECRET_PREFIX}{id}"), "namespace": SECRET_NAMESPACE },
                "data": {
                    "token-id": text(id), "token-secret": text("0123456789abcdef"), "expiration": text(expiration),
                    "usage-bootstrap-signing": text("true"),
                },
            }))
            .unwrap(),
        )
    }

    #[test]
    fn every_living_token_signs_and_dead_signatures_go() {
        let old = BTreeMap::from([
            (KUBECONFIG.to_owned(), "test".to_owned()),
            (format!("{SIGNATURE_PREFIX}old000"), "x".to_owned()),
        ]);
        let now: Timestamp = "2024-01-01T00:00:00Z".parse().unwrap();
        let secrets = [secret("abcdef", "2024-01-02T00:00:00Z"), secret("ghijkl", "2023-01-02T00:00:00Z")];
        let new = plan(&old, &secrets, now).unwrap();
        assert_eq!(new.keys().collect::<Vec<_>>(), ["jws-kubeconfig-abcdef", "kubeconfig"]);
        assert_eq!(plan(&new, &secrets, now), None);
        assert_eq!(plan(&BTreeMap::new(), &secrets, now), None, "nothing to sign");
    }

    #[test]
    fn a_signature_is_header_and_mac_without_the_payload() {
        let signature = detached_signature("test", "abcdef", "secret");
        let parts: Vec<&str> = signature.split('.').collect();
        assert_eq!((parts[0], parts[1]), ("eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9", ""));
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        let mac = BASE64_URL_SAFE_NO_PAD.decode(parts[2]).unwrap();
        hmac::verify(&key, format!("{}.dGVzdA", parts[0]).as_bytes(), &mac).unwrap();
    }
}
