//! When a Service's endpoints began to change, as told in an annotation: what kube-proxy measures its delay from.

use std::collections::HashMap;
use std::sync::Arc;

use client::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;

use crate::pods;

pub(crate) const ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What was seen of each Service last time.
#[derive(Debug, Default)]
pub(crate) struct Triggers(Mutex<HashMap<ObjectKey, Seen>>);

#[derive(Debug, Default)]
struct Seen {
    service: Option<Timestamp>,
    /// Since when each pod is ready, or not, by name.
    pods: HashMap<String, Timestamp>,
}

impl Triggers {
    /// The earliest change since last time. Of a Service seen for the first time it is its creation.
    pub(crate) fn observe(&self, key: &ObjectKey, service: &Service, pods: &[Arc<Pod>]) -> Option<Timestamp> {
        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let now = Seen {
            service: created,
            pods: pods.iter().filter_map(|pod| Some((pod.metadata.name.clone()?, turned(pod)?))).collect(),
        };
        let mut all = self.0.lock();
        let Some(before) = all.get(key) else {
            all.insert(key.clone(), now);
            return created;
        };
        let changed_pods = now.pods.iter().filter(|(name, time)| before.pods.get(*name).is_none_or(|old| *time > old));
        let changed = changed_pods.map(|(_, time)| *time).chain(created.filter(|_| created > before.service)).min();
        all.insert(key.clone(), now);
        changed
    }

    /// The Service is gone.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.0.lock().remove(key);
    }
}

/// When the pod became ready, or ceased to be.
fn turned(pod: &Pod) -> Option<Timestamp> {
    pods::condition(pod, "Ready")?.last_transition_time.as_ref().map(|time| time.0)
}

/// Sets the annotation, or takes it away where nothing is known.
pub(crate) fn mark(metadata: &mut ObjectMeta, trigger: Option<Timestamp>) {
    match trigger {
        Some(time) => {
            metadata.annotations.get_or_insert_default().insert(ANNOTATION.to_owned(), time.to_string());
        }
        None => {
            let annotations = metadata.annotations.as_mut();
            annotations.and_then(|annotations| annotations.remove(ANNOTATION));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_earliest_change_since_last_time_is_told() {
        let service: Service =
            serde_json::from_value(json!({ "metadata": { "name": "a", "creationTimestamp": "2024-01-01T00:00:00Z" } }))
                .unwrap();
        let pod = |name: &str, turned: &str| {
            let condition = json!([{ "type": "Ready", "status": "True", "lastTransitionTime": turned }]);
            let pod = json!({ "metadata": { "name": name }, "status": { "conditions": condition } });
            Arc::new(serde_json::from_value::<Pod>(pod).unwrap())
        };
        let (triggers, key) = (Triggers::default(), ObjectKey::new("n", "a"));
        let seen = |pods: &[Arc<Pod>]| triggers.observe(&key, &service, pods).map(|time| time.to_string());
        let (one, two) = (pod("p", "2024-01-02T00:00:00Z"), pod("q", "2024-01-03T00:00:00Z"));
        assert_eq!(seen(&[]).as_deref(), Some("2024-01-01T00:00:00Z"));
        assert_eq!(seen(&[one.clone(), two.clone()]).as_deref(), Some("2024-01-02T00:00:00Z"));
        assert_eq!(seen(&[one.clone(), two.clone()]), None);
        assert_eq!(seen(&[one, pod("q", "2024-01-04T00:00:00Z")]).as_deref(), Some("2024-01-04T00:00:00Z"));
        triggers.forget(&key);
        assert_eq!(seen(&[two]).as_deref(), Some("2024-01-01T00:00:00Z"));
    }

    #[test]
    fn the_annotation_comes_and_goes() {
        let mut metadata = ObjectMeta::default();
        mark(&mut metadata, Some("2024-01-02T03:04:05Z".parse().unwrap()));
        assert_eq!(metadata.annotations.as_ref().unwrap()[ANNOTATION], "2024-01-02T03:04:05Z");
        mark(&mut metadata, None);
        assert_eq!(metadata.annotations.unwrap().len(), 0);
    }
}
