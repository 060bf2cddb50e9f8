//! RBAC: roles and bindings turned into an index by subject, rebuilt when any of them changes.
//!
//! Invariant: an [`Index`] is immutable and belongs to one combination of revisions; whoever holds one sees one consistent
//! policy. A request looks up its user name and each of its groups and tests the rules found there, nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api::field::go_quote;
use parking_lot::{Mutex, RwLock};
use serde::Deserialize;
use store::Revision;

use super::{Decision, PolicyRule, Reason};
use crate::{
    attributes::{Action, UserInfo},
    source::{ObjectSource, StoredObject},
};

pub const GROUP: &str = "rbac.authorization.k8s.io";
const RESOURCES: [&str; 4] = ["roles", "clusterroles", "rolebindings", "clusterrolebindings"];

/// What a binding refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RoleRef {
    pub api_group: String,
    pub kind: String,
    pub name: String,
}

/// Who a binding is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subject {
    pub kind: String,
    pub api_group: String,
    pub name: String,
    pub namespace: String,
}

/// The RBAC authorizer.
pub struct Rbac {
    source: Arc<dyn ObjectSource>,
    index: RwLock<Arc<Index>>,
    /// Parsed objects by resource, reused by the next rebuild; also keeps rebuilds one at a time.
    parsed: Mutex<Parsed>,
}

impl std::fmt::Debug for Rbac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rbac").field("version", &self.index.read().version).finish_non_exhaustive()
    }
}

impl Rbac {
    pub fn new(source: Arc<dyn ObjectSource>) -> Self {
        Self { source, index: RwLock::default(), parsed: Mutex::default() }
    }

    pub fn authorize(&self, user: &UserInfo, action: &Action) -> Decision {
        let index = self.index();
        let namespace = match action {
            Action::Resource { namespace, .. } => namespace.as_str(),
            Action::NonResource { .. } => "",
        };
        let mut errors = Vec::new();
        for grant in index.grants(user, namespace) {
            match &grant.rules {
                Ok(rules) if rules.iter().any(|rule| rule.allows(action)) => {
                    return Decision { reason: Reason::GrantedBy(grant.description.clone()), ..Decision::allow() };
                }
                Ok(_) => {}
                Err(error) => push_unique(&mut errors, error),
            }
        }
        match aggregate(&errors) {
            Some(text) => Decision::pass(format!("RBAC: {text}")),
            None => Decision::pass(""),
        }
    }

    /// All rules that hold for a user in a namespace (cluster-wide ones included), and what could not be resolved.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        let index = self.index();
        // A binding counts once however many of its subjects are the user.
        let mut by_binding: BTreeMap<(bool, usize), &Grant> = BTreeMap::new();
        for grant in index.grants(user, namespace) {
            by_binding.entry((grant.namespaced, grant.binding)).or_insert(grant);
        }
        let mut rules = Vec::new();
        let mut errors = Vec::new();
        for grant in by_binding.values() {
            match &grant.rules {
                Ok(found) => rules.extend(found.iter().cloned()),
                Err(error) => errors.push(error.to_string()),
            }
        }
        (rules, errors)
    }

    /// Rules of the role that a binding in `namespace` (empty for a ClusterRoleBinding) refers to; `None` when it is missing.
    pub fn role_rules(&self, role_ref: &RoleRef, namespace: &str) -> Option<Arc<[PolicyRule]>> {
        self.index().role(role_ref, namespace).ok()
    }

    fn index(&self) -> Arc<Index> {
        let version = RESOURCES.map(|resource| self.source.last_change(GROUP, resource));
        let current = self.index.read().clone();
        if current.version == version && current.built {
            return current;
        }
        let mut parsed = self.parsed.lock();
        let current = self.index.read().clone();
        if current.version == version && current.built {
            return current;
        }
        let fresh = Arc::new(Index::build(self.source.as_ref(), version, &mut parsed));
        *self.index.write() = fresh.clone();
        fresh
    }
}

/// A role that a user has through one subject of one binding.
#[derive(Debug)]
struct Grant {
    namespaced: bool,
    /// Position of the binding in its list: rules are reported in this order.
    binding: usize,
    rules: Result<Arc<[PolicyRule]>, Arc<str>>,
    description: Arc<str>,
}

#[derive(Debug, Default)]
struct Subjects {
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

#[derive(Debug, Default)]
struct Index {
    built: bool,
    version: [Revision; 4],
    cluster: Subjects,
    namespaces: HashMap<String, Subjects>,
    roles: HashMap<(String, String), Arc<[PolicyRule]>>,
}

impl Index {
    fn build(source: &dyn ObjectSource, version: [Revision; 4], parsed: &mut Parsed) -> Self {
        let mut index = Self { built: true, version, ..Self::default() };
        for resource in ["roles", "clusterroles"] {
            for (object, role) in parsed.roles(resource, source.list(GROUP, resource, "")) {
                index.roles.insert((object.namespace.clone(), object.name.clone()), role);
            }
        }
        for resource in ["clusterrolebindings", "rolebindings"] {
            for (i, (object, binding)) in
                parsed.bindings(resource, source.list(GROUP, resource, "")).into_iter().enumerate()
            {
                index.add_binding(i, &object, &binding);
            }
        }
        index
    }

