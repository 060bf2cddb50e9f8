//! Which authorizers there are, in which order: a list of modes, or a configuration file.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use api::cel::access::compile_review;
use api::cel::policy::Named;
use api::field::{ErrorList, Path};
use api::validate::names;
use serde::Deserialize;

use super::abac::Policies;
use super::webhook::WebhookConfig;
use crate::config_file;
use crate::outbound::RemoteEndpoint;

const TYPES: [&str; 6] = ["ABAC", "AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];
const CONDITIONS_MAX: usize = 64;
const TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// One authorizer.
#[derive(Clone, Debug)]
pub enum Mode {
    AlwaysAllow,
    AlwaysDeny,
    Abac(Arc<Policies>),
    Node,
    Rbac,
    Webhook(Arc<WebhookConfig>),
}

impl Mode {
    /// A mode by its name; `webhook` and `policies` give what the modes of these names need.
    pub fn parse(
        name: &str,
        webhook: impl FnOnce() -> Result<WebhookConfig, String>,
        policies: impl FnOnce() -> Result<Arc<Policies>, String>,
    ) -> Result<Self, String> {
        Ok(match name {
            "AlwaysAllow" => Self::AlwaysAllow,
            "AlwaysDeny" => Self::AlwaysDeny,
            "Node" => Self::Node,
            "RBAC" => Self::Rbac,
            "Webhook" => Self::Webhook(Arc::new(webhook()?)),
            "ABAC" => Self::Abac(policies()?),
            other => return Err(format!("authorization-mode {other:?} is not a valid mode")),
        })
    }
}

/// The chain of a default server.
pub fn default_modes() -> Vec<Mode> {
    vec![Mode::Node, Mode::Rbac]
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    authorizers: Option<Vec<Authorizer>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Authorizer {
    r#type: String,
    name: String,
    webhook: Option<Webhook>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Webhook {
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: String,
    cache_authorized_requests: Option<bool>,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: String,
    cache_unauthorized_requests: Option<bool>,
    timeout: String,
    subject_access_review_version: String,
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    connection_info: ConnectionInfo,
    match_conditions: Option<Vec<Condition>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct ConnectionInfo {
    r#type: String,
    kube_config_file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Condition {
    expression: String,
}

/// Reads and checks a configuration file. `read` opens the kubeconfigs that it names, `duration` reads Go's notation, `policies`
/// gives those of the ABAC authorizer, which are not in the file.
pub fn parse(
    text: &str,
    read: &dyn Fn(&FilePath) -> Result<String, String>,
    duration: &dyn Fn(&str) -> Result<Duration, String>,
    policies: &dyn Fn() -> Result<Arc<Policies>, String>,
) -> Result<Vec<Mode>, String> {
    let versions = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1"];
    let file: File = config_file::decode(text, "AuthorizationConfiguration", &versions)?;
    let mut errors = ErrorList::new();
    let authorizers = file.authorizers.unwrap_or_default();
    let root = Path::new("authorizers");
    if authorizers.is_empty() {
        errors.required(root.clone(), "at least one authorization mode must be defined");
    }
    let (mut types, mut seen): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let (mut modes, mut wants_policies) = (Vec::new(), false);
    for (at, authorizer) in authorizers.iter().enumerate() {
        let path = root.index(at);
        let kind = authorizer.r#type.as_str();
        if kind.is_empty() {
            errors.required(path.child("type"), "");
            continue;
        }
        if !TYPES.contains(&kind) {
            errors.not_supported(path.child("type"), kind, &TYPES);
            continue;
        }
        if types.contains(&kind) && kind != "Webhook" {
            errors.duplicate(path.child("type"), kind);
            continue;
        }
        types.push(kind);
        check_name(&authorizer.name, &seen, &path.child("name"), &mut errors);
        seen.push(&authorizer.name);
        match (kind, &authorizer.webhook) {
            ("Webhook", None) => errors.required(path.child("webhook"), "required when type=Webhook"),
            ("Webhook", Some(webhook)) => {
                let before = errors.len();
                let checked = check_webhook(&authorizer.name, webhook, &path, (read, duration), &mut errors);
                if errors.len() == before
                    && let Some(webhook) = checked
                {
                    modes.push(Mode::Webhook(Arc::new(webhook)));
                }
            }
            (_, Some(_)) => {
                errors.invalid(path.child("webhook"), "non-null", "may only be specified when type=Webhook");
            }
            ("ABAC", None) => wants_policies = true,
            (name, None) => modes.extend(Mode::parse(name, || Err(String::new()), || Err(String::new()))),
        }
    }
    if errors.is_empty() && wants_policies {
        let at = authorizers.iter().position(|authorizer| authorizer.r#type == "ABAC").unwrap_or_default();
        modes.insert(at, Mode::Abac(policies()?));
    }
    if errors.is_empty() { Ok(modes) } else { Err(errors.aggregate_message()) }
}

fn check_name(name: &str, seen: &[&str], path: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        return errors.required(path.clone(), "");
    }
    if seen.contains(&name) {
        return errors.duplicate(path.clone(), name);
    }
    let faults = names::dns1123_subdomain(name);
    if !faults.is_empty() {
        errors.invalid(path.clone(), name, format!("authorizer name is invalid: {}", faults.join(", ")));
    }
}

type Readers<'r> = (&'r dyn Fn(&FilePath) -> Result<String, String>, &'r dyn Fn(&str) -> Result<Duration, String>);

fn check_webhook(
    name: &str,
    webhook: &Webhook,
    path: &Path,
    (read, duration): Readers<'_>,
    errors: &mut ErrorList,
) -> Option<WebhookConfig> {
    let time = |text: &str, field: &str, errors: &mut ErrorList| {
        if text.is_empty() {
            errors.required(path.child(field), "");
            return Duration::ZERO;
        }
        duration(text).unwrap_or_else(|_| {
            errors.invalid(path.child(field), text, "must be > 0s");
            Duration::ZERO
        })
    };
    let timeout = time(&webhook.timeout, "timeout", errors);
    if timeout > TIMEOUT_MAX {
        errors.invalid(path.child("timeout"), webhook.timeout.clone(), "must be > 0s and <= 30s");
    }
    let authorized = time(&webhook.authorized_ttl, "authorizedTTL", errors);
    let unauthorized = time(&webhook.unauthorized_ttl, "unauthorizedTTL", errors);
    match webhook.subject_access_review_version.as_str() {
        "" => errors.required(path.child("subjectAccessReviewVersion"), ""),
        "v1" | "v1beta1" => {}
        other => errors.not_supported(path.child("subjectAccessReviewVersion"), other, &["v1", "v1beta1"]),
    }
    let conditions = webhook.match_conditions.as_deref().unwrap_or_default();
    match webhook.match_condition_subject_access_review_version.as_str() {
        "" if !conditions.is_empty() => errors.required(
            path.child("matchConditionSubjectAccessReviewVersion"),
            "required if match conditions are specified",
        ),
        "" | "v1" => {}
        other => errors.not_supported(path.child("matchConditionSubjectAccessReviewVersion"), other, &["v1"]),
    }
    match webhook.failure_policy.as_str() {
        "" => errors.required(path.child("failurePolicy"), ""),
        "NoOpinion" | "Deny" => {}
        other => errors.not_supported(path.child("failurePolicy"), other, &["NoOpinion", "Deny"]),
    }
    let endpoint = check_connection(&webhook.connection_info, &path.child("connectionInfo"), read, errors);
    let conditions = check_conditions(conditions, &path.child("matchConditions"), errors);
    Some(WebhookConfig {
        name: name.to_owned(),
        endpoint: endpoint?,
        version: webhook.subject_access_review_version.clone(),
        authorized_ttl: if webhook.cache_authorized_requests == Some(false) { Duration::ZERO } else { authorized },
        unauthorized_ttl: if webhook.cache_unauthorized_requests == Some(false) {
            Duration::ZERO
        } else {
            unauthorized
        },
        timeout,
        failure_denies: webhook.failure_policy == "Deny",
        conditions,
    })
}

fn check_connection(
    info: &ConnectionInfo,
    path: &Path,
    read: &dyn Fn(&FilePath) -> Result<String, String>,
    errors: &mut ErrorList,
) -> Option<RemoteEndpoint> {
    let file_path = path.child("kubeConfigFile");
    match info.r#type.as_str() {
        "" => errors.required(path.child("type"), ""),
        "KubeConfigFile" => {
            let file = info.kube_config_file.as_deref().unwrap_or("");
            if file.is_empty() {
                errors.required(file_path, "");
                return None;
            }
            let place = FilePath::new(file);
            if !place.is_absolute() {
                errors.invalid(file_path, file, "must be an absolute path");
                return None;
            }
            let dir = place.parent().unwrap_or(place);
            match read(place).and_then(|text| RemoteEndpoint::from_kubeconfig(&text, dir)) {
                Ok(endpoint) => return Some(endpoint),
                Err(error) => errors.invalid(file_path, file, format!("error loading file: {error}")),
            }
        }
        "InClusterConfig" => {
            errors.invalid(path.child("type"), "InClusterConfig", "is not supported by this server");
        }
        other => errors.not_supported(path.child("type"), other, &["InClusterConfig", "KubeConfigFile"]),
    }
    None
}

fn check_conditions(conditions: &[Condition], path: &Path, errors: &mut ErrorList) -> Vec<Named> {
    if conditions.len() > CONDITIONS_MAX {
        errors.too_many(path.clone(), conditions.len(), CONDITIONS_MAX);
        return Vec::new();
    }
    let mut compiled: Vec<Named> = Vec::new();
    for (at, condition) in conditions.iter().enumerate() {
        let path = path.index(at).child("expression");
        let text = condition.expression.as_str();
        if text.trim().is_empty() {
            errors.required(path, "");
        } else if compiled.iter().any(|known| known.text == text) {
            errors.duplicate(path, text);
        } else {
            match compile_review(text) {
                Ok(program) => {
                    compiled.push(Named { name: String::new(), text: text.to_owned(), compiled: Ok(program) });
                }
                Err(fault) => errors.invalid(path, text, fault),
            }
        }
    }
    compiled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Mode>, String> {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n";
        let kubeconfig = "current-context: c\ncontexts: [{name: c, context: {cluster: c}}]\n\
                          clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]";
        let open = |_: &FilePath| Ok(kubeconfig.to_owned());
        let seconds =
            |text: &str| text.trim_end_matches('s').parse().map(Duration::from_secs).map_err(|_| text.to_owned());
        let policies = || Policies::parse("p", "{\"user\":\"a\"}").map(Arc::new);
        parse(&format!("{head}{text}"), &open, &seconds, &policies)
    }

    const WEBHOOK: &str = "timeout: 3s, authorizedTTL: 30s, unauthorizedTTL: 30s, subjectAccessReviewVersion: v1, \
                           matchConditionSubjectAccessReviewVersion: v1, failurePolicy: Deny, \
                           connectionInfo: {type: KubeConfigFile, kubeConfigFile: /k}";

    #[test]
    fn a_file_lists_the_chain() {
        let conditions = "matchConditions: [{expression: 'has(request.resourceAttributes)'}, \
                          {expression: 'request.resourceAttributes.namespace == \"x\"'}]";
        let modes = read(&format!(
            "authorizers:\n- {{type: Webhook, name: w, webhook: {{{WEBHOOK}, {conditions}}}}}\n- {{type: Node, name: node}}\n\
             - {{type: ABAC, name: abac}}\n- {{type: RBAC, name: rbac}}\n"
        ))
        .unwrap();
        assert!(
            matches!(&modes[..], [Mode::Webhook(hook), Mode::Node, Mode::Abac(_), Mode::Rbac] if hook.conditions.len() == 2)
        );
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_in_upstreams_words() {
        let refused = |text: &str| read(text).unwrap_err();
        assert_eq!(
            refused("authorizers: []"),
            "authorizers: Required value: at least one authorization mode must be defined"
        );
        assert_eq!(
            refused("authorizers: [{type: RBAC, name: a}, {type: RBAC, name: b}]"),
            "authorizers[1].type: Duplicate value: \"RBAC\""
        );
        assert_eq!(
            refused("authorizers: [{type: Webhook, name: a}]"),
            "authorizers[0].webhook: Required value: required when type=Webhook"
        );
        let wrong = "matchConditions: [{expression: 'request.nothing'}]";
        let refusal = refused(&format!("authorizers: [{{type: Webhook, name: a, webhook: {{{WEBHOOK}, {wrong}}}}}]"));
        assert!(refusal.contains("undefined field 'nothing'"), "{refusal}");
    }
}
