//! DELETE: preconditions, grace, finalizers, and who cleans up the dependents.

use ::bytes::Bytes;
use api::rules::{DeleteReturns, GcDefault};
use api::{ErrorList, Path, Status, Value, meta};
use futures::FutureExt;
use jiff::SignedDuration;
use store::Revision;

use super::{Reply, Request};
use crate::admit;
use crate::custom::conversion;
use crate::error::from_store;
use crate::gateway::Gateway;
use crate::guaranteed::{Live, Target, Tried};
use crate::storage::{ObjectKey, WriteOutcome};
use crate::write::{
    Moment, body_format, check_dry_run, encode_for_storage, group_resource, options_error, rfc3339, set_metadata,
    unmet_precondition, written,
};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// DeleteOptions, from the body or the query.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub propagation_policy: Option<String>,
    pub orphan_dependents: Option<bool>,
    pub precondition_uid: Option<String>,
    pub precondition_resource_version: Option<String>,
    pub dry_run: bool,
}

impl DeleteOptions {
    /// From the body, with which the query counts for nothing, or else from the query.
    pub(crate) fn decode(request: &Request) -> Result<Self, Status> {
        let body;
        let (options, dry_runs) = if request.body.is_empty() {
            (Self::from_query(request)?, request.query.all("dryRun").collect())
        } else {
            body = api::codec::decode_delete_options(&request.body, body_format(&request.content_type)?)?;
            (Self::from_value(&body, false), dry_runs(&body))
        };
        let mut errors = options.errors();
        check_dry_run(&dry_runs, &mut errors);
        if errors.is_empty() { Ok(options) } else { Err(options_error(request, &errors)) }
    }

    fn from_query(request: &Request) -> Result<Self, Status> {
        let query = &request.query;
        let text = |name: &str| query.get(name).filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(Self {
            grace_period_seconds: query.int("gracePeriodSeconds")?,
            propagation_policy: query.get("propagationPolicy").map(str::to_owned),
            orphan_dependents: query.get("orphanDependents").map(|_| query.flag("orphanDependents")),
            precondition_uid: text("uid"),
            precondition_resource_version: text("resourceVersion"),
            dry_run: request.is_dry_run(),
        })
    }

    /// From a decoded DeleteOptions object; `null` for none.
    fn from_value(value: &Value, dry_run_asked: bool) -> Self {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Self {
            grace_period_seconds: value.get("gracePeriodSeconds").and_then(Value::as_i64),
            propagation_policy: text("/propagationPolicy"),
            orphan_dependents: value.get("orphanDependents").and_then(Value::as_bool),
            precondition_uid: text("/preconditions/uid"),
            precondition_resource_version: text("/preconditions/resourceVersion"),
            dry_run: dry_runs(value).contains(&"All") || dry_run_asked,
        }
    }

    /// What is wrong with the options themselves.
    fn errors(&self) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("propagationPolicy");
        if let Some(policy) = &self.propagation_policy {
            if self.orphan_dependents.is_some() {
                let text = "orphanDependents and deletionPropagation cannot be both set";
                errors.invalid(path.clone(), policy.clone(), text);
            }
            if !["Foreground", "Background", "Orphan"].contains(&policy.as_str()) {
                errors.not_supported(path, policy.clone(), &["Foreground", "Background", "Orphan", "nil"]);
            }
        }
        errors
    }

    /// The options in the body of an act that deletes.
    pub(crate) fn of_act(value: &Value, dry_run_asked: bool) -> Result<Self, Status> {
        let options = Self::from_value(value, dry_run_asked);
        let mut errors = options.errors();
        check_dry_run(&dry_runs(value), &mut errors);
        if errors.is_empty() { Ok(options) } else { Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors)) }
    }

    /// What a client that did not choose a propagation policy is told about the kind's default.
    pub(crate) fn warning(&self, request: &Request) -> Option<String> {
        let chosen = self.propagation_policy.is_some() || self.orphan_dependents.is_some();
        request.kind.strategy.default_propagation_warning.filter(|_| !chosen).map(str::to_owned)
    }

    /// The preconditions against an object. Upstream names the kind here, not the resource, but for a kind that is marked first and
    /// removed by somebody else, which looks at them itself.
    pub(super) fn check(&self, request: &Request, object: &Value) -> Result<(), Status> {
        let differs = |what: &str, wanted: &str, found: &str, happened: &str| {
            if request.kind.strategy.judges_preconditions {
                let text = unmet_precondition(what, wanted, found);
                return Status::conflict(group_resource(request), &request.name, &text);
            }
            let kind = api::status::GroupResource { group: request.kind.stored_group(), resource: &request.kind.kind };
            let text = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). The object might have \
                 been {happened}"
            );
            Status::conflict(kind, &request.name, &text)
        };
        let uid = meta::uid(object);
        if let Some(wanted) = self.precondition_uid.as_deref().filter(|wanted| *wanted != uid) {
            return Err(differs("UID", wanted, uid, "deleted and then recreated"));
        }
        let found = meta::resource_version(object);
        if let Some(wanted) = self.precondition_resource_version.as_deref().filter(|wanted| *wanted != found) {
            return Err(differs("ResourceVersion", wanted, found, "modified"));
        }
        Ok(())
    }
}

