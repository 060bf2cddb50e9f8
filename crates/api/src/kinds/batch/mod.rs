//! Job and CronJob. Source: `pkg/registry/batch`, `pkg/apis/batch/validation`.

mod cronjob;
mod policies;
mod status;
mod update;

use crate::codec::protobuf;
use crate::json;

use crate::kinds::replicationcontroller::labels_match;
use crate::kinds::{carry, pod};
use crate::strategy::{Context, SubresourceStrategy};
use crate::validate::labels::{selector, selector_matches};
use crate::validate::names;
use crate::validate::text::{domain_prefixed_path, nonnegative_fields, optional_enum};
use crate::{Cursor, ErrorList, Map, Path, Strategy, Text, Value, meta};

pub use cronjob::CRON_JOB;

const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
const LEGACY_CONTROLLER_UID: &str = "controller-uid";
const LEGACY_JOB_NAME: &str = "job-name";

const MANAGED_BY_MAX_BYTES: usize = 63;
const INDEXED_PARALLELISM_MAX: i64 = 100_000;
const MANY_COMPLETIONS: i64 = 100_000;
const MANY_COMPLETIONS_MAX: i64 = 10_000;

pub const JOB: Strategy = Strategy {
    default_propagation_warning: Some(
        "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set \
         propagationPolicy=Orphan to suppress this warning",
    ),
    prepare_for_create: generate_selector,
    validate: |job, errors| {
        generated_selector(job, errors);
        job_spec(&job.field("spec"), errors);
        indexed_host_names(job, errors);
    },
    validate_update: update::job,
    warnings,
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |new, old, _| label_as_template(new, old),
        validate_update: status::validate,
    }],
    ..Strategy::DEFAULT
};

/// Pods are told apart by the uid of their job: it becomes the selector and, with the name, labels of the template.
fn generate_selector(job: &mut Value, ctx: &Context<'_>) {
    let is_manual = job.pointer("/spec/manualSelector") == Some(&Value::Bool(true));
    if is_manual {
        return;
    }
    let uid = match meta::uid(job) {
        "" => ctx.uid.to_owned(),
        uid => uid.to_owned(),
    };
    let name = meta::name(job).to_owned();
    let shows_labels = is_labelled_when_read(job, &name) || shares_labels(job, ctx.sent);
    let Some(Value::Object(spec)) = job.get_mut("spec") else { return };
    let template = spec.entry("template").or_insert_with(|| json!({}));
    if let Some(labels) = object_at(template, &["metadata", "labels"]) {
        // What somebody set on purpose stays: it is refused later where it contradicts the job.
        for (key, value) in
            [(CONTROLLER_UID, &uid), (JOB_NAME, &name), (LEGACY_CONTROLLER_UID, &uid), (LEGACY_JOB_NAME, &name)]
        {
            labels.entry(key).or_insert_with(|| value.as_str().into());
        }
        sort(labels);
        let labels = labels.clone();
        if shows_labels && let Some(metadata) = job.get_mut("metadata") {
            carry::set(metadata, "labels", Value::Object(labels));
        }
    }
    let Some(Value::Object(spec)) = job.get_mut("spec") else { return };
    let selector = spec.entry("selector").or_insert_with(|| json!({}));
    if let Some(labels) = object_at(selector, &["matchLabels"]) {
        labels.entry(CONTROLLER_UID).or_insert_with(|| uid.as_str().into());
        sort(labels);
    }
}

/// Whether the job has the labels of its template because it came without any. Upstream they are then one and the same map, and
/// what is added to one is added to both.
fn shares_labels(job: &Value, sent: &[u8]) -> bool {
    if job.pointer("/metadata/labels") != job.pointer("/spec/template/metadata/labels") {
        return false;
    }
    let decoded = match protobuf::is_enveloped(sent) {
        true => protobuf::decode_object(sent).ok(),
        false => Value::from_json(sent).ok(),
    };
    let Some(sent) = decoded else { return false };
    let labels = |at: &str| sent.pointer(at).and_then(Value::as_object);
    labels("/metadata/labels").is_none_or(|labels| labels.is_empty())
        && labels("/spec/template/metadata/labels").is_some()
}

/// A job whose labels went is read with those of its template.
fn label_as_template(job: &mut Value, old: &Value) {
    let of_template = old.pointer("/spec/template/metadata/labels").filter(|labels| labels.is_object());
    let unlabelled = job.pointer("/metadata/labels").and_then(Value::as_object).is_none_or(Map::is_empty);
    if unlabelled && let (Some(labels), Some(metadata)) = (of_template, job.get_mut("metadata")) {
        carry::set(metadata, "labels", labels.clone());
    }
}

/// Upstream fills in the labels of a job without any whenever it reads one; by then its template has some. Of a name that is no
/// label that is not told here: such a job is refused.
fn is_labelled_when_read(job: &Value, name: &str) -> bool {
    let labels = job.pointer("/metadata/labels").and_then(Value::as_object);
    labels.is_none_or(|labels| labels.is_empty()) && names::label_value(name).is_empty()
}

