//! What a kubelet, the scheduler and others may say about a pod. Source: `podStatusStrategy` of `pkg/registry/core/pod` and
//! `ValidatePodStatusUpdate`.

use std::collections::HashMap;

use crate::kinds::carry;
use crate::kinds::pod::pod_annotations_update;
use crate::occurrences::Occurrences;
use crate::strategy::SubresourceStrategy;
use crate::validate::labels::invalid_each;
use crate::validate::text::{formatted, immutable, required_formatted, supported};
use crate::validate::{go, names, net};
use crate::{Cursor, ErrorList, Value, meta};

pub(super) const STATUS: SubresourceStrategy = SubresourceStrategy {
    name: "status",
    prepare_for_update: |new, old, _| {
        carry::keep_spec(new, old);
        carry::keep_in(new, old, "metadata", "deletionTimestamp");
        carry::keep_in(new, old, "metadata", "ownerReferences");
        let has_class = new.pointer("/status/qosClass").is_some_and(|class| class != "");
        if !has_class {
            carry::keep_in(new, old, "status", "qosClass");
        }
        keep_observed_generations(new, old);
    },
    validate_update,
};

/// Addresses that no longer should be written as they are.
pub(super) fn warnings(pod: &Cursor<'_>, out: &mut Vec<String>) {
    for list in ["podIPs", "hostIPs"] {
        for item in pod.field("status").field(list).items() {
            net::ip_warning(&item.field("ip"), out);
        }
    }
}

/// Longest message about the health of a device.
const HEALTH_MESSAGE_MAX_BYTES: usize = 1024;

/// A client that knows no `observedGeneration` does not take back what others observed. Conditions of one type are matched in
/// order: there may be several.
fn keep_observed_generations(new: &mut Value, old: &Value) {
    let is_zero = |object: &Value| object.get("observedGeneration").and_then(Value::as_i64).unwrap_or(0) == 0;
    let (Some(status), Some(old_status)) = (new.get_mut("status"), old.get("status")) else { return };
    if is_zero(status) {
        carry::keep(status, old_status, "observedGeneration");
    }
    let mut before: HashMap<&str, Vec<&Value>> = HashMap::new();
    for condition in old_status.get("conditions").and_then(Value::as_array).into_iter().flatten().rev() {
        before.entry(type_of(condition)).or_default().push(condition);
    }
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        let matching = before.get_mut(type_of(condition)).and_then(Vec::pop);
        if let Some(matching) = matching.filter(|_| is_zero(condition)) {
            carry::keep(condition, matching, "observedGeneration");
        }
    }
}

fn type_of(condition: &Value) -> &str {
    condition.get("type").and_then(Value::as_str).unwrap_or("")
}

fn validate_update(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    meta::validate_update_again(new, old, errors);
    pod_annotations_update(new, old, errors);
    let (spec, status, old_status) = (new.field("spec"), new.field("status"), old.field("status"));
    conditions(&status.field("conditions"), errors);
    if spec.field("nodeName").str() != old.field("spec").field("nodeName").str() {
        errors.forbidden(status.path().child("nodeName"), "may not be changed directly");
    }
    nominated_node(new, old, errors);
    not_negative(&status.field("observedGeneration"), errors);
    immutable(&status.field("qosClass"), &old_status.field("qosClass"), errors);
    container_states(new, old, errors);
    claim_statuses(new, errors);
    extended_resource_claim(&status.field("extendedResourceClaimStatus"), &spec, errors);
    pod_ips(&status.field("podIPs"), &old_status.field("podIPs"), errors);
    host_ips(&status, &old_status.field("hostIPs"), errors);
    for list in STATUS_LISTS {
        users(&status.field(list.statuses), &spec.field("os"), errors);
    }
    for list in STATUS_LISTS {
        allocated_resources(&status.field(list.statuses), list, &spec, errors);
    }
}

