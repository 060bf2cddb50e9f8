//! A webhook that is asked whether somebody may do something, with a SubjectAccessReview.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::Value;
use api::cel::policy::{self, Matched, Named};
use api::cel::{Bindings, Val};
use api::json;
use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{Decision, FieldEquals, Reason};
use crate::attributes::{Action, UserInfo};
use crate::authn::outside_post;
use crate::authn::review::user_info;
use crate::outbound::RemoteEndpoint;

/// Answers kept; when there are more, all are forgotten.
const ANSWERS_MAX: usize = 8192;
/// Longer questions are not kept (bytes); upstream's number.
const QUESTION_BYTES_MAX: usize = 10_000;

/// One webhook of the chain.
#[derive(Debug)]
pub struct WebhookConfig {
    pub name: String,
    pub endpoint: RemoteEndpoint,
    /// `v1` or `v1beta1`
    pub version: String,
    /// How long an allowing answer is kept.
    pub authorized_ttl: Duration,
    /// How long any other answer is kept.
    pub unauthorized_ttl: Duration,
    pub timeout: Duration,
    /// A failure denies, instead of leaving the decision to others.
    pub failure_denies: bool,
    /// All must hold, or the webhook is not asked.
    pub conditions: Vec<Named>,
}

/// Asks, and keeps the answers.
#[derive(Debug)]
pub(super) struct Webhook {
    config: Arc<WebhookConfig>,
    answers: Mutex<HashMap<String, (Instant, Decision)>>,
}

impl Webhook {
    pub(super) fn new(config: Arc<WebhookConfig>) -> Self {
        Self { config, answers: Mutex::default() }
    }

    pub(super) fn authorize(&self, user: &UserInfo, action: &Action, fields: FieldEquals<'_>) -> Decision {
        let spec = spec(user, action, fields);
        match self.matches(&spec) {
            Matched::Yes => {}
            Matched::No => return Decision::pass(""),
            Matched::Failed(error) => return self.failed(&error),
        }
        let question = spec.to_string();
        if let Some((until, decision)) = self.answers.lock().get(&question)
            && *until > Instant::now()
        {
            return decision.clone();
        }
        match self.ask(spec) {
            Ok(decision) => {
                self.keep(question, &decision);
                decision
            }
            Err(error) => self.failed(&error),
        }
    }

    fn matches(&self, spec: &Value) -> Matched {
        if self.config.conditions.is_empty() {
            return Matched::Yes;
        }
        let bindings = Bindings::new().with("request", Val::data(spec));
        policy::match_conditions(&self.config.conditions, &bindings, None, false)
    }

    fn failed(&self, error: &str) -> Decision {
        tracing::warn!(webhook = self.config.name, error, "failed to make webhook authorizer request");
        if self.config.failure_denies { Decision::deny("") } else { Decision::pass("") }
    }

    fn keep(&self, question: String, decision: &Decision) {
        let ttl = if decision.allowed { self.config.authorized_ttl } else { self.config.unauthorized_ttl };
        if ttl.is_zero() || question.len() > QUESTION_BYTES_MAX {
            return;
        }
        let mut answers = self.answers.lock();
        if answers.len() >= ANSWERS_MAX {
            answers.clear();
        }
        answers.insert(question, (Instant::now() + ttl, decision.clone()));
    }

    /// Authorization is asked from everywhere, also from within expressions: the thread waits here, and the runtime gives what
    /// else it had to do to another one.
    fn ask(&self, spec: Value) -> Result<Decision, String> {
        let handle = Handle::try_current().map_err(|error| error.to_string())?;
        if handle.runtime_flavor() == RuntimeFlavor::CurrentThread {
            return Err("the server has only one thread, which cannot wait".to_owned());
        }
        let review = review(&self.config.version, spec);
        let config = Arc::clone(&self.config);
        let asked = async move { outside_post(&config.endpoint, &review, config.timeout).await };
        let answer = tokio::task::block_in_place(|| handle.block_on(asked))?;
        let status = &answer["status"];
        let reason = status["reason"].as_str().unwrap_or("").to_owned();
        match (status["allowed"].as_bool().unwrap_or(false), status["denied"].as_bool().unwrap_or(false)) {
            (true, true) => Err("webhook subject access review returned both allow and deny response".to_owned()),
            (true, false) => Ok(Decision { reason: Reason::Text(reason), ..Decision::allow() }),
            (false, true) => Ok(Decision::deny(reason)),
            (false, false) => Ok(Decision::pass(reason)),
        }
    }
}

/// The question, without its envelope.
fn spec(user: &UserInfo, action: &Action, fields: FieldEquals<'_>) -> Value {
    let mut spec = match action {
        Action::NonResource { verb, path } => {
            json!({"nonResourceAttributes": filled([("path", path), ("verb", verb)])})
        }
        Action::Resource { verb, group, version, resource, subresource, namespace, name } => {
            let mut attributes = filled([
                ("namespace", namespace),
                ("verb", verb),
                ("group", group),
                ("version", version),
                ("resource", resource),
                ("subresource", subresource),
                ("name", name),
            ]);
            if !fields.is_empty() {
                let requirements: Vec<Value> = fields
                    .iter()
                    .map(|(field, value)| json!({"key": field, "operator": "In", "values": [value]}))
                    .collect();
                attributes["fieldSelector"] = json!({"requirements": requirements});
            }
            json!({"resourceAttributes": attributes})
        }
    };
    let who = user_info(user);
    for (field, value) in
        [("user", &who["username"]), ("groups", &who["groups"]), ("extra", &who["extra"]), ("uid", &who["uid"])]
    {
        if !value.is_null() {
            spec[field] = value.clone();
        }
    }
    spec
}

fn filled<const N: usize>(fields: [(&str, &String); N]) -> Value {
    let given = fields.into_iter().filter(|(_, value)| !value.is_empty());
    Value::from_iter(given.map(|(name, value)| (name.to_owned(), Value::from(value.as_str()))))
}

fn review(version: &str, mut spec: Value) -> Value {
    // The older version has another word for groups.
    if version == "v1beta1"
        && let Some(fields) = spec.as_object_mut()
        && let Some(groups) = fields.remove("groups")
    {
        fields.insert("group", groups);
    }
    json!({
        "kind": "SubjectAccessReview",
        "apiVersion": format!("authorization.k8s.io/{version}"),
        "metadata": {"creationTimestamp": null},
        "spec": spec,
        "status": {"allowed": false},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_says_who_wants_to_do_what() {
        let user = UserInfo { name: "jane".into(), groups: vec!["g".into()], ..UserInfo::default() };
        let action = Action::Resource {
            verb: "list".into(),
            group: "apps".into(),
            version: "v1".into(),
            resource: "deployments".into(),
            subresource: String::new(),
            namespace: "ns".into(),
            name: String::new(),
        };
        let fields = [("metadata.name".to_owned(), "web".to_owned())];
        let asked = review("v1beta1", spec(&user, &action, &fields));
        assert_eq!(
            asked["spec"],
            json!({
                "resourceAttributes": {
                    "namespace": "ns", "verb": "list", "group": "apps", "version": "v1", "resource": "deployments",
                    "fieldSelector": {"requirements": [{"key": "metadata.name", "operator": "In", "values": ["web"]}]},
                },
                "user": "jane", "group": ["g"],
            })
        );
    }
}
