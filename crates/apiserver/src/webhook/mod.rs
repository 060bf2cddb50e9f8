//! Admission webhooks: judges outside this process, asked in upstream's order.
//!
//! [`hook`] is a webhook as configured, [`selection`] (with [`rules`]) and [`expressions`] decide whether it is asked, for
//! policies as well; [`review`] is the question and its answer. This file asks: mutating hooks one after the other, validating ones at once. A hook that hangs, lies or talks too
//! much costs its own timeout and a bounded number of bytes, and then its failure policy decides. Webhook and policy
//! configurations are never shown to webhooks, or nobody could repair a broken one.

mod call;
mod expressions;
mod hook;
mod review;
mod rules;
mod selection;

pub(crate) use call::post;
pub(crate) use hook::ClientConfig;

use std::sync::Arc;

use api::cel::policy::{self, Matched};
use api::codec::{self, Target};
use api::patch::{Patch, PatchType};
use api::status::GroupResource;
use api::{Kind, Status, Value, defaults, meta};
use parking_lot::Mutex;
use store::Revision;

use crate::admission::Operation;
use crate::attributes::UserInfo;
use crate::gateway::Gateway;
use crate::reinvocation::Rounds;
use crate::source::ObjectSource;
use crate::verbs::{DeleteOptions, Notes, Request};
use crate::write::{Moment, convert};
use call::Failure;
use hook::Hook;
use review::Named;

pub(crate) use expressions::{Authority, Inputs, Seen};
pub(crate) use selection::{Selection, Surroundings, read_namespace};

const GROUP: &str = "admissionregistration.k8s.io";
/// Kinds that no webhook sees.
const EXEMPT: [&str; 6] = [
    "ValidatingWebhookConfiguration",
    "MutatingWebhookConfiguration",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
];

/// The hooks of the cluster, read again when their configurations change.
#[derive(Debug, Default)]
pub(crate) struct Webhooks {
    mutating: Mutex<(Revision, Arc<Vec<Hook>>)>,
    validating: Mutex<(Revision, Arc<Vec<Hook>>)>,
}

impl Webhooks {
    fn mutating(&self, source: &dyn ObjectSource) -> Arc<Vec<Hook>> {
        current(&self.mutating, source, "mutatingwebhookconfigurations")
    }

    /// Is there a mutating hook at all?
    pub(crate) fn mutates(&self, source: &dyn ObjectSource) -> bool {
        !self.mutating(source).is_empty()
    }

    fn validating(&self, source: &dyn ObjectSource) -> Arc<Vec<Hook>> {
        current(&self.validating, source, "validatingwebhookconfigurations")
    }
}

fn current(memo: &Mutex<(Revision, Arc<Vec<Hook>>)>, source: &dyn ObjectSource, resource: &str) -> Arc<Vec<Hook>> {
    let changed = source.last_change(GROUP, resource);
    let mut memo = memo.lock();
    if memo.0 != changed {
        *memo = (changed, Arc::new(hook::hooks(&source.list(GROUP, resource, ""))));
    }
    Arc::clone(&memo.1)
}

/// What is being admitted, apart from the object.
#[derive(Debug)]
pub(crate) struct Attributes<'a> {
    pub operation: Operation,
    pub kind: &'a Arc<Kind>,
    /// Empty for the resource itself.
    pub subresource: &'a str,
    /// A namespace lies in itself.
    pub namespace: String,
    pub name: String,
    pub user: &'a UserInfo,
    pub dry_run: bool,
    /// The options object of the verb; null for CONNECT.
    pub options: Value,
}

impl<'a> Attributes<'a> {
    /// A create, update or connect. `object` names what the path does not.
    pub(crate) fn of_write(request: &'a Request, operation: Operation, object: &Value) -> Self {
        let options = match operation {
            Operation::Connect => Value::Null,
            _ => review::write_options(request, operation == Operation::Create),
        };
        Self::new(request, operation, object, options)
    }

    pub(crate) fn of_delete(request: &'a Request, options: &DeleteOptions) -> Self {
        let dry_run = options.dry_run;
        let options = review::delete_options(options);
        let mut attributes = Self { dry_run, ..Self::new(request, Operation::Delete, &Value::Null, options) };
        // Who deletes a collection names none of its objects.
        if request.verb == "deletecollection" {
            attributes.name.clear();
        }
        attributes
    }

    fn new(request: &'a Request, operation: Operation, object: &Value, options: Value) -> Self {
        let name = if request.name.is_empty() { meta::name(object) } else { &request.name };
        let mut attributes = Self {
            operation,
            kind: &request.kind,
            subresource: &request.subresource,
            namespace: request.namespace.clone(),
            name: name.to_owned(),
            user: &request.user,
            dry_run: request.is_dry_run(),
            options,
        };
        if attributes.is_namespace() {
            attributes.namespace = attributes.name.clone();
        }
        attributes
    }

