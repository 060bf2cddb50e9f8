//! Aggregated cluster roles: the rules of a role with an `aggregationRule` are those of all roles its selectors match.
//! The controller writes the result; this is the computation, shared with the bootstrap roles.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::PolicyRule;

/// A label selector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    pub match_labels: BTreeMap<String, String>,
    pub match_expressions: Vec<Requirement>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Requirement {
    pub key: String,
    pub operator: String,
    pub values: Vec<String>,
}

impl Selector {
    /// An empty selector matches everything; an unknown operator matches nothing.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|r| r.matches(labels))
    }
}

impl Requirement {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator.as_str() {
            "In" => value.is_some_and(|v| self.values.contains(v)),
            "NotIn" => value.is_none_or(|v| !self.values.contains(v)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

/// A cluster role that may be gathered into another one.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    pub name: &'a str,
    pub labels: &'a BTreeMap<String, String>,
    pub rules: &'a [PolicyRule],
}

/// The rules of role `name` with these selectors: selector by selector, roles by name, each rule once.
pub fn aggregate(name: &str, selectors: &[Selector], roles: &[Source<'_>]) -> Vec<PolicyRule> {
    let mut sorted: Vec<&Source<'_>> = roles.iter().collect();
    sorted.sort_by_key(|role| role.name);
    let mut out: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        for role in sorted.iter().filter(|role| role.name != name && selector.matches(role.labels)) {
            for rule in role.rules {
                if !out.contains(rule) {
                    out.push(rule.clone());
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_matching_roles_are_gathered_once_and_never_from_itself() {
        let labels: BTreeMap<String, String> = [("to".to_owned(), "view".to_owned())].into();
        let rule = PolicyRule { verbs: vec!["get".into()], resources: vec!["pods".into()], ..PolicyRule::default() };
        let other = PolicyRule { verbs: vec!["list".into()], ..rule.clone() };
        let roles = [
            Source { name: "view", labels: &labels, rules: &[] },
            Source { name: "b", labels: &labels, rules: std::slice::from_ref(&other) },
            Source { name: "a", labels: &labels, rules: &[rule.clone(), other.clone()] },
        ];
        let selector = Selector { match_labels: labels.clone(), ..Selector::default() };
        assert_eq!(aggregate("view", &[selector], &roles), [rule, other]);
    }
}
