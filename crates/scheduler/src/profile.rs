//! A profile: a scheduler name and the plugins, with weights and arguments, that decide for its pods.

use crate::framework::ExtensionPoints;
use crate::plugins::{self, PluginArgs};

/// Configuration of one profile; the default is upstream's.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileConfig {
    pub scheduler_name: String,
    /// Percentage of nodes to find feasible before scoring; 0 means adapt to the cluster's size.
    pub percentage_of_nodes_to_score: u32,
    /// Plugin names in order; weights come from the registry unless given in `weights`.
    pub plugins: Vec<String>,
    pub weights: Vec<(String, i64)>,
    pub args: PluginArgs,
}

impl Default for ProfileConfig {
    fn default() -> ProfileConfig {
        ProfileConfig {
            scheduler_name: "default-scheduler".into(),
            percentage_of_nodes_to_score: 0,
            plugins: plugins::REGISTRY.iter().map(|entry| entry.name.to_owned()).collect(),
            weights: Vec::new(),
            args: PluginArgs::default(),
        }
    }
}

/// Why a profile cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// No plugin of this name is registered.
    #[error("plugin {0:?} does not exist")]
    UnknownPlugin(String),
    /// A profile needs exactly one way to order its queue.
    #[error("profile {0:?} needs exactly one queue sort plugin")]
    QueueSort(String),
    /// A profile needs a way to bind.
    #[error("profile {0:?} needs at least one bind plugin")]
    NoBind(String),
}

/// A profile ready to run.
pub struct Profile {
    pub scheduler_name: String,
    pub percentage_of_nodes_to_score: u32,
    pub points: ExtensionPoints,
}

impl Profile {
    pub fn new(config: &ProfileConfig) -> Result<Profile, ProfileError> {
        let mut points = ExtensionPoints::default();
        for (id, name) in config.plugins.iter().enumerate() {
            let entry = plugins::REGISTRY
                .iter()
                .find(|entry| entry.name == name)
                .ok_or_else(|| ProfileError::UnknownPlugin(name.clone()))?;
            let weight = config.weights.iter().find(|(of, _)| of == name).map_or(entry.weight, |(_, weight)| *weight);
            points.begin(u32::try_from(id).unwrap_or(u32::MAX), weight);
            (entry.extend)(&config.args, &mut points);
        }
        if points.queue_sort.len() != 1 {
            return Err(ProfileError::QueueSort(config.scheduler_name.clone()));
        }
        if points.bind.is_empty() {
            return Err(ProfileError::NoBind(config.scheduler_name.clone()));
        }
        Ok(Profile {
            scheduler_name: config.scheduler_name.clone(),
            percentage_of_nodes_to_score: config.percentage_of_nodes_to_score,
            points,
        })
    }
}
