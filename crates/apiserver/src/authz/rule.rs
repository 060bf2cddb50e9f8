//! A policy rule: what it matches, what it covers, how upstream prints it.

use api::field::go_quote;
use serde::{Deserialize, Serialize};

use crate::attributes::Action;

/// A rule of a Role or ClusterRole (`rbac.authorization.k8s.io/v1` PolicyRule). Field order is that of the API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyRule {
    #[serde(deserialize_with = "null_as_empty")]
    pub verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    pub api_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    pub resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    pub non_resource_urls: Vec<String>,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default())
}

impl PolicyRule {
    /// Everything, on resources and on other paths.
    pub fn full_authority() -> [PolicyRule; 2] {
        let all = || vec!["*".to_owned()];
        [
            PolicyRule { verbs: all(), api_groups: all(), resources: all(), ..Self::default() },
            PolicyRule { verbs: all(), non_resource_urls: all(), ..Self::default() },
        ]
    }

    /// Does the rule allow the action?
    pub fn allows(&self, action: &Action) -> bool {
        match action {
            Action::Resource { verb, group, resource, subresource, name, .. } => {
                has_or_star(&self.verbs, verb)
                    && has_or_star(&self.api_groups, group)
                    && self.matches_resource(resource, subresource)
                    && (self.resource_names.is_empty() || self.resource_names.contains(name))
            }
            Action::NonResource { verb, path } => {
                has_or_star(&self.verbs, verb) && self.non_resource_urls.iter().any(|url| url_matches(url, path))
            }
        }
    }

    /// `*`, `pods`, `pods/log` or `*/scale`.
    fn matches_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|rule| {
            if rule == "*" {
                return true;
            }
            if subresource.is_empty() {
                return rule == resource;
            }
            match rule.split_once('/') {
                Some((head, tail)) => tail == subresource && (head == "*" || head == resource),
                None => false,
            }
        })
    }

    /// Does this rule (of an owner of rights) cover `sub`, a rule broken down to single values?
    pub fn covers(&self, sub: &PolicyRule) -> bool {
        let verbs = has(&self.verbs, "*") || sub.verbs.iter().all(|v| has(&self.verbs, v));
        let groups = has(&self.api_groups, "*") || sub.api_groups.iter().all(|g| has(&self.api_groups, g));
        let resources = has(&self.resources, "*")
            || sub.resources.iter().all(|path| {
                has(&self.resources, path)
                    || path.split_once('/').is_some_and(|(_, tail)| has(&self.resources, &format!("*/{tail}")))
            });
        let urls = sub
            .non_resource_urls
            .iter()
            .all(|path| self.non_resource_urls.iter().any(|owner| url_matches(owner, path)));
        let names = self.resource_names.is_empty()
            || (!sub.resource_names.is_empty() && sub.resource_names.iter().all(|n| has(&self.resource_names, n)));
        verbs && groups && resources && urls && names
    }

    /// Equivalent rules of one verb, one resource and one name each.
    pub fn break_down(&self) -> Vec<PolicyRule> {
        let one = |s: &String| vec![s.clone()];
        let mut out = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let plain = PolicyRule {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        out.push(plain);
                        continue;
                    }
                    out.extend(
                        self.resource_names
                            .iter()
                            .map(|name| PolicyRule { resource_names: one(name), ..plain.clone() }),
                    );
                }
            }
        }
        for url in &self.non_resource_urls {
            for verb in &self.verbs {
                out.push(PolicyRule { verbs: one(verb), non_resource_urls: one(url), ..Self::default() });
            }
        }
        out
    }

    /// `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`: how refusals print a rule.
    pub fn compact(&self) -> String {
        let parts: Vec<String> = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ]
        .iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(name, values)| format!("{name}:{}", go_quoted_list(values)))
        .collect();
        format!("{{{}}}", parts.join(", "))
    }

    /// Group and resource, when the rule says nothing but verbs about one resource.
    fn simple_resource(&self) -> Option<(&str, &str)> {
        let plain = self.resource_names.is_empty() && self.non_resource_urls.is_empty();
        match (plain, self.api_groups.as_slice(), self.resources.as_slice()) {
            (true, [group], [resource]) => Some((group, resource)),
            _ => None,
        }
    }
}

