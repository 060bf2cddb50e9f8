//! Resource names and quantities: which names exist where, and what amounts they take.

use crate::occurrences::Occurrences;
use crate::quantity::Quantity;
use crate::validate::names;
use crate::validate::text::{NEGATIVE, NOT_POSITIVE, duplicate_because, formatted, not_found_because};
use crate::{Cursor, ErrorList, Path, Value};

const NOT_INTEGER: &str = "must be an integer";
const HUGE_PAGES: &str = "hugepages-";

/// What quotas limit of pods' containers.
pub const OF_PODS: [&str; 9] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
const STORAGE: &str = "storage";
const REQUESTS_STORAGE: &str = "requests.storage";
const COUNTS: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// An amount that decoding has accepted; zero when absent or unreadable.
pub fn quantity(value: &Value) -> Quantity {
    Quantity::from_value(value).unwrap_or_default()
}

/// The amount under `name` of a resource list.
pub fn amount(list: &Cursor<'_>, name: &str) -> Option<Quantity> {
    list.value().get(name).filter(|v| !v.is_null()).map(quantity)
}

pub fn is_huge_page(name: &str) -> bool {
    name.starts_with(HUGE_PAGES)
}

/// What a whole pod can ask for.
pub fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_page(name)
}

fn is_standard(name: &str) -> bool {
    name == STORAGE || is_standard_quota(name)
}

pub fn is_standard_quota(name: &str) -> bool {
    let is_huge = is_huge_page(name.strip_prefix("requests.").unwrap_or(name));
    OF_PODS.contains(&name) || COUNTS.contains(&name) || name == REQUESTS_STORAGE || is_huge
}

