//! ResourceQuota: what a write would use of its namespace's quotas, whether that is left, and the quotas as they are after it.
//!
//! Nothing is reserved here. The caller writes the changed quotas (their `status.used`) on condition that they are what was
//! read; when one is not, it asks again. Only then is the object itself written. A charge that turns out too high (the write
//! failed later) is corrected by the quota controller.

use std::collections::{BTreeMap, BTreeSet};

use api::json;
use api::{
    Status, Value, meta,
    quantity::{Format, Quantity},
};

use super::{Operation, Request, items};
use crate::source::ObjectSource;

/// Amounts by quota resource name: `pods`, `requests.cpu`, `count/deployments.apps`.
type Usage = BTreeMap<String, Quantity>;

/// A quota to write before the object: `new` differs from `old` in `status.used` only.
#[derive(Clone, Debug, PartialEq)]
pub struct Charge {
    pub old: Value,
    pub new: Value,
}

/// Resources that nobody counts.
const IGNORED: [(&str, &str); 10] = [
    ("", "bindings"),
    ("", "componentstatuses"),
    ("", "events"),
    ("events.k8s.io", "events"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
];

/// What follows the name of a device class in the name of its quota.
const DEVICES_SUFFIX: &str = ".deviceclass.resource.k8s.io/devices";
/// Devices that a claim to all of them may get.
const DEVICES_MAX: i64 = 32;

/// Core resources that may be counted by their bare name.
const COUNTED_BY_NAME: [&str; 6] =
    ["pods", "services", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas", "secrets"];

/// Does the write fit into the quotas of its namespace? A dry run is checked and charges nothing.
pub fn check(request: &Request<'_>, object: &Value, source: &dyn ObjectSource) -> Result<Vec<Charge>, Status> {
    let Some(kind) = Kind::of(request, object) else { return Ok(Vec::new()) };
    let quotas = source.list("", "resourcequotas", request.namespace);
    let mut interesting: Vec<(Value, Usage)> = Vec::new();
    let usage = kind.usage(request, object);
    for quota in quotas.iter().filter_map(|stored| stored.parse()) {
        let hard = amounts(&quota["status"]["hard"]);
        let restricted: BTreeSet<&str> =
            hard.keys().map(String::as_str).filter(|name| kind.counts(request, name)).collect();
        let concerns =
            amounts(&quota["spec"]["hard"]).keys().any(|name| kind.counts(request, name)) || !restricted.is_empty();
        if !concerns || !kind.in_scopes(&quota, object) {
            continue;
        }
        let name = meta::name(&quota).to_owned();
        kind.constraints(object, &restricted)
            .map_err(|text| request.forbidden(object, &format!("failed quota: {name}: {text}")))?;
        let used = amounts(&quota["status"]["used"]);
        if restricted.iter().any(|resource| !used.contains_key(*resource)) {
            let names: Vec<&str> = restricted.into_iter().collect();
            let text = format!("status unknown for quota: {name}, resources: {}", names.join(","));
            return Err(request.forbidden(object, &text));
        }
        let delta =
            match request.old.filter(|old| request.operation == Operation::Update && kind.in_scopes(&quota, old)) {
                Some(old) => increase(&usage, &kind.usage(request, old)),
                None => usage.clone(),
            };
        interesting.push((quota, delta));
    }
    let mut charges = Vec::new();
    for (quota, delta) in interesting {
        charges.extend(charge(request, object, quota, delta)?);
    }
    if request.dry_run {
        charges.clear();
    }
    Ok(charges)
}

fn charge(request: &Request<'_>, object: &Value, quota: Value, delta: Usage) -> Result<Option<Charge>, Status> {
    let hard = amounts(&quota["status"]["hard"]);
    let requested: Usage =
        delta.into_iter().filter(|(name, amount)| !amount.is_zero() && hard.contains_key(name)).collect();
    if requested.is_empty() {
        return Ok(None);
    }
    let used = amounts(&quota["status"]["used"]);
    let mut after = used.clone();
    for (name, amount) in &requested {
        let sum = used.get(name).map_or_else(|| amount.clone(), |before| before.add(amount));
        after.insert(name.clone(), sum);
    }
    let exceeded: Vec<&String> = requested.keys().filter(|name| after.get(*name) > hard.get(*name)).collect();
    if !exceeded.is_empty() {
        let print = |list: &Usage| {
            let parts: Vec<String> =
                exceeded.iter().filter_map(|name| Some(format!("{name}={}", list.get(*name)?))).collect();
            parts.join(",")
        };
        let text = format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            meta::name(&quota),
            print(&requested),
            print(&used),
            print(&hard)
        );
        return Err(request.forbidden(object, &text));
    }
    let mut new = quota.clone();
    for (name, amount) in after {
        new["status"]["used"][name.as_str()] = json!(amount.to_string());
    }
    Ok(Some(Charge { old: quota, new }))
}

/// What `new` uses more than `old`.
fn increase(new: &Usage, old: &Usage) -> Usage {
    let zero = Quantity::default();
    let more = |(name, amount): (&String, &Quantity)| {
        let delta = amount.sub(old.get(name).unwrap_or(&zero));
        (delta.sign() > 0).then(|| (name.clone(), delta))
    };
    new.iter().filter_map(more).collect()
}

fn amounts(list: &Value) -> Usage {
    let entries = list.as_object().into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.to_string(), Quantity::from_value(value).ok()?))).collect()
}