    pub(crate) fn group_resource(&self) -> GroupResource<'_> {
        GroupResource { group: &self.kind.group, resource: &self.kind.resource }
    }

    pub(crate) fn is_namespace(&self) -> bool {
        self.kind.group.is_empty() && self.kind.resource == "namespaces"
    }

    fn object_kind(&self) -> Named<'_> {
        object_kind(self.kind, self.subresource)
    }

    fn resource(&self) -> Named<'_> {
        resource(self.kind)
    }

    fn is_exempt(&self) -> bool {
        let kind = self.object_kind();
        kind.group == GROUP && EXEMPT.contains(&kind.name)
    }

    /// The same resource in its other versions.
    fn equivalents(&self, gateway: &Gateway) -> Vec<Arc<Kind>> {
        let same = |other: &&Arc<Kind>| {
            other.is_stored()
                && other.storage_prefix == self.kind.storage_prefix
                && other.resource == self.kind.resource
                && (&other.group, &other.version) != (&self.kind.group, &self.kind.version)
        };
        let custom = gateway.catalog.snapshot();
        let builtin = gateway.catalog.builtin().kinds().iter();
        builtin.chain(custom.kinds()).filter(same).cloned().collect()
    }
}

/// Group, version and kind of the objects that a resource or subresource takes.
fn object_kind<'k>(kind: &'k Kind, subresource: &str) -> Named<'k> {
    match kind.subresource(subresource) {
        Some(sub) => Named { group: &sub.group, version: &sub.version, name: &sub.kind },
        None => Named { group: &kind.group, version: &kind.version, name: &kind.kind },
    }
}

fn resource(kind: &Kind) -> Named<'_> {
    Named { group: &kind.group, version: &kind.version, name: &kind.resource }
}

/// The body of a subresource is a type of its own, or the object.
pub(crate) fn has_own_body(kind: &Kind, subresource: &str) -> bool {
    kind.subresource(subresource).is_some_and(|sub| sub.kind != kind.kind)
}

pub(crate) fn target<'k>(kind: &'k Kind, subresource: &str) -> Target<'k> {
    match kind.subresource(subresource) {
        Some(sub) if sub.kind != kind.kind => Target::from(sub),
        _ => Target::from(kind),
    }
}

/// What hooks leave behind besides their decision.
pub(crate) struct Traces<'t> {
    pub notes: &'t Notes,
}

/// Asks the mutating hooks, one after the other. True: one of them changed the object.
pub(crate) async fn mutate(
    gateway: &Gateway,
    attributes: &Attributes<'_>,
    object: &mut Value,
    old: &Value,
    rounds: &mut Rounds,
    traces: &mut Traces<'_>,
) -> Result<bool, Status> {
    let hooks = gateway.webhooks.mutating(gateway.cache.as_ref());
    let mut changed = false;
    if hooks.is_empty() || attributes.is_exempt() {
        return Ok(changed);
    }
    let surroundings = Surroundings::new(gateway, attributes);
    let round = u8::from(rounds.is_second());
    for (index, hook) in hooks.iter().enumerate() {
        let Some(kind) = wants(gateway, hook, attributes, &surroundings, object, old).await? else { continue };
        if !rounds.includes(&hook.uid) {
            continue;
        }
        let outcome = Box::pin(mutate_by(gateway, hook, &kind, attributes, object, old, traces)).await;
        let mutated = matches!(outcome, Ok(true));
        let place = format!("round_{round}_index_{index}");
        let said = api::json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": mutated});
        traces.notes.annotate(format!("mutation.webhook.admission.k8s.io/{place}"), said.to_string());
        if mutated {
            changed = true;
            rounds.overtake();
        }
        if hook.reinvocable {
            rounds.wait(hook.uid.clone());
        }
        match outcome {
            Ok(_) => {}
            Err(Failure::Call(_)) if hook.fails_open => {
                let key = format!("failed-open.mutation.webhook.admission.k8s.io/{place}");
                traces.notes.annotate(key, hook.name.clone());
            }
            Err(failure) => return Err(failure.status(hook)),
        }
    }
    rounds.finish(object);
    Ok(changed)
}

