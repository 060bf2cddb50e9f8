//! One event, as `audit.k8s.io/v1` writes it.

use std::collections::BTreeMap;

use api::Value;
use serde::Serialize;

use crate::attributes::UserInfo;

/// A record of one stage of one request.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event {
    pub kind: &'static str,
    pub api_version: &'static str,
    pub level: &'static str,
    #[serde(rename = "auditID")]
    pub audit_id: String,
    pub stage: &'static str,
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    pub verb: String,
    pub user: User,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impersonated_user: Option<User>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_ref: Option<ObjectReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_object: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_object: Option<Value>,
    pub request_received_timestamp: String,
    pub stage_timestamp: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct User {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl From<&UserInfo> for User {
    fn from(user: &UserInfo) -> Self {
        Self {
            username: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
        }
    }
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObjectReference {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subresource: String,
}

impl Event {
    /// The event as one line of text (`--audit-log-format=legacy`).
    pub(super) fn legacy_line(&self) -> String {
        let quoted = |text: &str| api::field::go_quote(if text.is_empty() { "<none>" } else { text });
        let self_or = |impersonated: Option<String>| impersonated.unwrap_or_else(|| "<self>".to_owned());
        let groups = |user: &User| match user.groups.is_empty() {
            true => "<none>".to_owned(),
            false => user.groups.iter().map(|group| api::field::go_quote(group)).collect::<Vec<_>>().join(","),
        };
        let namespace = self.object_ref.as_ref().map_or("", |object| object.namespace.as_str());
        let code = self.response_status.as_ref().and_then(|status| status["code"].as_u64());
        format!(
            "{} AUDIT: id={} stage={} ip={} method={} user={} groups={} as={} asgroups={} user-agent={} namespace={} uri={} \
             response=\"{}\"\n",
            self.request_received_timestamp,
            api::field::go_quote(&self.audit_id),
            api::field::go_quote(self.stage),
            quoted(self.source_ips.first().map_or("", String::as_str)),
            api::field::go_quote(&self.verb),
            quoted(&self.user.username),
            api::field::go_quote(&groups(&self.user)),
            api::field::go_quote(&self_or(self.impersonated_user.as_ref().map(|user| user.username.clone()))),
            api::field::go_quote(&self_or(self.impersonated_user.as_ref().map(groups))),
            api::field::go_quote(&self.user_agent),
            quoted(namespace),
            api::field::go_quote(&self.request_uri),
            code.map_or("<deferred>".to_owned(), |code| code.to_string()),
        )
    }
}
