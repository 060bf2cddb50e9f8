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
    let (pools, taken) = (devices.pools(), taken.iter().map(id).collect());
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
