//! The scheduler's configuration file: `KubeSchedulerConfiguration` of `kubescheduler.config.k8s.io/v1`.
//!
//! An unknown field is an error, and so is what this scheduler does not have (extenders). Source: kube-scheduler configuration
//! reference (v1).

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use api::Value;
use client::LeaderConfig;
use scheduler::plugins::{PluginArgs, REGISTRY, ResourceWeight, ScoringStrategy, ShapePoint};
use scheduler::{Backoff, PointConfig, ProfileConfig, SchedulerConfig};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::duration;

pub(super) const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
pub(super) const KIND: &str = "KubeSchedulerConfiguration";

/// What the file says.
#[derive(Debug)]
pub(super) struct File {
    pub kubeconfig: Option<String>,
    pub election: Election,
    pub config: Scheduling,
}

/// Profiles and waits.
#[derive(Debug)]
pub(super) struct Scheduling {
    profiles: Vec<ProfileConfig>,
    backoff: Backoff,
}

impl Scheduling {
    /// The running scheduler's configuration.
    pub(super) fn with_election(self, leader_election: Option<LeaderConfig>) -> SchedulerConfig {
        SchedulerConfig {
            profiles: self.profiles,
            backoff: self.backoff,
            leader_election,
            ..SchedulerConfig::default()
        }
    }
}

