//! Authorization: may this user do this? Upstream's order: `system:masters`, then the chain as configured;
//! by default the node authorizer and RBAC.
//!
//! Everything is decided from the [`ObjectSource`] alone; what is derived from it (parsed roles, node relations) is kept as long
//! as the source reports no change. An authorizer never denies what another one may still allow.

pub mod abac;
pub mod aggregate;
pub mod config;
pub mod escalation;
pub mod node;
pub mod rbac;
pub mod review;
pub mod rule;
mod webhook;

use std::sync::Arc;

use api::{Status, field::go_quote, status::GroupResource};
use parking_lot::RwLock;

use crate::{
    attributes::{Action, UserInfo},
    source::ObjectSource,
};

pub use config::Mode;
pub use node::NodeAuthorizer;
pub use rbac::Rbac;
pub use rule::PolicyRule;
use webhook::Webhook;
pub use webhook::WebhookConfig;

/// Members may do anything; no role can take that away.
pub const SUPERUSER_GROUP: &str = "system:masters";

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// Nobody else may allow it. Only a webhook says so, and an authorizer that denies everything.
    pub denied: bool,
    /// Why; empty when there is nothing to say. Shown to the user after a refusal and by access reviews.
    pub reason: Reason,
}

/// A reason that costs nothing until somebody reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    None,
    /// RBAC's grant, as `ClusterRoleBinding "b" of ClusterRole "r" to User "u"`.
    GrantedBy(Arc<str>),
    Text(String),
}

impl Reason {
    pub fn text(&self) -> String {
        match self {
            Self::None => String::new(),
            Self::GrantedBy(grant) => format!("RBAC: allowed by {grant}"),
            Self::Text(text) => text.clone(),
        }
    }
}

impl Decision {
    pub fn allow() -> Self {
        Self { allowed: true, denied: false, reason: Reason::None }
    }

    /// No opinion: somebody else may allow it.
    pub fn pass(reason: impl Into<String>) -> Self {
        let text = reason.into();
        Self { allowed: false, denied: false, reason: if text.is_empty() { Reason::None } else { Reason::Text(text) } }
    }

    /// No, whatever others say.
    pub fn deny(reason: impl Into<String>) -> Self {
        Self { denied: true, ..Self::pass(reason) }
    }
}

/// Requirements `field = value` of the request's field selector. The node authorizer reads them.
pub type FieldEquals<'a> = &'a [(String, String)];

/// What somebody may do, for reviews.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub rules: Vec<PolicyRule>,
    /// There may be more.
    pub is_incomplete: bool,
    pub errors: Vec<String>,
}

/// The chain of authorizers of one API server.
pub struct Authorizer {
    node: NodeAuthorizer,
    rbac: Arc<Rbac>,
    /// Asked in this order.
    chain: RwLock<Arc<Vec<Link>>>,
}

/// One authorizer of the chain.
#[derive(Debug)]
enum Link {
    AlwaysAllow,
    AlwaysDeny,
    Abac(Arc<abac::Policies>),
    Node,
    Rbac,
    Webhook(Webhook),
}

impl From<Mode> for Link {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::AlwaysAllow => Self::AlwaysAllow,
            Mode::AlwaysDeny => Self::AlwaysDeny,
            Mode::Abac(policies) => Self::Abac(policies),
            Mode::Node => Self::Node,
            Mode::Rbac => Self::Rbac,
            Mode::Webhook(config) => Self::Webhook(Webhook::new(config)),
        }
    }
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorizer").finish_non_exhaustive()
    }
}

impl Authorizer {
    pub fn new(source: Arc<dyn ObjectSource>) -> Self {
        Self::with_modes(source, config::default_modes())
    }

    /// A chain of other authorizers.
    pub fn with_modes(source: Arc<dyn ObjectSource>, modes: Vec<Mode>) -> Self {
        let chain = RwLock::new(Arc::new(modes.into_iter().map(Link::from).collect()));
        Self { node: NodeAuthorizer::new(source.clone()), rbac: Arc::new(Rbac::new(source)), chain }
    }

    /// Puts another chain in the place of this one; what webhooks have answered is forgotten.
    pub fn set_modes(&self, modes: Vec<Mode>) {
        *self.chain.write() = Arc::new(modes.into_iter().map(Link::from).collect());
    }

    /// The RBAC part, which escalation checks and rule reviews need by itself.
    pub fn rbac(&self) -> &Rbac {
        &self.rbac
    }

    pub fn authorize(&self, user: &UserInfo, action: &Action) -> Decision {
        self.authorize_selected(user, action, &[])
    }

    /// Like [`Authorizer::authorize`] for a request with a field selector.
    pub fn authorize_selected(&self, user: &UserInfo, action: &Action, fields: FieldEquals<'_>) -> Decision {
        if user.in_group(SUPERUSER_GROUP) {
            return Decision::allow();
        }
        let chain = Arc::clone(&self.chain.read());
        let mut reasons: Vec<String> = Vec::new();
        for link in chain.iter() {
            let decision = match link {
                Link::AlwaysAllow => Decision::allow(),
                Link::AlwaysDeny => Decision::pass("Everything is forbidden."),
                Link::Abac(policies) => policies.authorize(user, action),
                Link::Node => self.node.authorize(user, action, fields),
                Link::Rbac => self.rbac.authorize(user, action),
                Link::Webhook(webhook) => webhook.authorize(user, action, fields),
            };
            if decision.allowed || decision.denied {
                return decision;
            }
            let reason = decision.reason.text();
            if !reason.is_empty() {
                reasons.push(reason);
            }
        }
        Decision::pass(reasons.join("\n"))
    }