fn dry_runs(options: &Value) -> Vec<&str> {
    options.get("dryRun").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

pub(crate) async fn delete(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    let options = DeleteOptions::decode(request)?;
    if let Some(warning) = options.warning(request) {
        request.notes.push(warning);
    }
    if let Some(text) = (request.kind.strategy.refuses_delete)(&request.name) {
        return Err(Status::forbidden(group_resource(request), &request.name, text));
    }
    delete_object(gateway, request, &options).await
}

/// Deletes `request.name`, or marks it as being deleted.
pub(crate) async fn delete_object(
    gateway: &Gateway,
    request: &Request,
    options: &DeleteOptions,
) -> Result<Reply, Status> {
    let kind = &request.kind;
    let key = ObjectKey::new(kind, &request.namespace, &request.name);
    let mut admitted = false;
    let target = request.target(&key, "delete");
    let attempt = |current| {
        let was_admitted = std::mem::replace(&mut admitted, true);
        let attempt = async move {
            let Some(current) = current else {
                return Err(Status::not_found(kind.as_ref().into(), &request.name));
            };
            let Live { stored, revision, object, .. } = Live::decode(gateway, kind, current).await?;
            options.check(request, &object)?;
            if !was_admitted {
                admit::delete(gateway, request, options, &object).await?;
            }
            let plan = plan(request, options, object, &Moment::now());
            execute(gateway, request, options, target, (stored, revision), plan).await
        };
        attempt.boxed()
    };
    gateway.guaranteed_update(target, attempt).await
}

/// What a delete comes to.
enum Plan {
    /// Remove it now. The object as it goes.
    Remove(Value),
    /// Keep it, changed so (deletion time, finalizers), until somebody finishes the work.
    Mark(Value),
}

fn plan(request: &Request, options: &DeleteOptions, mut object: Value, moment: &Moment) -> Plan {
    let grace = request.kind.strategy.grace_period.map(|period| period(&object, options.grace_period_seconds));
    let was_deleting = meta::is_being_deleted(&object);
    if let Some(begin) = request.kind.strategy.begin_delete.filter(|_| !was_deleting) {
        begin(&mut object, &moment.now);
        return Plan::Mark(object);
    }
    if was_deleting && has_finalizers_in_spec(&object) {
        // What it waits for does not change any more.
        return Plan::Mark(object);
    }
    set_finalizers_for_dependents(request, options, &mut object);
    let finalizers_left = has_finalizers(&object);
    match grace {
        Some(grace) if !was_deleting => {
            mark(&mut object, moment, grace);
            if finalizers_left || grace > 0 { Plan::Mark(object) } else { Plan::Remove(object) }
        }
        Some(grace) => {
            shorten(&mut object, grace);
            let left = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
            if finalizers_left || left > 0 { Plan::Mark(object) } else { Plan::Remove(object) }
        }
        None if finalizers_left => {
            if !was_deleting {
                mark(&mut object, moment, 0);
            }
            Plan::Mark(object)
        }
        None => Plan::Remove(object),
    }
}

/// The first mark bumps the generation of kinds that have one.
fn mark(object: &mut Value, moment: &Moment, grace_seconds: i64) {
    let deadline = moment.timestamp.saturating_add(SignedDuration::from_secs(grace_seconds));
    let deadline = deadline.map(rfc3339).unwrap_or_else(|_| moment.now.clone());
    set_metadata(object, "deletionTimestamp", deadline.into());
    set_metadata(object, "deletionGracePeriodSeconds", grace_seconds.into());
    if let Some(generation) = object.pointer("/metadata/generation").and_then(Value::as_i64).filter(|g| *g > 0) {
        set_metadata(object, "generation", (generation + 1).into());
    }
}

/// A second delete may shorten the grace period, never lengthen it.
fn shorten(object: &mut Value, grace_seconds: i64) {
    let Some(old) = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64) else { return };
    if grace_seconds >= old {
        return;
    }
    let deadline = meta::metadata_str(object, "deletionTimestamp").parse::<jiff::Timestamp>();
    if let Ok(deadline) = deadline
        && let Ok(earlier) = deadline.checked_sub(SignedDuration::from_secs(old - grace_seconds))
    {
        set_metadata(object, "deletionTimestamp", rfc3339(earlier).into());
    }
    set_metadata(object, "deletionGracePeriodSeconds", grace_seconds.into());
}

