//! The cluster as one scheduling cycle sees it: nodes in zone-interleaved order with the pods on them.
//!
//! The cache owns the only snapshot and changes it in place between cycles; a cycle borrows it. So taking a snapshot costs
//! nothing, whatever changed. Invariants: `order` lists exactly the known nodes; pods are only on known nodes; `image_nodes`
//! counts the known nodes that hold an image.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;

use crate::model::devices::Devices;
use crate::model::labels::{Labels, Selector};
use crate::model::storage::{Storage, claim_key};
use crate::model::{NodeFacts, NodeInfo, PodInfo};

/// A disruption budget as preemption sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct DisruptionBudget {
    pub namespace: String,
    pub selector: Selector,
    pub disruptions_allowed: i32,
    /// Names of pods whose eviction has already been counted.
    pub disrupted_pods: BTreeSet<String>,
}

/// Nodes, pods and the few other facts plugins ask for.
#[derive(Default)]
pub struct Snapshot {
    slots: Vec<Option<NodeInfo>>,
    free: Vec<usize>,
    by_name: HashMap<Arc<str>, usize>,
    order: Vec<usize>,
    with_affinity: BTreeSet<usize>,
    with_required_anti_affinity: BTreeSet<usize>,
    image_nodes: HashMap<String, u32>,
    prefer_no_schedule_nodes: usize,
    /// `order` holds the right nodes but not yet in the right order.
    unsettled: bool,
    /// Labels of every namespace.
    pub namespaces: HashMap<String, Labels>,
    /// Disruption budgets by `namespace/name`.
    pub budgets: BTreeMap<String, DisruptionBudget>,
    /// Selectors of services, by namespace and name.
    pub services: BTreeMap<(String, String), Selector>,
    /// Selectors of replica sets, stateful sets and replication controllers, by uid.
    pub owner_selectors: HashMap<String, Selector>,
    pub storage: Arc<Storage>,
    pub devices: Arc<Devices>,
    /// The time of the cycle.
    pub now: Timestamp,
    /// How many pods on nodes use a claim (`namespace/name`).
    claim_users: HashMap<String, u32>,
}

