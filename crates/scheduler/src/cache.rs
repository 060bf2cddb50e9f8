//! What runs where: pods the API server reports on nodes, and pods this scheduler has decided on and not yet seen there.
//!
//! The canonical copy of a pod's place is `pods`; the snapshot's nodes follow it. A pod on a node that is not (yet) known is
//! kept aside and put on the node when it appears.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{NodeFacts, PodInfo};
use crate::snapshot::Snapshot;

struct Placed {
    pod: Arc<PodInfo>,
    node: Arc<str>,
    /// Decided here, not yet reported by the API server.
    assumed: bool,
}

/// See the module.
#[derive(Default)]
pub struct Cache {
    pub snapshot: Snapshot,
    pods: HashMap<Arc<str>, Placed>,
    /// Uids of pods on nodes that are not known.
    stranded: HashMap<Arc<str>, Vec<Arc<str>>>,
}

impl Cache {
    /// Adds a node or takes in its new version.
    pub fn put_node(&mut self, facts: Arc<NodeFacts>) {
        let name = facts.name.clone();
        self.snapshot.put_node(facts);
        for uid in self.stranded.remove(&name).unwrap_or_default() {
            if let Some(placed) = self.pods.get(&uid) {
                self.snapshot.add_pod(&name, placed.pod.clone());
            }
        }
    }

    pub fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.snapshot.remove_node(name).filter(|node| !node.pods.is_empty()) {
            let uids = node.pods.iter().map(|pod| pod.uid.clone()).collect();
            self.stranded.insert(node.facts.name.clone(), uids);
        }
    }

    /// Puts a pod on a node before the API server knows.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &Arc<str>) {
        self.place(pod, node.clone(), true);
    }

    /// Takes back an assumption; a pod the API server has confirmed stays.
    pub fn forget(&mut self, uid: &str) {
        if self.is_assumed(uid) {
            self.remove_pod(uid);
        }
    }

    pub fn is_assumed(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|placed| placed.assumed)
    }

    pub fn contains(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// Takes in a pod the API server reports on a node; returns the version before.
    pub fn put_pod(&mut self, pod: Arc<PodInfo>) -> Option<Arc<PodInfo>> {
        let node = pod.node_name.clone()?;
        self.place(pod, node, false)
    }

    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let placed = self.pods.remove(uid)?;
        if !self.snapshot.remove_pod(&placed.node, uid)
            && let Some(uids) = self.stranded.get_mut(&placed.node)
        {
            uids.retain(|other| &**other != uid);
            if uids.is_empty() {
                self.stranded.remove(&placed.node);
            }
        }
        Some(placed.pod)
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: Arc<str>, assumed: bool) -> Option<Arc<PodInfo>> {
        let before = self.remove_pod(&pod.uid);
        if !self.snapshot.add_pod(&node, pod.clone()) {
            self.stranded.entry(node.clone()).or_default().push(pod.uid.clone());
        }
        self.pods.insert(pod.uid.clone(), Placed { pod, node, assumed });
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};
    use serde_json::json;

    #[test]
    fn assumed_pod_is_confirmed_once_and_counted_once() {
        let mut cache = Cache::default();
        cache.put_node(node(json!({"metadata": {"name": "n"}})));
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
        cache.assume(pod(json!({"metadata": {"name": "p", "uid": "p"}, "spec": spec})), &"n".into());
        assert!(cache.is_assumed("p"));
        let mut bound = spec.clone();
        bound["nodeName"] = json!("n");
        cache.put_pod(pod(json!({"metadata": {"name": "p", "uid": "p"}, "spec": bound})));
        assert!(!cache.is_assumed("p"));
        assert_eq!(cache.snapshot.at(0).requested.milli_cpu, 1000);
        cache.forget("p");
        assert_eq!(cache.snapshot.at(0).pods.len(), 1);
    }

    #[test]
    fn pods_reported_before_their_node_are_on_it_when_it_comes_back() {
        let mut cache = Cache::default();
        cache.put_pod(pod(json!({"metadata": {"name": "p", "uid": "p"}, "spec": {"nodeName": "n", "containers": []}})));
        for _ in 0..2 {
            cache.put_node(node(json!({"metadata": {"name": "n"}})));
            assert_eq!(cache.snapshot.at(0).pods.len(), 1);
            cache.remove_node("n");
        }
        cache.remove_pod("p");
        cache.put_node(node(json!({"metadata": {"name": "n"}})));
        assert_eq!(cache.snapshot.at(0).pods.len(), 0);
    }
}
