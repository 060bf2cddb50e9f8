//! Node. Source: `pkg/registry/core/node`, `pkg/apis/core/validation`.

use std::cmp::Ordering;

use crate::field::go_quote;
use crate::kinds::carry;
use crate::occurrences::Occurrences;
use crate::strategy::SubresourceStrategy;
use crate::validate::resources::{resource_value, taints};
use crate::validate::{go, names, net};
use crate::{Cursor, ErrorList, Path, Strategy, meta};

/// Bytes of a declared feature's name, as of a DNS subdomain.
const FEATURE_BYTES_MAX: usize = 253;

pub const STRATEGY: Strategy = Strategy {
    prepare_for_create: |new, _| {
        carry::remove(new, &["spec"], "configSource");
        carry::remove(new, &["status"], "config");
    },
    validate,
    prepare_for_update: |new, old, _| {
        carry::keep_status(new, old);
        if old.pointer("/spec/configSource").is_none() {
            carry::remove(new, &["spec"], "configSource");
        }
    },
    validate_update: |new, old, errors| {
        meta::validate_whole_again(new, false, names::subdomain_name, errors);
        validate(new, errors);
        node_update(new, old, errors);
    },
    warnings: |new, _, out| {
        let spec = new.field("spec");
        if spec.field("configSource").is_set() {
            out.push(format!("{}: the feature is no longer supported", spec.field("configSource").path()));
        }
        if !spec.field("externalID").is_empty() {
            out.push(format!(
                "{}: this field is deprecated, and is unused by Kubernetes",
                spec.field("externalID").path()
            ));
        }
    },
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |new, old, _| {
            carry::keep_spec(new, old);
            if old.pointer("/status/config").is_none() {
                carry::remove(new, &["status"], "config");
            }
        },
        validate_update: node_update,
    }],
    ..Strategy::DEFAULT
};

fn validate(node: &Cursor<'_>, errors: &mut ErrorList) {
    // Upstream reports taints below metadata.
    taints(&Cursor::at(node.field("spec").field("taints").value(), Path::new("metadata.taints")), errors);
    capacities(node, errors);
    declared_features(node, errors);
    let cidrs = node.field("spec").field("podCIDRs");
    for cidr in cidrs.items() {
        net::cidr(&cidr, errors);
    }
    if cidrs.len() > 1 {
        let texts: Vec<&str> = cidrs.items().map(|c| c.str()).collect();
        if let Some(bad) = texts.iter().position(|text| net::parse_cidr_sloppy(text).is_none()) {
            let text = texts[bad];
            let detail = format!(
                "invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR[{bad}]: <nil> (invalid CIDR \
                 address: {text})"
            );
            errors.internal(cidrs.path(), detail);
        }
        if net::is_dual_stack_cidrs(texts.iter().copied()) != Some(true) || cidrs.len() > 2 {
            cidrs.invalid(errors, "may specify no more than one CIDR for each IP family");
        }
    }
}

/// What the kubelet says it can do: names in order, each once.
fn declared_features(node: &Cursor<'_>, errors: &mut ErrorList) {
    let features: Vec<Cursor<'_>> = node.field("status").field("declaredFeatures").items().collect();
    for (index, feature) in features.iter().enumerate() {
        let name = go_quote(feature.str());
        if feature.str().len() > FEATURE_BYTES_MAX {
            feature.invalid(
                errors,
                format!("invalid feature name {name}: must be no more than {FEATURE_BYTES_MAX} characters"),
            );
        } else if !is_feature_name(feature.str()) {
            feature.invalid(
                errors,
                format!(
                    "invalid feature name {name}: must start with an UpperCamelCase segment, with subsequent segments separated by \
                     '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"
                ),
            );
        }
        let Some(next) = features.get(index + 1) else { break };
        match feature.str().cmp(next.str()) {
            Ordering::Less => {}
            Ordering::Equal => errors.duplicate(next.path(), next.str()),
            Ordering::Greater => next.invalid(errors, "list must be sorted alphabetically"),
        }
    }
}

/// `MyFeature` or `MyFeature/mySubFeature`.
fn is_feature_name(name: &str) -> bool {
    let is_segment = |segment: &str| {
        segment.starts_with(|c: char| c.is_ascii_alphabetic())
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.split('/').all(is_segment)
}

fn capacities(node: &Cursor<'_>, errors: &mut ErrorList) {
    for list in ["capacity", "allocatable"] {
        let amounts = node.field("status").field(list);
        for (name, amount) in amounts.entries() {
            resource_value(name, amount.value(), &amounts.path().child(name), errors);
        }
    }
}

fn node_update(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    meta::validate_update_again(new, old, errors);
    capacities(new, errors);
    declared_features(new, errors);
    let mut seen: Occurrences<(&str, &str)> = Occurrences::new();
    for address in new.field("status").field("addresses").items() {
        let key = (address.field("type").str(), address.field("address").str());
        if seen.contains(&key) {
            errors.duplicate(address.path(), go::value("NodeAddress", address.value()));
        }
        seen.push(key);
    }
    let (spec, old_spec) = (new.field("spec"), old.field("spec"));
    let (cidrs, old_cidrs) = (spec.field("podCIDRs"), old_spec.field("podCIDRs"));
    if !old_cidrs.is_empty() {
        let refused = "node updates may not change podCIDR except from \"\" to valid";
        if cidrs.len() != old_cidrs.len() {
            cidrs.forbidden(errors, refused);
        } else {
            for _ in old_cidrs.items().zip(cidrs.items()).filter(|(o, n)| o.value() != n.value()) {
                cidrs.forbidden(errors, refused);
            }
        }
    }
    let provider = spec.field("providerID");
    if !old_spec.field("providerID").is_empty() && provider.str() != old_spec.field("providerID").str() {
        provider.forbidden(errors, "node updates may not change providerID except from \"\" to valid");
    }
    taints(&Cursor::at(spec.field("taints").value(), Path::new("metadata.taints")), errors);
    if spec.field("externalID").str() != old_spec.field("externalID").str() {
        spec.field("externalID").forbidden(errors, "may not be updated");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn declared_features_have_names_in_order_each_once() {
        let errors_of = |features: &[&str]| {
            let (node, mut errors) = (json!({"status": {"declaredFeatures": features}}), ErrorList::new());
            declared_features(&Cursor::root(&node), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(errors_of(&["Another/mode", "Feature", "Feature2"]), Vec::<String>::new());
        assert_eq!(
            errors_of(&["B", "A", "A"]),
            [
                "status.declaredFeatures[1]: Invalid value: \"A\": list must be sorted alphabetically",
                "status.declaredFeatures[2]: Duplicate value: \"A\"",
            ]
        );
        for name in ["", "lower", "A b", "A//b", "A/", "A/1"] {
            let errors = errors_of(&[name]);
            assert!(errors[0].contains("must start with an UpperCamelCase segment"), "{name}: {errors:?}");
        }
        assert!(errors_of(&[&"A".repeat(254)])[0].ends_with("must be no more than 253 characters"));
    }
}