    fn add_binding(&mut self, position: usize, object: &StoredObject, binding: &Binding) {
        let namespace = object.namespace.as_str();
        let rules = self.role(&binding.role_ref, namespace).map_err(Arc::from);
        let (kind, binding_name) = if namespace.is_empty() {
            ("ClusterRoleBinding", object.name.clone())
        } else {
            ("RoleBinding", format!("{}/{namespace}", object.name))
        };
        let of = format!(
            "{kind} {} of {} {}",
            go_quote(&binding_name),
            binding.role_ref.kind,
            go_quote(&binding.role_ref.name)
        );
        let subjects = if namespace.is_empty() {
            &mut self.cluster
        } else {
            self.namespaces.entry(namespace.to_owned()).or_default()
        };
        for subject in &binding.subjects {
            let account_namespace = if subject.namespace.is_empty() { namespace } else { &subject.namespace };
            let grants = match subject.kind.as_str() {
                "User" => subjects.users.entry(subject.name.clone()).or_default(),
                "Group" => subjects.groups.entry(subject.name.clone()).or_default(),
                "ServiceAccount" if !account_namespace.is_empty() => {
                    let user = format!("system:serviceaccount:{account_namespace}:{}", subject.name);
                    subjects.users.entry(user).or_default()
                }
                _ => continue,
            };
            let who = match subject.kind.as_str() {
                "ServiceAccount" => go_quote(&format!("{}/{account_namespace}", subject.name)),
                _ => go_quote(&subject.name),
            };
            grants.push(Grant {
                namespaced: !namespace.is_empty(),
                binding: position,
                rules: rules.clone(),
                description: format!("{of} to {} {who}", subject.kind).into(),
            });
        }
    }

    fn role(&self, role_ref: &RoleRef, namespace: &str) -> Result<Arc<[PolicyRule]>, String> {
        let (singular, namespace) = match role_ref.kind.as_str() {
            "Role" => ("role", namespace),
            "ClusterRole" => ("clusterrole", ""),
            other => return Err(format!("unsupported role reference kind: {}", go_quote(other))),
        };
        // Cluster roles have no namespace, so a Role of a ClusterRoleBinding is never found.
        let key = (namespace.to_owned(), role_ref.name.clone());
        let found = if singular == "role" && namespace.is_empty() { None } else { self.roles.get(&key) };
        found.cloned().ok_or_else(|| format!("{singular}.{GROUP} {} not found", go_quote(&role_ref.name)))
    }

