//! The PodSpec, of pods and of all templates. Source: `ValidatePodSpec` of `pkg/apis/core/validation`.

use std::collections::HashSet;

use crate::kinds::pod::{containers, resources as pod_resources, scheduling, security};
use crate::kinds::volumes::{self, VolumeOwner};
use crate::occurrences::Occurrences;
use crate::validate::labels::{annotations, invalid_each, labels};
use crate::validate::text::{formatted, formatted_if_set, required_enum};
use crate::validate::{go, names, net, resources};
use crate::{Cursor, ErrorList, Value};

const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const DNS_POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const DNS_NAME_SERVERS_MAX: usize = 3;
const DNS_SEARCHES_MAX: usize = 32;
const DNS_SEARCH_LIST_MAX_CHARS: usize = 2048;

/// What the rules of single containers need to know of the pod around them.
pub struct PodFacts<'a> {
    pub spec: &'a Cursor<'a>,
    /// Names in `spec.resourceClaims`.
    pub claims: Vec<&'a str>,
    volumes: Volumes<'a>,
}

/// Volumes without errors of their own, and their names; others are as good as missing.
struct Volumes<'a> {
    list: Vec<Cursor<'a>>,
    names: Occurrences<&'a str>,
}

impl<'a> PodFacts<'a> {
    pub fn volume(&self, name: &str) -> Option<&Cursor<'a>> {
        self.volumes.list.get(self.volumes.names.first(&name)?)
    }

    /// The pod shares the host's user namespace, which is the default.
    pub fn host_users(&self) -> bool {
        self.spec.field("hostUsers").value() != &Value::Bool(false)
    }
}

/// All containers of a pod spec, in the order in which upstream visits them.
pub fn each_container<'a>(spec: &Cursor<'a>, mut visit: impl FnMut(Cursor<'a>)) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec.field(list).items() {
            visit(container);
        }
    }
}

/// The spec of a pod (`pod` is its metadata) or of a template (`None`).
pub fn pod_spec(spec: &Cursor<'_>, pod: Option<&Cursor<'_>>, errors: &mut ErrorList) {
    let field = |name: &str| spec.field(name);
    if !field("terminationGracePeriodSeconds").is_set() {
        field("terminationGracePeriodSeconds").required(errors, "");
    }
    let volumes = pod_volumes(spec, pod, errors);
    let claims = field("resourceClaims").items().map(|c| c.field("name").str()).filter(|n| !n.is_empty()).collect();
    let facts = PodFacts { spec, claims, volumes };
    resource_claims(&field("resourceClaims"), pod, errors);
    containers::containers(&facts, errors);
    containers::init_containers(&facts, errors);
    containers::ephemeral_containers(&facts, errors);
    pod_resources::pod_level(&facts, errors);
    host_network_ports(spec, pod.is_some(), errors);
    required_enum(&field("restartPolicy"), RESTART_POLICIES, errors);
    required_enum(&field("dnsPolicy"), DNS_POLICIES, errors);
    labels(&field("nodeSelector"), errors);
    security::pod(&facts, errors);
    scheduling::affinity(&field("affinity"), errors);
    dns_config(spec, errors);
    scheduling::readiness_gates(&field("readinessGates"), errors);
    scheduling::scheduling_gates(&field("schedulingGates"), errors);
    scheduling::topology_spread(&field("topologySpreadConstraints"), errors);
    security::windows_host_process(&facts, errors);
    security::host_users(&facts, errors);
    hostname_override(spec, errors);
    formatted_if_set(&field("serviceAccountName"), names::dns1123_subdomain, errors);
    formatted_if_set(&field("nodeName"), names::dns1123_subdomain, errors);
    for message in field("activeDeadlineSeconds").opt_int().map(deadline).unwrap_or_default() {
        field("activeDeadlineSeconds").invalid(errors, message);
    }
    formatted_if_set(&field("hostname"), names::dns1123_label, errors);
    formatted_if_set(&field("subdomain"), names::dns1123_label, errors);
    resources::tolerations(&field("tolerations"), errors);
    host_aliases(&field("hostAliases"), errors);
    formatted_if_set(&field("priorityClassName"), names::dns1123_subdomain, errors);
    if field("runtimeClassName").is_set() {
        formatted(&field("runtimeClassName"), names::dns1123_subdomain, errors);
    }
    if field("preemptionPolicy").is_set() {
        required_enum(&field("preemptionPolicy"), &["PreemptLowerPriority", "Never"], errors);
    }
    overhead(&field("overhead"), errors);
    security::os(&facts, errors);
    super::env::file_key_volumes(spec, errors);
}

fn deadline(seconds: i64) -> names::Messages {
    names::in_range(seconds, 1, i64::from(i32::MAX))
}