/// A list of container statuses, and the containers that it is about.
struct StatusList {
    statuses: &'static str,
    containers: &'static str,
    /// Ephemeral containers have no resources of their own, and run once.
    is_ephemeral: bool,
}

const STATUS_LISTS: &[StatusList] = &[
    StatusList { statuses: "containerStatuses", containers: "containers", is_ephemeral: false },
    StatusList { statuses: "initContainerStatuses", containers: "initContainers", is_ephemeral: false },
    StatusList { statuses: "ephemeralContainerStatuses", containers: "ephemeralContainers", is_ephemeral: true },
];

fn not_negative(generation: &Cursor<'_>, errors: &mut ErrorList) {
    if generation.int() < 0 {
        generation.invalid(errors, "must be a non-negative integer");
    }
}

fn conditions(list: &Cursor<'_>, errors: &mut ErrorList) {
    for condition in list.items() {
        not_negative(&condition.field("observedGeneration"), errors);
        let kind = condition.field("type");
        if !matches!(kind.str(), "PodScheduled" | "Ready" | "Initialized") {
            // Upstream writes the field as Go does.
            let path = condition.path().child("Type");
            invalid_each(errors, &path, kind.str(), names::qualified_name(kind.str()));
        }
    }
}

fn nominated_node(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    let name = new.field("status").field("nominatedNodeName");
    if name.is_empty() || name.str() == old.field("status").field("nominatedNodeName").str() {
        return;
    }
    formatted(&name, names::dns1123_subdomain, errors);
    if !old.field("spec").field("nodeName").is_empty() {
        name.forbidden(errors, "may not be set on pods that are already bound to a node");
    }
}

/// A terminated container may only run again where its restart policy says so.
fn container_states(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    let spec = old.field("spec");
    let all_may_restart = restarts_all_containers(&spec);
    for list in STATUS_LISTS.iter().filter(|list| list.is_ephemeral || !all_may_restart) {
        let (statuses, containers) = (new.field("status").field(list.statuses), spec.field(list.containers));
        for (index, before) in old.field("status").field(list.statuses).items().enumerate() {
            let terminated = before.field("state").field("terminated");
            if !terminated.is_set() {
                continue;
            }
            let name = before.field("name").str();
            let runs_again =
                |s: &Cursor<'_>| s.field("name").str() == name && !s.field("state").field("terminated").is_set();
            let may_restart = |c: Cursor<'_>| should_restart(&c, &spec, terminated.field("exitCode").int());
            let is_allowed = !list.is_ephemeral
                && containers.items().find(|c| c.field("name").str() == name).is_some_and(may_restart);
            if !is_allowed && statuses.items().any(|s| runs_again(&s)) {
                let state = statuses.path().index(index).child("state");
                errors.forbidden(state, "may not be transitioned to non-terminated state");
            }
        }
    }
}

/// Whether the exit of some container may restart all others, whatever their own policies.
fn restarts_all_containers(spec: &Cursor<'_>) -> bool {
    ["initContainers", "containers"].iter().any(|list| {
        spec.field(list).items().any(|container| {
            container.field("restartPolicyRules").items().any(|r| r.field("action").str() == "RestartAllContainers")
        })
    })
}

fn should_restart(container: &Cursor<'_>, spec: &Cursor<'_>, exit_code: i64) -> bool {
    let own = container.field("restartPolicy");
    let matches_exit = |rule: &Cursor<'_>| {
        let codes = rule.field("exitCodes");
        let is_named = codes.field("values").items().any(|code| code.int() == exit_code);
        match codes.field("operator").str() {
            "In" => is_named,
            "NotIn" => !is_named,
            _ => false,
        }
    };
    let rule = container.field("restartPolicyRules").items().find(matches_exit).filter(|_| own.is_set());
    if rule.is_some_and(|rule| matches!(rule.field("action").str(), "Restart" | "RestartAllContainers")) {
        return true;
    }
    let policy = match own.str() {
        own @ ("Always" | "OnFailure" | "Never") => own,
        _ => spec.field("restartPolicy").str(),
    };
    match policy {
        "OnFailure" => exit_code != 0,
        policy => policy != "Never",
    }
}

