//! ResourceQuota. Source: `pkg/registry/core/resourcequota`, `pkg/apis/core/validation`.

use crate::json;

use crate::kinds::carry;
use crate::strategy::SubresourceStrategy;
use crate::validate::go;
use crate::validate::resources::{amount, is_standard_quota, quota_resource_name, resource_value};
use crate::validate::text::IMMUTABLE;
use crate::{Cursor, ErrorList, Strategy, meta};

const POD_SCOPES: &[&str] =
    &["Terminating", "NotTerminating", "NotBestEffort", "PriorityClass", "CrossNamespacePodAffinity"];
const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
const EXCLUSIVE: &[(&str, &str)] = &[("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")];

pub const STRATEGY: Strategy = Strategy {
    prepare_for_create: |new, _| carry::set(new, "status", json!({})),
    validate: |quota, errors| quota_spec(&quota.field("spec"), errors),
    prepare_for_update: |new, old, _| carry::keep_status(new, old),
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        quota_spec(&new.field("spec"), errors);
        let scopes = |quota: &Cursor<'_>| {
            let list = quota.field("spec").field("scopes");
            let mut names: Vec<String> = list.items().map(|s| s.str().to_owned()).collect();
            names.sort_unstable();
            names.dedup();
            names
        };
        if scopes(new) != scopes(old) {
            new.field("spec").field("scopes").invalid(errors, IMMUTABLE);
        }
    },
    warnings: |new, old, out| {
        if old.is_some() {
            return;
        }
        let hard = new.field("spec").field("hard");
        for name in ["cpu", "memory", "ephemeral-storage"] {
            let (request, limit) =
                (amount(&hard, &format!("requests.{name}")), amount(&hard, &format!("limits.{name}")));
            if let (Some(request), Some(limit)) = (request, limit)
                && request > limit
            {
                out.push(format!(
                    "{}: requests.{name} should be less than or equal to limits.{name}",
                    hard.path().key(&format!("requests.{name}"))
                ));
            }
        }
    },
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |new, old, _| carry::keep_spec(new, old),
        validate_update: |new, old, errors| {
            meta::validate_update_again(new, old, errors);
            for list in ["hard", "used"] {
                amounts(&new.field("status").field(list), errors);
            }
        },
    }],
    ..Strategy::DEFAULT
};

fn amounts(list: &Cursor<'_>, errors: &mut ErrorList) {
    for (name, value) in list.entries() {
        quota_resource_name(name, &value.path(), errors);
        resource_value(name, value.value(), &value.path(), errors);
    }
}

fn quota_spec(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let hard = spec.field("hard");
    amounts(&hard, errors);
    let mut resources: Vec<&str> = hard.entries().map(|(name, _)| name).collect();
    resources.sort_unstable();
    scopes(&spec.field("scopes"), &resources, errors);
    scope_selector(spec, &resources, errors);
}

/// Whether a scope says anything about a resource.
fn applies(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => resource == "persistentvolumeclaims" || resource == "requests.storage",
        _ if POD_SCOPES.contains(&scope) => {
            let pod_resource = ["cpu", "memory", "ephemeral-storage"];
            let bare =
                resource.strip_prefix("requests.").or_else(|| resource.strip_prefix("limits.")).unwrap_or(resource);
            resource == "pods" || (pod_resource.contains(&bare)) || bare.starts_with("hugepages-")
        }
        _ => true,
    }
}

fn unknown_or_inapplicable(scope: &str, resources: &[&str], mut report: impl FnMut(bool, &'static str)) {
    if !SCOPES.contains(&scope) {
        report(true, "unsupported scope");
    }
    for resource in resources {
        if is_standard_quota(resource) && !applies(scope, resource) {
            report(false, "unsupported scope applied to resource");
        }
    }
}

fn scopes(list: &Cursor<'_>, resources: &[&str], errors: &mut ErrorList) {
    for scope in list.items() {
        unknown_or_inapplicable(scope.str(), resources, |_, detail| list.invalid(errors, detail));
    }
    for (a, b) in EXCLUSIVE {
        if [a, b].iter().all(|wanted| list.items().any(|s| s.str() == **wanted)) {
            list.invalid(errors, "conflicting scopes");
        }
    }
}

fn scope_selector(spec: &Cursor<'_>, resources: &[&str], errors: &mut ErrorList) {
    let selector = spec.field("scopeSelector");
    let list = selector.field("matchExpressions");
    let path = list.path();
    for requirement in list.items() {
        let (scope, operator) = (requirement.field("scopeName").str(), requirement.field("operator").str());
        unknown_or_inapplicable(scope, resources, |is_unknown, detail| {
            if is_unknown {
                errors.invalid_choice(path.child("scopeName"), scope, detail);
            } else {
                errors.invalid(path.clone(), go::value("ScopeSelector", selector.value()), detail);
            }
        });
        if !matches!(scope, "PriorityClass" | "VolumeAttributesClass")
            && SCOPES.contains(&scope)
            && operator != "Exists"
        {
            errors.invalid_choice(
                path.child("operator"),
                operator,
                "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, \
                 ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
            );
        }
        let values = requirement.field("values");
        match operator {
            "In" | "NotIn" if values.is_empty() => errors.required(
                path.child("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.invalid(
                path.child("values"),
                values.value().clone(),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.invalid_choice(path.child("operator"), operator, "not a valid selector operator"),
        }
    }
    for (a, b) in EXCLUSIVE {
        if [a, b].iter().all(|wanted| list.items().any(|r| r.field("scopeName").str() == **wanted)) {
            errors.invalid(path.clone(), spec.field("scopes").value().clone(), "conflicting scopes");
        }
    }
}
