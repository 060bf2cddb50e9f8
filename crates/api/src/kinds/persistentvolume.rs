//! PersistentVolume. Source: `pkg/registry/core/persistentvolume`, `pkg/apis/core/validation`.

use crate::json;

use crate::kinds::{carry, persistentvolumeclaim as claim, volumes};
use crate::strategy::SubresourceStrategy;
use crate::validate::labels::node_selector;
use crate::validate::resources::{basic_resource, positive};
use crate::validate::text::{IMMUTABLE, immutable, same, supported};
use crate::validate::{go, names};
use crate::{Cursor, ErrorList, Map, Path, Strategy, Value, meta};

const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";
const MOUNTED_WITH_OPTIONS: [&str; 13] = [
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "nfs",
    "rbd",
    "quobyte",
    "iscsi",
    "cinder",
    "cephfs",
    "azureFile",
    "vsphereVolume",
    "azureDisk",
    "photonPersistentDisk",
];
const RECLAIM_POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];

pub const STRATEGY: Strategy = Strategy {
    prepare_for_create: |new, ctx| {
        carry::set(new, "status", json!({"phase": "Pending", "lastPhaseTransitionTime": ctx.now}));
    },
    validate: whole,
    prepare_for_update: |new, old, _| carry::keep_status(new, old),
    validate_update,
    warnings: |new, _, out| {
        claim::class_annotation_warning(new, out);
        let policy = new.field("spec").field("persistentVolumeReclaimPolicy");
        if policy.str() == "Recycle" {
            out.push(format!(
                "{}: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
                policy.path()
            ));
        }
    },
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |new, old, ctx| {
            carry::keep_spec(new, old);
            let phase = |v: &Value| v.pointer("/status/phase").cloned();
            let time = |v: &Value| v.pointer("/status/lastPhaseTransitionTime").cloned();
            if phase(new) == phase(old) {
                if time(new).is_none() {
                    carry::keep_in(new, old, "status", "lastPhaseTransitionTime");
                }
            } else if (time(new).is_none() || time(new) == time(old))
                && let Some(status) = new.get_mut("status")
            {
                carry::set(status, "lastPhaseTransitionTime", ctx.now.into());
            }
        },
        validate_update: meta::validate_update_again,
    }],
    ..Strategy::DEFAULT
};

fn whole(volume: &Cursor<'_>, errors: &mut ErrorList) {
    volume_spec(&volume.field("spec"), volume.field("metadata").field("name").str(), errors);
    mount_options(volume, errors);
}

/// The annotation that options for the mount once were is for some sources only.
fn mount_options(volume: &Cursor<'_>, errors: &mut ErrorList) {
    let options = volume.fields(&["metadata", "annotations", MOUNT_OPTIONS]);
    let may_have = MOUNTED_WITH_OPTIONS.iter().any(|source| volume.field("spec").field(source).is_set());
    if options.is_set() && !may_have {
        options.forbidden(errors, "may not specify mount options for this volume type");
    }
}

/// The spec of a volume.
fn volume_spec(spec: &Cursor<'_>, name: &str, errors: &mut ErrorList) {
    let modes = spec.field("accessModes");
    if modes.is_empty() {
        modes.required(errors, "");
    }
    claim::access_modes(&modes, errors);
    capacity(&spec.field("capacity"), errors);
    let policy = spec.field("persistentVolumeReclaimPolicy");
    if !policy.is_empty() {
        supported(&policy, RECLAIM_POLICIES, errors);
    }
    let affinity = spec.field("nodeAffinity");
    if affinity.is_set() {
        let required = affinity.field("required");
        if required.is_set() {
            node_selector(&required, errors);
        } else {
            required.required(errors, "must specify required node constraints");
        }
    }
    let mut of_source = ErrorList::new();
    volumes::persistent_volume_source(spec, name, &mut of_source);
    let first = volumes::persistent_source_fields().find(|field| spec.field(field).is_set());
    // Said of a local volume before the kinds of source that upstream looks at after it.
    let (later, own): (Vec<_>, Vec<_>) =
        of_source.into_iter().partition(|error| ["spec.storageos", "spec.csi"].contains(&error.path.as_str()));
    own.into_iter().for_each(|error| errors.push(error));
    if first == Some("local") && !affinity.is_set() {
        affinity.required(errors, "Local volume requires node affinity");
    }
    later.into_iter().for_each(|error| errors.push(error));
    let host_path = spec.field("hostPath").field("path").str();
    if is_root(host_path) && policy.str() == "Recycle" {
        policy.forbidden(errors, "may not be 'recycle' for a hostPath mount of '/'");
    }
    let class = spec.field("storageClassName");
    if !class.is_empty() {
        claim::class_name(&class, errors);
    }
    claim::volume_mode(&spec.field("volumeMode"), errors);
    attributes_class(spec, errors);
}

fn attributes_class(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let class = spec.field("volumeAttributesClassName");
    if !class.is_set() {
        return;
    }
    if class.is_empty() {
        class.required(errors, "an empty string is disallowed");
    } else {
        claim::class_name(&class, errors);
    }
    if !spec.field("csi").is_set() {
        spec.field("csi").required(errors, "has to be specified when using volumeAttributesClassName");
    }
}