/// Maps are stored sorted, as Go prints them.
fn sort(map: &mut crate::Map) {
    let mut entries: Vec<(Text, Value)> = std::mem::take(map).into_iter().collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    map.extend(entries);
}

fn object_at<'v>(value: &'v mut Value, parts: &[&str]) -> Option<&'v mut crate::Map> {
    let mut at = value;
    for part in parts {
        if at.is_null() {
            *at = json!({});
        }
        at = at.as_object_mut()?.entry(*part).or_insert_with(|| json!({}));
    }
    at.as_object_mut()
}

fn generated_selector(job: &Cursor<'_>, errors: &mut ErrorList) {
    let spec = job.field("spec");
    let own = spec.field("selector");
    if spec.field("manualSelector").bool() || !own.is_set() {
        return;
    }
    let metadata = job.field("metadata");
    if metadata.field("uid").is_empty() {
        metadata.field("uid").required(errors, "");
    }
    let labels = spec.field("template").field("metadata").field("labels");
    let (uid, name) = (metadata.field("uid").str(), metadata.field("name").str());
    for (key, expected) in
        [(LEGACY_CONTROLLER_UID, uid), (LEGACY_JOB_NAME, name), (CONTROLLER_UID, uid), (JOB_NAME, name)]
    {
        let label = labels.key(key);
        let detail = format!("must be '{expected}'");
        if !label.is_set() {
            label.required(errors, &detail);
        } else if label.str() != expected {
            errors.invalid(label.path(), labels.value().clone(), detail);
        }
    }
    let generated = json!({CONTROLLER_UID: uid, JOB_NAME: name, LEGACY_CONTROLLER_UID: uid, LEGACY_JOB_NAME: name});
    if selector_matches(&own, &Cursor::root(&generated)) == Some(false) {
        own.invalid(errors, "`selector` not auto-generated");
    }
}

fn indexed_host_names(job: &Cursor<'_>, errors: &mut ErrorList) {
    let spec = job.field("spec");
    let completions = spec.field("completions").int();
    if spec.field("completionMode").str() != "Indexed" || completions <= 0 {
        return;
    }
    let name = job.field("metadata").field("name");
    let last = format!("{}-{}", name.str(), completions - 1);
    if !names::dns1123_label(&last).is_empty() {
        errors.invalid(name.path(), name.str(), format!("will not able to create pod with invalid DNS label: {last}"));
    }
}

/// The spec of a job that runs by itself: with a selector that matches its template.
fn job_spec(spec: &Cursor<'_>, errors: &mut ErrorList) {
    job_spec_without_selector(spec, errors);
    let own = spec.field("selector");
    if own.is_set() {
        selector(&own, errors);
    } else {
        own.required(errors, "");
    }
    labels_match(&own, &spec.field("template"), errors);
}

/// The spec of a job, also inside a CronJob.
fn job_spec_without_selector(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let field = |name: &str| spec.field(name);
    nonnegative_fields(
        spec,
        &[
            "parallelism",
            "completions",
            "activeDeadlineSeconds",
            "backoffLimit",
            "ttlSecondsAfterFinished",
            "backoffLimitPerIndex",
            "maxFailedIndexes",
        ],
        errors,
    );
    if field("maxFailedIndexes").is_set() && !field("backoffLimitPerIndex").is_set() {
        field("backoffLimitPerIndex").required(errors, "when maxFailedIndexes is specified");
    }
    let manager = field("managedBy");
    if manager.is_set() {
        domain_prefixed_path(&manager, errors);
        if manager.str().len() > MANAGED_BY_MAX_BYTES {
            errors.too_long(manager.path(), MANAGED_BY_MAX_BYTES);
        }
    }
    completion_mode(spec, errors);
    policies::pod_failure_policy(spec, errors);
    policies::success_policy(spec, errors);
    let replacement: &[&str] =
        if field("podFailurePolicy").is_set() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    optional_enum(&field("podReplacementPolicy"), replacement, errors);
    pod::template(&field("template"), errors);
    restart_policy(spec, errors);
}

fn completion_mode(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let field = |name: &str| spec.field(name);
    let mode = field("completionMode");
    optional_enum(&mode, &["NonIndexed", "Indexed"], errors);
    if mode.str() != "Indexed" {
        for limit in [field("backoffLimitPerIndex"), field("maxFailedIndexes")] {
            if limit.is_set() && (!mode.is_set() || mode.str() == "NonIndexed") {
                limit.invalid(errors, "requires indexed completion mode");
            }
        }
        return;
    }
    let (completions, parallelism) = (field("completions"), field("parallelism"));
    if !completions.is_set() {
        completions.required(errors, "when completion mode is Indexed");
    }
    if parallelism.int() > INDEXED_PARALLELISM_MAX {
        parallelism.invalid(
            errors,
            format!("must be less than or equal to {INDEXED_PARALLELISM_MAX} when completion mode is Indexed"),
        );
    }
    let failed = field("maxFailedIndexes");
    if let (Some(failed_max), Some(n)) = (failed.opt_int(), completions.opt_int()) {
        if failed_max > n {
            failed.invalid(errors, "must be less than or equal to completions");
        }
        if failed_max > MANY_COMPLETIONS {
            failed.invalid(errors, format!("must be less than or equal to {MANY_COMPLETIONS}"));
        }
    }
    if completions.int() > MANY_COMPLETIONS && field("backoffLimitPerIndex").is_set() {
        let when = "when completions are above 100000 and used with backoff limit per index";
        if !failed.is_set() {
            failed.required(errors, "must be specified when completions is above 100000");
        }
        for limit in [parallelism, failed] {
            if limit.int() > MANY_COMPLETIONS_MAX {
                limit.invalid(errors, format!("must be less than or equal to {MANY_COMPLETIONS_MAX} {when}"));
            }
        }
    }
}

