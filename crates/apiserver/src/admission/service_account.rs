//! ServiceAccount: every pod has one, and by default a volume with its token, the cluster's CA and its namespace.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::json;
use api::{Status, Value};

use super::{Context, Operation, Request, items, list_mut};

const DEFAULT: &str = "default";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const MIRROR: &str = "kubernetes.io/config.mirror";
const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";
/// An hour and seven seconds: recognised later as a token nobody chose the lifetime of.
const TOKEN_SECONDS: u32 = 3607;

fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"][MIRROR].is_null()
}

fn account_name(pod: &Value) -> &str {
    pod["spec"]["serviceAccountName"].as_str().unwrap_or_default()
}

pub(super) fn admit(request: &Request<'_>, pod: &mut Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    if !request.is_whole("", "pods") || request.operation != Operation::Create {
        return Ok(());
    }
    // A mirror pod shows what a node runs: changing it would make it another pod.
    if is_mirror(pod) {
        return validate(request, pod, ctx);
    }
    if account_name(pod).is_empty() {
        pod["spec"]["serviceAccountName"] = json!(DEFAULT);
        // The older name of the same field; both are always present together.
        pod["spec"]["serviceAccount"] = json!(DEFAULT);
    }
    let account = account(request, pod, ctx)?;
    let automount = pod["spec"]["automountServiceAccountToken"]
        .as_bool()
        .or_else(|| account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if automount {
        mount_token(pod, ctx.suffix);
    }
    if items(&pod["spec"], "imagePullSecrets").len() == 0 && items(&account, "imagePullSecrets").len() > 0 {
        pod["spec"]["imagePullSecrets"] = account["imagePullSecrets"].clone();
    }
    validate(request, pod, ctx)
}

pub(super) fn validate(request: &Request<'_>, pod: &Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    let new_pod = request.is_whole("", "pods") && request.operation == Operation::Create;
    let new_containers = request.is("", "pods")
        && request.subresource == "ephemeralcontainers"
        && request.operation == Operation::Update;
    if !new_pod && !new_containers {
        return Ok(());
    }
    if is_mirror(pod) && new_pod {
        return validate_mirror(request, pod);
    }
    // A pod from before this rule, or a mirror pod.
    if new_containers && account_name(pod).is_empty() {
        return Ok(());
    }
    let account = account(request, pod, ctx)?;
    let enforces = account["metadata"]["annotations"][ENFORCE_MOUNTABLE].as_str().is_some_and(is_true);
    if enforces { limit_secrets(&account, pod).map_err(|text| request.forbidden(pod, &text)) } else { Ok(()) }
}

/// Go's `strconv.ParseBool`.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

fn account(request: &Request<'_>, pod: &Value, ctx: &Context<'_>) -> Result<Arc<Value>, Status> {
    let name = account_name(pod);
    ctx.get("", "serviceaccounts", request.namespace, name).ok_or_else(|| {
        let text = format!(
            "error looking up service account {}/{name}: serviceaccount \"{name}\" not found",
            request.namespace
        );
        request.forbidden(pod, &text)
    })
}

fn validate_mirror(request: &Request<'_>, pod: &Value) -> Result<(), Status> {
    let refuse = |text: &str| Err(request.forbidden(pod, text));
    if !account_name(pod).is_empty() {
        return refuse("a mirror pod may not reference service accounts");
    }
    if !crate::authz::node::secret_names(&pod["spec"]).is_empty() {
        return refuse("a mirror pod may not reference secrets");
    }
    let has_token = items(&pod["spec"], "volumes")
        .any(|volume| items(&volume["projected"], "sources").any(|source| !source["serviceAccountToken"].is_null()));
    if has_token {
        return refuse("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

/// Mounts the token in every container that has nothing at its path; the volume only if a container needs it.
fn mount_token(pod: &mut Value, suffix: &str) {
    let prefix = "kube-api-access-";
    let existing = items(&pod["spec"], "volumes").find_map(|volume| {
        let name = volume["name"].as_str()?;
        name.starts_with(prefix).then(|| name.to_owned())
    });
    let name = existing.clone().unwrap_or_else(|| format!("{prefix}{suffix}"));
    let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        let Some(containers) = pod["spec"].get_mut(list).and_then(Value::as_array_mut) else { continue };
        for container in containers {
            if items(container, "volumeMounts").any(|m| m["mountPath"] == MOUNT_PATH) {
                continue;
            }
            if let Some(mounts) = list_mut(container, "volumeMounts") {
                mounts.push(mount.clone());
                needed = true;
            }
        }
    }
    if existing.is_none()
        && needed
        && let Some(volumes) = list_mut(&mut pod["spec"], "volumes")
    {
        volumes.push(token_volume(&name));
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{
                    "path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }]}},
            ],
            "defaultMode": 420,
        },
    })
}

