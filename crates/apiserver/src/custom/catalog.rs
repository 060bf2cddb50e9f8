//! The kinds that are served: the built-in ones, and those of definitions.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Kind;
use api::custom::Definition;
use api::discovery::{self, ApiGroup, ApiVersion};
use api::kinds::Registry;
use parking_lot::RwLock;

/// All served kinds. Cheap to read; a change makes a new snapshot.
#[derive(Debug)]
pub(crate) struct Catalog {
    builtin: &'static Registry,
    custom: RwLock<Arc<Snapshot>>,
}

/// The custom kinds at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// Grows with every change: the name of what is derived from a snapshot.
    pub serial: u64,
    groups: BTreeMap<Arc<str>, Arc<Group>>,
}

/// What definitions serve in one group.
#[derive(Debug)]
struct Group {
    /// Preferred first.
    versions: Vec<Version>,
}

#[derive(Debug)]
struct Version {
    name: String,
    /// By resource.
    kinds: Vec<Arc<Kind>>,
}

impl Catalog {
    pub(crate) fn new(builtin: &'static Registry) -> Self {
        Self { builtin, custom: RwLock::default() }
    }

    pub(crate) fn builtin(&self) -> &'static Registry {
        self.builtin
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.custom.read())
    }

    /// A served kind by resource: `("apps", "v1", "deployments")`.
    pub(crate) fn kind(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Kind>> {
        match self.builtin.by_resource(group, version, resource) {
            Some(kind) => Some(Arc::clone(kind)),
            None => self.custom.read().kind(group, version, resource).cloned(),
        }
    }

    /// Replaces what is served in some groups. A group without definitions that are served goes.
    pub(crate) fn publish<'d>(&self, groups: impl IntoIterator<Item = (&'d str, Vec<Arc<Definition>>)>) {
        let mut next = self.snapshot().as_ref().clone();
        for (name, definitions) in groups {
            match Group::new(&definitions) {
                Some(group) => next.groups.insert(name.into(), Arc::new(group)),
                None => next.groups.remove(name),
            };
        }
        next.serial += 1;
        *self.custom.write() = Arc::new(next);
    }
}

impl Snapshot {
    fn kind(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Kind>> {
        let versions = &self.groups.get(group)?.versions;
        let kinds = &versions.iter().find(|v| v.name == version)?.kinds;
        let at = kinds.binary_search_by(|kind| kind.resource.as_ref().cmp(resource)).ok()?;
        Some(&kinds[at])
    }

    pub(crate) fn kinds(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.groups.values().flat_map(|group| group.versions.iter().flat_map(|version| &version.kinds))
    }

    /// Every group and version that definitions serve something in.
    pub(crate) fn group_versions(&self) -> impl Iterator<Item = (&str, &str)> {
        let groups = self.groups.iter();
        groups
            .flat_map(|(name, group)| group.versions.iter().map(move |version| (name.as_ref(), version.name.as_str())))
    }

    pub(crate) fn of_group_version(&self, group: &str, version: &str) -> &[Arc<Kind>] {
        let versions = self.groups.get(group).map(|group| &group.versions);
        let found = versions.and_then(|versions| versions.iter().find(|v| v.name == version));
        found.map_or(&[], |version| &version.kinds)
    }

    /// All groups in discovery order: the built-in ones, then those of definitions.
    pub(crate) fn api_groups(&self) -> Vec<ApiGroup<'_>> {
        let mut out: Vec<ApiGroup<'_>> = discovery::builtin();
        for (name, group) in &self.groups {
            let own = group.versions.iter().map(|version| ApiVersion {
                version: &version.name,
                kinds: version.kinds.iter().map(AsRef::as_ref).collect(),
                stale: false,
            });
            match out.iter_mut().find(|known| known.name == name.as_ref()) {
                Some(known) => own.for_each(|version| merge(known, version)),
                None => out.push(ApiGroup { name, versions: own.collect() }),
            }
        }
        out
    }
}

/// A definition in a built-in group adds to it.
fn merge<'k>(group: &mut ApiGroup<'k>, version: ApiVersion<'k>) {
    match group.versions.iter_mut().find(|known| known.version == version.version) {
        Some(known) => {
            known.kinds.extend(version.kinds);
            known.kinds.sort_by(|a, b| a.resource.cmp(&b.resource));
        }
        None => group.versions.push(version),
    }
}

impl Group {
    fn new(definitions: &[Arc<Definition>]) -> Option<Self> {
        let mut versions: Vec<Version> = Vec::new();
        for kind in definitions.iter().filter(|d| d.is_served()).flat_map(|d| d.kinds()) {
            match versions.iter_mut().find(|version| version.name == kind.version) {
                Some(version) => version.kinds.push(kind),
                None => versions.push(Version { name: kind.version.to_string(), kinds: vec![kind] }),
            }
        }
        for version in &mut versions {
            version.kinds.sort_by(|a, b| a.resource.cmp(&b.resource));
        }
        versions.sort_by(|a, b| api::kind::compare_versions(&b.name, &a.name));
        (!versions.is_empty()).then_some(Self { versions })
    }
}
