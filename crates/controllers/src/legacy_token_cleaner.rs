//! Legacy service account token cleaner: token Secrets that the cluster made by itself, and that nobody has used for a year, are
//! first marked invalid and a year later deleted.
//! Reads Secret, ServiceAccount, Pod, the tracking ConfigMap. Writes Secret. Source: KEP-2799.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use client::ObjectKey;
use futures::FutureExt;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tracing::{info, warn};

use crate::api_error::ApiErrorExt;
use crate::ownership::{name, namespace, uid};
use crate::service_account_token::{NAME_ANNOTATION, UID_ANNOTATION, annotation, lists, token_secrets};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "legacy-serviceaccount-token-cleaner-controller",
    alias: "legacy-service-account-token-cleaner",
    account: "legacy-service-account-token-cleaner",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const PERIOD: Duration = Duration::from_secs(24 * 3600);
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";

async fn run(ctx: Ctx) {
    let secrets = token_secrets(&ctx);
    let accounts = ctx.informers.informer::<ServiceAccount>();
    let pods = ctx.informers.informer::<Pod>();
    secrets.has_synced().await;
    accounts.has_synced().await;
    pods.has_synced().await;
    loop {
        let tracked_since = tracked_since(&ctx).await;
        let mounted = |in_namespace: &str| -> BTreeSet<String> {
            pods.by_namespace(in_namespace).iter().flat_map(|pod| secrets_of(pod)).collect()
        };
        let mut mounts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for secret in secrets.list() {
            let in_namespace = namespace(&secret.metadata).to_owned();
            let account = annotation(&secret, NAME_ANNOTATION)
                .and_then(|account| accounts.get(&ObjectKey::new(&in_namespace, account)));
            let mounts = mounts.entry(in_namespace).or_insert_with_key(|in_namespace| mounted(in_namespace));
            let view = View {
                secret: &secret,
                account: account.as_deref(),
                is_mounted: mounts.contains(name(&secret.metadata)),
                tracked_since,
                unused_for: ctx.config.legacy_token_clean_up_period,
                now: Timestamp::now(),
            };
            carry_out(&ctx, &secret, plan(&view)).await;
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = ctx.shutdown.cancelled() => return,
        }
    }
}

/// The end of the day on which the API server began to note the use of tokens.
async fn tracked_since(ctx: &Ctx) -> Option<Date> {
    let api = ctx.connection.namespaced::<ConfigMap>("kube-system");
    match api.get_opt(TRACKING).await {
        Ok(found) => found?.data?.get("since")?.parse::<Date>().ok()?.checked_add(1.day()).ok(),
        Err(error) => {
            warn!(%error, "cannot tell since when the use of tokens is tracked");
            None
        }
    }
}

/// Names of all Secrets a pod mounts, reads variables from, or pulls images with.
fn secrets_of(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut names: Vec<String> = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        names.extend(volume.secret.iter().filter_map(|secret| secret.secret_name.clone()));
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        names.extend(sources.filter_map(|source| source.secret.as_ref()).map(|secret| secret.name.clone()));
    }
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for container in containers {
        let from = container.env_from.iter().flatten();
        names.extend(from.filter_map(|one| one.secret_ref.as_ref()).map(|secret| secret.name.clone()));
        let variables = container.env.iter().flatten().filter_map(|one| one.value_from.as_ref());
        names.extend(variables.filter_map(|one| one.secret_key_ref.as_ref()).map(|secret| secret.name.clone()));
    }
    names.extend(spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone()));
    names
}

struct View<'a> {
    secret: &'a Secret,
    account: Option<&'a ServiceAccount>,
    is_mounted: bool,
    tracked_since: Option<Date>,
    unused_for: Duration,
    now: Timestamp,
}

#[derive(Debug, PartialEq)]
enum Plan {
    Keep,
    MarkInvalid { since: Date },
    Delete,
}