/// `orphan` and `foregroundDeletion` as the propagation policy wants them.
fn set_finalizers_for_dependents(request: &Request, options: &DeleteOptions, object: &mut Value) {
    let default = request.kind.rules.gc_default;
    if default == GcDefault::Unsupported {
        return;
    }
    let had: Vec<String> = finalizers(object).map(str::to_owned).collect();
    let has = |name: &str| had.iter().any(|f| f == name);
    let policy = options.propagation_policy.as_deref();
    let orphan = match (options.orphan_dependents, policy) {
        (Some(orphan), _) => orphan,
        (None, Some(policy)) => policy == "Orphan",
        (None, None) => has(ORPHAN) || (!has(FOREGROUND) && default == GcDefault::Orphan),
    };
    let foreground = match (options.orphan_dependents, policy) {
        (Some(_), _) => false,
        (None, Some(policy)) => policy == "Foreground",
        (None, None) => has(FOREGROUND),
    };
    let mut wanted: Vec<String> = had.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
    if orphan {
        wanted.push(ORPHAN.to_owned());
    }
    if foreground {
        wanted.push(FOREGROUND.to_owned());
    }
    let same = wanted.len() == had.len() && wanted.iter().all(|f| had.contains(f));
    if !same {
        let value = if wanted.is_empty() { Value::Null } else { wanted.into() };
        set_metadata(object, "finalizers", value);
    }
}

fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    object.pointer("/metadata/finalizers").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn has_finalizers(object: &Value) -> bool {
    finalizers(object).next().is_some() || has_finalizers_in_spec(object)
}

/// Namespaces keep a second list in their spec.
fn has_finalizers_in_spec(object: &Value) -> bool {
    object.get("kind").is_some_and(|k| k == "Namespace")
        && object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

async fn execute(
    gateway: &Gateway,
    request: &Request,
    options: &DeleteOptions,
    target: Target<'_>,
    (before, seen): (Bytes, Revision),
    plan: Plan,
) -> Result<Tried<Reply>, Status> {
    let kind = &request.kind;
    match plan {
        Plan::Remove(object) => {
            let mut revision = seen;
            if !options.dry_run {
                // Who watches a kind with a grace period sees how it ends before it is gone.
                let mut seen = seen;
                if kind.strategy.grace_period.is_some() {
                    let marked = conversion::encode_for_store(gateway, kind, object.clone()).await?;
                    if marked != before {
                        match gateway.put_over(target, seen, marked).await? {
                            Tried::Done(marked_at) => seen = marked_at,
                            Tried::LostRace(current) => return Ok(Tried::LostRace(current)),
                        }
                    }
                }
                let outcome = gateway.objects.delete(target.key, seen).await;
                match outcome.map_err(|e| from_store(kind, target.operation, e))? {
                    WriteOutcome::Written(deleted_at) => revision = deleted_at,
                    WriteOutcome::Conflict(current) => return Ok(Tried::LostRace(current)),
                }
                gateway.allocations.after_delete(gateway, kind, &object).await;
            }
            Ok(Tried::Done(removed(request, object, revision)?))
        }
        Plan::Mark(mut object) => {
            if kind.kind == "Namespace" && kind.group.is_empty() {
                object["status"]["phase"] = "Terminating".into();
                // Its end depends on what is in it, not on time.
                set_metadata(&mut object, "deletionGracePeriodSeconds", Value::Null);
            }
            let stored = conversion::encode_for_store(gateway, kind, object).await?;
            // Upstream says 202 only to clients that asked not to orphan in the old way.
            let code = if options.orphan_dependents == Some(false) { 202 } else { 200 };
            if options.dry_run || stored == before {
                return Ok(Tried::Done(Reply::object(code, written(&stored, seen)?, Vec::new())));
            }
            match gateway.put_over(target, seen, stored.clone()).await? {
                Tried::Done(revision) => Ok(Tried::Done(Reply::object(code, written(&stored, revision)?, Vec::new()))),
                Tried::LostRace(current) => Ok(Tried::LostRace(current)),
            }
        }
    }
}

fn removed(request: &Request, object: Value, revision: Revision) -> Result<Reply, Status> {
    let kind = &request.kind;
    match kind.rules.delete_returns {
        DeleteReturns::Object => {
            let stored = encode_for_storage(kind, object);
            Ok(Reply::object(200, written(&stored, revision)?, Vec::new()))
        }
        DeleteReturns::Status => {
            Ok(Reply::status(200, Status::success(kind.as_ref().into(), &request.name, meta::uid(&object))))
        }
    }
}
