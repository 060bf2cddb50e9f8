//! Admission on the write path: the chain's two phases, policies, webhooks, the escalation check of RBAC objects, the charge to quotas.

use api::apply::{Writer, track_update};
use api::{Status, Value, meta};

use crate::admission::quota::{self, Charge};
use crate::admission::{self, Context};
use crate::authz::escalation::{self, RbacWrite};
use crate::gateway::Gateway;
use crate::guaranteed::{Target, Tried};
use crate::reinvocation;
use crate::startup::USER_AGENT;
use crate::storage::ObjectKey;
use crate::verbs::name_suffix as suffix;
use crate::verbs::{DeleteOptions, Request};
use crate::webhook::{self, Attributes, Traces};
use crate::write::{Moment, encode_for_storage, set_metadata};
use crate::{ownership, policy};

pub(crate) use crate::admission::Operation;

/// Tries to charge a quota against other writers.
const CHARGES_MAX: usize = 10;
/// How often a write that waits looks again.
const PATIENCE_STEP: std::time::Duration = std::time::Duration::from_millis(5);
const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// What admission gathers over one write.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    pub warnings: Vec<String>,
}

/// The mutating phase. First it gives what the write needs and is about to come a moment to come. `managed` is the object's
/// `managedFields`, which only policies and webhooks get to see.
pub(crate) async fn mutate(
    gateway: &Gateway,
    request: &Request,
    operation: Operation,
    object: &mut Value,
    managed: &mut Value,
    old: Option<&Value>,
) -> Result<Admission, Status> {
    let view = view(request, operation, old);
    patience(gateway, request, &view, object).await?;
    let mut admission = Admission::default();
    plugins(gateway, request, &view, object, &mut admission)?;
    let source = gateway.cache.as_ref();
    if request.admitted || (!gateway.policies.mutates(source) && !gateway.webhooks.mutates(source)) {
        return Ok(admission);
    }
    set_metadata(object, "managedFields", managed.clone());
    let attributes = Attributes::of_write(request, operation, object);
    let old = old.unwrap_or(&Value::Null);
    let mut rounds = Rounds::default();
    if outsiders(gateway, request, &attributes, object, old, &mut rounds).await? {
        // Plugins see what others made of the object, and those that asked for it see what came after them.
        plugins(gateway, request, &view, object, &mut admission)?;
        rounds.policies.again(object);
        outsiders(gateway, request, &attributes, object, old, &mut rounds).await?;
    }
    ownership::take_after_admission(object, managed, &request.notes);
    Ok(admission)
}

/// What has to be remembered between two rounds of mutation.
#[derive(Debug, Default)]
struct Rounds {
    policies: reinvocation::Rounds,
    webhooks: reinvocation::Rounds,
    /// Webhooks are asked a second time in the second round.
    second: bool,
}

/// Lets policies and then webhooks change the object. True: something did.
async fn outsiders(
    gateway: &Gateway,
    request: &Request,
    attributes: &Attributes<'_>,
    object: &mut Value,
    old: &Value,
    rounds: &mut Rounds,
) -> Result<bool, Status> {
    let by_policy = policy::mutate(gateway, attributes, object, old, &mut rounds.policies).await?;
    if rounds.second {
        rounds.webhooks.again(object);
    }
    rounds.second = true;
    let mut traces = Traces { notes: &request.notes };
    let by_webhook = webhook::mutate(gateway, attributes, object, old, &mut rounds.webhooks, &mut traces).await?;
    Ok(by_policy || by_webhook)
}

/// The mutating plugins of this process.
fn plugins(
    gateway: &Gateway,
    request: &Request,
    view: &admission::Request<'_>,
    object: &mut Value,
    admission: &mut Admission,
) -> Result<(), Status> {
    let suffix = suffix();
    let mut context = Context::new(gateway.cache.as_ref(), &gateway.authz, &gateway.admission_config, &suffix);
    let outcome = gateway.admission.admit(view, object, &mut context);
    annotate(request, &context);
    admission.warnings.append(&mut context.warnings);
    outcome
}

