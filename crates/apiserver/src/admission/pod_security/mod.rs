//! PodSecurity: the Pod Security Standards, by labels of the namespace: enforced on pods, warned and audited on whatever makes
//! pods. A change of a namespace's labels is checked against the pods it has.

mod checks;
mod level;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{ErrorList, Path, Status, Value, meta};

use self::{
    checks::Pod,
    level::{Level, LevelVersion, Policy},
};
use super::{Context, Operation, Request, items};

/// Pods of a namespace that are looked at when its level changes.
const NAMESPACE_PODS_MAX: usize = 3000;

/// Kinds with pods in them, and where.
const TEMPLATES: [(&str, &str, &str); 8] = [
    ("", "podtemplates", "/template"),
    ("", "replicationcontrollers", "/spec/template"),
    ("apps", "replicasets", "/spec/template"),
    ("apps", "deployments", "/spec/template"),
    ("apps", "statefulsets", "/spec/template"),
    ("apps", "daemonsets", "/spec/template"),
    ("batch", "jobs", "/spec/template"),
    ("batch", "cronjobs", "/spec/jobTemplate/spec/template"),
];

/// Subresources of pods that change nothing this is about.
const IGNORED: [&str; 9] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status", "resize"];

pub(super) fn validate(request: &Request<'_>, object: &Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    if !matches!(request.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    if request.is("", "namespaces") {
        return if request.subresource.is_empty() { validate_namespace(request, object, ctx) } else { Ok(()) };
    }
    if request.is("", "pods") {
        return validate_pod(request, object, ctx);
    }
    let template = TEMPLATES.iter().find(|(group, resource, _)| request.is_whole(group, resource));
    if let Some(template) = template.and_then(|(.., pointer)| object.pointer(pointer)) {
        let policy = policy_of(ctx, request.namespace);
        evaluate(request, object, template, &policy, ctx, false)?;
    }
    Ok(())
}

fn validate_pod(request: &Request<'_>, pod: &Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    if IGNORED.contains(&request.subresource) {
        return Ok(());
    }
    if request.operation == Operation::Update && !request.old.is_some_and(|old| is_significant(pod, old)) {
        return Ok(());
    }
    if ctx.source.get("", "namespaces", "", request.namespace).is_none() {
        return Err(Status::internal(format!("failed to lookup namespace \"{}\"", request.namespace)));
    }
    let policy = policy_of(ctx, request.namespace);
    evaluate(request, pod, pod, &policy, ctx, true)
}

/// New containers or other images.
fn is_significant(pod: &Value, old: &Value) -> bool {
    let images = |pod: &Value, list: &str| -> Vec<(Value, Value)> {
        items(&pod["spec"], list).map(|c| (c["name"].clone(), c["image"].clone())).collect()
    };
    let by_position = ["containers", "initContainers"].iter().any(|list| {
        let (new, old) = (images(pod, list), images(old, list));
        new.len() != old.len() || new.iter().zip(&old).any(|(a, b)| a.1 != b.1)
    });
    let before = images(old, "ephemeralContainers");
    by_position || images(pod, "ephemeralContainers").iter().any(|container| !before.contains(container))
}

fn policy_of(ctx: &Context<'_>, namespace: &str) -> (Policy, ErrorList) {
    let labels = ctx.get("", "namespaces", "", namespace).map_or(Value::Null, |ns| ns["metadata"]["labels"].clone());
    Policy::from_labels(&labels)
}

