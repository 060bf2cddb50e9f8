//! ClusterRole aggregation: a ClusterRole with an aggregation rule has the rules of all ClusterRoles it selects.
//! Reads ClusterRole. Writes ClusterRole (server-side apply of `rules`). Source: RBAC docs.

use std::sync::Arc;

use client::{Informer, LabelSelectorExt, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::ownership::name;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "clusterrole-aggregation-controller",
    alias: "clusterrole-aggregation",
    account: "clusterrole-aggregation-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 5;

struct Controller {
    ctx: Ctx,
    roles: Informer<ClusterRole>,
}

async fn run(ctx: Ctx) {
    let roles = ctx.informers.informer::<ClusterRole>();
    let queue = WorkQueue::default();
    roles.on_event({
        let (queue, roles) = (queue.clone(), roles.clone());
        // Any role may be selected by any aggregate; there are few of both.
        move |_| {
            for role in roles.list().iter().filter(|role| role.aggregation_rule.is_some()) {
                queue.add(ObjectKey::of(role.as_ref()));
            }
        }
    });
    roles.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), roles };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

/// The rules the role should have, or None when it has them. Selectors in order, roles by name, each rule once.
fn plan(role: &ClusterRole, roles: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.iter().flatten();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        let selected = roles.iter().filter(|other| selector.takes(other.metadata.labels.as_ref()));
        for other in selected.filter(|other| name(&other.metadata) != name(&role.metadata)) {
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    (role.rules.clone().unwrap_or_default() != rules).then_some(rules)
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(role) = self.roles.get(key) else { return Ok(Requeue::Never) };
        let Some(rules) = plan(&role, &self.roles.list()) else { return Ok(Requeue::Never) };
        let applied = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": { "name": key.name },
            "rules": rules,
        });
        let params = PatchParams::apply(CONTROLLER.name).force();
        let api = self.ctx.connection.all::<ClusterRole>();
        match api.patch(&key.name, &params, &Patch::Apply(applied)).await {
            // A server without server-side apply gets the whole object.
            Err(kube::Error::Api(status)) if status.code == 415 => {
                let changed = ClusterRole { rules: Some(rules), ..role.as_ref().clone() };
                api.replace(&key.name, &PostParams::default(), &changed).await?;
            }
            written => drop(written?),
        }
        Ok(Requeue::Never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(role_name: &str, object: serde_json::Value) -> Arc<ClusterRole> {
        let mut role: ClusterRole = serde_json::from_value(object).unwrap();
        role.metadata.name = Some(role_name.into());
        Arc::new(role)
    }

    #[test]
    fn rules_are_the_union_of_selected_roles_without_repeats() {
        let get = |resource: &str| json!({ "apiGroups": [""], "resources": [resource], "verbs": ["get"] });
        let part = |rules: Vec<serde_json::Value>| json!({ "metadata": { "labels": { "agg": "x" } }, "rules": rules });
        let selectors = json!([{ "matchLabels": { "agg": "x" } }]);
        let all = [
            role("a", part(vec![get("pods"), get("secrets")])),
            role("b", part(vec![get("pods"), get("nodes")])),
            role("other", json!({ "rules": [get("events")] })),
            role("sum", json!({ "aggregationRule": { "clusterRoleSelectors": selectors }, "rules": [get("old")] })),
        ];
        let rules = plan(&all[3], &all).unwrap();
        let resources: Vec<_> = rules.iter().flat_map(|rule| rule.resources.clone().unwrap_or_default()).collect();
        assert_eq!(resources, ["pods", "secrets", "nodes"]);
        assert_eq!(plan(&all[2], &all), None);
    }
}
