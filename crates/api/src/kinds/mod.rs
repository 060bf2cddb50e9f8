//! The built-in kinds: a table of facts, and what differs per kind beyond it.
//!
//! [`builtin`] is the registry of every resource that a default server serves. The table is `data/kinds.tsv`; the functions
//! of a kind are its row in [`strategies`].

pub mod admission;
pub mod apps;
pub mod autoscaling;
pub mod batch;
pub mod carry;
pub mod certificates;
pub mod configmap;
pub mod customresourcedefinition;
pub mod dra;
pub mod endpoints;
pub mod event;
pub mod flowcontrol;
pub mod limitrange;
mod load;
pub mod namespace;
pub mod networking;
pub mod node;
pub mod persistentvolume;
pub mod persistentvolumeclaim;
pub mod pod;
pub mod policy;
pub mod rbac;
pub mod replicationcontroller;
pub mod resourcequota;
pub mod scheduling;
pub mod service;
pub mod serviceaccount;
pub mod storage;
pub mod strategies;
pub mod volumes;

use std::sync::{Arc, LazyLock, OnceLock};

use hashbrown::HashMap;

use crate::kind::Kind;
use crate::rules::WriteRules;

/// An API group as discovery and the aggregator list it.
#[derive(Clone, Debug)]
pub struct Group {
    /// Empty for the core group.
    pub name: &'static str,
    /// Preferred version first.
    pub versions: Vec<GroupVersion>,
}

/// A version of a group with the priorities of its automatically registered APIService.
#[derive(Clone, Debug)]
pub struct GroupVersion {
    pub version: &'static str,
    /// `groupPriorityMinimum` and `versionPriority`; `None` for apiregistration.k8s.io, which has no APIService of its own.
    pub priority: Option<(i32, i32)>,
}

/// All built-in resources, in discovery order of their groups' versions.
#[derive(Debug)]
pub struct Registry {
    kinds: Vec<Arc<Kind>>,
    groups: Vec<Group>,
    by_resource: HashMap<(&'static str, &'static str, &'static str), usize>,
    by_kind: HashMap<(&'static str, &'static str, &'static str), usize>,
}

/// The built-in registry; parsed on first use.
pub fn builtin() -> &'static Registry {
    static BUILTIN: OnceLock<Registry> = OnceLock::new();
    BUILTIN.get_or_init(|| load::parse(include_str!("../../data/kinds.tsv")))
}

/// Kinds whose every request is answered with a warning of their deprecation.
const DEPRECATED: [(&str, &str, &str); 2] = [
    ("", "Endpoints", "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
    ("", "ComponentStatus", "v1 ComponentStatus is deprecated in v1.19+"),
];

/// What to tell everybody who uses a kind; it comes before all other warnings.
pub fn deprecation(kind: &Kind) -> Option<&str> {
    if let Some(custom) = kind.custom() {
        return custom.deprecation();
    }
    DEPRECATED.iter().find(|(group, name, _)| kind.group == *group && kind.kind == *name).map(|(_, _, text)| *text)
}

/// What the `scale` subresources read and write: a small object that is never stored.
pub fn scale() -> &'static Kind {
    static SCALE: LazyLock<Kind> = LazyLock::new(|| {
        let like = builtin().by_kind("apps", "v1", "Deployment").expect("deployments are built in");
        let scale = like.subresource("scale").expect("deployments have a scale");
        Kind {
            group: scale.group.clone(),
            version: scale.version.clone(),
            kind: scale.kind.clone(),
            type_name: scale.type_name.clone(),
            type_id: scale.type_id,
            storage_prefix: "".into(),
            storage_version: "".into(),
            rules: WriteRules { apply_resets: Vec::new(), status_apply_resets: Vec::new(), ..like.rules.clone() },
            subresources: Vec::new(),
            selectable_fields: Vec::new(),
            ..Kind::clone(like)
        }
    });
    &SCALE
}

impl Registry {
    /// `("apps", "v1", "deployments")`.
    pub fn by_resource(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Kind>> {
        self.by_resource.get(&(group, version, resource)).map(|&i| &self.kinds[i])
    }

    /// `("apps", "v1", "Deployment")`.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.by_kind.get(&(group, version, kind)).map(|&i| &self.kinds[i])
    }

    pub fn kinds(&self) -> &[Arc<Kind>] {
        &self.kinds
    }

    /// Resources of one group and version, in table order (alphabetical by resource).
    pub fn of_group_version<'r>(&'r self, group: &'r str, version: &'r str) -> impl Iterator<Item = &'r Arc<Kind>> {
        self.kinds.iter().filter(move |k| k.group == group && k.version == version)
    }

    /// Groups in discovery order, the core group first.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|g| g.name == name)
    }

    /// The kind in whose form this kind is stored: itself, except for events.k8s.io and autoscaling/v1.
    pub fn storage_kind<'r>(&'r self, kind: &'r Kind) -> Option<&'r Arc<Kind>> {
        let (group, version) = kind.storage_version.rsplit_once('/').unwrap_or(("", &kind.storage_version));
        self.by_resource(group, version, &kind.resource)
    }
}

#[cfg(test)]
mod tests;
