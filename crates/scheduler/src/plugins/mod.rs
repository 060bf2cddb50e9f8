//! The plugins, one file each, and the list a profile picks from. The list's order is the order plugins run in.

mod default_binder;
mod default_preemption;
mod dynamic_resources;
mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_declared_features;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod node_volume_limits;
mod normalize;
mod pod_topology_spread;
mod priority_sort;
mod scheduling_gates;
mod taint_toleration;
mod volume_binding;
mod volume_restrictions;
mod volume_zone;

use crate::framework::ExtensionPoints;

pub use default_preemption::DefaultPreemptionArgs;
pub use dynamic_resources::DynamicResourcesArgs;
pub(crate) use dynamic_resources::discard;
pub use inter_pod_affinity::InterPodAffinityArgs;
pub use node_affinity::NodeAffinityArgs;
pub use node_resources_balanced_allocation::NodeResourcesBalancedAllocationArgs;
pub use node_resources_fit::{NodeResourcesFitArgs, ResourceWeight, ScoringStrategy, ShapePoint};
pub use volume_binding::VolumeBindingArgs;

/// Arguments of all plugins that take any; the defaults are upstream's.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PluginArgs {
    pub node_affinity: NodeAffinityArgs,
    pub node_resources_fit: NodeResourcesFitArgs,
    pub inter_pod_affinity: InterPodAffinityArgs,
    pub default_preemption: DefaultPreemptionArgs,
    pub node_resources_balanced_allocation: NodeResourcesBalancedAllocationArgs,
    pub volume_binding: VolumeBindingArgs,
    pub dynamic_resources: DynamicResourcesArgs,
}

/// A plugin a profile can name.
pub struct Entry {
    pub name: &'static str,
    /// Weight of its score unless the profile says otherwise.
    pub weight: i64,
    /// Builds the plugin and puts it at its extension points.
    pub extend: fn(&PluginArgs, &mut ExtensionPoints),
}

const fn entry(name: &'static str, weight: i64, extend: fn(&PluginArgs, &mut ExtensionPoints)) -> Entry {
    Entry { name, weight, extend }
}

/// Every plugin, in upstream's default order.
pub const REGISTRY: &[Entry] = &[
    entry(scheduling_gates::NAME, 0, scheduling_gates::extend),
    entry(priority_sort::NAME, 0, priority_sort::extend),
    entry(node_unschedulable::NAME, 0, node_unschedulable::extend),
    entry(node_name::NAME, 0, node_name::extend),
    entry(taint_toleration::NAME, 3, taint_toleration::extend),
    entry(node_affinity::NAME, 2, node_affinity::extend),
    entry(node_ports::NAME, 0, node_ports::extend),
    entry(node_resources_fit::NAME, 1, node_resources_fit::extend),
    entry(volume_restrictions::NAME, 0, volume_restrictions::extend),
    entry(node_volume_limits::NAME, 0, node_volume_limits::extend),
    entry(volume_binding::NAME, 0, volume_binding::extend),
    entry(volume_zone::NAME, 0, volume_zone::extend),
    entry(pod_topology_spread::NAME, 2, pod_topology_spread::extend),
    entry(inter_pod_affinity::NAME, 2, inter_pod_affinity::extend),
    entry(dynamic_resources::NAME, 2, dynamic_resources::extend),
    entry(default_preemption::NAME, 0, default_preemption::extend),
    entry(node_resources_balanced_allocation::NAME, 1, node_resources_balanced_allocation::extend),
    entry(image_locality::NAME, 1, image_locality::extend),
    entry(default_binder::NAME, 0, default_binder::extend),
    entry(node_declared_features::NAME, 0, node_declared_features::extend),
];
