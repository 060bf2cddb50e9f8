//! The feature gates of Kubernetes v1.36 (`--feature-gates`): what there is, and what it is set to.
//!
//! Quarterdeck has no switches of its own for them: it behaves as v1.36 does by default. A gate may be set to what it is;
//! anything else is refused by name.

/// A gate as v1.36 has it.
struct Gate {
    name: &'static str,
    /// What it is when nobody says anything.
    default: bool,
    /// Stable: nobody can change it any more.
    locked: bool,
}

const fn on(name: &'static str) -> Gate {
    Gate { name, default: true, locked: false }
}

const fn off(name: &'static str) -> Gate {
    Gate { name, default: false, locked: false }
}

const fn locked(name: &'static str, default: bool) -> Gate {
    Gate { name, default, locked: true }
}

/// Checks `A=true,B=false`; a name may begin with `kube:`, the component that the gates are of.
pub(super) fn parse(text: &str) -> Result<String, String> {
    for setting in text.split(',').map(str::trim).filter(|setting| !setting.is_empty()) {
        let setting = setting.strip_prefix("kube:").unwrap_or(setting);
        let (name, value) = setting.split_once('=').ok_or_else(|| format!("missing bool value for {setting}"))?;
        let (name, value) = (name.trim(), value.trim());
        let invalid = |error: &str| format!("invalid value of {name}={value}, err: {error}");
        let wanted = super::store::go_bool(value)
            .map_err(|_| invalid(&format!("strconv.ParseBool: parsing {value:?}: invalid syntax")))?;
        // Switches for all gates of a stage; alpha gates are off anyway.
        if matches!((name, wanted), ("AllAlpha", false)) {
            continue;
        }
        if matches!(name, "AllAlpha" | "AllBeta") {
            return Err(format!("feature gate {name}={wanted} is not supported"));
        }
        let gate = GATES.iter().find(|gate| gate.name == name);
        let gate = gate.ok_or_else(|| format!("unrecognized feature gate: {name}"))?;
        match (wanted == gate.default, gate.locked) {
            (true, _) => {}
            (false, true) => {
                return Err(format!(
                    "cannot set feature gate {name} to {wanted}, feature is locked to {}",
                    gate.default
                ));
            }
            (false, false) => {
                return Err(format!("feature gate {name}={wanted} is not supported: it is {} here", gate.default));
            }
        }
    }
    Ok(text.to_owned())
}

