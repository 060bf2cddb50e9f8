//! Defaults that are literals: type (without `io.k8s.`), field, JSON.

type Rows = &'static [(&'static str, &'static [(&'static str, &'static str)])];

const CONTAINER: &[(&str, &str)] =
    &[("terminationMessagePath", r#""/dev/termination-log""#), ("terminationMessagePolicy", r#""File""#)];
const RBD: &[(&str, &str)] = &[("pool", r#""rbd""#), ("user", r#""admin""#), ("keyring", r#""/etc/ceph/keyring""#)];
const SCALE_IO: &[(&str, &str)] = &[("storageMode", r#""ThinProvisioned""#), ("fsType", r#""xfs""#)];
const DEFAULT_MODE: &[(&str, &str)] = &[("defaultMode", "420")];
const SERVICE_PORT: &[(&str, &str)] = &[("port", "443")];
const PROTOCOL: &[(&str, &str)] = &[("protocol", r#""TCP""#)];
const RULE: &[(&str, &str)] = &[("scope", r#""*""#)];
const FAILURE_POLICY: &[(&str, &str)] = &[("failurePolicy", r#""Fail""#)];

pub(super) const LITERALS: Rows = &[
    (
        "api.core.v1.PodSpec",
        &[
            ("dnsPolicy", r#""ClusterFirst""#),
            ("restartPolicy", r#""Always""#),
            ("securityContext", "{}"),
            ("terminationGracePeriodSeconds", "30"),
            ("schedulerName", r#""default-scheduler""#),
        ],
    ),
    ("api.core.v1.Container", CONTAINER),
    ("api.core.v1.EphemeralContainer", CONTAINER),
    ("api.core.v1.ContainerPort", PROTOCOL),
    ("api.core.v1.ServicePort", PROTOCOL),
    ("api.core.v1.EndpointPort", PROTOCOL),
    (
        "api.core.v1.Probe",
        &[("timeoutSeconds", "1"), ("periodSeconds", "10"), ("successThreshold", "1"), ("failureThreshold", "3")],
    ),
    ("api.core.v1.HTTPGetAction", &[("path", r#""/""#), ("scheme", r#""HTTP""#)]),
    ("api.core.v1.GRPCAction", &[("service", r#""""#)]),
    ("api.core.v1.ObjectFieldSelector", &[("apiVersion", r#""v1""#)]),
    ("api.core.v1.SecretVolumeSource", DEFAULT_MODE),
    ("api.core.v1.ConfigMapVolumeSource", DEFAULT_MODE),
    ("api.core.v1.DownwardAPIVolumeSource", DEFAULT_MODE),
    ("api.core.v1.ProjectedVolumeSource", DEFAULT_MODE),
    ("api.core.v1.ServiceAccountTokenProjection", &[("expirationSeconds", "3600")]),
    ("api.core.v1.HostPathVolumeSource", &[("type", r#""""#)]),
    ("api.core.v1.ISCSIVolumeSource", &[("iscsiInterface", r#""default""#)]),
    ("api.core.v1.ISCSIPersistentVolumeSource", &[("iscsiInterface", r#""default""#)]),
    ("api.core.v1.RBDVolumeSource", RBD),
    ("api.core.v1.RBDPersistentVolumeSource", RBD),
    (
        "api.core.v1.AzureDiskVolumeSource",
        &[("cachingMode", r#""ReadWrite""#), ("fsType", r#""ext4""#), ("readOnly", "false"), ("kind", r#""Shared""#)],
    ),
    ("api.core.v1.ScaleIOVolumeSource", SCALE_IO),
    ("api.core.v1.ScaleIOPersistentVolumeSource", SCALE_IO),
    ("api.core.v1.FileKeySelector", &[("optional", "false")]),
    ("api.core.v1.PersistentVolumeClaimSpec", &[("volumeMode", r#""Filesystem""#)]),
    ("api.core.v1.Secret", &[("type", r#""Opaque""#)]),
    ("api.apps.v1.ReplicaSetSpec", &[("replicas", "1")]),
    ("api.batch.v1.PodFailurePolicyOnPodConditionsPattern", &[("status", r#""True""#)]),
    (
        "api.batch.v1.CronJobSpec",
        &[
            ("concurrencyPolicy", r#""Allow""#),
            ("suspend", "false"),
            ("successfulJobsHistoryLimit", "3"),
            ("failedJobsHistoryLimit", "1"),
        ],
    ),
    ("api.autoscaling.v1.HorizontalPodAutoscalerSpec", &[("minReplicas", "1")]),
    (
        "api.admissionregistration.v1.ValidatingWebhook",
        &[
            ("failurePolicy", r#""Fail""#),
            ("matchPolicy", r#""Equivalent""#),
            ("namespaceSelector", "{}"),
            ("objectSelector", "{}"),
            ("timeoutSeconds", "10"),
        ],
    ),
    (
        "api.admissionregistration.v1.MutatingWebhook",
        &[
            ("failurePolicy", r#""Fail""#),
            ("matchPolicy", r#""Equivalent""#),
            ("namespaceSelector", "{}"),
            ("objectSelector", "{}"),
            ("timeoutSeconds", "10"),
            ("reinvocationPolicy", r#""Never""#),
        ],
    ),
    ("api.admissionregistration.v1.RuleWithOperations", RULE),
    ("api.admissionregistration.v1.NamedRuleWithOperations", RULE),
    ("api.admissionregistration.v1.ServiceReference", SERVICE_PORT),
    ("api.admissionregistration.v1.ValidatingAdmissionPolicySpec", FAILURE_POLICY),
    ("api.admissionregistration.v1.MutatingAdmissionPolicySpec", FAILURE_POLICY),
    (
        "api.admissionregistration.v1.MatchResources",
        &[("matchPolicy", r#""Equivalent""#), ("namespaceSelector", "{}"), ("objectSelector", "{}")],
    ),
    ("api.discovery.v1.EndpointPort", &[("name", r#""""#), ("protocol", r#""TCP""#)]),
    ("api.flowcontrol.v1.FlowSchemaSpec", &[("matchingPrecedence", "1000")]),
    (
        "api.flowcontrol.v1.ExemptPriorityLevelConfiguration",
        &[("nominalConcurrencyShares", "0"), ("lendablePercent", "0")],
    ),
    (
        "api.flowcontrol.v1.LimitedPriorityLevelConfiguration",
        &[("nominalConcurrencyShares", "30"), ("lendablePercent", "0")],
    ),
    ("api.flowcontrol.v1.QueuingConfiguration", &[("handSize", "8"), ("queues", "64"), ("queueLengthLimit", "50")]),
    ("api.networking.v1.NetworkPolicyPort", PROTOCOL),
    ("api.networking.v1.IngressClassParametersReference", &[("scope", r#""Cluster""#)]),
    ("api.rbac.v1.RoleRef", &[("apiGroup", r#""rbac.authorization.k8s.io""#)]),
    ("api.resource.v1.DeviceToleration", &[("operator", r#""Equal""#)]),
    ("api.scheduling.v1.PriorityClass", &[("preemptionPolicy", r#""PreemptLowerPriority""#)]),
    ("api.storage.v1.StorageClass", &[("reclaimPolicy", r#""Delete""#), ("volumeBindingMode", r#""Immediate""#)]),
    (
        "api.storage.v1.CSIDriverSpec",
        &[
            ("attachRequired", "true"),
            ("podInfoOnMount", "false"),
            ("storageCapacity", "false"),
            ("fsGroupPolicy", r#""ReadWriteOnceWithFSType""#),
            ("volumeLifecycleModes", r#"["Persistent"]"#),
            ("requiresRepublish", "false"),
            ("seLinuxMount", "false"),
        ],
    ),
    ("api.authentication.v1.TokenRequestSpec", &[("expirationSeconds", "3600")]),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.ServiceReference", SERVICE_PORT),
    ("kube-aggregator.pkg.apis.apiregistration.v1.ServiceReference", SERVICE_PORT),
];
