//! Deployment, ReplicaSet, DaemonSet, StatefulSet, ControllerRevision. Source: `pkg/registry/apps`, `pkg/apis/apps/validation`.

use crate::json;

use crate::kinds::persistentvolumeclaim::claim_spec;
use crate::kinds::replicationcontroller::{always_restarts, labels_match, replica_status};
use crate::kinds::{carry, pod};
use crate::occurrences::Occurrences;
use crate::strategy::SubresourceStrategy;
use crate::validate::labels::{annotations, is_empty_selector, labels, selector};
use crate::validate::text::{
    at_most_100_percent, immutable, int_or_percent, nonnegative, nonnegative_fields, positive_int_or_percent, same,
    supported,
};
use crate::validate::{go, names};
use crate::{Cursor, ErrorList, Strategy, Value, gojson, meta};

pub const DEPLOYMENT: Strategy = Strategy {
    fill_empty: |object| object["spec"]["replicas"] = 0.into(),
    validate: |object, errors| deployment_spec(&object.field("spec"), errors),
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        deployment_spec(&new.field("spec"), errors);
        immutable_selector(new, old, errors);
    },
    warnings: owner_warnings,
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |_, _, _| {},
        validate_update: deployment_status,
    }],
    ..Strategy::DEFAULT
};

pub const REPLICA_SET: Strategy = Strategy {
    fill_empty: |object| object["spec"]["replicas"] = 0.into(),
    validate: |object, errors| replica_set_spec(&object.field("spec"), errors),
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        replica_set_spec(&new.field("spec"), errors);
        immutable_selector(new, old, errors);
    },
    warnings: owner_warnings,
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |_, _, _| {},
        validate_update: |new, old, errors| {
            meta::validate_update_again(new, old, errors);
            replica_status(&new.field("status"), errors);
        },
    }],
    ..Strategy::DEFAULT
};

pub const DAEMON_SET: Strategy = Strategy {
    fill_empty: |object| object["metadata"]["annotations"][TEMPLATE_GENERATION] = "0".into(),
    prepare_for_create: |new, _| set_template_generation(new, template_generation(new).max(1)),
    prepare_for_update: |new, old, _| {
        let changed = new["spec"]["template"] != old["spec"]["template"];
        set_template_generation(new, template_generation(old) + i64::from(changed));
    },
    validate: |object, errors| daemon_set_spec(&object.field("spec"), errors),
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        immutable_selector(new, old, errors);
        daemon_set_spec(&new.field("spec"), errors);
    },
    warnings: |new, old, out| {
        // Of a set it is the template's own generation that counts.
        if old.is_none_or(|old| template_generation(new.value()) != template_generation(old.value())) {
            template_warnings(new, None, out);
        }
    },
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |new, old, _| set_template_generation(new, template_generation(old)),
        validate_update: daemon_set_status,
    }],
    decode_fault: |set| {
        let annotation = set.pointer("/metadata/annotations")?.get(TEMPLATE_GENERATION)?;
        gojson::parse_int(annotation.as_str().unwrap_or_default()).err()
    },
    field_annotations: &[TEMPLATE_GENERATION],
    ..Strategy::DEFAULT
};

pub const STATEFUL_SET: Strategy = Strategy {
    fill_empty: |object| object["spec"]["replicas"] = 0.into(),
    name_rule: names::label_name,
    validate: |object, errors| stateful_set_spec(&object.field("spec"), true, errors),
    validate_update: stateful_set_update,
    warnings: |new, old, out| {
        template_warnings(new, old, out);
        let spec = new.field("spec");
        if spec.field("revisionHistoryLimit").int() < 0 {
            out.push(
                "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"
                    .to_owned(),
            );
        }
        for claim in spec.field("volumeClaimTemplates").items() {
            crate::kinds::persistentvolumeclaim::spec_warnings(&claim.field("spec"), &claim.path(), out);
        }
    },
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |_, _, _| {},
        validate_update: stateful_set_status,
    }],
    ..Strategy::DEFAULT
};

pub const CONTROLLER_REVISION: Strategy = Strategy {
    validate: controller_revision,
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        meta::validate_whole_again(new, true, names::subdomain_name, errors);
        nonnegative(&new.field("revision"), errors);
        immutable(&new.field("data"), &old.field("data"), errors);
    },
    ..Strategy::DEFAULT
};

