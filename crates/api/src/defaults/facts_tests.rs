//! Every row of the fact table of defaults, tried on an object of the kind that it is about. A row that nobody placed fails.

use crate::{Value, json};

use super::tests::defaulted;

/// Where a row's type stands: the row's type, field and condition (`*` for any; the last may be the row's group and version
/// instead), then the kind of the object that is sent, the object, where the type is in it (`=` and where the field is, if the
/// field has words in it), and what the field holds afterwards if the row says that in words.
type Place = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

const POD: &str = r#"{"spec":{"containers":[{"name":"c","image":"i:1"}]}}"#;
const VOLUMES: &str = r#"{"spec":{"containers":[{"name":"c","image":"i:1"}],"volumes":[
    {"name":"none"}, {"name":"s","secret":{"secretName":"a"}}, {"name":"c","configMap":{"name":"a"}},
    {"name":"d","downwardAPI":{"items":[{"path":"p","fieldRef":{"fieldPath":"metadata.name"}}]}},
    {"name":"p","projected":{"sources":[{"serviceAccountToken":{"path":"t"}}]}}, {"name":"h","hostPath":{"path":"/"}},
    {"name":"i","iscsi":{"targetPortal":"a","iqn":"i","lun":0}}, {"name":"r","rbd":{"monitors":["m"],"image":"i"}},
    {"name":"z","azureDisk":{"diskName":"a","diskURI":"u"}},
    {"name":"x","scaleIO":{"gateway":"g","system":"s","secretRef":{"name":"a"}}},
    {"name":"e","ephemeral":{"volumeClaimTemplate":{"spec":{}}}}, {"name":"o","image":{"reference":"i:1"}}]}}"#;
const PROBES: &str = r#"{"spec":{"containers":[{"name":"c","image":"i:1","livenessProbe":{"httpGet":{"port":1}},
    "readinessProbe":{"grpc":{"port":1}},"ports":[{"containerPort":80}],
    "env":[{"name":"a","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}},
    {"name":"b","valueFrom":{"fileKeyRef":{"volumeName":"v","path":"p","key":"k"}}}]}],"hostNetwork":true}}"#;
const RESOURCES: &str = r#"{"spec":{"resources":{"limits":{"cpu":"2","hugepages-2Mi":"4Mi"}},
    "containers":[{"name":"c","image":"i:1","resources":{"limits":{"memory":"1.0001"},"requests":{"cpu":"1"}}}]}}"#;
const HUGE: &str = r#"{"spec":{"resources":{"limits":{"cpu":"2"}},
    "containers":[{"name":"c","image":"i:1","resources":{"limits":{"hugepages-2Mi":"4Mi"},"requests":{"hugepages-2Mi":"4Mi"}}}]}}"#;
const LATEST: &str = r#"{"spec":{"containers":[{"name":"c","image":"i"}]}}"#;
const LOAD_BALANCER: &str = r#"{"spec":{"type":"LoadBalancer","sessionAffinity":"ClientIP","ports":[{"port":80}]},
    "status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}"#;
const SERVICE: &str = r#"{"spec":{"ports":[{"port":80}],"sessionAffinityConfig":{"clientIP":{"timeoutSeconds":1}}}}"#;
const TEMPLATE: &str = r#"{"spec":{"template":{"metadata":{"labels":{"a":"b"}},
    "spec":{"containers":[{"name":"c","image":"i:1"}]}}}}"#;
const STATEFUL: &str = r#"{"spec":{"serviceName":"s","selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},
    "spec":{"containers":[{"name":"c","image":"i:1"}]}},"volumeClaimTemplates":[{"spec":{}}]}}"#;
const WORKLOAD: &str = r#"{"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},
    "spec":{"containers":[{"name":"c","image":"i:1"}]}}}}"#;
const RANGE: &str = r#"{"spec":{"limits":[{"type":"Container","max":{"cpu":"2"},"min":{"memory":"1Mi"}}]}}"#;
const JOB_PER_INDEX: &str = r#"{"spec":{"backoffLimitPerIndex":1,"podFailurePolicy":{"rules":[{"action":"Ignore",
    "onPodConditions":[{"type":"DisruptionTarget"}]}]},"template":{"metadata":{"labels":{"a":"b"}},
    "spec":{"containers":[{"name":"c","image":"i:1"}]}}}}"#;
