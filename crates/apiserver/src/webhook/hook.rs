//! A webhook as its configuration describes it, read once per change of the configuration.

use std::time::Duration;

use ::bytes::Bytes;
use api::Value;
use api::cel::policy::{Named, compile_condition};
use base64::Engine as _;

use super::selection::Selection;
use crate::source::StoredObject;

/// Upstream's default; the API defaults it as well.
const TIMEOUT_SECONDS: i64 = 10;

/// One entry of a MutatingWebhookConfiguration or ValidatingWebhookConfiguration.
#[derive(Clone, Debug)]
pub(crate) struct Hook {
    pub configuration: String,
    pub name: String,
    /// Tells the hook from others of the same name in its configuration.
    pub uid: String,
    pub client: ClientConfig,
    pub selection: Selection,
    pub conditions: Vec<Named>,
    /// `failurePolicy: Ignore`
    pub fails_open: bool,
    /// The hook does nothing else, at least not in a dry run.
    pub dry_run_is_safe: bool,
    pub timeout: Duration,
    /// First of the hook's AdmissionReview versions that is known here.
    pub review_version: Option<ReviewVersion>,
    /// `reinvocationPolicy: IfNeeded`
    pub reinvocable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReviewVersion {
    V1,
    V1Beta1,
}

/// Where a hook is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientConfig {
    pub address: Address,
    pub ca_bundle: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Url(String),
    Service {
        namespace: String,
        name: String,
        port: i64,
        path: String,
    },
    /// The configuration has neither.
    Missing,
}

/// The hooks of configurations, which come sorted by name.
pub(super) fn hooks(configurations: &[std::sync::Arc<StoredObject>]) -> Vec<Hook> {
    let mut hooks = Vec::new();
    for stored in configurations {
        let Some(object) = stored.parse() else { continue };
        let mut names: Vec<&str> = Vec::new();
        for webhook in object["webhooks"].as_array().into_iter().flatten() {
            let name = webhook["name"].as_str().unwrap_or("");
            let nth = names.iter().filter(|seen| **seen == name).count();
            names.push(name);
            hooks.push(Hook::parse(&stored.name, name, nth, webhook));
        }
    }
    hooks
}

impl Hook {
    fn parse(configuration: &str, name: &str, nth: usize, webhook: &Value) -> Self {
        let text = |field: &str| webhook[field].as_str().unwrap_or("");
        let seconds = webhook["timeoutSeconds"].as_i64().unwrap_or(TIMEOUT_SECONDS).clamp(1, 30);
        let versions = webhook["admissionReviewVersions"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let known = |version: &str| match version {
            "v1" => Some(ReviewVersion::V1),
            "v1beta1" => Some(ReviewVersion::V1Beta1),
            _ => None,
        };
        Self {
            configuration: configuration.to_owned(),
            name: name.to_owned(),
            uid: format!("{configuration}/{name}/{nth}"),
            client: ClientConfig::parse(&webhook["clientConfig"]),
            selection: Selection::of_hook(webhook),
            conditions: webhook["matchConditions"].as_array().into_iter().flatten().map(condition).collect(),
            fails_open: text("failurePolicy") == "Ignore",
            dry_run_is_safe: ["None", "NoneOnDryRun"].contains(&text("sideEffects")),
            timeout: Duration::from_secs(seconds.unsigned_abs()),
            review_version: versions.into_iter().find_map(known),
            reinvocable: text("reinvocationPolicy") == "IfNeeded",
        }
    }
}

fn condition(condition: &Value) -> Named {
    let text = |field: &str| condition[field].as_str().unwrap_or("");
    let expression = text("expression").trim();
    Named { name: text("name").to_owned(), text: expression.to_owned(), compiled: compile_condition(expression, false) }
}

impl ClientConfig {
    /// A `clientConfig`, of a webhook configuration or of a conversion.
    pub(crate) fn parse(config: &Value) -> Self {
        let ca_bundle = config["caBundle"].as_str().unwrap_or("");
        let ca_bundle = base64::prelude::BASE64_STANDARD.decode(ca_bundle).unwrap_or_default().into();
        let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
        let service = &config["service"];
        let address = match config["url"].as_str() {
            _ if service.is_object() => Address::Service {
                namespace: text(&service["namespace"]),
                name: text(&service["name"]),
                port: service["port"].as_i64().unwrap_or(443),
                path: text(&service["path"]),
            },
            Some(url) => Address::Url(url.to_owned()),
            None => Address::Missing,
        };
        Self { address, ca_bundle }
    }
}
