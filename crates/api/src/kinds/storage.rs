//! StorageClass, VolumeAttachment, CSIDriver, CSINode, CSIStorageCapacity, VolumeAttributesClass. Source:
//! `pkg/apis/storage/validation`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::kinds::volumes::csi_driver_name;
use crate::occurrences::Occurrences;
use crate::strategy::SubresourceStrategy;
use crate::validate::labels::{invalid_each, selector};
use crate::validate::resources::quantity;
use crate::validate::text::{IMMUTABLE, NEGATIVE, formatted, immutable, immutable_text, same, supported};
use crate::validate::{go, names};
use crate::{Cursor, ErrorList, Strategy, meta};

const PARAMETERS_MAX: usize = 512;
const PARAMETERS_MAX_BYTES: usize = 256 * 1024;
const NODE_ID_MAX_BYTES: usize = 256;
const ATTACH_ERROR_MAX_BYTES: usize = 1024;

pub const STORAGE_CLASS: Strategy = Strategy {
    validate: storage_class,
    validate_update: |new, old, errors| {
        meta::validate_whole_again(new, false, names::subdomain_name, errors);
        storage_class(new, errors);
        meta::validate_update_again(new, old, errors);
        immutable(&new.field("parameters"), &old.field("parameters"), errors);
        immutable_text(&new.field("provisioner"), &old.field("provisioner"), errors);
        for field in ["reclaimPolicy", "volumeBindingMode"] {
            immutable(&new.field(field), &old.field(field), errors);
        }
    },
    ..Strategy::DEFAULT
};

fn storage_class(class: &Cursor<'_>, errors: &mut ErrorList) {
    provisioner(&class.field("provisioner"), errors);
    parameters(&class.field("parameters"), true, errors);
    let policy = class.field("reclaimPolicy");
    if !policy.is_empty() {
        supported(&policy, &["Delete", "Retain"], errors);
    }
    let mode = class.field("volumeBindingMode");
    if !mode.is_set() {
        mode.required(errors, "");
    } else {
        supported(&mode, &["Immediate", "WaitForFirstConsumer"], errors);
    }
    topologies(&class.field("allowedTopologies"), errors);
}

/// Who makes or changes volumes: a qualified name in any case.
fn provisioner(name: &Cursor<'_>, errors: &mut ErrorList) {
    if name.is_empty() {
        name.required(errors, "");
    } else {
        let lower = name.str().to_lowercase();
        invalid_each(errors, &name.path(), &lower, names::qualified_name(&lower));
    }
}

fn parameters(map: &Cursor<'_>, may_be_empty: bool, errors: &mut ErrorList) {
    if map.len() > PARAMETERS_MAX {
        errors.too_long(map.path(), PARAMETERS_MAX);
        return;
    }
    let mut size = 0;
    for (key, value) in map.entries() {
        if key.is_empty() {
            errors.invalid(map.path(), key, "field can not be empty.");
        }
        size += key.len() + value.str().len();
    }
    if size > PARAMETERS_MAX_BYTES {
        errors.too_long(map.path(), PARAMETERS_MAX_BYTES);
    }
    if !may_be_empty && map.is_empty() {
        map.required(errors, "must contain at least one key/value pair");
    }
}

fn topologies(list: &Cursor<'_>, errors: &mut ErrorList) {
    let mut seen: HashMap<BTreeMap<&str, BTreeSet<&str>>, usize> = HashMap::new();
    for term in list.items() {
        let mut selected: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut keys: Occurrences<&str> = Occurrences::new();
        for requirement in term.field("matchLabelExpressions").items() {
            let (key, values) = (requirement.field("key"), requirement.field("values"));
            if values.is_empty() {
                values.required(errors, "");
            }
            let mut known: Occurrences<&str> = Occurrences::new();
            for value in values.items() {
                if known.contains(&value.str()) {
                    errors.duplicate(value.path(), value.str());
                }
                known.push(value.str());
            }
            formatted(&key, names::qualified_name, errors);
            if keys.contains(&key.str()) {
                errors.duplicate(key.path(), key.str());
            }
            keys.push(key.str());
            selected.insert(key.str(), known.keys().iter().copied().collect());
        }
        // Upstream compares with as many empty terms as there are terms, too.
        let n_empty = if selected.is_empty() { list.len() } else { 0 };
        let n_same = seen.entry(selected).or_default();
        for _ in 0..n_empty + *n_same {
            errors.duplicate(term.path().child("matchLabelExpressions"), "");
        }
        *n_same += 1;
    }
}

