//! Containers of all three lists: what they share, and what sets init and ephemeral containers apart.

use std::collections::{HashMap, HashSet};

use crate::kinds::pod::{PodFacts, env, probes, security};
use crate::occurrences::Occurrences;
use crate::validate::text::{has_backsteps, local_descending_path_at, required_enum};
use crate::validate::{names, resources, text};
use crate::{Cursor, ErrorList};

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const RESTART_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;

/// `spec.containers`.
pub fn containers(pod: &PodFacts<'_>, errors: &mut ErrorList) {
    let list = pod.spec.field("containers");
    if list.is_empty() {
        list.required(errors, "");
        return;
    }
    let mut names: Occurrences<&str> = Occurrences::new();
    for container in list.items() {
        common(pod, &container, errors);
        let name = container.field("name");
        if names.contains(&name.str()) {
            errors.duplicate(name.path(), name.str());
        } else {
            names.push(name.str());
        }
        let lifecycle = container.field("lifecycle");
        if lifecycle.is_set() {
            probes::lifecycle(pod, &lifecycle, errors);
        }
        probes::probes(pod, &container, errors);
        restart_policy(&container, errors);
    }
    let mut ports = Occurrences::new();
    for container in list.items() {
        unique_host_ports(&container, &mut ports, errors);
    }
}

/// `spec.initContainers`.
pub fn init_containers(pod: &PodFacts<'_>, errors: &mut ErrorList) {
    let mut names = Occurrences::of(pod.spec.field("containers").items().map(|c| c.field("name").str()));
    let list = pod.spec.field("initContainers");
    for container in list.items() {
        common(pod, &container, errors);
        restart_policy(&container, errors);
        let name = container.field("name");
        if names.contains(&name.str()) {
            errors.duplicate(name.path(), name.str());
        } else if !name.is_empty() {
            names.push(name.str());
        }
        // Init containers run one by one, so each is checked alone, and reported as if it were the first.
        let alone = Cursor::at(container.value(), list.path().index(0));
        unique_host_ports(&alone, &mut Occurrences::new(), errors);
        if is_sidecar(&container) {
            let lifecycle = container.field("lifecycle");
            if lifecycle.is_set() {
                probes::lifecycle(pod, &lifecycle, errors);
            }
            probes::probes(pod, &container, errors);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                let value = container.field(field);
                if value.is_set() {
                    value.forbidden(errors, "may not be set for init containers without restartPolicy=Always");
                }
            }
            for policy in container.field("resizePolicy").items() {
                let restart = policy.field("restartPolicy");
                if restart.str() == "RestartContainer" {
                    errors.invalid(
                        container.field("resizePolicy").path(),
                        restart.str(),
                        "must be 'NotRequired' for non-restartable init containers",
                    );
                }
            }
        }
    }
}

/// An init container that keeps running.
pub fn is_sidecar(container: &Cursor<'_>) -> bool {
    container.field("restartPolicy").str() == "Always"
}

/// Fields of a container that an ephemeral one may not have.
const NOT_EPHEMERAL: &[&str] = &[
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

/// `spec.ephemeralContainers`.
pub fn ephemeral_containers(pod: &PodFacts<'_>, errors: &mut ErrorList) {
    const REFUSED: &str = "cannot be set for an Ephemeral Container";
    let spec = pod.spec;
    let others = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| spec.field(list).items().map(|c| c.field("name").str()).collect::<Vec<_>>());
    let others = Occurrences::of(others);
    let mut names = Occurrences::of(others.keys().iter().copied());
    for container in spec.field("ephemeralContainers").items() {
        common(pod, &container, errors);
        trimmed_image(&container, errors);
        let name = container.field("name");
        if names.contains(&name.str()) {
            errors.duplicate(name.path(), name.str());
        } else {
            names.push(name.str());
        }
        let target = container.field("targetContainerName");
        if !target.is_empty() && !others.contains(&target.str()) {
            errors.not_found(target.path(), target.str());
        }
        for field in NOT_EPHEMERAL {
            let value = container.field(field);
            let is_zero = !value.is_set() || (*field == "resources" && value.is_empty());
            if !is_zero {
                value.forbidden(errors, REFUSED);
            }
        }
        for mount in container.field("volumeMounts").items() {
            for field in ["subPath", "subPathExpr"] {
                let value = mount.field(field);
                if !value.is_empty() {
                    value.forbidden(errors, REFUSED);
                }
            }
        }
    }
}

/// Images of pods (not of templates) have no surrounding white space.
pub fn trimmed_image(container: &Cursor<'_>, errors: &mut ErrorList) {
    let image = container.field("image");
    if image.str().trim().len() != image.str().len() {
        image.invalid(errors, "must not have leading or trailing whitespace");
    }
}

