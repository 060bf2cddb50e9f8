//! ResourceClaim, ResourceClaimTemplate, DeviceClass, ResourceSlice: dynamic resource allocation. Source:
//! `pkg/apis/resource/validation`.

mod permissions;
mod policy;
mod slice;
mod status;

use crate::cel::device;
use crate::kinds::volumes::csi_driver_name as driver_name;
use crate::occurrences::Occurrences;
use crate::strategy::NamespaceDemand;
use crate::validate::labels::invalid_each;
use crate::validate::text::{IMMUTABLE, formatted, required_formatted, same, supported};
use crate::validate::{go, names};
use crate::{Cursor, ErrorList, Path, Strategy, Value, meta};

const REQUESTS_MAX: usize = 32;
const FIRST_AVAILABLE_MAX: usize = 8;
const SELECTORS_MAX: usize = 32;
const CONSTRAINTS_MAX: usize = 32;
const CONFIG_MAX: usize = 32;
const BINDING_CONDITIONS_MAX: usize = 4;
const POOL_NAME_MAX_BYTES: usize = 253;
const OPAQUE_MAX_BYTES: usize = 10 * 1024;

pub const CLAIM: Strategy = Strategy {
    validate: |claim, errors| device_claim(&claim.field("spec").field("devices"), errors),
    validate_update: |new, old, errors| {
        meta::validate_whole_again(new, true, names::subdomain_name, errors);
        meta::validate_update_again(new, old, errors);
        fixed_spec(new, old, "dra.ResourceClaimSpec", errors);
    },
    namespace_demand: admin_access_demand,
    status_permissions: permissions::of_status,
    subresources: &[status::STATUS],
    ..Strategy::DEFAULT
};

pub const CLAIM_TEMPLATE: Strategy = Strategy {
    validate: claim_template,
    namespace_demand: admin_access_demand,
    validate_update: |new, old, errors| {
        meta::validate_whole_again(new, true, names::subdomain_name, errors);
        claim_template(new, errors);
        meta::validate_update_again(new, old, errors);
        fixed_spec(new, old, "dra.ResourceClaimTemplateSpec", errors);
    },
    ..Strategy::DEFAULT
};

fn claim_template(template: &Cursor<'_>, errors: &mut ErrorList) {
    let spec = template.field("spec");
    meta::template_meta(&spec.field("metadata"), errors);
    device_claim(&spec.field("spec").field("devices"), errors);
}

pub const DEVICE_CLASS: Strategy = Strategy {
    name_rule: names::long_name,
    validate: device_class,
    validate_update: |new, old, errors| {
        meta::validate_whole_again(new, false, names::long_name, errors);
        meta::validate_update_again(new, old, errors);
        device_class(new, errors);
    },
    ..Strategy::DEFAULT
};

pub const SLICE: Strategy = Strategy {
    validate: |slice, errors| slice::spec(&slice.field("spec"), None, errors),
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        slice::spec(&new.field("spec"), Some(&old.field("spec")), errors);
    },
    ..Strategy::DEFAULT
};

/// Who looks at devices that others use does so from a namespace that is meant for it.
fn admin_access_demand(new: &Cursor<'_>, old: Option<&Cursor<'_>>) -> Option<NamespaceDemand> {
    let granted = |object: &Cursor<'_>| {
        let results = object.fields(&["status", "allocation", "devices", "results"]);
        results.items().map(|result| result.field("adminAccess")).find(Cursor::bool).map(|access| access.path())
    };
    let asked = |object: &Cursor<'_>| {
        // Upstream names it as in the first version of the API, and below `spec` in a template too.
        let spec = object.field("spec");
        let inner = spec.field("spec");
        let requests = if inner.is_set() { inner } else { spec }.fields(&["devices", "requests"]);
        let index = requests.items().position(|request| request.field("exactly").field("adminAccess").bool())?;
        Some(Path::new("spec.devices.requests").index(index).child("adminAccess"))
    };
    let at = match old {
        None => asked(new),
        Some(old) if granted(old).is_none() => granted(new),
        Some(_) => None,
    };
    at.map(|at| NamespaceDemand {
        at,
        label: ("resource.kubernetes.io/admin-access", "true"),
        refused: "admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the \
                  containing namespace",
        unread: "could not retrieve namespace to verify admin access",
    })
}

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
    let request_names = request_names(&requests);
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
    let mut seen: Occurrences<&str> = Occurrences::new();
    for item in list.items() {
        let name = item.field("name").str();
        if seen.contains(&name) {
            errors.duplicate(item.path(), name);
        }
        seen.push(name);
    }
}

