//! What a Job's policies say about a failed pod, and about which successes are enough.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};

use super::indexes;
use crate::ownership::{name, namespace};

/// What is to be done about a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts against the backoff limit.
    Count,
    /// It does not count.
    Ignore,
    /// Its index has failed.
    FailIndex,
    /// The Job has failed, with this message.
    FailJob(String),
}

/// The first rule that matches decides; without one a failure counts.
pub(super) fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let rules = policy.map(|policy| policy.rules.as_slice()).unwrap_or_default();
    for (index, rule) in rules.iter().enumerate() {
        let full_name = || format!("{}/{}", namespace(&pod.metadata), name(&pod.metadata));
        let matched = if let Some(codes) = &rule.on_exit_codes {
            exited(pod, codes).map(|(container, code)| {
                format!("Container {} for pod {} failed with exit code {code}", container.name, full_name())
            })
        } else {
            let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
            shown(pod, patterns).map(|condition| format!("Pod {} has condition {}", full_name(), condition.type_))
        };
        let Some(what) = matched else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{what} matching FailJob rule at index {index}")),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// A container that ended with a code of the requirement. Zero is never a failure.
fn exited<'a>(pod: &'a Pod, codes: &PodFailurePolicyOnExitCodesRequirement) -> Option<(&'a ContainerStatus, i32)> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let named = containers.filter(|one| codes.container_name.as_ref().is_none_or(|wanted| *wanted == one.name));
    let ended = named.filter_map(|one| Some((one, one.state.as_ref()?.terminated.as_ref()?.exit_code)));
    let is_in = codes.operator == "In";
    ended.into_iter().find(|(_, code)| *code != 0 && codes.values.contains(code) == is_in)
}

fn shown<'a>(pod: &'a Pod, patterns: &[PodFailurePolicyOnPodConditionsPattern]) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let matches = |pattern: &PodFailurePolicyOnPodConditionsPattern, condition: &PodCondition| {
        pattern.type_ == condition.type_ && pattern.status.as_deref().unwrap_or("True") == condition.status
    };
    conditions.iter().find(|condition| patterns.iter().any(|pattern| matches(pattern, condition)))
}

/// The message of the first rule that these successes satisfy.
pub(super) fn succeeds(policy: Option<&SuccessPolicy>, succeeded: &BTreeSet<i32>) -> Option<String> {
    let rules = policy.map(|policy| policy.rules.as_slice()).unwrap_or_default();
    let index = rules.iter().position(|rule| {
        let (n_of_rule, n_wanted) = match &rule.succeeded_indexes {
            Some(text) => {
                let wanted = indexes::parse(text);
                let have = wanted.intersection(succeeded).count();
                (have, rule.succeeded_count.map_or(wanted.len(), as_count))
            }
            None => (succeeded.len(), rule.succeeded_count.map_or(usize::MAX, as_count)),
        };
        !succeeded.is_empty() && n_of_rule >= n_wanted
    })?;
    Some(format!("Matched rules at index {index}"))
}

fn as_count(count: i32) -> usize {
    usize::try_from(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_matching_rule_decides() {
        let policy: PodFailurePolicy = serde_json::from_value(json!({ "rules": [
            { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget" }] },
            { "action": "FailJob", "onExitCodes": { "containerName": "c", "operator": "In", "values": [42] } },
            { "action": "FailIndex", "onExitCodes": { "operator": "NotIn", "values": [1] } },
        ] }))
        .unwrap();
        let pod = |code: i32, condition: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": { "name": "p", "namespace": "n" },
                "status": {
                    "phase": "Failed", "conditions": [{ "type": condition, "status": "True" }],
                    "containerStatuses": [{
                        "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                        "state": { "terminated": { "exitCode": code } },
                    }],
                },
            }))
            .unwrap()
        };
        let judge = |pod: &Pod| judge(Some(&policy), pod);
        assert_eq!(judge(&pod(42, "DisruptionTarget")), Verdict::Ignore);
        let message = "Container c for pod n/p failed with exit code 42 matching FailJob rule at index 1";
        assert_eq!(judge(&pod(42, "Ready")), Verdict::FailJob(message.into()));
        assert_eq!(judge(&pod(7, "Ready")), Verdict::FailIndex);
        assert_eq!(judge(&pod(1, "Ready")), Verdict::Count);
    }

    #[test]
    fn indexes_or_a_number_of_them_are_enough() {
        let policy = |rule| serde_json::from_value(json!({ "rules": [rule] })).unwrap();
        let enough =
            |rule, succeeded: &[i32]| succeeds(Some(&policy(rule)), &succeeded.iter().copied().collect()).is_some();
        assert!(enough(json!({ "succeededIndexes": "0,2" }), &[0, 2]));
        assert!(!enough(json!({ "succeededIndexes": "0,2" }), &[0, 1]));
        assert!(enough(json!({ "succeededIndexes": "0-5", "succeededCount": 2 }), &[1, 4]));
        assert!(enough(json!({ "succeededCount": 2 }), &[7, 8]));
        assert!(!enough(json!({ "succeededCount": 2 }), &[7]));
    }
}