impl Snapshot {
    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The node at a place of the interleaved order; `index` is below `len()`.
    pub fn at(&self, index: usize) -> &NodeInfo {
        self.slot(self.order[index])
    }

    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.order.iter().map(|slot| self.slot(*slot))
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).map(|slot| self.slot(*slot))
    }

    /// Nodes that hold a pod with any pod affinity or anti-affinity.
    pub fn nodes_with_affinity(&self) -> impl Iterator<Item = &NodeInfo> {
        self.with_affinity.iter().map(|slot| self.slot(*slot))
    }

    /// Nodes that hold a pod with required pod anti-affinity.
    pub fn nodes_with_required_anti_affinity(&self) -> impl Iterator<Item = &NodeInfo> {
        self.with_required_anti_affinity.iter().map(|slot| self.slot(*slot))
    }

    /// How many nodes hold an image.
    pub fn nodes_with_image(&self, image: &str) -> u32 {
        self.image_nodes.get(image).copied().unwrap_or(0)
    }

    pub fn has_images(&self) -> bool {
        !self.image_nodes.is_empty()
    }

    /// Whether any node has a taint that only asks to be avoided.
    pub fn has_prefer_no_schedule_taints(&self) -> bool {
        self.prefer_no_schedule_nodes > 0
    }

    /// The labels of a namespace; none when it is not known.
    pub fn namespace_labels(&self, namespace: &str) -> &Labels {
        static NONE: Labels = Labels::new();
        self.namespaces.get(namespace).unwrap_or(&NONE)
    }

    /// What says which pods are of a kind with this one: the services that select it and its controller. `None` when nothing does.
    pub fn default_selector(&self, pod: &PodInfo) -> Option<Selector> {
        let mut selector = Selector::default();
        let namespace = &*pod.namespace;
        let from = (namespace.to_owned(), String::new());
        for ((_, _), service) in self.services.range(from..).take_while(|((of, _), _)| of == namespace) {
            if service.matches(&pod.labels) {
                selector.and(service);
            }
        }
        let owners = pod.pod.metadata.owner_references.iter().flatten();
        let owner = owners.into_iter().find(|owner| owner.controller == Some(true));
        if let Some(own) = owner.and_then(|owner| self.owner_selectors.get(&owner.uid)) {
            selector.and(own);
        }
        (!selector.is_everything()).then_some(selector)
    }

    /// Adds a node or replaces its facts; pods on it stay.
    pub fn put_node(&mut self, facts: Arc<NodeFacts>) {
        let moved = match self.by_name.get(&facts.name).copied() {
            Some(slot) => {
                let before = self.slot(slot).facts.clone();
                self.count_facts(&before, false);
                self.slot_mut(slot).facts = facts.clone();
                before.zone() != facts.zone()
            }
            None => {
                let info = Some(NodeInfo::new(facts.clone()));
                let slot = match self.free.pop() {
                    Some(slot) => {
                        self.slots[slot] = info;
                        slot
                    }
                    None => {
                        self.slots.push(info);
                        self.slots.len() - 1
                    }
                };
                self.by_name.insert(facts.name.clone(), slot);
                self.order.push(slot);
                true
            }
        };
        self.count_facts(&facts, true);
        self.unsettled |= moved;
    }

    /// Takes a node away with whatever is on it, and returns it.
    pub fn remove_node(&mut self, name: &str) -> Option<NodeInfo> {
        let slot = self.by_name.remove(name)?;
        let info = self.slots[slot].take()?;
        self.free.push(slot);
        self.order.retain(|other| *other != slot);
        self.with_affinity.remove(&slot);
        self.with_required_anti_affinity.remove(&slot);
        self.count_facts(&info.facts, false);
        for pod in &info.pods {
            self.count_claims(pod, false);
        }
        self.unsettled = true;
        Some(info)
    }

    /// Puts a pod on a node; `false` when the node is not known.
    pub fn add_pod(&mut self, node: &str, pod: Arc<PodInfo>) -> bool {
        let Some(slot) = self.by_name.get(node).copied() else { return false };
        self.count_claims(&pod, true);
        self.slot_mut(slot).add_pod(pod);
        self.index_affinity(slot);
        true
    }

    /// Takes a pod off a node; `false` when it is not there.
    pub fn remove_pod(&mut self, node: &str, uid: &str) -> bool {
        let Some(slot) = self.by_name.get(node).copied() else { return false };
        let leaving = self.slot(slot).pods.iter().find(|pod| &*pod.uid == uid).cloned();
        if let Some(pod) = &leaving {
            self.count_claims(pod, false);
        }
        let removed = self.slot_mut(slot).remove_pod(uid);
        self.index_affinity(slot);
        removed
    }

    /// How many pods on nodes use a claim.
    pub fn users_of_claim(&self, namespace: &str, name: &str) -> u32 {
        self.claim_users.get(&claim_key(namespace, name)).copied().unwrap_or(0)
    }

    fn count_claims(&mut self, pod: &PodInfo, present: bool) {
        for claim in &pod.claims {
            let key = claim_key(&pod.namespace, &claim.name);
            let count = self.claim_users.entry(key.clone()).or_default();
            *count = if present { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.claim_users.remove(&key);
            }
        }
    }

    fn index_affinity(&mut self, slot: usize) {
        let (any, required) = {
            let node = self.slot(slot);
            (node.pods_with_affinity > 0, node.pods_with_required_anti_affinity > 0)
        };
        for (set, member) in [(&mut self.with_affinity, any), (&mut self.with_required_anti_affinity, required)] {
            if member {
                set.insert(slot);
            } else {
                set.remove(&slot);
            }
        }
    }

    fn count_facts(&mut self, facts: &NodeFacts, present: bool) {
        if facts.taints.iter().any(|taint| taint.effect == "PreferNoSchedule") {
            self.prefer_no_schedule_nodes =
                if present { self.prefer_no_schedule_nodes + 1 } else { self.prefer_no_schedule_nodes - 1 };
        }
        for image in facts.images.keys() {
            let count = self.image_nodes.entry(image.clone()).or_default();
            *count = if present { *count + 1 } else { *count - 1 };
            if *count == 0 {
                self.image_nodes.remove(image);
            }
        }
    }

    /// Brings the order up to date; to be called before a cycle.
    pub fn settle(&mut self) {
        if std::mem::take(&mut self.unsettled) {
            self.interleave();
        }
    }

    /// Rebuilds the order: one node of each zone in turn, zones and nodes in order of arrival.
    fn interleave(&mut self) {
        let mut zone_names: Vec<String> = Vec::new();
        let mut zones: Vec<Vec<usize>> = Vec::new();
        // Slots are reused, so arrival is read from the previous order, which holds every known node.
        for slot in &self.order {
            let zone = self.slots[*slot].as_ref().map(|node| node.facts.zone()).unwrap_or_default();
            match zone_names.iter().position(|name| *name == zone) {
                Some(at) => zones[at].push(*slot),
                None => {
                    zone_names.push(zone);
                    zones.push(vec![*slot]);
                }
            }
        }
        let longest = zones.iter().map(Vec::len).max().unwrap_or(0);
        let turns = (0..longest).flat_map(|turn| zones.iter().filter_map(move |zone| zone.get(turn).copied()));
        self.order = turns.collect();
    }

    fn slot(&self, slot: usize) -> &NodeInfo {
        self.slots[slot].as_ref().expect("order and by_name only name filled slots")
    }

    fn slot_mut(&mut self, slot: usize) -> &mut NodeInfo {
        self.slots[slot].as_mut().expect("order and by_name only name filled slots")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};
    use serde_json::json;

    fn names(snapshot: &Snapshot) -> Vec<&str> {
        snapshot.nodes().map(|node| &**node.name()).collect()
    }

    #[test]
    fn nodes_are_listed_one_zone_after_the_other() {
        let mut snapshot = Snapshot::default();
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a"), ("b2", "b")] {
            snapshot
                .put_node(node(json!({"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}})));
        }
        snapshot.settle();
        assert_eq!(names(&snapshot), ["a1", "b1", "a2", "b2", "a3"]);
        assert!(snapshot.remove_node("a1").is_some());
        assert_eq!(snapshot.len(), 4);
    }

    #[test]
    fn pods_add_to_and_leave_the_totals_of_their_node() {
        let mut snapshot = Snapshot::default();
        snapshot.put_node(node(json!({"metadata": {"name": "n"}})));
        let guest = pod(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": "2"}}, "ports": [{"containerPort": 80, "hostPort": 80}]}]}}));
        assert!(snapshot.add_pod("n", guest));
        assert_eq!(snapshot.at(0).requested.milli_cpu, 2000);
        assert_eq!(snapshot.at(0).ports.len(), 1);
        assert!(snapshot.remove_pod("n", "u"));
        assert_eq!(snapshot.at(0).requested.milli_cpu, 0);
        assert!(snapshot.at(0).ports.is_empty());
        assert!(!snapshot.remove_pod("n", "u"));
    }
}
