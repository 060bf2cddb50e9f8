//! The checks of the standards, each with the versions from which it holds. Baseline checks come first, each group by name.

use std::collections::BTreeSet;

use api::{Value, field::go_quote};

use super::level::{Level, LevelVersion, Version};

/// The newest version of the standards this server knows.
const LATEST_MINOR: u32 = 36;

/// A pod or pod template, read for checking.
pub(super) struct Pod<'a> {
    annotations: &'a Value,
    spec: &'a Value,
    containers: Vec<&'a Value>,
}

impl<'a> Pod<'a> {
    pub(super) fn new(metadata: &'a Value, spec: &'a Value) -> Self {
        let containers = ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(|list| spec[list].as_array().map_or(&[][..], Vec::as_slice))
            .collect();
        Self { annotations: &metadata["annotations"], spec, containers }
    }

    /// `securityContext` of the pod.
    fn context(&self) -> &'a Value {
        &self.spec["securityContext"]
    }

    /// Names of the containers for which `bad` holds.
    fn containers_where(&self, bad: impl Fn(&Value) -> bool) -> Vec<String> {
        self.containers.iter().filter(|c| bad(c)).map(|c| name(c)).collect()
    }

    fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// In a user namespace, where root is not root.
    fn has_own_users(&self) -> bool {
        self.spec["hostUsers"] == false
    }

    fn volumes(&self) -> &'a [Value] {
        self.spec["volumes"].as_array().map_or(&[][..], Vec::as_slice)
    }
}

fn name(value: &Value) -> String {
    value["name"].as_str().unwrap_or_default().to_owned()
}

/// What one check found.
pub(super) struct Violation {
    reason: String,
    detail: String,
}

fn violation(reason: &str, detail: impl Into<String>) -> Option<Violation> {
    Some(Violation { reason: reason.to_owned(), detail: detail.into() })
}

pub(super) struct Violations(Vec<Violation>);

impl Violations {
    /// `reason (detail), …`
    pub(super) fn detail(&self) -> String {
        let parts: Vec<String> = self
            .0
            .iter()
            .map(|v| if v.detail.is_empty() { v.reason.clone() } else { format!("{} ({})", v.reason, v.detail) })
            .collect();
        parts.join(", ")
    }

    pub(super) fn reasons(&self) -> String {
        self.0.iter().map(|v| v.reason.as_str()).collect::<Vec<_>>().join(", ")
    }
}

