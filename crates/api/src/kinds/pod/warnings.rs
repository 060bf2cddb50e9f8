//! What pods and templates are warned about: fields that are deprecated, or that do not do what they seem to.
//! Source: `pkg/api/pod/warnings.go`.

use crate::Cursor;
use crate::kinds::pod::each_container;
use crate::validate::names;
use crate::validate::resources::quantity;

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
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// The newer form of a node label, as a warning says it.
pub fn deprecated_node_label(key: &str) -> Option<&'static str> {
    DEPRECATED_NODE_LABELS.iter().find(|(old, _)| *old == key).map(|(_, text)| *text)
}

/// A pod on create and update.
pub fn pod(new: &Cursor<'_>, old: Option<&Cursor<'_>>, out: &mut Vec<String>) {
    let metadata = new.field("metadata");
    let name = metadata.field("name").str();
    if old.is_none() {
        let messages = names::dns1123_label(name);
        if !messages.is_empty() {
            out.push(format!(
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is \
                 recommended: [{}]",
                messages.join(" ")
            ));
        }
    }
    template_parts(&metadata.field("annotations"), &new.field("spec"), out);
}

/// A pod template.
pub fn template(template: &Cursor<'_>, out: &mut Vec<String>) {
    template_parts(&template.field("metadata").field("annotations"), &template.field("spec"), out);
}

fn template_parts(annotations: &Cursor<'_>, spec: &Cursor<'_>, out: &mut Vec<String>) {
    for (key, _) in spec.field("nodeSelector").entries() {
        if let Some(text) = deprecated_node_label(key) {
            out.push(format!("{}: {text}", spec.field("nodeSelector").path().key(key)));
        }
    }
    node_affinity(&spec.field("affinity").field("nodeAffinity"), out);
    for constraint in spec.field("topologySpreadConstraints").items() {
        let key = constraint.field("topologyKey");
        if let Some(text) = deprecated_node_label(key.str()) {
            out.push(format!("{}: {} is {text}", key.path(), key.str()));
        }
        if !constraint.field("labelSelector").is_set() {
            out.push(format!(
                "{}: a null labelSelector results in matching no pod",
                constraint.field("labelSelector").path()
            ));
        }
    }
    annotation_warnings(annotations, out);
    container_warnings(spec, out);
    volume_warnings(spec, out);
    for secret in spec.field("imagePullSecrets").items() {
        if secret.field("name").is_empty() {
            out.push(format!("{}: invalid empty name \"\"", secret.field("name").path()));
        }
    }
    host_alias_warnings(spec, out);
    if spec.field("terminationGracePeriodSeconds").int() < 0 {
        out.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            spec.field("terminationGracePeriodSeconds").path()
        ));
    }
}

fn node_affinity(affinity: &Cursor<'_>, out: &mut Vec<String>) {
    let mut terms: Vec<Cursor<'_>> =
        affinity.field("requiredDuringSchedulingIgnoredDuringExecution").field("nodeSelectorTerms").items().collect();
    let preferred: Vec<Cursor<'_>> = affinity
        .field("preferredDuringSchedulingIgnoredDuringExecution")
        .items()
        .map(|t| t.field("preference"))
        .collect();
    terms.extend(preferred);
    for term in terms {
        for expression in term.field("matchExpressions").items() {
            let key = expression.field("key");
            if let Some(text) = deprecated_node_label(key.str()) {
                out.push(format!("{}: {} is {text}", key.path(), key.str()));
            }
        }
    }
}

fn annotation_warnings(annotations: &Cursor<'_>, out: &mut Vec<String>) {
    for (key, _) in annotations.entries() {
        let path = annotations.path().key(key);
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            out.push(format!("{path}: non-functional in v1.27+; use the \"seccompProfile\" field instead"));
        } else if key.starts_with(APP_ARMOR) {
            out.push(format!("{path}: deprecated since v1.30; use the \"appArmorProfile\" field instead"));
        }
    }
}

fn container_warnings(spec: &Cursor<'_>, out: &mut Vec<String>) {
    each_container(spec, |container| {
        let (limits, requests) =
            (container.field("resources").field("limits"), container.field("resources").field("requests"));
        for list in [limits, requests] {
            for name in ["memory", "ephemeral-storage"] {
                let value = list.field(name);
                let amount = quantity(value.value());
                if value.is_set() && amount.milli_value() % 1000 != 0 {
                    out.push(format!(
                        "{}: fractional byte value \"{amount}\" is invalid, must be an integer",
                        list.path().key(name)
                    ));
                }
            }
        }
        let mut seen: Vec<&str> = Vec::new();
        for variable in container.field("env").items() {
            let name = variable.field("name").str();
            let refers_to_itself = variable.field("value").str().contains(&format!("$({name})"));
            if seen.contains(&name) && !refers_to_itself {
                out.push(format!(
                    "{}: hides previous definition of \"{name}\", which may be dropped when using apply",
                    variable.path()
                ));
            }
            seen.push(name);
        }
        let mut ports: Vec<(i64, &str, i64, &str)> = Vec::new();
        for port in container.field("ports").items() {
            let protocol = match port.field("protocol").str() {
                "" => "TCP",
                p => p,
            };
            let key =
                (port.field("containerPort").int(), protocol, port.field("hostPort").int(), port.field("hostIP").str());
            if ports.contains(&key) {
                out.push(format!(
                    "{}: duplicate port definition with spec.containers[0].ports[{}]",
                    port.path(),
                    ports.iter().position(|p| *p == key).unwrap_or(0)
                ));
            }
            ports.push(key);
        }
    });
}

/// Volume sources that have gone or are going, with what a warning says of each.
const DEPRECATED_VOLUMES: &[(&str, &str)] = &[
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

fn volume_warnings(spec: &Cursor<'_>, out: &mut Vec<String>) {
    for volume in spec.field("volumes").items() {
        for (field, text) in DEPRECATED_VOLUMES {
            if volume.field(field).is_set() {
                out.push(format!("{}: {text}", volume.field(field).path()));
            }
        }
        for source in volume.field("projected").field("sources").items() {
            if source.entries().next().is_none() {
                out.push(format!("volume \"{}\" (Projected) has no sources provided", volume.field("name").str()));
            }
        }
        let claim = volume.field("ephemeral").field("volumeClaimTemplate").field("spec");
        super::super::persistentvolumeclaim::spec_warnings(&claim, out);
    }
}

fn host_alias_warnings(spec: &Cursor<'_>, out: &mut Vec<String>) {
    let mut seen: Vec<&str> = Vec::new();
    for alias in spec.field("hostAliases").items() {
        let ip = alias.field("ip").str();
        if seen.contains(&ip) {
            out.push(format!("{}: another entry already uses IP \"{ip}\"", alias.path()));
        }
        seen.push(ip);
    }
}
