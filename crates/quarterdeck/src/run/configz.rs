//! `/configz`: the configuration that holds, in the form of upstream's configuration files. What upstream has there and nothing
//! here looks at is left out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::scheduler::plugins::{PluginArgs, REGISTRY, ResourceWeight, ScoringStrategy, ShapePoint};
use ::scheduler::{PointConfig, ProfileConfig, SchedulerConfig};
use anyhow::Result;
use api::{Map, Value, json};
use client::LeaseTimes;

use super::scheduler_config::{API_VERSION, KIND, MULTI_POINT, POINTS};
use super::{components, elect};
use crate::args::{ControllerFlags, ControllerManagerArgs, ElectFlags};

const MANAGER_GROUP: &str = "kubecontrollermanager.config.k8s.io";

/// Of a scheduler that runs by itself.
///
/// # Errors
/// When the flags make no election.
pub(super) fn scheduler(config: &SchedulerConfig, kubeconfig: &Path, elect: &ElectFlags) -> Result<Value> {
    let profiles: Vec<Value> = config.profiles.iter().map(profile).collect::<Result<_>>()?;
    let document = json!({
        "kind": KIND,
        "apiVersion": API_VERSION,
        "leaderElection": leader_election(elect, components::SCHEDULER)?,
        "clientConnection": { "kubeconfig": text(kubeconfig) },
        "enableProfiling": false,
        "podInitialBackoffSeconds": config.backoff.initial.as_secs(),
        "podMaxBackoffSeconds": config.backoff.max.as_secs(),
        "profiles": profiles,
    });
    Ok(json!({ "componentconfig": document }))
}