    fn grants<'a>(&'a self, user: &'a UserInfo, namespace: &str) -> impl Iterator<Item = &'a Grant> {
        let local = if namespace.is_empty() { None } else { self.namespaces.get(namespace) };
        [Some(&self.cluster), local].into_iter().flatten().flat_map(move |subjects| {
            let own = subjects.users.get(&user.name).into_iter().flatten();
            let of_groups = user.groups.iter().filter_map(|group| subjects.groups.get(group)).flatten();
            own.chain(of_groups)
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Role {
    rules: Option<Vec<PolicyRule>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StoredBinding {
    role_ref: RoleRef,
    subjects: Option<Vec<Subject>>,
}

#[derive(Debug)]
struct Binding {
    role_ref: RoleRef,
    subjects: Vec<Subject>,
}

type Key = (&'static str, String, String);

/// Objects parsed by an earlier build, by resource, namespace and name, valid for one revision.
#[derive(Default)]
struct Parsed {
    roles: HashMap<Key, (Revision, Arc<[PolicyRule]>)>,
    bindings: HashMap<Key, (Revision, Arc<Binding>)>,
}

impl Parsed {
    fn roles(
        &mut self,
        resource: &'static str,
        objects: Vec<Arc<StoredObject>>,
    ) -> Vec<(Arc<StoredObject>, Arc<[PolicyRule]>)> {
        refresh(&mut self.roles, resource, objects, |json| {
            let role: Role = serde_json::from_slice(json)?;
            Ok(role.rules.unwrap_or_default().into())
        })
    }

    fn bindings(
        &mut self,
        resource: &'static str,
        objects: Vec<Arc<StoredObject>>,
    ) -> Vec<(Arc<StoredObject>, Arc<Binding>)> {
        refresh(&mut self.bindings, resource, objects, |json| {
            let stored: StoredBinding = serde_json::from_slice(json)?;
            Ok(Arc::new(Binding { role_ref: stored.role_ref, subjects: stored.subjects.unwrap_or_default() }))
        })
    }
}

/// Parses what changed, forgets what is gone. An object that does not parse grants nothing.
fn refresh<T: Clone>(
    cache: &mut HashMap<Key, (Revision, T)>,
    resource: &'static str,
    objects: Vec<Arc<StoredObject>>,
    parse: impl Fn(&[u8]) -> Result<T, serde_json::Error>,
) -> Vec<(Arc<StoredObject>, T)> {
    let mut kept: HashMap<Key, (Revision, T)> = HashMap::with_capacity(objects.len());
    let mut out = Vec::with_capacity(objects.len());
    for object in objects {
        let key = (resource, object.namespace.clone(), object.name.clone());
        let value = match cache.remove(&key) {
            Some((revision, value)) if revision == object.mod_revision => value,
            _ => match parse(&object.json) {
                Ok(value) => value,
                Err(error) => {
                    tracing::error!(resource, namespace = object.namespace, name = object.name, %error, "unreadable object");
                    continue;
                }
            },
        };
        kept.insert(key, (object.mod_revision, value.clone()));
        out.push((object, value));
    }
    cache.retain(|(other, ..), _| *other != resource);
    cache.extend(kept);
    out
}

fn push_unique(errors: &mut Vec<Arc<str>>, error: &Arc<str>) {
    if !errors.contains(error) {
        errors.push(error.clone());
    }
}

/// One error as it is, several in brackets.
fn aggregate(errors: &[Arc<str>]) -> Option<String> {
    match errors {
        [] => None,
        [one] => Some(one.to_string()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::MemorySource;
    use api::json;

    fn action(verb: &str, resource: &str, namespace: &str) -> Action {
        Action::Resource {
            verb: verb.into(),
            group: String::new(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: String::new(),
            namespace: namespace.into(),
            name: String::new(),
        }
    }

    fn user(name: &str) -> UserInfo {
        UserInfo { name: name.into(), groups: vec!["system:authenticated".into()], ..UserInfo::default() }
    }

    fn reader(source: &MemorySource) {
        source.put(
            GROUP,
            "roles",
            json!({"metadata": {"name": "a", "namespace": "ns"},
                   "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]}),
        );
        source.put(
            GROUP,
            "rolebindings",
            json!({"metadata": {"name": "a", "namespace": "ns"}, "roleRef": {"kind": "Role", "name": "a"},
                   "subjects": [{"kind": "User", "name": "jane"}, {"kind": "ServiceAccount", "name": "sa"}]}),
        );
    }

    #[test]
    fn a_role_binding_grants_in_its_namespace_only() {
        let source = MemorySource::new();
        reader(&source);
        let rbac = Rbac::new(source.shared());
        let decision = rbac.authorize(&user("jane"), &action("list", "configmaps", "ns"));
        assert!(decision.allowed);
        assert_eq!(decision.reason.text(), "RBAC: allowed by RoleBinding \"a/ns\" of Role \"a\" to User \"jane\"");
        assert!(!rbac.authorize(&user("jane"), &action("list", "configmaps", "other")).allowed);
        assert!(!rbac.authorize(&user("jane"), &action("list", "configmaps", "")).allowed);
    }

    #[test]
    fn a_service_account_without_namespace_is_of_the_bindings_namespace() {
        let source = MemorySource::new();
        reader(&source);
        let rbac = Rbac::new(source.shared());
        let decision = rbac.authorize(&user("system:serviceaccount:ns:sa"), &action("list", "configmaps", "ns"));
        assert_eq!(
            decision.reason.text(),
            "RBAC: allowed by RoleBinding \"a/ns\" of Role \"a\" to ServiceAccount \"sa/ns\""
        );
    }

    #[test]
    fn a_change_of_a_role_shows_at_once() {
        let source = MemorySource::new();
        reader(&source);
        let rbac = Rbac::new(source.clone().shared());
        assert!(!rbac.authorize(&user("jane"), &action("get", "configmaps", "ns")).allowed);
        source.put(
            GROUP,
            "roles",
            json!({"metadata": {"name": "a", "namespace": "ns"},
                   "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]}),
        );
        assert!(rbac.authorize(&user("jane"), &action("get", "configmaps", "ns")).allowed);
    }

    #[test]
    fn a_missing_role_is_the_reason_of_a_refusal() {
        let source = MemorySource::new();
        for name in ["x", "y"] {
            source.put(
                GROUP,
                "clusterrolebindings",
                json!({"metadata": {"name": name}, "roleRef": {"kind": "ClusterRole", "name": name},
                       "subjects": [{"kind": "User", "name": "jane"}]}),
            );
        }
        let rbac = Rbac::new(source.shared());
        assert_eq!(
            rbac.authorize(&user("jane"), &action("get", "pods", "")).reason.text(),
            "RBAC: [clusterrole.rbac.authorization.k8s.io \"x\" not found, \
             clusterrole.rbac.authorization.k8s.io \"y\" not found]"
        );
    }

    #[test]
    fn rules_of_a_binding_count_once_for_a_user_named_twice() {
        let source = MemorySource::new();
        reader(&source);
        source.put(
            GROUP,
            "rolebindings",
            json!({"metadata": {"name": "a", "namespace": "ns"}, "roleRef": {"kind": "Role", "name": "a"},
                   "subjects": [{"kind": "User", "name": "jane"}, {"kind": "Group", "name": "system:authenticated"}]}),
        );
        let (rules, errors) = Rbac::new(source.shared()).rules_for(&user("jane"), "ns");
        assert_eq!(rules.len(), 1);
        assert!(errors.is_empty());
    }
}
