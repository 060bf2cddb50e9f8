//! Pods that no selector tells apart, counted together: a deployment's hundreds are one class on each node.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, Hasher, RandomState};
use std::sync::LazyLock;

use super::labels::{Labels, Selector};
use super::{NodeInfo, PodInfo};

/// Namespace and labels of a pod, as a hash of 128 bits under keys that nobody knows: equal classes are equal namespaces and labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodClass([u64; 2]);

impl PodClass {
    pub fn of(namespace: &str, labels: &Labels) -> PodClass {
        static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(|| [RandomState::new(), RandomState::new()]);
        PodClass(KEYS.each_ref().map(|key| key.hash_one((namespace, labels))))
    }
}

impl std::hash::Hash for PodClass {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

/// A hash needs no hashing.
#[derive(Default)]
struct Itself(u64);

impl Hasher for Itself {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// How many pods of each class there are, those that are being deleted left out.
#[derive(Debug, Clone, Default)]
pub struct ClassCounts(Vec<(PodClass, u32)>);

impl ClassCounts {
    pub fn add(&mut self, pod: &PodInfo) {
        if pod.terminating {
            return;
        }
        match self.0.iter_mut().find(|(class, _)| *class == pod.class) {
            Some((_, count)) => *count += 1,
            None => self.0.push((pod.class, 1)),
        }
    }

    /// Takes back what was added.
    pub fn remove(&mut self, pod: &PodInfo) {
        if pod.terminating {
            return;
        }
        let Some(at) = self.0.iter().position(|(class, _)| *class == pod.class) else { return };
        self.0[at].1 -= 1;
        if self.0[at].1 == 0 {
            self.0.swap_remove(at);
        }
    }
}

/// Which classes a selector takes within one namespace. Each class is looked at once, however many nodes and pods there are.
#[derive(Clone, Default)]
pub struct Takes(HashMap<PodClass, bool, BuildHasherDefault<Itself>>);

impl Takes {
    /// How many pods on the node the selector takes.
    pub fn count(&mut self, node: &NodeInfo, namespace: &str, selector: &Selector) -> i64 {
        let takes = |pod: &PodInfo| *pod.namespace == *namespace && selector.matches(&pod.labels);
        for (class, _) in &node.classes.0 {
            self.0
                .entry(*class)
                .or_insert_with(|| node.pods.iter().find(|pod| pod.class == *class).is_some_and(|p| takes(p)));
        }
        self.counted(node)
    }

    /// The same of a node that was counted before.
    pub fn counted(&self, node: &NodeInfo) -> i64 {
        let taken = node.classes.0.iter().filter(|(class, _)| self.0.get(class) == Some(&true));
        taken.map(|(_, count)| i64::from(*count)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{node, pod};

    fn labelled(uid: &str, namespace: &str, app: &str, more: Value) -> Arc<PodInfo> {
        let mut object = json!({"metadata": {"name": uid, "uid": uid, "namespace": namespace, "labels": {"app": app}},
            "spec": {"containers": []}});
        object["metadata"].as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        pod(object)
    }

    #[test]
    fn pods_are_counted_by_namespace_and_labels() {
        let mut info = NodeInfo::new(node(json!({"metadata": {"name": "n"}})));
        let going = json!({"deletionTimestamp": "2024-01-01T00:00:00Z"});
        let pods = [
            labelled("a", "d", "web", json!({})),
            labelled("b", "d", "web", json!({})),
            labelled("c", "other", "web", json!({})),
            labelled("e", "d", "db", json!({})),
            labelled("f", "d", "web", going),
        ];
        pods.iter().for_each(|pod| info.add_pod(pod.clone()));
        let web = Selector::from_map(&[("app".to_owned(), "web".to_owned())].into());
        assert_eq!(info.classes.0.len(), 3);
        let mut takes = Takes::default();
        assert_eq!(takes.count(&info, "d", &web), 2);
        assert!(info.remove_pod("f"));
        assert!(info.remove_pod("a"));
        assert_eq!(takes.counted(&info), 1);
        assert!(info.remove_pod("b"));
        assert_eq!((takes.count(&info, "d", &web), info.classes.0.len()), (0, 2));
    }
}