fn one() -> Quantity {
    Quantity::new(1, Format::DecimalSi)
}

/// How a resource is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pod,
    Service,
    Claim,
    /// A claim to devices.
    Devices,
    /// By number only.
    Counted,
}

impl Kind {
    /// `None` when the write is not charged at all.
    fn of(request: &Request<'_>, object: &Value) -> Option<Self> {
        let ignored = IGNORED.iter().any(|(group, resource)| request.is(group, resource));
        let is_resize = request.is("", "pods") && request.subresource == "resize";
        if request.namespace.is_empty() || request.is("", "namespaces") || ignored {
            return None;
        }
        if !request.subresource.is_empty() && !is_resize {
            return None;
        }
        let kind = match (request.group, request.resource) {
            ("", "pods") => Self::Pod,
            ("", "services") => Self::Service,
            ("", "persistentvolumeclaims") => Self::Claim,
            ("resource.k8s.io", "resourceclaims") => Self::Devices,
            _ => Self::Counted,
        };
        let charged = match request.operation {
            Operation::Create => true,
            Operation::Update => match kind {
                Self::Service | Self::Claim | Self::Devices => true,
                // A pod that gets a deadline is in the scopes of other quotas.
                Self::Pod => is_resize || request.old.is_some_and(|old| is_terminating(old) != is_terminating(object)),
                Self::Counted => false,
            },
            Operation::Delete | Operation::Connect => false,
        };
        charged.then_some(kind)
    }

    fn count_name(request: &Request<'_>) -> String {
        if request.group.is_empty() {
            format!("count/{}", request.resource)
        } else {
            format!("count/{}.{}", request.resource, request.group)
        }
    }

    /// Does a quota on `name` concern the resource?
    fn counts(self, request: &Request<'_>, name: &str) -> bool {
        let by_name = request.group.is_empty()
            && name == request.resource
            && (COUNTED_BY_NAME.contains(&name) || name == "configmaps");
        by_name
            || name == Self::count_name(request)
            || match self {
                Self::Pod => is_pod_resource(name),
                Self::Service => matches!(name, "services.nodeports" | "services.loadbalancers"),
                Self::Claim => name == "requests.storage" || name.contains(".storageclass.storage.k8s.io/"),
                Self::Devices => name.ends_with(DEVICES_SUFFIX),
                Self::Counted => false,
            }
    }

    fn usage(self, request: &Request<'_>, object: &Value) -> Usage {
        let mut usage = Usage::from([(Self::count_name(request), one())]);
        if request.group.is_empty() {
            usage.insert(request.resource.to_owned(), one());
        }
        match self {
            Self::Pod => usage.extend(pod_usage(object)),
            Self::Service => usage.extend(service_usage(object)),
            Self::Claim => usage.extend(claim_usage(object)),
            Self::Devices => usage.extend(device_usage(object)),
            Self::Counted => {}
        }
        usage
    }