fn controller_revision(revision: &Cursor<'_>, errors: &mut ErrorList) {
    nonnegative(&revision.field("revision"), errors);
    let data = revision.field("data");
    if !data.is_set() {
        data.required(errors, "data is mandatory");
    } else if !data.value().is_object() {
        data.required(errors, "data must be a valid JSON object");
    }
}

/// A field of extensions/v1beta1, kept as an annotation: how often the template has changed.
pub(crate) const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(set: &Value) -> i64 {
    set["metadata"]["annotations"][TEMPLATE_GENERATION].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn set_template_generation(set: &mut Value, generation: i64) {
    let Some(metadata) = set.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let annotations = metadata.entry("annotations").or_insert(Value::Null);
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[TEMPLATE_GENERATION] = json!(generation.to_string());
}

fn template_warnings(new: &Cursor<'_>, old: Option<&Cursor<'_>>, out: &mut Vec<String>) {
    if pod::warnings::is_worth_a_look(new, old) {
        pod::warnings::template(&new.field("spec").field("template"), out);
    }
}

fn owner_warnings(new: &Cursor<'_>, old: Option<&Cursor<'_>>, out: &mut Vec<String>) {
    if old.is_none() {
        pod::warnings::owner_name(new, out);
    }
    template_warnings(new, old, out);
}

fn immutable_selector(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    immutable(&new.field("spec").field("selector"), &old.field("spec").field("selector"), errors);
}

/// A selector that is there, well formed, and selects something in particular. False when it cannot be read, which upstream
/// says once more; the template is then not looked at.
fn required_selector(own: &Cursor<'_>, empty: &str, unreadable: &str, errors: &mut ErrorList) -> bool {
    if !own.is_set() {
        own.required(errors, "");
        return true;
    }
    let n_before = errors.len();
    selector(own, errors);
    let is_readable = errors.len() == n_before;
    if is_empty_selector(own) {
        own.invalid(errors, empty);
    }
    if !is_readable {
        own.invalid(errors, unreadable);
    }
    is_readable
}

/// A template that the set's selector selects.
fn selected_template(spec: &Cursor<'_>, template: &Cursor<'_>, errors: &mut ErrorList) {
    let own = spec.field("selector");
    if !is_empty_selector(&own) || !own.is_set() {
        labels_match(&own, template, errors);
    }
    pod::template(template, errors);
}

/// The selector and the template of a set of replicas.
fn selector_and_template(spec: &Cursor<'_>, errors: &mut ErrorList) {
    const EMPTY: &str = "empty selector is invalid for deployment";
    if required_selector(&spec.field("selector"), EMPTY, "invalid label selector", errors) {
        let template = spec.field("template");
        selected_template(spec, &template, errors);
        always_restarts(&template, "ReplicaSet", errors);
    }
}

fn deployment_spec(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let field = |name: &str| spec.field(name);
    nonnegative(&field("replicas"), errors);
    selector_and_template(spec, errors);
    deployment_strategy(&field("strategy"), errors);
    nonnegative_fields(spec, &["minReadySeconds", "revisionHistoryLimit"], errors);
    let deadline = field("progressDeadlineSeconds");
    if let Some(seconds) = deadline.opt_int() {
        nonnegative(&deadline, errors);
        if seconds <= field("minReadySeconds").int() {
            deadline.invalid(errors, "must be greater than minReadySeconds");
        }
    }
}

fn deployment_strategy(strategy: &Cursor<'_>, errors: &mut ErrorList) {
    let rolling = strategy.field("rollingUpdate");
    match strategy.field("type").str() {
        "Recreate" => {
            if rolling.is_set() {
                rolling.forbidden(errors, "may not be specified when strategy `type` is 'Recreate'");
            }
        }
        "RollingUpdate" => {
            if !rolling.is_set() {
                rolling.required(errors, "this should be defaulted and never be nil");
                return;
            }
            let (unavailable, surge) = (rolling.field("maxUnavailable"), rolling.field("maxSurge"));
            positive_int_or_percent(&unavailable, errors);
            positive_int_or_percent(&surge, errors);
            let is_zero = |v: &Cursor<'_>| int_or_percent(v) == 0 && !is_malformed(v);
            if is_zero(&unavailable) && is_zero(&surge) {
                unavailable.invalid(errors, "may not be 0 when `maxSurge` is 0");
            }
            at_most_100_percent(&unavailable, errors);
        }
        _ => {
            let shown = go::value("apps.DeploymentStrategy", strategy.value());
            errors.no_such_choice(strategy.path(), shown, &["Recreate", "RollingUpdate"]);
        }
    }
}

fn is_malformed(value: &Cursor<'_>) -> bool {
    value.value().as_str().is_some_and(|text| !names::percent(text).is_empty())
}

fn deployment_status(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    meta::validate_update_again(new, old, errors);
    let status = new.field("status");
    let count = |field: &str| status.field(field).int();
    nonnegative_fields(
        &status,
        &[
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
            "collisionCount",
        ],
        errors,
    );
    for field in ["updatedReplicas", "readyReplicas", "availableReplicas"] {
        if count(field) > count("replicas") {
            errors.invalid(status.path().child(field), count(field), "cannot be greater than status.replicas");
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        let path = status.path().child("availableReplicas");
        errors.invalid(path, count("availableReplicas"), "cannot be greater than readyReplicas");
    }
    collision_count(new, old, errors);
}

fn collision_count(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    let (count, before) = (new.field("status").field("collisionCount"), old.field("status").field("collisionCount"));
    if let Some(before) = before.opt_int()
        && count.opt_int().is_none_or(|n| n < before)
    {
        errors.invalid(count.path(), count.int(), "cannot be decremented");
    }
}

fn replica_set_spec(spec: &Cursor<'_>, errors: &mut ErrorList) {
    nonnegative_fields(spec, &["replicas", "minReadySeconds"], errors);
    selector_and_template(spec, errors);
}

fn daemon_set_spec(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let (own, template) = (spec.field("selector"), spec.field("template"));
    let n_before = errors.len();
    selector(&own, errors);
    if errors.len() == n_before {
        labels_match(&own, &template, errors);
    }
    if own.is_set() && is_empty_selector(&own) {
        own.invalid(errors, "empty selector is invalid for daemonset");
    }
    pod::template(&template, errors);
    always_restarts_daemon(&template, errors);
    nonnegative(&spec.field("minReadySeconds"), errors);
    daemon_set_strategy(&spec.field("updateStrategy"), errors);
    nonnegative(&spec.field("revisionHistoryLimit"), errors);
}

fn always_restarts_daemon(template: &Cursor<'_>, errors: &mut ErrorList) {
    always_restarts(template, "DaemonSet", errors);
}

fn daemon_set_strategy(strategy: &Cursor<'_>, errors: &mut ErrorList) {
    let rolling = strategy.field("rollingUpdate");
    match strategy.field("type").str() {
        "OnDelete" => {}
        "RollingUpdate" if !rolling.is_set() => rolling.required(errors, ""),
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.field("maxUnavailable"), rolling.field("maxSurge"));
            positive_int_or_percent(&unavailable, errors);
            positive_int_or_percent(&surge, errors);
            at_most_100_percent(&unavailable, errors);
            at_most_100_percent(&surge, errors);
            let has_unavailable = int_or_percent(&unavailable) != 0;
            let has_surge = int_or_percent(&surge) != 0;
            if has_unavailable && has_surge {
                surge.invalid(errors, "may not be set when maxUnavailable is non-zero");
            } else if !has_unavailable && !has_surge {
                unavailable.required(errors, "cannot be 0 when maxSurge is 0");
            }
        }
        _ => errors.no_such_choice(
            strategy.path(),
            go::value("apps.DaemonSetUpdateStrategy", strategy.value()),
            &["RollingUpdate", "OnDelete"],
        ),
    }
}