/// Checks one pod or template. Only a pod is refused; warnings are not repeated where a refusal says it all.
fn evaluate(
    request: &Request<'_>,
    object: &Value,
    template: &Value,
    (policy, errors): &(Policy, ErrorList),
    ctx: &mut Context<'_>,
    enforce: bool,
) -> Result<(), Status> {
    if !errors.is_empty() {
        ctx.audit.insert(
            "pod-security.kubernetes.io/error".into(),
            format!("Failed to parse policy: {}", errors.aggregate_message()),
        );
    }
    let pod = Pod::new(&template["metadata"], &template["spec"]);
    let audit = checks::evaluate(policy.audit, &pod);
    if let Some(violations) = &audit {
        ctx.audit.insert(
            "pod-security.kubernetes.io/audit-violations".into(),
            format!("would violate PodSecurity \"{}\": {}", policy.audit, violations.detail()),
        );
    }
    if enforce {
        ctx.audit.insert("pod-security.kubernetes.io/enforce-policy".to_owned(), policy.enforce.to_string());
        if let Some(violations) = checks::evaluate(policy.enforce, &pod) {
            let text = format!("violates PodSecurity \"{}\": {}", policy.enforce, violations.detail());
            return Err(request.forbidden(object, &text));
        }
    }
    if let Some(violations) = checks::evaluate(policy.warn, &pod) {
        ctx.warnings.push(format!("would violate PodSecurity \"{}\": {}", policy.warn, violations.detail()));
    }
    Ok(())
}

fn validate_namespace(request: &Request<'_>, namespace: &Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    let labels = &namespace["metadata"]["labels"];
    let (policy, errors) = Policy::from_labels(labels);
    let refuse = |errors: &ErrorList| Err(Status::invalid("", "Namespace", meta::name(namespace), errors));
    let Some(old) = request.old.filter(|_| request.operation == Operation::Update) else {
        return if errors.is_empty() { Ok(()) } else { refuse(&errors) };
    };
    let (old_policy, old_errors) = Policy::from_labels(&old["metadata"]["labels"]);
    if !errors.is_empty() {
        // What was wrong before may stay; nothing new may be.
        return if old_errors.is_empty() || errors.len() > old_errors.len() { refuse(&errors) } else { Ok(()) };
    }
    let enforce = policy.enforce;
    let stricter = enforce != old_policy.enforce
        && enforce.level != Level::Privileged
        && !(enforce.version == old_policy.enforce.version && enforce.level < old_policy.enforce.level);
    if stricter {
        ctx.warnings.extend(check_pods(ctx, meta::name(namespace), enforce));
    }
    Ok(())
}

/// Warnings about pods that a new level would not let in.
fn check_pods(ctx: &Context<'_>, namespace: &str, enforce: LevelVersion) -> Vec<String> {
    let pods = prioritize(ctx.list("", "pods", namespace));
    let mut by_reason: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for pod in pods.iter().take(NAMESPACE_PODS_MAX) {
        let checked = Pod::new(&pod["metadata"], &pod["spec"]);
        let Some(violations) = checks::evaluate(enforce, &checked) else { continue };
        let name = meta::name(pod);
        let entry = by_reason.entry(violations.reasons()).or_insert_with(|| (name.to_owned(), 0));
        if name < entry.0.as_str() {
            name.clone_into(&mut entry.0);
        }
        entry.1 += 1;
    }
    let mut out = Vec::new();
    if pods.len() > NAMESPACE_PODS_MAX {
        out.push(format!(
            "new PodSecurity enforce level only checked against the first {NAMESPACE_PODS_MAX} of {} existing pods",
            pods.len()
        ));
    }
    if !by_reason.is_empty() {
        out.push(format!(
            "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{enforce}\""
        ));
    }
    let mut lines: Vec<String> = by_reason
        .into_iter()
        .map(|(reason, (name, count))| match count {
            1 => format!("{name}: {reason}"),
            2 => format!("{name} (and 1 other pod): {reason}"),
            n => format!("{name} (and {} other pods): {reason}", n - 1),
        })
        .collect();
    lines.sort();
    out.extend(lines);
    out
}

/// One pod of each controller first: the others are likely the same.
fn prioritize(pods: Vec<Arc<Value>>) -> Vec<Arc<Value>> {
    let mut seen: Vec<String> = Vec::new();
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for pod in pods {
        let controller = items(&pod["metadata"], "ownerReferences")
            .find(|owner| owner["controller"] == true)
            .and_then(|owner| owner["uid"].as_str().map(str::to_owned));
        match controller {
            Some(uid) if seen.contains(&uid) => rest.push(pod),
            Some(uid) => {
                seen.push(uid);
                first.push(pod);
            }
            None => first.push(pod),
        }
    }
    first.extend(rest);
    first
}