fn claim_statuses(pod: &Cursor<'_>, errors: &mut ErrorList) {
    let claims = pod.field("spec").field("resourceClaims");
    let mut seen: Occurrences<&str> = Occurrences::new();
    for status in pod.field("status").field("resourceClaimStatuses").items() {
        let name = status.field("name");
        if !claims.items().any(|c| c.field("name").str() == name.str()) {
            errors.invalid(name.path(), name.str(), "must match the name of an entry in `spec.resourceClaims`");
        }
        if seen.contains(&name.str()) {
            errors.duplicate(name.path(), name.str());
        } else {
            seen.push(name.str());
        }
        let claim = status.field("resourceClaimName");
        if claim.is_set() {
            formatted(&claim, names::dns1123_subdomain, errors);
        }
    }
}

/// The claim that stands for the pod's extended resources, and which request of it is for which container.
fn extended_resource_claim(status: &Cursor<'_>, spec: &Cursor<'_>, errors: &mut ErrorList) {
    const UNKNOWN_CONTAINER: &str =
        "must match the name of an entry in spec.initContainers.name or spec.containers.name";
    const UNKNOWN_RESOURCE: &str = "must match the extended resource name of an entry in \
                                    spec.initContainers.resources.requests or spec.containers.resources.requests";
    if !status.is_set() {
        return;
    }
    let mappings = status.field("requestMappings");
    if mappings.is_empty() {
        mappings.required(errors, "at least one request mapping is required");
    }
    let mut seen: Occurrences<[&str; 3]> = Occurrences::new();
    for mapping in mappings.items() {
        let fields = ["containerName", "resourceName", "requestName"].map(|name| mapping.field(name));
        let [container, resource, request] = &fields;
        let named = |list| spec.field(list).items().find(|c| c.field("name").str() == container.str());
        match named("containers").or_else(|| named("initContainers")) {
            Some(found) if found.fields(&["resources", "requests", resource.str()]).is_set() => {}
            Some(_) => errors.invalid(resource.path(), resource.str(), UNKNOWN_RESOURCE),
            None => errors.invalid(container.path(), container.str(), UNKNOWN_CONTAINER),
        }
        // Upstream does not say which mapping's.
        let path = status.path().child("requestName");
        invalid_each(errors, &path, request.str(), names::dns1123_label(request.str()));
        let key = [container.str(), resource.str(), request.str()];
        if seen.contains(&key) {
            fields.iter().for_each(|field| errors.duplicate(field.path(), field.str()));
        }
        seen.push(key);
    }
    let claim = status.field("resourceClaimName");
    required_formatted(&claim, names::dns1123_subdomain, errors);
}

fn pod_ips(list: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    new_ips(list, old, errors);
    one_per_family(list, "PodIP", errors);
}

fn host_ips(status: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    let list = status.field("hostIPs");
    let first = list.index(0).field("ip");
    if !list.is_empty() && first.str() != status.field("hostIP").str() {
        errors.invalid(first.path(), first.str(), "must be equal to `hostIP`");
    }
    new_ips(&list, old, errors);
    one_per_family(&list, "HostIP", errors);
}

/// Addresses that were not there before are well-formed.
fn new_ips(list: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    for item in list.items() {
        let ip = item.field("ip");
        if !old.items().any(|before| before.field("ip").str() == ip.str()) {
            net::ip(&Cursor::at(ip.value(), item.path()), errors);
        }
    }
}