const CRON: &str =
    r#"{"spec":{"schedule":"* * * * *","jobTemplate":{"spec":{"template":{"spec":{"containers":[]}}}}}}"#;
const BEHAVIOR: &str = r#"{"spec":{"scaleTargetRef":{"kind":"D","name":"a"},"maxReplicas":2,
    "behavior":{"scaleUp":{},"scaleDown":{}}}}"#;
const WEBHOOKS: &str = r#"{"webhooks":[{"name":"a","rules":[{"operations":["*"]}],
    "clientConfig":{"service":{"namespace":"n","name":"a"}}}]}"#;
const POLICY: &str = r#"{"spec":{"matchConstraints":{}}}"#;
const LEVEL: &str = r#"{"spec":{"type":"Limited","limited":{"limitResponse":{"type":"Queue","queuing":{}}}}}"#;
const DEVICES: &str = r#"{"spec":{"devices":{"requests":[{"name":"a","exactly":{"deviceClassName":"d",
    "tolerations":[{"key":"k"}]}},{"name":"b","firstAvailable":[{"name":"s","deviceClassName":"d"}]}]}}}"#;
const SLICE: &str = r#"{"spec":{"driver":"d","pool":{"name":"p","generation":1,"resourceSliceCount":1},
    "devices":[{"name":"a","taints":[{"key":"k","effect":"NoSchedule"}]}]}}"#;
const DEFINITION: &str = r#"{"spec":{"group":"g.example.com","scope":"Namespaced","names":{"plural":"as","kind":"Abc"},
    "versions":[{"name":"v1","served":true,"storage":true}]}}"#;
const CONVERTED: &str = r#"{"spec":{"group":"g.example.com","scope":"Namespaced","names":{"plural":"as","kind":"Abc"},
    "versions":[{"name":"v1","served":true,"storage":true}],"conversion":{"strategy":"Webhook",
    "webhook":{"clientConfig":{"service":{"namespace":"n","name":"a"}}}}}}"#;
const NETWORK: &str = r#"{"spec":{"podSelector":{},"egress":[{"ports":[{"port":1}]}]}}"#;
const SUBJECTS: &str = r#"{"roleRef":{"kind":"Role","name":"a"},
    "subjects":[{"kind":"User","name":"a"},{"kind":"ServiceAccount","name":"a","namespace":"n"}]}"#;