/// What plugins say for the audit log, whether they let the write pass or not.
fn annotate(request: &Request, context: &Context<'_>) {
    context.audit.iter().for_each(|(key, value)| request.notes.annotate(key, value));
}

/// Both phases of what is not an object of the kind: the body of an act (binding, eviction, token), a scale, a review.
pub(crate) async fn body(
    gateway: &Gateway,
    request: &Request,
    operation: Operation,
    body: &mut Value,
    old: &Value,
) -> Result<(), Status> {
    let view = view(request, operation, Some(old).filter(|old| !old.is_null()));
    plugins(gateway, request, &view, body, &mut Admission::default())?;
    let attributes = Attributes::of_write(request, operation, body);
    let mut rounds = Rounds::default();
    if outsiders(gateway, request, &attributes, body, old, &mut rounds).await? {
        plugins(gateway, request, &view, body, &mut Admission::default())?;
        rounds.policies.again(body);
        outsiders(gateway, request, &attributes, body, old, &mut rounds).await?;
    }
    {
        let suffix = suffix();
        let mut context = Context::new(gateway.cache.as_ref(), &gateway.authz, &gateway.admission_config, &suffix);
        let outcome = gateway.admission.validate(&view, body, &mut context);
        annotate(request, &context);
        outcome?;
    }
    judge(gateway, request, &attributes, body, old).await
}

/// Asks policies and then webhooks for their judgement.
async fn judge(
    gateway: &Gateway,
    request: &Request,
    attributes: &Attributes<'_>,
    object: &Value,
    old: &Value,
) -> Result<(), Status> {
    let mut traces = Traces { notes: &request.notes };
    policy::validate(gateway, attributes, object, old, &mut traces).await?;
    webhook::validate(gateway, attributes, object, old, &mut traces).await
}

/// Both phases of a CONNECT, whose object is its options.
pub(crate) async fn connect(gateway: &Gateway, request: &Request, mut options: Value) -> Result<Value, Status> {
    body(gateway, request, Operation::Connect, &mut options, &Value::Null).await?;
    Ok(options)
}

/// Waits while something is missing that may still come. What refuses the write in the end is what the store has, not a cache
/// that lags.
async fn patience(
    gateway: &Gateway,
    request: &Request,
    view: &admission::Request<'_>,
    object: &Value,
) -> Result<(), Status> {
    let started = tokio::time::Instant::now();
    let mut is_fresh = false;
    while let Some(awaited) = admission::awaited(view, object, gateway.cache.as_ref()) {
        if started.elapsed() < awaited.patience {
            tokio::time::sleep(PATIENCE_STEP).await;
        } else if std::mem::replace(&mut is_fresh, true) {
            break;
        } else {
            gateway.catch_up(&request.kind, request.verb).await?;
        }
    }
    Ok(())
}

/// The judging phase, and the charge to quotas for what passes it.
pub(crate) async fn validate(
    gateway: &Gateway,
    request: &Request,
    operation: Operation,
    object: &Value,
    old: Option<&Value>,
    admission: &mut Admission,
) -> Result<(), Status> {
    refuse_while_terminating(request, operation, object)?;
    let view = view(request, operation, old);
    let suffix = suffix();
    {
        let mut context = Context::new(gateway.cache.as_ref(), &gateway.authz, &gateway.admission_config, &suffix);
        let outcome = gateway.admission.validate(&view, object, &mut context);
        annotate(request, &context);
        admission.warnings.append(&mut context.warnings);
        outcome?;
    }
    if !request.admitted {
        let attributes = Attributes::of_write(request, operation, object);
        let old = old.unwrap_or(&Value::Null);
        judge(gateway, request, &attributes, object, old).await?;
    }
    if gateway.admission.enforces_quota() { charge(gateway, &view, object).await } else { Ok(()) }
}

