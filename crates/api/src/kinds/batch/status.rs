//! What the status of a job may say. Source: `ValidateJobStatusUpdate` and the job's status strategy.
//!
//! Most rules hold only of what a write changes: a change of the spec may leave a status behind that breaks them, and the
//! controller must be able to mend it step by step.

use crate::kinds::batch::policies::intervals;
use crate::validate::text::nonnegative_fields;
use crate::{Cursor, ErrorList, json, meta};

/// The statuses before and after a write, with the job they belong to.
struct Change<'a> {
    spec: Cursor<'a>,
    new: Cursor<'a>,
    old: Cursor<'a>,
}

pub(super) fn validate(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    meta::validate_update_again(new, old, errors);
    let change = Change { spec: new.field("spec"), new: new.field("status"), old: old.field("status") };
    nonnegative_fields(&change.new, &["active", "succeeded", "failed", "ready", "terminating"], errors);
    uncounted_pods(&change.new, errors);
    complete_is_not_failed(&change, errors);
    completion_time(&change, errors);
    goals_come_first(&change, errors);
    finished_jobs(&change, errors);
    indexes(&change, errors);
    pod_counts(&change, errors);
    success_criteria(&change, errors);
    nothing_is_taken_back(&change, errors);
}

impl Change<'_> {
    fn is(&self, kind: &str) -> bool {
        has_condition(&self.new, kind)
    }

    fn was(&self, kind: &str) -> bool {
        has_condition(&self.old, kind)
    }

    /// Whether the condition became true or stopped being so.
    fn turns(&self, kind: &str) -> bool {
        self.is(kind) != self.was(kind)
    }

    fn is_finished(&self) -> bool {
        self.is("Complete") || self.is("Failed")
    }

    fn finishes(&self) -> bool {
        self.is_finished() != (self.was("Complete") || self.was("Failed"))
    }

    /// Whether a field differs; an absent counter or text is zero.
    fn changes(&self, field: &str) -> bool {
        let (new, old) = (self.new.field(field), self.old.field(field));
        let is_zero = |value: &Cursor<'_>| value.is_empty() || value.opt_int() == Some(0);
        new.value() != old.value() && !(is_zero(&new) && is_zero(&old))
    }

    fn is_indexed(&self) -> bool {
        self.spec.field("completionMode").str() == "Indexed"
    }

    fn refuse(&self, errors: &mut ErrorList, detail: impl Into<String>) {
        errors.invalid_unshown(self.new.field("conditions").path(), detail);
    }
}

fn has_condition(status: &Cursor<'_>, kind: &str) -> bool {
    status.field("conditions").items().any(|c| c.field("type").str() == kind && c.field("status").str() == "True")
}

fn uncounted_pods(status: &Cursor<'_>, errors: &mut ErrorList) {
    let mut seen = Vec::new();
    for list in ["succeeded", "failed"] {
        for uid in status.fields(&["uncountedTerminatedPods", list]).items() {
            if uid.str().is_empty() {
                uid.invalid(errors, "must not be empty");
            } else if seen.contains(&uid.str()) {
                uid.duplicate(errors);
            } else {
                seen.push(uid.str());
            }
        }
    }
}

fn complete_is_not_failed(change: &Change<'_>, errors: &mut ErrorList) {
    for (other, detail) in [
        ("Failed", "cannot set Complete=True and Failed=true conditions"),
        ("FailureTarget", "cannot set Complete=True and FailureTarget=true conditions"),
    ] {
        if (change.turns("Complete") || change.turns(other)) && change.is("Complete") && change.is(other) {
            change.refuse(errors, detail);
        }
    }
}

fn completion_time(change: &Change<'_>, errors: &mut ErrorList) {
    let (start, completion) = (change.new.field("startTime"), change.new.field("completionTime"));
    let is_complete = change.is("Complete");
    if change.turns("Complete") || change.changes("completionTime") {
        if !is_complete && completion.is_set() {
            completion.invalid(errors, "cannot set completionTime when there is no Complete=True condition");
        }
        if is_complete && !completion.is_set() {
            completion.required(errors, "completionTime is required for Complete jobs");
        }
    }
    let is_new = change.changes("startTime") || change.changes("completionTime");
    // Both are RFC 3339 in UTC with seconds, so text order is time order.
    if is_new && completion.is_set() && start.is_set() && completion.str() < start.str() {
        completion.invalid(errors, "must be equal to or after `startTime`");
    }
}

