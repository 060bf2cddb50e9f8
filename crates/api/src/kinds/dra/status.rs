//! The status of a ResourceClaim: for whom it is reserved, which devices it got, and what their drivers say of them.

use std::collections::HashSet;

use crate::kinds::dra::{
    CONFIG_MAX, at_most, binding_conditions, device_config, driver_name, json_object, pool_name, request_name,
    request_names, request_references, unique,
};
use crate::occurrences::Occurrences;
use crate::strategy::SubresourceStrategy;
use crate::validate::labels::{conditions, node_selector};
use crate::validate::net::interface_address;
use crate::validate::text::{IMMUTABLE, formatted, required_enum, same};
use crate::validate::{go, names};
use crate::{Cursor, ErrorList, Value, json, meta};

pub(super) const STATUS: SubresourceStrategy = SubresourceStrategy {
    name: "status",
    prepare_for_update: |new, old, _| drop_deallocated(new, old),
    validate_update,
};

const RESERVED_MAX: usize = 256;
const RESULTS_MAX: usize = 32;
const CONDITIONS_MAX: usize = 8;
const IPS_MAX: usize = 16;
const INTERFACE_NAME_MAX_BYTES: usize = 256;
const HARDWARE_ADDRESS_MAX_BYTES: usize = 128;

/// Driver, pool, device, and share where the device has several users.
type DeviceId = [String; 4];

fn device_id(device: &Value) -> DeviceId {
    ["driver", "pool", "device", "shareID"]
        .map(|field| device.get(field).and_then(Value::as_str).unwrap_or_default().to_owned())
}

fn shown(id: &DeviceId) -> Value {
    let [driver, pool, device, share] = id;
    json!({"Driver": driver, "Pool": pool, "Device": device, "ShareID": share})
}

fn allocated(object: &Value) -> Vec<DeviceId> {
    let results = object.pointer("/status/allocation/devices/results").and_then(Value::as_array);
    results.into_iter().flatten().map(device_id).collect()
}

/// What drivers said of devices that are given back goes with them: whoever gives them back need not know of it.
fn drop_deallocated(new: &mut Value, old: &Value) {
    let kept: HashSet<DeviceId> = allocated(new).into_iter().collect();
    let gone: HashSet<DeviceId> = allocated(old).into_iter().filter(|id| !kept.contains(id)).collect();
    let Some(status) = new.get_mut("status").and_then(Value::as_object_mut) else { return };
    let Some(devices) = status.get_mut("devices").and_then(Value::as_array_mut) else { return };
    devices.retain(|device| !gone.contains(&device_id(device)));
    if devices.is_empty() {
        status.remove("devices");
    }
}

fn validate_update(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    meta::validate_update_again(new, old, errors);
    let (status, old_status) = (new.field("status"), old.field("status"));
    let (reserved, allocation) = (status.field("reservedFor"), status.field("allocation"));
    consumers(&reserved, errors);
    devices(&status.field("devices"), &allocated(new.value()), errors);
    if !reserved.is_empty() && !allocation.is_set() {
        reserved.forbidden(errors, "may not be specified when `allocated` is not set");
    } else if new.field("metadata").field("deletionTimestamp").is_set() {
        let before = old_status.field("reservedFor");
        if reserved.items().any(|c| !before.items().any(|b| same(b.value(), c.value()))) {
            reserved.forbidden(
                errors,
                "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set",
            );
        }
    }
    let before = old_status.field("allocation");
    if allocation.is_set() && before.is_set() {
        if !same(allocation.value(), before.value()) {
            errors.invalid(allocation.path(), go::value("dra.AllocationResult", allocation.value()), IMMUTABLE);
        }
    } else if allocation.is_set() {
        let claim = request_names(&new.field("spec").field("devices").field("requests"));
        allocation_result(&allocation, &claim, errors);
    }
}

fn consumers(reserved: &Cursor<'_>, errors: &mut ErrorList) {
    for consumer in at_most(reserved, RESERVED_MAX, errors) {
        for field in ["resource", "name", "uid"] {
            if consumer.field(field).is_empty() {
                consumer.field(field).required(errors, "");
            }
        }
    }
    let mut uids: Occurrences<&str> = Occurrences::new();
    for consumer in reserved.items().filter(|_| reserved.len() <= RESERVED_MAX) {
        let uid = consumer.field("uid").str();
        if uids.contains(&uid) {
            errors.duplicate(consumer.path(), uid);
        }
        uids.push(uid);
    }
}

fn allocation_result(allocation: &Cursor<'_>, claim: &[String], errors: &mut ErrorList) {
    let devices = allocation.field("devices");
    for result in at_most(&devices.field("results"), RESULTS_MAX, errors) {
        request_name(&result.field("request"), claim, errors);
        driver_name(&result.field("driver"), errors);
        pool_name(&result.field("pool"), errors);
        formatted(&result.field("device"), names::dns1123_label, errors);
        binding_conditions(&result, errors);
        share_id(&result.field("shareID"), errors);
    }
    // Those of the class and those of the claim.
    for config in at_most(&devices.field("config"), 2 * CONFIG_MAX, errors) {
        required_enum(&config.field("source"), &["FromClaim", "FromClass"], errors);
        request_references(&config.field("requests"), claim, errors);
        device_config(&config, errors);
    }
    let selector = allocation.field("nodeSelector");
    if selector.is_set() {
        node_selector(&selector, errors);
    }
}

