use serde_json::{Value, json};

use super::*;
use crate::model::devices::{DeviceClass, Slice};
use crate::model::labels::Labels;
use crate::testing::{cluster, pod};

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

fn plugin() -> DynamicResources {
    DynamicResources { args: DynamicResourcesArgs::default(), given: Mutex::default(), waiting: Mutex::default() }
}

/// The two nodes of `devices()`, and a third that has GPUs of a device plugin.
fn snapshot(devices: Devices) -> Snapshot {
    let node =
        |name: &str, allocatable: Value| json!({"metadata": {"name": name}, "status": {"allocatable": allocatable}});
    let mut snapshot = cluster(&[
        node("n1", json!({"pods": "9"})),
        node("n2", json!({"pods": "9", "example.com/gpu": "0"})),
        node("n3", json!({"pods": "9", "example.com/gpu": "4"})),
    ]);
    snapshot.devices = Arc::new(devices);
    snapshot
}

fn asking(resource: &str, amount: &str) -> Arc<PodInfo> {
    pod(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {"containers": [
        {"name": "main", "resources": {"requests": {resource: amount}}}]}}))
}

/// What the filter says of each node: nothing, or why not.
fn verdicts(plugin: &DynamicResources, pod: &PodInfo, snapshot: &Snapshot) -> (CycleState, Vec<String>) {
    let mut state = CycleState::default();
    assert_eq!(plugin.pre_filter(&mut state, pod, snapshot), Ok(Narrowed::No));
    let verdict = |node: &str| {
        let node = snapshot.node(node).unwrap();
        plugin.filter(&state, pod, node).err().map(|status| status.message()).unwrap_or_default()
    };
    let verdicts = ["n1", "n2", "n3"].map(verdict).to_vec();
    (state, verdicts)
}

fn gpu_class(more: Value) -> Arc<DeviceClass> {
    let mut class = json!({"metadata": {"name": "gpu", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {}});
    for (field, value) in more.as_object().unwrap() {
        class["spec"][field] = value.clone();
    }
    Arc::new(DeviceClass::new(&serde_json::from_value(class).unwrap()))
}

#[test]
fn an_extended_resource_is_had_from_devices_where_the_node_has_none() {
    let mut devices = devices();
    devices.classes.insert("gpu".into(), gpu_class(json!({"extendedResourceName": "example.com/gpu"})));
    let snapshot = snapshot(devices);
    let plugin = plugin();
    let two = asking("example.com/gpu", "2");
    let (mut state, said) = verdicts(&plugin, &two, &snapshot);
    assert_eq!(said, ["", "cannot allocate all claims", ""], "three devices, one, and a device plugin's");
    plugin.reserve(&mut state, &two, snapshot.node("n1").unwrap()).unwrap();
    let given = plugin.given.lock()["u"].clone();
    assert_eq!(given.len(), 1);
    let uses = &given[0].mappings[0];
    assert_eq!((uses.container_name.as_str(), uses.request_name.as_str()), ("main", "container-0-request-0"));
    let results = given[0].result.devices.clone().unwrap().results.unwrap();
    assert_eq!(results.iter().map(|result| result.device.as_str()).collect::<Vec<_>>(), ["d0", "d1"]);

    // Kept aside until the claim that was written has been seen.
    let other = pod(json!({"metadata": {"name": "q", "namespace": "d", "uid": "v"}, "spec": {"containers": [
        {"name": "main", "resources": {"requests": {"deviceclass.resource.kubernetes.io/gpu": "2"}}}]}}));
    assert_eq!(verdicts(&plugin, &other, &snapshot).1[0], "cannot allocate all claims");
    plugin.given.lock().get_mut("u").unwrap()[0].written = Some(7);
    assert_eq!(verdicts(&plugin, &other, &snapshot).1[0], "cannot allocate all claims");
    let mut seen = snapshot.devices.as_ref().clone();
    seen.revision = 7;
    let mut snapshot = snapshot;
    snapshot.devices = Arc::new(seen);
    assert_eq!(verdicts(&plugin, &other, &snapshot).1[0], "");

    // The node has the resource itself: nothing to give.
    let (mut state, _) = verdicts(&plugin, &two, &snapshot);
    plugin.unreserve(&mut state, &two, "n1");
    plugin.reserve(&mut state, &two, snapshot.node("n3").unwrap()).unwrap();
    assert!(plugin.given.lock().is_empty());
}

#[test]
fn what_no_class_stands_behind_is_for_nodes_to_have() {
    let mut devices = devices();
    devices.classes.insert("gpu".into(), gpu_class(json!({})));
    let snapshot = snapshot(devices);
    let mut state = CycleState::default();
    assert_eq!(plugin().pre_filter(&mut state, &asking("example.com/gpu", "1"), &snapshot), Ok(Narrowed::Skip));
    let both = pod(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {"containers": [
        {"name": "main", "resources": {"requests":
            {"deviceclass.resource.kubernetes.io/gpu": "1", "example.com/gpu": "1"}}}]}}));
    // n2 says that it has none, which is for another plugin to judge.
    assert_eq!(verdicts(&plugin(), &both, &snapshot).1, ["cannot fit resource", "", "cannot allocate all claims"]);
}

