//! The numbers of a rollout: how far it may overshoot, how far it may fall short, and who grows or shrinks by how much.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DeploymentSpec, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::sets::{self, available, replicas};

/// The Deployment's size and bounds, percentages resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub replicas: i32,
    pub max_surge: i32,
    pub max_unavailable: i32,
    pub recreate: bool,
}

impl Bounds {
    /// Surge rounds up, unavailability down; when both come to nothing, one pod may be missing, or no rollout could move.
    pub(super) fn of(spec: &DeploymentSpec) -> Self {
        let wanted = spec.replicas.unwrap_or(1);
        let strategy = spec.strategy.as_ref();
        let recreate = strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate");
        let bounds = Self { replicas: wanted, max_surge: 0, max_unavailable: 0, recreate };
        if recreate {
            return bounds;
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let max_surge =
            rolling.and_then(|rolling| rolling.max_surge.as_ref()).map_or(0, |surge| resolve(surge, wanted, true));
        let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let mut max_unavailable = unavailable.map_or(0, |value| resolve(value, wanted, false));
        if max_surge == 0 && max_unavailable == 0 {
            max_unavailable = 1;
        }
        let max_unavailable = if wanted == 0 { 0 } else { max_unavailable.min(wanted) };
        Self { max_surge, max_unavailable, ..bounds }
    }

    pub(super) fn max_total(&self) -> i32 {
        self.replicas + self.max_surge
    }

    pub(super) fn min_available(&self) -> i32 {
        self.replicas - self.max_unavailable
    }
}

/// An absolute number, or a percentage of `total`. Malformed percentages count as nothing: the API server refuses them.
pub(crate) fn resolve(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(value) => *value,
        IntOrString::String(text) => {
            let Some(percent) = text.strip_suffix('%').and_then(|percent| percent.parse::<i64>().ok()) else {
                return 0;
            };
            let hundredths = percent * i64::from(total);
            let value = if round_up { (hundredths + 99).div_euclid(100) } else { hundredths.div_euclid(100) };
            i32::try_from(value).unwrap_or(i32::MAX)
        }
    }
}

/// How large the newest set should be, given all sets (itself included).
pub(super) fn newest_size(bounds: &Bounds, newest: i32, total: i32) -> i32 {
    if bounds.recreate || newest > bounds.replicas {
        return bounds.replicas;
    }
    let room = bounds.max_total() - total;
    if room <= 0 { newest } else { newest + room.min(bounds.replicas - newest) }
}

/// New sizes of old sets, oldest set first: unhealthy pods go first, then healthy ones as far as availability allows. `old` is in
/// order of creation.
pub(super) fn shrink_old(
    bounds: &Bounds,
    old: &[Arc<ReplicaSet>],
    newest: Option<&ReplicaSet>,
) -> Vec<(Arc<ReplicaSet>, i32)> {
    let newest_size = newest.map_or(0, replicas);
    let newest_available = newest.map_or(0, available);
    let total: i32 = old.iter().map(|set| replicas(set)).sum::<i32>() + newest_size;
    let mut may_go = total - bounds.min_available() - (newest_size - newest_available);
    let mut sizes: Vec<(Arc<ReplicaSet>, i32)> = old.iter().map(|set| (set.clone(), replicas(set))).collect();
    // A set that was just made smaller still tells of pods that are going: what it says is not to be built on.
    let is_behind = |set: &Arc<ReplicaSet>| replicas(set) > 0 && available(set) > replicas(set);
    if may_go <= 0 || old.iter().any(is_behind) {
        return Vec::new();
    }
    for (set, size) in &mut sizes {
        let unhealthy = (*size - available(set)).max(0).min(may_go);
        *size -= unhealthy;
        may_go -= unhealthy;
    }
    let all_available: i32 = old.iter().map(|set| available(set)).sum::<i32>() + newest_available;
    let mut may_go = all_available - bounds.min_available();
    for (_, size) in &mut sizes {
        let healthy = (*size).min(may_go).max(0);
        *size -= healthy;
        may_go -= healthy;
    }
    sizes.retain(|(set, size)| replicas(set) != *size);
    sizes
}

/// New sizes of several active sets when the Deployment was resized in the middle of a rollout: each grows or shrinks by its
/// share, and the largest takes what rounding leaves.
pub(super) fn proportional(
    bounds: &Bounds,
    active: &[Arc<ReplicaSet>],
    status_replicas: i32,
) -> Vec<(Arc<ReplicaSet>, i32)> {
    let total: i32 = active.iter().map(|set| replicas(set)).sum();
    let allowed = if bounds.replicas > 0 { bounds.max_total() } else { 0 };
    let to_add = allowed - total;
    let mut sorted = active.to_vec();
    let created = |set: &ReplicaSet| set.metadata.creation_timestamp.clone();
    if to_add > 0 {
        sorted
            .sort_by(|one, other| replicas(other).cmp(&replicas(one)).then_with(|| created(other).cmp(&created(one))));
    } else {
        sorted
            .sort_by(|one, other| replicas(other).cmp(&replicas(one)).then_with(|| created(one).cmp(&created(other))));
    }
    let mut added = 0;
    let mut sizes = Vec::new();
    for set in sorted {
        let share = share(bounds, &set, to_add, added, status_replicas);
        added += share;
        sizes.push((set.clone(), replicas(&set) + share));
    }
    if let Some((_, size)) = sizes.first_mut() {
        *size = (*size + to_add - added).max(0);
    }
    sizes
}