fn common(pod: &PodFacts<'_>, container: &Cursor<'_>, errors: &mut ErrorList) {
    let field = |name: &str| container.field(name);
    text::required_formatted(&field("name"), names::dns1123_label, errors);
    if field("image").is_empty() {
        field("image").required(errors, "");
    }
    required_enum(&field("terminationMessagePolicy"), &["File", "FallbackToLogsOnError"], errors);
    ports(&field("ports"), errors);
    env::env(&field("env"), errors);
    env::env_from(&field("envFrom"), errors);
    volume_mounts(pod, container, errors);
    volume_devices(pod, container, errors);
    pull_policy(&field("imagePullPolicy"), errors);
    resources::requirements(&field("resources"), resources::container_resource_name, &pod.claims, errors);
    resize_policy(pod, &field("resizePolicy"), errors);
    security::container(pod, &field("securityContext"), errors);
}

/// Always, IfNotPresent or Never, of a container or an image volume.
pub fn pull_policy(policy: &Cursor<'_>, errors: &mut ErrorList) {
    required_enum(policy, PULL_POLICIES, errors);
}

fn restart_policy(container: &Cursor<'_>, errors: &mut ErrorList) {
    let (policy, rules) = (container.field("restartPolicy"), container.field("restartPolicyRules"));
    if !policy.is_set() {
        if !rules.is_empty() {
            policy.required(errors, "must specify restartPolicy when restart rules are used");
        }
    } else {
        text::supported(&policy, RESTART_POLICIES, errors);
    }
    if rules.len() > RESTART_RULES_MAX {
        errors.too_many(rules.path(), rules.len(), RESTART_RULES_MAX);
    }
    for rule in rules.items() {
        text::supported(&rule.field("action"), &["Restart", "RestartAllContainers"], errors);
        let codes = rule.field("exitCodes");
        if !codes.is_set() {
            codes.required(errors, "must be specified");
            continue;
        }
        text::supported(&codes.field("operator"), &["In", "NotIn"], errors);
        let values = codes.field("values");
        if values.len() > EXIT_CODES_MAX {
            errors.too_many(values.path(), values.len(), EXIT_CODES_MAX);
        }
    }
}

fn ports(list: &Cursor<'_>, errors: &mut ErrorList) {
    let mut seen: Occurrences<&str> = Occurrences::new();
    for port in list.items() {
        let (name, number, host) = (port.field("name"), port.field("containerPort"), port.field("hostPort"));
        if !name.is_empty() {
            let messages = names::port_name(name.str());
            if !messages.is_empty() {
                crate::validate::labels::invalid_each(errors, &name.path(), name.str(), messages);
            } else if seen.contains(&name.str()) {
                errors.duplicate(name.path(), name.str());
            } else {
                seen.push(name.str());
            }
        }
        if number.int() == 0 {
            number.required(errors, "");
        } else {
            text::port_number(&number, errors);
        }
        if host.int() != 0 {
            text::port_number(&host, errors);
        }
        required_enum(&port.field("protocol"), PROTOCOLS, errors);
    }
}

fn unique_host_ports(container: &Cursor<'_>, seen: &mut Occurrences<String>, errors: &mut ErrorList) {
    for port in container.field("ports").items() {
        let host = port.field("hostPort");
        if host.int() == 0 {
            continue;
        }
        let key = format!("{}/{}/{}", port.field("protocol").str(), port.field("hostIP").str(), host.int());
        if seen.contains(&key) {
            errors.duplicate(host.path(), key);
        } else {
            seen.push(key);
        }
    }
}

/// The later of two mounts of one volume wins, as it does in upstream's map.
fn paths_by_name<'a>(list: &Cursor<'a>, path_field: &str) -> HashMap<&'a str, &'a str> {
    list.items().map(|item| (item.field("name").str(), item.field(path_field).str())).collect()
}

fn volume_mounts(pod: &PodFacts<'_>, container: &Cursor<'_>, errors: &mut ErrorList) {
    let list = container.field("volumeMounts");
    let devices = paths_by_name(&container.field("volumeDevices"), "devicePath");
    let device_paths: HashSet<&str> = devices.values().copied().collect();
    let privileged = container.field("securityContext").field("privileged").bool();
    let mut paths: Occurrences<&str> = Occurrences::new();
    for mount in list.items() {
        let (name, path) = (mount.field("name"), mount.field("mountPath"));
        if name.is_empty() {
            name.required(errors, "");
        }
        let volume = pod.volume(name.str());
        if volume.is_none() {
            errors.not_found(name.path(), name.str());
        }
        if path.is_empty() {
            path.required(errors, "");
        }
        if paths.contains(&path.str()) {
            errors.invalid(path.path(), path.str(), "must be unique");
        }
        paths.push(path.str());
        if devices.contains_key(name.str()) {
            name.invalid(errors, "must not already exist in volumeDevices");
        }
        if device_paths.contains(path.str()) {
            path.invalid(errors, "must not already exist as a path in volumeDevices");
        }
        sub_paths(&list, &mount, errors);
        propagation(&list, &mount, privileged, errors);
        recursive_read_only(&list, &mount, errors);
    }
}

