//! Pod failure policies and success policies of jobs.

use crate::occurrences::Occurrences;
use crate::validate::go;
use crate::validate::names;
use crate::validate::text::{formatted, supported};
use crate::{Cursor, ErrorList};

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const SUCCEEDED_INDEXES_MAX_BYTES: usize = 64 * 1024;

/// `spec.podFailurePolicy`.
pub(super) fn pod_failure_policy(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let rules = spec.field("podFailurePolicy").field("rules");
    if rules.len() > RULES_MAX {
        errors.too_many(rules.path(), rules.len(), RULES_MAX);
    }
    let pod = spec.field("template").field("spec");
    let containers: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| pod.field(list).items().map(|c| c.field("name").str()).collect::<Vec<_>>())
        .collect();
    for rule in rules.items() {
        failure_rule(spec, &rule, &containers, errors);
    }
}

fn failure_rule(spec: &Cursor<'_>, rule: &Cursor<'_>, containers: &[&str], errors: &mut ErrorList) {
    let action = rule.field("action");
    match action.str() {
        "" => action.required(errors, "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"),
        "FailIndex" if !spec.field("backoffLimitPerIndex").is_set() => {
            action.invalid(errors, "requires the backoffLimitPerIndex to be set");
        }
        _ => supported(&action, ACTIONS, errors),
    }
    let (codes, conditions) = (rule.field("onExitCodes"), rule.field("onPodConditions"));
    if codes.is_set() {
        exit_codes(&codes, containers, errors);
    }
    if conditions.len() > RULES_MAX {
        errors.too_many(conditions.path(), conditions.len(), RULES_MAX);
    }
    for pattern in conditions.items() {
        formatted(&pattern.field("type"), names::qualified_name, errors);
        let status = pattern.field("status");
        if status.is_empty() {
            status.required(errors, "valid values: [\"False\" \"True\" \"Unknown\"]");
        } else {
            supported(&status, &["False", "True", "Unknown"], errors);
        }
    }
    match (codes.is_set(), conditions.is_empty()) {
        (true, false) => {
            errors.invalid_unshown(rule.path(), "specifying both OnExitCodes and OnPodConditions is not supported");
        }
        (false, true) => {
            errors.invalid_unshown(rule.path(), "specifying one of OnExitCodes and OnPodConditions is required");
        }
        _ => {}
    }
}

fn exit_codes(requirement: &Cursor<'_>, containers: &[&str], errors: &mut ErrorList) {
    let (operator, values) = (requirement.field("operator"), requirement.field("values"));
    if operator.is_empty() {
        operator.required(errors, "valid values: [\"In\" \"NotIn\"]");
    } else {
        supported(&operator, &["In", "NotIn"], errors);
    }
    let container = requirement.field("containerName");
    if container.is_set() && !containers.contains(&container.str()) {
        container.invalid(errors, "must be one of the container or initContainer names in the pod template");
    }
    if values.is_empty() {
        values.invalid(errors, "at least one value is required");
    } else if values.len() > EXIT_CODES_MAX {
        errors.too_many(values.path(), values.len(), EXIT_CODES_MAX);
    }
    let mut seen: Occurrences<i64> = Occurrences::new();
    let mut is_ordered = true;
    for value in values.items() {
        if operator.str() == "In" && value.int() == 0 {
            value.invalid(errors, "must not be 0 for the In operator");
        }
        if seen.contains(&value.int()) {
            errors.duplicate(value.path(), value.int());
        }
        is_ordered &= seen.keys().last().is_none_or(|last| *last <= value.int());
        seen.push(value.int());
    }
    if !is_ordered {
        values.invalid(errors, "must be ordered");
    }
}

/// `spec.successPolicy`.
pub(super) fn success_policy(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let policy = spec.field("successPolicy");
    if !policy.is_set() {
        return;
    }
    if spec.field("completionMode").str() != "Indexed" {
        let shown = go::value("batch.SuccessPolicy", policy.value());
        errors.invalid(policy.path(), shown, "requires indexed completion mode");
        return;
    }
    let rules = policy.field("rules");
    if rules.is_empty() {
        rules.required(errors, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > RULES_MAX {
        errors.too_many(rules.path(), rules.len(), RULES_MAX);
    }
    for rule in rules.items() {
        success_rule(&rule, spec.field("completions").int(), errors);
    }
}

fn success_rule(rule: &Cursor<'_>, completions: i64, errors: &mut ErrorList) {
    let (indexes, count) = (rule.field("succeededIndexes"), rule.field("succeededCount"));
    if !indexes.is_set() && !count.is_set() {
        rule.required(errors, "at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut n_indexes = 0;
    if indexes.is_set() {
        if indexes.str().len() > SUCCEEDED_INDEXES_MAX_BYTES {
            errors.too_long(indexes.path(), SUCCEEDED_INDEXES_MAX_BYTES);
        }
        match count_indexes(indexes.str(), completions) {
            Ok(n) => n_indexes = n,
            Err(problem) => indexes.invalid(errors, format!("error parsing succeededIndexes: {problem}")),
        }
    }
    let Some(n) = count.opt_int() else { return };
    crate::validate::text::nonnegative(&count, errors);
    if n > completions {
        count.invalid(
            errors,
            format!("must be less than or equal to {completions} (the number of specified completions)"),
        );
    }
    if indexes.is_set() && n > n_indexes {
        let detail = format!(
            "must be less than or equal to {n_indexes} (the number of indexes in the specified succeededIndexes field)"
        );
        count.invalid(errors, detail);
    }
}

fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    Ok(intervals(text, completions)?.iter().map(|(first, last)| last - first + 1).sum())
}

/// The intervals of `1,3-5`, both ends inclusive, which must be ascending and below `completions`.
pub(super) fn intervals(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let parse = |part: &str| -> Result<i64, String> {
        let index: i64 =
            part.parse().map_err(|_| format!("cannot convert string to integer for index: {}", quoted(part)))?;
        if index < 0 || index >= completions {
            return Err(format!("too large index: {}", quoted(part)));
        }
        Ok(index)
    };
    let (mut found, mut last) = (Vec::new(), -1);
    for interval in text.split(',') {
        let limits: Vec<&str> = interval.split('-').collect();
        let (first, end) = match limits[..] {
            [one] => {
                let index = parse(one)?;
                (index, index)
            }
            [first, end] => match (parse(first)?, parse(end)?) {
                (first, end) if first >= end => {
                    return Err(format!("non-increasing order, previous: {first}, current: {end}"));
                }
                interval => interval,
            },
            _ => {
                return Err(format!(
                    "the fragment {} violates the requirement that an index interval can have at most two parts separated by '-'",
                    quoted(interval)
                ));
            }
        };
        if first <= last {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        found.push((first, end));
        last = end;
    }
    Ok(found)
}

fn quoted(text: &str) -> String {
    crate::field::go_quote(text)
}