type Check = fn(&Pod<'_>) -> Option<Violation>;

struct Row {
    id: &'static str,
    level: Level,
    /// First minor version and the check from there on; ascending.
    versions: &'static [(u32, Check)],
    /// The baseline check that this one replaces.
    overrides: Option<&'static str>,
}

const fn baseline(id: &'static str, versions: &'static [(u32, Check)]) -> Row {
    Row { id, level: Level::Baseline, versions, overrides: None }
}

const fn restricted(id: &'static str, versions: &'static [(u32, Check)], overrides: Option<&'static str>) -> Row {
    Row { id, level: Level::Restricted, versions, overrides }
}

const ROWS: &[Row] = &[
    baseline("appArmorProfile", &[(0, app_armor)]),
    baseline("capabilities_baseline", &[(0, capabilities_baseline)]),
    baseline("hostNamespaces", &[(0, host_namespaces)]),
    baseline("hostPathVolumes", &[(0, host_path)]),
    baseline("hostPorts", &[(0, host_ports)]),
    baseline("hostProbesAndHostLifecycle", &[(34, probe_hosts)]),
    baseline("privileged", &[(0, privileged)]),
    baseline("procMount", &[(0, proc_mount), (35, |p| if p.has_own_users() { None } else { proc_mount(p) })]),
    baseline("seLinuxOptions", &[(0, |p| selinux(p, &SELINUX[..3])), (31, |p| selinux(p, &SELINUX))]),
    baseline("seccompProfile_baseline", &[(0, seccomp_annotations), (19, seccomp_baseline)]),
    baseline(
        "sysctls",
        &[
            (0, |p| sysctls(p, &SYSCTLS[..5])),
            (27, |p| sysctls(p, &SYSCTLS[..6])),
            (29, |p| sysctls(p, &SYSCTLS[..10])),
            (32, |p| sysctls(p, &SYSCTLS)),
        ],
    ),
    baseline("windowsHostProcess", &[(0, host_process)]),
    restricted(
        "allowPrivilegeEscalation",
        &[(8, privilege_escalation), (25, |p| if p.is_windows() { None } else { privilege_escalation(p) })],
        None,
    ),
    restricted(
        "capabilities_restricted",
        &[(22, capabilities_restricted), (25, |p| if p.is_windows() { None } else { capabilities_restricted(p) })],
        Some("capabilities_baseline"),
    ),
    restricted("procMount_restricted", &[(35, proc_mount)], Some("procMount")),
    restricted("restrictedVolumes", &[(0, volumes)], Some("hostPathVolumes")),
    restricted("runAsNonRoot", &[(0, non_root), (35, |p| if p.has_own_users() { None } else { non_root(p) })], None),
    restricted("runAsUser", &[(23, root_user), (35, |p| if p.has_own_users() { None } else { root_user(p) })], None),
    restricted(
        "seccompProfile_restricted",
        &[(19, seccomp_restricted), (25, |p| if p.is_windows() { None } else { seccomp_restricted(p) })],
        Some("seccompProfile_baseline"),
    ),
];

/// What a pod violates of a level; `None`: nothing.
pub(super) fn evaluate(wanted: LevelVersion, pod: &Pod<'_>) -> Option<Violations> {
    let minor = match wanted.version {
        Version::Latest => LATEST_MINOR,
        Version::Minor(minor) => minor.min(LATEST_MINOR),
    };
    let active = |row: &&Row| row.level <= wanted.level && row.versions[0].0 <= minor;
    let overridden: Vec<&str> = ROWS.iter().filter(active).filter_map(|row| row.overrides).collect();
    let found: Vec<Violation> = ROWS
        .iter()
        .filter(active)
        .filter(|row| !overridden.contains(&row.id))
        .filter_map(|row| {
            let (_, check) = row.versions.iter().rev().find(|(from, _)| *from <= minor)?;
            check(pod)
        })
        .collect();
    (!found.is_empty()).then_some(Violations(found))
}

fn quoted<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    let list: Vec<String> = names.into_iter().map(|n| format!("\"{}\"", n.as_ref())).collect();
    list.join(", ")
}

fn plural(one: &'static str, many: &'static str, n: usize) -> &'static str {
    if n == 1 { one } else { many }
}

/// `container "a"`, `containers "a", "b"`.
fn containers(names: &[String]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// `pod and container "a"`: who set something.
fn setters(pod: bool, names: &[String]) -> String {
    let mut out = Vec::new();
    if pod {
        out.push("pod".to_owned());
    }
    if !names.is_empty() {
        out.push(containers(names));
    }
    out.join(" and ")
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let mut bad_values = BTreeSet::new();
    let mut is_bad = |context: &Value| {
        let profile = &context["appArmorProfile"];
        let kind = profile["type"].as_str().unwrap_or_default();
        let bad = !profile.is_null() && !matches!(kind, "RuntimeDefault" | "Localhost");
        if bad {
            bad_values.insert(kind.to_owned());
        }
        bad
    };
    let of_pod = is_bad(pod.context());
    let bad: Vec<String> = pod.containers.iter().filter(|c| is_bad(&c["securityContext"])).map(|c| name(c)).collect();
    let annotations = pod.annotations.as_object();
    let mut forbidden: Vec<String> = annotations
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(key, value)| {
            let fine = value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/");
            key.starts_with(PREFIX) && !fine
        })
        .map(|(key, value)| format!("{key}={}", go_quote(value)))
        .collect();
    forbidden.sort();
    let mut who: Vec<String> = Vec::new();
    if of_pod || !bad.is_empty() {
        who.push(setters(of_pod, &bad));
    }
    if !forbidden.is_empty() {
        who.push(plural("annotation", "annotations", forbidden.len()).to_owned());
    }
    if who.is_empty() {
        return None;
    }
    let values: Vec<String> = bad_values.into_iter().chain(forbidden).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    violation(reason, format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(values)))
}

