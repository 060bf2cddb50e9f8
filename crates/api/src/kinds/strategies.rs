//! The list of strategies: one row per built-in kind. Kinds that are not here use [`Strategy::DEFAULT`].

use crate::Strategy;
use crate::kinds::{
    admission, apps, autoscaling, batch, certificates, configmap, customresourcedefinition, dra, endpoints, event,
    flowcontrol, limitrange, namespace, networking, node, persistentvolume, persistentvolumeclaim, pod, policy, rbac,
    replicationcontroller, resourcequota, scheduling, service, serviceaccount, storage,
};

/// Group, kind and strategy of every built-in kind that has rules of its own.
pub fn strategies() -> &'static [(&'static str, &'static str, &'static Strategy)] {
    STRATEGIES
}

static STRATEGIES: &[(&str, &str, &Strategy)] = &[
    ("", "ConfigMap", &configmap::CONFIG_MAP),
    ("", "Endpoints", &endpoints::STRATEGY),
    ("", "Event", &event::CORE),
    ("", "LimitRange", &limitrange::STRATEGY),
    ("", "Namespace", &namespace::STRATEGY),
    ("", "Node", &node::STRATEGY),
    ("", "PersistentVolume", &persistentvolume::STRATEGY),
    ("", "PersistentVolumeClaim", &persistentvolumeclaim::STRATEGY),
    ("", "Pod", &pod::STRATEGY),
    ("", "PodTemplate", &replicationcontroller::POD_TEMPLATE),
    ("", "ReplicationController", &replicationcontroller::CONTROLLER),
    ("", "ResourceQuota", &resourcequota::STRATEGY),
    ("", "Secret", &configmap::SECRET),
    ("", "Service", &service::STRATEGY),
    ("", "ServiceAccount", &serviceaccount::STRATEGY),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy", &admission::MUTATING_POLICY),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding", &admission::MUTATING_BINDING),
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration", &admission::MUTATING_WEBHOOKS),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy", &admission::VALIDATING_POLICY),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding", &admission::VALIDATING_BINDING),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration", &admission::VALIDATING_WEBHOOKS),
    ("apiregistration.k8s.io", "APIService", &admission::API_SERVICE),
    ("apiextensions.k8s.io", "CustomResourceDefinition", &customresourcedefinition::STRATEGY),
    ("apps", "ControllerRevision", &apps::CONTROLLER_REVISION),
    ("apps", "DaemonSet", &apps::DAEMON_SET),
    ("apps", "Deployment", &apps::DEPLOYMENT),
    ("apps", "ReplicaSet", &apps::REPLICA_SET),
    ("apps", "StatefulSet", &apps::STATEFUL_SET),
    ("autoscaling", "HorizontalPodAutoscaler", &autoscaling::STRATEGY),
    ("batch", "CronJob", &batch::CRON_JOB),
    ("batch", "Job", &batch::JOB),
    ("certificates.k8s.io", "CertificateSigningRequest", &certificates::STRATEGY),
    ("coordination.k8s.io", "Lease", &scheduling::LEASE),
    ("discovery.k8s.io", "EndpointSlice", &networking::ENDPOINT_SLICE),
    ("events.k8s.io", "Event", &event::EVENTS),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema", &flowcontrol::FLOW_SCHEMA),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration", &flowcontrol::PRIORITY_LEVEL),
    ("networking.k8s.io", "IPAddress", &networking::IP_ADDRESS),
    ("networking.k8s.io", "Ingress", &networking::INGRESS),
    ("networking.k8s.io", "IngressClass", &networking::INGRESS_CLASS),
    ("networking.k8s.io", "NetworkPolicy", &networking::NETWORK_POLICY),
    ("networking.k8s.io", "ServiceCIDR", &networking::SERVICE_CIDR),
    ("node.k8s.io", "RuntimeClass", &scheduling::RUNTIME_CLASS),
    ("policy", "PodDisruptionBudget", &policy::STRATEGY),
    ("rbac.authorization.k8s.io", "ClusterRole", &rbac::CLUSTER_ROLE),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", &rbac::CLUSTER_ROLE_BINDING),
    ("rbac.authorization.k8s.io", "Role", &rbac::ROLE),
    ("rbac.authorization.k8s.io", "RoleBinding", &rbac::ROLE_BINDING),
    ("resource.k8s.io", "DeviceClass", &dra::DEVICE_CLASS),
    ("resource.k8s.io", "ResourceClaim", &dra::CLAIM),
    ("resource.k8s.io", "ResourceClaimTemplate", &dra::CLAIM_TEMPLATE),
    ("resource.k8s.io", "ResourceSlice", &dra::SLICE),
    ("scheduling.k8s.io", "PriorityClass", &scheduling::PRIORITY_CLASS),
    ("storage.k8s.io", "CSIDriver", &storage::CSI_DRIVER),
    ("storage.k8s.io", "CSINode", &storage::CSI_NODE),
    ("storage.k8s.io", "CSIStorageCapacity", &storage::CSI_STORAGE_CAPACITY),
    ("storage.k8s.io", "StorageClass", &storage::STORAGE_CLASS),
    ("storage.k8s.io", "VolumeAttachment", &storage::VOLUME_ATTACHMENT),
    ("storage.k8s.io", "VolumeAttributesClass", &storage::VOLUME_ATTRIBUTES_CLASS),
];

/// The strategy of a built-in kind.
pub fn strategy(group: &str, kind: &str) -> &'static Strategy {
    STRATEGIES.iter().find(|(g, k, _)| *g == group && *k == kind).map_or(&Strategy::DEFAULT, |(_, _, s)| s)
}