fn overhead(overhead: &Cursor<'_>, errors: &mut ErrorList) {
    if overhead.is_set() {
        let whole = overhead.path();
        let limits = Cursor::at(overhead.value(), whole.child("limits"));
        let none = Cursor::at(&Value::Null, whole.child("requests"));
        resources::resource_lists(&limits, &none, &whole, resources::container_resource_name, errors);
    }
}

/// A PodTemplateSpec; labels and annotations are reported without `metadata` in their path.
pub fn template(template: &Cursor<'_>, errors: &mut ErrorList) {
    let metadata = template.field("metadata");
    let path = template.path();
    let own_annotations = Cursor::at(metadata.field("annotations").value(), path.child("annotations"));
    let own_labels = Cursor::at(metadata.field("labels").value(), path.child("labels"));
    let spec = template.field("spec");
    labels(&own_labels, errors);
    annotations(&own_annotations, errors);
    pod_annotations(&own_annotations, &spec, errors);
    pod_spec(&spec, None, errors);
    security::annotations_match_fields(&metadata, &spec, errors);
    let ephemeral = spec.field("ephemeralContainers");
    if !ephemeral.is_empty() {
        ephemeral.forbidden(errors, "ephemeral containers not allowed in pod template");
    }
}

const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Annotations that mean something to pods.
pub fn pod_annotations(annotations: &Cursor<'_>, spec: &Cursor<'_>, errors: &mut ErrorList) {
    let mirror = annotations.key(MIRROR);
    if mirror.is_set() && spec.field("nodeName").is_empty() {
        mirror.invalid(errors, "must set spec.nodeName if mirror pod annotation is set");
    }
    let cost = annotations.key(DELETION_COST);
    if cost.is_set() && !is_deletion_cost(cost.str()) {
        cost.invalid(errors, "must be a 32bit integer");
    }
    security::annotations(annotations, spec, errors);
}

/// A 32-bit integer in its shortest form: no plus, no leading zeros.
fn is_deletion_cost(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let shortest = digits == "0" || !digits.starts_with(['0', '+']);
    shortest && text.parse::<i32>().is_ok()
}

/// Whether an annotation marks a pod that a kubelet made for itself.
pub fn is_mirror(object: &Cursor<'_>) -> bool {
    object.field("metadata").field("annotations").field(MIRROR).is_set()
}

/// Annotations that stay as they were: the mirror mark and AppArmor profiles.
pub fn pod_annotations_update(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    let annotations = new.field("metadata").field("annotations");
    let old_annotations = old.field("metadata").field("annotations");
    let mut refuse = |key: &str, app_armor: &str, mirror: &str| {
        if key.starts_with(security::APP_ARMOR) {
            errors.forbidden(annotations.path().key(key), app_armor);
        }
        if key == MIRROR {
            errors.forbidden(annotations.path().key(key), mirror);
        }
    };
    for (key, value) in old_annotations.entries() {
        if annotations.field(key).value() != value.value() {
            refuse(
                key,
                "may not remove or update AppArmor annotations",
                "may not remove or update mirror pod annotation",
            );
        }
    }
    for (key, _) in annotations.entries() {
        if !old_annotations.field(key).is_set() {
            refuse(key, "may not add AppArmor annotations", "may not add mirror pod annotation");
        }
    }
    pod_annotations(&annotations, &new.field("spec"), errors);
}

fn pod_volumes<'a>(spec: &Cursor<'a>, pod: Option<&Cursor<'_>>, errors: &mut ErrorList) -> Volumes<'a> {
    let pod_name = pod.map_or("", |metadata| metadata.field("name").str());
    let list = spec.field("volumes");
    let created: HashSet<String> = list
        .items()
        .filter(|v| !pod_name.is_empty() && v.field("ephemeral").is_set())
        .map(|v| format!("{pod_name}-{}", v.field("name").str()))
        .collect();
    let mut valid = Volumes { list: Vec::new(), names: Occurrences::new() };
    for volume in list.items() {
        let name = volume.field("name");
        let owner = VolumeOwner { pod_name, volume_name: name.str(), is_pod: pod.is_some() };
        let mut own = ErrorList::new();
        volumes::pod_volume_source(&volume, owner, &mut own);
        if name.is_empty() {
            name.required(&mut own, "");
        } else {
            formatted(&name, names::dns1123_label, &mut own);
        }
        if valid.names.contains(&name.str()) {
            errors_duplicate(&name, &mut own);
        }
        if own.is_empty() {
            valid.names.push(name.str());
            valid.list.push(volume.clone());
        } else {
            errors.extend(own);
        }
        let claim = volume.field("persistentVolumeClaim").field("claimName");
        if created.contains(claim.str()) {
            claim.invalid(errors, "must not reference a PVC that gets created for an ephemeral volume");
        }
    }
    valid
}