    /// What the user may do in a namespace, as far as the chain can list it.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Rules {
        let chain = Arc::clone(&self.chain.read());
        let mut all = Rules::default();
        let unlisted = |all: &mut Rules, who: &str| {
            all.is_incomplete = true;
            all.errors.push(format!("{who} authorizer does not support user rule resolution"));
        };
        for link in chain.iter() {
            match link {
                Link::AlwaysAllow => all.rules.extend(PolicyRule::full_authority()),
                Link::AlwaysDeny => {}
                Link::Abac(policies) => all.rules.extend(policies.rules_for(user, namespace)),
                Link::Node if node::node_name(user).is_some() => unlisted(&mut all, "node"),
                Link::Node => {}
                Link::Rbac => {
                    let (rules, errors) = self.rbac.rules_for(user, namespace);
                    all.rules.extend(rules);
                    match errors.as_slice() {
                        [] => {}
                        [one] => all.errors.push(one.clone()),
                        many => all.errors.push(format!("[{}]", many.join(", "))),
                    }
                }
                Link::Webhook(_) => unlisted(&mut all, "webhook"),
            }
        }
        all
    }

    /// Authorizes, or answers with the 403 that upstream sends.
    pub fn require(&self, user: &UserInfo, action: &Action, fields: FieldEquals<'_>) -> Result<(), Status> {
        let decision = self.authorize_selected(user, action, fields);
        if decision.allowed { Ok(()) } else { Err(forbidden(user, action, &decision.reason.text())) }
    }
}

/// The 403 of a refused action. `<`, `>` and `&` from the request are escaped: the text may end up in a browser.
pub fn forbidden(user: &UserInfo, action: &Action, reason: &str) -> Status {
    let sentence = sanitize(&refusal(user, action));
    let text = if reason.is_empty() { sentence } else { format!("{sentence}: {reason}") };
    match action {
        Action::Resource { group, resource, name, .. } => {
            Status::forbidden(GroupResource { group, resource }, name, &text)
        }
        Action::NonResource { .. } => Status::forbidden(GroupResource { group: "", resource: "" }, "", &text),
    }
}

fn refusal(user: &UserInfo, action: &Action) -> String {
    let user = go_quote(&user.name);
    match action {
        Action::NonResource { verb, path } => format!("User {user} cannot {verb} path {}", go_quote(path)),
        Action::Resource { verb, group, resource, subresource, namespace, .. } => {
            let resource = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
            let scope = if namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {}", go_quote(namespace))
            };
            format!(
                "User {user} cannot {verb} resource {} in API group {} {scope}",
                go_quote(&resource),
                go_quote(group)
            )
        }
    }
}

fn sanitize(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::MemorySource;
    use api::json;

    fn resource(verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> Action {
        Action::Resource {
            verb: verb.into(),
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: String::new(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    fn user(name: &str, groups: &[&str]) -> UserInfo {
        UserInfo { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..UserInfo::default() }
    }

    #[test]
    fn members_of_system_masters_may_do_anything() {
        let authorizer = Authorizer::new(MemorySource::new().shared());
        let decision = authorizer.authorize(&user("x", &["system:masters"]), &resource("*", "*", "*", "", ""));
        assert_eq!(decision, Decision::allow());
    }

    #[test]
    fn a_refusal_names_user_verb_resource_group_and_scope() {
        let authorizer = Authorizer::new(MemorySource::new().shared());
        let status = authorizer
            .require(&user("jane", &[]), &resource("get", "apps", "deployments", "ns", "x"), &[])
            .unwrap_err();
        assert_eq!(status.code, 403);
        assert_eq!(
            status.message,
            "deployments.apps \"x\" is forbidden: User \"jane\" cannot get resource \"deployments\" in API group \"apps\" in \
             the namespace \"ns\""
        );
        let action = Action::NonResource { verb: "get".into(), path: "/metrics<&>".into() };
        let status = authorizer.require(&user("jane", &[]), &action, &[]).unwrap_err();
        assert_eq!(status.message, "forbidden: User \"jane\" cannot get path \"/metrics&lt;&amp;&gt;\"");
    }

    #[test]
    fn reasons_of_node_and_rbac_are_joined() {
        let source = MemorySource::new();
        source.put(
            "rbac.authorization.k8s.io",
            "clusterrolebindings",
            json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "gone"},
                   "subjects": [{"kind": "Group", "name": "system:nodes"}]}),
        );
        let authorizer = Authorizer::new(source.shared());
        let decision = authorizer
            .authorize(&user("system:node:n1", &["system:nodes"]), &resource("get", "", "secrets", "ns", "s"));
        assert_eq!(
            decision.reason.text(),
            "no relationship found between node 'n1' and this object\n\
             RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found"
        );
    }
}
