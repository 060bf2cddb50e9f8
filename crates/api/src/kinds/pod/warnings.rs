//! What pods and templates are warned about: fields that are deprecated, or that do not do what they seem to.
//! Source: `pkg/api/pod/warnings.go`.

use std::collections::HashMap;

use crate::Cursor;
use crate::field::go_quote;
use crate::kinds::pod::{app_armor_profile, each_container, overlaps};
use crate::occurrences::Occurrences;
use crate::validate::resources::quantity;
use crate::validate::{names, net};

/// Node labels that have a newer name.
const DEPRECATED_NODE_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
];

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const SECCOMP_DEPRECATED: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const APP_ARMOR_DEPRECATED: &str = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// The newer form of a node label, as a warning says it.
pub fn deprecated_node_label(key: &str) -> Option<&'static str> {
    DEPRECATED_NODE_LABELS.iter().find(|(old, _)| *old == key).map(|(_, text)| *text)
}

/// Whether there may be something new to say of a workload's template: it is created, or its spec has changed.
pub fn is_worth_a_look(new: &Cursor<'_>, old: Option<&Cursor<'_>>) -> bool {
    let generation = |object: &Cursor<'_>| object.field("metadata").field("generation").int();
    old.is_none_or(|old| generation(new) != generation(old))
}

/// A pod on create and update.
pub fn pod(new: &Cursor<'_>, old: Option<&Cursor<'_>>, out: &mut Vec<String>) {
    // Pods are updated often, and seldom by people.
    if old.is_some() {
        return;
    }
    let metadata = new.field("metadata");
    no_label(new, "the Pod's hostname", out);
    for (key, _) in metadata.field("annotations").entries().filter(|(key, _)| key.starts_with(APP_ARMOR)) {
        out.push(format!("{}: {APP_ARMOR_DEPRECATED}", metadata.field("annotations").path().key(key)));
    }
    spec_and_annotations(&new.field("spec"), &metadata.field("annotations"), out);
}

/// Of objects whose pods are named, and their hosts with them, after themselves.
pub fn owner_name(owner: &Cursor<'_>, out: &mut Vec<String>) {
    no_label(owner, "Pod names and hostnames", out);
}

/// A name that is no DNS label, and where it is used.
fn no_label(object: &Cursor<'_>, used_in: &str, out: &mut Vec<String>) {
    let messages = names::dns1123_label(object.field("metadata").field("name").str());
    if !messages.is_empty() {
        out.push(format!(
            "metadata.name: this is used in {used_in}, which can result in surprising behavior; a DNS label is recommended: [{}]",
            messages.join(" ")
        ));
    }
}

/// A pod template.
pub fn template(template: &Cursor<'_>, out: &mut Vec<String>) {
    let (spec, annotations) = (template.field("spec"), template.field("metadata").field("annotations"));
    let mut of_template = Vec::new();
    app_armor_annotations(&spec, &annotations, &mut of_template);
    spec_and_annotations(&spec, &annotations, out);
    out.append(&mut of_template);
}

/// Everything but the annotations of AppArmor, which pods turn into fields and templates keep.
fn spec_and_annotations(spec: &Cursor<'_>, annotations: &Cursor<'_>, out: &mut Vec<String>) {
    for (key, _) in spec.field("nodeSelector").entries() {
        if let Some(text) = deprecated_node_label(key) {
            out.push(format!("{}: {text}", spec.field("nodeSelector").path().key(key)));
        }
    }
    let affinity = spec.field("affinity");
    node_affinity(&affinity.field("nodeAffinity"), out);
    for constraint in spec.field("topologySpreadConstraints").items() {
        let key = constraint.field("topologyKey");
        if let Some(text) = deprecated_node_label(key.str()) {
            out.push(format!("{}: {} is {text}", key.path(), key.str()));
        }
        no_selector(&constraint, out);
    }
    volume_warnings(spec, out);
    overlaps::volumes(spec, out);
    list_warnings(spec, out);
    fractional(&spec.field("overhead"), &["memory", "ephemeral-storage"], out);
    let seccomp = annotations.key(SECCOMP_POD);
    if seccomp.is_set() && !spec.field("securityContext").field("seccompProfile").is_set() {
        out.push(format!("{}: {SECCOMP_DEPRECATED}", seccomp.path()));
    }
    container_warnings(spec, annotations, out);
    port_warnings(spec, out);
    if spec.field("terminationGracePeriodSeconds").int() < 0 {
        out.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            spec.field("terminationGracePeriodSeconds").path()
        ));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let affinity = affinity.field(kind);
        affinity.field(REQUIRED).items().for_each(|term| no_selector(&term, out));
        affinity.field(PREFERRED).items().for_each(|term| no_selector(&term.field("podAffinityTerm"), out));
    }
    spec.field("dnsConfig").field("nameservers").items().for_each(|ip| net::ip_warning(&ip, out));
    spec.field("hostAliases").items().for_each(|alias| net::ip_warning(&alias.field("ip"), out));
}