/// Leader election, where the file says anything about it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Election {
    pub leader_elect: Option<bool>,
    pub lease_duration: Option<String>,
    pub renew_deadline: Option<String>,
    pub retry_period: Option<String>,
    pub resource_lock: Option<String>,
    pub resource_name: Option<String>,
    pub resource_namespace: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    #[serde(default)]
    parallelism: Option<i32>,
    #[serde(default)]
    leader_election: Election,
    #[serde(default)]
    client_connection: ClientConnection,
    #[serde(default)]
    enable_profiling: Option<bool>,
    #[serde(default)]
    enable_contention_profiling: Option<bool>,
    #[serde(default)]
    delay_cache_until_active: Option<bool>,
    #[serde(default)]
    percentage_of_nodes_to_score: Option<u32>,
    #[serde(default)]
    pod_initial_backoff_seconds: Option<u64>,
    #[serde(default)]
    pod_max_backoff_seconds: Option<u64>,
    #[serde(default)]
    profiles: Vec<Profile>,
    #[serde(default)]
    extenders: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ClientConnection {
    kubeconfig: String,
    accept_content_types: String,
    content_type: String,
    qps: f64,
    burst: i32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    #[serde(default)]
    scheduler_name: Option<String>,
    #[serde(default)]
    percentage_of_nodes_to_score: Option<u32>,
    #[serde(default)]
    plugins: api::Map,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PluginSet {
    enabled: Vec<Plugin>,
    disabled: Vec<Plugin>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plugin {
    name: String,
    #[serde(default)]
    weight: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    args: Value,
}

/// Extension points by their configured names.
pub(super) const POINTS: &[&str] = &[
    "preEnqueue",
    "queueSort",
    "preFilter",
    "filter",
    "postFilter",
    "preScore",
    "score",
    "reserve",
    "permit",
    "preBind",
    "bind",
    "postBind",
];
pub(super) const MULTI_POINT: &str = "multiPoint";

/// Reads the file's text, YAML or JSON.
pub(super) fn parse(text: &str) -> Result<File> {
    let document = api::codec::yaml::parse(text.as_bytes()).map_err(anyhow::Error::msg)?;
    ensure!(document.duplicates.is_empty(), "{}", document.duplicates.join(", "));
    let document: Document = strict(document.value, "")?;
    ensure!(
        document.api_version == API_VERSION && document.kind == KIND,
        "no kind \"{}\" is registered for version \"{}\": want {KIND} of {API_VERSION}",
        document.kind,
        document.api_version
    );
    ensure!(document.extenders.is_empty(), "extenders: not supported");
    ensure!(
        document.parallelism.is_none_or(|parallelism| parallelism > 0),
        "parallelism: should be an integer value greater than zero"
    );
    // These say how upstream's process is profiled, starts and talks; there is nothing here that they could change.
    let _upstream_only =
        (document.enable_profiling, document.enable_contention_profiling, document.delay_cache_until_active);
    let ClientConnection { kubeconfig, accept_content_types: _, content_type: _, qps: _, burst: _ } =
        document.client_connection;
    let percentage = document.percentage_of_nodes_to_score.unwrap_or(0);
    let mut profiles = Vec::new();
    for (index, profile) in document.profiles.into_iter().enumerate() {
        profiles.push(self::profile(profile, percentage).with_context(|| format!("profiles[{index}]"))?);
    }
    if profiles.is_empty() {
        profiles.push(ProfileConfig { percentage_of_nodes_to_score: percentage, ..ProfileConfig::default() });
    }
    for (index, profile) in profiles.iter().enumerate() {
        let name = &profile.scheduler_name;
        let is_twice = profiles[..index].iter().any(|other| other.scheduler_name == *name);
        ensure!(!is_twice, "profiles[{index}].schedulerName: Duplicate value: \"{name}\"");
        ensure!(profile.percentage_of_nodes_to_score <= 100, "percentageOfNodesToScore: not in valid range [0-100]");
    }
    let default = Backoff::default();
    let seconds = |given: Option<u64>, default| given.map_or(default, Duration::from_secs);
    let backoff = Backoff {
        initial: seconds(document.pod_initial_backoff_seconds, default.initial),
        max: seconds(document.pod_max_backoff_seconds, default.max),
    };
    ensure!(!backoff.initial.is_zero(), "podInitialBackoffSeconds: must be greater than 0");
    ensure!(
        backoff.max >= backoff.initial,
        "podMaxBackoffSeconds: must be greater than or equal to PodInitialBackoffSeconds"
    );
    Ok(File {
        kubeconfig: Some(kubeconfig).filter(|path| !path.is_empty()),
        election: document.leader_election,
        config: Scheduling { profiles, backoff },
    })
}

fn strict<T: DeserializeOwned>(value: Value, at: &str) -> Result<T> {
    api::value::from_value(value).with_context(|| format!("strict decoding error: {at}"))
}

fn profile(given: Profile, percentage: u32) -> Result<ProfileConfig> {
    let mut config = ProfileConfig {
        percentage_of_nodes_to_score: given.percentage_of_nodes_to_score.unwrap_or(percentage),
        ..ProfileConfig::default()
    };
    if let Some(name) = given.scheduler_name.filter(|name| !name.is_empty()) {
        config.scheduler_name = name;
    }
    for (point, set) in given.plugins {
        let set: PluginSet = strict(set, &format!("plugins.{point}"))?;
        for plugin in set.enabled.iter().chain(&set.disabled).filter(|plugin| plugin.name != "*") {
            let is_known = REGISTRY.iter().any(|entry| entry.name == plugin.name);
            ensure!(is_known, "plugins.{point}: plugin \"{}\" does not exist", plugin.name);
        }
        if point == MULTI_POINT {
            multi_point(&mut config, set);
            continue;
        }
        ensure!(POINTS.contains(&point.as_str()), "strict decoding error: unknown field \"plugins.{point}\"");
        config.points.push(PointConfig {
            point: point.into(),
            disabled: set.disabled.into_iter().map(|plugin| plugin.name).collect(),
            enabled: set.enabled.into_iter().map(|plugin| (plugin.name, plugin.weight)).collect(),
        });
    }
    for (index, plugin) in given.plugin_config.into_iter().enumerate() {
        arguments(&mut config.args, plugin).with_context(|| format!("pluginConfig[{index}]"))?;
    }
    Ok(config)
}

/// Plugins at all their points: the defaults, less what is disabled, and with what is enabled.
fn multi_point(config: &mut ProfileConfig, set: PluginSet) {
    let is_off = |name: &String| set.disabled.iter().any(|plugin| plugin.name == "*" || plugin.name == *name);
    config.plugins.retain(|name| !is_off(name));
    for plugin in set.enabled {
        if !config.plugins.contains(&plugin.name) {
            config.plugins.push(plugin.name.clone());
        }
        if let Some(weight) = plugin.weight.filter(|weight| *weight != 0) {
            config.weights.push((plugin.name, weight));
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
struct Resources {
    resources: Option<Vec<Weight>>,
    #[serde(rename = "type")]
    type_: Option<String>,
    requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Deserialize)]
struct Weight {
    name: String,
    #[serde(default)]
    weight: i64,
}

#[derive(Deserialize)]
struct Ratio {
    shape: Vec<Point>,
}

#[derive(Deserialize)]
struct Point {
    utilization: i64,
    score: i64,
}

fn weights(given: Vec<Weight>) -> Vec<ResourceWeight> {
    given.into_iter().map(|one| ResourceWeight { name: one.name, weight: one.weight.max(1) }).collect()
}

/// Sets a plugin's arguments.
fn arguments(args: &mut PluginArgs, plugin: PluginConfig) -> Result<()> {
    let mut given = plugin.args;
    if let Value::Object(fields) = &mut given {
        for (field, wanted) in [("apiVersion", API_VERSION.to_owned()), ("kind", format!("{}Args", plugin.name))] {
            if let Some(value) = fields.remove(field) {
                ensure!(value == wanted, "args.{field}: want \"{wanted}\"");
            }
        }
    }
    match plugin.name.as_str() {
        "DefaultPreemption" => {
            #[derive(Deserialize)]
            #[serde(rename_all = "camelCase", deny_unknown_fields)]
            struct Args {
                min_candidate_nodes_percentage: Option<usize>,
                min_candidate_nodes_absolute: Option<usize>,
            }
            let given: Args = strict(given, "args")?;
            let into = &mut args.default_preemption;
            into.min_candidate_nodes_percentage =
                given.min_candidate_nodes_percentage.unwrap_or(into.min_candidate_nodes_percentage);
            into.min_candidate_nodes_absolute =
                given.min_candidate_nodes_absolute.unwrap_or(into.min_candidate_nodes_absolute);
            ensure!(
                into.min_candidate_nodes_percentage <= 100,
                "minCandidateNodesPercentage: not in valid range [0, 100]"
            );
        }
        "InterPodAffinity" => {
            #[derive(Deserialize)]
            #[serde(rename_all = "camelCase", deny_unknown_fields)]
            struct Args {
                hard_pod_affinity_weight: Option<i64>,
                ignore_preferred_terms_of_existing_pods: Option<bool>,
            }
            let given: Args = strict(given, "args")?;
            let into = &mut args.inter_pod_affinity;
            into.hard_pod_affinity_weight = given.hard_pod_affinity_weight.unwrap_or(into.hard_pod_affinity_weight);
            into.ignore_preferred_terms_of_existing_pods =
                given.ignore_preferred_terms_of_existing_pods.unwrap_or(into.ignore_preferred_terms_of_existing_pods);
            ensure!(
                (0..=100).contains(&into.hard_pod_affinity_weight),
                "hardPodAffinityWeight: not in valid range [0-100]"
            );
        }
        "NodeAffinity" => {
            #[derive(Deserialize)]
            #[serde(rename_all = "camelCase", deny_unknown_fields)]
            struct Args {
                added_affinity: Option<k8s_openapi::api::core::v1::NodeAffinity>,
            }
            let given: Args = strict(given, "args")?;
            args.node_affinity.added_affinity = given.added_affinity;
        }
        "NodeResourcesBalancedAllocation" => {
            let given: Resources = strict(given, "args")?;
            if let Some(resources) = given.resources {
                args.node_resources_balanced_allocation.resources = weights(resources);
            }
        }
        "NodeResourcesFit" => fit(args, given)?,
        "DynamicResources" => {
            #[derive(Deserialize)]
            #[serde(rename_all = "camelCase", deny_unknown_fields)]
            struct Args {
                filter_timeout: Option<String>,
                binding_timeout: Option<String>,
            }
            let given: Args = strict(given, "args")?;
            if let Some(text) = given.filter_timeout {
                // A search for devices ends after so many steps here, and never takes that long.
                duration::parse(&text).map_err(|error| anyhow::anyhow!("filterTimeout: {error}"))?;
            }
            if let Some(text) = given.binding_timeout {
                let timeout = duration::parse(&text).map_err(|error| anyhow::anyhow!("bindingTimeout: {error}"))?;
                ensure!(
                    timeout >= Duration::from_secs(1),
                    "bindingTimeout: Invalid value: {text:?}: must be at least 1 second"
                );
                args.dynamic_resources.binding_timeout = timeout;
            }
        }
        "VolumeBinding" => {
            #[derive(Deserialize)]
            #[serde(rename_all = "camelCase", deny_unknown_fields)]
            struct Args {
                bind_timeout_seconds: Option<u64>,
            }
            let given: Args = strict(given, "args")?;
            if let Some(seconds) = given.bind_timeout_seconds {
                args.volume_binding.bind_timeout = Duration::from_secs(seconds);
            }
        }
        other => bail!("plugin \"{other}\" takes no arguments here"),
    }
    Ok(())
}

fn fit(args: &mut PluginArgs, given: Value) -> Result<()> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Args {
        ignored_resources: Option<Vec<String>>,
        ignored_resource_groups: Option<Vec<String>>,
        scoring_strategy: Option<Resources>,
    }
    let given: Args = strict(given, "args")?;
    let into = &mut args.node_resources_fit;
    into.ignored_resources = given.ignored_resources.unwrap_or_default();
    into.ignored_resource_groups = given.ignored_resource_groups.unwrap_or_default();
    let Some(strategy) = given.scoring_strategy else { return Ok(()) };
    if let Some(resources) = strategy.resources {
        into.resources = weights(resources);
    }
    into.scoring_strategy = match (strategy.type_.as_deref(), strategy.requested_to_capacity_ratio) {
        (None | Some("LeastAllocated"), _) => ScoringStrategy::LeastAllocated,
        (Some("MostAllocated"), _) => ScoringStrategy::MostAllocated,
        (Some("RequestedToCapacityRatio"), Some(ratio)) if !ratio.shape.is_empty() => {
            let point = |point: Point| ShapePoint { utilization: point.utilization, score: point.score };
            ScoringStrategy::RequestedToCapacityRatio(ratio.shape.into_iter().map(point).collect())
        }
        (Some("RequestedToCapacityRatio"), _) => {
            bail!("scoringStrategy.requestedToCapacityRatio.shape: at least one point must be specified")
        }
        (Some(other), _) => bail!("scoringStrategy.type: Unsupported value: \"{other}\""),
    };
    Ok(())
}

impl Election {
    /// A duration that the file gives.
    pub(super) fn duration(given: Option<&String>, field: &str) -> Result<Option<Duration>> {
        let parsed = given.map(|text| duration::parse(text).map_err(anyhow::Error::msg)).transpose();
        parsed.with_context(|| format!("leaderElection.{field}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

    fn parsed(rest: &str) -> Result<File> {
        parse(&format!("{HEAD}{rest}"))
    }

    #[test]
    fn profiles_change_plugins_weights_and_arguments() {
        let file = parsed(
            "leaderElection: {leaderElect: false}\n\
             percentageOfNodesToScore: 40\n\
             podMaxBackoffSeconds: 20\n\
             profiles:\n\
             - schedulerName: packing\n\
             \x20 plugins:\n\
             \x20   score: {disabled: [{name: '*'}], enabled: [{name: NodeResourcesFit, weight: 5}]}\n\
             \x20   multiPoint: {disabled: [{name: ImageLocality}], enabled: [{name: NodeAffinity, weight: 9}]}\n\
             \x20 pluginConfig:\n\
             \x20 - name: NodeResourcesFit\n\
             \x20   args: {scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 3}]}}\n\
             - percentageOfNodesToScore: 100\n",
        )
        .unwrap();
        assert_eq!(file.election.leader_elect, Some(false));
        let [packing, default] = file.config.profiles.as_slice() else { panic!("two profiles") };
        assert_eq!((packing.scheduler_name.as_str(), packing.percentage_of_nodes_to_score), ("packing", 40));
        assert!(!packing.plugins.contains(&"ImageLocality".to_owned()));
        assert_eq!(packing.weights, [("NodeAffinity".to_owned(), 9)]);
        assert_eq!(packing.points[0].enabled, [("NodeResourcesFit".to_owned(), Some(5))]);
        assert_eq!(packing.args.node_resources_fit.scoring_strategy, ScoringStrategy::MostAllocated);
        assert_eq!((default.scheduler_name.as_str(), default.percentage_of_nodes_to_score), ("default-scheduler", 100));
        assert_eq!(file.config.backoff.max, Duration::from_secs(20));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let message = |rest: &str| format!("{:#}", parsed(rest).unwrap_err());
        assert!(message("profile: []\n").contains("unknown field `profile`"));
        assert!(message("extenders: [{urlPrefix: x}]\n").contains("extenders: not supported"));
        let unknown = message("profiles: [{plugins: {filter: {enabled: [{name: Nope}]}}}]\n");
        assert!(unknown.contains("plugin \"Nope\" does not exist"), "{unknown}");
        assert!(message("profiles: [{}, {}]\n").contains("Duplicate value: \"default-scheduler\""));
        assert!(parse("apiVersion: v1\nkind: Pod\n").is_err());
    }
}
