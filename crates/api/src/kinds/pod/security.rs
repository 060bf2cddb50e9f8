//! Security contexts of pods and containers, what an operating system excludes, and the annotations that came before them.

use crate::kinds::pod::{PodFacts, each_container};
use crate::occurrences::Occurrences;
use crate::validate::text::{local_descending_path, local_descending_path_at, optional_enum};
use crate::validate::{go, names};
use crate::{Cursor, ErrorList};

const PROFILE_TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const APP_ARMOR_PROFILE_MAX_BYTES: usize = 4095;
const SYSCTL_NAME_MAX_BYTES: usize = 253;

/// `securityContext` of a container.
pub fn container(pod: &PodFacts<'_>, context: &Cursor<'_>, errors: &mut ErrorList) {
    if !context.is_set() {
        return;
    }
    unix_ids(context, &["runAsUser", "runAsGroup"], errors);
    let proc_mount = context.field("procMount");
    optional_enum(&proc_mount, &["Default", "Unmasked"], errors);
    if proc_mount.str() == "Unmasked" && pod.host_users() {
        proc_mount.invalid(errors, "`hostUsers` must be false to use `Unmasked`");
    }
    seccomp_profile(&context.field("seccompProfile"), errors);
    if context.field("allowPrivilegeEscalation").value().as_bool() == Some(false) {
        let mut refuse =
            |detail: &str| errors.invalid(context.path(), go::value("SecurityContext", context.value()), detail);
        if context.field("privileged").bool() {
            refuse("cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        for capability in context.field("capabilities").field("add").items() {
            if capability.str() == "CAP_SYS_ADMIN" {
                refuse("cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN");
            }
        }
    }
    windows_options(&context.field("windowsOptions"), errors);
    app_armor_profile(&context.field("appArmorProfile"), errors);
}

/// `spec.securityContext` of a pod.
pub fn pod(pod: &PodFacts<'_>, errors: &mut ErrorList) {
    let context = pod.spec.field("securityContext");
    let field = |name: &str| context.field(name);
    unix_ids(&context, &["fsGroup", "runAsUser", "runAsGroup"], errors);
    for group in field("supplementalGroups").items() {
        unix_id(&group, errors);
    }
    if pod.spec.field("shareProcessNamespace").bool() && pod.spec.field("hostPID").bool() {
        errors.invalid(
            context.path().child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    sysctls(pod, &field("sysctls"), errors);
    optional_enum(&field("fsGroupChangePolicy"), &["Always", "OnRootMismatch"], errors);
    seccomp_profile(&field("seccompProfile"), errors);
    windows_options(&field("windowsOptions"), errors);
    app_armor_profile(&field("appArmorProfile"), errors);
    optional_enum(&field("supplementalGroupsPolicy"), &["Merge", "Strict"], errors);
    // "MountOption" waits for the gate SELinuxMount.
    optional_enum(&field("seLinuxChangePolicy"), &["Recursive"], errors);
}

fn unix_ids(context: &Cursor<'_>, fields: &[&str], errors: &mut ErrorList) {
    for field in fields {
        unix_id(&context.field(field), errors);
    }
}

fn unix_id(id: &Cursor<'_>, errors: &mut ErrorList) {
    for message in id.opt_int().map(names::unix_id).unwrap_or_default() {
        id.invalid(errors, message);
    }
}

fn seccomp_profile(profile: &Cursor<'_>, errors: &mut ErrorList) {
    if !profile.is_set() {
        return;
    }
    let (kind, localhost) = (profile.field("type"), profile.field("localhostProfile"));
    if kind.is_empty() {
        kind.required(errors, "type is required when seccompProfile is set");
    } else {
        crate::validate::text::supported(&kind, PROFILE_TYPES, errors);
    }
    if kind.str() == "Localhost" {
        if localhost.is_set() {
            local_descending_path(&localhost, errors);
        } else {
            localhost.required(errors, "must be set when seccomp type is Localhost");
        }
    } else if localhost.is_set() {
        let shown = go::value("SeccompProfile", profile.value());
        errors.invalid(localhost.path(), shown, "can only be set when seccomp type is Localhost");
    }
}

fn app_armor_profile(profile: &Cursor<'_>, errors: &mut ErrorList) {
    if !profile.is_set() {
        return;
    }
    let (kind, localhost) = (profile.field("type"), profile.field("localhostProfile"));
    match kind.str() {
        "Localhost" => {
            const MISSING: &str = "must be set when AppArmor type is Localhost";
            let text = localhost.str();
            if !localhost.is_set() {
                localhost.required(errors, MISSING);
                return;
            }
            if text.trim() != text {
                localhost.invalid(errors, "must not be padded with whitespace");
            } else if text.is_empty() {
                localhost.required(errors, MISSING);
            }
            if text.len() > APP_ARMOR_PROFILE_MAX_BYTES {
                errors.too_long(localhost.path(), APP_ARMOR_PROFILE_MAX_BYTES);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if localhost.is_set() {
                localhost.invalid(errors, "can only be set when AppArmor type is Localhost");
            }
        }
        "" => kind.required(errors, "type is required when appArmorProfile is set"),
        _ => kind.no_such_choice(errors, PROFILE_TYPES),
    }
}

fn is_sysctl_name(name: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let segment = |s: &str| {
        let bytes = s.as_bytes();
        matches!((bytes.first(), bytes.last()), (Some(&a), Some(&b)) if edge(a) && edge(b))
            && bytes.iter().all(|&b| edge(b) || matches!(b, b'-' | b'_'))
    };
    name.len() <= SYSCTL_NAME_MAX_BYTES && name.split(['.', '/']).all(segment)
}

/// Sysctls that live in a namespace which the pod may share with the host.
const IPC_SYSCTLS: &[&str] = &["kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem"];

fn sysctls(pod: &PodFacts<'_>, list: &Cursor<'_>, errors: &mut ErrorList) {
    let mut seen: Occurrences<&str> = Occurrences::new();
    for sysctl in list.items() {
        let name = sysctl.field("name");
        if name.is_empty() {
            name.required(errors, "");
        } else if !is_sysctl_name(name.str()) {
            name.invalid(
                errors,
                r"must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            );
        } else if seen.contains(&name.str()) {
            errors.duplicate(name.path(), name.str());
        }
        let dotted = name.str().replace('/', ".");
        if pod.spec.field("hostNetwork").bool() && dotted.starts_with("net.") {
            name.invalid(errors, "may not be specified when 'hostNetwork' is true");
        } else if pod.spec.field("hostIPC").bool()
            && (IPC_SYSCTLS.contains(&dotted.as_str())
                || dotted.starts_with("kernel.shm")
                || dotted.starts_with("fs.mqueue."))
        {
            name.invalid(errors, "may not be specified when 'hostIPC' is true");
        }
        seen.push(name.str());
    }
}

const GMSA_SPEC_MAX_BYTES: usize = 64 * 1024;

fn windows_options(options: &Cursor<'_>, errors: &mut ErrorList) {
    if !options.is_set() {
        return;
    }
    let spec_name = options.field("gmsaCredentialSpecName");
    if spec_name.is_set() {
        crate::validate::text::formatted(&spec_name, names::dns1123_subdomain, errors);
    }
    let spec = options.field("gmsaCredentialSpec");
    if spec.is_set() && spec.is_empty() {
        spec.invalid(errors, "gmsaCredentialSpec cannot be an empty string");
    } else if spec.str().len() > GMSA_SPEC_MAX_BYTES {
        spec.invalid(errors, "gmsaCredentialSpec size must be under 64 KiB");
    }
    let user = options.field("runAsUserName");
    if user.is_set() {
        for message in windows_user_name(user.str()) {
            user.invalid(errors, message);
        }
    }
}

fn windows_user_name(name: &str) -> Vec<&'static str> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string"];
    }
    if name.bytes().any(|b| b.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters"];
    }
    let parts: Vec<&str> = name.split('\\').collect();
    let (domain, user) = match parts[..] {
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return vec!["runAsUserName cannot contain more than one backslash"],
    };
    let mut out = Vec::new();
    if domain.is_some_and(|d| d.len() >= 256) {
        out.push("runAsUserName's Domain length must be under 256 characters");
    }
    if domain.is_some_and(|d| !is_net_bios_name(d) && !is_dns_name(d)) {
        out.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
    }
    if user.is_empty() {
        out.push("runAsUserName's User cannot be empty");
    } else if user.len() > 104 {
        out.push("runAsUserName's User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        out.push("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        out.push(r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#);
    }
    out
}

fn is_net_bios_name(domain: &str) -> bool {
    let n_chars = domain.chars().count();
    (1..=15).contains(&n_chars)
        && !domain.starts_with('.')
        && !domain.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|'])
}

fn is_dns_name(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
    })
}

/// Host process containers: all or none, and on the host's network.
pub fn windows_host_process(pod: &PodFacts<'_>, errors: &mut ErrorList) {
    let of_pod = pod.spec.field("securityContext").field("windowsOptions").field("hostProcess");
    let (mut n_containers, mut n_host_process) = (0, 0);
    each_container(pod.spec, |container| {
        n_containers += 1;
        let own = container.field("securityContext").field("windowsOptions").field("hostProcess");
        if of_pod.is_set() && own.is_set() && of_pod.bool() != own.bool() {
            let detail =
                format!("pod hostProcess value must be identical if both are specified, was {}", of_pod.bool());
            own.invalid(errors, detail);
        }
        if own.bool() || (!own.is_set() && of_pod.bool()) {
            n_host_process += 1;
        }
    });
    if n_host_process == 0 {
        return;
    }
    if n_host_process != n_containers {
        errors.invalid(
            pod.spec.path(),
            "",
            "If pod contains any hostProcess containers then all containers must be HostProcess containers",
        );
    }
    let host_network = pod.spec.field("hostNetwork");
    if !host_network.bool() {
        errors.invalid(
            host_network.path(),
            false,
            "hostNetwork must be true if pod contains any hostProcess containers",
        );
    }
}

/// A pod in its own user namespace cannot share the host's other namespaces.
pub fn host_users(pod: &PodFacts<'_>, errors: &mut ErrorList) {
    const REFUSED: &str = "when `hostUsers` is false";
    if pod.host_users() {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if pod.spec.field(field).bool() {
            errors.forbidden(pod.spec.path().child(shown), REFUSED);
        }
    }
    each_container(pod.spec, |container| {
        let devices = container.field("volumeDevices");
        if !devices.is_empty() {
            devices.forbidden(errors, REFUSED);
        }
    });
}

/// What `spec.os` excludes.
pub fn os(pod: &PodFacts<'_>, errors: &mut ErrorList) {
    let os = pod.spec.field("os");
    if !os.is_set() {
        return;
    }
    let name = os.field("name");
    match name.str() {
        "" => name.required(errors, ""),
        "linux" => linux(pod, errors),
        "windows" => windows(pod, errors),
        other => errors.no_such_choice(os.path(), other, &["linux", "windows"]),
    }
}

fn linux(pod: &PodFacts<'_>, errors: &mut ErrorList) {
    let mut refuse = |context: Cursor<'_>| {
        let options = context.field("windowsOptions");
        if options.is_set() {
            options.forbidden(errors, "windows options cannot be set for a linux pod");
        }
    };
    refuse(pod.spec.field("securityContext"));
    each_container(pod.spec, |container| refuse(container.field("securityContext")));
}

/// Fields that windows pods may not set: `(of the pod spec itself, field)`, in the order of the messages.
const NOT_ON_WINDOWS: &[(bool, &str)] = &[
    (false, "appArmorProfile"),
    (false, "seLinuxOptions"),
    (true, "hostUsers"),
    (true, "hostPID"),
    (true, "hostIPC"),
    (false, "seccompProfile"),
    (false, "fsGroup"),
    (false, "fsGroupChangePolicy"),
    (false, "sysctls"),
    (true, "shareProcessNamespace"),
    (false, "runAsUser"),
    (false, "runAsGroup"),
    (false, "supplementalGroups"),
    (false, "supplementalGroupsPolicy"),
    (false, "seLinuxChangePolicy"),
];
const NOT_ON_WINDOWS_CONTAINERS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

fn windows(pod: &PodFacts<'_>, errors: &mut ErrorList) {
    const REFUSED: &str = "cannot be set for a windows pod";
    let context = pod.spec.field("securityContext");
    for (of_spec, field) in NOT_ON_WINDOWS {
        let value = if *of_spec { pod.spec.field(field) } else { context.field(field) };
        let is_flag = matches!(*field, "hostPID" | "hostIPC");
        if value.is_set() && (!is_flag || value.bool()) && !(*field == "sysctls" && value.is_empty()) {
            value.forbidden(errors, REFUSED);
        }
    }
    each_container(pod.spec, |container| {
        for field in NOT_ON_WINDOWS_CONTAINERS {
            let value = container.field("securityContext").field(field);
            if value.is_set() {
                value.forbidden(errors, REFUSED);
            }
        }
    });
}

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
pub const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// The forms of seccomp and AppArmor annotations.
pub fn annotations(annotations: &Cursor<'_>, spec: &Cursor<'_>, errors: &mut ErrorList) {
    let pod_profile = annotations.field(SECCOMP_POD);
    if pod_profile.is_set() {
        seccomp_annotation(&pod_profile, errors);
    }
    for (key, _) in annotations.entries().filter(|(key, _)| key.starts_with(SECCOMP_CONTAINER)) {
        seccomp_annotation(&annotations.field(key), errors);
    }
    for (key, profile) in annotations.entries() {
        let Some(name) = key.strip_prefix(APP_ARMOR) else { continue };
        let mut found = false;
        each_container(spec, |container| found |= container.field("name").str() == name);
        if !found {
            errors.invalid(profile.path(), name, "container not found");
        }
        let text = profile.str();
        if !matches!(text, "" | "runtime/default" | "unconfined") && !text.starts_with("localhost/") {
            profile.invalid(errors, format!("invalid AppArmor profile name: {}", crate::field::go_quote(text)));
        }
    }
}

fn seccomp_annotation(profile: &Cursor<'_>, errors: &mut ErrorList) {
    match profile.str() {
        "runtime/default" | "docker/default" | "unconfined" => {}
        text => match text.strip_prefix("localhost/") {
            Some(path) => local_descending_path_at(path, &profile.path(), errors),
            None => profile.invalid(errors, "must be a valid seccomp profile"),
        },
    }
}

/// Annotations that contradict the fields which replaced them.
pub fn annotations_match_fields(metadata: &Cursor<'_>, spec: &Cursor<'_>, errors: &mut ErrorList) {
    let annotations = metadata.field("annotations");
    let of_pod = spec.field("securityContext").field("seccompProfile");
    seccomp_matches(annotations.field(SECCOMP_POD).value().as_str(), &of_pod, errors);
    each_container(spec, |container| {
        let key = format!("{SECCOMP_CONTAINER}{}", container.field("name").str());
        let profile = container.field("securityContext").field("seccompProfile");
        seccomp_matches(annotations.field(&key).value().as_str(), &profile, errors);
    });
    if spec.field("os").field("name").str() == "windows" {
        return;
    }
    let of_pod = spec.field("securityContext").field("appArmorProfile");
    each_container(spec, |container| {
        let own = container.field("securityContext").field("appArmorProfile");
        let profile = if own.is_set() { &own } else { &of_pod };
        let key = format!("{APP_ARMOR}{}", container.field("name").str());
        if let Some(annotation) = annotations.field(&key).value().as_str() {
            let shown = Cursor::at(profile.value(), own.path());
            app_armor_matches(annotation, &shown, errors);
        }
    });
}

fn seccomp_matches(annotation: Option<&str>, profile: &Cursor<'_>, errors: &mut ErrorList) {
    let (Some(annotation), true) = (annotation, profile.is_set()) else { return };
    const REFUSED: &str = "seccomp type in annotation and field must match";
    let kind = profile.field("type");
    match kind.str() {
        "Unconfined" if annotation != "unconfined" => kind.forbidden(errors, REFUSED),
        "RuntimeDefault" if !matches!(annotation, "runtime/default" | "docker/default") => {
            kind.forbidden(errors, REFUSED);
        }
        "Localhost" => match annotation.strip_prefix("localhost/") {
            None => kind.forbidden(errors, REFUSED),
            Some(path) if profile.field("localhostProfile").value().as_str() != Some(path) => profile
                .field("localhostProfile")
                .forbidden(errors, "seccomp profile in annotation and field must match"),
            Some(_) => {}
        },
        _ => {}
    }
}

fn app_armor_matches(annotation: &str, profile: &Cursor<'_>, errors: &mut ErrorList) {
    const REFUSED: &str = "apparmor type in annotation and field must match";
    let kind = profile.field("type");
    match kind.str() {
        "Unconfined" if annotation != "unconfined" => kind.forbidden(errors, REFUSED),
        "RuntimeDefault" if annotation != "runtime/default" => kind.forbidden(errors, REFUSED),
        "Localhost" => match annotation.strip_prefix("localhost/") {
            None => kind.forbidden(errors, REFUSED),
            Some(path) if profile.field("localhostProfile").value().as_str() != Some(path) => profile
                .field("localhostProfile")
                .forbidden(errors, "apparmor profile in annotation and field must match"),
            Some(_) => {}
        },
        _ => {}
    }
}
