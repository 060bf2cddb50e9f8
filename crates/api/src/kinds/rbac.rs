//! Role, ClusterRole and their bindings. Source: `pkg/apis/rbac/validation`. Escalation is checked by the authorizer's owner.

use crate::validate::labels::selector;
use crate::validate::names;
use crate::validate::text::{formatted, required_formatted, supported_text};
use crate::{Cursor, ErrorList, Strategy, Value, meta};

const GROUP: &str = "rbac.authorization.k8s.io";

pub const ROLE: Strategy = Strategy {
    name_rule: names::rbac_name,
    validate: |role, errors| rules(role, true, errors),
    validate_update: |new, old, errors| {
        meta::validate_whole_again(new, true, names::path_segment_name, errors);
        rules(new, true, errors);
        meta::validate_update_again(new, old, errors);
    },
    ..Strategy::DEFAULT
};

pub const CLUSTER_ROLE: Strategy = Strategy {
    name_rule: names::rbac_name,
    validate: cluster_role,
    validate_update: |new, old, errors| {
        meta::validate_whole_again(new, false, names::path_segment_name, errors);
        cluster_role(new, errors);
        meta::validate_update_again(new, old, errors);
    },
    ..Strategy::DEFAULT
};

pub const ROLE_BINDING: Strategy = Strategy {
    name_rule: names::rbac_name,
    validate: |binding, errors| role_binding(binding, true, errors),
    validate_update: |new, old, errors| binding_update(new, old, true, errors),
    ..Strategy::DEFAULT
};

pub const CLUSTER_ROLE_BINDING: Strategy = Strategy {
    name_rule: names::rbac_name,
    validate: |binding, errors| role_binding(binding, false, errors),
    validate_update: |new, old, errors| binding_update(new, old, false, errors),
    ..Strategy::DEFAULT
};

fn cluster_role(role: &Cursor<'_>, errors: &mut ErrorList) {
    rules(role, false, errors);
    let aggregation = role.field("aggregationRule");
    if aggregation.is_set() {
        let selectors = aggregation.field("clusterRoleSelectors");
        if selectors.is_empty() {
            selectors.required(errors, "at least one clusterRoleSelector required if aggregationRule is non-nil");
        }
        for own in selectors.items() {
            let n_before = errors.len();
            selector(&own, errors);
            if errors.len() > n_before {
                errors.invalid(own.path(), Value::Null, "invalid label selector.");
            }
        }
    }
}

fn rules(role: &Cursor<'_>, namespaced: bool, errors: &mut ErrorList) {
    for rule in role.field("rules").items() {
        policy_rule(&rule, namespaced, errors);
    }
}

fn policy_rule(rule: &Cursor<'_>, namespaced: bool, errors: &mut ErrorList) {
    let (verbs, urls) = (rule.field("verbs"), rule.field("nonResourceURLs"));
    let (groups, resources) = (rule.field("apiGroups"), rule.field("resources"));
    if verbs.is_empty() {
        verbs.required(errors, "verbs must contain at least one value");
    }
    if !urls.is_empty() {
        if namespaced {
            urls.invalid(errors, "namespaced rules cannot apply to non-resource URLs");
        }
        if !groups.is_empty() || !resources.is_empty() || !rule.field("resourceNames").is_empty() {
            urls.invalid(errors, "rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if groups.is_empty() {
        groups.required(errors, "resource rules must supply at least one api group");
    }
    if resources.is_empty() {
        resources.required(errors, "resource rules must supply at least one resource");
    }
}

fn role_binding(binding: &Cursor<'_>, namespaced: bool, errors: &mut ErrorList) {
    let reference = binding.field("roleRef");
    supported_text(&reference.field("apiGroup"), &[GROUP], errors);
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    let (kind, name) = (reference.field("kind"), reference.field("name"));
    supported_text(&kind, kinds, errors);
    required_formatted(&name, names::path_segment, errors);
    for subject in binding.field("subjects").items() {
        role_subject(&subject, namespaced, errors);
    }
}

fn role_subject(subject: &Cursor<'_>, namespaced: bool, errors: &mut ErrorList) {
    let (name, kind, group) = (subject.field("name"), subject.field("kind"), subject.field("apiGroup"));
    if name.is_empty() {
        name.required(errors, "");
    }
    match kind.str() {
        "ServiceAccount" => {
            if !name.is_empty() {
                formatted(&name, names::dns1123_subdomain, errors);
            }
            if !group.is_empty() {
                supported_text(&group, &[""], errors);
            }
            if !namespaced && subject.field("namespace").is_empty() {
                subject.field("namespace").required(errors, "");
            }
        }
        "User" | "Group" => supported_text(&group, &[GROUP], errors),
        _ => supported_text(&kind, &["ServiceAccount", "User", "Group"], errors),
    }
}

fn binding_update(new: &Cursor<'_>, old: &Cursor<'_>, namespaced: bool, errors: &mut ErrorList) {
    meta::validate_whole_again(new, namespaced, names::path_segment_name, errors);
    role_binding(new, namespaced, errors);
    meta::validate_update_again(new, old, errors);
    let reference = new.field("roleRef");
    if reference.value() != old.field("roleRef").value() {
        let shown = crate::validate::go::value("rbac.RoleRef", reference.value());
        errors.invalid(reference.path(), shown, "cannot change roleRef");
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn namespaced_rules_are_about_resources() {
        let role = json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}, {}]});
        let mut errors = ErrorList::new();
        (ROLE.validate)(&Cursor::root(&role), &mut errors);
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
                "rules[1].verbs: Required value: verbs must contain at least one value",
                "rules[1].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[1].resources: Required value: resource rules must supply at least one resource",
            ]
        );
    }
}