    /// Each container must say what it needs of a resource that is limited.
    fn constraints(self, object: &Value, restricted: &BTreeSet<&str>) -> Result<(), String> {
        const EXPLICIT: [&str; 6] = ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
        let of_pod = object["spec"]["resources"].as_object().is_some_and(|resources| !resources.is_empty());
        if self != Self::Pod || of_pod {
            return Ok(());
        }
        let mut missing: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for container in ["containers", "initContainers"].iter().flat_map(|list| items(&object["spec"], list)) {
            let resources = &container["resources"];
            let said = compute_usage(&amounts(&resources["requests"]), &amounts(&resources["limits"]));
            for name in EXPLICIT.iter().filter(|name| restricted.contains(*name) && !said.contains_key(**name)) {
                let container = container["name"].as_str().unwrap_or_default().to_owned();
                missing.entry(name).or_default().insert(container);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let parts: Vec<String> = missing
            .into_iter()
            .map(|(name, containers)| format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(",")))
            .collect();
        Err(format!("must specify {}", parts.join("; ")))
    }

    fn in_scopes(self, quota: &Value, object: &Value) -> bool {
        let simple = items(&quota["spec"], "scopes").all(|scope| {
            let selector = json!({"scopeName": scope, "operator": "Exists"});
            self.in_scope(&selector, object)
        });
        simple && items(&quota["spec"]["scopeSelector"], "matchExpressions").all(|s| self.in_scope(s, object))
    }

    fn in_scope(self, selector: &Value, object: &Value) -> bool {
        let spec = &object["spec"];
        let named = |value: Option<&str>| {
            let values: Vec<&str> = items(selector, "values").filter_map(Value::as_str).collect();
            match selector["operator"].as_str() {
                Some("In") => value.is_some_and(|v| values.contains(&v)),
                Some("NotIn") => value.is_none_or(|v| !values.contains(&v)),
                Some("DoesNotExist") => value.is_none(),
                _ => value.is_some(),
            }
        };
        match (self, selector["scopeName"].as_str().unwrap_or_default()) {
            (Self::Pod, "BestEffort") => is_best_effort(object),
            (Self::Pod, "NotBestEffort") => !is_best_effort(object),
            (Self::Pod, "Terminating") => is_terminating(object),
            (Self::Pod, "NotTerminating") => !is_terminating(object),
            (Self::Pod, "PriorityClass") => named(spec["priorityClassName"].as_str().filter(|name| !name.is_empty())),
            (Self::Pod, "CrossNamespacePodAffinity") => uses_cross_namespace_affinity(spec),
            (Self::Claim, "VolumeAttributesClass") => {
                let status = &object["status"];
                let classes = [
                    &spec["volumeAttributesClassName"],
                    &status["currentVolumeAttributesClassName"],
                    &status["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
                ];
                let mut classes = classes.into_iter().filter_map(Value::as_str).filter(|class| !class.is_empty());
                match classes.next() {
                    None => named(None),
                    Some(first) => named(Some(first)) || classes.any(|class| named(Some(class))),
                }
            }
            _ => false,
        }
    }
}

fn is_pod_resource(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
    ];
    let is_huge = name.starts_with("hugepages-") || name.starts_with("requests.hugepages-");
    NAMES.contains(&name) || is_huge || name.strip_prefix("requests.").is_some_and(is_extended)
}

/// A resource outside of Kubernetes' own names.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

fn is_best_effort(pod: &Value) -> bool {
    const LISTS: [&str; 2] = ["containers", "initContainers"];
    let says_nothing = |resources: &Value| {
        let has = |field: &str| {
            let list = amounts(&resources[field]);
            list.iter().any(|(name, amount)| matches!(name.as_str(), "cpu" | "memory") && amount.sign() > 0)
        };
        !has("requests") && !has("limits")
    };
    says_nothing(&pod["spec"]["resources"])
        && LISTS.iter().flat_map(|list| items(&pod["spec"], list)).all(|c| says_nothing(&c["resources"]))
}

fn is_terminating(pod: &Value) -> bool {
    pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0)
}

fn uses_cross_namespace_affinity(spec: &Value) -> bool {
    let crosses = |term: &Value| items(term, "namespaces").len() > 0 || !term["namespaceSelector"].is_null();
    ["podAffinity", "podAntiAffinity"].into_iter().any(|kind| {
        let affinity = &spec["affinity"][kind];
        items(affinity, "requiredDuringSchedulingIgnoredDuringExecution").any(crosses)
            || items(affinity, "preferredDuringSchedulingIgnoredDuringExecution")
                .any(|weighted| crosses(&weighted["podAffinityTerm"]))
    })
}

