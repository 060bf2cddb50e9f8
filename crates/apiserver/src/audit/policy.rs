//! The audit policy: the first rule that matches a request says how much of it is recorded.

use api::field::{ErrorList, Path};
use api::json;
use api::validate::names;
use serde::Deserialize;

use crate::attributes::{Action, UserInfo};
use crate::authz::rule::url_matches;
use crate::config_file;

/// How much is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

/// When it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

const LEVELS: [(&str, Level); 4] = [
    ("None", Level::None),
    ("Metadata", Level::Metadata),
    ("Request", Level::Request),
    ("RequestResponse", Level::RequestResponse),
];
const STAGES: [(&str, Stage); 4] = [
    ("RequestReceived", Stage::RequestReceived),
    ("ResponseStarted", Stage::ResponseStarted),
    ("ResponseComplete", Stage::ResponseComplete),
    ("Panic", Stage::Panic),
];

impl Level {
    pub(super) fn name(self) -> &'static str {
        LEVELS.iter().find(|(_, level)| *level == self).map_or("", |(name, _)| name)
    }
}

impl Stage {
    pub(super) fn name(self) -> &'static str {
        STAGES.iter().find(|(_, stage)| *stage == self).map_or("", |(name, _)| name)
    }
}

/// What the policy wants of one request.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub level: Level,
    pub omit_stages: Vec<Stage>,
    pub omit_managed_fields: bool,
}

/// `--audit-policy-file`.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<(Rule, Wanted)>,
    otherwise: Wanted,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    #[serde(default, rename = "metadata")]
    _metadata: api::Value,
    #[serde(default)]
    rules: Option<Vec<Rule>>,
    #[serde(default)]
    omit_stages: Option<Vec<String>>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Rule {
    level: String,
    users: Option<Vec<String>>,
    user_groups: Option<Vec<String>>,
    verbs: Option<Vec<String>>,
    resources: Option<Vec<GroupResources>>,
    namespaces: Option<Vec<String>>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Option<Vec<String>>,
    omit_stages: Option<Vec<String>>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    resources: Option<Vec<String>>,
    resource_names: Option<Vec<String>>,
}

impl Policy {
    /// Reads and checks a policy file.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = config_file::decode(text, "Policy", &["audit.k8s.io/v1"])
            .map_err(|error| format!("failed decoding: {error}"))?;
        let rules = file.rules.unwrap_or_default();
        let mut errors = ErrorList::new();
        let omit_stages = stages(&listed(&file.omit_stages), &Path::new("omitStages"), &mut errors);
        let otherwise = Wanted { level: Level::None, omit_stages, omit_managed_fields: file.omit_managed_fields };
        let mut checked = Vec::new();
        for (at, rule) in rules.into_iter().enumerate() {
            let wanted = validate(&rule, &Path::new("rules").index(at), &mut errors);
            let omit_managed_fields = rule.omit_managed_fields.unwrap_or(file.omit_managed_fields);
            // Stages that the whole policy leaves out are left out by every rule.
            let omit_stages = [wanted.omit_stages.as_slice(), &otherwise.omit_stages].concat();
            checked.push((rule, Wanted { omit_managed_fields, omit_stages, ..wanted }));
        }
        if !errors.is_empty() {
            return Err(errors.aggregate_message());
        }
        if checked.is_empty() {
            return Err("loaded illegal policy with 0 rules".to_owned());
        }
        Ok(Self { rules: checked, otherwise })
    }

    pub(super) fn evaluate(&self, user: &UserInfo, action: &Action) -> Wanted {
        let found = self.rules.iter().find(|(rule, _)| rule.matches(user, action));
        found.map_or(&self.otherwise, |(_, wanted)| wanted).clone()
    }
}

fn listed(list: &Option<Vec<String>>) -> Vec<String> {
    list.clone().unwrap_or_default()
}

fn any(list: &Option<Vec<String>>, wanted: &str) -> bool {
    list.iter().flatten().any(|one| one == wanted)
}

fn is_given<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