/// An end is announced by its goal: no job fails or completes at once.
fn goals_come_first(change: &Change<'_>, errors: &mut ErrorList) {
    for (end, goal, detail) in [
        ("Failed", "FailureTarget", "cannot set Failed=True condition without the FailureTarget=true condition"),
        (
            "Complete",
            "SuccessCriteriaMet",
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
    ] {
        if change.turns(end) && change.is(end) && !change.is(goal) {
            change.refuse(errors, detail);
        }
    }
}

fn finished_jobs(change: &Change<'_>, errors: &mut ErrorList) {
    if !change.is_finished() {
        return;
    }
    let active = change.new.field("active");
    if (change.finishes() || change.changes("active")) && active.int() > 0 {
        active.invalid(errors, "active>0 is invalid for finished job");
    }
    let start = change.new.field("startTime");
    if (change.finishes() || change.changes("startTime")) && !start.is_set() {
        start.required(errors, "startTime is required for finished job");
    }
    let uncounted = change.new.field("uncountedTerminatedPods");
    let (succeeded, failed) = (uncounted.field("succeeded"), uncounted.field("failed"));
    let is_checked = change.finishes() || change.changes("uncountedTerminatedPods");
    if is_checked && !(succeeded.is_empty() && failed.is_empty()) {
        let shown = json!({"Succeeded": succeeded.value(), "Failed": failed.value()});
        errors.invalid(uncounted.path(), shown, "uncountedTerminatedPods needs to be empty for finished job");
    }
}

fn indexes(change: &Change<'_>, errors: &mut ErrorList) {
    let (completed, failed) = (change.new.field("completedIndexes"), change.new.field("failedIndexes"));
    let completions = change.spec.field("completions").opt_int();
    let is_limited = change.spec.field("backoffLimitPerIndex").is_set();
    let (completed_changes, failed_changes) = (change.changes("completedIndexes"), change.failed_indexes_change());
    if let (true, Some(count)) = (completed_changes, completions)
        && let Err(problem) = intervals(completed.str(), count)
    {
        completed.invalid(errors, format!("error parsing completedIndexes: {problem}"));
    }
    if let (true, true, true, Some(count)) = (failed_changes, is_limited, failed.is_set(), completions)
        && let Err(problem) = intervals(failed.str(), count)
    {
        failed.invalid(errors, format!("error parsing failedIndexes: {problem}"));
    }
    if completed_changes && !completed.str().is_empty() && !change.is_indexed() {
        completed.invalid(errors, "cannot set non-empty completedIndexes when non-indexed completion mode");
    }
    if failed_changes && failed.is_set() && !is_limited {
        failed.invalid(errors, "cannot set non-null failedIndexes when backoffLimitPerIndex is null");
    }
    if let (true, true, Some(count)) = (failed_changes || completed_changes, failed.is_set(), completions)
        && let Some(problem) = overlap(completed.str(), failed.str(), count)
    {
        failed.invalid(errors, problem);
    }
}

impl Change<'_> {
    /// Unlike the other texts, the list of failed indexes may be empty without being absent.
    fn failed_indexes_change(&self) -> bool {
        self.new.field("failedIndexes").value() != self.old.field("failedIndexes").value()
    }
}

/// The first index that is said to have both completed and failed. Lists that cannot be read have been refused before.
fn overlap(completed: &str, failed: &str, completions: i64) -> Option<String> {
    let (completed, failed) = (intervals(completed, completions).ok()?, intervals(failed, completions).ok()?);
    let (mut i, mut j) = (0, 0);
    while let (Some(&(first, last)), Some(&(failed_first, failed_last))) = (completed.get(i), failed.get(j)) {
        if last < failed_first {
            i += 1;
        } else if failed_last < first {
            j += 1;
        } else {
            let index = first.max(failed_first);
            return Some(format!("failedIndexes and completedIndexes overlap at index: {index}"));
        }
    }
    None
}

fn pod_counts(change: &Change<'_>, errors: &mut ErrorList) {
    let (terminating, ready) = (change.new.field("terminating"), change.new.field("ready"));
    if (change.finishes() || change.changes("terminating")) && change.is_finished() && terminating.int() > 0 {
        terminating.invalid(errors, "terminating>0 is invalid for finished job");
    }
    let may_exceed = ready.is_set() && (change.changes("ready") || change.changes("active"));
    if may_exceed && ready.int() > change.new.field("active").int() {
        ready.invalid(errors, "cannot set more ready pods than active");
    }
}

fn success_criteria(change: &Change<'_>, errors: &mut ErrorList) {
    let is_met = change.is("SuccessCriteriaMet");
    for other in ["Failed", "FailureTarget"] {
        if is_met && change.is(other) {
            change.refuse(errors, format!("cannot set SuccessCriteriaMet=True and {other}=true conditions"));
        }
    }
    if change.spec.field("successPolicy").is_set() && !is_met && change.is("Complete") {
        change.refuse(errors, "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True");
    }
}

