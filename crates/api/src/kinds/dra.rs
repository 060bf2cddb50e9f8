//! ResourceClaim, ResourceClaimTemplate, DeviceClass, ResourceSlice: dynamic resource allocation. Source:
//! `pkg/apis/resource/validation`.

mod slice;

use crate::cel::device;
use crate::strategy::SubresourceStrategy;
use crate::validate::labels::invalid_each;
use crate::validate::text::{IMMUTABLE, duplicate_because, formatted, immutable, required_formatted, same, supported};
use crate::validate::{go, names};
use crate::{Cursor, ErrorList, Path, Strategy, Value, meta};

const REQUESTS_MAX: usize = 32;
const FIRST_AVAILABLE_MAX: usize = 8;
const SELECTORS_MAX: usize = 32;
const CONSTRAINTS_MAX: usize = 32;
const CONFIG_MAX: usize = 32;
const RESERVED_MAX: usize = 256;
const DRIVER_NAME_MAX_BYTES: usize = 63;
const OPAQUE_MAX_BYTES: usize = 10 * 1024;

pub const CLAIM: Strategy = Strategy {
    validate: |claim, errors| device_claim(&claim.field("spec").field("devices"), errors),
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        fixed_spec(new, old, "dra.ResourceClaimSpec", errors);
    },
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |_, _, _| {},
        validate_update: claim_status,
    }],
    ..Strategy::DEFAULT
};

pub const CLAIM_TEMPLATE: Strategy = Strategy {
    validate: |template, errors| {
        let spec = template.field("spec");
        meta::template_meta(&spec.field("metadata"), errors);
        device_claim(&spec.field("spec").field("devices"), errors);
    },
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        fixed_spec(new, old, "dra.ResourceClaimTemplateSpec", errors);
    },
    ..Strategy::DEFAULT
};

pub const DEVICE_CLASS: Strategy = Strategy {
    // Upstream's declarative rules, which look at the name alone, have replaced those for both.
    name_rule: |name, prefix| {
        let messages = if prefix { Vec::new() } else { names::subdomain_name(name, false) };
        messages.into_iter().map(|m| m.replace("no more than 253 characters", "no more than 253 bytes")).collect()
    },
    validate: device_class,
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        device_class(new, errors);
    },
    ..Strategy::DEFAULT
};

pub const SLICE: Strategy = Strategy {
    validate: |slice, errors| slice::spec(&slice.field("spec"), errors),
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        let (spec, old_spec) = (new.field("spec"), old.field("spec"));
        slice::spec(&spec, errors);
        immutable(&spec.field("driver"), &old_spec.field("driver"), errors);
        immutable(&spec.field("pool").field("name"), &old_spec.field("pool").field("name"), errors);
        immutable(&spec.field("nodeName"), &old_spec.field("nodeName"), errors);
    },
    ..Strategy::DEFAULT
};

fn fixed_spec(new: &Cursor<'_>, old: &Cursor<'_>, type_name: &str, errors: &mut ErrorList) {
    let spec = new.field("spec");
    if !same(spec.value(), old.field("spec").value()) {
        errors.invalid(spec.path(), go::value(type_name, spec.value()), IMMUTABLE);
    }
}

/// Refuses more than `max` items. Those of a list that is too long are not looked at.
fn at_most<'a, 'c>(
    list: &'c Cursor<'a>,
    max: usize,
    errors: &mut ErrorList,
) -> impl Iterator<Item = Cursor<'a>> + use<'a, 'c> {
    let is_too_long = list.len() > max;
    if is_too_long {
        errors.too_many(list.path(), list.len(), max);
    }
    list.items().take(if is_too_long { 0 } else { max })
}

fn device_claim(devices: &Cursor<'_>, errors: &mut ErrorList) {
    let requests = devices.field("requests");
    for request in at_most(&requests, REQUESTS_MAX, errors) {
        device_request(&request, errors);
    }
    unique_names(&requests, REQUESTS_MAX, errors);
    let mut request_names: Vec<String> = Vec::new();
    for request in requests.items() {
        let name = request.field("name").str();
        request_names.push(name.to_owned());
        for sub in request.field("firstAvailable").items() {
            request_names.push(format!("{name}/{}", sub.field("name").str()));
        }
    }
    let constraints = devices.field("constraints");
    for constraint in at_most(&constraints, CONSTRAINTS_MAX, errors) {
        request_references(&constraint.field("requests"), &request_names, errors);
        let (matching, distinct) = (constraint.field("matchAttribute"), constraint.field("distinctAttribute"));
        if matching.is_set() {
            full_attribute_name(&matching, errors);
        } else if distinct.is_set() {
            full_attribute_name(&distinct, errors);
        } else {
            constraint.required(
                errors,
                "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
            );
        }
    }
    let config = devices.field("config");
    for entry in at_most(&config, CONFIG_MAX, errors) {
        request_references(&entry.field("requests"), &request_names, errors);
        device_config(&entry, errors);
    }
}