#[rustfmt::skip] // A row a line.
const PLACES: &[Place] = &[
    ("*", "ResourceList values", "*", "v1/Pod", RESOURCES, "=/spec/containers/0/resources/limits/memory", "\"1001m\""),
    ("Pod", "spec.(init)containers[*].resources.requests[k]", "*", "v1/Pod", RESOURCES, "=/spec/containers/0/resources/requests", r#"{"cpu":"1","memory":"1001m"}"#),
    ("Pod", "spec.resources.requests[k]", "*", "v1/Pod", RESOURCES, "=/spec/resources/requests/cpu", "\"1\""),
    ("Pod", "spec.resources.limits[hugepages-*]", "*", "v1/Pod", HUGE, "=/spec/resources/limits/hugepages-2Mi", "\"4Mi\""),
    ("Pod", "spec.enableServiceLinks", "*", "v1/Pod", POD, "", ""),
    ("Pod", "spec.(init)containers[*].ports[*].hostPort", "*", "v1/Pod", PROBES, "=/spec/containers/0/ports/0/hostPort", "80"),
    ("PodSpec", "*", "unset; applies in every pod template too", "apps/v1/ReplicaSet", WORKLOAD, "/spec/template/spec", ""),
    ("Container,EphemeralContainer,initContainer", "imagePullPolicy", "image tag latest or no tag and no digest", "v1/Pod", LATEST, "/spec/containers/0", ""),
    ("Container,EphemeralContainer,initContainer", "*", "*", "v1/Pod", POD, "/spec/containers/0", ""),
    ("ContainerPort", "*", "*", "v1/Pod", PROBES, "/spec/containers/0/ports/0", ""),
    ("ServicePort", "*", "*", "v1/Service", SERVICE, "/spec/ports/0", ""),
    ("EndpointPort", "protocol", "*", "v1/Endpoints", r#"{"subsets":[{"addresses":[{"ip":"192.0.2.1"}],"ports":[{"port":1}]}]}"#, "/subsets/0/ports/0", ""),
    ("Probe", "*", "*", "v1/Pod", PROBES, "/spec/containers/0/livenessProbe", ""),
    ("HTTPGetAction", "*", "*", "v1/Pod", PROBES, "/spec/containers/0/livenessProbe/httpGet", ""),
    ("GRPCAction", "*", "*", "v1/Pod", PROBES, "/spec/containers/0/readinessProbe/grpc", ""),
    ("ObjectFieldSelector", "*", "*", "v1/Pod", PROBES, "/spec/containers/0/env/0/valueFrom/fieldRef", ""),
    ("Volume", "*", "*", "v1/Pod", VOLUMES, "/spec/volumes/0", ""),
    ("ImageVolumeSource", "*", "*", "v1/Pod", VOLUMES, "/spec/volumes/11/image", "\"IfNotPresent\""),
    ("SecretVolumeSource", "*", "*", "v1/Pod", VOLUMES, "/spec/volumes/1/secret", ""),
    ("ConfigMapVolumeSource", "*", "*", "v1/Pod", VOLUMES, "/spec/volumes/2/configMap", ""),
    ("DownwardAPIVolumeSource", "*", "*", "v1/Pod", VOLUMES, "/spec/volumes/3/downwardAPI", ""),
    ("ProjectedVolumeSource", "*", "*", "v1/Pod", VOLUMES, "/spec/volumes/4/projected", ""),
    ("ServiceAccountTokenProjection", "*", "*", "v1/Pod", VOLUMES, "/spec/volumes/4/projected/sources/0/serviceAccountToken", ""),
    ("HostPathVolumeSource", "*", "*", "v1/Pod", VOLUMES, "/spec/volumes/5/hostPath", ""),
    ("ISCSI(Persistent)VolumeSource", "*", "*", "v1/Pod", VOLUMES, "/spec/volumes/6/iscsi", ""),
    ("RBD(Persistent)VolumeSource", "*", "*", "v1/Pod", VOLUMES, "/spec/volumes/7/rbd", ""),
    ("AzureDiskVolumeSource", "*", "*", "v1/Pod", VOLUMES, "/spec/volumes/8/azureDisk", ""),
    ("ScaleIO(Persistent)VolumeSource", "*", "*", "v1/Pod", VOLUMES, "/spec/volumes/9/scaleIO", ""),
    ("FileKeySelector", "*", "*", "v1/Pod", PROBES, "/spec/containers/0/env/1/valueFrom/fileKeyRef", ""),
    ("Volume.ephemeral.volumeClaimTemplate.spec", "*", "*", "v1/Pod", VOLUMES, "/spec/volumes/10/ephemeral/volumeClaimTemplate/spec", ""),
    ("ReplicationController", "spec.replicas", "*", "v1/ReplicationController", TEMPLATE, "", ""),
    ("ReplicationController", "*", "*", "v1/ReplicationController", TEMPLATE, "", r#"{"a":"b"}"#),
    ("Service", "spec.sessionAffinityConfig", "*", "v1/Service", SERVICE, "", "null"),
    ("Service", "spec.sessionAffinityConfig.clientIP.timeoutSeconds", "*", "v1/Service", LOAD_BALANCER, "", ""),
    ("Service", "spec.ports[*].targetPort", "*", "v1/Service", SERVICE, "", "80"),
    ("Service", "spec.externalTrafficPolicy", "*", "v1/Service", LOAD_BALANCER, "", ""),
    ("Service", "spec.allocateLoadBalancerNodePorts", "*", "v1/Service", LOAD_BALANCER, "", ""),
    ("Service", "status.loadBalancer.ingress[*].ipMode", "*", "v1/Service", LOAD_BALANCER, "", ""),
    ("Service", "*", "*", "v1/Service", SERVICE, "", ""),
    ("Secret", "*", "*", "v1/Secret", "{}", "", ""),
    ("ConfigMap", "data", "*", "v1/ConfigMap", "{}", "", "null"),
    ("PersistentVolume", "*", "*", "v1/PersistentVolume", r#"{"spec":{}}"#, "", ""),
    ("PersistentVolumeClaim", "*", "*", "v1/PersistentVolumeClaim", r#"{"spec":{}}"#, "", ""),
    ("Namespace", "metadata.labels[kubernetes.io/metadata.name]", "*", "v1/Namespace", r#"{"metadata":{"name":"a"}}"#, "=/metadata/labels/kubernetes.io~1metadata.name", "\"a\""),
    ("Namespace", "*", "*", "v1/Namespace", "{}", "", ""),
    ("Node", "status.allocatable", "*", "v1/Node", r#"{"status":{"capacity":{"cpu":"1"}}}"#, "", r#"{"cpu":"1"}"#),
    ("LimitRange", "spec.limits[type=Container].default[k]", "*", "v1/LimitRange", RANGE, "=/spec/limits/0/default", r#"{"cpu":"2"}"#),
    ("LimitRange", "spec.limits[type=Container].defaultRequest[k]", "*", "v1/LimitRange", RANGE, "=/spec/limits/0/defaultRequest", r#"{"cpu":"2","memory":"1Mi"}"#),
    ("Deployment", "*", "*", "apps/v1/Deployment", WORKLOAD, "", ""),
    ("DaemonSet", "*", "*", "apps/v1/DaemonSet", WORKLOAD, "", ""),
    ("StatefulSet", "spec.updateStrategy.type", "*", "apps/v1/StatefulSet", STATEFUL, "=/spec/updateStrategy", r#"{"type":"RollingUpdate","rollingUpdate":{"partition":0}}"#),
    ("StatefulSet", "*", "*", "apps/v1/StatefulSet", STATEFUL, "", ""),
    ("ReplicaSet", "*", "*", "apps/v1/ReplicaSet", WORKLOAD, "", ""),
    ("Job", "spec.backoffLimit", "nil and backoffLimitPerIndex set", "batch/v1/Job", JOB_PER_INDEX, "", ""),
    ("Job", "spec.podReplacementPolicy", "podFailurePolicy set", "batch/v1/Job", JOB_PER_INDEX, "", ""),
    ("Job", "spec.podFailurePolicy.rules[*].onPodConditions[*].status", "*", "batch/v1/Job", JOB_PER_INDEX, "", ""),
    ("Job", "metadata.labels", "*", "batch/v1/Job", TEMPLATE, "", r#"{"a":"b"}"#),
    ("Job", "*", "*", "batch/v1/Job", TEMPLATE, "", ""),
    ("CronJob", "*", "*", "batch/v1/CronJob", CRON, "", ""),
    ("HorizontalPodAutoscaler", "spec.minReplicas", "*", "autoscaling/v2/HorizontalPodAutoscaler", BEHAVIOR, "", ""),
    ("HorizontalPodAutoscaler", "spec.metrics", "*", "autoscaling/v2/HorizontalPodAutoscaler", BEHAVIOR, "", r#"[{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":80}}}]"#),
    ("HorizontalPodAutoscaler", "spec.behavior.scaleUp", "*", "autoscaling/v2/HorizontalPodAutoscaler", BEHAVIOR, "", r#"{"stabilizationWindowSeconds":0,"selectPolicy":"Max","policies":[{"type":"Pods","value":4,"periodSeconds":15},{"type":"Percent","value":100,"periodSeconds":15}]}"#),
    ("HorizontalPodAutoscaler", "spec.behavior.scaleDown", "*", "autoscaling/v2/HorizontalPodAutoscaler", BEHAVIOR, "", r#"{"selectPolicy":"Max","policies":[{"type":"Percent","value":100,"periodSeconds":15}]}"#),
    ("ValidatingWebhook", "*", "*", "admissionregistration.k8s.io/v1/ValidatingWebhookConfiguration", WEBHOOKS, "/webhooks/0", ""),
    ("MutatingWebhook", "*", "*", "admissionregistration.k8s.io/v1/MutatingWebhookConfiguration", WEBHOOKS, "/webhooks/0", ""),
    ("Rule", "*", "*", "admissionregistration.k8s.io/v1/ValidatingWebhookConfiguration", WEBHOOKS, "/webhooks/0/rules/0", ""),
    ("ValidatingAdmissionPolicySpec", "*", "*", "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy", POLICY, "/spec", ""),
    ("MutatingAdmissionPolicySpec", "*", "*", "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy", POLICY, "/spec", ""),
    ("MatchResources", "*", "*", "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicyBinding", r#"{"spec":{"matchResources":{}}}"#, "/spec/matchResources", ""),
    ("EndpointPort", "name", "*", "discovery.k8s.io/v1/EndpointSlice", r#"{"addressType":"IPv4","endpoints":[],"ports":[{"port":1}]}"#, "/ports/0", ""),
    ("FlowSchemaSpec", "*", "*", "flowcontrol.apiserver.k8s.io/v1/FlowSchema", r#"{"spec":{"priorityLevelConfiguration":{"name":"a"}}}"#, "/spec", ""),
    ("ExemptPriorityLevelConfiguration", "*", "*", "flowcontrol.apiserver.k8s.io/v1/PriorityLevelConfiguration", r#"{"spec":{"type":"Exempt","exempt":{}}}"#, "/spec/exempt", ""),
    ("LimitedPriorityLevelConfiguration", "*", "*", "flowcontrol.apiserver.k8s.io/v1/PriorityLevelConfiguration", LEVEL, "/spec/limited", ""),
    ("QueuingConfiguration", "*", "*", "flowcontrol.apiserver.k8s.io/v1/PriorityLevelConfiguration", LEVEL, "/spec/limited/limitResponse/queuing", ""),
    ("NetworkPolicyPort", "*", "*", "networking.k8s.io/v1/NetworkPolicy", NETWORK, "/spec/egress/0/ports/0", ""),
    ("NetworkPolicy", "spec.policyTypes", "*", "networking.k8s.io/v1/NetworkPolicy", NETWORK, "", r#"["Ingress","Egress"]"#),
    ("IngressClass", "*", "*", "networking.k8s.io/v1/IngressClass", r#"{"spec":{"controller":"c","parameters":{"kind":"K","name":"a"}}}"#, "", ""),
    ("RoleBinding,ClusterRoleBinding", "*", "*", "rbac.authorization.k8s.io/v1/ClusterRoleBinding", SUBJECTS, "", ""),
    ("Subject", "*", "kind ServiceAccount", "rbac.authorization.k8s.io/v1/RoleBinding", SUBJECTS, "/subjects/1", "null"),
    ("Subject", "*", "kind User|Group", "rbac.authorization.k8s.io/v1/RoleBinding", SUBJECTS, "/subjects/0", ""),
    ("ExactDeviceRequest", "*", "*", "resource.k8s.io/v1/ResourceClaim", DEVICES, "/spec/devices/requests/0/exactly", ""),
    ("DeviceSubRequest", "*", "*", "resource.k8s.io/v1/ResourceClaim", DEVICES, "/spec/devices/requests/1/firstAvailable/0", ""),
    ("DeviceToleration", "*", "*", "resource.k8s.io/v1/ResourceClaim", DEVICES, "/spec/devices/requests/0/exactly/tolerations/0", ""),
    ("DeviceTaint", "*", "*", "resource.k8s.io/v1/ResourceSlice", SLICE, "/spec/devices/0/taints/0", "\"2026-01-02T03:04:05Z\""),
    ("PriorityClass", "*", "*", "scheduling.k8s.io/v1/PriorityClass", r#"{"value":1}"#, "", ""),
    ("StorageClass", "*", "*", "storage.k8s.io/v1/StorageClass", r#"{"provisioner":"p"}"#, "", ""),
    ("CSIDriver", "*", "*", "storage.k8s.io/v1/CSIDriver", r#"{"spec":{}}"#, "", ""),
    ("CustomResourceDefinition", "spec.names.singular", "*", "apiextensions.k8s.io/v1/CustomResourceDefinition", DEFINITION, "", "\"abc\""),
    ("CustomResourceDefinition", "spec.names.listKind", "*", "apiextensions.k8s.io/v1/CustomResourceDefinition", DEFINITION, "", "\"AbcList\""),
    ("CustomResourceDefinition", "spec.conversion", "*", "apiextensions.k8s.io/v1/CustomResourceDefinition", DEFINITION, "", r#"{"strategy":"None"}"#),
    ("ServiceReference", "port", "apiextensions.k8s.io/v1", "apiextensions.k8s.io/v1/CustomResourceDefinition", CONVERTED, "/spec/conversion/webhook/clientConfig/service", ""),
    ("ServiceReference", "port", "apiregistration.k8s.io/v1", "apiregistration.k8s.io/v1/APIService", r#"{"spec":{"service":{"namespace":"n","name":"a"},"groupPriorityMinimum":1,"versionPriority":1}}"#, "/spec/service", ""),
    ("ServiceReference", "port", "admissionregistration.k8s.io/v1", "admissionregistration.k8s.io/v1/ValidatingWebhookConfiguration", WEBHOOKS, "/webhooks/0/clientConfig/service", ""),
];

/// Rows that are not about defaulting of objects, with what has them instead.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("Service", "spec.clusterIP/clusterIPs/ipFamilies/ipFamilyPolicy/nodePort/healthCheckNodePort", "allocation"),
    ("PodLogOptions", "stream", "options of a gate that is off"),
    ("StatefulSet", "spec.updateStrategy.rollingUpdate.maxUnavailable", "a gate that is off"),
    ("StatefulSet", "spec.volumeClaimTemplates[*].status.phase", "cleared before it is stored"),
    ("TokenRequest", "spec.expirationSeconds", "the subresource that gives tokens"),
    ("Scale", "spec.replicas", "an absent number is zero"),
    ("Device", "nodeAllocatableResourceMappings[*].allocationMultiplier", "a gate that is off"),
    ("CSIDriver", "spec.preventPodSchedulingIfMissing", "a gate that is off"),
    ("CustomResourceDefinition", "status.storedVersions", "the strategy"),
];

fn place_of(type_name: &str, field: &str, condition: &str, group_version: &str) -> Option<&'static Place> {
    let fits = |pattern: &str, text: &str| pattern == "*" || pattern == text;
    PLACES.iter().find(|(t, f, c, ..)| *t == type_name && fits(f, field) && (fits(c, condition) || *c == group_version))
}

/// A default as the table writes it: `420 (0644)`, `true`, `""`, `{}`, `[Persistent]`, `Always`.
fn literal(text: &str) -> Value {
    let text = text.split(" (").next().unwrap_or(text);
    if let Some(items) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return items.split(',').map(Value::from).collect();
    }
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

#[test]
fn every_default_of_the_fact_table_is_filled_in() {
    let Some(table) = crate::golden::shared_text("facts/defaults.tsv") else { return };
    let mut wrong = Vec::new();
    for row in table.lines().skip(1) {
        let cells: Vec<&str> = row.split('\t').collect();
        let (group_version, type_name, field, default) = (cells[0], cells[1], cells[2], cells[3]);
        let condition = cells.get(4).copied().unwrap_or_default();
        let is_elsewhere = ELSEWHERE.iter().any(|(t, f, _)| *t == type_name && *f == field);
        if is_elsewhere || group_version == "(conversion)" {
            continue;
        }
        let Some((_, _, _, kind, sent, at, expected)) = place_of(type_name, field, condition, group_version) else {
            wrong.push(format!("{type_name} {field}: no place"));
            continue;
        };
        let (group_version, kind) = kind.rsplit_once('/').expect("a kind");
        let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
        let sent: Value = serde_json::from_str(sent).expect("json");
        let object = defaulted(group, version, kind, &sent);
        let pointer = match at.strip_prefix('=') {
            Some(whole) => whole.to_owned(),
            None => format!("{at}/{}", field.replace("[*]", ".0").replace('.', "/")),
        };
        let found = object.pointer(&pointer).cloned().unwrap_or_default();
        let wanted = if expected.is_empty() { literal(default) } else { serde_json::from_str(expected).expect("json") };
        if found != wanted {
            wrong.push(format!("{type_name} {field} ({condition}): {pointer} is {found}, not {wanted}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn literals_are_read_as_the_table_writes_them() {
    assert_eq!(literal("420 (0644)"), json!(420));
    assert_eq!(literal("\"\" (pointer to empty string)"), json!(""));
    assert_eq!(literal("[Persistent]"), json!(["Persistent"]));
    assert_eq!(literal("ClusterFirst"), json!("ClusterFirst"));
}
