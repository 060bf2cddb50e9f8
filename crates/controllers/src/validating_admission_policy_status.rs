//! ValidatingAdmissionPolicy status: type checks the expressions of policies against the kinds they are for. Warnings only; a
//! policy is in force whatever they say.
//! Reads ValidatingAdmissionPolicy, and the schemas of kinds that are not built in. Writes ValidatingAdmissionPolicy.status
//! (server-side apply).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use api::Value;
use api::cel::Declared;
use api::cel::typed::{Gvr, Kinds, checked_status};
use api::json;
use client::{Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use kube::api::{GetParams, Patch, PatchParams, Request};

use crate::api_error::ApiErrorExt;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "validatingadmissionpolicy-status-controller",
    alias: "",
    account: "validatingadmissionpolicy-status-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 5;

struct Controller {
    ctx: Ctx,
    policies: Informer<ValidatingAdmissionPolicy>,
}

async fn run(ctx: Ctx) {
    let policies = ctx.informers.informer::<ValidatingAdmissionPolicy>();
    let queue = WorkQueue::default();
    policies.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::of(event.object().as_ref()))
    });
    policies.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), policies };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

/// The kinds that a policy may name: the built-in ones, and those of the group-versions that were asked for.
#[derive(Debug, Default)]
struct Known {
    kinds: HashMap<[String; 3], String>,
    schemas: HashMap<[String; 3], Value>,
}

fn key((group, version, name): Gvr<'_>) -> [String; 3] {
    [group.to_owned(), version.to_owned(), name.to_owned()]
}

impl Kinds for Known {
    fn kind_of(&self, resource: Gvr<'_>) -> Option<String> {
        let (group, version, name) = resource;
        let built_in = api::kinds::builtin().by_resource(group, version, name).map(|kind| kind.kind.to_string());
        built_in.or_else(|| self.kinds.get(&key(resource)).cloned())
    }

    fn declared(&self, kind: Gvr<'_>) -> Option<Declared> {
        let (group, version, name) = kind;
        if let Some(kind) = api::kinds::builtin().by_kind(group, version, name) {
            return Some(Declared::of_kind(kind));
        }
        Declared::of_crd(self.schemas.get(&key(kind))?, name)
    }
}

/// The group-versions that a policy names and that are not built in.
fn foreign(policy: &Value) -> BTreeSet<(String, String)> {
    let spec = &policy["spec"];
    let mut named = BTreeSet::new();
    for rule in spec["matchConstraints"]["resourceRules"].as_array().into_iter().flatten() {
        let texts = |field: &str| rule[field].as_array().into_iter().flatten().filter_map(Value::as_str);
        for group in texts("apiGroups") {
            named.extend(texts("apiVersions").map(|version| (group.to_owned(), version.to_owned())));
        }
    }
    if let Some((group, version)) = spec["paramKind"]["apiVersion"].as_str().and_then(|v| v.split_once('/')) {
        named.insert((group.to_owned(), version.to_owned()));
    }
    named.retain(|(group, version)| {
        let registry = api::kinds::builtin();
        !format!("{group}{version}").contains('*') && registry.of_group_version(group, version).next().is_none()
    });
    named
}