/// Same view, same plan. Touches nothing.
fn plan(view: &View<'_>) -> Plan {
    let date = |at: Timestamp| at.to_zoned(TimeZone::UTC).date();
    let unused_for = SignedDuration::try_from(view.unused_for).unwrap_or(SignedDuration::MAX);
    let Ok(limit) = view.now.checked_sub(unused_for) else { return Plan::Keep };
    let limit_date = date(limit);
    let meta = &view.secret.metadata;
    let label = |key: &str| meta.labels.as_ref().and_then(|labels| labels.get(key));
    let is_old = meta.creation_timestamp.as_ref().is_some_and(|created| created.0 < limit);
    let tracked_long_enough = view.tracked_since.is_some_and(|since| since <= limit_date);
    if !is_old || !tracked_long_enough || meta.deletion_timestamp.is_some() || view.is_mounted {
        return Plan::Keep;
    }
    if let Some(last_used) = label(LAST_USED) {
        match last_used.parse::<Date>() {
            Ok(last_used) if last_used < limit_date => {}
            _ => return Plan::Keep,
        }
    }
    let wanted = annotation(view.secret, UID_ANNOTATION).filter(|uid| !uid.is_empty());
    let is_made_for = |account: &&ServiceAccount| {
        wanted.is_none_or(|wanted| wanted == uid(&account.metadata)) && lists(account, view.secret)
    };
    if view.account.filter(is_made_for).is_none() {
        return Plan::Keep;
    }
    match label(INVALID_SINCE).and_then(|since| since.parse::<Date>().ok()) {
        None => Plan::MarkInvalid { since: date(view.now) },
        Some(since) if since >= limit_date => Plan::Keep,
        Some(_) => Plan::Delete,
    }
}

async fn carry_out(ctx: &Ctx, secret: &Secret, plan: Plan) {
    let key = ObjectKey::of(secret);
    let api = ctx.connection.namespaced::<Secret>(&key.namespace);
    let result = match plan {
        Plan::Keep => return,
        Plan::MarkInvalid { since } => {
            info!(%key, %since, "unused service account token marked invalid");
            let labels = json!({ INVALID_SINCE: since.to_string() });
            let change = json!({ "metadata": { "uid": secret.metadata.uid, "labels": labels } });
            api.patch(&key.name, &PatchParams::default(), &Patch::Merge(change)).await.map(drop)
        }
        Plan::Delete => {
            info!(%key, "unused service account token deleted");
            let preconditions = Preconditions { uid: None, resource_version: secret.metadata.resource_version.clone() };
            api.delete(&key.name, &DeleteParams::default().preconditions(preconditions)).await.map(drop)
        }
    };
    match result {
        Ok(()) => {}
        Err(error) if error.is_not_found() || error.is_conflict() => {}
        Err(error) => warn!(%key, %error, "unused service account token not cleaned up"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unused_token_is_marked_and_goes_a_year_later() {
        let account: ServiceAccount = serde_json::from_value(
            json!({ "metadata": { "name": "a", "uid": "u" }, "secrets": [{ "name": "a-token-x" }] }),
        )
        .unwrap();
        let year = Duration::from_secs(365 * 24 * 3600);
        let planned = |labels: serde_json::Value, secret_name: &str, is_mounted: bool| {
            let secret: Secret = serde_json::from_value(json!({ "metadata": {
                "name": secret_name, "labels": labels, "creationTimestamp": "2020-01-01T00:00:00Z",
                "annotations": { NAME_ANNOTATION: "a", UID_ANNOTATION: "u" },
            } }))
            .unwrap();
            plan(&View {
                secret: &secret,
                account: Some(&account),
                is_mounted,
                tracked_since: Some(jiff::civil::date(2020, 1, 2)),
                unused_for: year,
                now: "2024-06-01T12:00:00Z".parse().unwrap(),
            })
        };
        let today = jiff::civil::date(2024, 6, 1);
        assert_eq!(planned(json!({}), "a-token-x", false), Plan::MarkInvalid { since: today });
        assert_eq!(planned(json!({}), "a-token-x", true), Plan::Keep, "a pod mounts it");
        assert_eq!(planned(json!({}), "mine", false), Plan::Keep, "made by a user");
        assert_eq!(planned(json!({ LAST_USED: "2024-05-01" }), "a-token-x", false), Plan::Keep);
        assert_eq!(planned(json!({ INVALID_SINCE: "2024-01-01" }), "a-token-x", false), Plan::Keep);
        assert_eq!(planned(json!({ INVALID_SINCE: "2023-01-01" }), "a-token-x", false), Plan::Delete);
    }
}
