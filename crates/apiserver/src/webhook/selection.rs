//! Which requests a webhook, a policy or a binding is for: rules and selectors, as `MatchResources` and webhooks have them.

use std::sync::Arc;

use api::selector::LabelSelector;
use api::status::GroupResource;
use api::{Kind, Status, Value};
use tokio::sync::OnceCell;

use super::Attributes;
use super::rules::{Rule, kind_for};
use crate::admission::Operation;
use crate::error::from_store;
use crate::gateway::Gateway;
use crate::source::ObjectSource;
use crate::storage::ObjectKey;
use crate::write::decode_stored;

/// Rules and selectors.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Without rules, every resource is meant: so it is in bindings.
    any_resource: bool,
    /// `matchPolicy: Equivalent`
    takes_equivalents: bool,
    namespace_selector: Result<LabelSelector, String>,
    object_selector: Result<LabelSelector, String>,
}

impl Selection {
    /// Of a webhook.
    pub(crate) fn of_hook(webhook: &Value) -> Self {
        Self {
            rules: Rule::parse_all(&webhook["rules"]),
            excluded: Vec::new(),
            any_resource: false,
            takes_equivalents: webhook["matchPolicy"] == "Equivalent",
            namespace_selector: selector(&webhook["namespaceSelector"]),
            object_selector: selector(&webhook["objectSelector"]),
        }
    }

    /// Of a `MatchResources`.
    pub(crate) fn of_resources(resources: &Value) -> Self {
        let rules = Rule::parse_all(&resources["resourceRules"]);
        Self {
            any_resource: rules.is_empty(),
            rules,
            excluded: Rule::parse_all(&resources["excludeResourceRules"]),
            ..Self::of_hook(resources)
        }
    }

    /// Is the request meant, and in which version does it want to be seen?
    pub(crate) async fn takes(
        &self,
        gateway: &Gateway,
        attributes: &Attributes<'_>,
        surroundings: &Surroundings,
        object: &Value,
        old: &Value,
    ) -> Result<Option<Arc<Kind>>, Status> {
        let equivalents = surroundings.equivalents.as_slice();
        let by = |rules: &[Rule]| kind_for(rules, self.takes_equivalents, attributes, equivalents);
        if by(&self.excluded).is_some() {
            return Ok(None);
        }
        let found = if self.any_resource { Some(Arc::clone(attributes.kind)) } else { by(&self.rules) };
        let Some(kind) = found else { return Ok(None) };
        let selector = self.object_selector.as_ref().map_err(Status::internal)?;
        let labelled = |object: &Value| object.is_object() && selector.matches_object(object);
        if !selector.is_everything() && !labelled(object) && !labelled(old) {
            return Ok(None);
        }
        let selector = self.namespace_selector.as_ref().map_err(Status::internal)?;
        // What belongs to no namespace cannot be exempted by one.
        if selector.is_everything() || (attributes.namespace.is_empty() && !attributes.is_namespace()) {
            return Ok(Some(kind));
        }
        let labels = surroundings.namespace_labels(gateway, attributes, object).await?;
        Ok(selector.matches_labels(labels).then_some(kind))
    }
}

/// An absent selector selects everything.
fn selector(selector: &Value) -> Result<LabelSelector, String> {
    match selector {
        Value::Null => Ok(LabelSelector::everything()),
        selector => LabelSelector::from_object(selector).map_err(|error| error.to_string()),
    }
}

/// What is around a request, found out once for all that ask.
#[derive(Debug)]
pub(crate) struct Surroundings {
    equivalents: Vec<Arc<Kind>>,
    namespace: OnceCell<Value>,
}

impl Surroundings {
    pub(crate) fn new(gateway: &Gateway, attributes: &Attributes<'_>) -> Self {
        Self { equivalents: attributes.equivalents(gateway), namespace: OnceCell::new() }
    }

    /// Labels of the request's namespace; of the object itself when that is what is written.
    async fn namespace_labels<'s>(
        &'s self,
        gateway: &Gateway,
        attributes: &Attributes<'_>,
        object: &'s Value,
    ) -> Result<&'s Value, Status> {
        const NONE: &Value = &Value::Null;
        let of = |namespace: &'s Value| namespace.pointer("/metadata/labels").unwrap_or(NONE);
        let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
        if attributes.is_namespace() && attributes.subresource.is_empty() && writes {
            return Ok(of(object));
        }
        self.namespace(gateway, &attributes.namespace).await.map(of)
    }

    /// The request's namespace.
    pub(crate) async fn namespace(&self, gateway: &Gateway, name: &str) -> Result<&Value, Status> {
        self.namespace.get_or_try_init(|| read_namespace(gateway, name)).await
    }
}

/// A namespace by name, also one that was made a moment ago.
pub(crate) async fn read_namespace(gateway: &Gateway, name: &str) -> Result<Value, Status> {
    if let Some(namespace) = gateway.cache.get("", "namespaces", "", name).and_then(|stored| stored.parse()) {
        return Ok(namespace);
    }
    // The cache may be a moment behind.
    let kind = gateway.kind("", "v1", "namespaces")?;
    let stored = gateway.objects.get(&ObjectKey::new(&kind, "", name)).await;
    let stored = stored.map_err(|error| from_store(&kind, "get", error))?;
    let missing = || Status::not_found(GroupResource { group: "", resource: "namespaces" }, name);
    let stored = stored.ok_or_else(missing)?;
    decode_stored(&kind, &stored.value, stored.mod_revision)
}
