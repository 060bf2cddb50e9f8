//! POST to subresources that are acts rather than views: binding, eviction, token.

use ::bytes::Bytes;
use api::apply::{Writer, track_update};
use api::json;
use api::selector::LabelSelector;
use api::status::GroupResource;
use api::{Cursor, ErrorList, Kind, Status, Value, codec, defaults, meta};
use store::Revision;

use super::delete::{DeleteOptions, delete_object};
use super::{Reply, Request};
use crate::admit::{self, Operation};
use crate::error::{check_key_name, from_store};
use crate::gateway::Gateway;
use crate::guaranteed::Target;
use crate::ownership;
use crate::startup::USER_AGENT;
use crate::storage::ObjectKey;
use crate::write::{
    Moment, body_format, check_options, decode_stored, failed_precondition, field_validation, group_resource,
    set_metadata, settle_namespace,
};

/// Pods whose disruption a budget remembers; more must wait for the controller.
const DISRUPTED_PODS_MAX: usize = 2_000;

/// POST to a named subresource.
pub(crate) async fn create_named(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    check_options(request)?;
    let subresource = request.kind.subresource(&request.subresource).ok_or_else(Status::unknown_endpoint)?;
    let format = body_format(&request.content_type)?;
    let body = in_served_version(&request.body, format);
    let mut decoded = codec::decode(&body, format, subresource, field_validation(request)?)?;
    decoded.warnings.drain(..).for_each(|text| request.notes.push(text));
    defaults::apply_at(subresource, &mut decoded.value, &Moment::now().now);
    settle_namespace(request, &mut decoded.value)?;
    admit::body(gateway, request, Operation::Create, &mut decoded.value, &Value::Null).await?;
    match request.subresource.as_str() {
        "binding" => bind(gateway, request, &request.name, decoded.value).await,
        "eviction" => evict(gateway, request, decoded.value).await,
        "token" => token(gateway, request, decoded.value).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// A version that upstream still takes in a body, though it serves the kind in another one only.
const OLD_VERSIONS: [(&str, &str, &str); 1] = [("Eviction", "policy/v1beta1", "policy/v1")];

/// The body in the version that is served, when it names an older one of the same form.
fn in_served_version(body: &Bytes, format: codec::Format) -> Bytes {
    if format != codec::Format::Json {
        return body.clone();
    }
    let Ok(mut value) = Value::from_json(body) else { return body.clone() };
    let served = OLD_VERSIONS.iter().find(|(kind, old, _)| value["kind"] == *kind && value["apiVersion"] == *old);
    let Some((_, _, version)) = served else { return body.clone() };
    value["apiVersion"] = (*version).into();
    value.to_string().into()
}

/// POST to `bindings`: the pod is named in the body.
pub(crate) async fn create_binding(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    check_options(request)?;
    let format = body_format(&request.content_type)?;
    let mut decoded = codec::decode(&request.body, format, request.kind.as_ref(), field_validation(request)?)?;
    decoded.warnings.drain(..).for_each(|text| request.notes.push(text));
    // Of what is not posted to an object upstream forgets which one was meant.
    set_metadata(&mut decoded.value, "uid", Value::Null);
    admit::body(gateway, request, Operation::Create, &mut decoded.value, &Value::Null).await?;
    let pods = gateway.kind("", "v1", "pods")?;
    settle_namespace(request, &mut decoded.value)?;
    let name = meta::name(&decoded.value).to_owned();
    let on_pods = Request { kind: pods, ..request.for_object(&request.namespace, &name) };
    bind(gateway, &on_pods, &name, decoded.value).await
}

/// Puts a pod on a node, once.
async fn bind(gateway: &Gateway, request: &Request, name: &str, binding: Value) -> Result<Reply, Status> {
    if meta::name(&binding) != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    validate_binding(&binding)?;
    check_key_name(name)?;
    let kind = &request.kind;
    let key = ObjectKey::new(kind, &request.namespace, name);
    let moment = Moment::now();
    let missing = || Err(Status::not_found(kind.as_ref().into(), name));
    let bound = gateway.change_stored(Target { kind, key: &key, name, operation: "create" }, missing, |pod| {
        check_bindable(request, &key, name, &binding, pod)?;
        apply_binding(&binding, pod, &moment);
        Ok((!request.is_dry_run()).then_some(()))
    });
    bound.await?;
    Ok(Reply::status(201, Status::success_code(201)))
}

/// Upstream reports these errors bare, without the form that those of stored kinds have.
fn validate_binding(binding: &Value) -> Result<(), Status> {
    let cursor = Cursor::root(binding);
    let target = cursor.field("target");
    let mut errors = ErrorList::new();
    if !["", "Node"].contains(&target.field("kind").str()) {
        target.field("kind").not_supported(&mut errors, &["Node", "<empty>"]);
    }
    if target.field("name").is_empty() {
        target.field("name").required(&mut errors, "");
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::unknown(errors.aggregate_message())) }
}

fn check_bindable(request: &Request, key: &ObjectKey, name: &str, binding: &Value, pod: &Value) -> Result<(), Status> {
    let uid = (meta::uid(binding), meta::uid(pod));
    let version = (meta::resource_version(binding), meta::resource_version(pod));
    for (field, (wanted, found)) in [("UID", uid), ("ResourceVersion", version)] {
        if !wanted.is_empty() && wanted != found {
            let text = failed_precondition(request, key, field, wanted, found);
            return Err(Status::conflict(request.kind.as_ref().into(), name, &text));
        }
    }
    let binding_of_pod = GroupResource { group: "", resource: "pods/binding" };
    let conflict = |text: &str| Err(Status::conflict(binding_of_pod, name, text));
    if meta::is_being_deleted(pod) {
        return conflict(&format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or("");
    if !node.is_empty() {
        return conflict(&format!("pod {name} is already assigned to node {}", api::field::go_quote(node)));
    }
    if pod.pointer("/spec/schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty()) {
        return conflict(&format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    Ok(())
}

fn apply_binding(binding: &Value, pod: &mut Value, moment: &Moment) {
    let schema = api::schema::Schema::builtin();
    let node = binding.pointer("/target/name").cloned().unwrap_or_default();
    let spec_type = schema.type_id("io.k8s.api.core.v1.PodSpec");
    if let (Some(spec_type), Some(spec)) = (spec_type, pod["spec"].as_object_mut()) {
        schema.set(spec_type, spec, "nodeName", node);
    }
    for field in ["annotations", "labels"] {
        let Some(added) = binding.pointer(&format!("/metadata/{field}")).and_then(Value::as_object) else { continue };
        let mut merged =
            pod.pointer(&format!("/metadata/{field}")).and_then(Value::as_object).cloned().unwrap_or_default();
        merged.extend(added.clone());
        set_metadata(pod, field, merged.into());
    }
    if let Some(status) = pod["status"].as_object_mut() {
        status.remove("nominatedNodeName");
    }
    set_condition(pod, &moment.now, json!({ "type": "PodScheduled", "status": "True" }));
}

/// Adds or replaces a pod condition; the transition time moves when the status does.
fn set_condition(pod: &mut Value, now: &str, condition: Value) {
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = pod["status"]["conditions"].as_array_mut() else { return };
    let old = conditions.iter().position(|c| c["type"] == condition["type"]);
    let unchanged_since = old.filter(|i| conditions[*i]["status"] == condition["status"]);
    let since = unchanged_since.map_or(Value::from(now), |i| conditions[i]["lastTransitionTime"].clone());
    let mut full = json!({ "type": condition["type"], "status": condition["status"] });
    // The order and the explicit null probe time are those of stored conditions.
    full["lastProbeTime"] = Value::Null;
    full["lastTransitionTime"] = since;
    for field in ["reason", "message"] {
        if let Some(text) = condition.get(field) {
            full[field] = text.clone();
        }
    }
    match old {
        Some(i) => conditions[i] = full,
        None => conditions.push(full),
    }
}

/// What the delete in an eviction may not ask for.
fn check_eviction_options(request: &Request, eviction: &Value) -> Result<(), Status> {
    let options = Cursor::root(eviction).field("deleteOptions");
    let ignores_errors = options.field("ignoreStoreReadErrorWithClusterBreakingPotential");
    if ignores_errors.bool() {
        let mut errors = ErrorList::new();
        ignores_errors.invalid(&mut errors, "can not be set for pod eviction, try after removing the option");
        return Err(Status::invalid("policy", "Eviction", &request.name, &errors));
    }
    let asked: Vec<&str> = request.query.all("dryRun").collect();
    let named: Vec<&str> =
        options.field("dryRun").value().as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !asked.is_empty() && !named.is_empty() && asked != named {
        let (asked, named) = (asked.join(" "), named.join(" "));
        let text = format!("Non-matching dry-run options in request and content: [{asked}] and [{named}]");
        return Err(Status::unknown(text));
    }
    Ok(())
}

/// Deletes a pod if its disruption budget allows.
async fn evict(gateway: &Gateway, request: &Request, eviction: Value) -> Result<Reply, Status> {
    if meta::name(&eviction) != request.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    check_eviction_options(request, &eviction)?;
    let kind = &request.kind;
    let key = ObjectKey::new(kind, &request.namespace, &request.name);
    let current = gateway.objects.get(&key).await.map_err(|e| from_store(kind, "create", e))?;
    let Some(current) = current else { return Err(Status::not_found(group_resource(request), &request.name)) };
    let pod = decode_stored(kind, &current.value, current.mod_revision)?;
    let mut options =
        DeleteOptions::of_act(eviction.get("deleteOptions").unwrap_or(&Value::Null), request.is_dry_run())?;
    if needs_budget(&pod)
        && let Some(budget) = budget_of(gateway, request, &pod)?
    {
        spend_budget(gateway, request, &budget, &pod, options.dry_run).await?;
    }
    let marked = mark_disrupted(gateway, request, &key, &options).await?;
    // The version that was asked for is the one before the mark.
    if let (Some(version), Some(marked)) = (&mut options.precondition_resource_version, marked) {
        *version = marked.to_string();
    }
    // The eviction was judged; the delete that follows from it is not shown to webhooks again.
    let pod = Request { admitted: true, ..request.for_subresource("") };
    delete_object(gateway, &pod, &options).await?;
    Ok(Reply::status(201, Status::success_code(201)))
}

/// Pods that do not run, or are going anyway, disrupt nothing.
fn needs_budget(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or("");
    !["Succeeded", "Failed", "Pending"].contains(&phase) && !meta::is_being_deleted(pod)
}

/// The one budget that covers the pod.
fn budget_of(gateway: &Gateway, request: &Request, pod: &Value) -> Result<Option<String>, Status> {
    let kind = gateway.kind("policy", "v1", "poddisruptionbudgets")?;
    let Some(budgets) = gateway.cache.resource(&kind) else { return Ok(None) };
    let mut covering = Vec::new();
    for budget in budgets.list(&request.namespace) {
        let value = budget.bytes.parse().map_err(crate::error::from_read)?;
        let selector = value.pointer("/spec/selector").cloned().unwrap_or_default();
        if LabelSelector::from_object(&selector).is_ok_and(|selector| selector.matches_object(pod)) {
            covering.push(budget.stored.name.clone());
        }
    }
    if covering.len() > 1 {
        let mut status = Status::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        );
        status.message =
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.".into();
        // Upstream answers with code and message alone.
        status.reason.clear();
        status.details = None;
        return Err(status);
    }
    Ok(covering.pop())
}

async fn spend_budget(
    gateway: &Gateway,
    request: &Request,
    name: &str,
    pod: &Value,
    dry_run: bool,
) -> Result<(), Status> {
    let kind = gateway.kind("policy", "v1", "poddisruptionbudgets")?;
    let key = ObjectKey::new(&kind, &request.namespace, name);
    let now = Moment::now().now;
    let target = Target { kind: &kind, key: &key, name, operation: "update" };
    let spent = gateway.change_stored(
        target,
        || Ok(()),
        |budget| {
            if unready_pod_may_go(budget, pod) {
                return Ok(None);
            }
            let before = budget.clone();
            spend(budget, name, &request.name, &now)?;
            // The server writes the status of the budget as a client of itself.
            let writer = Writer { manager: USER_AGENT, subresource: "status", now: &now };
            let managed = track_update(&kind, &writer, &before, budget);
            set_metadata(budget, "managedFields", managed);
            Ok((!dry_run).then_some(()))
        },
    );
    spent.await.map(drop)
}

fn unready_pod_may_go(budget: &Value, pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
    if ready {
        return false;
    }
    let number = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let always = budget.pointer("/spec/unhealthyPodEvictionPolicy").is_some_and(|p| p == "AlwaysAllow");
    let desired = number("/status/desiredHealthy");
    always || (desired > 0 && number("/status/currentHealthy") >= desired)
}

/// Takes one disruption from the budget, or refuses.
fn spend(budget: &mut Value, name: &str, pod: &str, now: &str) -> Result<(), Status> {
    let number = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let refuse = |message: String, retry_after_seconds: u32| {
        Status::too_many_requests(
            "Cannot evict pod as it would violate the pod's disruption budget.",
            retry_after_seconds,
        )
        .with_cause("DisruptionBudget", &message, "")
    };
    if number("/status/observedGeneration") < number("/metadata/generation") {
        return Err(refuse(format!("The disruption budget {name} is still being processed by the server."), 10));
    }
    let allowed = number("/status/disruptionsAllowed");
    if allowed < 0 {
        let mut status = Status::forbidden(
            GroupResource { group: "policy", resource: "poddisruptionbudget" },
            name,
            "pdb disruptions allowed is negative",
        );
        status.code = 403;
        return Err(status);
    }
    let disrupted = budget.pointer("/status/disruptedPods").and_then(Value::as_object).map_or(0, api::Map::len);
    if disrupted > DISRUPTED_PODS_MAX {
        return Err(Status::forbidden(
            GroupResource { group: "policy", resource: "poddisruptionbudget" },
            name,
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        let (healthy, desired) = (number("/status/currentHealthy"), number("/status/desiredHealthy"));
        let text = format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently");
        return Err(refuse(text, 0));
    }
    budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
    if !budget["status"]["disruptedPods"].is_object() {
        budget["status"]["disruptedPods"] = json!({});
    }
    budget["status"]["disruptedPods"][pod] = now.into();
    if allowed == 1 {
        forbid_disruption(budget, now);
    }
    Ok(())
}

/// Says in the budget's status that it is spent.
fn forbid_disruption(budget: &mut Value, now: &str) {
    let observed = budget.pointer("/status/observedGeneration").cloned().unwrap_or(Value::Null);
    if !budget["status"]["conditions"].is_array() {
        budget["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = budget["status"]["conditions"].as_array_mut() else { return };
    let old = conditions.iter().position(|condition| condition["type"] == "DisruptionAllowed");
    let unchanged_since = old.filter(|i| conditions[*i]["status"] == "False");
    let since = unchanged_since.map_or(Value::from(now), |i| conditions[i]["lastTransitionTime"].clone());
    let mut condition = json!({ "type": "DisruptionAllowed", "status": "False" });
    if observed.as_i64().is_some_and(|generation| generation != 0) {
        condition["observedGeneration"] = observed;
    }
    condition["lastTransitionTime"] = since;
    condition["reason"] = "InsufficientPods".into();
    condition["message"] = "".into();
    match old {
        Some(i) => conditions[i] = condition,
        None => conditions.push(condition),
    }
}

/// Says in the pod's status why it goes. The revision at which it does.
async fn mark_disrupted(
    gateway: &Gateway,
    request: &Request,
    key: &ObjectKey,
    options: &DeleteOptions,
) -> Result<Option<Revision>, Status> {
    if options.dry_run {
        return Ok(None);
    }
    let marked = gateway.change_stored(
        request.target(key, "update"),
        || Ok(()),
        |pod| {
            options.check(request, pod)?;
            let condition = json!({
                "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting",
            });
            set_condition(pod, &Moment::now().now, condition);
            Ok(Some(()))
        },
    );
    marked.await
}

/// A token for a service account.
async fn token(gateway: &Gateway, request: &Request, review: Value) -> Result<Reply, Status> {
    // The account may have been created a moment ago.
    gateway.catch_up(&request.kind, "create").await?;
    let moment = Moment::now();
    let account = (request.namespace.as_str(), request.name.as_str());
    let when = (moment.timestamp, moment.uid.as_str());
    let managed = owned_as_sent(request, &moment, &review)?;
    let mut issued = gateway.tokens.issuer.issue(gateway.cache.as_ref(), account, review, when, |_| Ok(()))?;
    set_metadata(&mut issued.request, "managedFields", managed);
    Ok(Reply { warnings: issued.warnings, ..Reply::document(201, issued.request) })
}

/// The `managedFields` of a new object of a subresource's own kind, to which they are as much a write as any.
fn owned_as_sent(request: &Request, moment: &Moment, object: &Value) -> Result<Value, Status> {
    let subresource = request.kind.subresource(&request.subresource).ok_or_else(Status::unknown_endpoint)?;
    let kind = Kind {
        group: subresource.group.clone(),
        version: subresource.version.clone(),
        kind: subresource.kind.clone(),
        type_id: subresource.type_id,
        ..request.kind.as_ref().clone()
    };
    let manager = ownership::manager(request);
    let writer = Writer { manager: &manager, subresource: &request.subresource, now: &moment.now };
    Ok(track_update(&kind, &writer, &kind.schema.zero(kind.type_id), object))
}