fn daemon_set_status(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    meta::validate_update_again(new, old, errors);
    nonnegative_fields(
        &new.field("status"),
        &[
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ],
        errors,
    );
    collision_count(new, old, errors);
}

/// What cannot change afterwards is only looked at `on_create`.
fn stateful_set_spec(spec: &Cursor<'_>, on_create: bool, errors: &mut ErrorList) {
    let field = |name: &str| spec.field(name);
    let policy = field("podManagementPolicy");
    match policy.str() {
        "" => policy.required(errors, ""),
        "OrderedReady" | "Parallel" => {}
        _ => errors.invalid_choice(policy.path(), policy.str(), "must be 'OrderedReady' or 'Parallel'"),
    }
    stateful_set_strategy(&field("updateStrategy"), errors);
    let retention = field("persistentVolumeClaimRetentionPolicy");
    if retention.is_set() {
        for field in ["whenDeleted", "whenScaled"] {
            supported(&retention.field(field), &["Retain", "Delete"], errors);
        }
    }
    if on_create {
        for claim in field("volumeClaimTemplates").items() {
            claim_spec(&claim.field("spec"), errors);
        }
    }
    nonnegative_fields(spec, &["replicas", "minReadySeconds"], errors);
    nonnegative(&field("ordinals").field("start"), errors);
    if on_create && !field("serviceName").is_empty() {
        crate::validate::text::formatted(&field("serviceName"), names::dns1123_label, errors);
    }
    if required_selector(&field("selector"), "empty selector is invalid for statefulset", "", errors) {
        stateful_template(spec, errors);
    }
    always_restarts(&field("template"), "StatefulSet", errors);
}

