//! Who owns whom, and who needs a look. Pure: fed with observations, answers with wakes.
//!
//! Invariants: `dependents` of a node are exactly the uids of nodes that name it as an owner. A node is *virtual* while only
//! somebody's ownerReference speaks of it; it turns real when observed, or is verified (and removed) by a live look.

use std::collections::{BTreeSet, HashMap};

use api::occurrences::Occurrences;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::ApiResource;

use crate::ownership;

pub(super) type Uid = String;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// What the graph wants looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wake {
    /// Should it be deleted, or may its deletion go on?
    Delete(Uid),
    /// Its dependents must be let go.
    Orphan(Uid),
}

/// How to name an object in the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub uid: Uid,
}

impl Identity {
    /// Does a reference in an object of that namespace name this one? Any version of its group does.
    fn is_named_by(&self, reference: &OwnerReference, namespace: &str) -> bool {
        ownership::group(&self.api_version) == ownership::group(&reference.api_version)
            && self.kind == reference.kind
            && self.name == reference.name
            && self.uid == reference.uid
            && (self.namespace.is_empty() || self.namespace == namespace)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub identity: Identity,
    pub owners: Vec<OwnerReference>,
    pub dependents: BTreeSet<Uid>,
    /// Known only from references to it.
    pub is_virtual: bool,
    pub being_deleted: bool,
    /// Being deleted with dependents first.
    pub deleting_dependents: bool,
}

#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<Uid, Node>,
}

