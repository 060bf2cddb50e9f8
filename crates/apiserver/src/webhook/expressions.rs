//! What CEL expressions see of a request: match conditions of webhooks, and everything in policies.

use std::sync::Arc;

use api::cel::{self, Asker, Bindings, Check, Opaque, ResourceCheck, Val};
use api::selector::FieldSelector;
use api::{Kind, Value};

use super::{Attributes, in_version_of, object_kind, resource, review};
use crate::attributes::{Action, UserInfo};
use crate::authz;

/// Values of the variables of one evaluation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs<'a> {
    pub object: &'a Value,
    pub old: &'a Value,
    /// Null for a policy without parameters.
    pub params: &'a Value,
    /// An AdmissionRequest without the objects.
    pub request: &'a Value,
    pub namespace: &'a Value,
}

impl<'a> Inputs<'a> {
    /// `authorizer`: the expressions may ask it.
    pub(crate) fn bindings(&self, authorizer: Option<&Authority>) -> Bindings<'a> {
        let mut bindings = Bindings::new();
        bindings.set("object", Val::data(self.object));
        bindings.set("oldObject", Val::data(self.old));
        bindings.set("params", Val::data(self.params));
        bindings.set("request", Val::data(self.request));
        bindings.set("namespaceObject", Val::data(self.namespace));
        if let Some(authority) = authorizer {
            bindings.set("authorizer", Val::Opaque(Opaque::Authorizer(authority.asker.clone())));
            bindings.set("authorizer.requestResource", Val::Opaque(authority.request.clone()));
        }
        bindings
    }
}

/// The request and the objects in the version in which they are wanted.
#[derive(Debug)]
pub(crate) struct Seen {
    kind: Arc<Kind>,
    request: Value,
    pub object: Value,
    pub old: Value,
}

impl Seen {
    pub(crate) fn new(attributes: &Attributes<'_>, kind: &Arc<Kind>, object: &Value, old: &Value) -> Self {
        let names = (object_kind(kind, attributes.subresource), resource(kind));
        Self {
            kind: Arc::clone(kind),
            request: review::describe(attributes, names),
            object: in_version_of(kind, attributes, object),
            old: in_version_of(kind, attributes, old),
        }
    }

    pub(crate) fn is_of(&self, kind: &Kind) -> bool {
        (&self.kind.group, &self.kind.version) == (&kind.group, &kind.version)
    }

    pub(crate) fn inputs<'a>(&'a self, params: &'a Value, namespace: &'a Value) -> Inputs<'a> {
        Inputs { object: &self.object, old: &self.old, params, request: &self.request, namespace }
    }
}

/// The authorizer, asked for the user of a request.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    asker: Asker,
    request: Opaque,
}

impl Authority {
    pub(crate) fn new(authorizer: &Arc<authz::Authorizer>, attributes: &Attributes<'_>) -> Self {
        let judge = Judge { authorizer: Arc::clone(authorizer), user: attributes.user.clone() };
        let asker = Asker::new(Arc::new(judge));
        let mut check = ResourceCheck::new(asker.clone(), &attributes.kind.group, &attributes.kind.resource);
        check.subresource = attributes.subresource.to_owned();
        check.namespace.clone_from(&attributes.namespace);
        check.name.clone_from(&attributes.name);
        Self { asker, request: Opaque::ResourceCheck(Arc::new(check)) }
    }
}

struct Judge {
    authorizer: Arc<authz::Authorizer>,
    user: UserInfo,
}

impl cel::Authorizer for Judge {
    fn decide(&self, service_account: Option<(&str, &str)>, verb: &str, check: &Check<'_>) -> cel::Decision {
        let user = service_account.map(|(namespace, name)| UserInfo {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")],
            ..UserInfo::default()
        });
        let user = user.as_ref().unwrap_or(&self.user);
        let (action, fields) = match check {
            Check::Path(path) => (Action::NonResource { verb: verb.to_owned(), path: (*path).to_owned() }, Vec::new()),
            Check::Resource(check) => (resource_action(verb, check), field_requirements(&check.field_selector)),
        };
        let decision = self.authorizer.authorize_selected(user, &action, &fields);
        cel::Decision { allowed: decision.allowed, reason: decision.reason.text(), error: None }
    }
}

fn resource_action(verb: &str, check: &ResourceCheck) -> Action {
    Action::Resource {
        verb: verb.to_owned(),
        group: check.group.clone(),
        version: "*".to_owned(),
        resource: check.resource.clone(),
        subresource: check.subresource.clone(),
        namespace: check.namespace.clone(),
        name: check.name.clone(),
    }
}

/// The equalities of a field selector; one that cannot be read asks for nothing less.
fn field_requirements(selector: &str) -> Vec<(String, String)> {
    let Ok(selector) = FieldSelector::parse(selector) else { return Vec::new() };
    let equal = selector.requirements().iter().filter(|requirement| requirement.equal);
    equal.map(|requirement| (requirement.field.clone(), requirement.value.clone())).collect()
}