/// All gates, by name.
const GATES: &[Gate] = &[
    on("APIResponseCompression"),
    on("APIServerIdentity"),
    locked("APIServerTracing", true),
    off("APIServingWithRoutine"),
    locked("AggregatedDiscoveryRemoveBetaType", true),
    off("AllowDNSOnlyNodeCSR"),
    off("AllowInsecureKubeletCertificateSigningRequests"),
    locked("AllowOverwriteTerminationGracePeriodSeconds", false),
    on("AllowParsingUserUIDFromCertAuth"),
    on("AllowServiceExternalIPs"),
    off("AllowUnsafeMalformedObjectDeletion"),
    locked("AnonymousAuthConfigurableEndpoints", true),
    locked("AnyVolumeDataSource", true),
    locked("AuthorizeNodeWithSelectors", true),
    on("AuthorizePodWebsocketUpgradeCreatePermission"),
    locked("AuthorizeWithSelectors", true),
    locked("BtreeWatchCache", true),
    off("CBORServingAndStorage"),
    on("CPUCFSQuotaPeriod"),
    off("CPUManagerPolicyAlphaOptions"),
    on("CPUManagerPolicyBetaOptions"),
    locked("CPUManagerPolicyOptions", true),
    on("CRDObservedGenerationTracking"),
    locked("CRDValidationRatcheting", true),
    off("CRIListStreaming"),
    locked("CSIServiceAccountTokenSecrets", true),
    off("CSIVolumeHealth"),
    off("ChangeContainerStatusOnKubeletRestart"),
    on("ClearingNominatedNodeNameAfterBinding"),
    off("CloudControllerManagerWatchBasedRoutesReconciliation"),
    off("CloudControllerManagerWebhook"),
    off("ClusterTrustBundle"),
    off("ClusterTrustBundleProjection"),
    on("ComponentFlagz"),
    on("ComponentStatusz"),
    off("ConcurrentWatchObjectDecode"),
    locked("ConsistentListFromCache", true),
    on("ConstrainedImpersonation"),
    on("ContainerCheckpoint"),
    on("ContainerRestartRules"),
    off("ContainerStopSignals"),
    on("ContextualLogging"),
    off("ControllerManagerReleaseLeaderElectionLockOnExit"),
    off("CoordinatedLeaderElection"),
    off("CrossNamespaceVolumeDataSource"),
    locked("CustomResourceFieldSelectors", true),
    locked("DRAAdminAccess", true),
    on("DRAConsumableCapacity"),
    on("DRADeviceBindingConditions"),
    off("DRADeviceTaintRules"),
    on("DRADeviceTaints"),
    on("DRAExtendedResource"),
    off("DRAListTypeAttributes"),
    off("DRANodeAllocatableResources"),
    on("DRAPartitionableDevices"),
    on("DRAPrioritizedList"),
    on("DRAResourceClaimDeviceStatus"),
    on("DRAResourceClaimGranularStatusAuthorization"),
    off("DRAResourcePoolStatus"),
    on("DRASchedulerFilterTimeout"),
    off("DRAWorkloadResourceClaims"),
    locked("DeclarativeValidation", true),
    on("DeclarativeValidationBeta"),
    off("DeclarativeValidationTakeover"),
    on("DeploymentReplicaSetTerminatingReplicas"),
    on("DetectCacheInconsistency"),
    locked("DisableAllocatorDualWrite", true),
    on("DisableCPUQuotaWithExclusiveCPUs"),
    locked("DisableNodeKubeProxyVersion", true),
    locked("DynamicResourceAllocation", true),
    on("EnvFiles"),
    off("EventedPLEG"),
    locked("ExecProbeTimeout", true),
    on("ExtendWebSocketsToKubelet"),
    locked("ExternalServiceAccountTokenSigner", true),
    off("GangScheduling"),
    off("GenericWorkload"),
    locked("GitRepoVolumeDriver", false),
    on("GracefulNodeShutdown"),
    on("GracefulNodeShutdownBasedOnPodPriority"),
    on("HPAConfigurableTolerance"),
    off("HPAScaleToZero"),
    on("HostnameOverride"),
    locked("ImageMaximumGCAge", true),
    locked("ImageVolume", true),
    off("ImageVolumeWithDigest"),
    on("InPlacePodLevelResourcesVerticalScaling"),
    locked("InPlacePodVerticalScaling", true),
    off("InPlacePodVerticalScalingExclusiveCPUs"),
    off("InPlacePodVerticalScalingExclusiveMemory"),
    on("InPlacePodVerticalScalingInitContainers"),
    locked("JobBackoffLimitPerIndex", true),
    locked("JobManagedBy", true),
    locked("JobPodReplacementPolicy", true),
    locked("JobSuccessPolicy", true),
    off("KMSv1"),
    locked("KubeletCgroupDriverFromCRI", true),
    on("KubeletCrashLoopBackOffMax"),
    on("KubeletEnsureSecretPulledImages"),
    locked("KubeletFineGrainedAuthz", true),
    off("KubeletInUserNamespace"),
    locked("KubeletPSI", true),
    locked("KubeletPodResourcesDynamicResources", true),
    locked("KubeletPodResourcesGet", true),
    on("KubeletPodResourcesListUseActivePods"),
    off("KubeletRegistrationGetOnExistsOnly"),
    on("KubeletSeparateDiskGC"),
    on("KubeletServiceAccountTokenForCredentialProviders"),
    locked("KubeletTracing", true),
    on("ListFromCacheSnapshot"),
    off("LocalStorageCapacityIsolationFSQuotaMonitoring"),
    locked("LogarithmicScaleDown", true),
    off("LoggingAlphaOptions"),
    on("LoggingBetaOptions"),
    off("ManifestBasedAdmissionControlConfig"),
    locked("MatchLabelKeysInPodAffinity", true),
    on("MatchLabelKeysInPodTopologySpread"),
    on("MatchLabelKeysInPodTopologySpreadSelectorMerge"),
    off("MaxUnavailableStatefulSet"),
    off("MemoryQoS"),
    locked("MultiCIDRServiceAllocator", true),
    locked("MutableCSINodeAllocatableCount", true),
    off("MutablePVNodeAffinity"),
    on("MutablePodResourcesForSuspendedJobs"),
    on("MutableSchedulingDirectivesForSuspendedJobs"),
    on("MutatingAdmissionPolicy"),
    locked("NFTablesProxyMode", true),
    off("NativeHistograms"),
    on("NodeDeclaredFeatures"),
    locked("NodeInclusionPolicyInPodTopologySpread", true),
    locked("NodeLogQuery", true),
    locked("NodeSwap", true),
    on("NominatedNodeNameForExpectation"),
    on("OpenAPIEnums"),
    on("OpportunisticBatching"),
    locked("OrderedNamespaceDeletion", true),
    on("PLEGOnDemandRelist"),
    off("PersistentVolumeClaimUnusedSinceTime"),
    off("PodAndContainerStatsFromCRI"),
    off("PodCertificateRequest"),
    on("PodDeletionCost"),
    off("PodLevelResourceManagers"),
    on("PodLevelResources"),
    locked("PodLifecycleSleepAction", true),
    locked("PodLifecycleSleepActionAllowZero", true),
    off("PodLogsQuerySplitStreams"),
    locked("PodObservedGenerationTracking", true),
    on("PodReadyToStartContainersCondition"),
    locked("PodSchedulingReadiness", true),
    on("PodTopologyLabelsAdmission"),
    off("PodsAPI"),
    on("PortForwardWebsockets"),
    locked("PreferSameTrafficDistribution", true),
    on("PreventStaticPodAPIReferences"),
    locked("ProcMountType", true),
    off("QOSReserved"),
    locked("RecoverVolumeExpansionFailure", true),
    locked("RecursiveReadOnlyMounts", true),
    off("ReduceDefaultCrashLoopBackOffDecay"),
    locked("RelaxedDNSSearchValidation", true),
    locked("RelaxedEnvironmentVariableValidation", true),
    on("RelaxedServiceNameValidation"),
    on("ReloadKubeletClientCAFile"),
    on("ReloadKubeletServerCertificateFile"),
    on("RemoteRequestHeaderUID"),
    locked("ResilientWatchCacheInitialization", true),
    on("ResourceHealthStatus"),
    on("ResourceHealthStatusMessage"),
    on("RestartAllContainersOnContainerExits"),
    locked("RetryGenerateName", true),
    on("RotateKubeletServerCertificate"),
    off("RuntimeClassInImageCriAPI"),
    locked("SELinuxChangePolicy", true),
    off("SELinuxMount"),
    locked("SELinuxMountReadWriteOncePod", true),
    off("SchedulerAsyncAPICalls"),
    on("SchedulerAsyncPreemption"),
    on("SchedulerPopFromBackoffQ"),
    locked("SchedulerQueueingHints", true),
    locked("SeparateCacheWatchRPC", false),
    locked("SeparateTaintEvictionController", true),
    on("ServiceAccountNodeAudienceRestriction"),
    locked("ServiceAccountTokenJTI", true),
    locked("ServiceAccountTokenNodeBinding", true),
    locked("ServiceAccountTokenNodeBindingValidation", true),
    locked("ServiceAccountTokenPodNodeInfo", true),
    on("ServiceCIDRStatusFieldWiping"),
    off("ShardedListAndWatch"),
    locked("SidecarContainers", true),
    on("SizeBasedListCostEstimate"),
    on("StaleControllerConsistencyDaemonSet"),
    on("StaleControllerConsistencyJob"),
    on("StaleControllerConsistencyReplicaSet"),
    on("StaleControllerConsistencyStatefulSet"),
    on("StatefulSetSemanticRevisionComparison"),
    off("StorageCapacityScoring"),
    on("StorageNamespaceIndex"),
    off("StorageVersionAPI"),
    on("StorageVersionHash"),
    off("StorageVersionMigrator"),
    locked("StreamingCollectionEncodingToJSON", true),
    locked("StreamingCollectionEncodingToProtobuf", true),
    on("StrictIPCIDRValidation"),
    locked("StructuredAuthenticationConfiguration", true),
    on("StructuredAuthenticationConfigurationEgressSelector"),
    on("StructuredAuthenticationConfigurationJWKSMetrics"),
    locked("SupplementalGroupsPolicy", true),
    locked("SystemdWatchdog", true),
    off("TaintTolerationComparisonOperators"),
    on("TokenRequestServiceAccountUIDValidation"),
    off("TopologyAwareWorkloadScheduling"),
    off("TopologyManagerPolicyAlphaOptions"),
    on("TopologyManagerPolicyBetaOptions"),
    locked("TopologyManagerPolicyOptions", true),
    on("TranslateStreamCloseWebsocketRequests"),
    on("UnauthenticatedHTTP2DOSMitigation"),
    on("UnknownVersionInteroperabilityProxy"),
    off("UserNamespacesHostNetworkSupport"),
    locked("UserNamespacesSupport", true),
    locked("VolumeAttributesClass", true),
    off("VolumeLimitScaling"),
    on("WatchCacheInitializationPostStartHook"),
    on("WatchList"),
    locked("WinDSR", true),
    locked("WinOverlay", true),
    off("WindowsCPUAndMemoryAffinity"),
    on("WindowsGracefulNodeShutdown"),
    off("WindowsHostNetwork"),
    off("WorkloadAwarePreemption"),
    off("WorkloadWithJob"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_may_be_set_to_what_they_are() {
        let settings = "WatchList=true, kube:AllAlpha=false,APIServerTracing=true";
        assert_eq!(parse(settings).as_deref(), Ok(settings));
        assert_eq!(parse("").as_deref(), Ok(""));
    }

    #[test]
    fn other_settings_are_refused_by_name() {
        for (settings, refusal) in [
            ("Nonsense=true", "unrecognized feature gate: Nonsense"),
            ("WatchList", "missing bool value for WatchList"),
            (
                "WatchList=maybe",
                "invalid value of WatchList=maybe, err: strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
            ("APIServerTracing=false", "cannot set feature gate APIServerTracing to false, feature is locked to true"),
            ("WatchList=false", "feature gate WatchList=false is not supported: it is true here"),
            ("AllAlpha=true", "feature gate AllAlpha=true is not supported"),
        ] {
            assert_eq!(parse(settings), Err(refusal.to_owned()));
        }
    }
}