pub const VOLUME_ATTACHMENT: Strategy = Strategy {
    validate: attachment,
    validate_update: |new, old, errors| {
        meta::validate_whole_again(new, false, names::subdomain_name, errors);
        attachment(new, errors);
        let (spec, old_spec) = (new.field("spec"), old.field("spec"));
        if !same(spec.value(), old_spec.value()) {
            errors.invalid(spec.path(), go::value("storage.VolumeAttachmentSpec", spec.value()), IMMUTABLE);
        }
    },
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |_, _, _| {},
        validate_update: |new, _, errors| attachment_status(&new.field("status"), errors),
    }],
    ..Strategy::DEFAULT
};

fn attachment(attachment: &Cursor<'_>, errors: &mut ErrorList) {
    attachment_rules(attachment, errors);
    let name = attachment.fields(&["spec", "source", "persistentVolumeName"]);
    if name.is_set() {
        formatted(&name, names::dns1123_subdomain, errors);
    }
}

fn attachment_rules(attachment: &Cursor<'_>, errors: &mut ErrorList) {
    let spec = attachment.field("spec");
    csi_driver_name(&spec.field("attacher"), errors);
    let source = spec.field("source");
    let (inline, name) = (source.field("inlineVolumeSpec"), source.field("persistentVolumeName"));
    match (inline.is_set(), name.is_set()) {
        (true, true) => source.forbidden(errors, EXACTLY_ONE),
        (false, false) => source.required(errors, EXACTLY_ONE),
        (false, true) => {
            if name.is_empty() {
                name.required(errors, "must specify non empty persistentVolumeName");
            }
        }
        (true, false) => super::persistentvolume::inline_volume_spec(&inline, errors),
    }
    formatted(&spec.field("nodeName"), names::dns1123_subdomain, errors);
    attachment_status(&attachment.field("status"), errors);
}

const EXACTLY_ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";

fn attachment_status(status: &Cursor<'_>, errors: &mut ErrorList) {
    let metadata = status.field("attachmentMetadata");
    let size: usize = metadata.entries().map(|(k, v)| k.len() + v.str().len()).sum();
    if size > PARAMETERS_MAX_BYTES {
        errors.too_long(metadata.path(), PARAMETERS_MAX_BYTES);
    }
    for field in ["attachError", "detachError"] {
        let message = status.field(field).field("message");
        if message.str().len() > ATTACH_ERROR_MAX_BYTES {
            // Upstream names the limit of the metadata.
            errors.too_long(message.path(), PARAMETERS_MAX_BYTES);
        }
        let code = status.field(field).field("errorCode");
        if code.int() < 0 {
            code.invalid(errors, names::inclusive_range_error(0, i64::from(i32::MAX)));
        }
    }
}

pub const CSI_DRIVER: Strategy = Strategy {
    warnings: |new, old, out| {
        let spec = new.field("spec");
        let requests = spec.field("tokenRequests");
        let is_new = old.is_none_or(|old| !same(old.field("spec").field("tokenRequests").value(), requests.value()));
        if is_new && !requests.is_empty() && !spec.field("serviceAccountTokenInSecrets").is_set() {
            out.push(
                "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent \
                 possible logging of tokens in volume attributes"
                    .to_owned(),
            );
        }
    },
    validate: |driver, errors| driver_spec(&driver.field("spec"), errors),
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        let (spec, old_spec) = (new.field("spec"), old.field("spec"));
        driver_spec(&spec, errors);
        let attach = Cursor::at(spec.field("attachRequired").value(), spec.path().child("attachedRequired"));
        immutable(&attach, &old_spec.field("attachRequired"), errors);
        immutable(&spec.field("volumeLifecycleModes"), &old_spec.field("volumeLifecycleModes"), errors);
    },
    ..Strategy::DEFAULT
};

const TOKEN_SECONDS_MIN: i64 = 600;

fn driver_spec(spec: &Cursor<'_>, errors: &mut ErrorList) {
    for field in ["attachRequired", "podInfoOnMount", "storageCapacity"] {
        if !spec.field(field).is_set() {
            spec.field(field).required(errors, "");
        }
    }
    let policy = spec.field("fsGroupPolicy");
    if policy.is_set() {
        supported(&policy, &["File", "None", "ReadWriteOnceWithFSType"], errors);
    }
    let mut audiences: Occurrences<&str> = Occurrences::new();
    for request in spec.field("tokenRequests").items() {
        let (audience, seconds) = (request.field("audience"), request.field("expirationSeconds"));
        if audiences.contains(&audience.str()) {
            errors.duplicate(audience.path(), audience.str());
            continue;
        }
        audiences.push(audience.str());
        if let Some(n) = seconds.opt_int() {
            if n < TOKEN_SECONDS_MIN {
                seconds.invalid(errors, "may not specify a duration less than 10 minutes");
            }
            if n > 1 << 32 {
                seconds.invalid(errors, "may not specify a duration larger than 2^32 seconds");
            }
        }
    }
    let modes = spec.field("volumeLifecycleModes");
    for mode in modes.items() {
        if !matches!(mode.str(), "Persistent" | "Ephemeral") {
            errors.no_such_choice(modes.path(), mode.str(), &["Persistent", "Ephemeral"]);
        }
    }
    if !spec.field("seLinuxMount").is_set() {
        spec.field("seLinuxMount").required(errors, "");
    }
    let period = spec.field("nodeAllocatableUpdatePeriodSeconds");
    if period.opt_int().is_some_and(|n| n < 10) {
        period.invalid(errors, "must be greater than or equal to 10 seconds");
    }
    let secrets = spec.field("serviceAccountTokenInSecrets");
    if secrets.is_set() && spec.field("tokenRequests").is_empty() {
        secrets.invalid(errors, "serviceAccountTokenInSecrets is set but no tokenRequests are specified");
    }
}