impl Graph {
    pub(super) fn node(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub(super) fn dependents(&self, uid: &str) -> Vec<Node> {
        let dependents = self.nodes.get(uid).map(|node| &node.dependents);
        dependents.into_iter().flatten().filter_map(|uid| self.nodes.get(uid).cloned()).collect()
    }

    /// Dependents that hold up a foreground deletion of this owner.
    pub(super) fn blocking_dependents(&self, uid: &str) -> Vec<Node> {
        let blocks =
            |node: &Node| node.owners.iter().any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true));
        self.dependents(uid).into_iter().filter(blocks).collect()
    }

    /// An object as the API server has it now.
    pub(super) fn observe(&mut self, api: &ApiResource, meta: &ObjectMeta) -> Vec<Wake> {
        let uid = ownership::uid(meta).to_owned();
        let identity = Identity {
            api_version: api.api_version.clone(),
            kind: api.kind.clone(),
            namespace: ownership::namespace(meta).to_owned(),
            name: ownership::name(meta).to_owned(),
            uid: uid.clone(),
        };
        let owners = meta.owner_references.clone().unwrap_or_default();
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|one| one == finalizer);
        let being_deleted = meta.deletion_timestamp.is_some();
        let deleting_dependents = being_deleted && has(FOREGROUND);
        let orphaning = being_deleted && has(ORPHAN);

        let before = self.nodes.get(&uid).map(|node| (node.owners.clone(), node.is_virtual));
        let (known, is_new) = before.as_ref().map_or((&[][..], true), |(owners, is_virtual)| (owners, *is_virtual));
        let mut wakes = self.link(&uid, known, &owners, &identity.namespace);
        let known = Occurrences::of(known.iter().map(whole));
        let added: Vec<OwnerReference> =
            owners.iter().filter(|owner| !known.contains(&whole(owner))).cloned().collect();
        let (mut dependents, mut was_deleted, mut was_deleting_dependents) = (BTreeSet::new(), false, false);
        if let Some(node) = self.nodes.get_mut(&uid) {
            // There may be thousands.
            dependents = std::mem::take(&mut node.dependents);
            (was_deleted, was_deleting_dependents) = (node.being_deleted, node.deleting_dependents);
        }
        let node = Node { identity, owners, dependents, is_virtual: false, being_deleted, deleting_dependents };
        wakes.extend(self.doubtful(&node.identity, &added));
        let waited_for: Vec<Uid> = node.owners.iter().map(|owner| owner.uid.clone()).collect();
        self.nodes.insert(uid.clone(), node);

        if orphaning {
            wakes.push(Wake::Orphan(uid.clone()));
        }
        if deleting_dependents && (is_new || !was_deleting_dependents) {
            wakes.extend(self.dependents_wake(&uid));
            wakes.push(Wake::Delete(uid.clone()));
        }
        if being_deleted && !was_deleted {
            // Owners waiting for this dependent may go on; and it may itself wait for dependents.
            wakes.extend(waited_for.into_iter().map(Wake::Delete));
        }
        if is_new && before.is_some() {
            wakes.extend(self.misled_dependents(&uid));
        }
        wakes
    }

    /// The API server no longer has the object.
    pub(super) fn remove(&mut self, meta: &ObjectMeta) -> Vec<Wake> {
        self.remove_uid(ownership::uid(meta))
    }

    /// A live look found no such object.
    pub(super) fn remove_uid(&mut self, uid: &str) -> Vec<Wake> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut wakes: Vec<Wake> = node.dependents.iter().cloned().map(Wake::Delete).collect();
        for owner in &node.owners {
            if let Some(owner_node) = self.nodes.get_mut(&owner.uid) {
                owner_node.dependents.remove(uid);
                if owner_node.deleting_dependents {
                    wakes.push(Wake::Delete(owner.uid.clone()));
                }
            }
        }
        // Kept as a virtual node while somebody still refers to it, so that those links stay true.
        if !node.dependents.is_empty() {
            let gone =
                Node { owners: Vec::new(), is_virtual: true, being_deleted: false, deleting_dependents: false, ..node };
            self.nodes.insert(uid.to_owned(), gone);
        }
        self.drop_unreferenced(&node.owners);
        wakes
    }

    /// The resource is no longer served: its objects are as good as unseen.
    pub(super) fn forget_resource(&mut self, api: &ApiResource) -> Vec<Wake> {
        let of_resource = |node: &&Node| {
            !node.is_virtual && node.identity.api_version == api.api_version && node.identity.kind == api.kind
        };
        let uids: Vec<Uid> = self.nodes.values().filter(of_resource).map(|node| node.identity.uid.clone()).collect();
        uids.iter().flat_map(|uid| self.remove_uid(uid)).collect()
    }

    /// Moves `uid` from its old owners to its new ones. Owners never seen become virtual nodes, to be looked up.
    fn link(&mut self, uid: &str, old: &[OwnerReference], new: &[OwnerReference], namespace: &str) -> Vec<Wake> {
        let mut wakes = Vec::new();
        let uids = Occurrences::of(new.iter().map(|owner| owner.uid.as_str()));
        for owner in old.iter().filter(|owner| !uids.contains(&owner.uid.as_str())) {
            if let Some(node) = self.nodes.get_mut(&owner.uid) {
                node.dependents.remove(uid);
                if node.deleting_dependents {
                    wakes.push(Wake::Delete(owner.uid.clone()));
                }
            }
        }
        self.drop_unreferenced(old);
        for owner in new {
            let node = self.nodes.entry(owner.uid.clone()).or_insert_with(|| virtual_node(owner, namespace));
            node.dependents.insert(uid.to_owned());
        }
        // Unblocking a reference lets its owner go on as removing it does.
        for (before, after) in old.iter().filter_map(|old| Some((old, &new[uids.first(&old.uid.as_str())?]))) {
            let unblocked = before.block_owner_deletion == Some(true) && after.block_owner_deletion != Some(true);
            if unblocked && self.nodes.get(&after.uid).is_some_and(|node| node.deleting_dependents) {
                wakes.push(Wake::Delete(after.uid.clone()));
            }
        }
        wakes
    }

    /// What must be asked for live before an object with new owners may be left alone. An owner that was observed, as it is named and
    /// not going, is none of it: that it goes will be observed too. One never seen is asked for once, however many name it.
    fn doubtful(&self, item: &Identity, added: &[OwnerReference]) -> Vec<Wake> {
        let mut wakes = Vec::new();
        for reference in added {
            match self.nodes.get(&reference.uid) {
                Some(owner) if !owner.identity.is_named_by(reference, &item.namespace) => {}
                // What is in no namespace may name no owner in one, whether or not there is such an owner.
                Some(owner) if owner.is_virtual && !item.namespace.is_empty() => {
                    wakes.push(Wake::Delete(reference.uid.clone()));
                    continue;
                }
                Some(owner) if !owner.is_virtual && !owner.being_deleted => continue,
                _ => {}
            }
            wakes.push(Wake::Delete(item.uid.clone()));
        }
        wakes
    }

    /// Dependents that name another namespace, kind or name than the object turned out to have.
    fn misled_dependents(&self, uid: &str) -> Vec<Wake> {
        let Some(owner) = self.nodes.get(uid) else { return Vec::new() };
        let is_misled = |node: &&Node| {
            let mut references = node.owners.iter().filter(|reference| reference.uid == uid);
            references.any(|reference| !owner.identity.is_named_by(reference, &node.identity.namespace))
        };
        let dependents = owner.dependents.iter().filter_map(|uid| self.nodes.get(uid));
        dependents.filter(is_misled).map(|node| Wake::Delete(node.identity.uid.clone())).collect()
    }

    fn drop_unreferenced(&mut self, owners: &[OwnerReference]) {
        for owner in owners {
            if self.nodes.get(&owner.uid).is_some_and(|node| node.is_virtual && node.dependents.is_empty()) {
                self.nodes.remove(&owner.uid);
            }
        }
    }

    fn dependents_wake(&self, uid: &str) -> Vec<Wake> {
        self.nodes.get(uid).into_iter().flat_map(|node| node.dependents.iter().cloned().map(Wake::Delete)).collect()
    }
}

