//! Which requests a rule is for, on the request's resource or on one that is the same thing in another version.

use std::sync::Arc;

use api::{Kind, Value};

use super::Attributes;

/// A `RuleWithOperations`, or a `NamedRuleWithOperations` of policies.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: Scope,
    /// Objects by name; empty for any.
    names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    All,
    Namespaced,
    Cluster,
    /// A value that the API does not know matches nothing.
    None,
}

impl Rule {
    pub(super) fn parse_all(rules: &Value) -> Vec<Self> {
        rules.as_array().into_iter().flatten().map(Self::parse).collect()
    }

    fn parse(rule: &Value) -> Self {
        let list = |field: &str| {
            rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let scope = match rule["scope"].as_str() {
            None | Some("*") => Scope::All,
            Some("Namespaced") => Scope::Namespaced,
            Some("Cluster") => Scope::Cluster,
            Some(_) => Scope::None,
        };
        Self {
            operations: list("operations"),
            groups: list("apiGroups"),
            versions: list("apiVersions"),
            resources: list("resources"),
            scope,
            names: list("resourceNames"),
        }
    }

    fn matches(&self, attributes: &Attributes<'_>, group: &str, version: &str) -> bool {
        let any_or = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        self.matches_scope(attributes)
            && (self.names.is_empty() || self.names.contains(&attributes.name))
            && any_or(&self.operations, attributes.operation.name())
            && any_or(&self.groups, group)
            && any_or(&self.versions, version)
            && self.resources.iter().any(|resource| {
                let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
                (resource == "*" || *resource == *attributes.kind.resource)
                    && (sub == "*" || sub == attributes.subresource)
            })
    }

    /// A namespace lies in itself here, but is an object of the cluster.
    fn matches_scope(&self, attributes: &Attributes<'_>) -> bool {
        let of_cluster = attributes.is_namespace() || attributes.namespace.is_empty();
        match self.scope {
            Scope::All => true,
            Scope::Namespaced => !of_cluster,
            Scope::Cluster => of_cluster,
            Scope::None => false,
        }
    }
}

/// The kind in whose version a request is wanted by these rules; `None` when it is not wanted. `equivalents` are the other
/// versions of the same resource, which count if they are taken.
pub(super) fn kind_for(
    rules: &[Rule],
    takes_equivalents: bool,
    attributes: &Attributes<'_>,
    equivalents: &[Arc<Kind>],
) -> Option<Arc<Kind>> {
    let kind = attributes.kind;
    if rules.iter().any(|rule| rule.matches(attributes, &kind.group, &kind.version)) {
        return Some(Arc::clone(kind));
    }
    if !takes_equivalents {
        return None;
    }
    // Earlier rules first.
    rules.iter().find_map(|rule| {
        equivalents.iter().find(|other| rule.matches(attributes, &other.group, &other.version)).cloned()
    })
}