fn no_selector(term: &Cursor<'_>, out: &mut Vec<String>) {
    let own = term.field("labelSelector");
    if !own.is_set() {
        out.push(format!("{}: a null labelSelector results in matching no pod", own.path()));
    }
}

fn node_affinity(affinity: &Cursor<'_>, out: &mut Vec<String>) {
    for term in affinity.field(REQUIRED).field("nodeSelectorTerms").items() {
        node_selector_term(&term, false, out);
    }
    for term in affinity.field(PREFERRED).items() {
        node_selector_term(&term.field("preference"), true, out);
    }
}

/// Preferences may hold values that no label has; they are only warned about.
fn node_selector_term(term: &Cursor<'_>, check_values: bool, out: &mut Vec<String>) {
    for expression in term.field("matchExpressions").items() {
        let key = expression.field("key");
        if let Some(text) = deprecated_node_label(key.str()) {
            out.push(format!("{}: {} is {text}", key.path(), key.str()));
        }
        for value in expression.field("values").items().filter(|_| check_values) {
            for message in names::label_value(value.str()) {
                out.push(format!("{}: {} is invalid, {message}", value.path(), value.str()));
            }
        }
    }
}

/// Hosts and pull secrets that are listed twice, or without a name.
fn list_warnings(spec: &Cursor<'_>, out: &mut Vec<String>) {
    for (list, field, what) in [("hostAliases", "ip", "duplicate ip"), ("imagePullSecrets", "name", "duplicate name")] {
        let mut seen: Occurrences<&str> = Occurrences::new();
        for item in spec.field(list).items() {
            let value = item.field(field);
            if seen.contains(&value.str()) {
                out.push(format!("{}: {what} {}", value.path(), go_quote(value.str())));
            }
            seen.push(value.str());
        }
    }
    for name in spec.field("imagePullSecrets").items().map(|secret| secret.field("name")).filter(Cursor::is_empty) {
        out.push(format!("{}: invalid empty name \"\"", name.path()));
    }
}

/// A template says in fields what it said in annotations.
fn app_armor_annotations(spec: &Cursor<'_>, annotations: &Cursor<'_>, out: &mut Vec<String>) {
    let of_pod = spec.field("securityContext").field("appArmorProfile");
    each_container(spec, |container| {
        let annotation = annotations.key(&format!("{APP_ARMOR}{}", container.field("name").str()));
        let has_field = container.field("securityContext").field("appArmorProfile").is_set();
        let says_the_same = of_pod.is_set() && app_armor_profile(annotation.str()).as_ref() == Some(of_pod.value());
        if annotation.is_set() && !has_field && !says_the_same {
            out.push(format!("{}: {APP_ARMOR_DEPRECATED}", annotation.path()));
        }
    });
}

fn fractional(list: &Cursor<'_>, names: &[&str], out: &mut Vec<String>) {
    for name in names {
        let value = list.field(name);
        let amount = quantity(value.value());
        if value.is_set() && amount.milli_value() % 1000 != 0 {
            let path = list.path().key(name);
            out.push(format!("{path}: fractional byte value \"{amount}\" is invalid, must be an integer"));
        }
    }
}