fn nothing_is_taken_back(change: &Change<'_>, errors: &mut ErrorList) {
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if change.was(kind) && !change.is(kind) {
            change.refuse(errors, format!("cannot disable the terminal {kind}=True condition"));
        }
    }
    // An indexed job with as many pods as indexes may be scaled down, and then has fewer successes.
    let is_elastic =
        change.is_indexed() && change.spec.field("completions").value() == change.spec.field("parallelism").value();
    for field in ["failed", "succeeded"] {
        let count = change.new.field(field);
        if count.int() < change.old.field(field).int() && !(field == "succeeded" && is_elastic) {
            errors.invalid(count.path(), count.int(), format!("cannot decrease the {field} counter"));
        }
    }
    let (completion, before) = (change.new.field("completionTime"), change.old.field("completionTime"));
    if completion.is_set() && before.is_set() && completion.value() != before.value() {
        completion.invalid(errors, "completionTime cannot be mutated");
    }
    let (start, before) = (change.new.field("startTime"), change.old.field("startTime"));
    if before.is_set() && start.value() != before.value() && !change.spec.field("suspend").bool() {
        start.invalid(errors, "field is immutable for unsuspended job once set");
    }
    if change.was("SuccessCriteriaMet") && !change.is("SuccessCriteriaMet") {
        change.refuse(errors, "cannot disable the SuccessCriteriaMet=True condition");
    }
    if change.was("Complete") && !change.was("SuccessCriteriaMet") && change.is("SuccessCriteriaMet") {
        change.refuse(errors, "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Value;

    fn job(spec: Value, status: Value) -> Value {
        json!({"metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "1"}, "spec": spec, "status": status})
    }

    fn refused(spec: Value, old: Value, new: Value) -> Vec<String> {
        let (old, new) = (job(spec.clone(), old), job(spec, new));
        let mut errors = ErrorList::new();
        validate(&Cursor::root(&new), &Cursor::root(&old), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    fn indexed() -> Value {
        json!({"completionMode": "Indexed", "completions": 5, "parallelism": 2, "backoffLimitPerIndex": 1})
    }

    #[test]
    fn indexes_are_checked_when_they_change() {
        for (old, new, problem) in [
            (
                json!({}),
                json!({"completedIndexes": "x"}),
                "completedIndexes: Invalid value: \"x\": error parsing completedIndexes: cannot convert string to integer for index: \"x\"",
            ),
            (
                json!({}),
                json!({"failedIndexes": "7"}),
                "failedIndexes: Invalid value: \"7\": error parsing failedIndexes: too large index: \"7\"",
            ),
            (
                json!({}),
                json!({"completedIndexes": "0-2", "failedIndexes": "2,4"}),
                "failedIndexes: Invalid value: \"2,4\": failedIndexes and completedIndexes overlap at index: 2",
            ),
        ] {
            assert_eq!(refused(indexed(), old, new), [format!("status.{problem}")]);
        }
        let broken = json!({"completedIndexes": "9", "active": 1});
        assert_eq!(refused(indexed(), broken, json!({"completedIndexes": "9", "active": 2})), [""; 0]);
    }

    #[test]
    fn only_indexed_jobs_have_indexes() {
        let spec = json!({"completions": 5, "parallelism": 2});
        assert_eq!(
            refused(spec, json!({}), json!({"completedIndexes": "1", "failedIndexes": ""})),
            [
                "status.completedIndexes: Invalid value: \"1\": cannot set non-empty completedIndexes when non-indexed \
                 completion mode",
                "status.failedIndexes: Invalid value: \"\": cannot set non-null failedIndexes when backoffLimitPerIndex is null",
            ]
        );
    }

    #[test]
    fn a_job_that_runs_keeps_its_start() {
        let (old, new) = (json!({"startTime": "2026-01-01T00:00:00Z"}), json!({"startTime": "2026-01-02T00:00:00Z"}));
        assert_eq!(
            refused(json!({}), old.clone(), new.clone()),
            [
                "status.startTime: Invalid value: \"2026-01-02T00:00:00Z\": field is immutable for unsuspended job once set"
            ]
        );
        assert_eq!(refused(json!({"suspend": true}), old, new), [""; 0]);
    }

    #[test]
    fn conditions_are_not_shown() {
        let failed = json!({"startTime": "2026-01-01T00:00:00Z", "conditions": [{"type": "Failed", "status": "True"}]});
        assert_eq!(
            refused(json!({}), json!({"startTime": "2026-01-01T00:00:00Z"}), failed),
            [
                "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition"
            ]
        );
    }

    #[test]
    fn pods_that_nobody_counted_are_not_too_many() {
        assert_eq!(
            refused(json!({}), json!({}), json!({"active": -1})),
            ["status.active: Invalid value: -1: must be greater than or equal to 0"]
        );
        let counted = refused(json!({}), json!({}), json!({"active": 1, "ready": 2}));
        assert_eq!(counted, ["status.ready: Invalid value: 2: cannot set more ready pods than active"]);
    }

    #[test]
    fn only_elastic_jobs_lose_successes() {
        let (old, new) = (json!({"succeeded": 3, "failed": 1}), json!({"succeeded": 2}));
        let elastic = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2});
        assert_eq!(
            refused(elastic, old.clone(), new.clone()),
            ["status.failed: Invalid value: 0: cannot decrease the failed counter"]
        );
        assert_eq!(refused(indexed(), old, new).len(), 2);
    }
}