#[test]
fn the_newest_class_stands_behind_a_resource() {
    let mut devices = Devices::default();
    let class = |name: &str, created: &str| {
        let object = json!({"metadata": {"name": name, "creationTimestamp": created},
            "spec": {"extendedResourceName": "example.com/gpu"}});
        (name.to_owned(), Arc::new(DeviceClass::new(&serde_json::from_value(object).unwrap())))
    };
    devices.classes.extend([class("b", "2026-01-01T00:00:00Z"), class("c", "2026-01-01T00:00:00Z")]);
    assert_eq!(devices.class_behind("example.com/gpu"), Some("b"));
    devices.classes.extend([class("z", "2026-01-01T00:00:01Z")]);
    assert_eq!(devices.class_behind("example.com/gpu"), Some("z"));
    assert_eq!(devices.class_behind("deviceclass.resource.kubernetes.io/b"), Some("b"));
    assert_eq!(devices.class_behind("deviceclass.resource.kubernetes.io/x"), None);
}

#[test]
fn the_claim_of_an_attempt_that_failed_has_to_go_first() {
    let mut devices = devices();
    devices.classes.insert("gpu".into(), gpu_class(json!({"extendedResourceName": "example.com/gpu"})));
    let left = json!({"metadata": {"name": "p-extended-resources-x", "namespace": "d", "uid": "c",
        "annotations": {"resource.kubernetes.io/extended-resource-claim": "true"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]},
        "spec": {"devices": {"requests": []}}});
    let left = DeviceClaim::new(&Arc::new(serde_json::from_value(left).unwrap()));
    devices.claims.insert(left.key.clone(), Arc::new(left));
    let snapshot = snapshot(devices);
    let (_, said) = verdicts(&plugin(), &asking("example.com/gpu", "1"), &snapshot);
    assert_eq!(said, ["cannot schedule extended resource claim"; 3]);
    match take_back(&plugin(), &asking("example.com/gpu", "1"), &snapshot) {
        PostFilterResult::TakeBack { claim, undo, message } => assert_eq!(
            (claim.as_str(), undo, message.as_str()),
            ("p-extended-resources-x", Undo::Claim, "deletion of ResourceClaim completed")
        ),
        other => panic!("{other:?}"),
    }
}

/// What is done for a pod that the filter keeps off every node.
fn take_back(plugin: &DynamicResources, pod: &PodInfo, snapshot: &Snapshot) -> PostFilterResult {
    use rand::SeedableRng as _;
    let mut state = CycleState::default();
    plugin.pre_filter(&mut state, pod, snapshot).unwrap();
    let refused = |node: &NodeInfo| Some((node.name().clone(), plugin.filter(&state, pod, node).err()?));
    let diagnosis =
        crate::cycle::Diagnosis { refused: snapshot.nodes().filter_map(refused).collect(), ..Default::default() };
    plugin.post_filter(PostFilterInput {
        profile: &crate::profile::Profile::new(&crate::profile::ProfileConfig::default()).unwrap(),
        snapshot,
        nominator: &crate::nominator::Nominator::default(),
        state: &state,
        pod,
        diagnosis: &diagnosis,
        rng: &mut rand::rngs::SmallRng::seed_from_u64(1),
    })
}

