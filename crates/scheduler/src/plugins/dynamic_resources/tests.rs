use serde_json::{Value, json};

use super::*;
use crate::model::devices::{DeviceClass, Slice};
use crate::model::labels::Labels;

fn slice(name: &str, node: &str, devices: Value) -> (String, Arc<Slice>) {
    let object = json!({"metadata": {"name": name}, "spec": {
        "driver": "gpu.example.com", "nodeName": node,
        "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}, "devices": devices,
    }});
    (name.to_owned(), Arc::new(Slice::new(&serde_json::from_value(object).unwrap())))
}

fn claim(name: &str, spec: Value) -> Arc<DeviceClaim> {
    let object = json!({"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {"devices": spec}});
    Arc::new(DeviceClaim::new(&Arc::new(serde_json::from_value(object).unwrap())))
}

/// Two nodes: one with a big and a small device, one with a small one.
fn devices() -> Devices {
    let mut devices = Devices::default();
    let device = |name: &str, model: &str, bus: i64| {
        json!({"name": name, "attributes": {"model": {"string": model}, "gpu.example.com/bus": {"int": bus},
                "driverVersion": {"version": "1.2.3"}},
            "capacity": {"memory": {"value": if model == "big" { "80Gi" } else { "16Gi" }}}})
    };
    devices.slices.extend([
        slice("a", "n1", json!([device("d0", "small", 0), device("d1", "big", 1), device("d2", "small", 1)])),
        slice("b", "n2", json!([device("d0", "small", 0)])),
    ]);
    let class = json!({"metadata": {"name": "gpu"}, "spec": {"selectors": [{"cel": {"expression": "device.driver == 'gpu.example.com'"}}]}});
    devices.classes.insert("gpu".into(), Arc::new(DeviceClass::new(&serde_json::from_value(class).unwrap())));
    devices
}

/// `request=device` of each device given on a node; `None`: there is no room.
fn allocate(devices: &Devices, node: &str, claims: &[Arc<DeviceClaim>], taken: &[(&str, &str)]) -> Option<Vec<String>> {
    let id = |(pool, name): &(&str, &str)| ("gpu.example.com".to_owned(), (*pool).to_owned(), (*name).to_owned());
    let taken = Taken { devices: taken.iter().map(id).collect(), ..Taken::default() };
    let pools = devices.pools(&taken);
    let labels = Labels::default();
    let search = Search { devices, pools: &pools, taken: &taken, node, labels: &labels };
    let given = search.run(claims).unwrap()?;
    let results = given.iter().flat_map(|given| given.result.devices.clone().unwrap().results.unwrap_or_default());
    Some(results.map(|result| format!("{}={}", result.request, result.device)).collect())
}

fn big() -> Value {
    json!([{"cel": {"expression": "device.attributes['gpu.example.com'].model == 'big'"}}])
}

#[test]
fn selectors_and_counts_decide() {
    let devices = devices();
    let one =
        claim("c", json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu", "selectors": big()}}]}));
    assert_eq!(allocate(&devices, "n1", std::slice::from_ref(&one), &[]), Some(vec!["r=d1".to_owned()]));
    assert_eq!(allocate(&devices, "n2", std::slice::from_ref(&one), &[]), None);
    assert_eq!(allocate(&devices, "n1", &[one], &[("n1", "d1")]), None);
    let two = claim("c", json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu", "count": 2}}]}));
    assert_eq!(allocate(&devices, "n1", std::slice::from_ref(&two), &[]).unwrap(), ["r=d0", "r=d1"]);
    assert_eq!(allocate(&devices, "n2", &[two], &[]), None);
    let memory = json!([{"cel": {"expression":
        "device.capacity['gpu.example.com'].memory.compareTo(quantity('40Gi')) >= 0"}}]);
    let large =
        claim("c", json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu", "selectors": memory}}]}));
    assert_eq!(allocate(&devices, "n1", &[large], &[]).unwrap(), ["r=d1"]);
    let version = json!([{"cel": {"expression":
        "device.attributes['gpu.example.com'].driverVersion.isGreaterThan(semver('1.2.2'))"}}]);
    let new =
        claim("c", json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu", "selectors": version}}]}));
    assert_eq!(allocate(&devices, "n2", &[new], &[]).unwrap(), ["r=d0"]);
}

#[test]
fn the_search_goes_back_for_constraints_and_other_claims() {
    let devices = devices();
    let spec = json!({
        "requests": [
            {"name": "a", "exactly": {"deviceClassName": "gpu"}},
            {"name": "b", "exactly": {"deviceClassName": "gpu"}},
        ],
        "constraints": [{"matchAttribute": "gpu.example.com/bus"}],
    });
    assert_eq!(allocate(&devices, "n1", &[claim("c", spec)], &[]).unwrap(), ["a=d1", "b=d2"]);
    let any = claim("x", json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}));
    let only = json!([{"cel": {"expression": "device.attributes['gpu.example.com'].bus == 0"}}]);
    let first =
        claim("y", json!({"requests": [{"name": "s", "exactly": {"deviceClassName": "gpu", "selectors": only}}]}));
    assert_eq!(allocate(&devices, "n1", &[any, first], &[]).unwrap(), ["r=d1", "s=d0"]);
}

#[test]
fn all_the_first_available_and_those_who_only_look() {
    let devices = devices();
    let all = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu", "allocationMode": "All"}}]});
    assert_eq!(allocate(&devices, "n1", &[claim("c", all.clone())], &[]).unwrap(), ["r=d0", "r=d1", "r=d2"]);
    assert_eq!(allocate(&devices, "n1", &[claim("c", all)], &[("n1", "d2")]), None);
    let wish = json!({"requests": [{"name": "r", "firstAvailable": [
        {"name": "best", "deviceClassName": "gpu", "selectors": big()},
        {"name": "any", "deviceClassName": "gpu"},
    ]}]});
    assert_eq!(allocate(&devices, "n1", &[claim("c", wish.clone())], &[]).unwrap(), ["r/best=d1"]);
    assert_eq!(allocate(&devices, "n2", &[claim("c", wish)], &[]).unwrap(), ["r/any=d0"]);
    let admin = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu", "adminAccess": true}}]});
    assert_eq!(allocate(&devices, "n2", &[claim("c", admin)], &[("n2", "d0")]).unwrap(), ["r=d0"]);
}

#[test]
fn a_pool_that_is_not_whole_gives_nothing() {
    let mut devices = devices();
    let (name, mut part) = slice("b", "n2", json!([{"name": "d0"}]));
    Arc::make_mut(&mut part).slice_count = 2;
    devices.slices.insert(name, part);
    let one = claim("c", json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}));
    assert_eq!(allocate(&devices, "n2", &[one], &[]), None);
}

/// A card that is given away whole or in halves: 40Gi of the pool's counter `memory`.
fn card() -> Devices {
    let mut devices = devices();
    let part = |name: &str, memory: &str| json!({"name": name, "consumesCounters": [{"counterSet": "card", "counters": {"memory": {"value": memory}}}]});
    let mut slices = [
        json!({"devices": [part("whole", "40Gi"), part("half-0", "20Gi"), part("half-1", "20Gi")]}),
        json!({"sharedCounters": [{"name": "card", "counters": {"memory": {"value": "40Gi"}}}]}),
    ];
    devices.slices.clear();
    for (at, spec) in slices.iter_mut().enumerate() {
        spec["driver"] = "gpu.example.com".into();
        spec["nodeName"] = "n1".into();
        spec["pool"] = json!({"name": "n1", "generation": 1, "resourceSliceCount": 2});
        let object = json!({"metadata": {"name": "s"}, "spec": spec});
        let slice = Slice::new(&serde_json::from_value(object).unwrap());
        devices.slices.insert(format!("s{at}"), Arc::new(slice));
    }
    devices
}

#[test]
fn devices_of_one_card_are_given_as_long_as_its_counters_last() {
    let mut devices = card();
    let count = |count: i64| {
        let exactly = json!({"deviceClassName": "gpu", "count": count});
        claim("c", json!({"requests": [{"name": "r", "exactly": exactly}]}))
    };
    assert_eq!(allocate(&devices, "n1", &[count(1)], &[]).unwrap(), ["r=whole"]);
    assert_eq!(allocate(&devices, "n1", &[count(2)], &[]).unwrap(), ["r=half-0", "r=half-1"]);
    assert_eq!(allocate(&devices, "n1", &[count(3)], &[]), None);
    assert_eq!(allocate(&devices, "n1", &[count(1)], &[("n1", "half-1")]).unwrap(), ["r=half-0"]);
    assert_eq!(allocate(&devices, "n1", &[count(1)], &[("n1", "whole")]), None);
    devices.slices.remove("s1");
    assert_eq!(allocate(&devices, "n1", &[count(1)], &[]), None, "the pool's counters are not known");
}

#[test]
fn claims_share_a_device_as_long_as_its_capacity_lasts() {
    let mut devices = devices();
    let shared = json!([{"name": "d0", "allowMultipleAllocations": true, "capacity": {"memory": {"value": "10Gi",
        "requestPolicy": {"default": "1Gi", "validRange": {"min": "1Gi", "step": "1Gi"}}}}}]);
    devices.slices = [slice("b", "n2", shared)].into();
    let wants = |name: &str, memory: &str| {
        let exactly = json!({"deviceClassName": "gpu", "capacity": {"requests": {"memory": memory}}});
        claim(name, json!({"requests": [{"name": "r", "exactly": exactly}]}))
    };
    let (taken, labels) = (Taken::default(), Labels::default());
    let pools = devices.pools(&taken);
    let search = Search { devices: &devices, pools: &pools, taken: &taken, node: "n2", labels: &labels };
    let given = search.run(&[wants("a", "5500Mi"), wants("b", "4Gi")]).unwrap().unwrap();
    let results: Vec<_> =
        given.iter().flat_map(|given| given.result.devices.clone().unwrap().results.unwrap()).collect();
    let consumed = |at: usize| results[at].consumed_capacity.as_ref().unwrap()["memory"].0.clone();
    assert_eq!((consumed(0), consumed(1)), ("6Gi".to_owned(), "4Gi".to_owned()));
    assert!(results[0].share_id.is_some() && results[0].share_id != results[1].share_id);
    assert!(search.run(&[wants("a", "6Gi"), wants("b", "5Gi")]).unwrap().is_none());
    let mut taken = Taken::default();
    given.iter().flat_map(|given| &given.holdings).for_each(|holding| taken.add(holding));
    let search = Search { taken: &taken, pools: &pools, devices: &devices, node: "n2", labels: &labels };
    assert!(search.run(&[wants("c", "1Gi")]).unwrap().is_none(), "nothing is left");
}