impl Rule {
    fn matches(&self, user: &UserInfo, action: &Action) -> bool {
        let verb = match action {
            Action::Resource { verb, .. } | Action::NonResource { verb, .. } => verb,
        };
        if is_given(&self.users) && !any(&self.users, &user.name) {
            return false;
        }
        if is_given(&self.user_groups) && !user.groups.iter().any(|group| any(&self.user_groups, group)) {
            return false;
        }
        if is_given(&self.verbs) && !any(&self.verbs, verb) {
            return false;
        }
        if is_given(&self.namespaces) || is_given(&self.resources) {
            return self.matches_resource(action);
        }
        if is_given(&self.non_resource_urls) {
            let Action::NonResource { path, .. } = action else { return false };
            return self.non_resource_urls.iter().flatten().any(|url| url_matches(url, path));
        }
        true
    }

    fn matches_resource(&self, action: &Action) -> bool {
        let Action::Resource { group, resource, subresource, namespace, name, .. } = action else { return false };
        if is_given(&self.namespaces) && !any(&self.namespaces, namespace) {
            return false;
        }
        if !is_given(&self.resources) {
            return true;
        }
        let combined = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
        self.resources.iter().flatten().filter(|of| of.group == *group || of.group == "*").any(|of| {
            let is_named = !is_given(&of.resource_names) || any(&of.resource_names, name);
            let matches_one = |spec: &String| {
                let any_with_sub = |sub: &str| !subresource.is_empty() && sub == subresource;
                *spec == combined
                    || spec == "*"
                    || spec.strip_prefix("*/").is_some_and(any_with_sub)
                    || spec.strip_suffix("/*") == Some(resource)
            };
            !is_given(&of.resources) || (is_named && of.resources.iter().flatten().any(matches_one))
        })
    }
}

fn stages(names: &[String], path: &Path, errors: &mut ErrorList) -> Vec<Stage> {
    let mut found = Vec::new();
    for (at, name) in names.iter().enumerate() {
        match STAGES.iter().find(|(known, _)| known == name) {
            Some((_, stage)) => found.push(*stage),
            None => {
                let known = STAGES.map(|(name, _)| name).join(",");
                errors.invalid(path.index(at), name.clone(), format!("allowed stages are {known}"));
            }
        }
    }
    found
}

fn validate(rule: &Rule, path: &Path, errors: &mut ErrorList) -> Wanted {
    let level = LEVELS.iter().find(|(name, _)| *name == rule.level).map(|(_, level)| *level);
    match level {
        Some(_) => {}
        None if rule.level.is_empty() => errors.required(path.child("level"), ""),
        None => errors.not_supported(path.child("level"), rule.level.clone(), &LEVELS.map(|(name, _)| name)),
    }
    let urls = path.child("nonResourceURLs");
    for (at, url) in rule.non_resource_urls.iter().flatten().enumerate().filter(|(_, url)| *url != "*") {
        if !url.starts_with('/') {
            let text = "non-resource URL rules must begin with a '/' character";
            errors.invalid(urls.index(at), url.clone(), text);
        }
        if url.strip_suffix('*').unwrap_or(url).contains('*') {
            let text = "non-resource URL wildcards '*' must be the final character of the rule";
            errors.invalid(urls.index(at), url.clone(), text);
        }
    }
    let resources = path.child("resources");
    for of in rule.resources.iter().flatten() {
        if !of.group.is_empty() && of.group != "*" {
            let faults = names::dns1123_subdomain(&of.group);
            if !faults.is_empty() {
                errors.invalid(resources.child("group"), of.group.clone(), faults.join(","));
            }
        }
        if is_given(&of.resource_names) && !is_given(&of.resources) {
            let text = "using resourceNames requires at least one resource";
            errors.invalid(resources.child("resourceNames"), json!(of.resource_names), text);
        }
    }
    let omit_stages = stages(&listed(&rule.omit_stages), &path.child("omitStages"), errors);
    if is_given(&rule.non_resource_urls) && (is_given(&rule.resources) || is_given(&rule.namespaces)) {
        let text = "rules cannot apply to both regular resources and non-resource URLs";
        errors.invalid(urls, json!(rule.non_resource_urls), text);
    }
    Wanted { level: level.unwrap_or_default(), omit_stages, omit_managed_fields: false }
}
