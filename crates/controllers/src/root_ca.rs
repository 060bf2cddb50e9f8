//! Root CA publisher: keeps the ConfigMap `kube-root-ca.crt` with the cluster's CA in every active namespace.
//! Reads Namespace, ConfigMap. Writes ConfigMap.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;

use crate::api_error::ApiErrorExt;
use crate::namespace::is_active;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "root-ca-certificate-publisher-controller",
    alias: "root-ca-cert-publisher",
    account: "root-ca-cert-publisher",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION_KEY: &str = "kubernetes.io/description";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints \
    such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
    clusters.";

struct Controller {
    ctx: Ctx,
    namespaces: Informer<Namespace>,
    config_maps: Informer<ConfigMap>,
}

async fn run(ctx: Ctx) {
    // Only the published ones are worth a place in memory.
    let config_maps = ctx.informers.informer_of_fields::<ConfigMap>(&format!("metadata.name={NAME}"));
    let namespaces = ctx.informers.informer::<Namespace>();
    namespaces.has_synced().await;
    config_maps.has_synced().await;
    let queue = WorkQueue::default();
    namespaces.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::of(event.object().as_ref()))
    });
    config_maps.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::cluster(event.object().metadata.namespace.clone().unwrap_or_default()))
    });
    let controller = Controller { ctx: ctx.clone(), namespaces, config_maps };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, 1).await;
}

#[derive(Debug, PartialEq)]
enum Plan {
    Nothing,
    Create(ConfigMap),
    Replace(ConfigMap),
}

/// Same view, same plan. Touches nothing.
fn plan(ca: &str, current: Option<&ConfigMap>) -> Plan {
    let data: BTreeMap<String, String> = [("ca.crt".to_owned(), ca.to_owned())].into();
    let Some(current) = current else {
        let annotations = [(DESCRIPTION_KEY.to_owned(), DESCRIPTION.to_owned())].into();
        let metadata =
            ObjectMeta { name: Some(NAME.to_owned()), annotations: Some(annotations), ..ObjectMeta::default() };
        return Plan::Create(ConfigMap { metadata, data: Some(data), ..ConfigMap::default() });
    };
    let annotations = current.metadata.annotations.as_ref();
    let described =
        annotations.and_then(|annotations| annotations.get(DESCRIPTION_KEY)).is_some_and(|text| text == DESCRIPTION);
    if current.data.as_ref() == Some(&data) && described {
        return Plan::Nothing;
    }
    let mut wanted = current.clone();
    wanted.data = Some(data);
    wanted.metadata.annotations.get_or_insert_default().insert(DESCRIPTION_KEY.to_owned(), DESCRIPTION.to_owned());
    Plan::Replace(wanted)
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        if !self.namespaces.get(key).is_some_and(|namespace| is_active(&namespace)) {
            return Ok(Requeue::Never);
        }
        let current = self.config_maps.get(&ObjectKey::new(&key.name, NAME));
        let api = self.ctx.connection.namespaced::<ConfigMap>(&key.name);
        let written = match plan(&self.ctx.config.root_ca_pem, current.as_deref()) {
            Plan::Nothing => return Ok(Requeue::Never),
            Plan::Create(config_map) => api.create(&PostParams::default(), &config_map).await,
            Plan::Replace(config_map) => api.replace(NAME, &PostParams::default(), &config_map).await,
        };
        match written {
            Ok(_) => Ok(Requeue::Never),
            Err(error) if error.is_already_exists() || error.is_not_found() || error.is_namespace_terminating() => {
                Ok(Requeue::Never)
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_bundle_is_put_back_and_foreign_metadata_kept() {
        let Plan::Create(mut published) = plan("CA", None) else { panic!("nothing published") };
        assert_eq!(plan("CA", Some(&published)), Plan::Nothing);
        published.metadata.labels = Some([("mine".to_owned(), "yes".to_owned())].into());
        published.data.get_or_insert_default().insert("ca.crt".into(), "evil".into());
        let Plan::Replace(restored) = plan("CA", Some(&published)) else { panic!("nothing restored") };
        assert_eq!(restored.data, Some([("ca.crt".to_owned(), "CA".to_owned())].into()));
        assert_eq!(restored.metadata.labels, published.metadata.labels);
    }
}
