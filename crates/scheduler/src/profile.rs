//! A profile: a scheduler name and the plugins, with weights and arguments, that decide for its pods.

use crate::framework::ExtensionPoints;
use crate::model::PodInfo;
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
    /// Changes at single extension points, made after `plugins` are in place.
    pub points: Vec<PointConfig>,
    pub args: PluginArgs,
}

/// Changes at one extension point.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PointConfig {
    /// Upstream's name, e.g. `preFilter`.
    pub point: String,
    /// Plugins to take off; `*` takes all off.
    pub disabled: Vec<String>,
    /// Plugins to put on, with a weight where one is given.
    pub enabled: Vec<(String, Option<i64>)>,
}

impl Default for ProfileConfig {
    fn default() -> ProfileConfig {
        ProfileConfig {
            scheduler_name: "default-scheduler".into(),
            percentage_of_nodes_to_score: 0,
            plugins: plugins::REGISTRY.iter().map(|entry| entry.name.to_owned()).collect(),
            weights: Vec::new(),
            points: Vec::new(),
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
    /// The plugin serves other points only.
    #[error("plugin {plugin:?} does not extend {point} plugin")]
    NotServed { plugin: String, point: String },
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
    /// Whether binding this pod may take long.
    pub(crate) fn waits(&self, pod: &PodInfo) -> bool {
        self.points.pre_bind.iter().any(|slot| slot.plugin.waits(pod))
    }

    pub fn new(config: &ProfileConfig) -> Result<Profile, ProfileError> {
        let mut points = ExtensionPoints::default();
        for name in &config.plugins {
            let weight = config.weights.iter().find(|(of, _)| of == name).map(|(_, weight)| *weight);
            build(name, weight, &config.args, &mut points)?;
        }
        for change in &config.points {
            for plugin in &change.disabled {
                points.disable(&change.point, plugin);
            }
            for (plugin, weight) in &change.enabled {
                let mut more = ExtensionPoints::default();
                build(plugin, *weight, &config.args, &mut more)?;
                if !points.enable(&change.point, more) {
                    let (plugin, point) = (plugin.clone(), change.point.clone());
                    return Err(ProfileError::NotServed { plugin, point });
                }
            }
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

/// Puts one plugin at its points. Its place in the registry is its id.
fn build(name: &str, weight: Option<i64>, args: &PluginArgs, points: &mut ExtensionPoints) -> Result<(), ProfileError> {
    let found = plugins::REGISTRY.iter().enumerate().find(|(_, entry)| entry.name == name);
    let Some((id, entry)) = found else { return Err(ProfileError::UnknownPlugin(name.to_owned())) };
    points.begin(u32::try_from(id).unwrap_or(u32::MAX), weight.unwrap_or(entry.weight));
    (entry.extend)(args, points);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_changed_one_by_one() {
        let change = |point: &str, disabled: &[&str], enabled: &[(&str, Option<i64>)]| PointConfig {
            point: point.into(),
            disabled: disabled.iter().map(|name| (*name).into()).collect(),
            enabled: enabled.iter().map(|(name, weight)| ((*name).into(), *weight)).collect(),
        };
        let points =
            vec![change("score", &["*"], &[("NodeResourcesFit", Some(7))]), change("filter", &["NodePorts"], &[])];
        let mut config = ProfileConfig { points, ..ProfileConfig::default() };
        let profile = Profile::new(&config).unwrap();
        let scores: Vec<_> = profile.points.score.iter().map(|slot| (slot.plugin.name(), slot.weight)).collect();
        assert_eq!(scores, [("NodeResourcesFit", 7)]);
        assert!(!profile.points.filter.iter().any(|slot| slot.plugin.name() == "NodePorts"));
        assert!(profile.points.pre_filter.iter().any(|slot| slot.plugin.name() == "NodePorts"));
        config.points = vec![change("bind", &[], &[("NodeName", None)])];
        let refused = ProfileError::NotServed { plugin: "NodeName".into(), point: "bind".into() };
        assert_eq!(Profile::new(&config).err(), Some(refused));
    }
}
