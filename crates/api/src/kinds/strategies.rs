//! The list of strategies: one row per built-in kind. Kinds that are not here use [`Strategy::DEFAULT`].

use crate::Strategy;
use crate::kinds::{
    configmap, endpoints, event, limitrange, namespace, node, persistentvolume, persistentvolumeclaim, pod,
    replicationcontroller, resourcequota, service, serviceaccount,
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
    ("events.k8s.io", "Event", &event::EVENTS),
];

/// The strategy of a built-in kind.
pub fn strategy(group: &str, kind: &str) -> &'static Strategy {
    STRATEGIES.iter().find(|(g, k, _)| *g == group && *k == kind).map_or(&Strategy::DEFAULT, |(_, _, s)| s)
}