fn devices(list: &Cursor<'_>, allocated: &[DeviceId], errors: &mut ErrorList) {
    for device in list.items() {
        driver_name(&device.field("driver"), errors);
        pool_name(&device.field("pool"), errors);
        formatted(&device.field("device"), names::dns1123_label, errors);
        share_id(&device.field("shareID"), errors);
        let id = device_id(device.value());
        if !allocated.contains(&id) {
            errors.invalid(device.path(), shown(&id), "must be an allocated device in the claim");
        }
        let of_device = device.field("conditions");
        if of_device.len() > CONDITIONS_MAX {
            errors.too_many(of_device.path(), of_device.len(), CONDITIONS_MAX);
        }
        conditions(&of_device, errors);
        let data = device.field("data");
        if data.is_set() {
            json_object(&data, errors);
        }
        network_data(&device.field("networkData"), errors);
    }
    let mut seen: Occurrences<DeviceId> = Occurrences::new();
    for device in list.items() {
        let id = device_id(device.value());
        if seen.contains(&id) {
            errors.duplicate(device.path(), shown(&id));
        }
        seen.push(id);
    }
}

fn network_data(data: &Cursor<'_>, errors: &mut ErrorList) {
    for (field, max) in [("interfaceName", INTERFACE_NAME_MAX_BYTES), ("hardwareAddress", HARDWARE_ADDRESS_MAX_BYTES)] {
        if data.field(field).str().len() > max {
            errors.too_long(data.field(field).path(), max);
        }
    }
    let ips = data.field("ips");
    for ip in at_most(&ips, IPS_MAX, errors) {
        interface_address(&ip, errors);
    }
    unique(&ips, IPS_MAX, errors);
}

/// A UUID in its usual form, or the messages of Go's parser, which knows others as well.
fn share_id(id: &Cursor<'_>, errors: &mut ErrorList) {
    if !id.is_set() {
        return;
    }
    if let Err(why) = parse_uuid(id.str()) {
        errors.invalid(id.path(), id.str(), format!("error validating uid: {why}"));
    } else if id.str().len() != UUID_BYTES || id.str() != id.str().to_lowercase() {
        let detail = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase \
                      hexadecimal characters";
        errors.invalid(id.path(), id.str(), detail);
    }
}

const UUID_BYTES: usize = 36;

fn parse_uuid(text: &str) -> Result<(), String> {
    const PREFIX: &str = "urn:uuid:";
    const NO_UUID: &str = "invalid UUID format";
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    let plain = match text.len() {
        UUID_BYTES => text,
        32 => return if is_hex(text) { Ok(()) } else { Err(NO_UUID.to_owned()) },
        38 => match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
            Some(inner) => inner,
            None => return Err("invalid bracketed UUID format".to_owned()),
        },
        45 => match text.split_at_checked(PREFIX.len()) {
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case(PREFIX) => rest,
            prefix => return Err(format!("invalid urn prefix: {:?}", prefix.map_or(text, |(prefix, _)| prefix))),
        },
        n => return Err(format!("invalid UUID length: {n}")),
    };
    let groups: Vec<&str> = plain.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    let is_uuid = lengths == [8, 4, 4, 4, 12] && groups.into_iter().all(is_hex);
    if is_uuid { Ok(()) } else { Err(NO_UUID.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_read_as_go_reads_them() {
        assert_eq!(parse_uuid("123e4567-e89b-12d3-a456-426614174000"), Ok(()));
        assert_eq!(parse_uuid("{123e4567-e89b-12d3-a456-426614174000}"), Ok(()));
        assert_eq!(parse_uuid("urn:uuid:123e4567-e89b-12d3-a456-426614174000"), Ok(()));
        assert_eq!(parse_uuid("123e4567e89b12d3a456426614174000"), Ok(()));
        assert_eq!(parse_uuid("123e4567-e89b-12d3-a456-42661417400g"), Err("invalid UUID format".to_owned()));
        assert_eq!(parse_uuid("a"), Err("invalid UUID length: 1".to_owned()));
    }

    #[test]
    fn what_was_said_of_devices_goes_with_them() {
        let result = |device: &str| json!({"driver": "d", "pool": "p", "device": device});
        let old = json!({"status": {"allocation": {"devices": {"results": [result("a"), result("b")]}}}});
        let mut new = json!({"status": {"allocation": {"devices": {"results": [result("b")]}},
            "devices": [result("a"), result("b"), result("c")]}});
        drop_deallocated(&mut new, &old);
        assert_eq!(new["status"]["devices"], json!([result("b"), result("c")]));
    }
}
