//! Admission on the write path: the chain's two phases, the escalation check of RBAC objects, and the charge to quotas.

use api::{Status, Value, meta};

use crate::admission::quota::{self, Charge};
use crate::admission::{self, Context};
use crate::authz::escalation::{self, RbacWrite};
use crate::error::{from_not_fresh, from_store};
use crate::gateway::Gateway;
use crate::storage::{ObjectKey, WriteOutcome};
use crate::verbs::Request;
use crate::verbs::name_suffix as suffix;
use crate::write::encode_for_storage;

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

/// The mutating phase. First it gives what the write needs and is about to come a moment to come.
pub(crate) async fn mutate(
    gateway: &Gateway,
    request: &Request,
    operation: Operation,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<Admission, Status> {
    let view = view(request, operation, old);
    patience(gateway, &view, object).await;
    let suffix = suffix();
    let mut context = Context::new(gateway.cache.as_ref(), &gateway.authz, &gateway.admission_config, &suffix);
    gateway.admission.admit(&view, object, &mut context)?;
    Ok(Admission { warnings: context.warnings })
}

/// Waits while something is missing that may still come.
async fn patience(gateway: &Gateway, view: &admission::Request<'_>, object: &Value) {
    let started = tokio::time::Instant::now();
    while let Some(awaited) = admission::awaited(view, object, gateway.cache.as_ref()) {
        if started.elapsed() >= awaited.patience {
            return;
        }
        tokio::time::sleep(PATIENCE_STEP).await;
    }
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
    escalation_check(gateway, request, object, old)?;
    let view = view(request, operation, old);
    let suffix = suffix();
    {
        let mut context = Context::new(gateway.cache.as_ref(), &gateway.authz, &gateway.admission_config, &suffix);
        gateway.admission.validate(&view, object, &mut context)?;
        admission.warnings.append(&mut context.warnings);
    }
    if gateway.admission.enforces_quota() { charge(gateway, &view, object).await } else { Ok(()) }
}

/// Both phases of a delete: there is no object but the old one.
pub(crate) fn delete(gateway: &Gateway, request: &Request, old: &Value) -> Result<(), Status> {
    let suffix = suffix();
    let mut context = Context::new(gateway.cache.as_ref(), &gateway.authz, &gateway.admission_config, &suffix);
    let view = view(request, Operation::Delete, Some(old));
    gateway.admission.admit(&view, &mut Value::Null, &mut context)?;
    gateway.admission.validate(&view, &Value::Null, &mut context)
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

/// Nobody gives away more than he holds.
fn escalation_check(gateway: &Gateway, request: &Request, object: &Value, old: Option<&Value>) -> Result<(), Status> {
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
            if write_charge(gateway, &charge).await? {
                charged.push(name);
            } else {
                lost_race = true;
            }
        }
        if !lost_race {
            return Ok(());
        }
        let kind = gateway.kind("", "v1", "resourcequotas")?;
        let fresh = gateway.cache.catch_up().await.map_err(|e| from_store(&kind, "update", e))?;
        fresh.map_err(from_not_fresh)?;
    }
    Err(Status::internal("resource quota evaluation timed out"))
}

/// `false`: the quota is no longer what it was.
async fn write_charge(gateway: &Gateway, charge: &Charge) -> Result<bool, Status> {
    let kind = gateway.kind("", "v1", "resourcequotas")?;
    let key = ObjectKey::new(&kind, meta::namespace(&charge.old), meta::name(&charge.old));
    let version = meta::resource_version(&charge.old).parse().map_err(Status::internal)?;
    let stored = encode_for_storage(&kind, &charge.new);
    let written = gateway.objects.update(&key, stored, store::Revision(version), false).await;
    let outcome = written.map_err(|e| from_store(&kind, "update", e))?;
    Ok(matches!(outcome, WriteOutcome::Written(_)))
}
