//! Flow schemas: whose requests for what belong together.

use std::sync::Arc;

use api::Value;
use http::HeaderValue;

use super::level::Level;
use super::metrics::Counts;
use crate::attributes::{Action, UserInfo};
use crate::authn::service_account::user_name;

/// One FlowSchema, read once per change.
#[derive(Debug)]
pub(super) struct Schema {
    pub name: Arc<str>,
    pub uid: HeaderValue,
    pub precedence: i64,
    pub level: Arc<Level>,
    pub level_uid: HeaderValue,
    pub counts: Counts,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug)]
enum Distinguisher {
    None,
    User,
    Namespace,
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    urls: Vec<UrlRule>,
}

#[derive(Debug)]
enum Subject {
    Anybody,
    User(String),
    Group(String),
    /// Every service account of a namespace, by the beginning of the name.
    AccountsOf(String),
}

#[derive(Debug)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    cluster_scope: bool,
    namespaces: Vec<String>,
}

#[derive(Debug)]
struct UrlRule {
    verbs: Vec<String>,
    urls: Vec<String>,
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn includes(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

impl Subject {
    fn parse(subject: &Value) -> Option<Self> {
        let text = |of: &str, field: &str| subject[of][field].as_str().unwrap_or("").to_owned();
        Some(match subject["kind"].as_str()? {
            "User" => match text("user", "name").as_str() {
                "*" => Self::Anybody,
                name => Self::User(name.to_owned()),
            },
            "Group" => match text("group", "name").as_str() {
                "*" => Self::Anybody,
                name => Self::Group(name.to_owned()),
            },
            "ServiceAccount" => {
                let namespace = text("serviceAccount", "namespace");
                match text("serviceAccount", "name").as_str() {
                    "*" => Self::AccountsOf(user_name(&namespace, "")),
                    name => Self::User(user_name(&namespace, name)),
                }
            }
            _ => return None,
        })
    }

    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Self::Anybody => true,
            Self::User(name) => *name == user.name,
            Self::Group(name) => user.in_group(name),
            Self::AccountsOf(prefix) => user.name.starts_with(prefix),
        }
    }
}

impl ResourceRule {
    fn matches(&self, action: &Action) -> bool {
        let Action::Resource { verb, group, resource, subresource, namespace, .. } = action else { return false };
        let named = |one: &String| match one.split_once('/') {
            _ if one == "*" => true,
            None => subresource.is_empty() && one == resource,
            Some((of, sub)) => of == resource && sub == subresource,
        };
        includes(&self.verbs, verb)
            && includes(&self.groups, group)
            && self.resources.iter().any(named)
            && (if namespace.is_empty() { self.cluster_scope } else { includes(&self.namespaces, namespace) })
    }
}

impl UrlRule {
    fn matches(&self, action: &Action) -> bool {
        let Action::NonResource { verb, path } = action else { return false };
        let matches = |url: &String| {
            let path = path.trim_end_matches('/');
            url == "*"
                || url.trim_end_matches('/') == path
                || url.strip_suffix('*').is_some_and(|p| path.starts_with(p))
        };
        includes(&self.verbs, verb) && self.urls.iter().any(matches)
    }
}

impl Schema {
    pub(super) fn parse(
        object: &Value,
        uid: HeaderValue,
        level: Arc<Level>,
        level_uid: HeaderValue,
        counts: Counts,
    ) -> Self {
        let spec = &object["spec"];
        let rules = spec["rules"].as_array().into_iter().flatten().map(|rule| Rule {
            subjects: rule["subjects"].as_array().into_iter().flatten().filter_map(Subject::parse).collect(),
            resources: rule["resourceRules"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|rule| ResourceRule {
                    verbs: strings(&rule["verbs"]),
                    groups: strings(&rule["apiGroups"]),
                    resources: strings(&rule["resources"]),
                    cluster_scope: rule["clusterScope"].as_bool().unwrap_or(false),
                    namespaces: strings(&rule["namespaces"]),
                })
                .collect(),
            urls: rule["nonResourceRules"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|rule| UrlRule { verbs: strings(&rule["verbs"]), urls: strings(&rule["nonResourceURLs"]) })
                .collect(),
        });
        Self {
            name: api::meta::name(object).into(),
            uid,
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(0),
            level,
            level_uid,
            counts,
            distinguisher: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Distinguisher::User,
                Some("ByNamespace") => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: rules.collect(),
        }
    }

    pub(super) fn matches(&self, user: &UserInfo, action: &Action) -> bool {
        self.rules.iter().any(|rule| {
            rule.subjects.iter().any(|subject| subject.is(user))
                && (rule.resources.iter().any(|rule| rule.matches(action))
                    || rule.urls.iter().any(|rule| rule.matches(action)))
        })
    }

    /// Tells the flows of the schema apart.
    pub(super) fn distinguisher<'a>(&self, user: &'a UserInfo, action: &'a Action) -> &'a str {
        match (self.distinguisher, action) {
            (Distinguisher::User, _) => &user.name,
            (Distinguisher::Namespace, Action::Resource { namespace, .. }) => namespace,
            (Distinguisher::Namespace | Distinguisher::None, _) => "",
        }
    }
}