/// Both phases of a delete: there is no object but the old one.
pub(crate) async fn delete(
    gateway: &Gateway,
    request: &Request,
    options: &DeleteOptions,
    old: &Value,
) -> Result<(), Status> {
    let suffix = suffix();
    {
        let mut context = Context::new(gateway.cache.as_ref(), &gateway.authz, &gateway.admission_config, &suffix);
        let view = view(request, Operation::Delete, Some(old));
        gateway.admission.admit(&view, &mut Value::Null, &mut context)?;
        gateway.admission.validate(&view, &Value::Null, &mut context)?;
    }
    if request.admitted {
        return Ok(());
    }
    let attributes = Attributes::of_delete(request, options);
    outsiders(gateway, request, &attributes, &mut Value::Null, old, &mut Rounds::default()).await?;
    judge(gateway, request, &attributes, &Value::Null, old).await
}

fn view<'a>(request: &'a Request, operation: Operation, old: Option<&'a Value>) -> admission::Request<'a> {
    let subresource = request.kind.subresource(&request.subresource);
    admission::Request {
        operation,
        group: &request.kind.group,
        version: &request.kind.version,
        kind: subresource.map_or(&request.kind.kind, |sub| &sub.kind),
        resource: &request.kind.resource,
        subresource: &request.subresource,
        namespace: &request.namespace,
        name: &request.name,
        user: &request.user,
        dry_run: request.is_dry_run(),
        old,
    }
}

/// Objects of a definition that goes are not added to.
fn refuse_while_terminating(request: &Request, operation: Operation, object: &Value) -> Result<(), Status> {
    let is_terminating = request.kind.custom().is_some_and(|custom| custom.definition().is_terminating);
    if operation != Operation::Create || !is_terminating {
        return Ok(());
    }
    let text = "create not allowed while custom resource definition is terminating";
    Err(Status::forbidden(request.kind.as_ref().into(), meta::name(object), text))
}

/// Nobody gives away more than he holds, be it well formed or not.
pub(crate) fn escalation(
    gateway: &Gateway,
    request: &Request,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    if request.kind.group != RBAC_GROUP {
        return Ok(());
    }
    let write = RbacWrite {
        resource: &request.kind.resource,
        namespace: &request.namespace,
        name: &request.name,
        new: object,
        old,
    };
    escalation::check(&gateway.authz, &request.user, &write)
}

/// Writes the quotas that the object is charged to, each on condition that it is what the decision was made on.
async fn charge(gateway: &Gateway, view: &admission::Request<'_>, object: &Value) -> Result<(), Status> {
    let mut charged: Vec<String> = Vec::new();
    for _ in 0..CHARGES_MAX {
        let mut lost_race = false;
        for charge in quota::check(view, object, gateway.cache.as_ref())? {
            let name = meta::name(&charge.old).to_owned();
            if charged.contains(&name) {
                continue;
            }
            if write_charge(gateway, charge).await? {
                charged.push(name);
            } else {
                lost_race = true;
            }
        }
        if !lost_race {
            return Ok(());
        }
        let kind = gateway.kind("", "v1", "resourcequotas")?;
        gateway.catch_up(&kind, "update").await?;
    }
    Err(Status::internal("resource quota evaluation timed out"))
}

/// `false`: the quota is no longer what it was.
async fn write_charge(gateway: &Gateway, mut charge: Charge) -> Result<bool, Status> {
    let kind = gateway.kind("", "v1", "resourcequotas")?;
    let key = ObjectKey::new(&kind, meta::namespace(&charge.old), meta::name(&charge.old));
    let version = meta::resource_version(&charge.old).parse().map_err(Status::internal)?;
    let target = Target { kind: &kind, key: &key, name: meta::name(&charge.old), operation: "update" };
    // The server writes the status of the quota as a client of itself.
    let now = Moment::now().now;
    let writer = Writer { manager: USER_AGENT, subresource: "status", now: &now };
    let managed = track_update(&kind, &writer, &charge.old, &charge.new);
    set_metadata(&mut charge.new, "managedFields", managed);
    let stored = encode_for_storage(&kind, charge.new);
    let tried = gateway.put_over(target, store::Revision(version), stored).await?;
    Ok(matches!(tried, Tried::Done(_)))
}
