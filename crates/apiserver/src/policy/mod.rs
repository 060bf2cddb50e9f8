//! Admission by policy: ValidatingAdmissionPolicy and MutatingAdmissionPolicy with their bindings.
//!
//! [`definition`] is a policy with compiled expressions, [`params`] are the objects it is parameterized by;
//! [`validating`] and [`mutating`] judge and change. Which requests a policy is for is decided as for webhooks
//! ([`crate::webhook::Selection`]). Nothing here writes; all of it is computed from the cache, except a namespace or a parameter
//! that the cache does not have yet. Policies and their bindings are never shown to policies.
//! Source: `k8s.io/apiserver/pkg/admission/plugin/policy`.

mod definition;
mod mutating;
mod params;
#[cfg(test)]
mod tests;
mod validating;

use std::sync::Arc;
use std::time::Duration;

use api::cel::policy::{self, Matched, Variables};
use api::{Kind, Status, Value};
use parking_lot::Mutex;
use store::Revision;
use tokio::sync::watch;

use crate::gateway::Gateway;
use crate::source::ObjectSource;
use crate::webhook::{Attributes, Authority, Inputs, Surroundings};
use definition::{Binding, Policy};

pub(crate) use mutating::mutate;
pub(crate) use validating::validate;

const GROUP: &str = "admissionregistration.k8s.io";
/// Resources that no policy sees: policies, or nobody could repair a broken one, and what is asked and not stored.
const EXEMPT: [(&str, &str); 10] = [
    (GROUP, "validatingadmissionpolicies"),
    (GROUP, "validatingadmissionpolicybindings"),
    (GROUP, "mutatingadmissionpolicies"),
    (GROUP, "mutatingadmissionpolicybindings"),
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

/// How often changes are looked for, as upstream does: many at once are compiled once, and no request waits for it.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// The policies in force.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    validating: Compiled,
    mutating: Compiled,
}

/// Compiled policies, with the revisions of policies and bindings that they were compiled from; nothing before the first use.
type Compiled = Mutex<Option<([Revision; 2], Arc<Vec<Policy>>)>>;

impl Policies {
    fn validating(&self, source: &dyn ObjectSource) -> Arc<Vec<Policy>> {
        known(&self.validating).unwrap_or_else(|| self.refresh_validating(source))
    }

    fn mutating(&self, source: &dyn ObjectSource) -> Arc<Vec<Policy>> {
        known(&self.mutating).unwrap_or_else(|| self.refresh_mutating(source))
    }

    /// Is there a mutating policy in force at all?
    pub(crate) fn mutates(&self, source: &dyn ObjectSource) -> bool {
        !self.mutating(source).is_empty()
    }

    fn refresh_validating(&self, source: &dyn ObjectSource) -> Arc<Vec<Policy>> {
        const RESOURCES: [&str; 2] = ["validatingadmissionpolicies", "validatingadmissionpolicybindings"];
        refresh(&self.validating, source, RESOURCES, false)
    }

    fn refresh_mutating(&self, source: &dyn ObjectSource) -> Arc<Vec<Policy>> {
        const RESOURCES: [&str; 2] = ["mutatingadmissionpolicies", "mutatingadmissionpolicybindings"];
        refresh(&self.mutating, source, RESOURCES, true)
    }
}

fn known(compiled: &Compiled) -> Option<Arc<Vec<Policy>>> {
    compiled.lock().as_ref().map(|(_, policies)| Arc::clone(policies))
}

/// Compiles again if policies or bindings have changed.
fn refresh(compiled: &Compiled, source: &dyn ObjectSource, resources: [&str; 2], mutating: bool) -> Arc<Vec<Policy>> {
    let changed = resources.map(|resource| source.last_change(GROUP, resource));
    if let Some((revisions, policies)) = compiled.lock().as_ref()
        && *revisions == changed
    {
        return Arc::clone(policies);
    }
    let [policies, bindings] = resources.map(|resource| source.list(GROUP, resource, ""));
    let policies = Arc::new(definition::policies(&policies, &bindings, mutating));
    *compiled.lock() = Some((changed, Arc::clone(&policies)));
    policies
}