/// Asks one hook and applies its patch. True: the object is another now.
async fn mutate_by(
    gateway: &Gateway,
    hook: &Hook,
    kind: &Arc<Kind>,
    attributes: &Attributes<'_>,
    object: &mut Value,
    old: &Value,
    traces: &mut Traces<'_>,
) -> Result<bool, Failure> {
    let shown = in_version_of(kind, attributes, object);
    let answer = call::ask(gateway, hook, kind, attributes, (&shown, old), true).await?;
    keep(hook, &answer, traces);
    if !answer.allowed {
        return Err(Failure::refused(review::denial(&hook.name, answer.status)));
    }
    if answer.patch.is_empty() {
        return Ok(false);
    }
    let patch = Patch::decode(PatchType::Json, &answer.patch, true)
        .map_err(|error| Failure::Call(format!("received undecodable patch in webhook response: {error}")))?;
    if patch.document().as_array().is_none_or(Vec::is_empty) {
        return Ok(false);
    }
    if shown.is_null() {
        let name = &hook.name;
        return Err(Failure::refused(Status::internal(format!(
            "admission webhook {name:?} attempted to modify the object, which is not supported for this operation"
        ))));
    }
    if answer.patch_type != "JSONPatch" {
        return Err(Failure::Call(format!("unsupported patch type {:?}", answer.patch_type)));
    }
    let internal = |error: String| Failure::refused(Status::internal(error));
    let patched = patch.apply_schemaless(&shown).map_err(|error| internal(error.to_string()))?;
    let target = target(kind, attributes.subresource);
    let mut patched = codec::normalize(&patched.object, target).map_err(|error| internal(error.message))?.value;
    let changed = patched != shown;
    defaults::apply_at(target, &mut patched, &Moment::now().now);
    *object =
        if has_own_body(kind, attributes.subresource) { patched } else { convert(patched, kind, attributes.kind) };
    Ok(changed)
}

/// Asks all validating hooks at once.
pub(crate) async fn validate(
    gateway: &Gateway,
    attributes: &Attributes<'_>,
    object: &Value,
    old: &Value,
    traces: &mut Traces<'_>,
) -> Result<(), Status> {
    let hooks = gateway.webhooks.validating(gateway.cache.as_ref());
    if hooks.is_empty() || attributes.is_exempt() {
        return Ok(());
    }
    let surroundings = Surroundings::new(gateway, attributes);
    let mut relevant = Vec::new();
    for hook in hooks.iter() {
        if let Some(kind) = wants(gateway, hook, attributes, &surroundings, object, old).await? {
            relevant.push((hook, kind));
        }
    }
    let asked = relevant.iter().map(|(hook, kind)| {
        Box::pin(async move {
            let shown = in_version_of(kind, attributes, object);
            call::ask(gateway, hook, kind, attributes, (&shown, old), false).await
        })
    });
    let answers = futures::future::join_all(asked).await;
    let mut refusal = None;
    for (index, ((hook, _), answer)) in relevant.iter().zip(answers).enumerate() {
        let judged = answer.and_then(|answer| {
            keep(hook, &answer, traces);
            if answer.allowed { Ok(()) } else { Err(Failure::refused(review::denial(&hook.name, answer.status))) }
        });
        match judged {
            Ok(()) => {}
            Err(Failure::Call(_)) if hook.fails_open => {
                let key = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}");
                traces.notes.annotate(key, hook.name.clone());
            }
            Err(failure) => refusal = refusal.or(Some(failure.status(hook))),
        }
    }
    refusal.map_or(Ok(()), Err)
}

/// Warnings and audit annotations of an answer.
fn keep(hook: &Hook, answer: &review::Answer, traces: &mut Traces<'_>) {
    for (key, value) in &answer.audit_annotations {
        traces.notes.annotate(format!("{}/{key}", hook.name), value.clone());
    }
    answer.warnings.iter().for_each(|warning| traces.notes.push(warning.as_str()));
}

/// The object in the version that the hook speaks.
fn in_version_of(kind: &Kind, attributes: &Attributes<'_>, object: &Value) -> Value {
    if object.is_null() || has_own_body(kind, attributes.subresource) {
        return object.clone();
    }
    convert(object.clone(), attributes.kind, kind)
}

/// Is the hook to be asked, and in whose version?
async fn wants(
    gateway: &Gateway,
    hook: &Hook,
    attributes: &Attributes<'_>,
    surroundings: &Surroundings,
    object: &Value,
    old: &Value,
) -> Result<Option<Arc<Kind>>, Status> {
    let Some(kind) = hook.selection.takes(gateway, attributes, surroundings, object, old).await? else {
        return Ok(None);
    };
    if hook.conditions.is_empty() {
        return Ok(Some(kind));
    }
    let seen = Seen::new(attributes, &kind, object, old);
    let bindings = seen.inputs(&Value::Null, &Value::Null).bindings(Some(&Authority::new(&gateway.authz, attributes)));
    match policy::match_conditions(&hook.conditions, &bindings, None, hook.fails_open) {
        Matched::Yes => Ok(Some(kind)),
        Matched::No => Ok(None),
        Matched::Failed(text) => Err(Status::forbidden(attributes.group_resource(), &attributes.name, &text)),
    }
}