/// Path of a label in error messages.
fn label_path(label: &str) -> Path {
    Path::new("metadata.labels").key(label)
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;
    use crate::{
        admission::testing::{World, request},
        attributes::UserInfo,
    };

    fn world(labels: Value) -> World {
        World::new().with("", "namespaces", json!({"metadata": {"name": "ns", "labels": labels}}))
    }

    #[test]
    fn a_pod_is_refused_with_all_that_is_wrong() {
        let world = world(json!({"pod-security.kubernetes.io/enforce": "restricted"}));
        let user = UserInfo::default();
        let pod = json!({"metadata": {"name": "a"}, "spec": {"hostNetwork": true, "containers": [{"name": "c"}]}});
        assert_eq!(
            world.run("PodSecurity", &request(Operation::Create, "", "pods", &user), pod).unwrap_err(),
            "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": host namespaces (hostNetwork=true), \
             allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot \
             != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \
             \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
    }

    #[test]
    fn a_template_only_warns() {
        let world = world(json!({"pod-security.kubernetes.io/enforce": "baseline"}));
        let user = UserInfo::default();
        let deployment = json!({"metadata": {"name": "a"}, "spec": {"template": {"spec": {"hostPID": true}}}});
        let mut ctx = world.ctx();
        validate(&request(Operation::Create, "apps", "deployments", &user), &deployment, &mut ctx).unwrap();
        assert_eq!(ctx.warnings, ["would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"]);
    }

    #[test]
    fn a_bad_label_is_refused_and_a_stricter_level_warns_of_pods() {
        let world = World::new().with(
            "",
            "pods",
            json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"hostPID": true, "containers": []}}),
        );
        let user = UserInfo::default();
        let old = json!({"metadata": {"name": "ns"}});
        let mut update = request(Operation::Update, "", "namespaces", &user);
        (update.name, update.old) = ("ns", Some(&old));
        let namespace =
            |level: &str| json!({"metadata": {"name": "ns", "labels": {"pod-security.kubernetes.io/enforce": level}}});
        let mut ctx = world.ctx();
        assert_eq!(
            validate(&update, &namespace("bogus"), &mut ctx).unwrap_err().message,
            "Namespace \"ns\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"bogus\": must \
             be one of privileged, baseline, restricted"
        );
        validate(&update, &namespace("baseline"), &mut ctx).unwrap();
        assert_eq!(
            ctx.warnings,
            [
                "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "p: host namespaces"
            ]
        );
    }

    /// Pods and workloads as recorded from upstream, where the checkout has the recordings.
    #[test]
    fn recorded_refusals_and_warnings_are_ours_too() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/testdata/parity/admission.json");
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("skipped: no recordings: {error}");
                return;
            }
        };
        let recorded: Value = serde_json::from_str(&text).unwrap();
        let user = UserInfo::default();
        let mut n_checked = 0;
        for scenario in recorded["scenarios"].as_array().unwrap() {
            let labels = &scenario["namespace"]["labels"];
            if labels.is_null() {
                continue;
            }
            let world = world(labels.clone());
            for step in scenario["steps"].as_array().unwrap() {
                let path: Vec<&str> = step["path"].as_str().unwrap().split('/').collect();
                let group = if path[1] == "api" { "" } else { path[2] };
                let mut ctx = world.ctx();
                let create = request(Operation::Create, group, path[path.len() - 1], &user);
                let message = validate(&create, &step["body"], &mut ctx).err().map(|status| status.message);
                let body = &step["expect"]["body"];
                let expected = body["message"].as_str().or(body["m"].as_str()).filter(|m| *m != "<absent>");
                assert_eq!(message.as_deref(), expected, "{}", scenario["name"]);
                let warning = ctx.warnings.iter().map(|w| format!("299 - {}", api::field::go_quote(w))).next();
                let header = &step["expect"]["headers"]["Warning"][0];
                assert_eq!(warning.as_deref(), header.as_str(), "{}", scenario["name"]);
                n_checked += 1;
            }
        }
        assert!(n_checked > 20, "{n_checked} steps");
    }
}