/// Requests and limits as quota names them.
fn compute_usage(requests: &Usage, limits: &Usage) -> Usage {
    const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
    let mut out = Usage::new();
    for (name, amount) in requests {
        if COMPUTE.contains(&name.as_str()) || name.starts_with("hugepages-") {
            out.insert(name.clone(), amount.clone());
            out.insert(format!("requests.{name}"), amount.clone());
        } else if is_extended(name) {
            out.insert(format!("requests.{name}"), amount.clone());
        }
    }
    for name in COMPUTE {
        if let Some(amount) = limits.get(name) {
            out.insert(format!("limits.{name}"), amount.clone());
        }
    }
    out
}

fn pod_usage(pod: &Value) -> Usage {
    compute_usage(&pod_amounts(pod, "requests"), &pod_amounts(pod, "limits"))
}

/// Containers and sidecars together, or an init container with the sidecars before it when that is more; pod-level amounts
/// instead where given; overhead on top.
fn pod_amounts(pod: &Value, field: &str) -> Usage {
    let list = |container: &Value| amounts(&container["resources"][field]);
    let is_sidecar = |container: &&Value| container["restartPolicy"] == "Always";
    let mut total = Usage::new();
    for container in items(&pod["spec"], "containers") {
        add(&mut total, &list(container));
    }
    let mut sidecars = Usage::new();
    let mut peak = Usage::new();
    for container in items(&pod["spec"], "initContainers") {
        let own = list(container);
        if is_sidecar(&container) {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut together = sidecars.clone();
            add(&mut together, &own);
            raise(&mut peak, &together);
        }
    }
    raise(&mut total, &peak);
    total.extend(amounts(&pod["spec"]["resources"][field]));
    for (name, amount) in amounts(&pod["spec"]["overhead"]) {
        // Overhead raises a limit only where there is one.
        if field == "requests" || total.contains_key(&name) {
            add(&mut total, &Usage::from([(name, amount)]));
        }
    }
    total
}

fn add(total: &mut Usage, more: &Usage) {
    for (name, amount) in more {
        let sum = total.get(name).map_or_else(|| amount.clone(), |before| before.add(amount));
        total.insert(name.clone(), sum);
    }
}

fn raise(total: &mut Usage, other: &Usage) {
    for (name, amount) in other {
        if total.get(name).is_none_or(|before| before < amount) {
            total.insert(name.clone(), amount.clone());
        }
    }
}

fn service_usage(service: &Value) -> Usage {
    let spec = &service["spec"];
    let count = |n: usize| Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSi);
    let n_ports = items(spec, "ports").len();
    let (node_ports, balancers) = match spec["type"].as_str() {
        Some("NodePort") => (n_ports, 0),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => {
            (items(spec, "ports").filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count(), 1)
        }
        Some("LoadBalancer") => (n_ports, 1),
        _ => (0, 0),
    };
    Usage::from([
        ("services.nodeports".to_owned(), count(node_ports)),
        ("services.loadbalancers".to_owned(), count(balancers)),
    ])
}

fn claim_usage(claim: &Value) -> Usage {
    let annotated = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    let class = annotated.or(claim["spec"]["storageClassName"].as_str()).unwrap_or_default();
    let mut usage = Usage::new();
    let per_class = |what: &str| format!("{class}.storageclass.storage.k8s.io/{what}");
    if !class.is_empty() {
        usage.insert(per_class("persistentvolumeclaims"), one());
    }
    let asked = Quantity::from_value(&claim["spec"]["resources"]["requests"]["storage"]).ok();
    // A claim that is being grown and shrunk back still holds what was allocated.
    let allocated = Quantity::from_value(&claim["status"]["allocatedResources"]["storage"]).ok();
    if let Some(size) = asked.into_iter().chain(allocated).max() {
        usage.insert("requests.storage".to_owned(), size.clone());
        if !class.is_empty() {
            usage.insert(per_class("requests.storage"), size);
        }
    }
    usage
}

