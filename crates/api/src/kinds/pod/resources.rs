//! Resources of a whole pod: its own requirements against those of its containers, and its quality of service.

use crate::amounts::{self, Amounts};
use crate::kinds::pod::PodFacts;
use crate::validate::resources::{self, is_huge_page, quantity};
use crate::{Cursor, ErrorList, Value};

/// `spec.resources`, when set.
pub fn pod_level(pod: &PodFacts<'_>, errors: &mut ErrorList) {
    let own = pod.spec.field("resources");
    if !own.is_set() {
        return;
    }
    if own.field("claims").is_set() {
        own.field("claims").forbidden(errors, "claims may not be set for Resources at pod-level");
    }
    resources::requirements(&own, resources::pod_resource_name, &pod.claims, errors);
    consistent(pod.spec, &own, errors);
}

fn consistent(spec: &Cursor<'_>, own: &Cursor<'_>, errors: &mut ErrorList) {
    let (requests, limits) = (own.field("requests"), own.field("limits"));
    let Some(containers) = spec.value().as_object() else { return };
    for (name, sum) in amounts::of_containers(containers, "requests") {
        let Some(of_pod) = resources::amount(&requests, &name) else { continue };
        if sum > of_pod {
            let detail = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.invalid(requests.path().key(&name), of_pod.to_string(), detail);
        }
    }
    for (name, sum) in amounts::of_containers(containers, "limits").into_iter().filter(|(name, _)| is_huge_page(name)) {
        let Some(of_pod) = resources::amount(&limits, &name) else { continue };
        if sum > of_pod {
            let detail = format!("must be greater than or equal to aggregate container limits of {sum}");
            errors.invalid(limits.path().key(&name), of_pod.to_string(), detail);
        }
    }
    for (index, container) in spec.field("containers").items().enumerate() {
        for (name, limit) in container.field("resources").field("limits").entries() {
            let limit = quantity(limit.value());
            if let Some(of_pod) = resources::amount(&limits, name)
                && limit > of_pod
            {
                let path = own.path().child("containers").index(index).key(name).child("limits");
                errors.invalid(
                    path,
                    limit.to_string(),
                    format!("must be less than or equal to pod limits of {of_pod}"),
                );
            }
        }
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from what pod and containers request.
pub fn qos_class(pod: &Value) -> &'static str {
    let root = Cursor::root(pod);
    let spec = root.field("spec");
    let own = spec.field("resources");
    if own.is_set() {
        return class(std::iter::once(own));
    }
    let containers = ["initContainers", "containers"];
    class(containers.iter().flat_map(|list| spec.field(list).items().map(|c| c.field("resources")).collect::<Vec<_>>()))
}

fn class<'a>(requirements: impl Iterator<Item = Cursor<'a>>) -> &'static str {
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    let mut all_limited = true;
    for requirement in requirements {
        let positive = |list: &str| {
            let mut out = amounts::of_list(requirement.field(list).value());
            out.retain(|name, amount| matches!(name.as_str(), "cpu" | "memory") && amount.sign() > 0);
            out
        };
        let own_limits = positive("limits");
        all_limited &= own_limits.len() == 2;
        amounts::add(&mut requests, positive("requests"));
        amounts::add(&mut limits, own_limits);
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let guaranteed = all_limited
        && requests.len() == limits.len()
        && requests.iter().all(|(name, amount)| limits.get(name) == Some(amount));
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    fn qos(resources: Value) -> &'static str {
        qos_class(&json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}))
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        assert_eq!(qos(json!({})), "BestEffort");
        assert_eq!(qos(json!({"requests": {"cpu": "1"}})), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos(json!({"requests": both, "limits": both})), "Guaranteed");
        assert_eq!(qos(json!({"requests": {"example.com/x": "1"}, "limits": {"example.com/x": "1"}})), "BestEffort");
    }
}