/// No two items of a list have one name. One with more than `max` items is not looked at.
fn unique_names(list: &Cursor<'_>, max: usize, errors: &mut ErrorList) {
    if list.len() > max {
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for item in list.items() {
        let name = item.field("name").str();
        if seen.contains(&name) {
            errors.duplicate(item.path(), name);
        }
        seen.push(name);
    }
}

fn request_references(list: &Cursor<'_>, known: &[String], errors: &mut ErrorList) {
    const UNKNOWN: &str =
        "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    for name in at_most(list, REQUESTS_MAX, errors) {
        if name.str().split('/').count() > 2 {
            name.invalid(errors, UNKNOWN);
            continue;
        }
        for part in name.str().split('/') {
            invalid_each(errors, &name.path(), part, names::dns1123_label(part));
        }
        if !known.iter().any(|k| k == name.str()) {
            name.invalid(errors, UNKNOWN);
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    for name in list.items().filter(|_| list.len() <= REQUESTS_MAX) {
        if seen.contains(&name.str()) {
            errors.duplicate(name.path(), name.str());
        }
        seen.push(name.str());
    }
}

fn device_request(request: &Cursor<'_>, errors: &mut ErrorList) {
    formatted(&request.field("name"), names::dns1123_label, errors);
    let (exactly, first) = (request.field("exactly"), request.field("firstAvailable"));
    match (exactly.is_set(), !first.is_empty()) {
        (false, false) => request.required(errors, "exactly one of `exactly` or `firstAvailable` is required"),
        (true, true) => errors.invalid(
            request.path(),
            Value::Null,
            "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
        ),
        (true, false) => exact_request(&exactly, errors),
        (false, true) => {
            for sub in at_most(&first, FIRST_AVAILABLE_MAX, errors) {
                formatted(&sub.field("name"), names::dns1123_label, errors);
                exact_request(&sub, errors);
            }
            unique_names(&first, FIRST_AVAILABLE_MAX, errors);
        }
    }
}

fn exact_request(request: &Cursor<'_>, errors: &mut ErrorList) {
    required_formatted(&request.field("deviceClassName"), names::dns1123_subdomain, errors);
    selectors(&request.field("selectors"), errors);
    let (mode, count) = (request.field("allocationMode"), request.field("count"));
    match mode.str() {
        "All" => {
            if count.int() != 0 {
                count.invalid(errors, "must not be specified when allocationMode is 'All'");
            }
        }
        "ExactCount" => {
            if count.int() <= 0 {
                errors.invalid(count.path(), count.int(), "must be greater than zero");
            }
        }
        _ => errors.not_supported(mode.path(), mode.str(), &["All", "ExactCount"]),
    }
    for toleration in request.field("tolerations").items() {
        device_toleration(&toleration, errors);
    }
}

fn device_toleration(toleration: &Cursor<'_>, errors: &mut ErrorList) {
    let (key, operator, value) = (toleration.field("key"), toleration.field("operator"), toleration.field("value"));
    if !key.is_empty() {
        formatted(&key, names::qualified_name, errors);
    }
    match operator.str() {
        "Exists" => {
            if !value.is_empty() {
                value.invalid(errors, "must be empty for operator `Exists`");
            }
        }
        "Equal" => formatted(&value, names::label_value, errors),
        "" => operator.required(errors, ""),
        _ => operator.not_supported(errors, &["Equal", "Exists"]),
    }
    let effect = toleration.field("effect");
    if !effect.is_empty() {
        supported(&effect, &["NoExecute", "NoSchedule", "None"], errors);
    }
}

fn selectors(list: &Cursor<'_>, errors: &mut ErrorList) {
    for selector in at_most(list, SELECTORS_MAX, errors) {
        let cel = selector.field("cel");
        if !cel.is_set() {
            cel.required(errors, "");
            continue;
        }
        let expression = cel.field("expression");
        if expression.str().len() > OPAQUE_MAX_BYTES {
            errors.too_long(expression.path(), OPAQUE_MAX_BYTES);
        } else if let Err(why) = device::compile(expression.str()) {
            expression.invalid(errors, &why);
        }
    }
}

fn device_config(config: &Cursor<'_>, errors: &mut ErrorList) {
    let opaque = config.field("opaque");
    if !opaque.is_set() {
        opaque.required(errors, "");
        return;
    }
    driver_name(&opaque.field("driver"), errors);
    let parameters = opaque.field("parameters");
    if !parameters.is_set() {
        parameters.required(errors, "");
    } else if !parameters.value().is_object() {
        parameters.invalid(errors, "must be a valid JSON object");
    } else if parameters.value().to_string().len() > OPAQUE_MAX_BYTES {
        errors.too_long(parameters.path(), OPAQUE_MAX_BYTES);
    }
}

fn driver_name(driver: &Cursor<'_>, errors: &mut ErrorList) {
    if driver.is_empty() {
        driver.required(errors, "");
        return;
    }
    if driver.str().len() > DRIVER_NAME_MAX_BYTES {
        errors.too_long(driver.path(), DRIVER_NAME_MAX_BYTES);
    }
    formatted(driver, names::dns1123_subdomain, errors);
}

fn full_attribute_name(name: &Cursor<'_>, errors: &mut ErrorList) {
    qualified_name(name.str(), &name.path(), errors);
    if !name.str().contains('/') {
        name.invalid(errors, "a fully qualified name must be a domain and a name separated by a slash");
    }
}

const IDENTIFIER_MAX_BYTES: usize = 32;

/// An attribute's name, which may do without a domain where one is implied. Upstream takes anything with two slashes.
fn qualified_name(name: &str, at: &Path, errors: &mut ErrorList) {
    let parts: Vec<&str> = name.split('/').collect();
    let own = match parts[..] {
        [own] => own,
        [domain, own] => {
            if domain.is_empty() {
                errors.invalid(at.clone(), "", "the domain must not be empty");
            } else {
                driver_name(&Cursor::at(&Value::from(domain), at.clone()), errors);
            }
            if own.is_empty() {
                errors.invalid(at.clone(), "", "the name must not be empty");
                return;
            }
            own
        }
        _ => return,
    };
    if own.len() > IDENTIFIER_MAX_BYTES {
        errors.too_long(at.clone(), IDENTIFIER_MAX_BYTES);
    }
    invalid_each(errors, at, own, names::c_identifier(own));
}

fn device_class(class: &Cursor<'_>, errors: &mut ErrorList) {
    let spec = class.field("spec");
    selectors(&spec.field("selectors"), errors);
    let config = spec.field("config");
    for entry in at_most(&config, CONFIG_MAX, errors) {
        device_config(&entry, errors);
    }
    let resource = spec.field("extendedResourceName");
    if resource.is_set() && !crate::validate::resources::is_extended(resource.str()) {
        resource.invalid(errors, "must be a valid extended resource name");
    }
}

fn claim_status(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    meta::validate_update_again(new, old, errors);
    let (status, old_status) = (new.field("status"), old.field("status"));
    let (reserved, allocation) = (status.field("reservedFor"), status.field("allocation"));
    let mut uids: Vec<&str> = Vec::new();
    for consumer in at_most(&reserved, RESERVED_MAX, errors) {
        for field in ["resource", "name", "uid"] {
            if consumer.field(field).is_empty() {
                consumer.field(field).required(errors, "");
            }
        }
        let uid = consumer.field("uid").str();
        if uids.contains(&uid) {
            errors.duplicate(consumer.field("uid").path(), uid);
        }
        uids.push(uid);
    }
    if !reserved.is_empty() {
        if !allocation.is_set() {
            reserved.forbidden(errors, "may not be specified when `allocated` is not set");
        } else if new.field("metadata").field("deletionTimestamp").is_set() {
            let before = old_status.field("reservedFor");
            let added = reserved.items().any(|c| !before.items().any(|b| b.field("uid").str() == c.field("uid").str()));
            if added {
                reserved.forbidden(
                    errors,
                    "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set",
                );
            }
        }
    }
    let before = old_status.field("allocation");
    if before.is_set() && allocation.is_set() {
        if !same(allocation.value(), before.value()) {
            errors.invalid(allocation.path(), go::value("dra.AllocationResult", allocation.value()), IMMUTABLE);
        }
    } else if allocation.is_set() {
        let _ = at_most(&allocation.field("devices").field("results"), REQUESTS_MAX, errors);
    }
    allocated_devices(&status, errors);
}

fn allocated_devices(status: &Cursor<'_>, errors: &mut ErrorList) {
    let key = |d: &Cursor<'_>| {
        (d.field("driver").str().to_owned(), d.field("pool").str().to_owned(), d.field("device").str().to_owned())
    };
    let results: Vec<_> =
        status.field("allocation").field("devices").field("results").items().map(|r| key(&r)).collect();
    let mut seen = Vec::new();
    for device in status.field("devices").items() {
        let own = key(&device);
        if seen.contains(&own) {
            duplicate_because(errors, device.path(), format!("{}/{}/{}", own.0, own.1, own.2), "");
        }
        if !results.contains(&own) {
            let shown = format!("{}/{}/{}", own.0, own.1, own.2);
            errors.invalid(device.path(), shown, "must be an allocated device in the claim");
        }
        seen.push(own);
        let _ = at_most(&device.field("conditions"), 8, errors);
        crate::validate::labels::conditions(&device.field("conditions"), errors);
        let data = device.field("data");
        if data.is_set() && !data.value().is_object() {
            data.invalid(errors, "must be a valid JSON object");
        }
        let network = device.field("networkData");
        for (field, max) in [("interfaceName", 256), ("hardwareAddress", 128)] {
            if network.field(field).str().len() > max {
                errors.too_long(network.field(field).path(), max);
            }
        }
        let _ = at_most(&network.field("ips"), 16, errors);
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn requests_are_exact_or_alternatives() {
        let claim = json!({"spec": {"devices": {"requests": [
            {"name": "r"}, {"name": "r", "exactly": {"deviceClassName": "c", "allocationMode": "All", "count": 1}}]}}});
        let mut errors = ErrorList::new();
        (CLAIM.validate)(&Cursor::root(&claim), &mut errors);
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                "spec.devices.requests[1].exactly.count: Invalid value: 1: must not be specified when allocationMode is 'All'",
                "spec.devices.requests[1]: Duplicate value: \"r\"",
            ]
        );
    }
}