/// The part of `wanted` that `owned` does not cover, broken down.
pub fn uncovered(owned: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let mut missing = Vec::new();
    for rule in wanted {
        missing.extend(rule.break_down().into_iter().filter(|sub| !owned.iter().any(|owner| owner.covers(sub))));
    }
    missing
}

/// Joins rules on one resource that differ only by verb.
pub fn compact_rules(rules: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut out: Vec<PolicyRule> = Vec::new();
    for rule in rules {
        let same = |other: &&mut PolicyRule| {
            rule.simple_resource().is_some() && other.simple_resource() == rule.simple_resource()
        };
        match out.iter_mut().find(same) {
            Some(existing) => existing.verbs.extend(rule.verbs),
            None => out.push(rule),
        }
    }
    out
}

/// Go's `%q` of a string slice: `["a" "b"]`.
pub fn go_quoted_list(values: &[String]) -> String {
    let quoted: Vec<String> = values.iter().map(|v| go_quote(v)).collect();
    format!("[{}]", quoted.join(" "))
}

fn has(set: &[String], value: &str) -> bool {
    set.iter().any(|s| s == value)
}

fn has_or_star(set: &[String], value: &str) -> bool {
    set.iter().any(|s| s == "*" || s == value)
}

/// Whether a rule's path is this one, or ends with a star where this one goes on.
pub(crate) fn url_matches(rule: &str, path: &str) -> bool {
    rule == path || (rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(json: api::Value) -> PolicyRule {
        api::value::from_value(json).unwrap()
    }

    fn action(verb: &str, resource: &str, subresource: &str, name: &str) -> Action {
        Action::Resource {
            verb: verb.into(),
            group: String::new(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: "ns".into(),
            name: name.into(),
        }
    }

    #[test]
    fn a_rule_for_a_resource_does_not_cover_its_subresources() {
        let pods = rule(api::json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}));
        assert!(pods.allows(&action("get", "pods", "", "a")));
        assert!(!pods.allows(&action("get", "pods", "log", "a")));
        let scale = rule(api::json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*/scale"]}));
        assert!(scale.allows(&action("get", "anything", "scale", "a")));
        assert!(!scale.allows(&action("get", "anything", "", "a")));
    }

    #[test]
    fn resource_names_do_not_match_a_request_without_a_name() {
        let one = rule(api::json!({"verbs": ["*"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]}));
        assert!(one.allows(&action("get", "pods", "", "a")));
        assert!(!one.allows(&action("list", "pods", "", "")));
    }

    #[test]
    fn non_resource_urls_match_exactly_or_by_prefix() {
        let paths = rule(api::json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]}));
        let get = |path: &str| Action::NonResource { verb: "get".into(), path: path.into() };
        assert!(paths.allows(&get("/healthz")));
        assert!(paths.allows(&get("/api/v1")));
        assert!(!paths.allows(&get("/api")));
        assert!(!paths.allows(&get("/healthz/etcd")));
    }

    #[test]
    fn missing_rights_are_compacted_per_resource() {
        let owned = [rule(api::json!({"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"]}))];
        let wanted =
            [rule(api::json!({"verbs": ["get", "delete"], "apiGroups": [""], "resources": ["secrets", "configmaps"]}))];
        let texts: Vec<String> = compact_rules(uncovered(&owned, &wanted)).iter().map(PolicyRule::compact).collect();
        assert_eq!(
            texts,
            [
                "{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"delete\"]}",
                "{APIGroups:[\"\"], Resources:[\"configmaps\"], Verbs:[\"delete\"]}"
            ]
        );
    }
}
