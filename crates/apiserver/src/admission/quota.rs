//! ResourceQuota: what a write would use of its namespace's quotas, whether that is left, and the quotas as they are after it.
//!
//! Nothing is reserved here. The caller writes the changed quotas (their `status.used`) on condition that they are what was
//! read; when one is not, it asks again. Only then is the object itself written. A charge that turns out too high (the write
//! failed later) is corrected by the quota controller.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use api::amounts::of_list;
use api::quantity::Quantity;
use api::quota::{self, DEVICES_SUFFIX, Usage};
use api::{Status, Value, json, meta};

use super::{Operation, Request, items};
use crate::source::ObjectSource;

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

/// Core resources that may be counted by their bare name.
const COUNTED_BY_NAME: [&str; 6] =
    ["pods", "services", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas", "secrets"];

/// Does the write fit into the quotas of its namespace? A dry run is checked and charges nothing.
pub fn check(request: &Request<'_>, object: &Value, source: &dyn ObjectSource) -> Result<Vec<Charge>, Status> {
    let Some(kind) = Kind::of(request, object) else { return Ok(Vec::new()) };
    let quotas = source.list("", "resourcequotas", request.namespace);
    if quotas.is_empty() {
        return Ok(Vec::new());
    }
    let mut interesting: Vec<(Value, Usage)> = Vec::new();
    let classes = if kind == Kind::Devices { DeviceClasses::of(source) } else { DeviceClasses::default() };
    let namespace = Namespace { name: request.namespace, classes: &classes, source };
    let usage = kind.usage(request, object, &namespace);
    for quota in quotas.iter().filter_map(|stored| stored.parse()) {
        let hard = of_list(&quota["status"]["hard"]);
        let restricted: BTreeSet<&str> =
            hard.keys().map(String::as_str).filter(|name| kind.counts(request, name, &classes)).collect();
        let concerns = of_list(&quota["spec"]["hard"]).keys().any(|name| kind.counts(request, name, &classes))
            || !restricted.is_empty();
        if !concerns || !kind.in_scopes(&quota, object) {
            continue;
        }
        let name = meta::name(&quota).to_owned();
        kind.constraints(object, &restricted)
            .map_err(|text| request.forbidden(object, &format!("failed quota: {name}: {text}")))?;
        let used = of_list(&quota["status"]["used"]);
        if restricted.iter().any(|resource| !used.contains_key(*resource)) {
            let names: Vec<&str> = restricted.into_iter().collect();
            let text = format!("status unknown for quota: {name}, resources: {}", names.join(","));
            return Err(request.forbidden(object, &text));
        }
        let delta =
            match request.old.filter(|old| request.operation == Operation::Update && kind.in_scopes(&quota, old)) {
                Some(old) => increase(&usage, &kind.usage(request, old, &namespace)),
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
    let hard = of_list(&quota["status"]["hard"]);
    let requested: Usage =
        delta.into_iter().filter(|(name, amount)| !amount.is_zero() && hard.contains_key(name)).collect();
    if requested.is_empty() {
        return Ok(None);
    }
    let used = of_list(&quota["status"]["used"]);
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

/// Device classes by name, each with the extended resource that it stands behind, if it names one.
#[derive(Debug, Default)]
struct DeviceClasses(BTreeMap<String, Option<String>>);

impl DeviceClasses {
    fn of(source: &dyn ObjectSource) -> Self {
        let classes = source.list("resource.k8s.io", "deviceclasses", "");
        let named = classes.iter().filter_map(|stored| {
            let class = source.parsed(stored)?;
            let resource = class["spec"]["extendedResourceName"].as_str().map(str::to_owned);
            Some((stored.name.clone(), resource))
        });
        Self(named.collect())
    }

    fn resource(&self, class: &str) -> Option<&str> {
        self.0.get(class)?.as_deref()
    }

    /// Does a class stand behind the extended resource?
    fn are_behind(&self, resource: &str) -> bool {
        match resource.strip_prefix(quota::IMPLICIT_RESOURCE_PREFIX) {
            Some(class) => self.0.contains_key(class),
            None => self.0.values().flatten().any(|named| named == resource),
        }
    }
}

/// What else is in the namespace of a claim.
struct Namespace<'a> {
    name: &'a str,
    classes: &'a DeviceClasses,
    source: &'a dyn ObjectSource,
}

impl Namespace<'_> {
    /// What the pod is charged for whose extended resources the scheduler made the claim; nothing where they do not name each other.
    fn pod_behind(&self, claim: &Value) -> Usage {
        let Some((pod, uid)) = extended_owner(claim) else { return Usage::new() };
        let stored = self.source.get("", "pods", self.name, pod);
        let pod = stored.and_then(|stored| self.source.parsed(&stored)).filter(|pod| meta::uid(pod) == uid);
        let Some(pod) = pod else { return Usage::new() };
        let named = pod["status"]["extendedResourceClaimStatus"]["resourceClaimName"].as_str();
        let is_meant = quota::is_meant(meta::name(claim), named, || !self.is_preceded(claim, uid));
        if is_meant { pod_usage(&pod) } else { Usage::new() }
    }

    /// Is there an older claim for the extended resources of the same pod?
    fn is_preceded(&self, claim: &Value, uid: &str) -> bool {
        let age = |claim: &Value| {
            (
                claim["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned(),
                meta::name(claim).to_owned(),
            )
        };
        let own = age(claim);
        let claims = self.source.list("resource.k8s.io", "resourceclaims", self.name);
        let mut others = claims.iter().filter_map(|stored| self.source.parsed(stored));
        others.any(|other| extended_owner(&other).is_some_and(|(_, owner)| owner == uid) && age(&other) < own)
    }
}

/// Name and UID of the pod for whose extended resources the scheduler made the claim.
fn extended_owner(claim: &Value) -> Option<(&str, &str)> {
    if claim["metadata"]["annotations"][quota::EXTENDED_CLAIM_ANNOTATION] != "true" {
        return None;
    }
    let owner = items(&claim["metadata"], "ownerReferences").find(|owner| owner["controller"] == true)?;
    let is_pod = owner["kind"] == "Pod" && owner["apiVersion"] == "v1";
    is_pod.then_some((owner["name"].as_str()?, owner["uid"].as_str()?))
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
    fn counts(self, request: &Request<'_>, name: &str, classes: &DeviceClasses) -> bool {
        let by_name = request.group.is_empty()
            && name == request.resource
            && (COUNTED_BY_NAME.contains(&name) || name == "configmaps");
        by_name
            || name == Self::count_name(request)
            || match self {
                Self::Pod => quota::is_of_pods(name),
                Self::Service => matches!(name, "services.nodeports" | "services.loadbalancers"),
                Self::Claim => name == "requests.storage" || name.contains(".storageclass.storage.k8s.io/"),
                Self::Devices => {
                    let is_behind = |resource| classes.are_behind(resource);
                    name.ends_with(DEVICES_SUFFIX) || name.strip_prefix("requests.").is_some_and(is_behind)
                }
                Self::Counted => false,
            }
    }

    fn usage(self, request: &Request<'_>, object: &Value, namespace: &Namespace<'_>) -> Usage {
        let mut usage = Usage::from([(Self::count_name(request), quota::count(1))]);
        if request.group.is_empty() {
            usage.insert(request.resource.to_owned(), quota::count(1));
        }
        match self {
            Self::Pod => usage.extend(pod_usage(object)),
            Self::Service => usage.extend(service_usage(object)),
            Self::Claim => usage.extend(claim_usage(object)),
            Self::Devices => {
                let mut devices = device_usage(object);
                let of_pod = namespace.pod_behind(object);
                quota::add_extended(&mut devices, &of_pod, |class| namespace.classes.resource(class));
                usage.extend(devices);
            }
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
            let said = quota::compute(&of_list(&resources["requests"]), &of_list(&resources["limits"]));
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

fn is_best_effort(pod: &Value) -> bool {
    const LISTS: [&str; 2] = ["containers", "initContainers"];
    let says_nothing = |resources: &Value| {
        let has = |field: &str| {
            let list = of_list(&resources[field]);
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

fn pod_usage(pod: &Value) -> Usage {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let held: HashMap<&str, &Value> = ["initContainerStatuses", "containerStatuses"]
        .into_iter()
        .flat_map(|list| items(status, list))
        .filter_map(|status| Some((status["name"].as_str()?, status)))
        .filter(|(_, status)| !status["resources"].is_null())
        .collect();
    let container = |container: &Value| quota::Container {
        requests: of_list(&container["resources"]["requests"]),
        limits: of_list(&container["resources"]["limits"]),
        is_sidecar: container["restartPolicy"] == "Always",
        held: container["name"].as_str().and_then(|name| held.get(name)).map(|status| quota::Held {
            requests: of_list(&status["resources"]["requests"]),
            limits: of_list(&status["resources"]["limits"]),
            allocated: of_list(&status["allocatedResources"]),
        }),
    };
    let pending = items(status, "conditions").find(|condition| condition["type"] == "PodResizePending");
    let pod = quota::Pod {
        containers: items(spec, "containers").map(container).collect(),
        init_containers: items(spec, "initContainers").map(container).collect(),
        requests: of_list(&spec["resources"]["requests"]),
        limits: of_list(&spec["resources"]["limits"]),
        overhead: of_list(&spec["overhead"]),
        is_resize_infeasible: pending.is_some_and(|condition| condition["reason"] == "Infeasible"),
    };
    pod.usage()
}

fn service_usage(service: &Value) -> Usage {
    let spec = &service["spec"];
    let service = quota::Service {
        is_node_port: spec["type"] == "NodePort",
        is_load_balancer: spec["type"] == "LoadBalancer",
        allocates_node_ports: spec["allocateLoadBalancerNodePorts"] != false,
        n_ports: items(spec, "ports").len(),
        n_node_ports: items(spec, "ports").filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count(),
    };
    service.usage()
}

fn claim_usage(claim: &Value) -> Usage {
    let annotated = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    let class = annotated.or(claim["spec"]["storageClassName"].as_str()).unwrap_or_default();
    let amount = |list: &Value| Quantity::from_value(&list["storage"]).ok();
    quota::storage(
        class,
        amount(&claim["spec"]["resources"]["requests"]),
        amount(&claim["status"]["allocatedResources"]),
    )
}

fn device_usage(claim: &Value) -> Usage {
    let requests = items(&claim["spec"]["devices"], "requests").map(|request| {
        let alternatives = items(request, "firstAvailable").chain(request.get("exactly"));
        alternatives.map(|asked| quota::Devices {
            class: asked["deviceClassName"].as_str().unwrap_or_default(),
            mode: asked["allocationMode"].as_str().unwrap_or_default(),
            count: asked["count"].as_i64().unwrap_or(0),
        })
    });
    quota::devices(requests)
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
    fn devices_are_charged_as_extended_resources_that_their_classes_stand_behind() {
        let (implicit, named) = ("requests.deviceclass.resource.kubernetes.io/gold", "requests.example.com/gpu");
        let source = source(json!({implicit: "4", named: "4"}), json!({implicit: "0", named: "0"}), json!({}));
        let class = json!({"metadata": {"name": "gold"}, "spec": {"extendedResourceName": "example.com/gpu"}});
        source.put("resource.k8s.io", "deviceclasses", class);
        let user = UserInfo::default();
        let claim = |metadata: Value, class: &str, count: i64| {
            let exactly = json!({"deviceClassName": class, "allocationMode": "ExactCount", "count": count});
            json!({"metadata": metadata, "spec": {"devices": {"requests": [{"exactly": exactly}]}}})
        };
        let used = |claim: Value| {
            let request = request(Operation::Create, "resource.k8s.io", "resourceclaims", &user);
            let charges = check(&request, &claim, &source).map_err(|status| status.message)?;
            Ok::<Value, String>(charges.first().map_or(Value::Null, |charge| charge.new["status"]["used"].clone()))
        };
        let plain = json!({"name": "a"});
        assert_eq!(used(claim(plain.clone(), "gold", 3)).unwrap(), json!({implicit: "3", named: "3"}));
        let refused = used(claim(plain.clone(), "gold", 5)).unwrap_err();
        assert!(refused.contains(&format!("exceeded quota: q, requested: {implicit}=5,{named}=5")), "{refused}");
        // Nobody counts what no class stands behind.
        assert_eq!(used(claim(plain, "tin", 9)), Ok(Value::Null));
        // The scheduler's claim for a pod that was charged already.
        let pod = |status: Value| {
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "status": status, "spec": {"containers": [
                {"name": "c", "resources": {"requests": {"example.com/gpu": "2"}}}]}})
        };
        source.put("", "pods", pod(json!({})));
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true});
        let made = |name: &str| {
            json!({"name": name, "namespace": "ns", "annotations": {"resource.kubernetes.io/extended-resource-claim": "true"},
                "creationTimestamp": "2026-01-02T03:04:05Z", "ownerReferences": [owner.clone()]})
        };
        assert_eq!(used(claim(made("b"), "gold", 3)).unwrap(), json!({implicit: "3", named: "1"}));
        // Only one claim is the pod's: the first one, or the one that its status names.
        source.put("resource.k8s.io", "resourceclaims", claim(made("a"), "gold", 1));
        assert_eq!(used(claim(made("b"), "gold", 3)).unwrap(), json!({implicit: "3", named: "3"}));
        source.put("", "pods", pod(json!({"extendedResourceClaimStatus": {"resourceClaimName": "b"}})));
        assert_eq!(used(claim(made("b"), "gold", 3)).unwrap(), json!({implicit: "3", named: "1"}));
    }

    #[test]
    fn pods_are_charged_for_devices_by_class() {
        let name = "requests.deviceclass.resource.kubernetes.io/gold";
        let source = source(json!({name: "1"}), json!({name: "0"}), json!({}));
        let pod = |n: &str| {
            json!({"spec": {"containers": [{"name": "c", "resources": {
            "requests": {"deviceclass.resource.kubernetes.io/gold": n}}}]}})
        };
        assert_eq!(create(&source, "pods", pod("1")).unwrap(), json!({name: "1"}));
        assert!(create(&source, "pods", pod("2")).unwrap_err().contains(&format!("requested: {name}=2")));
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