const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Containers that add a capability other than these, and which.
fn added_capabilities(pod: &Pod<'_>, allowed: &[&str]) -> (Vec<String>, BTreeSet<String>) {
    let extra = |c: &Value| -> Vec<String> {
        let added = texts(&c["securityContext"]["capabilities"]["add"]);
        added.into_iter().filter(|capability| !allowed.contains(&capability.as_str())).collect()
    };
    let bad = pod.containers_where(|c| !extra(c).is_empty());
    (bad, pod.containers.iter().flat_map(|c| extra(c)).collect())
}

fn capabilities_baseline(pod: &Pod<'_>) -> Option<Violation> {
    let (bad, which) = added_capabilities(pod, &DEFAULT_CAPABILITIES);
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must not include {} in securityContext.capabilities.add", containers(&bad), quoted(which));
    violation("non-default capabilities", detail)
}

fn capabilities_restricted(pod: &Pod<'_>) -> Option<Violation> {
    let keeps = pod
        .containers_where(|c| !texts(&c["securityContext"]["capabilities"]["drop"]).iter().any(|drop| drop == "ALL"));
    let (adds, which) = added_capabilities(pod, &["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeps)));
    }
    if !adds.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&adds),
            quoted(which)
        ));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| pod.spec[*field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if used.is_empty() { None } else { violation("host namespaces", used.join(", ")) }
}

fn host_path(pod: &Pod<'_>) -> Option<Violation> {
    let bad: Vec<String> = pod.volumes().iter().filter(|v| !v["hostPath"].is_null()).map(name).collect();
    if bad.is_empty() {
        return None;
    }
    violation("hostPath volumes", format!("{} {}", plural("volume", "volumes", bad.len()), quoted(&bad)))
}

fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let ports = |c: &Value| -> Vec<String> {
        let list = c["ports"].as_array().into_iter().flatten();
        list.filter_map(|p| p["hostPort"].as_i64()).filter(|port| *port != 0).map(|port| port.to_string()).collect()
    };
    let bad = pod.containers_where(|c| !ports(c).is_empty());
    let which: BTreeSet<String> = pod.containers.iter().flat_map(|c| ports(c)).collect();
    if bad.is_empty() {
        return None;
    }
    let numbers: Vec<&str> = which.iter().map(String::as_str).collect();
    let detail = format!(
        "{} {} {} {}",
        containers(&bad),
        plural("uses", "use", bad.len()),
        plural("hostPort", "hostPorts", which.len()),
        numbers.join(", ")
    );
    violation("hostPort", detail)
}

fn probe_hosts(pod: &Pod<'_>) -> Option<Violation> {
    let hosts = |c: &Value| -> Vec<String> {
        let handlers = [
            &c["livenessProbe"],
            &c["readinessProbe"],
            &c["startupProbe"],
            &c["lifecycle"]["postStart"],
            &c["lifecycle"]["preStop"],
        ];
        let all = handlers.into_iter().flat_map(|h| [&h["httpGet"]["host"], &h["tcpSocket"]["host"]]);
        all.filter_map(|host| host.as_str().filter(|h| !h.is_empty()).map(str::to_owned)).collect()
    };
    let bad: BTreeSet<String> = pod.containers_where(|c| !hosts(c).is_empty()).into_iter().collect();
    let which: BTreeSet<String> = pod.containers.iter().flat_map(|c| hosts(c)).collect();
    if bad.is_empty() {
        return None;
    }
    let bad: Vec<String> = bad.into_iter().collect();
    let detail = format!(
        "{} {} {} {}",
        containers(&bad),
        plural("uses", "use", bad.len()),
        plural("probe or lifecycle host", "probe or lifecycle hosts", which.len()),
        quoted(&which)
    );
    violation("probe or lifecycle host", detail)
}

fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let bad = pod.containers_where(|c| c["securityContext"]["privileged"] == true);
    if bad.is_empty() {
        return None;
    }
    violation("privileged", format!("{} must not set securityContext.privileged=true", containers(&bad)))
}

fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let other = |c: &Value| {
        let mount = c["securityContext"]["procMount"].as_str();
        mount.filter(|mount| *mount != "Default").map(str::to_owned)
    };
    let bad = pod.containers_where(|c| other(c).is_some());
    let which: BTreeSet<String> = pod.containers.iter().filter_map(|c| other(c)).collect();
    if bad.is_empty() {
        return None;
    }
    violation("procMount", format!("{} must not set securityContext.procMount to {}", containers(&bad), quoted(&which)))
}

/// Allowed types; the last one since 1.31.
const SELINUX: [&str; 4] = ["container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

fn selinux(pod: &Pod<'_>, allowed: &[&str]) -> Option<Violation> {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut is_bad = |context: &Value| {
        let options = &context["seLinuxOptions"];
        let text = |field: &str| options[field].as_str().unwrap_or_default();
        let bad_type = !text("type").is_empty() && !allowed.contains(&text("type"));
        if bad_type {
            types.insert(text("type").to_owned());
        }
        user |= !text("user").is_empty();
        role |= !text("role").is_empty();
        bad_type || !text("user").is_empty() || !text("role").is_empty()
    };
    let of_pod = is_bad(pod.context());
    let bad: Vec<String> = pod.containers.iter().filter(|c| is_bad(&c["securityContext"])).map(|c| name(c)).collect();
    if !of_pod && bad.is_empty() {
        return None;
    }
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", "types", types.len()), quoted(&types)));
    }
    if user {
        data.push("user may not be set".to_owned());
    }
    if role {
        data.push("role may not be set".to_owned());
    }
    let detail = format!("{} set forbidden securityContext.seLinuxOptions: {}", setters(of_pod, &bad), data.join("; "));
    violation("seLinuxOptions", detail)
}

fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    let keys = std::iter::once("seccomp.security.alpha.kubernetes.io/pod".to_owned())
        .chain(pod.containers.iter().map(|c| format!("container.seccomp.security.alpha.kubernetes.io/{}", name(c))));
    let forbidden: BTreeSet<String> = keys
        .filter_map(|key| {
            let value = pod.annotations[key.as_str()].as_str()?;
            let fine = matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
            (!fine).then(|| format!("{key}={}", go_quote(value)))
        })
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let list: Vec<&str> = forbidden.iter().map(String::as_str).collect();
    let detail = format!("forbidden {} {}", plural("annotation", "annotations", list.len()), list.join(", "));
    violation("seccompProfile", detail)
}

/// Profiles that are set to something else than allowed.
fn bad_seccomp(pod: &Pod<'_>) -> Option<Violation> {
    let bad_type = |context: &Value| {
        let profile = &context["seccompProfile"];
        let kind = profile["type"].as_str().unwrap_or_default();
        (!profile.is_null() && !matches!(kind, "RuntimeDefault" | "Localhost")).then(|| kind.to_owned())
    };
    let of_pod = bad_type(pod.context());
    let bad = pod.containers_where(|c| bad_type(&c["securityContext"]).is_some());
    if of_pod.is_none() && bad.is_empty() {
        return None;
    }
    let who = setters(of_pod.is_some(), &bad);
    let values: BTreeSet<String> =
        of_pod.into_iter().chain(pod.containers.iter().filter_map(|c| bad_type(&c["securityContext"]))).collect();
    violation(
        "seccompProfile",
        format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&values)),
    )
}

fn seccomp_baseline(pod: &Pod<'_>) -> Option<Violation> {
    bad_seccomp(pod)
}

fn seccomp_restricted(pod: &Pod<'_>) -> Option<Violation> {
    let bad = bad_seccomp(pod);
    if bad.is_some() {
        return bad;
    }
    if !pod.context()["seccompProfile"].is_null() {
        return None;
    }
    let unset = pod.containers_where(|c| c["securityContext"]["seccompProfile"].is_null());
    if unset.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        containers(&unset)
    );
    violation("seccompProfile", detail)
}

/// Safe sysctls, in the order in which versions added them: 5, then 1 in 1.27, 4 in 1.29, 2 in 1.32.
const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