/// All that a reference says.
fn whole(owner: &OwnerReference) -> (&str, &str, &str, &str, Option<bool>, Option<bool>) {
    let OwnerReference { api_version, kind, name, uid, controller, block_owner_deletion } = owner;
    (uid, name, kind, api_version, *controller, *block_owner_deletion)
}

fn virtual_node(owner: &OwnerReference, namespace: &str) -> Node {
    Node {
        identity: Identity {
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            namespace: namespace.to_owned(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        },
        owners: Vec::new(),
        dependents: BTreeSet::new(),
        is_virtual: true,
        being_deleted: false,
        deleting_dependents: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn config_maps() -> ApiResource {
        ApiResource {
            group: String::new(),
            version: "v1".into(),
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            plural: "configmaps".into(),
        }
    }

    fn meta(uid: &str, owners: &[&str]) -> ObjectMeta {
        let reference = |owner: &&str| OwnerReference {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            name: (*owner).into(),
            uid: (*owner).into(),
            block_owner_deletion: Some(true),
            ..OwnerReference::default()
        };
        ObjectMeta {
            name: Some(uid.into()),
            namespace: Some("n".into()),
            uid: Some(uid.into()),
            owner_references: Some(owners.iter().map(reference).collect()),
            ..ObjectMeta::default()
        }
    }

    fn going(uid: &str, owners: &[&str], finalizer: &str) -> ObjectMeta {
        let finalizers = Some(vec![finalizer.to_owned()]).filter(|_| !finalizer.is_empty());
        ObjectMeta { deletion_timestamp: Some(clock::now()), finalizers, ..meta(uid, owners) }
    }

    fn delete(uid: &str) -> Wake {
        Wake::Delete(uid.into())
    }

    #[test]
    fn an_owner_never_seen_is_virtual_until_observed() {
        let mut graph = Graph::default();
        assert_eq!(graph.observe(&config_maps(), &meta("child", &["owner"])), [delete("owner")]);
        assert!(graph.node("owner").is_some_and(|node| node.is_virtual));
        assert_eq!(graph.observe(&config_maps(), &meta("owner", &[])), []);
        assert!(graph.node("owner").is_some_and(|node| !node.is_virtual && node.dependents.contains("child")));
    }

    #[test]
    fn who_names_an_observed_owner_rightly_is_not_looked_at() {
        let mut graph = Graph::default();
        graph.observe(&config_maps(), &meta("owner", &[]));
        assert_eq!(graph.observe(&config_maps(), &meta("child", &["owner"])), []);
        let wrong = |change: fn(&mut ObjectMeta)| {
            let mut meta = meta("wrong", &["owner"]);
            change(&mut meta);
            meta
        };
        let elsewhere = wrong(|meta| meta.namespace = Some("other".into()));
        let unplaced = wrong(|meta| meta.namespace = None);
        let misnamed = wrong(|meta| meta.owner_references.iter_mut().flatten().for_each(|one| one.name = "no".into()));
        let of_another_kind =
            wrong(|meta| meta.owner_references.iter_mut().flatten().for_each(|one| one.kind = "Secret".into()));
        for meta in [elsewhere, unplaced, misnamed, of_another_kind] {
            assert_eq!(graph.observe(&config_maps(), &meta), [delete("wrong")], "{meta:?}");
            graph.remove(&meta);
        }
        graph.observe(&config_maps(), &going("owner", &[], FOREGROUND));
        assert_eq!(graph.observe(&config_maps(), &meta("late", &["owner"])), [delete("late")]);
    }

    #[test]
    fn who_named_an_owner_wrongly_is_looked_at_when_it_is_observed() {
        let mut graph = Graph::default();
        let stray = ObjectMeta { namespace: Some("other".into()), ..meta("stray", &["owner"]) };
        graph.observe(&config_maps(), &stray);
        graph.observe(&config_maps(), &meta("child", &["owner"]));
        assert_eq!(graph.observe(&config_maps(), &meta("owner", &[])), [delete("stray")]);
        assert_eq!(
            graph.observe(&config_maps(), &ObjectMeta { namespace: None, ..meta("bare", &["none"]) }),
            [delete("bare")]
        );
    }

    #[test]
    fn when_an_owner_goes_its_dependents_are_looked_at() {
        let mut graph = Graph::default();
        graph.observe(&config_maps(), &meta("owner", &[]));
        graph.observe(&config_maps(), &meta("child", &["owner"]));
        assert_eq!(graph.remove(&meta("owner", &[])), [delete("child")]);
        assert!(graph.node("owner").is_some_and(|node| node.is_virtual));
        graph.remove(&meta("child", &["owner"]));
        assert!(graph.node("owner").is_none(), "nobody speaks of it any more");
    }

    #[test]
    fn a_foreground_deletion_wakes_dependents_and_then_the_owner() {
        let mut graph = Graph::default();
        graph.observe(&config_maps(), &meta("owner", &[]));
        graph.observe(&config_maps(), &meta("child", &["owner"]));
        let wakes = graph.observe(&config_maps(), &going("owner", &[], FOREGROUND));
        assert_eq!(wakes, [delete("child"), delete("owner")]);
        assert_eq!(graph.blocking_dependents("owner").len(), 1);
        assert_eq!(graph.remove(&meta("child", &["owner"])), [delete("owner")]);
        assert!(graph.blocking_dependents("owner").is_empty());
    }

    #[test]
    fn an_orphaning_deletion_asks_to_let_dependents_go() {
        let mut graph = Graph::default();
        graph.observe(&config_maps(), &meta("child", &["owner"]));
        graph.observe(&config_maps(), &meta("owner", &[]));
        assert_eq!(graph.observe(&config_maps(), &going("owner", &[], ORPHAN)), [Wake::Orphan("owner".into())]);
        graph.observe(&config_maps(), &meta("child", &[]));
        assert!(graph.dependents("owner").is_empty());
    }
}
