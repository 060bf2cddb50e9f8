//! Node. Source: `pkg/registry/core/node`, `pkg/apis/core/validation`.

use crate::kinds::carry;
use crate::strategy::SubresourceStrategy;
use crate::validate::resources::{resource_value, taints};
use crate::validate::{go, net};
use crate::{Cursor, ErrorList, Path, Strategy, meta};

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
    validate_update,
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
        validate_update,
    }],
    ..Strategy::DEFAULT
};

fn validate(node: &Cursor<'_>, errors: &mut ErrorList) {
    // Upstream reports taints below metadata.
    taints(&Cursor::at(node.field("spec").field("taints").value(), Path::new("metadata.taints")), errors);
    capacities(node, errors);
    let cidrs = node.field("spec").field("podCIDRs");
    for cidr in cidrs.items() {
        net::cidr(&cidr, errors);
    }
    if cidrs.len() > 1 {
        let texts: Vec<&str> = cidrs.items().map(|c| c.str()).collect();
        if net::is_dual_stack_cidrs(texts.iter().copied()) != Some(true) || cidrs.len() > 2 {
            cidrs.invalid(errors, "may specify no more than one CIDR for each IP family");
        }
        for (index, cidr) in cidrs.items().enumerate() {
            if texts[..index].contains(&cidr.str()) {
                errors.duplicate(cidr.path(), cidr.str());
            }
        }
    }
}

fn capacities(node: &Cursor<'_>, errors: &mut ErrorList) {
    for list in ["capacity", "allocatable"] {
        let amounts = node.field("status").field(list);
        for (name, amount) in amounts.entries() {
            resource_value(name, amount.value(), &amounts.path().child(name), errors);
        }
    }
}

fn validate_update(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    meta::validate_update_again(new, old, errors);
    capacities(new, errors);
    let addresses: Vec<Cursor<'_>> = new.field("status").field("addresses").items().collect();
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].iter().any(|a| a.value() == address.value()) {
            errors.duplicate(address.path(), go::value("NodeAddress", address.value()));
        }
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