/// Keeps the policies in force up to date until the server stops.
pub(crate) async fn run_refresher(gateway: Arc<Gateway>, mut shutdown: watch::Receiver<bool>) {
    gateway.cache.ready().await;
    loop {
        let source = gateway.cache.as_ref();
        gateway.policies.refresh_validating(source);
        gateway.policies.refresh_mutating(source);
        tokio::select! {
            () = tokio::time::sleep(REFRESH_INTERVAL) => {}
            _ = shutdown.wait_for(|stopped| *stopped) => return,
        }
    }
}

fn is_exempt(attributes: &Attributes<'_>) -> bool {
    EXEMPT.iter().any(|(group, resource)| attributes.kind.group == *group && attributes.kind.resource == *resource)
}

/// One evaluation that a request asks for: a policy, the binding that puts it in force, and one parameter.
struct Invocation<'p> {
    policy: &'p Policy,
    binding: &'p Binding,
    /// In whose version the policy wants to see the request.
    kind: Arc<Kind>,
    param: Value,
}

/// A policy or binding that cannot be used as it is configured.
struct Misconfigured<'p> {
    policy: &'p Policy,
    binding: Option<&'p Binding>,
    text: String,
}

/// Everything that is to be evaluated for a request, in order, and what cannot be.
async fn invocations<'p>(
    gateway: &Gateway,
    policies: &'p [Policy],
    attributes: &Attributes<'_>,
    surroundings: &Surroundings,
    object: &Value,
    old: &Value,
) -> (Vec<Invocation<'p>>, Vec<Misconfigured<'p>>) {
    let (mut found, mut misconfigured) = (Vec::new(), Vec::new());
    for policy in policies {
        let mut refuse = |binding: Option<&'p Binding>, text: String| {
            let what = if binding.is_some() { "binding" } else { "policy" };
            misconfigured.push(Misconfigured { policy, binding, text: format!("failed to configure {what}: {text}") });
        };
        let kind = match policy.selection.takes(gateway, attributes, surroundings, object, old).await {
            Ok(Some(kind)) => kind,
            Ok(None) => continue,
            Err(status) => {
                refuse(None, status.message);
                continue;
            }
        };
        let param_kind = match policy.param_kind.as_ref().map(|wanted| params::kind_of(gateway, wanted)).transpose() {
            Ok(param_kind) => param_kind,
            Err(text) => {
                refuse(None, text);
                continue;
            }
        };
        for binding in &policy.bindings {
            if let Some(selection) = &binding.selection {
                match selection.takes(gateway, attributes, surroundings, object, old).await {
                    Ok(Some(_)) => {}
                    Ok(None) => continue,
                    Err(status) => {
                        refuse(Some(binding), status.message);
                        continue;
                    }
                }
            }
            match params::collect(gateway, param_kind.as_deref(), binding, &attributes.namespace).await {
                Ok(params) => found.extend(params.into_iter().map(|param| Invocation {
                    policy,
                    binding,
                    kind: Arc::clone(&kind),
                    param,
                })),
                Err(text) => refuse(Some(binding), text),
            }
        }
    }
    (found, misconfigured)
}

/// The namespace as expressions see it; null for what lies in none.
async fn namespace_object(
    gateway: &Gateway,
    attributes: &Attributes<'_>,
    surroundings: &Surroundings,
) -> Result<Value, Status> {
    if attributes.namespace.is_empty() || attributes.is_namespace() {
        return Ok(Value::Null);
    }
    let mut namespace = surroundings.namespace(gateway, &attributes.namespace).await?.clone();
    if let Some(object) = namespace.as_object_mut() {
        object.retain(|field, _| matches!(field.as_str(), "metadata" | "spec" | "status"));
    }
    if let Some(metadata) = namespace.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|field, _| !matches!(field.as_str(), "managedFields" | "ownerReferences" | "selfLink"));
    }
    Ok(namespace)
}

/// Is the request one that the policy's conditions are for? Conditions do not see the namespace.
fn conditions(policy: &Policy, inputs: &Inputs<'_>, authority: &Authority) -> Matched {
    if policy.conditions.is_empty() {
        return Matched::Yes;
    }
    let bindings = Inputs { namespace: &Value::Null, ..*inputs }.bindings(Some(authority));
    let variables = Variables::new(&policy.variables, &bindings);
    policy::match_conditions(&policy.conditions, &bindings, Some(&variables), policy.ignores_failures)
}