/// The template as its pods will be: with the volumes of the claims, and without the names that the controller gives.
fn stateful_template(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let template = spec.field("template");
    let (claims, own) = (spec.field("volumeClaimTemplates"), template.field("spec"));
    let mut shown: Value = template.value().clone();
    for name in ["subdomain", "hostname"] {
        carry::remove(&mut shown, &["spec"], name);
    }
    if !claims.is_empty() {
        let names = Occurrences::of(claims.items().map(|claim| claim.field("metadata").field("name").str()));
        // One after the other; upstream goes through a map.
        let added = names.firsts().map(|(_, name)| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
        let own_volumes = own.field("volumes");
        let kept = own_volumes.items().filter(|v| !names.contains(&v.field("name").str()));
        let volumes: Vec<Value> = added.chain(kept.map(|volume| volume.value().clone())).collect();
        if let Some(own) = shown.get_mut("spec") {
            carry::set(own, "volumes", volumes.into());
        }
    }
    let shown = Cursor::at(&shown, template.path());
    selected_template(spec, &shown, errors);
    let metadata = template.field("metadata");
    // Upstream looks at these twice, the second time at a shorter path.
    labels(&Cursor::at(metadata.field("labels").value(), template.path().child("labels")), errors);
    let own_annotations = Cursor::at(metadata.field("annotations").value(), template.path().child("annotations"));
    annotations(&own_annotations, errors);
    pod::pod_annotations(&own_annotations, &shown.field("spec"), errors);
}

fn stateful_set_strategy(strategy: &Cursor<'_>, errors: &mut ErrorList) {
    let (kind, rolling) = (strategy.field("type"), strategy.field("rollingUpdate"));
    match kind.str() {
        "" => strategy.required(errors, ""),
        "OnDelete" => {
            if rolling.is_set() {
                let shown = go::value("apps.RollingUpdateStatefulSetStrategy", rolling.value());
                errors.invalid(rolling.path(), shown, "only allowed for updateStrategy 'RollingUpdate'");
            }
        }
        "RollingUpdate" => {
            if rolling.is_set() {
                nonnegative(&rolling.field("partition"), errors);
                let unavailable = rolling.field("maxUnavailable");
                if unavailable.is_set() {
                    positive_int_or_percent(&unavailable, errors);
                    if int_or_percent(&unavailable) == 0 {
                        unavailable.invalid(errors, "cannot be 0");
                    }
                    at_most_100_percent(&unavailable, errors);
                }
            }
        }
        _ => errors.invalid(
            strategy.path(),
            go::value("apps.StatefulSetUpdateStrategy", strategy.value()),
            "must be 'RollingUpdate' or 'OnDelete'",
        ),
    }
}

/// Fields of a StatefulSet's spec that may change.
const CHANGEABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

fn stateful_set_update(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    meta::validate_update_again(new, old, errors);
    let (spec, old_spec) = (new.field("spec"), old.field("spec"));
    stateful_set_spec(&spec, false, errors);
    let fixed = |spec: &Cursor<'_>| {
        let mut out: Value = spec.value().clone();
        for field in CHANGEABLE {
            carry::remove(&mut out, &[], field);
        }
        out
    };
    if !same(&fixed(&spec), &fixed(&old_spec)) {
        spec.forbidden(
            errors,
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}

fn stateful_set_status(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    meta::validate_update_again(new, old, errors);
    let status = new.field("status");
    let count = |field: &str| status.field(field).int();
    nonnegative_fields(
        &status,
        &[
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "observedGeneration",
            "collisionCount",
        ],
        errors,
    );
    for field in ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"] {
        if count(field) > count("replicas") {
            errors.invalid(status.path().child(field), count(field), "cannot be greater than status.replicas");
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        let path = status.path().child("availableReplicas");
        errors.invalid(path, count("availableReplicas"), "cannot be greater than status.readyReplicas");
    }
    collision_count(new, old, errors);
}

/// Validation of a Scale, for the `scale` subresources.
pub fn validate_scale(scale: &Cursor<'_>, errors: &mut ErrorList) {
    nonnegative(&scale.field("spec").field("replicas"), errors);
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    fn template() -> Value {
        json!({"metadata": {"labels": {"app": "a"}}, "spec": {
            "containers": [{"name": "c", "image": "x", "terminationMessagePolicy": "File", "imagePullPolicy": "Always"}],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst"}})
    }

    fn deployment_errors(changes: Value) -> Vec<String> {
        let mut object = json!({"spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "a"}}, "template": template(),
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}}});
        for (key, value) in changes.as_object().cloned().unwrap_or_default() {
            object["spec"][key] = value;
        }
        let mut errors = ErrorList::new();
        (DEPLOYMENT.validate)(&Cursor::root(&object), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn deployments_report_in_upstreams_order() {
        assert_eq!(deployment_errors(json!({})), Vec::<String>::new());
        assert_eq!(
            deployment_errors(json!({"selector": null})),
            [
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`"
            ]
        );
        assert_eq!(
            deployment_errors(json!({"strategy": {"type": "Bogus"}})),
            [
                "spec.strategy: Unsupported value: {\"Type\":\"Bogus\",\"RollingUpdate\":null}: supported values: \"Recreate\", \"RollingUpdate\""
            ]
        );
        assert_eq!(
            deployment_errors(
                json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 0}}})
            ),
            ["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"]
        );
    }

    #[test]
    fn a_daemon_sets_template_generation_counts_templates() {
        let extra = std::collections::BTreeMap::new();
        let ctx = crate::strategy::Context {
            now: "2026-01-01T00:00:00Z",
            user: "",
            groups: &[],
            user_uid: "",
            sent: b"",
            extra: &extra,
            uid: "",
        };
        let generation = |set: &Value| set["metadata"]["annotations"][TEMPLATE_GENERATION].clone();
        let mut old = json!({"metadata": {"name": "a"}, "spec": {"template": template()}});
        (DAEMON_SET.prepare_for_create)(&mut old, &ctx);
        assert_eq!(generation(&old), "1");
        let mut new = json!({"metadata": {"name": "a"}, "spec": {"template": template(), "minReadySeconds": 1}});
        (DAEMON_SET.prepare_for_update)(&mut new, &old, &ctx);
        assert_eq!(generation(&new), "1");
        new["spec"]["template"]["metadata"]["labels"]["b"] = "c".into();
        (DAEMON_SET.prepare_for_update)(&mut new, &old, &ctx);
        assert_eq!(generation(&new), "2");
    }

    #[test]
    fn collisions_are_not_forgotten() {
        let counted =
            |n: Value| json!({"metadata": {"name": "a", "resourceVersion": "1"}, "status": {"collisionCount": n}});
        for status in [deployment_status, stateful_set_status] {
            for (now, shown) in [(json!(1), 1), (Value::Null, 0)] {
                let mut errors = ErrorList::new();
                status(&Cursor::root(&counted(now)), &Cursor::root(&counted(json!(2))), &mut errors);
                let told = format!("status.collisionCount: Invalid value: {shown}: cannot be decremented");
                assert_eq!(errors.aggregate_message(), told);
            }
        }
    }

    #[test]
    fn stateful_sets_change_little() {
        let old = json!({"metadata": {"name": "a", "resourceVersion": "1"}, "spec": {
            "serviceName": "s", "podManagementPolicy": "OrderedReady", "updateStrategy": {"type": "RollingUpdate"},
            "selector": {"matchLabels": {"app": "a"}}, "template": template()}});
        let mut new = old.clone();
        new["spec"]["replicas"] = 3.into();
        new["spec"]["serviceName"] = "x".into();
        let mut errors = ErrorList::new();
        stateful_set_update(&Cursor::root(&new), &Cursor::root(&old), &mut errors);
        assert!(
            errors
                .aggregate_message()
                .starts_with("spec: Forbidden: updates to statefulset spec for fields other than")
        );
    }
}