/// There is nothing at a path; the server says so in plain text.
fn is_unserved(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

impl Controller {
    /// What the API server says of a group-version. One that it does not serve has no kinds.
    async fn learn(&self, group: &str, version: &str, known: &mut Known) -> Result<(), kube::Error> {
        let client = self.ctx.connection.client();
        let resources = match client.list_api_group_resources(&format!("{group}/{version}")).await {
            Ok(resources) => resources,
            Err(error) if is_unserved(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        for resource in resources.resources.into_iter().filter(|resource| !resource.name.contains('/')) {
            known.kinds.insert(key((group, version, &resource.name)), resource.kind);
        }
        let request = Request::new(format!("/openapi/v3/apis/{group}")).get(version, &GetParams::default());
        let request = request.map_err(kube::Error::BuildRequest)?;
        let document: Value = match client.request(request).await {
            Ok(document) => document,
            Err(error) if is_unserved(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        for schema in document["components"]["schemas"].as_object().into_iter().flat_map(|schemas| schemas.values()) {
            for gvk in schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
                if (gvk["group"].as_str(), gvk["version"].as_str()) == (Some(group), Some(version)) {
                    let kind = gvk["kind"].as_str().unwrap_or("");
                    known.schemas.insert(key((group, version, kind)), schema.clone());
                }
            }
        }
        Ok(())
    }
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(policy) = self.policies.get(key) else { return Ok(Requeue::Never) };
        let observed = policy.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
        if policy.metadata.generation.unwrap_or(0) <= observed {
            return Ok(Requeue::Never);
        }
        let Ok(policy) = api::value::to_value(policy.as_ref()) else { return Ok(Requeue::Never) };
        let mut known = Known::default();
        for (group, version) in foreign(&policy) {
            self.learn(&group, &version, &mut known).await?;
        }
        let applied = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": { "name": key.name },
            "status": checked_status(&policy, &known),
        });
        let params = PatchParams::apply(CONTROLLER.name).force();
        let api = self.ctx.connection.all::<ValidatingAdmissionPolicy>();
        match api.patch_status(&key.name, &params, &Patch::Apply(applied)).await {
            Ok(_) => Ok(Requeue::Never),
            Err(error) if error.is_not_found() => Ok(Requeue::Never),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(group: &str, resource: &str, expressions: &[&str]) -> Value {
        let validations: Vec<Value> = expressions.iter().map(|e| json!({ "expression": e })).collect();
        json!({
            "metadata": { "generation": 3 },
            "spec": {
                "matchConstraints": { "resourceRules": [
                    { "apiGroups": [group], "apiVersions": ["v1"], "resources": [resource], "operations": ["*"] }
                ] },
                "variables": [{ "name": "replicas", "expression": "object.spec.replicas" }],
                "validations": validations,
            }
        })
    }

    #[test]
    fn expressions_are_checked_against_built_in_kinds() {
        let expressions = ["object.spec.nope > 1", "variables.replicas > 1", "variables.replicas == 'x'"];
        let status = checked_status(&policy("apps", "deployments", &expressions), &Known::default());
        assert_eq!(
            status,
            json!({ "observedGeneration": 3, "typeChecking": { "expressionWarnings": [
                { "fieldRef": "spec.validations[0].expression", "warning":
                    "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'nope'\n \
                     | object.spec.nope > 1\n | ...........^\n" },
                { "fieldRef": "spec.validations[2].expression", "warning":
                    "apps/v1, Kind=Deployment: ERROR: <input>:1:20: found no matching overload for '_==_' applied to \
                     '(int, string)'\n | variables.replicas == 'x'\n | ...................^\n" },
            ] } })
        );
        assert_eq!(
            checked_status(&policy("apps", "*", &["object.spec.nope > 1"]), &Known::default())["typeChecking"],
            json!({})
        );
    }

    #[test]
    fn expressions_are_checked_against_custom_kinds() {
        let mut known = Known::default();
        known.kinds.insert(key(("g", "v1", "crons")), "Cron".to_owned());
        let text = json!({ "type": "string" });
        let spec = json!({ "type": "object", "properties": { "replicas": { "type": "integer" }, "schedule": text } });
        let schema = json!({ "type": "object", "properties": { "spec": spec, "metadata": { "$ref": "#/x" } } });
        known.schemas.insert(key(("g", "v1", "Cron")), schema);
        let policy =
            policy("g", "crons", &["object.spec.schedule > 1", "object.metadata.labels.size() < variables.replicas"]);
        assert_eq!(foreign(&policy), BTreeSet::from([("g".to_owned(), "v1".to_owned())]));
        let warnings = checked_status(&policy, &known)["typeChecking"]["expressionWarnings"].clone();
        assert_eq!(warnings.as_array().map(Vec::len), Some(1));
        let warning = warnings[0]["warning"].as_str().unwrap();
        let expected =
            "g/v1, Kind=Cron: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(string, int)'";
        assert!(warning.starts_with(expected), "{warning}");
    }
}