pub const CSI_NODE: Strategy = Strategy {
    validate: |node, errors| node_drivers(&node.field("spec").field("drivers"), errors),
    validate_update: |new, old, errors| {
        meta::validate_whole_again(new, false, names::subdomain_name, errors);
        node_drivers(&new.field("spec").field("drivers"), errors);
        let drivers = new.field("spec").field("drivers");
        for before in old.field("spec").field("drivers").items() {
            let same_name = drivers.items().filter(|d| d.field("name").str() == before.field("name").str());
            let fixed = |d: &Cursor<'_>| {
                let mut out = d.value().clone();
                crate::kinds::carry::remove(&mut out, &[], "allocatable");
                out
            };
            for driver in same_name {
                let fixed_driver = fixed(&driver);
                if !same(&fixed_driver, &fixed(&before)) {
                    let shown = go::pointer("storage.CSINodeDriver", &fixed_driver);
                    errors.invalid(drivers.path(), shown, IMMUTABLE);
                }
            }
        }
    },
    ..Strategy::DEFAULT
};

fn node_drivers(drivers: &Cursor<'_>, errors: &mut ErrorList) {
    let mut seen: Occurrences<&str> = Occurrences::new();
    for driver in drivers.items() {
        let (name, id) = (driver.field("name"), driver.field("nodeID"));
        csi_driver_name(&name, errors);
        if id.is_empty() {
            id.required(errors, "");
        }
        if id.str().len() > NODE_ID_MAX_BYTES {
            errors.invalid(id.path(), id.str(), format!("must be {NODE_ID_MAX_BYTES} characters or less"));
        }
        let allocatable = driver.field("allocatable").field("count");
        if allocatable.opt_int().is_some_and(|n| n < 0) {
            allocatable.invalid(errors, NEGATIVE);
        }
        if seen.contains(&name.str()) {
            errors.duplicate(name.path(), name.str());
        }
        seen.push(name.str());
        let keys = driver.field("topologyKeys");
        let mut known: Occurrences<&str> = Occurrences::new();
        for key in keys.items() {
            if key.is_empty() {
                driver.required(errors, "");
            }
            if known.contains(&key.str()) {
                errors.duplicate(driver.path(), key.str());
            }
            known.push(key.str());
            invalid_each(errors, &driver.path(), key.str(), names::qualified_name(key.str()));
        }
    }
}

pub const CSI_STORAGE_CAPACITY: Strategy = Strategy {
    validate: capacity,
    validate_update: |new, old, errors| {
        meta::validate_whole_again(new, true, names::subdomain_name, errors);
        capacity(new, errors);
        meta::validate_update_again(new, old, errors);
        immutable(&new.field("nodeTopology"), &old.field("nodeTopology"), errors);
        immutable_text(&new.field("storageClassName"), &old.field("storageClassName"), errors);
    },
    ..Strategy::DEFAULT
};

fn capacity(capacity: &Cursor<'_>, errors: &mut ErrorList) {
    selector(&capacity.field("nodeTopology"), errors);
    formatted(&capacity.field("storageClassName"), names::dns1123_subdomain, errors);
    // maximumVolumeSize is not looked at upstream either.
    let value = capacity.field("capacity");
    let amount = quantity(value.value());
    if value.is_set() && amount.sign() < 0 {
        errors.invalid(value.path(), amount.to_string(), NEGATIVE);
    }
}

pub const VOLUME_ATTRIBUTES_CLASS: Strategy = Strategy {
    validate: attributes_class,
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        for field in ["driverName", "parameters"] {
            if !same(new.field(field).value(), old.field(field).value()) {
                new.field(field).forbidden(errors, format!("updates to {field} are forbidden."));
            }
        }
        meta::validate_whole_again(new, false, names::subdomain_name, errors);
        attributes_class(new, errors);
    },
    ..Strategy::DEFAULT
};

fn attributes_class(class: &Cursor<'_>, errors: &mut ErrorList) {
    provisioner(&class.field("driverName"), errors);
    parameters(&class.field("parameters"), false, errors);
}