fn capacity(capacity: &Cursor<'_>, errors: &mut ErrorList) {
    if capacity.is_empty() {
        capacity.required(errors, "");
    }
    if !capacity.field("storage").is_set() || capacity.len() > 1 {
        errors.not_supported(capacity.path(), capacity.value().clone(), &["storage"]);
    }
    for (_, amount) in capacity.entries() {
        basic_resource(amount.value(), &amount.path(), errors);
        positive(amount.value(), &amount.path(), errors);
    }
}

/// The spec of a volume given inline in an attachment: no more than a CSI source.
pub fn inline_volume_spec(spec: &Cursor<'_>, errors: &mut ErrorList) {
    const NOT_INLINE: &str = "may not be specified in the context of inline volumes";
    for field in ["claimRef", "capacity"] {
        if !spec.field(field).is_empty() {
            spec.field(field).forbidden(errors, NOT_INLINE);
        }
    }
    if !spec.field("csi").is_set() {
        spec.field("csi").required(errors, "has to be specified in the context of inline volumes");
    }
    let modes = spec.field("accessModes");
    if modes.is_empty() {
        modes.required(errors, "");
    }
    claim::access_modes(&modes, errors);
    let policy = spec.field("persistentVolumeReclaimPolicy");
    if !matches!(policy.str(), "" | "Retain") {
        policy.forbidden(errors, "may only be Retain in the context of inline volumes");
    }
    if spec.field("nodeAffinity").is_set() {
        spec.field("nodeAffinity").forbidden(errors, NOT_INLINE);
    }
    volumes::persistent_volume_source(spec, "", errors);
    if !spec.field("storageClassName").is_empty() {
        spec.field("storageClassName").forbidden(errors, NOT_INLINE);
    }
    let mode = spec.field("volumeMode");
    if mode.is_set() && mode.str() != "Filesystem" {
        mode.forbidden(errors, "may not specify volumeMode other than Filesystem in the context of inline volumes");
    }
    attributes_class(spec, errors);
}

/// Whether a path is `/` once `.` and `..` are resolved.
fn is_root(path: &str) -> bool {
    let mut depth = 0;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = i32::max(depth - 1, 0),
            _ => depth += 1,
        }
    }
    path.starts_with('/') && depth == 0
}

fn source_of(spec: &Value) -> Value {
    let fields = volumes::persistent_source_fields();
    Value::Object(fields.filter_map(|f| spec.get(f).map(|v| (f.to_owned(), v.clone()))).collect::<Map>())
}

fn validate_update(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    let (spec, old_spec) = (new.field("spec"), old.field("spec"));
    // The volume is looked at by the rules of all volumes, and again by those of an update.
    for is_again in [false, true] {
        meta::validate_whole_again(new, false, names::subdomain_name, errors);
        volume_spec(&spec, new.field("metadata").field("name").str(), errors);
        if !is_again {
            mount_options(new, errors);
        }
    }
    let (mut source, old_source) = (source_of(spec.value()), source_of(old_spec.value()));
    let had_expand_secret = old_spec.field("csi").field("controllerExpandSecretRef").is_set();
    if old_spec.field("csi").is_set() && !had_expand_secret {
        carry::remove(&mut source, &["csi"], "controllerExpandSecretRef");
    }
    if !same(&source, &old_source) {
        let diff = go::diff("PersistentVolumeSource", &old_source, &source);
        let detail = format!("spec.persistentvolumesource is immutable after creation\n{diff}");
        errors.forbidden(Path::new("spec.persistentvolumesource"), detail);
    }
    immutable(
        &Cursor::at(spec.field("volumeMode").value(), Path::new("volumeMode")),
        &old_spec.field("volumeMode"),
        errors,
    );
    let (affinity, old_affinity) = (spec.field("nodeAffinity"), old_spec.field("nodeAffinity"));
    if old_affinity.is_set() && !same(affinity.value(), &with_new_label_keys(&old_affinity, &affinity)) {
        let shown = go::pointer("VolumeNodeAffinity", affinity.value());
        errors.invalid(
            Path::new("nodeAffinity"),
            shown,
            format!("{IMMUTABLE}, except for updating from beta label to GA"),
        );
    }
    let class = spec.field("volumeAttributesClassName");
    if old_spec.field("volumeAttributesClassName").is_set() && !class.is_set() {
        class.forbidden(errors, "update from non-nil value to nil is forbidden");
    }
}

/// Beta node labels and the stable ones that a volume may move to.
const STABLE_LABELS: &[(&str, &str)] = &[
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// The old affinity with beta keys replaced where the new one uses the stable key at the same place.
fn with_new_label_keys(old: &Cursor<'_>, new: &Cursor<'_>) -> Value {
    let mut out = old.value().clone();
    let terms = out.pointer_mut("/required/nodeSelectorTerms").and_then(Value::as_array_mut);
    for (i, term) in terms.into_iter().flatten().enumerate() {
        let expressions = term.get_mut("matchExpressions").and_then(Value::as_array_mut);
        for (j, expression) in expressions.into_iter().flatten().enumerate() {
            let pointer = format!("/required/nodeSelectorTerms/{i}/matchExpressions/{j}/key");
            let wanted = new.value().pointer(&pointer).and_then(Value::as_str).unwrap_or("");
            let key = expression.get("key").and_then(Value::as_str).unwrap_or("");
            if STABLE_LABELS.contains(&(key, wanted)) {
                carry::set(expression, "key", wanted.into());
            }
        }
    }
    out
}