fn container_warnings(spec: &Cursor<'_>, annotations: &Cursor<'_>, out: &mut Vec<String>) {
    each_container(spec, |container| {
        let seccomp = annotations.key(&format!("{SECCOMP_CONTAINER}{}", container.field("name").str()));
        if seccomp.is_set() && !container.field("securityContext").field("seccompProfile").is_set() {
            out.push(format!("{}: {SECCOMP_DEPRECATED}", seccomp.path()));
        }
        for name in ["memory", "ephemeral-storage"] {
            for list in ["limits", "requests"] {
                fractional(&container.field("resources").field(list), &[name], out);
            }
        }
        let mut seen: Occurrences<&str> = Occurrences::new();
        for variable in container.field("env").items() {
            let (name, value) = (variable.field("name").str(), variable.field("value").str());
            let itself = format!("$({name})");
            let builds_on_former = value.contains(&itself) && value != itself && !variable.field("valueFrom").is_set();
            if !seen.contains(&name) {
                seen.push(name);
            } else if !builds_on_former {
                out.push(format!(
                    "{}: hides previous definition of \"{name}\", which may be dropped when using apply",
                    variable.path()
                ));
            }
        }
    });
}

/// More are never sent: together they are longer than warnings may be.
pub(super) const WARNINGS_MAX: usize = 1000;

/// Ports that mean the same or nothing, over all containers of the pod.
fn port_warnings(spec: &Cursor<'_>, out: &mut Vec<String>) {
    let mut others: HashMap<(i64, &str), Vec<Cursor<'_>>> = HashMap::new();
    each_container(spec, |container| {
        for port in container.field("ports").items() {
            let field = |name: &str| port.field(name);
            if !field("hostIP").is_empty() && field("hostPort").int() == 0 {
                out.push(format!(
                    "{}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{}}}",
                    port.path(),
                    field("name").str(),
                    field("containerPort").int(),
                    field("protocol").str(),
                    field("hostIP").str(),
                ));
            }
            let others = others.entry((field("containerPort").int(), field("protocol").str())).or_default();
            for other in others.iter() {
                if out.len() >= WARNINGS_MAX {
                    break;
                }
                if let Some(what) = port_clash(&port, other) {
                    out.push(format!("{}: {what} port definition with {}", port.path(), other.path()));
                }
            }
            others.push(port);
        }
    });
    let mut names: HashMap<&str, crate::Path> = HashMap::new();
    each_container(spec, |container| {
        for port in container.field("ports").items().filter(|port| !port.field("name").is_empty()) {
            let name = port.field("name").str();
            match names.get(name) {
                Some(other) => out.push(format!(
                    "{}: duplicate port name \"{name}\" with {other}, services and probes that select ports by name will use {other}",
                    port.path()
                )),
                None => drop(names.insert(name, port.path())),
            }
        }
    });
}

/// What is between two ports of one number and protocol.
fn port_clash(port: &Cursor<'_>, other: &Cursor<'_>) -> Option<&'static str> {
    let host_port = (port.field("hostPort").int(), other.field("hostPort").int());
    let host_ip = (port.field("hostIP").str(), other.field("hostIP").str());
    if host_ip.0 == host_ip.1 && host_port.0 == host_port.1 {
        Some("duplicate")
    } else if host_port.0 == 0 || host_port.1 == 0 {
        Some("overlapping")
    } else if host_port.0 == host_port.1 && host_ip.0.is_empty() != host_ip.1.is_empty() {
        Some("dangerously ambiguous")
    } else {
        None
    }
}

/// Volume sources that have gone or are going: the field, its name in the warning, and what it says.
const DEPRECATED_VOLUMES: &[(&str, &str, &str)] = &[
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

fn volume_warnings(spec: &Cursor<'_>, out: &mut Vec<String>) {
    for volume in spec.field("volumes").items() {
        for (field, shown, text) in DEPRECATED_VOLUMES {
            if volume.field(field).is_set() {
                out.push(format!("{}: {text}", volume.path().child(shown)));
            }
        }
        let claim = volume.field("ephemeral").field("volumeClaimTemplate").field("spec");
        super::super::persistentvolumeclaim::spec_warnings(&claim, &claim.path(), out);
    }
}