fn sysctls(pod: &Pod<'_>, allowed: &[&str]) -> Option<Violation> {
    let list = pod.context()["sysctls"].as_array().into_iter().flatten();
    let bad: Vec<String> = list.map(name).filter(|sysctl| !allowed.contains(&sysctl.as_str())).collect();
    if bad.is_empty() { None } else { violation("forbidden sysctls", bad.join(", ")) }
}

fn host_process(pod: &Pod<'_>) -> Option<Violation> {
    let is_set = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    let of_pod = is_set(pod.context());
    let bad = pod.containers_where(|c| is_set(&c["securityContext"]));
    if !of_pod && bad.is_empty() {
        return None;
    }
    let who = setters(of_pod, &bad);
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    let bad = pod.containers_where(|c| c["securityContext"]["allowPrivilegeEscalation"] != false);
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&bad));
    violation("allowPrivilegeEscalation != false", detail)
}

const ALLOWED_VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

const RESTRICTED_VOLUMES: [&str; 21] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

fn volumes(pod: &Pod<'_>) -> Option<Violation> {
    let has = |volume: &Value, kinds: &[&'static str]| kinds.iter().copied().find(|kind| !volume[*kind].is_null());
    let (mut bad, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in pod.volumes().iter().filter(|volume| has(volume, &ALLOWED_VOLUMES).is_none()) {
        bad.push(name(volume));
        kinds.insert(has(volume, &RESTRICTED_VOLUMES).unwrap_or("unknown"));
    }
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", bad.len()),
        quoted(&bad),
        plural("uses", "use", bad.len()),
        plural("restricted volume type", "restricted volume types", kinds.len()),
        quoted(&kinds)
    );
    violation("restricted volume types", detail)
}

fn non_root(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let of = |context: &Value| context["runAsNonRoot"].as_bool();
    let of_pod = of(pod.context());
    let explicit = pod.containers_where(|c| of(&c["securityContext"]) == Some(false));
    if of_pod == Some(false) || !explicit.is_empty() {
        let who = setters(of_pod == Some(false), &explicit);
        return violation(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    if of_pod == Some(true) {
        return None;
    }
    let unset = pod.containers_where(|c| of(&c["securityContext"]).is_none());
    if unset.is_empty() {
        return None;
    }
    violation(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&unset)))
}

fn root_user(pod: &Pod<'_>) -> Option<Violation> {
    let is_root = |context: &Value| context["runAsUser"] == 0;
    let of_pod = is_root(pod.context());
    let bad = pod.containers_where(|c| is_root(&c["securityContext"]));
    if !of_pod && bad.is_empty() {
        return None;
    }
    violation("runAsUser=0", format!("{} must not set runAsUser=0", setters(of_pod, &bad)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The standard's own cases, where the checkout has them.
    #[test]
    fn the_standards_cases_pass_and_fail_as_they_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/testdata/pod-security/cases.jsonl");
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("skipped: no pod security cases: {error}");
                return;
            }
        };
        let mut n_checked = 0;
        for line in text.lines() {
            let mut case: Value = serde_json::from_str(line).unwrap();
            // Stored pods have their defaults: a volume without a source is an emptyDir.
            for volume in case["pod"]["spec"]["volumes"].as_array_mut().into_iter().flatten() {
                if volume.as_object().is_some_and(|fields| fields.len() == 1) {
                    volume["emptyDir"] = api::json!({});
                }
            }
            let level = if case["level"] == "baseline" { Level::Baseline } else { Level::Restricted };
            let pod = Pod::new(&case["pod"]["metadata"], &case["pod"]["spec"]);
            for version in case["versions"].as_array().unwrap() {
                let version = Version::parse(version.as_str().unwrap()).unwrap();
                let found = evaluate(LevelVersion { level, version }, &pod);
                let expected = case["expect"] == "fail";
                let detail = found.as_ref().map(Violations::detail);
                assert_eq!(found.is_some(), expected, "{} {level:?} {version}: {detail:?}", case["name"]);
                n_checked += 1;
            }
        }
        assert!(n_checked > 1000, "{n_checked} cases");
    }
}