/// The account may insist that its pods use no secrets but those it names.
fn limit_secrets(account: &Value, pod: &Value) -> Result<(), String> {
    let names = |field: &str| -> BTreeSet<String> {
        items(account, field).filter_map(|r| r["name"].as_str().map(str::to_owned)).collect()
    };
    let (mountable, pull) = (names("secrets"), names("imagePullSecrets"));
    let owner = api::meta::name(account);
    for volume in items(&pod["spec"], "volumes") {
        if let Some(secret) = volume["secret"]["secretName"].as_str().filter(|s| !mountable.contains(*s)) {
            return Err(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account {owner} does not reference \
                 that secret"
            ));
        }
    }
    for (list, what) in [
        ("initContainers", "init container"),
        ("containers", "container"),
        ("ephemeralContainers", "ephemeral container"),
    ] {
        for container in items(&pod["spec"], list) {
            let name = container["name"].as_str().unwrap_or_default();
            for env in items(container, "env") {
                let secret = env["valueFrom"]["secretKeyRef"]["name"].as_str();
                if let Some(secret) = secret.filter(|s| !mountable.contains(*s)) {
                    let variable = env["name"].as_str().unwrap_or_default();
                    return Err(format!(
                        "{what} {name} with envVar {variable} referencing secret.secretName=\"{secret}\" is not allowed \
                         because service account {owner} does not reference that secret"
                    ));
                }
            }
            for source in items(container, "envFrom") {
                if let Some(secret) = source["secretRef"]["name"].as_str().filter(|s| !mountable.contains(*s)) {
                    return Err(format!(
                        "{what} {name} with envFrom referencing secret.secretName=\"{secret}\" is not allowed because \
                         service account {owner} does not reference that secret"
                    ));
                }
            }
        }
    }
    for (i, reference) in items(&pod["spec"], "imagePullSecrets").enumerate() {
        let name = reference["name"].as_str().unwrap_or_default();
        if !pull.contains(name) {
            return Err(format!(
                "imagePullSecrets[{i}].name=\"{name}\" is not allowed because service account {owner} does not reference \
                 that imagePullSecret"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::testing::{World, request},
        attributes::UserInfo,
    };

    fn run(world: &World, pod: Value) -> Result<Value, String> {
        let user = UserInfo::default();
        world.run("ServiceAccount", &request(Operation::Create, "", "pods", &user), pod)
    }

    fn pod(spec: Value) -> Value {
        let mut pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}]}});
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        pod
    }

    #[test]
    fn a_pod_gets_the_default_account_and_its_token() {
        let pod = run(&World::new(), pod(json!({}))).unwrap();
        assert_eq!(pod["spec"]["serviceAccountName"], "default");
        assert_eq!(
            pod["spec"]["containers"][0]["volumeMounts"],
            json!([{"name": "kube-api-access-x7k2p", "readOnly": true, "mountPath": MOUNT_PATH}])
        );
        assert_eq!(pod["spec"]["volumes"], json!([token_volume("kube-api-access-x7k2p")]));
    }

    #[test]
    fn the_pods_own_word_on_mounting_wins() {
        let world = World::new().with(
            "",
            "serviceaccounts",
            json!({"metadata": {"name": "s", "namespace": "ns"}, "automountServiceAccountToken": false,
                   "imagePullSecrets": [{"name": "reg"}]}),
        );
        let off = run(&world, pod(json!({"serviceAccountName": "s"}))).unwrap();
        assert_eq!(
            (&off["spec"]["volumes"], &off["spec"]["imagePullSecrets"]),
            (&Value::Null, &json!([{"name": "reg"}]))
        );
        let on = run(&world, pod(json!({"serviceAccountName": "s", "automountServiceAccountToken": true}))).unwrap();
        assert_eq!(on["spec"]["volumes"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn an_unknown_account_is_refused() {
        assert_eq!(
            run(&World::new(), pod(json!({"serviceAccountName": "x"}))).unwrap_err(),
            "pods \"a\" is forbidden: error looking up service account ns/x: serviceaccount \"x\" not found"
        );
    }

    #[test]
    fn an_account_may_limit_secrets() {
        let world = World::new().with(
            "",
            "serviceaccounts",
            json!({"metadata": {"name": "default", "namespace": "ns", "annotations": {ENFORCE_MOUNTABLE: "true"}}}),
        );
        let volumes = json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]});
        assert_eq!(
            run(&world, pod(volumes)).unwrap_err(),
            "pods \"a\" is forbidden: volume with secret.secretName=\"s\" is not allowed because service account default does \
             not reference that secret"
        );
    }
}