fn restart_policy(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let policy = spec.field("template").field("spec").field("restartPolicy");
    match policy.str() {
        "" | "Always" => policy.required(errors, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.field("podFailurePolicy").is_set() => {
            policy.invalid(errors, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        _ => policy.no_such_choice(errors, &["OnFailure", "Never"]),
    }
}

fn warnings(new: &Cursor<'_>, old: Option<&Cursor<'_>>, out: &mut Vec<String>) {
    if old.is_none() {
        pod::warnings::owner_name(new, out);
    }
    if pod::warnings::is_worth_a_look(new, old) {
        spec_warnings(&new.field("spec"), &Path::new("spec"), out);
    }
}

/// Of jobs and of the template of a CronJob.
fn spec_warnings(spec: &Cursor<'_>, path: &Path, out: &mut Vec<String>) {
    let is_large =
        spec.field("completions").int() > MANY_COMPLETIONS && spec.field("parallelism").int() > MANY_COMPLETIONS_MAX;
    if spec.field("completionMode").str() == "Indexed" && is_large {
        out.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
             Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    pod::warnings::template(&spec.field("template"), out);
}

#[cfg(test)]
mod tests {
    use super::*;

    const CTX: Context<'static> = Context {
        now: "",
        user: "",
        groups: &[],
        user_uid: "",
        sent: b"",
        extra: &std::collections::BTreeMap::new(),
        uid: "u-1",
    };

    pub(super) fn job(changes: Value) -> Value {
        let mut job = json!({"metadata": {"name": "a", "uid": "u-1", "resourceVersion": "1"}, "spec": {
            "parallelism": 1, "completions": 1, "completionMode": "NonIndexed", "backoffLimit": 6,
            "podReplacementPolicy": "TerminatingOrFailed", "template": {"metadata": {"labels": {"app": "a"}}, "spec": {
                "containers": [{"name": "c", "image": "x", "terminationMessagePolicy": "File", "imagePullPolicy": "Always"}],
                "restartPolicy": "Never", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst"}}}});
        for (key, value) in changes.as_object().cloned().unwrap_or_default() {
            job["spec"][key] = value;
        }
        generate_selector(&mut job, &CTX);
        job
    }

    fn errors_of(changes: Value) -> Vec<String> {
        let job = job(changes);
        let mut errors = ErrorList::new();
        (JOB.validate)(&Cursor::root(&job), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_uid_selects_the_pods() {
        let job = job(json!({}));
        assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}}));
        assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "a");
        assert_eq!(errors_of(json!({})), Vec::<String>::new());
    }

    #[test]
    fn labels_that_came_from_the_template_grow_with_it() {
        let sent = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"},
            "spec": {"template": {"metadata": {"labels": {"app": "a"}}}}});
        let mut job = job(json!({}));
        for owner in ["/metadata", "/spec/template/metadata"] {
            job.pointer_mut(owner).expect("metadata")["labels"] = json!({"app": "a"});
        }
        for sent in [sent.to_string().into(), protobuf::encode(&sent).expect("a job")] {
            let mut shared = job.clone();
            generate_selector(&mut shared, &Context { sent: &sent, ..CTX });
            assert_eq!(shared["metadata"]["labels"], shared["spec"]["template"]["metadata"]["labels"]);
        }
        generate_selector(&mut job, &CTX);
        assert_eq!(job["metadata"]["labels"], json!({"app": "a"}));
    }

    #[test]
    fn a_selector_of_ones_own_is_refused() {
        let errors = errors_of(json!({"selector": {"matchLabels": {"a": "b"}}}));
        assert!(errors[0].ends_with("`selector` not auto-generated"), "{errors:?}");
        assert!(errors[1].ends_with("`selector` does not match template `labels`"), "{errors:?}");
    }

    #[test]
    fn success_policies_stay_within_the_indexes() {
        assert_eq!(
            errors_of(json!({"completionMode": "Indexed", "completions": 2,
                "successPolicy": {"rules": [{"succeededIndexes": "5", "succeededCount": 3}]}})),
            [
                "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"5\": error parsing succeededIndexes: too large \
                 index: \"5\"",
                "spec.successPolicy.rules[0].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of \
                 specified completions)",
                "spec.successPolicy.rules[0].succeededCount: Invalid value: 3: must be less than or equal to 0 (the number of \
                 indexes in the specified succeededIndexes field)",
            ]
        );
    }
}