fn one_per_family(list: &Cursor<'_>, type_name: &str, errors: &mut ErrorList) {
    if list.len() < 2 {
        return;
    }
    let ips: Vec<&str> = list.items().map(|item| item.field("ip").str()).collect();
    if let Some(bad) = ips.iter().position(|ip| net::parse_ip_sloppy(ip).is_none()) {
        let detail = format!("failed to check for dual stack with error:invalid IP[{bad}]: {}", ips[bad]);
        errors.internal(list.path(), detail);
    }
    if net::is_dual_stack(ips.into_iter()) != Some(true) || list.len() > 2 {
        let shown = go::list(type_name, list.value());
        errors.invalid(list.path(), shown, "may specify no more than one IP for each IP family");
    }
}

/// The user that a container's first process runs as.
fn users(statuses: &Cursor<'_>, os: &Cursor<'_>, errors: &mut ErrorList) {
    let os = if os.is_set() { os.field("name").str() } else { "linux" };
    for status in statuses.items() {
        let linux = status.field("user").field("linux");
        match os {
            "windows" if linux.is_set() => linux.forbidden(errors, "cannot be set for a windows pod"),
            "linux" => {
                unix_id(&linux.field("uid"), errors);
                unix_id(&linux.field("gid"), errors);
                linux.field("supplementalGroups").items().for_each(|gid| unix_id(&gid, errors));
            }
            _ => {}
        }
    }
}

fn unix_id(id: &Cursor<'_>, errors: &mut ErrorList) {
    for message in names::unix_id(id.int()) {
        errors.invalid(id.path(), id.int(), message);
    }
}

/// The devices that a container was given, and how they are.
fn allocated_resources(statuses: &Cursor<'_>, list: &StatusList, spec: &Cursor<'_>, errors: &mut ErrorList) {
    let containers = spec.field(list.containers);
    for status in statuses.items() {
        let allocated = status.field("allocatedResourcesStatus");
        if list.is_ephemeral {
            if !allocated.is_empty() {
                allocated.forbidden(errors, "must not be specified in container status");
            }
            continue;
        }
        // Containers that nobody knows are not refused, here as elsewhere in a status.
        let container = containers.items().find(|c| c.field("name").str() == status.field("name").str());
        for resource in allocated.items() {
            if let Some(container) = &container {
                allocated_resource_name(&resource.field("name"), &container.field("resources"), errors);
            }
            resource_health(&resource.field("resources"), errors);
        }
    }
}

fn allocated_resource_name(name: &Cursor<'_>, resources: &Cursor<'_>, errors: &mut ErrorList) {
    const UNKNOWN_CLAIM: &str = "must match one of the container's resource claims in a format \
                                 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty";
    let (is_known, detail) = match name.str().strip_prefix("claim:") {
        Some(named) => {
            let is_named = |claim: Cursor<'_>| match claim.field("request").str() {
                "" => claim.field("name").str() == named,
                request => format!("{}/{request}", claim.field("name").str()) == named,
            };
            (resources.field("claims").items().any(is_named), UNKNOWN_CLAIM)
        }
        None => {
            let is_requested = resources.field("requests").field(name.str()).is_set();
            (is_requested, "must match one of the container's resource requests")
        }
    };
    if !is_known {
        errors.invalid(name.path(), name.str(), detail);
    }
}

fn resource_health(list: &Cursor<'_>, errors: &mut ErrorList) {
    let mut seen: Occurrences<&str> = Occurrences::new();
    for device in list.items() {
        supported(&device.field("health"), &["Healthy", "Unhealthy", "Unknown"], errors);
        let message = device.field("message");
        if message.is_set() && message.is_empty() {
            message.required(errors, "must be non-empty if specified");
        } else if message.str().len() > HEALTH_MESSAGE_MAX_BYTES {
            errors.too_long(message.path(), HEALTH_MESSAGE_MAX_BYTES);
        }
        let id = device.field("resourceID");
        if seen.contains(&id.str()) {
            errors.duplicate(id.path(), id.str());
        }
        seen.push(id.str());
    }
}