fn sub_paths(list: &Cursor<'_>, mount: &Cursor<'_>, errors: &mut ErrorList) {
    let (sub, expr) = (mount.field("subPath"), mount.field("subPathExpr"));
    if !sub.is_empty() {
        local_descending_path_at(sub.str(), &list.path().child("subPath"), errors);
    }
    if !expr.is_empty() {
        if !sub.is_empty() {
            expr.invalid(errors, "subPathExpr and subPath are mutually exclusive");
        }
        local_descending_path_at(expr.str(), &list.path().child("subPathExpr"), errors);
    }
}

fn propagation(list: &Cursor<'_>, mount: &Cursor<'_>, privileged: bool, errors: &mut ErrorList) {
    let mode = Cursor::at(mount.field("mountPropagation").value(), list.path().child("mountPropagation"));
    if !mode.is_set() {
        return;
    }
    text::supported(&mode, &["Bidirectional", "HostToContainer", "None"], errors);
    if mode.str() == "Bidirectional" && !privileged {
        mode.forbidden(errors, "Bidirectional mount propagation is available only to privileged containers");
    }
}

fn recursive_read_only(list: &Cursor<'_>, mount: &Cursor<'_>, errors: &mut ErrorList) {
    let mode = Cursor::at(mount.field("recursiveReadOnly").value(), list.path().child("recursiveReadOnly"));
    match mode.value().as_str() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !mount.field("readOnly").bool() {
                mode.forbidden(errors, "may only be specified when readOnly is true");
            }
            if !matches!(mount.field("mountPropagation").str(), "" | "None") {
                mode.forbidden(errors, "may only be specified when mountPropagation is None or not specified");
            }
        }
        Some(_) => mode.no_such_choice(errors, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn volume_devices(pod: &PodFacts<'_>, container: &Cursor<'_>, errors: &mut ErrorList) {
    let list = container.field("volumeDevices");
    if list.is_empty() {
        return;
    }
    let mounts = paths_by_name(&container.field("volumeMounts"), "mountPath");
    let mount_paths: HashSet<&str> = mounts.values().copied().collect();
    let (mut names, mut paths) = (Occurrences::new(), Occurrences::new());
    for device in list.items() {
        let (name, path) = (device.field("name"), device.field("devicePath"));
        if name.is_empty() {
            name.required(errors, "");
        }
        if names.contains(&name.str()) {
            name.invalid(errors, "must be unique");
        }
        match pod.volume(name.str()) {
            None => errors.not_found(name.path(), name.str()),
            Some(v) if !v.field("persistentVolumeClaim").is_set() && !v.field("ephemeral").is_set() => name.invalid(
                errors,
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            ),
            Some(_) => {}
        }
        if path.is_empty() {
            path.required(errors, "");
        }
        if paths.contains(&path.str()) {
            errors.invalid(path.path(), path.str(), "must be unique");
        }
        if has_backsteps(path.str()) {
            path.invalid(errors, "can not contain backsteps ('..')");
        } else {
            paths.push(path.str());
        }
        if mounts.contains_key(name.str()) {
            name.invalid(errors, "must not already exist in volumeMounts");
        }
        if mount_paths.contains(path.str()) {
            path.invalid(errors, "must not already exist as a path in volumeMounts");
        }
        if !name.is_empty() {
            names.push(name.str());
        }
    }
}

fn resize_policy(pod: &PodFacts<'_>, list: &Cursor<'_>, errors: &mut ErrorList) {
    let mut seen: Occurrences<&str> = Occurrences::new();
    for policy in list.items() {
        let resource = policy.field("resourceName").str();
        let restart = policy.field("restartPolicy").str();
        if seen.contains(&resource) {
            errors.duplicate(policy.path(), resource);
        }
        seen.push(resource);
        // Upstream reports these at the list.
        for (value, allowed) in [(resource, ["cpu", "memory"]), (restart, ["NotRequired", "RestartContainer"])] {
            if value.is_empty() {
                list.required(errors, "");
            } else if !allowed.contains(&value) {
                errors.no_such_choice(list.path(), value, &allowed);
            }
        }
        if pod.spec.field("restartPolicy").str() == "Never" && restart != "NotRequired" {
            errors.invalid(list.path(), restart, "must be 'NotRequired' when `restartPolicy` is 'Never'");
        }
    }
}
