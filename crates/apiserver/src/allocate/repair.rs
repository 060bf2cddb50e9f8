//! The ranges that hold now, and what is wrong between Services and the IPAddress objects that stand for their addresses.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use api::{Value, meta};
use jiff::{SignedDuration, Timestamp};

use super::{Cidr, InUse, ip_address_object, usage::MANAGED_BY};
use crate::source::ObjectSource;

const GROUP: &str = "networking.k8s.io";

/// A young IPAddress may belong to a Service that is just being written.
const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// The server's own ranges, then those of ServiceCIDR objects that are ready and stay.
pub fn service_ranges(source: &dyn ObjectSource, configured: &[Cidr]) -> Vec<Cidr> {
    let mut ranges = configured.to_vec();
    for object in source.list(GROUP, "servicecidrs", "").iter().filter_map(|stored| stored.parse()) {
        let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        let is_ready = conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        if !is_ready || meta::is_being_deleted(&object) {
            continue;
        }
        let cidrs = object["spec"]["cidrs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for cidr in cidrs.filter_map(|text| text.parse::<Cidr>().ok()) {
            if !ranges.contains(&cidr) {
                ranges.push(cidr);
            }
        }
    }
    ranges
}

/// What makes IPAddress objects and Services agree again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Repair {
    /// IPAddress objects of addresses that Services have and nobody reserved.
    pub create: Vec<Value>,
    /// IPAddress objects that no Service has.
    pub delete: Vec<IpAddr>,
}

/// Compares all Services with all IPAddress objects that the allocator made.
pub fn repair(source: &dyn ObjectSource, now: Timestamp) -> Repair {
    let mut owners: HashMap<IpAddr, (String, String)> = HashMap::new();
    for stored in source.list("", "services", "") {
        let Some(service) = stored.parse() else { continue };
        for ip in InUse::of_service(&service).ips {
            owners.entry(ip).or_insert_with(|| (stored.namespace.clone(), stored.name.clone()));
        }
    }
    let mut reserved: HashSet<IpAddr> = HashSet::new();
    let mut repair = Repair::default();
    for stored in source.list(GROUP, "ipaddresses", "") {
        let (Ok(ip), Some(object)) = (stored.name.parse::<IpAddr>(), stored.parse()) else { continue };
        reserved.insert(ip);
        let is_ours = object["metadata"]["labels"][MANAGED_BY.0] == MANAGED_BY.1;
        let created = meta::metadata_str(&object, "creationTimestamp").parse::<Timestamp>();
        let is_old = created.is_ok_and(|created| now.duration_since(created) > GRACE);
        let parent = &object["spec"]["parentRef"];
        let is_owners = owners.get(&ip).is_some_and(|(namespace, name)| {
            parent["namespace"] == namespace.as_str() && parent["name"] == name.as_str()
        });
        if is_ours && is_old && !is_owners {
            repair.delete.push(ip);
        }
    }
    let mut missing: Vec<(IpAddr, (String, String))> =
        owners.into_iter().filter(|(ip, _)| !reserved.contains(ip)).collect();
    missing.sort();
    repair.create = missing.iter().map(|(ip, (namespace, name))| ip_address_object(*ip, namespace, name)).collect();
    repair
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;
    use crate::source::testing::MemorySource;

    #[test]
    fn leaked_addresses_are_freed_and_lost_ones_reserved_again() {
        let source = MemorySource::new();
        source.put(
            "",
            "services",
            json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": {"clusterIP": "10.0.0.9"}}),
        );
        let address = |ip: &str, created: &str| {
            let mut object = ip_address_object(ip.parse().unwrap(), "ns", "gone");
            object["metadata"]["creationTimestamp"] = json!(created);
            object
        };
        source.put(GROUP, "ipaddresses", address("10.0.0.10", "2026-01-01T00:00:00Z"));
        source.put(GROUP, "ipaddresses", address("10.0.0.11", "2026-01-01T00:09:30Z"));
        let repair = repair(&source, "2026-01-01T00:10:00Z".parse().unwrap());
        assert_eq!(repair.delete, ["10.0.0.10".parse::<IpAddr>().unwrap()]);
        assert_eq!(repair.create, [ip_address_object("10.0.0.9".parse().unwrap(), "ns", "s")]);
    }

    #[test]
    fn ranges_grow_with_service_cidrs_that_are_ready() {
        let source = MemorySource::new();
        let object = |name: &str, cidr: &str, ready: &str| {
            json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]},
                   "status": {"conditions": [{"type": "Ready", "status": ready}]}})
        };
        source.put(GROUP, "servicecidrs", object("a", "10.1.0.0/24", "True"));
        source.put(GROUP, "servicecidrs", object("b", "10.2.0.0/24", "False"));
        let ranges = service_ranges(&source, &["10.0.0.0/24".parse().unwrap()]);
        let texts: Vec<String> = ranges.iter().map(Cidr::to_string).collect();
        assert_eq!(texts, ["10.0.0.0/24", "10.1.0.0/24"]);
    }
}
