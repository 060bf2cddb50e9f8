//! Attribute based access control: a file of policies, one JSON object a line, read once when the server starts.
//!
//! The first policy that fits allows; none denies. A line is a `Policy` of `abac.authorization.kubernetes.io/v1beta1`, or one
//! without a version, which is the older form: no subject means everybody who is authenticated, no resource and no namespace mean all.
//! Source: Kubernetes, "Using ABAC Authorization"; `pkg/auth/authorizer/abac`.

use api::Value;
use serde::Deserialize;

use super::{Decision, PolicyRule};
use crate::attributes::{Action, UserInfo};
use crate::config_file;

const VERSIONS: [&str; 2] = ["abac.authorization.kubernetes.io/v1beta1", "abac.authorization.kubernetes.io/v0"];
const AUTHENTICATED: &str = "system:authenticated";
/// What upstream's reader of lines takes.
const LINE_BYTES_MAX: usize = 64 * 1024;
const READING: [&str; 3] = ["get", "list", "watch"];

/// A file's policies, in its order.
#[derive(Clone, Debug, Default)]
pub struct Policies(Vec<Policy>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    resource: String,
    namespace: String,
    non_resource_path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Versioned {
    spec: Policy,
}

impl Policies {
    /// Reads a file's text; `path` is for messages. The first line that cannot be read is an error.
    pub fn parse(path: &str, text: &str) -> Result<Self, String> {
        let mut policies = Vec::new();
        let mut any_unversioned = false;
        for (at, line) in text.lines().enumerate() {
            if line.len() >= LINE_BYTES_MAX {
                return Err(format!("error reading policy file {path}: bufio.Scanner: token too long"));
            }
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            let (policy, is_versioned) = Policy::parse(line)
                .map_err(|error| format!("error reading policy file {path}, line {}: {line}: {error}", at + 1))?;
            any_unversioned |= !is_versioned;
            policies.push(policy);
        }
        if any_unversioned {
            tracing::warn!(path, "the policy file contains unversioned rules");
        }
        Ok(Self(policies))
    }

    pub(super) fn authorize(&self, user: &UserInfo, action: &Action) -> Decision {
        match self.0.iter().any(|policy| policy.matches(user, action)) {
            true => Decision::allow(),
            false => Decision::pass("No policy matched."),
        }
    }

    /// What a user may do in a namespace, for reviews.
    pub(super) fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<PolicyRule> {
        let applies = |policy: &&Policy| {
            policy.matches_subject(user) && (policy.namespace == "*" || policy.namespace == namespace)
        };
        self.0.iter().filter(applies).flat_map(Policy::rules).collect()
    }
}

impl Policy {
    /// A line's policy, and whether it had a version.
    fn parse(line: &str) -> Result<(Self, bool), String> {
        let (kind, version, object) = config_file::object(line)?;
        let is_policy = matches!(kind.as_str(), "" | "Policy");
        if !is_policy || !(version.is_empty() || VERSIONS.contains(&version.as_str())) {
            return Err(format!("no kind {kind:?} is registered for version {version:?}"));
        }
        let object = Value::Object(object);
        let wrong = |error: serde_json::Error| error.to_string();
        if kind.is_empty() || version != VERSIONS[0] {
            return Ok((api::value::from_value::<Self>(object).map_err(wrong)?.upgraded(), !version.is_empty()));
        }
        let mut policy = api::value::from_value::<Versioned>(object).map_err(wrong)?.spec;
        if policy.is_for_everybody() {
            policy.group = AUTHENTICATED.to_owned();
            policy.user.clear();
        }
        Ok((policy, true))
    }

    fn is_for_everybody(&self) -> bool {
        self.user == "*" || self.group == "*"
    }

    /// A policy of the older form, in the terms of the newer.
    fn upgraded(mut self) -> Self {
        if self.is_for_everybody() || (self.user.is_empty() && self.group.is_empty()) {
            self.group = AUTHENTICATED.to_owned();
            self.user.clear();
        }
        let is_for_paths = self.namespace.is_empty() && self.resource.is_empty();
        self.non_resource_path = if is_for_paths { "*" } else { "" }.to_owned();
        for field in [&mut self.namespace, &mut self.resource].into_iter().filter(|field| field.is_empty()) {
            "*".clone_into(field);
        }
        "*".clone_into(&mut self.api_group);
        self
    }

    fn matches(&self, user: &UserInfo, action: &Action) -> bool {
        let is = |policy: &str, asked: &str| policy == "*" || policy == asked;
        let (verb, fits) = match action {
            Action::Resource { verb, group, resource, namespace, .. } => {
                (verb, is(&self.namespace, namespace) && is(&self.resource, resource) && is(&self.api_group, group))
            }
            Action::NonResource { verb, path } => {
                let below = self.non_resource_path.ends_with('*')
                    && path.starts_with(self.non_resource_path.trim_end_matches('*'));
                (verb, below || self.non_resource_path == *path)
            }
        };
        fits && (!self.readonly || READING.contains(&verb.as_str())) && self.matches_subject(user)
    }

    /// All subjects that are named have to fit, and one has to be.
    fn matches_subject(&self, user: &UserInfo) -> bool {
        let user_fits = self.user.is_empty() || self.user == "*" || self.user == user.name;
        let group_fits = self.group.is_empty() || self.group == "*" || user.in_group(&self.group);
        user_fits && group_fits && !(self.user.is_empty() && self.group.is_empty())
    }

    fn rules(&self) -> Vec<PolicyRule> {
        let verbs = if self.readonly { READING.map(str::to_owned).to_vec() } else { vec!["*".to_owned()] };
        let mut rules = Vec::new();
        if !self.resource.is_empty() {
            rules.push(PolicyRule {
                verbs: verbs.clone(),
                api_groups: vec![self.api_group.clone()],
                resources: vec![self.resource.clone()],
                ..PolicyRule::default()
            });
        }
        if !self.non_resource_path.is_empty() {
            rules.push(PolicyRule {
                verbs,
                non_resource_urls: vec![self.non_resource_path.clone()],
                ..PolicyRule::default()
            });
        }
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, groups: &[&str]) -> UserInfo {
        UserInfo { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..UserInfo::default() }
    }

    /// `get pods/ns`, or `get /path`.
    fn action(text: &str) -> Action {
        let (verb, what) = text.split_once(' ').unwrap();
        let verb = verb.to_owned();
        if what.starts_with('/') {
            return Action::NonResource { verb, path: what.to_owned() };
        }
        let (resource, namespace) = what.split_once('/').unwrap();
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        Action::Resource {
            verb,
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: String::new(),
            namespace: namespace.into(),
            name: String::new(),
        }
    }

    const FILE: &str = r#"
# Comments and empty lines are nothing.
{"user":"admin"}
{"user":"scheduler","readonly":true,"resource":"pods"}
{"namespace":"projectCaribou","group":"caribous"}
{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"*","readonly":true,"nonResourcePath":"/version*"}}
{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"bob","namespace":"ns","resource":"*","apiGroup":"apps","ignored":1}}
{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"ann","group":"x","namespace":"*","resource":"*","apiGroup":"*"}}
"#;

    #[test]
    fn the_first_policy_that_fits_allows() {
        let policies = Policies::parse("f", FILE).unwrap();
        let may = |who: &UserInfo, what: &str| policies.authorize(who, &action(what)).allowed;
        let admin = user("admin", &["system:authenticated"]);
        assert!(may(&admin, "delete pods/a") && may(&admin, "get /metrics") && may(&admin, "create jobs.batch/"));
        let scheduler = user("scheduler", &[]);
        assert!(may(&scheduler, "list pods/a") && !may(&scheduler, "update pods/a") && !may(&scheduler, "get nodes/"));
        let caribou = user("c", &["caribous"]);
        assert!(may(&caribou, "create secrets/projectCaribou") && !may(&caribou, "get secrets/other"));
        assert!(!may(&caribou, "get /healthz"));
        let anybody = user("x", &["system:authenticated"]);
        assert!(
            may(&anybody, "get /version/") && !may(&anybody, "post /version") && !may(&user("x", &[]), "get /version")
        );
        let bob = user("bob", &[]);
        assert!(
            may(&bob, "patch deployments.apps/ns") && !may(&bob, "get pods/ns") && !may(&bob, "get deployments.apps/")
        );
        assert!(may(&user("ann", &["x"]), "get pods/a") && !may(&user("ann", &[]), "get pods/a"));
        assert_eq!(policies.authorize(&bob, &action("get pods/ns")).reason.text(), "No policy matched.");
    }

    #[test]
    fn rules_are_shown_for_a_namespace() {
        let policies = Policies::parse("f", FILE).unwrap();
        let rules = policies.rules_for(&user("scheduler", &["caribous"]), "projectCaribou");
        let shown: Vec<_> = rules.iter().map(|rule| (rule.verbs.join(","), rule.resources.join(","))).collect();
        assert_eq!(shown, [("get,list,watch".into(), "pods".into()), ("*".to_owned(), "*".to_owned())]);
        assert_eq!(rules[0].api_groups, ["*"]);
    }

    #[test]
    fn a_wrong_line_is_named() {
        let refused = |text: &str| Policies::parse("/etc/p", text).unwrap_err();
        let other = r#"{"kind":"Policy","apiVersion":"abac.authorization.kubernetes.io/v9"}"#;
        assert_eq!(
            refused(&format!("\n{other}\n")),
            format!(
                "error reading policy file /etc/p, line 2: {other}: no kind \"Policy\" is registered for version \
                 \"abac.authorization.kubernetes.io/v9\""
            )
        );
        assert!(refused("{\"user\":1}").starts_with("error reading policy file /etc/p, line 1: {\"user\":1}: "));
        let long = format!("# {}", "x".repeat(LINE_BYTES_MAX));
        assert_eq!(refused(&long), "error reading policy file /etc/p: bufio.Scanner: token too long");
    }
}