fn errors_duplicate(name: &Cursor<'_>, errors: &mut ErrorList) {
    errors.duplicate(name.path(), name.str());
}

fn resource_claims(list: &Cursor<'_>, pod: Option<&Cursor<'_>>, errors: &mut ErrorList) {
    let is_mirror = pod.is_some_and(|metadata| metadata.field("annotations").field(MIRROR).is_set());
    if is_mirror && !list.is_empty() {
        list.forbidden(errors, "static pods do not support resource claims");
    }
    let mut seen: Occurrences<&str> = Occurrences::new();
    for claim in list.items() {
        let name = claim.field("name");
        if name.is_empty() {
            name.required(errors, "");
        } else if seen.contains(&name.str()) {
            errors.duplicate(name.path(), name.str());
        } else {
            formatted(&name, names::dns1123_label, errors);
            seen.push(name.str());
        }
        let (claim_name, template_name) = (claim.field("resourceClaimName"), claim.field("resourceClaimTemplateName"));
        let detail = match (claim_name.is_set(), template_name.is_set()) {
            (true, true) => Some("at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"),
            (false, false) => Some("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            _ => None,
        };
        if let Some(detail) = detail {
            errors.invalid(claim.path(), go::value("PodResourceClaim", claim.value()), detail);
        }
        for reference in [claim_name, template_name] {
            if reference.is_set() {
                formatted(&reference, names::dns1123_subdomain, errors);
            }
        }
    }
}

fn host_network_ports(spec: &Cursor<'_>, is_pod: bool, errors: &mut ErrorList) {
    if !spec.field("hostNetwork").bool() {
        return;
    }
    for container in spec.field("containers").items() {
        for port in container.field("ports").items() {
            let host = port.field("hostPort");
            let differs = host.int() != port.field("containerPort").int();
            if differs && (is_pod || host.int() != 0) {
                errors.invalid(host.path(), host.int(), "must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
}

fn dns_config(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let config = spec.field("dnsConfig");
    let servers = config.field("nameservers");
    if spec.field("dnsPolicy").str() == "None" {
        if !config.is_set() {
            config.required(errors, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if servers.is_empty() {
            servers.required(errors, "must provide at least one DNS nameserver when `dnsPolicy` is None");
            return;
        }
    }
    if servers.len() > DNS_NAME_SERVERS_MAX {
        servers.invalid(errors, format!("must not have more than {DNS_NAME_SERVERS_MAX} nameservers"));
    }
    for server in servers.items() {
        net::ip(&server, errors);
    }
    let searches = config.field("searches");
    if searches.len() > DNS_SEARCHES_MAX {
        searches.invalid(errors, format!("must not have more than {DNS_SEARCHES_MAX} search paths"));
    }
    let n_chars: usize = searches.items().map(|s| s.str().len() + 1).sum();
    if n_chars > DNS_SEARCH_LIST_MAX_CHARS + 1 {
        let detail = format!(
            "must not have more than {DNS_SEARCH_LIST_MAX_CHARS} characters (including spaces) in the search list"
        );
        searches.invalid(errors, detail);
    }
    for search in searches.items().filter(|s| s.str() != ".") {
        let text = search.str().strip_suffix('.').unwrap_or(search.str());
        invalid_each(errors, &search.path(), text, names::dns1123_subdomain_with_underscore(text));
    }
    for option in config.field("options").items() {
        if option.field("name").is_empty() {
            option.required(errors, "must not be empty");
        }
    }
}

fn host_aliases(list: &Cursor<'_>, errors: &mut ErrorList) {
    for alias in list.items() {
        net::ip(&alias.field("ip"), errors);
        for name in alias.field("hostnames").items() {
            formatted(&name, names::dns1123_subdomain, errors);
        }
    }
}

const HOSTNAME_OVERRIDE_MAX_BYTES: usize = 64;

fn hostname_override(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let name = spec.field("hostnameOverride");
    if !name.is_set() {
        return;
    }
    if spec.field("setHostnameAsFQDN").bool() {
        name.forbidden(errors, "may not be specified when setHostnameAsFQDN is true");
    }
    if spec.field("hostNetwork").bool() {
        name.forbidden(errors, "may not be specified when hostNetwork is true");
    }
    if name.str().len() > HOSTNAME_OVERRIDE_MAX_BYTES {
        errors.too_long(name.path(), HOSTNAME_OVERRIDE_MAX_BYTES);
    }
    formatted(&name, names::dns1123_subdomain, errors);
}