/// A pod whose claim has a device of n1 that is to be ready within ten minutes of the first of January.
fn waiting(conditions: Value) -> (Arc<PodInfo>, Devices) {
    let mut devices = devices();
    let claim = json!({"metadata": {"name": "c", "namespace": "d", "uid": "c"}, "spec": {}, "status": {
        "reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}],
        "allocation": {"allocationTimestamp": "2026-01-01T00:00:00Z", "devices": {"results": [
            {"request": "r", "driver": "gpu.example.com", "pool": "n1", "device": "d0", "bindingConditions": ["Ready"],
             "bindingFailureConditions": ["Broken"]}]}},
        "devices": [{"driver": "gpu.example.com", "pool": "n1", "device": "d0", "conditions": conditions}]}});
    let claim = DeviceClaim::new(&Arc::new(serde_json::from_value(claim).unwrap()));
    devices.claims.insert(claim.key.clone(), Arc::new(claim));
    let pod = pod(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {
        "containers": [], "resourceClaims": [{"name": "c", "resourceClaimName": "c"}]}}));
    (pod, devices)
}

#[test]
fn devices_that_fail_their_conditions_or_take_too_long_are_given_back() {
    let at = |time: &str, conditions: Value| {
        let (pod, devices) = waiting(conditions);
        let mut snapshot = snapshot(devices);
        snapshot.now = time.parse().unwrap();
        take_back(&plugin(), &pod, &snapshot)
    };
    let lost = PostFilterResult::TakeBack {
        claim: "c".to_owned(),
        undo: Undo::Allocation,
        message: "deallocation of ResourceClaim completed".to_owned(),
    };
    let kept = PostFilterResult::Unhelpful { message: "still not schedulable".to_owned() };
    assert_eq!(at("2026-01-01T00:09:00Z", json!([])), kept);
    assert_eq!(at("2026-01-01T00:11:00Z", json!([])), lost);
    let condition = |type_: &str| {
        json!([{"type": type_, "status": "True", "reason": "r", "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    };
    assert_eq!(at("2026-01-01T00:00:01Z", condition("Broken")), lost);
    assert_eq!(at("2026-01-01T00:11:00Z", condition("Ready")), kept);
}

#[test]
fn devices_to_wait_for_come_last_and_say_so() {
    let mut devices = devices();
    let slow = json!([{"name": "slow", "bindingConditions": ["Ready"], "bindingFailureConditions": ["Broken"]}]);
    let (name, mut first) = slice("0", "n1", slow);
    Arc::make_mut(&mut first).pool = "0".to_owned();
    let pool = Arc::make_mut(&mut first);
    pool.devices = pool
        .devices
        .iter()
        .map(|device| {
            let mut device = device.as_ref().clone();
            device.id.1 = "0".to_owned();
            Arc::new(device)
        })
        .collect();
    devices.slices.insert(name, first);
    let wants = |count: i64| {
        let exactly = json!({"deviceClassName": "gpu", "count": count});
        claim("c", json!({"requests": [{"name": "r", "exactly": exactly}]}))
    };
    assert_eq!(allocate(&devices, "n1", &[wants(1)], &[]).unwrap(), ["r=d0"]);
    assert_eq!(allocate(&devices, "n1", &[wants(4)], &[]).unwrap(), ["r=d0", "r=d1", "r=d2", "r=slow"]);
    let (taken, labels) = (Taken::default(), Labels::default());
    let pools = devices.pools(&taken);
    let search = Search { devices: &devices, pools: &pools, taken: &taken, node: "n1", labels: &labels };
    let given = search.run(&[wants(4)]).unwrap().unwrap();
    assert!(given[0].has_conditions());
    let results = given[0].result.devices.clone().unwrap().results.unwrap();
    assert_eq!(results[3].binding_conditions, Some(vec!["Ready".to_owned()]));
    assert_eq!(results[3].binding_failure_conditions, Some(vec!["Broken".to_owned()]));
    assert_eq!(results[0].binding_conditions, None);
}

#[test]
fn nodes_with_the_better_alternative_score_more() {
    let mut devices = devices();
    let wish = claim(
        "c",
        json!({"requests": [{"name": "r", "firstAvailable": [
            {"name": "best", "deviceClassName": "gpu", "selectors": big()},
            {"name": "any", "deviceClassName": "gpu"},
        ]}]}),
    );
    devices.claims.insert(wish.key.clone(), wish);
    let snapshot = snapshot(devices);
    let pod = pod(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {
        "containers": [], "resourceClaims": [{"name": "c", "resourceClaimName": "c"}]}}));
    let plugin = plugin();
    let mut state = CycleState::default();
    plugin.pre_filter(&mut state, &pod, &snapshot).unwrap();
    assert_eq!(plugin.pre_score(&mut state, &pod, &snapshot, &[]), Scoring::Needed);
    let score = |node: &str| plugin.score(&state, &pod, &snapshot, snapshot.node(node).unwrap());
    assert_eq!((score("n1"), score("n2")), (8, 7));
}