fn request_references(list: &Cursor<'_>, known: &[String], errors: &mut ErrorList) {
    for name in at_most(list, REQUESTS_MAX, errors) {
        request_name(&name, known, errors);
    }
    unique(list, REQUESTS_MAX, errors);
}

/// The name of a request of the claim, or of one of its alternatives after a `/`.
fn request_name(name: &Cursor<'_>, known: &[String], errors: &mut ErrorList) {
    const UNKNOWN: &str =
        "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    if name.str().split('/').count() <= 2 {
        for part in name.str().split('/') {
            invalid_each(errors, &name.path(), part, names::dns1123_label(part));
        }
    }
    if !known.iter().any(|k| k == name.str()) {
        errors.invalid(name.path(), name.str(), UNKNOWN);
    }
}

/// The names of all requests and, behind that of their request, of their alternatives.
fn request_names(requests: &Cursor<'_>) -> Vec<String> {
    let mut request_names: Vec<String> = Vec::new();
    for request in requests.items() {
        let name = request.field("name").str();
        request_names.push(name.to_owned());
        for sub in request.field("firstAvailable").items() {
            request_names.push(format!("{name}/{}", sub.field("name").str()));
        }
    }
    request_names
}

/// No two strings of a list are one. One with more than `max` items is not looked at.
fn unique(list: &Cursor<'_>, max: usize, errors: &mut ErrorList) {
    let mut seen: Occurrences<&str> = Occurrences::new();
    for item in list.items().filter(|_| list.len() <= max) {
        if seen.contains(&item.str()) {
            errors.duplicate(item.path(), item.str());
        }
        seen.push(item.str());
    }
}

/// Conditions that a device waits for after it was allocated, and those that say it is in vain.
fn binding_conditions(device: &Cursor<'_>, errors: &mut ErrorList) {
    let (bound, failed) = (device.field("bindingConditions"), device.field("bindingFailureConditions"));
    for list in [&bound, &failed] {
        for condition in at_most(list, BINDING_CONDITIONS_MAX, errors) {
            formatted(&condition, names::qualified_name, errors);
        }
    }
    unique(&bound, usize::MAX, errors);
    let mut seen: Occurrences<&str> = Occurrences::new();
    for condition in failed.items() {
        if seen.contains(&condition.str()) {
            condition.duplicate(errors);
        }
        seen.push(condition.str());
        if bound.items().any(|other| other.str() == condition.str()) {
            condition.invalid(errors, "bindingFailureConditions must not overlap with bindingConditions");
        }
    }
    if bound.is_empty() && !failed.is_empty() {
        bound.invalid(errors, "bindingConditions are required to use bindingFailureConditions");
    }
    if failed.is_empty() && !bound.is_empty() {
        failed.invalid(errors, "bindingFailureConditions are required to use bindingConditions");
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
        _ => errors.no_such_choice(mode.path(), mode.str(), &["All", "ExactCount"]),
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
        _ => operator.no_such_choice(errors, &["Equal", "Exists"]),
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
    if parameters.is_set() {
        json_object(&parameters, errors);
    } else {
        parameters.required(errors, "");
    }
}

/// What a driver says in a form of its own.
fn json_object(data: &Cursor<'_>, errors: &mut ErrorList) {
    if data.value().to_string().len() > OPAQUE_MAX_BYTES {
        errors.too_long(data.path(), OPAQUE_MAX_BYTES);
    } else if !data.value().is_object() {
        errors.invalid(data.path(), "<value omitted>", "must be a valid JSON object");
    }
}

fn pool_name(name: &Cursor<'_>, errors: &mut ErrorList) {
    if name.is_empty() {
        name.required(errors, "");
        return;
    }
    if name.str().len() > POOL_NAME_MAX_BYTES {
        errors.too_long(name.path(), POOL_NAME_MAX_BYTES);
    }
    for part in name.str().split('/') {
        invalid_each(errors, &name.path(), part, names::dns1123_subdomain(part));
    }
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
    if resource.is_set() && !crate::validate::resources::is_valid_extended(resource.str()) {
        resource.invalid(errors, "must be a valid extended resource name");
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