/// Of a controller manager that runs by itself. Upstream's fields are named as in Go.
///
/// # Errors
/// As for [`scheduler`].
pub(super) fn controller_manager(args: &ControllerManagerArgs) -> Result<Value> {
    let ControllerFlags {
        controllers,
        allocate_node_cidrs,
        cluster_cidr,
        node_cidr_mask_size,
        node_cidr_mask_size_ipv4,
        node_cidr_mask_size_ipv6,
        node_monitor_period,
        node_monitor_grace_period,
        node_startup_grace_period,
        terminated_pod_gc_threshold,
        cluster_signing_duration,
        legacy_service_account_token_clean_up_period,
    } = &args.flags;
    let file = |path: &Option<PathBuf>| path.as_deref().map(text).unwrap_or_default();
    let document = json!({
        "kind": "KubeControllerManagerConfiguration",
        "apiVersion": format!("{MANAGER_GROUP}/v1alpha1"),
        "Generic": {
            "ClientConnection": { "kubeconfig": text(&args.kubeconfig) },
            "LeaderElection": leader_election(&args.elect, components::CONTROLLER_MANAGER)?,
            "Controllers": controllers,
            "Debugging": { "enableProfiling": false },
        },
        "KubeCloudShared": {
            "UseServiceAccountCredentials": true,
            "NodeMonitorPeriod": duration(*node_monitor_period),
            "ClusterName": args.cluster_name,
            "ClusterCIDR": cluster_cidr.join(","),
            "AllocateNodeCIDRs": allocate_node_cidrs.unwrap_or(!cluster_cidr.is_empty()),
        },
        "CSRSigningController": {
            "ClusterSigningCertFile": file(&args.cluster_signing_cert_file),
            "ClusterSigningKeyFile": file(&args.cluster_signing_key_file),
            "ClusterSigningDuration": duration(*cluster_signing_duration),
        },
        "LegacySATokenCleaner": { "CleanUpPeriod": duration(*legacy_service_account_token_clean_up_period) },
        "NodeIPAMController": {
            "NodeCIDRMaskSize": *node_cidr_mask_size,
            "NodeCIDRMaskSizeIPv4": *node_cidr_mask_size_ipv4,
            "NodeCIDRMaskSizeIPv6": *node_cidr_mask_size_ipv6,
        },
        "NodeLifecycleController": {
            "NodeStartupGracePeriod": duration(*node_startup_grace_period),
            "NodeMonitorGracePeriod": duration(*node_monitor_grace_period),
        },
        "PodGCController": { "TerminatedPodGCThreshold": *terminated_pod_gc_threshold },
        "SAController": {
            "ServiceAccountKeyFile": file(&args.service_account_private_key_file),
            "RootCAFile": file(&args.root_ca_file),
        },
    });
    Ok(json!({ MANAGER_GROUP: document }))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn duration(time: Duration) -> String {
    api::codec::duration_text(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
}

fn leader_election(flags: &ElectFlags, component: &str) -> Result<Value> {
    let LeaseTimes { duration: lease, renew_deadline, retry_period } = elect::times(&flags.lease)?;
    Ok(json!({
        "leaderElect": flags.leader_elect,
        "leaseDuration": duration(lease),
        "renewDeadline": duration(renew_deadline),
        "retryPeriod": duration(retry_period),
        "resourceLock": flags.resource_lock,
        "resourceName": flags.resource_name.as_deref().unwrap_or(component),
        "resourceNamespace": flags.lease.resource_namespace,
    }))
}

fn profile(profile: &ProfileConfig) -> Result<Value> {
    let ProfileConfig { scheduler_name, percentage_of_nodes_to_score, plugins, weights, points, args } = profile;
    let weight = |name: &String| {
        let given = weights.iter().find(|(of, _)| of == name).map(|(_, weight)| *weight);
        given.or_else(|| REGISTRY.iter().find(|entry| entry.name == name).map(|entry| entry.weight))
    };
    let plugins: Vec<Value> = plugins.iter().map(|name| plugin(name, weight(name))).collect();
    let mut sets = Map::new();
    for point in POINTS {
        sets.insert(*point, points.iter().find(|given| given.point == *point).map_or_else(|| json!({}), point_set));
    }
    sets.insert(MULTI_POINT, json!({ "enabled": plugins }));
    Ok(json!({
        "schedulerName": scheduler_name,
        "percentageOfNodesToScore": *percentage_of_nodes_to_score,
        "plugins": Value::Object(sets),
        "pluginConfig": plugin_config(args)?,
    }))
}

fn plugin(name: &str, weight: Option<i64>) -> Value {
    match weight.filter(|weight| *weight != 0) {
        Some(weight) => json!({ "name": name, "weight": weight }),
        None => json!({ "name": name }),
    }
}

fn point_set(given: &PointConfig) -> Value {
    let enabled: Vec<Value> = given.enabled.iter().map(|(name, weight)| plugin(name, *weight)).collect();
    let disabled: Vec<Value> = given.disabled.iter().map(|name| plugin(name, None)).collect();
    json!({ "enabled": enabled, "disabled": disabled })
}

/// The arguments of the plugins that take any, by the plugins' names.
fn plugin_config(args: &PluginArgs) -> Result<Vec<Value>> {
    let PluginArgs {
        node_affinity,
        node_resources_fit,
        inter_pod_affinity,
        default_preemption,
        node_resources_balanced_allocation,
        volume_binding,
        dynamic_resources,
    } = args;
    let added_affinity = node_affinity.added_affinity.as_ref().map(api::value::to_value).transpose()?;
    let fit = node_resources_fit;
    let mut strategy = json!({ "type": "LeastAllocated", "resources": weights(&fit.resources) });
    match &fit.scoring_strategy {
        ScoringStrategy::LeastAllocated => {}
        ScoringStrategy::MostAllocated => strategy["type"] = json!("MostAllocated"),
        ScoringStrategy::RequestedToCapacityRatio(shape) => {
            let point = |point: &ShapePoint| json!({ "utilization": point.utilization, "score": point.score });
            let shape: Vec<Value> = shape.iter().map(point).collect();
            strategy["type"] = json!("RequestedToCapacityRatio");
            strategy["requestedToCapacityRatio"] = json!({ "shape": shape });
        }
    }
    let given = [
        (
            "DefaultPreemption",
            json!({
                "minCandidateNodesPercentage": default_preemption.min_candidate_nodes_percentage,
                "minCandidateNodesAbsolute": default_preemption.min_candidate_nodes_absolute,
            }),
        ),
        ("DynamicResources", json!({ "bindingTimeout": duration(dynamic_resources.binding_timeout) })),
        (
            "InterPodAffinity",
            json!({
                "hardPodAffinityWeight": inter_pod_affinity.hard_pod_affinity_weight,
                "ignorePreferredTermsOfExistingPods": inter_pod_affinity.ignore_preferred_terms_of_existing_pods,
            }),
        ),
        ("NodeAffinity", added_affinity.map_or_else(|| json!({}), |affinity| json!({ "addedAffinity": affinity }))),
        (
            "NodeResourcesBalancedAllocation",
            json!({ "resources": weights(&node_resources_balanced_allocation.resources) }),
        ),
        (
            "NodeResourcesFit",
            json!({
                "ignoredResources": fit.ignored_resources,
                "ignoredResourceGroups": fit.ignored_resource_groups,
                "scoringStrategy": strategy,
            }),
        ),
        ("VolumeBinding", json!({ "bindTimeoutSeconds": volume_binding.bind_timeout.as_secs() })),
    ];
    let one = |(name, mut args): (&str, Value)| {
        args["kind"] = json!(format!("{name}Args"));
        args["apiVersion"] = json!(API_VERSION);
        json!({ "name": name, "args": args })
    };
    Ok(given.into_iter().map(one).collect())
}

fn weights(resources: &[ResourceWeight]) -> Vec<Value> {
    resources.iter().map(|resource| json!({ "name": resource.name, "weight": resource.weight })).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::SchedulerArgs;

    #[derive(Parser)]
    struct Manager {
        #[command(flatten)]
        args: ControllerManagerArgs,
    }

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        args: SchedulerArgs,
    }

    #[test]
    fn a_controller_manager_shows_what_its_flags_say() {
        let flags = ["", "--kubeconfig=k", "--cluster-cidr=10.0.0.0/16", "--leader-elect-lease-duration=1m30s"];
        let config = controller_manager(&Manager::parse_from(flags).args).unwrap();
        let config = &config[MANAGER_GROUP];
        assert_eq!(config["apiVersion"], "kubecontrollermanager.config.k8s.io/v1alpha1");
        assert_eq!(config["Generic"]["Controllers"], json!(["*"]));
        assert_eq!(config["Generic"]["ClientConnection"]["kubeconfig"], "k");
        let election = json!({
            "leaderElect": true,
            "leaseDuration": "1m30s",
            "renewDeadline": "10s",
            "retryPeriod": "2s",
            "resourceLock": "leases",
            "resourceName": "kube-controller-manager",
            "resourceNamespace": "kube-system",
        });
        assert_eq!(config["Generic"]["LeaderElection"], election);
        assert_eq!(config["KubeCloudShared"]["ClusterCIDR"], "10.0.0.0/16");
        assert_eq!(config["KubeCloudShared"]["AllocateNodeCIDRs"], true);
        assert_eq!(config["CSRSigningController"]["ClusterSigningDuration"], "8760h0m0s");
        assert_eq!(config["PodGCController"], json!({ "TerminatedPodGCThreshold": 12_500 }));
    }

    #[test]
    fn a_scheduler_shows_its_profiles_as_its_file_would_tell_them() {
        let file = "apiVersion: kubescheduler.config.k8s.io/v1\n\
                    kind: KubeSchedulerConfiguration\n\
                    podMaxBackoffSeconds: 20\n\
                    profiles:\n\
                    - schedulerName: packing\n\
                    \x20 percentageOfNodesToScore: 40\n\
                    \x20 plugins:\n\
                    \x20   score: {disabled: [{name: '*'}], enabled: [{name: NodeResourcesFit, weight: 5}]}\n\
                    \x20   multiPoint: {disabled: [{name: ImageLocality}], enabled: [{name: NodeAffinity, weight: 9}]}\n\
                    \x20 pluginConfig:\n\
                    \x20 - name: NodeResourcesFit\n\
                    \x20   args: {scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 3}]}}\n";
        let elect = Alone::parse_from(["", "--kubeconfig=k"]).args.elect;
        let config = super::super::scheduler_config::parse(file).unwrap().config.with_election(None);
        let shown = scheduler(&config, Path::new("k"), &elect).unwrap();
        let shown = &shown["componentconfig"];
        assert_eq!(shown["podMaxBackoffSeconds"], 20);
        let plugins = &shown["profiles"][0]["plugins"];
        assert_eq!(plugins["score"]["enabled"], json!([{ "name": "NodeResourcesFit", "weight": 5 }]));
        let enabled = plugins["multiPoint"]["enabled"].as_array().unwrap();
        assert!(enabled.contains(&json!({ "name": "NodeAffinity", "weight": 9 })), "{enabled:?}");
        assert!(!enabled.iter().any(|plugin| plugin["name"] == "ImageLocality"), "{enabled:?}");
        let fit = json!({ "type": "MostAllocated", "resources": [{ "name": "cpu", "weight": 3 }] });
        let args = shown["profiles"][0]["pluginConfig"].as_array().unwrap();
        let of_fit = args.iter().find(|plugin| plugin["name"] == "NodeResourcesFit").unwrap();
        assert_eq!(of_fit["args"]["scoringStrategy"], fit);
        assert_eq!(of_fit["args"]["kind"], "NodeResourcesFitArgs");
        let default = scheduler(&SchedulerConfig::default(), Path::new("k"), &elect).unwrap();
        assert_eq!(default["componentconfig"]["profiles"][0]["plugins"]["preEnqueue"], json!({}));
    }
}