/// Kubernetes' own: without a domain, or in a kubernetes.io domain.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A well-formed name outside of Kubernetes' own.
pub fn is_valid_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// A container may use more than it requests.
pub fn is_overcommit_allowed(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

fn is_integer(name: &str) -> bool {
    COUNTS.contains(&name) || is_valid_extended(name)
}

/// A name that is standard or has a domain. Returns whether it was fine.
pub fn resource_name(name: &str, path: &Path, errors: &mut ErrorList) -> bool {
    let messages = names::qualified_name(name);
    if !messages.is_empty() {
        messages.into_iter().for_each(|message| errors.invalid_choice(path.clone(), name, message));
        return false;
    }
    if !name.contains('/') && !is_standard(name) {
        errors.invalid_choice(path.clone(), name, "must be a standard resource type or fully qualified");
        return false;
    }
    true
}

/// A name that containers can use.
pub fn container_resource_name(name: &str, path: &Path, errors: &mut ErrorList) {
    resource_name(name, path, errors);
    if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_page(name) {
            errors.invalid_choice(path.clone(), name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_valid_extended(name) {
        errors.invalid_choice(path.clone(), name, "doesn't follow extended resource name standard");
    }
}

/// A name that a whole pod can use.
pub fn pod_resource_name(name: &str, path: &Path, errors: &mut ErrorList) {
    if resource_name(name, path, errors) && !is_pod_level(name) {
        errors.no_such_choice(path.clone(), name, &["cpu", "hugepages-", "memory"]);
    }
}

/// A name that a quota can limit.
pub fn quota_resource_name(name: &str, path: &Path, errors: &mut ErrorList) {
    resource_name(name, path, errors);
    if !name.contains('/') && !is_standard_quota(name) {
        errors.invalid_choice(path.clone(), name, "must be a standard resource for quota");
    }
}

/// The amount of `name`: not negative, and whole where only whole ones make sense.
pub fn resource_value(name: &str, value: &Value, path: &Path, errors: &mut ErrorList) {
    let amount = quantity(value);
    if amount.sign() < 0 {
        errors.invalid(path.clone(), amount.to_string(), NEGATIVE);
    }
    if is_integer(name) && amount.milli_value() % 1000 != 0 {
        errors.invalid(path.clone(), amount.to_string(), NOT_INTEGER);
    }
}

pub fn positive(value: &Value, path: &Path, errors: &mut ErrorList) {
    let amount = quantity(value);
    if amount.sign() <= 0 {
        errors.invalid(path.clone(), amount.to_string(), NOT_POSITIVE);
    }
}

/// Checks only that the (rounded up) amount is not negative.
pub fn basic_resource(value: &Value, path: &Path, errors: &mut ErrorList) -> bool {
    let amount = quantity(value).value();
    if amount < 0 {
        errors.invalid(path.clone(), amount, "must be a valid resource quantity");
    }
    amount >= 0
}

fn is_divisible_huge_page(name: &str, amount: &Quantity) -> bool {
    let page: Quantity = name.strip_prefix(HUGE_PAGES).and_then(|size| size.parse().ok()).unwrap_or_default();
    page.sign() > 0 && page.value() != 0 && amount.value() % page.value() == 0
}

/// How a requirement's resource names are checked.
pub type ResourceNameRule = fn(&str, &Path, &mut ErrorList);

/// A ResourceRequirements: names, amounts, requests against limits, and claims of the pod.
pub fn requirements(
    requirements: &Cursor<'_>,
    name_rule: ResourceNameRule,
    pod_claims: &[&str],
    errors: &mut ErrorList,
) {
    let (limits, requests) = (requirements.field("limits"), requirements.field("requests"));
    resource_lists(&limits, &requests, &requirements.path(), name_rule, errors);
    claims(&requirements.field("claims"), pod_claims, errors);
}

/// Limits and requests that need not be fields of one object (a pod's overhead is checked as limits).
pub fn resource_lists(
    limits: &Cursor<'_>,
    requests: &Cursor<'_>,
    whole: &Path,
    name_rule: ResourceNameRule,
    errors: &mut ErrorList,
) {
    let (mut has_compute, mut has_huge_pages) = (false, false);
    let mut note = |name: &str| {
        has_compute |= matches!(name, "cpu" | "memory");
        has_huge_pages |= is_huge_page(name);
    };
    for (name, value) in limits.entries() {
        one_resource(name, &value, name_rule, errors);
        huge_page(name, &value, errors);
        note(name);
    }
    for (name, value) in requests.entries() {
        one_resource(name, &value, name_rule, errors);
        request_within_limit(name, &value, limits, &requests.path(), errors);
        huge_page(name, &value, errors);
        note(name);
    }
    if has_huge_pages && !has_compute {
        errors.forbidden(whole.clone(), "HugePages require cpu or memory");
    }
}

fn one_resource(name: &str, value: &Cursor<'_>, name_rule: ResourceNameRule, errors: &mut ErrorList) {
    name_rule(name, &value.path(), errors);
    resource_value(name, value.value(), &value.path(), errors);
}

fn huge_page(name: &str, value: &Cursor<'_>, errors: &mut ErrorList) {
    let amount = quantity(value.value());
    if is_huge_page(name) && !is_divisible_huge_page(name, &amount) {
        let detail = format!("{amount} is not positive integer multiple of {name}");
        errors.invalid(value.path(), amount.to_string(), detail);
    }
}

fn request_within_limit(name: &str, value: &Cursor<'_>, limits: &Cursor<'_>, path: &Path, errors: &mut ErrorList) {
    let request = quantity(value.value());
    match amount(limits, name) {
        Some(limit) if request != limit && !is_overcommit_allowed(name) => {
            errors.invalid(path.clone(), request.to_string(), format!("must be equal to {name} limit of {limit}"));
        }
        Some(limit) if request > limit => {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            errors.invalid(path.clone(), request.to_string(), detail);
        }
        None if !is_overcommit_allowed(name) => {
            errors.required(limits.path(), "Limit must be set for non overcommitable resources");
        }
        _ => {}
    }
}

fn claims(claims: &Cursor<'_>, pod_claims: &[&str], errors: &mut ErrorList) {
    let mut seen: Vec<String> = Vec::new();
    for claim in claims.items() {
        let name = claim.field("name").str();
        let request = claim.field("request");
        if name.is_empty() {
            claim.required(errors, "");
            continue;
        }
        if seen.iter().any(|s| s == name) {
            errors.duplicate(claim.path(), name);
        } else {
            let mut key = name.to_owned();
            if !request.is_empty() {
                formatted(&request, names::dns1123_label, errors);
                key = format!("{name}/{}", request.str());
            }
            if seen.contains(&key) {
                errors.duplicate(claim.path(), key.as_str());
            } else if request.is_empty() {
                for other in seen.iter().filter_map(|s| s.split_once('/')).filter(|(n, _)| *n == name) {
                    errors.duplicate(claim.path(), other.0);
                }
            }
            seen.push(key);
        }
        if !pod_claims.contains(&name) {
            let mut detail = "must be one of the names in pod.spec.resourceClaims".to_owned();
            if pod_claims.is_empty() {
                detail.push_str(" which is empty");
            } else {
                let mut sorted = pod_claims.to_vec();
                sorted.sort_unstable();
                sorted.dedup();
                detail.push_str(&format!(": {}", sorted.join(", ")));
            }
            not_found_because(errors, claim.path(), name, detail);
        }
    }
}

/// Node taints: keys, values, effects, and one taint per key and effect.
pub fn taints(list: &Cursor<'_>, errors: &mut ErrorList) {
    let mut seen: Occurrences<(&str, &str)> = Occurrences::new();
    for taint in list.items() {
        let (key, value, effect) = (taint.field("key"), taint.field("value"), taint.field("effect"));
        formatted(&key, names::qualified_name, errors);
        let messages = names::label_value(value.str());
        if !messages.is_empty() {
            errors.invalid(value.path(), value.str(), messages.join(";"));
        }
        taint_effect(&effect, errors);
        let pair = (key.str(), effect.str());
        if seen.contains(&pair) {
            let shown = super::go::value("Taint", taint.value());
            duplicate_because(errors, taint.path(), shown, "taints must be unique by key and effect pair");
        } else {
            seen.push(pair);
        }
    }
}

const TAINT_EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub fn taint_effect(effect: &Cursor<'_>, errors: &mut ErrorList) {
    super::text::required_enum(effect, TAINT_EFFECTS, errors);
}

/// Tolerations of pods and runtime classes.
pub fn tolerations(list: &Cursor<'_>, errors: &mut ErrorList) {
    for toleration in list.items() {
        one_toleration(&toleration, errors);
    }
}

pub fn one_toleration(toleration: &Cursor<'_>, errors: &mut ErrorList) {
    let (key, operator) = (toleration.field("key"), toleration.field("operator"));
    let (value, effect) = (toleration.field("value"), toleration.field("effect"));
    if !key.is_empty() {
        formatted(&key, names::qualified_name, errors);
    } else if operator.str() != "Exists" {
        errors.invalid(
            operator.path(),
            operator.str(),
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        );
    }
    if toleration.field("tolerationSeconds").is_set() && effect.str() != "NoExecute" {
        errors.invalid(effect.path(), effect.str(), "effect must be 'NoExecute' when `tolerationSeconds` is set");
    }
    match operator.str() {
        "" | "Equal" => {
            let messages = names::label_value(value.str());
            if !messages.is_empty() {
                errors.invalid(operator.path(), value.str(), messages.join(";"));
            }
        }
        "Exists" => {
            if !value.is_empty() {
                errors.invalid(operator.path(), value.str(), "value must be empty when `operator` is 'Exists'");
            }
        }
        // The comparison operators exist, behind a gate that is off; upstream lists them when one of them is used.
        "Lt" | "Gt" => operator.no_such_choice(errors, &["Equal", "Exists", "Lt", "Gt"]),
        _ => operator.no_such_choice(errors, &["Equal", "Exists"]),
    }
    if !effect.is_empty() {
        super::text::supported(&effect, TAINT_EFFECTS, errors);
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    fn errors_of(value: Value) -> Vec<String> {
        let mut errors = ErrorList::new();
        requirements(&Cursor::at(&value, Path::new("r")), container_resource_name, &[], &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn requests_stay_within_limits() {
        assert_eq!(
            errors_of(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}})),
            ["r.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"]
        );
        assert_eq!(
            errors_of(json!({"limits": {"nvidia.com/gpu": "2"}, "requests": {"nvidia.com/gpu": "1"}})),
            ["r.requests: Invalid value: \"1\": must be equal to nvidia.com/gpu limit of 2"]
        );
        assert_eq!(
            errors_of(json!({"requests": {"nvidia.com/gpu": "1"}})),
            ["r.limits: Required value: Limit must be set for non overcommitable resources"]
        );
    }

    #[test]
    fn huge_pages_come_in_pages_and_need_company() {
        assert_eq!(
            errors_of(json!({"limits": {"hugepages-2Mi": "1Mi"}})),
            [
                "r.limits[hugepages-2Mi]: Invalid value: \"1Mi\": 1Mi is not positive integer multiple of hugepages-2Mi",
                "r: Forbidden: HugePages require cpu or memory"
            ]
        );
    }

    #[test]
    fn extended_resources_are_whole() {
        assert_eq!(
            errors_of(json!({"limits": {"example.com/x": "1.5"}})),
            ["r.limits[example.com/x]: Invalid value: \"1500m\": must be an integer"]
        );
    }
}
