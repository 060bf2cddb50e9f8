//! ResourceSlice: the devices of a pool, or the counters that they share.

use crate::kinds::dra::{at_most, binding_conditions, driver_name, policy, pool_name, qualified_name, unique_names};
use crate::occurrences::Occurrences;
use crate::validate::labels::{invalid_each, node_selector};
use crate::validate::text::{formatted, immutable, immutable_text, required_enum, required_formatted};
use crate::validate::{go, names};
use crate::{Cursor, ErrorList, Value};

const DEVICES_MAX: usize = 128;
const ATTRIBUTES_MAX: usize = 32;
const ATTRIBUTE_MAX_BYTES: usize = 64;
const COUNTER_SETS_MAX: usize = 8;
/// Of a set, and of what a device takes of a set.
const COUNTERS_MAX: usize = 32;
/// Sets that a device may take from.
const CONSUMED_SETS_MAX: usize = 2;
/// Devices of a slice in which any has taints or takes counters; these need more room.
const ADVANCED_DEVICES_MAX: usize = 64;
const TAINTS_MAX: usize = 16;
const ONE_VALUE: &str = "exactly one value must be specified";

/// A new spec, or one that is put in the place of `old`.
pub(super) fn spec(spec: &Cursor<'_>, old: Option<&Cursor<'_>>, errors: &mut ErrorList) {
    driver_name(&spec.field("driver"), errors);
    let pool = spec.field("pool");
    pool_name(&pool.field("name"), errors);
    let (count, generation) = (pool.field("resourceSliceCount"), pool.field("generation"));
    if count.int() <= 0 {
        errors.invalid(count.path(), count.int(), "must be greater than zero");
    }
    if generation.int() < 0 {
        generation.invalid(errors, "must be greater than or equal to zero");
    }
    if let Some(old) = old {
        for path in [&["pool", "name"] as &[&str], &["driver"]] {
            immutable_text(&spec.fields(path), &old.fields(path), errors);
        }
        immutable(&spec.field("nodeName"), &old.field("nodeName"), errors);
    }
    slice_nodes(spec, errors);
    let (devices, counters) = (spec.field("devices"), spec.field("sharedCounters"));
    if devices.is_set() && counters.is_set() {
        errors.invalid(spec.path(), "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let is_advanced =
        |device: Cursor<'_>| !device.field("taints").is_empty() || !device.field("consumesCounters").is_empty();
    let devices_max = if devices.items().any(is_advanced) { ADVANCED_DEVICES_MAX } else { DEVICES_MAX };
    for device in at_most(&devices, devices_max, errors) {
        slice_device(&device, spec.field("perDeviceNodeSelection").bool(), errors);
    }
    unique_names(&devices, devices_max, errors);
    counter_sets(&counters, "name", COUNTER_SETS_MAX, errors);
}

/// Sets of counters, or what a device takes of them: each set named once, each with counters.
fn counter_sets(sets: &Cursor<'_>, name_field: &str, max: usize, errors: &mut ErrorList) {
    let mut seen: Occurrences<&str> = Occurrences::new();
    for set in at_most(sets, max, errors) {
        let name = set.field(name_field);
        required_formatted(&name, names::dns1123_label, errors);
        let counters = set.field("counters");
        if counters.is_empty() {
            counters.required(errors, "");
        } else if counters.len() > COUNTERS_MAX {
            errors.too_many(counters.path(), counters.len(), COUNTERS_MAX);
            continue;
        }
        // Upstream reports a key at its map.
        for (counter, _) in counters.entries() {
            invalid_each(errors, &counters.path(), counter, names::dns1123_label(counter));
        }
        if seen.contains(&name.str()) {
            errors.duplicate(set.path(), name.str());
        }
        seen.push(name.str());
    }
}

fn slice_nodes(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let (node, selector) = (spec.field("nodeName"), spec.field("nodeSelector"));
    let (all, per_device) = (spec.field("allNodes"), spec.field("perDeviceNodeSelection"));
    if node.is_set() && node.is_empty() {
        node.invalid(errors, "must be either unset or set to a non-empty string");
    } else if node.is_set() {
        formatted(&node, names::dns1123_subdomain, errors);
    }
    if selector.is_set() {
        node_selector(&selector, errors);
        let terms = selector.field("nodeSelectorTerms");
        if terms.len() != 1 {
            terms.invalid(errors, "must have exactly one node selector term");
        }
    }
    for field in [&all, &per_device].into_iter().filter(|field| field.is_set() && !field.bool()) {
        field.invalid(errors, "must be either unset or set to true");
    }
    const EXACTLY_ONE: &str =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let named = [(&node, !node.is_empty()), (&selector, selector.is_set()), (&all, all.bool())];
    let set = named_fields(named.into_iter().chain([(&per_device, per_device.bool())]));
    match set.len() {
        0 => spec.required(errors, EXACTLY_ONE),
        1 => {}
        _ => errors.invalid(
            spec.path(),
            format!("{{{}}}", set.join(", ")),
            format!("{EXACTLY_ONE}, but multiple fields are set"),
        ),
    }
}

/// The names of those fields that are set, in backquotes.
fn named_fields<'c, 'a: 'c>(fields: impl Iterator<Item = (&'c Cursor<'a>, bool)>) -> Vec<String> {
    let last = |path: String| path.rsplit('.').next().unwrap_or_default().to_owned();
    fields.filter(|(_, is_set)| *is_set).map(|(field, _)| format!("`{}`", last(field.path().to_string()))).collect()
}

/// The nodes of one device, where the slice leaves them to its devices.
fn device_nodes(device: &Cursor<'_>, per_device: bool, errors: &mut ErrorList) {
    let (node, selector, all) = (device.field("nodeName"), device.field("nodeSelector"), device.field("allNodes"));
    if !per_device {
        if [&node, &selector, &all].iter().any(|field| field.is_set()) {
            const NOT_HERE: &str = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` \
                                    is set to true in the ResourceSlice spec";
            errors.invalid(device.path(), Value::Null, NOT_HERE);
        }
        return;
    }
    if node.is_set() && node.is_empty() {
        node.invalid(errors, "must not be empty");
    } else if node.is_set() {
        formatted(&node, names::dns1123_subdomain, errors);
    }
    if selector.is_set() {
        node_selector(&selector, errors);
    }
    if all.is_set() && !all.bool() {
        all.invalid(errors, "must be either unset or set to true");
    }
    const EXACTLY_ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when \
                               `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    let fields = [(&node, !node.is_empty()), (&selector, selector.is_set()), (&all, all.bool())];
    let set = named_fields(fields.into_iter());
    match set.len() {
        0 => device.required(errors, EXACTLY_ONE),
        1 => {}
        _ => errors.invalid(device.path(), format!("{{{}}}", set.join(", ")), EXACTLY_ONE),
    }
}

fn slice_device(device: &Cursor<'_>, per_device_nodes: bool, errors: &mut ErrorList) {
    formatted(&device.field("name"), names::dns1123_label, errors);
    let (attributes, capacity) = (device.field("attributes"), device.field("capacity"));
    if attributes.len() + capacity.len() > ATTRIBUTES_MAX {
        let n = attributes.len() + capacity.len();
        let detail = format!("the total number of attributes and capacities must not exceed {ATTRIBUTES_MAX}");
        errors.invalid(device.path(), n, detail);
    }
    for (name, attribute) in attributes.entries() {
        qualified_name(name, &attributes.path(), errors);
        device_attribute(&attribute, errors);
    }
    let is_shared = device.field("allowMultipleAllocations").bool();
    for (name, entry) in capacity.entries() {
        qualified_name(name, &capacity.path(), errors);
        let policy = entry.field("requestPolicy");
        if policy.is_set() && is_shared {
            policy::check(&policy, &entry.field("value"), errors);
        } else if policy.is_set() {
            policy.forbidden(errors, "allowMultipleAllocations must be true");
        }
    }
    let taints = device.field("taints");
    for taint in at_most(&taints, TAINTS_MAX, errors) {
        formatted(&taint.field("key"), names::qualified_name, errors);
        if !taint.field("value").is_empty() {
            formatted(&taint.field("value"), names::label_value, errors);
        }
        required_enum(&taint.field("effect"), &["NoExecute", "NoSchedule", "None"], errors);
    }
    counter_sets(&device.field("consumesCounters"), "counterSet", CONSUMED_SETS_MAX, errors);
    device_nodes(device, per_device_nodes, errors);
    binding_conditions(device, errors);
}

fn device_attribute(attribute: &Cursor<'_>, errors: &mut ErrorList) {
    let members = ["int", "bool", "string", "version"];
    let n_set = members.iter().filter(|m| attribute.field(m).is_set()).count();
    for field in ["string", "version"] {
        let value = attribute.field(field);
        if field == "version" && value.is_set() && !is_semantic_version(value.str()) {
            value.invalid(errors, "must be a string compatible with semver.org spec 2.0.0");
        }
        if value.str().len() > ATTRIBUTE_MAX_BYTES {
            errors.too_long(value.path(), ATTRIBUTE_MAX_BYTES);
        }
    }
    match n_set {
        0 => errors.invalid(attribute.path(), "", ONE_VALUE),
        1 => {}
        _ => errors.invalid(attribute.path(), go::value("dra.DeviceAttribute", attribute.value()), ONE_VALUE),
    }
}

/// `1.2.3[-pre][+build]`, numbers without leading zeros.
fn is_semantic_version(text: &str) -> bool {
    let (rest, build) = text.split_once('+').map_or((text, None), |(r, b)| (r, Some(b)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(c, p)| (c, Some(p)));
    let is_number =
        |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) && (n == "0" || !n.starts_with('0'));
    let is_identifier = |i: &str| !i.is_empty() && i.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let numbers: Vec<&str> = core.split('.').collect();
    numbers.len() == 3
        && numbers.into_iter().all(is_number)
        && pre.is_none_or(|p| {
            p.split('.').all(|i| is_identifier(i) && (is_number(i) || !i.bytes().all(|b| b.is_ascii_digit())))
        })
        && build.is_none_or(|b| b.split('.').all(is_identifier))
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    fn refused(more: Value) -> Vec<String> {
        let mut slice =
            json!({"driver": "d.x", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}});
        for (key, value) in more.as_object().cloned().unwrap_or_default() {
            slice[key] = value;
        }
        let mut errors = ErrorList::new();
        spec(&Cursor::root(&slice), None, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_slice_has_devices_or_counters() {
        let counters = json!([{"name": "c", "counters": {"memory": {"value": "1"}}}]);
        assert_eq!(refused(json!({"sharedCounters": counters})), [""; 0]);
        assert_eq!(
            refused(json!({"sharedCounters": counters, "devices": [{"name": "a"}]})),
            ["<nil>: Invalid value: \"\": only one of `sharedCounters` or `devices` is allowed"]
        );
    }

    #[test]
    fn devices_with_counters_are_fewer() {
        let device = |n: usize| json!({"name": format!("d{n}")});
        let mut devices: Vec<Value> = (0..65).map(device).collect();
        assert_eq!(refused(json!({"devices": devices})), [""; 0]);
        devices[0]["consumesCounters"] = json!([{"counterSet": "c", "counters": {"memory": {"value": "1"}}}]);
        assert_eq!(refused(json!({"devices": devices})), ["devices: Too many: 65: must have at most 64 items"]);
    }

    #[test]
    fn a_device_takes_of_each_set_once() {
        let taken =
            json!([{"counterSet": "c", "counters": {}}, {"counterSet": "c", "counters": {"A": {"value": "1"}}}]);
        let errors = refused(json!({"devices": [{"name": "a", "consumesCounters": taken}]}));
        assert_eq!(errors[0], "devices[0].consumesCounters[0].counters: Required value");
        assert!(errors[1].starts_with("devices[0].consumesCounters[1].counters: Invalid value: \"A\""), "{errors:?}");
        assert_eq!(errors[2], "devices[0].consumesCounters[1]: Duplicate value: \"c\"");
    }

    #[test]
    fn versions_are_semantic() {
        assert!(is_semantic_version("1.2.3-rc.1+b"));
        assert!(!is_semantic_version("x"));
        assert!(!is_semantic_version("1.02.3"));
    }
}