/// Devices by class; of alternatives, the most of each class that any of them asks for.
fn device_usage(claim: &Value) -> Usage {
    let mut usage = Usage::new();
    for request in items(&claim["spec"]["devices"], "requests") {
        let alternatives = items(request, "firstAvailable").chain(request.get("exactly"));
        let mut most = Usage::new();
        for asked in alternatives {
            let count = match asked["allocationMode"].as_str() {
                Some("ExactCount") => asked["count"].as_i64().unwrap_or(0),
                Some("All") => DEVICES_MAX,
                _ => 0,
            };
            let name = format!("{}{DEVICES_SUFFIX}", asked["deviceClassName"].as_str().unwrap_or_default());
            raise(&mut most, &Usage::from([(name, Quantity::new(count, Format::DecimalSi))]));
        }
        add(&mut usage, &most);
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admission::testing::request, attributes::UserInfo, source::testing::MemorySource};

    fn source(hard: Value, used: Value, spec: Value) -> MemorySource {
        let source = MemorySource::new();
        let mut quota =
            json!({"metadata": {"name": "q", "namespace": "ns"}, "spec": spec, "status": {"hard": hard, "used": used}});
        quota["spec"]["hard"] = quota["status"]["hard"].clone();
        source.put("", "resourcequotas", quota);
        source
    }

    fn create(source: &MemorySource, resource: &str, object: Value) -> Result<Value, String> {
        let user = UserInfo::default();
        let mut object = object;
        object["metadata"] = json!({"name": "a"});
        let charges = check(&request(Operation::Create, "", resource, &user), &object, source);
        charges.map(|c| c.first().map_or(Value::Null, |c| c.new["status"]["used"].clone())).map_err(|s| s.message)
    }

    #[test]
    fn node_ports_and_load_balancers_are_counted() {
        let zero = json!({"services.nodeports": "0", "services.loadbalancers": "0"});
        let source = source(zero.clone(), zero, json!({}));
        let service = |kind: &str| json!({"spec": {"type": kind, "ports": [{"port": 80}]}});
        assert_eq!(
            create(&source, "services", service("NodePort")).unwrap_err(),
            "services \"a\" is forbidden: exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=0, \
             limited: services.nodeports=0"
        );
        assert_eq!(
            create(&source, "services", service("LoadBalancer")).unwrap_err(),
            "services \"a\" is forbidden: exceeded quota: q, requested: services.loadbalancers=1,services.nodeports=1, used: \
             services.loadbalancers=0,services.nodeports=0, limited: services.loadbalancers=0,services.nodeports=0"
        );
        assert_eq!(create(&source, "services", service("ClusterIP")), Ok(Value::Null));
    }

    #[test]
    fn claims_are_charged_by_size_and_class() {
        let gold = "gold.storageclass.storage.k8s.io/requests.storage";
        let source = source(
            json!({"requests.storage": "2Gi", "persistentvolumeclaims": "1", gold: "1Gi"}),
            json!({"requests.storage": "0", "persistentvolumeclaims": "0", gold: "0"}),
            json!({}),
        );
        let claim = |class: &str, size: &str| json!({"spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}});
        let refuse =
            |class: &str, size: &str| create(&source, "persistentvolumeclaims", claim(class, size)).unwrap_err();
        assert!(refuse("manual", "3Gi").ends_with(
            "exceeded quota: q, requested: requests.storage=3Gi, used: requests.storage=0, limited: requests.storage=2Gi"
        ));
        assert!(
            refuse("gold", "1500Mi")
                .contains(&format!("requested: {gold}=1500Mi, used: {gold}=0, limited: {gold}=1Gi"))
        );
        assert_eq!(
            create(&source, "persistentvolumeclaims", claim("manual", "1Gi")).unwrap(),
            json!({"requests.storage": "1Gi", "persistentvolumeclaims": "1", gold: "0"})
        );
    }

    #[test]
    fn claims_to_devices_are_charged_by_class() {
        let (gold, tin) = ("gold.deviceclass.resource.k8s.io/devices", "tin.deviceclass.resource.k8s.io/devices");
        let count = "count/resourceclaims.resource.k8s.io";
        let source =
            source(json!({gold: "4", tin: "40", count: "2"}), json!({gold: "1", tin: "0", count: "1"}), json!({}));
        let exactly =
            |class: &str, count: i64| json!({"deviceClassName": class, "allocationMode": "ExactCount", "count": count});
        let all = json!({"deviceClassName": "tin", "allocationMode": "All"});
        let user = UserInfo::default();
        let used = |operation, requests: Value, old: Option<&Value>| {
            let claim = json!({"metadata": {"name": "a"}, "spec": {"devices": {"requests": requests}}});
            let mut request = request(operation, "resource.k8s.io", "resourceclaims", &user);
            request.old = old;
            let charges = check(&request, &claim, &source).map_err(|status| status.message)?;
            Ok::<Value, String>(charges.first().map_or(Value::Null, |charge| charge.new["status"]["used"].clone()))
        };
        let both =
            json!([{"exactly": exactly("gold", 2)}, {"firstAvailable": [exactly("gold", 1), all, exactly("tin", 3)]}]);
        assert_eq!(used(Operation::Create, both.clone(), None).unwrap(), json!({gold: "4", tin: "32", count: "2"}));
        assert_eq!(
            used(Operation::Create, json!([{"exactly": exactly("gold", 4)}]), None).unwrap_err(),
            format!(
                "resourceclaims.resource.k8s.io \"a\" is forbidden: exceeded quota: q, requested: {gold}=4, used: {gold}=1, \
                 limited: {gold}=4"
            )
        );
        let old = json!({"spec": {"devices": {"requests": both}}});
        assert_eq!(used(Operation::Update, both, Some(&old)).unwrap(), Value::Null);
    }

    #[test]
    fn containers_must_say_what_is_limited() {
        let source =
            source(json!({"cpu": "1", "limits.memory": "1Gi"}), json!({"cpu": "0", "limits.memory": "0"}), json!({}));
        let pod = |resources: Value| json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
        assert_eq!(
            create(&source, "pods", pod(json!({}))).unwrap_err(),
            "pods \"a\" is forbidden: failed quota: q: must specify cpu for: c; limits.memory for: c"
        );
        let fits = pod(json!({"requests": {"cpu": "250m"}, "limits": {"memory": "1Mi"}}));
        assert_eq!(create(&source, "pods", fits).unwrap(), json!({"cpu": "250m", "limits.memory": "1Mi"}));
        let exceeds = pod(json!({"requests": {"cpu": "2"}, "limits": {"memory": "1Mi"}}));
        assert_eq!(
            create(&source, "pods", exceeds).unwrap_err(),
            "pods \"a\" is forbidden: exceeded quota: q, requested: cpu=2, used: cpu=0, limited: cpu=1"
        );
    }

    #[test]
    fn a_quota_counts_only_pods_in_its_scopes() {
        let scopes = json!({"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}});
        let source = source(json!({"pods": "0"}), json!({"pods": "0"}), scopes);
        assert_eq!(create(&source, "pods", json!({"spec": {"priorityClassName": "low"}})), Ok(Value::Null));
        assert!(create(&source, "pods", json!({"spec": {"priorityClassName": "high"}})).is_err());
    }

    #[test]
    fn a_quota_without_usage_is_waited_for() {
        let source = source(json!({"configmaps": "5", "count/configmaps": "5"}), json!({"configmaps": "1"}), json!({}));
        assert_eq!(
            create(&source, "configmaps", json!({})).unwrap_err(),
            "configmaps \"a\" is forbidden: status unknown for quota: q, resources: configmaps,count/configmaps"
        );
    }

    #[test]
    fn an_update_is_charged_for_what_it_adds() {
        let source = source(json!({"services.nodeports": "1"}), json!({"services.nodeports": "0"}), json!({}));
        let user = UserInfo::default();
        let service = |kind: &str| json!({"metadata": {"name": "a"}, "spec": {"type": kind, "ports": [{"port": 80}]}});
        let (old, new) = (service("ClusterIP"), service("NodePort"));
        let mut update = request(Operation::Update, "", "services", &user);
        update.old = Some(&old);
        assert_eq!(check(&update, &new, &source).unwrap()[0].new["status"]["used"], json!({"services.nodeports": "1"}));
        update.old = Some(&new);
        assert_eq!(check(&update, &new, &source), Ok(vec![]));
    }

    #[test]
    fn a_pod_that_gets_a_deadline_is_charged_to_other_quotas() {
        let user = UserInfo::default();
        let pod = |spec: Value| json!({"metadata": {"name": "a"}, "spec": spec});
        let (endless, ending) = (pod(json!({})), pod(json!({"activeDeadlineSeconds": 60})));
        let used = |scope: &str, old: &Value, new: &Value| {
            let source = source(json!({"pods": "1"}), json!({"pods": "0"}), json!({"scopes": [scope]}));
            let mut update = request(Operation::Update, "", "pods", &user);
            update.old = Some(old);
            check(&update, new, &source).unwrap().first().map(|charge| charge.new["status"]["used"].clone())
        };
        assert_eq!(used("Terminating", &endless, &ending), Some(json!({"pods": "1"})));
        assert_eq!(used("NotTerminating", &endless, &ending), None);
        assert_eq!(used("NotTerminating", &ending, &endless), Some(json!({"pods": "1"})));
        assert_eq!(used("Terminating", &ending, &ending), None);
    }
}