fn share(bounds: &Bounds, set: &ReplicaSet, to_add: i32, added: i32, status_replicas: i32) -> i32 {
    let size = replicas(set);
    if size == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let fraction = fraction(bounds, set, status_replicas);
    let left = to_add - added;
    if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
}

fn fraction(bounds: &Bounds, set: &ReplicaSet, status_replicas: i32) -> i32 {
    let size = replicas(set);
    if bounds.replicas == 0 {
        return -size;
    }
    let before = sets::max_replicas(set).filter(|max| *max > 0).unwrap_or(status_replicas);
    if before == 0 {
        return 0;
    }
    let new_size = f64::from(size) * f64::from(bounds.max_total()) / f64::from(before);
    // Sizes are far below 2^31: the cast cannot lose anything.
    #[allow(clippy::cast_possible_truncation)]
    let rounded = new_size.round() as i32;
    rounded - size
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bounds(replicas: i32, surge: &str, unavailable: &str) -> Bounds {
        let spec = json!({
            "replicas": replicas, "selector": {}, "template": {},
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable } },
        });
        Bounds::of(&serde_json::from_value(spec).unwrap())
    }

    fn set(replicas: i32, available: i32, max: i32) -> Arc<ReplicaSet> {
        let set = json!({
            "metadata": { "annotations": { "deployment.kubernetes.io/max-replicas": max.to_string() } },
            "spec": { "replicas": replicas, "selector": {} },
            "status": { "replicas": replicas, "availableReplicas": available },
        });
        Arc::new(serde_json::from_value(set).unwrap())
    }

    fn sizes(result: &[(Arc<ReplicaSet>, i32)]) -> Vec<(i32, i32)> {
        result.iter().map(|(set, size)| (replicas(set), *size)).collect()
    }

    #[test]
    fn surge_rounds_up_and_unavailability_down() {
        let ten = bounds(10, "25%", "25%");
        assert_eq!((ten.max_surge, ten.max_unavailable), (3, 2));
        let one = bounds(1, "0%", "25%");
        assert_eq!((one.max_surge, one.max_unavailable), (0, 1));
        let none = bounds(0, "25%", "100%");
        assert_eq!((none.max_surge, none.max_unavailable), (0, 0));
    }

    #[test]
    fn the_newest_grows_into_the_room_there_is() {
        let bounds = bounds(10, "25%", "25%");
        for (newest, total, expected) in [(0, 10, 3), (3, 13, 3), (3, 11, 5), (9, 9, 10), (12, 12, 10)] {
            assert_eq!(newest_size(&bounds, newest, total), expected, "newest {newest} of {total}");
        }
    }

    #[test]
    fn unhealthy_old_pods_go_first_and_healthy_ones_only_as_far_as_allowed() {
        let bounds = bounds(10, "30%", "20%");
        let newest = set(3, 0, 13);
        assert_eq!(sizes(&shrink_old(&bounds, &[set(10, 10, 13)], Some(&newest))), [(10, 8)]);
        let half_broken = set(10, 4, 13);
        assert_eq!(sizes(&shrink_old(&bounds, &[half_broken], Some(&newest))), [(10, 8)]);
        assert_eq!(sizes(&shrink_old(&bounds, &[set(8, 8, 13)], Some(&newest))), []);
        let ready = set(5, 5, 13);
        assert_eq!(sizes(&shrink_old(&bounds, &[set(8, 8, 13)], Some(&ready))), [(8, 3)]);
        let just_shrunk = set(8, 10, 13);
        assert_eq!(sizes(&shrink_old(&bounds, &[just_shrunk], Some(&ready))), []);
    }

    #[test]
    fn a_resize_in_mid_rollout_is_shared_in_proportion() {
        let bounds = bounds(20, "30%", "20%");
        let result = proportional(&bounds, &[set(8, 8, 13), set(5, 0, 13)], 13);
        assert_eq!(sizes(&result), [(8, 16), (5, 10)]);
        let shrunk = Bounds { replicas: 0, ..bounds };
        assert_eq!(sizes(&proportional(&shrunk, &[set(8, 8, 13), set(5, 0, 13)], 13)), [(8, 0), (5, 0)]);
    }
}
