//! Volume sources, of pods and of persistent volumes: exactly one of a table of sources, each with its own fields.
//! Source: `pkg/apis/core/validation`. Misspelt paths in the table are upstream's and part of its messages.

use std::collections::HashSet;

use crate::field::go_quote;
use crate::kinds::persistentvolumeclaim;
use crate::validate::labels::{invalid_each, selector};
use crate::validate::resources::quantity;
use crate::validate::text::{
    formatted, local_descending_path, local_non_reserved_path, optional_enum, path_no_backsteps, required_formatted,
};
use crate::validate::{go, names};
use crate::{Cursor, ErrorList, Path, meta};

/// What a source's rules may know of the volume around it.
#[derive(Clone, Copy, Debug)]
pub struct VolumeOwner<'a> {
    /// The pod's name, when the spec belongs to a pod; the volume's name for persistent volumes.
    pub pod_name: &'a str,
    pub volume_name: &'a str,
    /// A pod, not a template.
    pub is_pod: bool,
}

type Rule = fn(&Cursor<'_>, VolumeOwner<'_>, &mut ErrorList);

/// One kind of source.
struct Source {
    field: &'static str,
    /// Where a second source is refused.
    extra_path: &'static str,
    /// Where the source's own errors are reported.
    path: &'static str,
    rule: Rule,
    /// Upstream forgets to refuse it beside another one.
    beside_others: bool,
}

const fn source(field: &'static str, rule: Rule) -> Source {
    Source { field, extra_path: field, path: field, rule, beside_others: false }
}

/// Sources of pod volumes, in the order in which upstream looks at them.
static POD_SOURCES: &[Source] = &[
    source("emptyDir", empty_dir),
    source("hostPath", host_path),
    source("gitRepo", git_repo),
    Source { path: "persistentDisk", ..source("gcePersistentDisk", gce_disk) },
    source("awsElasticBlockStore", aws_disk),
    source("secret", secret),
    source("nfs", nfs),
    source("iscsi", iscsi),
    source("glusterfs", glusterfs),
    source("flocker", flocker),
    source("persistentVolumeClaim", |c, _, e| require(c, &["claimName"], e)),
    source("rbd", |c, _, e| require(c, &["monitors", "image"], e)),
    source("cinder", cinder),
    Source { extra_path: "cephFS", ..source("cephfs", |c, _, e| require(c, &["monitors"], e)) },
    source("quobyte", quobyte),
    Source { extra_path: "downwarAPI", ..source("downwardAPI", downward_api) },
    source("fc", fibre_channel),
    source("flexVolume", flex_volume),
    source("configMap", config_map),
    source("azureFile", |c, _, e| require(c, &["secretName", "shareName"], e)),
    source("vsphereVolume", |c, _, e| require(c, &["volumePath"], e)),
    source("photonPersistentDisk", |c, _, e| require(c, &["pdID"], e)),
    source("portworxVolume", |c, _, e| require(c, &["volumeID"], e)),
    source("azureDisk", azure_disk),
    source("storageos", storage_os),
    source("projected", projected),
    source("scaleIO", |c, _, e| require(c, &["gateway", "system", "volumeName"], e)),
    source("csi", csi),
    source("ephemeral", ephemeral),
    source("image", image),
];

/// Sources of persistent volumes.
static PERSISTENT_SOURCES: &[Source] = &[
    source("hostPath", host_path),
    Source { path: "persistentDisk", ..source("gcePersistentDisk", gce_disk) },
    source("awsElasticBlockStore", aws_disk),
    source("glusterfs", glusterfs_pv),
    source("flocker", flocker),
    source("nfs", nfs),
    source("rbd", |c, _, e| require(c, &["monitors", "image"], e)),
    source("quobyte", quobyte),
    Source { extra_path: "cephFS", ..source("cephfs", |c, _, e| require(c, &["monitors"], e)) },
    source("iscsi", iscsi_pv),
    source("cinder", cinder_pv),
    source("fc", fibre_channel),
    Source { beside_others: true, ..source("flexVolume", flex_volume) },
    source("azureFile", azure_file_pv),
    source("vsphereVolume", |c, _, e| require(c, &["volumePath"], e)),
    source("photonPersistentDisk", |c, _, e| require(c, &["pdID"], e)),
    source("portworxVolume", |c, _, e| require(c, &["volumeID"], e)),
    source("azureDisk", azure_disk),
    source("scaleIO", |c, _, e| require(c, &["gateway", "system", "volumeName"], e)),
    source("local", local),
    source("storageos", storage_os),
    source("csi", csi_pv),
];

/// Names of the fields that hold a persistent volume's source.
pub fn persistent_source_fields() -> impl Iterator<Item = &'static str> {
    PERSISTENT_SOURCES.iter().map(|s| s.field)
}

/// Exactly one source of a pod volume.
pub fn pod_volume_source(volume: &Cursor<'_>, owner: VolumeOwner<'_>, errors: &mut ErrorList) {
    one_source(POD_SOURCES, volume, owner, errors);
}

/// Exactly one source of a persistent volume.
pub fn persistent_volume_source(spec: &Cursor<'_>, name: &str, errors: &mut ErrorList) {
    let owner = VolumeOwner { pod_name: "", volume_name: name, is_pod: true };
    one_source(PERSISTENT_SOURCES, spec, owner, errors);
}

fn one_source(sources: &[Source], volume: &Cursor<'_>, owner: VolumeOwner<'_>, errors: &mut ErrorList) {
    let mut found = false;
    for source in sources {
        let value = volume.field(source.field);
        if !value.is_set() {
            continue;
        }
        if found && !source.beside_others {
            errors.forbidden(volume.path().child(source.extra_path), "may not specify more than 1 volume type");
        } else {
            found = true;
            (source.rule)(&Cursor::at(value.value(), volume.path().child(source.path)), owner, errors);
        }
    }
    if !found {
        volume.required(errors, "must specify a volume type");
    }
}

fn require(object: &Cursor<'_>, fields: &[&str], errors: &mut ErrorList) {
    for field in fields {
        let value = object.field(field);
        if value.is_empty() {
            value.required(errors, "");
        }
    }
}

fn empty_dir(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    let limit = c.field("sizeLimit");
    if limit.is_set() && quantity(limit.value()).sign() < 0 {
        limit.forbidden(errors, "SizeLimit field must be a valid resource quantity");
    }
}

const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

fn host_path(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    let path = c.field("path");
    if path.is_empty() {
        path.required(errors, "");
        return;
    }
    path_no_backsteps(&path, errors);
    optional_enum(&c.field("type"), HOST_PATH_TYPES, errors);
}

fn local(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    let path = c.field("path");
    if path.is_empty() {
        path.required(errors, "");
    } else {
        path_no_backsteps(&path, errors);
    }
}

fn git_repo(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    require(c, &["repository"], errors);
    local_descending_path(&c.field("directory"), errors);
}

fn gce_disk(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    require(c, &["pdName"], errors);
    partition(c, errors);
}

fn aws_disk(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    require(c, &["volumeID"], errors);
    partition(c, errors);
}

fn partition(c: &Cursor<'_>, errors: &mut ErrorList) {
    let partition = c.field("partition");
    if !(0..=255).contains(&partition.int()) {
        partition.invalid(errors, names::inclusive_range_error(1, 255));
    }
}

fn file_mode(mode: &Cursor<'_>, errors: &mut ErrorList) {
    if mode.opt_int().is_some_and(|m| !(0..=0o777).contains(&m)) {
        mode.invalid(errors, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn key_to_path(item: &Cursor<'_>, errors: &mut ErrorList) {
    require(item, &["key", "path"], errors);
    let path = item.field("path");
    local_non_reserved_path(path.str(), &path.path(), errors);
    file_mode(&item.field("mode"), errors);
}

fn secret(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    require(c, &["secretName"], errors);
    file_mode(&c.field("defaultMode"), errors);
    c.field("items").items().for_each(|item| key_to_path(&item, errors));
}

fn config_map(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    require(c, &["name"], errors);
    file_mode(&c.field("defaultMode"), errors);
    c.field("items").items().for_each(|item| key_to_path(&item, errors));
}

fn nfs(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    require(c, &["server", "path"], errors);
    let path = c.field("path");
    if !path.str().starts_with('/') {
        errors.invalid(path.path(), path.str(), "must be an absolute path");
    }
}

fn glusterfs(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    require(c, &["endpoints", "path"], errors);
}

fn glusterfs_pv(c: &Cursor<'_>, owner: VolumeOwner<'_>, errors: &mut ErrorList) {
    glusterfs(c, owner, errors);
    let namespace = c.field("endpointsNamespace");
    if namespace.is_set() && namespace.is_empty() {
        namespace.invalid(errors, "if the endpointnamespace is set, it must be a valid namespace name");
    } else if namespace.is_set() {
        formatted(&namespace, names::dns1123_label, errors);
    }
}

fn flocker(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    let (name, uuid) = (c.field("datasetName"), c.field("datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        c.required(errors, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !uuid.is_empty() {
        errors.invalid(c.path(), "resource", "datasetName and datasetUUID can not be specified simultaneously");
    }
    if name.str().contains('/') {
        name.invalid(errors, "must not contain '/'");
    }
}

fn iscsi(c: &Cursor<'_>, owner: VolumeOwner<'_>, errors: &mut ErrorList) {
    require(c, &["targetPortal"], errors);
    iscsi_common(c, "must be valid format starting with iqn, eui, or naa", errors);
    iscsi_initiator(c, "must be valid format starting with iqn, eui, or naa", errors);
    if is_iscsi_name_too_long(c, owner) {
        errors.invalid(parent(c, "iscsi").child("name"), owner.volume_name, ISCSI_TOO_LONG);
    }
}

fn iscsi_pv(c: &Cursor<'_>, owner: VolumeOwner<'_>, errors: &mut ErrorList) {
    require(c, &["targetPortal"], errors);
    if is_iscsi_name_too_long(c, owner) {
        errors.invalid(c.path().child("targetportal"), c.field("targetPortal").str(), ISCSI_TOO_LONG);
    }
    iscsi_common(c, "must be valid format", errors);
    let secret = c.field("secretRef");
    if secret.is_set() {
        require(&secret, &["name"], errors);
    }
    iscsi_initiator(c, "must be valid format", errors);
}

const ISCSI_TOO_LONG: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

fn is_iscsi_name_too_long(c: &Cursor<'_>, owner: VolumeOwner<'_>) -> bool {
    c.field("initiatorName").is_set() && owner.volume_name.len() + 1 + c.field("targetPortal").str().len() > 64
}

/// The path of the object that holds `c` under `field`.
fn parent(c: &Cursor<'_>, field: &str) -> Path {
    let path = c.path();
    Path::new(path.as_str().strip_suffix(&format!(".{field}")).unwrap_or(path.as_str()))
}

fn iscsi_common(c: &Cursor<'_>, wrong_prefix: &str, errors: &mut ErrorList) {
    let iqn = c.field("iqn");
    if iqn.is_empty() {
        iqn.required(errors, "");
    } else if let Err(wrong) = check_iscsi_name(iqn.str()) {
        iqn.invalid(errors, if wrong == IscsiName::Prefix { wrong_prefix } else { "must be valid format" });
    }
    let lun = c.field("lun");
    if !(0..=255).contains(&lun.int()) {
        lun.invalid(errors, names::inclusive_range_error(0, 255));
    }
    let chap = c.field("chapAuthDiscovery").bool() || c.field("chapAuthSession").bool();
    if chap && !c.field("secretRef").is_set() {
        c.field("secretRef").required(errors, "");
    }
}

fn iscsi_initiator(c: &Cursor<'_>, wrong_prefix: &str, errors: &mut ErrorList) {
    let initiator = c.field("initiatorName");
    if !initiator.is_set() {
        return;
    }
    if let Err(wrong) = check_iscsi_name(initiator.str()) {
        let detail = if wrong == IscsiName::Prefix { wrong_prefix } else { "must be valid format" };
        errors.invalid(c.path().child("initiatorname"), initiator.str(), detail);
    }
}

#[derive(PartialEq)]
enum IscsiName {
    Prefix,
    Format,
}

fn check_iscsi_name(name: &str) -> Result<(), IscsiName> {
    let ok = if let Some(rest) = name.strip_prefix("iqn") {
        is_iqn(rest)
    } else if let Some(rest) = name.strip_prefix("eui") {
        is_fixed_alphanumeric(rest, 16)
    } else if let Some(rest) = name.strip_prefix("naa") {
        is_fixed_alphanumeric(rest, 32)
    } else {
        return Err(IscsiName::Prefix);
    };
    if ok { Ok(()) } else { Err(IscsiName::Format) }
}

/// `.yyyy-mm.<domain>:<anything without separators>`.
fn is_iqn(rest: &str) -> bool {
    let Some(rest) = rest.strip_prefix('.') else { return false };
    let Some((date, name)) = rest.split_once('.') else { return false };
    let is_date =
        date.len() == 7 && date.bytes().enumerate().all(|(i, b)| if i == 4 { b == b'-' } else { b.is_ascii_digit() });
    let Some((domain, suffix)) = name.split_once(':') else { return false };
    is_date
        && !domain.is_empty()
        && domain.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
        && !suffix.is_empty()
        && !suffix.chars().any(|c| c.is_whitespace() || matches!(c, ',' | ';' | '*' | '&' | '$' | '|'))
}

fn is_fixed_alphanumeric(rest: &str, length: usize) -> bool {
    // One separator of any kind, then exactly `length` characters.
    rest.chars().count() == length + 1 && rest.chars().skip(1).all(|c| c.is_ascii_alphanumeric())
}

fn cinder(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    require(c, &["volumeID"], errors);
    let secret = c.field("secretRef");
    if secret.is_set() {
        require(&secret, &["name"], errors);
    }
}

fn cinder_pv(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    require(c, &["volumeID"], errors);
    let secret = c.field("secretRef");
    if secret.is_set() {
        require(&secret, &["name", "namespace"], errors);
    }
}

fn quobyte(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    const HOSTS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = c.field("registry");
    if registry.is_empty() {
        registry.required(errors, HOSTS);
    } else if c.field("tenant").str().len() >= 65 {
        c.field("tenant").required(errors, "must be a UUID and may not exceed a length of 64 characters");
    } else {
        for _ in registry.str().split(',').filter(|pair| !pair.contains(':')) {
            registry.invalid(errors, HOSTS);
        }
    }
    require(c, &["volume"], errors);
}

fn fibre_channel(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    let (targets, wwids, lun) = (c.field("targetWWNs"), c.field("wwids"), c.field("lun"));
    if targets.is_empty() && wwids.is_empty() {
        targets.required(errors, "must specify either targetWWNs or wwids, but not both");
    }
    if !targets.is_empty() && !wwids.is_empty() {
        targets.invalid(errors, "targetWWNs and wwids can not be specified simultaneously");
    }
    if !targets.is_empty() {
        match lun.opt_int() {
            None => lun.required(errors, "lun is required if targetWWNs is specified"),
            Some(n) if !(0..=255).contains(&n) => lun.invalid(errors, names::inclusive_range_error(0, 255)),
            Some(_) => {}
        }
    }
}

fn flex_volume(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    require(c, &["driver"], errors);
    for (key, option) in c.field("options").entries() {
        let namespace = key.split('/').next().unwrap_or(key);
        let normalized = format!(".{}", namespace.to_lowercase());
        if normalized.ends_with(".kubernetes.io") || normalized.ends_with(".k8s.io") {
            errors.invalid(option.path(), key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

fn azure_file_pv(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    require(c, &["secretName", "shareName"], errors);
    let namespace = c.field("secretNamespace");
    if namespace.is_set() && namespace.is_empty() {
        namespace.required(errors, "");
    }
}

fn azure_disk(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    require(c, &["diskName", "diskURI"], errors);
    optional_enum(&c.field("cachingMode"), &["None", "ReadOnly", "ReadWrite"], errors);
    let (kind, uri) = (c.field("kind"), c.field("diskURI"));
    optional_enum(&kind, &["Dedicated", "Managed", "Shared"], errors);
    if kind.is_set() {
        let (prefix, form) = if kind.str() == "Managed" {
            (
                "/subscriptions/",
                "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
            )
        } else {
            ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd")
        };
        if !uri.str().starts_with(prefix) {
            errors.not_supported(uri.path(), uri.str(), &[form]);
        }
    }
}

fn storage_os(c: &Cursor<'_>, owner: VolumeOwner<'_>, errors: &mut ErrorList) {
    required_formatted(&c.field("volumeName"), names::dns1123_label, errors);
    let namespace = c.field("volumeNamespace");
    if !namespace.is_empty() {
        formatted(&namespace, names::dns1123_label, errors);
    }
    let secret = c.field("secretRef");
    if secret.is_set() {
        let in_pod = owner.pod_name.is_empty() && secret.field("namespace").is_set();
        require(&secret, if in_pod { &["name", "namespace"] } else { &["name"] }, errors);
    }
}

/// The name of a CSI driver: a subdomain in any case, at most 63 characters.
pub fn csi_driver_name(driver: &Cursor<'_>, errors: &mut ErrorList) {
    let name = driver.str();
    if name.is_empty() {
        driver.required(errors, "");
        return;
    }
    if name.len() > 63 {
        errors.too_long(driver.path(), 63);
    }
    invalid_each(errors, &driver.path(), name, names::dns1123_subdomain(&name.to_lowercase()));
}

fn csi(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    csi_driver_name(&c.field("driver"), errors);
    let secret = c.field("nodePublishSecretRef");
    if secret.is_set() {
        let name = secret.field("name");
        if name.is_empty() {
            name.required(errors, "");
        } else {
            invalid_each(errors, &c.path().child("name"), name.str(), names::dns1123_subdomain(name.str()));
        }
    }
}

fn csi_pv(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    csi_driver_name(&c.field("driver"), errors);
    require(c, &["volumeHandle"], errors);
    for field in
        ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"]
    {
        let secret = c.field(field);
        if secret.is_set() {
            required_formatted(&secret.field("name"), names::dns1123_subdomain, errors);
            required_formatted(&secret.field("namespace"), names::dns1123_label, errors);
        }
    }
}

fn ephemeral(c: &Cursor<'_>, owner: VolumeOwner<'_>, errors: &mut ErrorList) {
    let template = c.field("volumeClaimTemplate");
    if !template.is_set() {
        template.required(errors, "");
    } else {
        meta::template_meta(&template.field("metadata"), errors);
        persistentvolumeclaim::claim_spec(&template.field("spec"), errors);
    }
    if !owner.pod_name.is_empty() && !owner.volume_name.is_empty() {
        let claim = format!("{}-{}", owner.pod_name, owner.volume_name);
        for message in names::dns1123_subdomain(&claim) {
            let detail = format!("PVC name {}: {message}", go_quote(&claim));
            errors.invalid(parent(c, "ephemeral").child("name"), owner.volume_name, detail);
        }
    }
}

fn image(c: &Cursor<'_>, owner: VolumeOwner<'_>, errors: &mut ErrorList) {
    if owner.is_pod {
        require(c, &["reference"], errors);
    }
    super::pod::containers::pull_policy(&c.field("pullPolicy"), errors);
}

fn downward_api(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    file_mode(&c.field("defaultMode"), errors);
    for file in c.field("items").items() {
        downward_api_file(&Cursor::at(file.value(), c.path()), errors);
    }
}

/// One file; upstream reports it at the volume source, without an index.
fn downward_api_file(file: &Cursor<'_>, errors: &mut ErrorList) {
    let path = file.field("path");
    if path.is_empty() {
        path.required(errors, "");
    }
    local_non_reserved_path(path.str(), &path.path(), errors);
    let (field, resource) = (file.field("fieldRef"), file.field("resourceFieldRef"));
    if field.is_set() {
        super::pod::env::field_selector(&field, super::pod::env::VOLUME_FIELD_PATHS, errors);
        if resource.is_set() {
            errors.invalid(
                file.path(),
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            );
        }
    } else if resource.is_set() {
        super::pod::env::resource_selector(&resource, true, errors);
    } else {
        file.required(errors, "one of fieldRef and resourceFieldRef is required");
    }
    file_mode(&file.field("mode"), errors);
}

fn projected(c: &Cursor<'_>, _: VolumeOwner<'_>, errors: &mut ErrorList) {
    file_mode(&c.field("defaultMode"), errors);
    let mut paths: HashSet<String> = HashSet::new();
    for source in c.field("sources").items() {
        projection(c, &source, &mut paths, errors);
    }
}

fn projection(volume: &Cursor<'_>, source: &Cursor<'_>, paths: &mut HashSet<String>, errors: &mut ErrorList) {
    let mut unique = |path: &str, shown: &str, errors: &mut ErrorList| {
        if path.is_empty() {
            return;
        }
        if !paths.insert(path.to_owned()) {
            errors.invalid(volume.path(), shown, "conflicting duplicate paths");
        }
    };
    let mut n_sources = 0;
    for field in ["secret", "configMap"] {
        let files = source.field(field);
        if !files.is_set() {
            continue;
        }
        n_sources += 1;
        require(&files, &["name"], errors);
        for item in files.field("items").items() {
            key_to_path(&item, errors);
            unique(item.field("path").str(), files.field("name").str(), errors);
        }
    }
    let downward = source.field("downwardAPI");
    if downward.is_set() {
        n_sources += 1;
        for file in downward.field("items").items() {
            downward_api_file(&Cursor::at(file.value(), downward.path()), errors);
            unique(file.field("path").str(), file.field("path").str(), errors);
        }
    }
    let token = source.field("serviceAccountToken");
    if token.is_set() {
        n_sources += 1;
        service_account_token(volume, &token, errors);
    }
    let bundle = source.field("clusterTrustBundle");
    if bundle.is_set() {
        n_sources += 1;
        cluster_trust_bundle(&bundle, errors);
        unique(bundle.field("path").str(), bundle.field("path").str(), errors);
    }
    let certificate = source.field("podCertificate");
    if certificate.is_set() {
        n_sources += 1;
        pod_certificate(&certificate, errors);
        for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
            let path = certificate.field(field);
            unique(path.str(), path.str(), errors);
        }
    }
    if n_sources > 1 {
        source.forbidden(errors, "may not specify more than 1 volume type per source");
    }
}

fn service_account_token(volume: &Cursor<'_>, token: &Cursor<'_>, errors: &mut ErrorList) {
    let seconds = token.field("expirationSeconds");
    if seconds.int() < 600 {
        errors.invalid(seconds.path(), seconds.int(), "may not specify a duration less than 10 minutes");
    }
    if seconds.int() > 1 << 32 {
        seconds.invalid(errors, "may not specify a duration larger than 2^32 seconds");
    }
    let path = volume.path().child("path");
    if token.field("path").is_empty() {
        errors.required(path, "");
    } else {
        local_non_reserved_path(token.field("path").str(), &path, errors);
    }
}

fn cluster_trust_bundle(bundle: &Cursor<'_>, errors: &mut ErrorList) {
    let (name, signer) = (bundle.field("name"), bundle.field("signerName"));
    let labels = bundle.field("labelSelector");
    match (name.is_set(), signer.is_set()) {
        (true, true) => {
            let shown = go::value("ClusterTrustBundleProjection", bundle.value());
            errors.invalid(bundle.path(), shown, "only one of name and signerName may be used");
        }
        (true, false) => {
            if name.is_empty() {
                name.required(errors, "must be a valid object name");
            }
            // A name carries its signer as a prefix, with colons; what follows the last one is a plain name.
            let own = name.str().rsplit(':').next().unwrap_or("");
            for message in names::dns1123_subdomain(own) {
                errors.invalid(name.path(), name.str(), format!("not a valid clustertrustbundlename: {message}"));
            }
            if labels.is_set() {
                labels.invalid(errors, "labelSelector must be unset if name is specified");
            }
        }
        (false, true) => {
            if signer.is_empty() {
                signer.required(errors, "must be a valid signer name");
            }
            signer_name(&signer, errors);
            selector(&labels, errors);
        }
        (false, false) => bundle.required(errors, "either name or signerName must be specified"),
    }
    let path = bundle.field("path");
    if path.is_empty() {
        path.required(errors, "");
    }
    local_non_reserved_path(path.str(), &path.path(), errors);
}

/// `domain/path` where the domain has at least two labels.
pub fn signer_name(signer: &Cursor<'_>, errors: &mut ErrorList) {
    let text = signer.str();
    if text.is_empty() {
        signer.required(errors, "");
        return;
    }
    let segments: Vec<&str> = text.split('/').collect();
    let [domain, path] = segments[..] else {
        errors.invalid(
            signer.path(),
            text,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        );
        return;
    };
    if domain.len() > names::DNS1123_SUBDOMAIN_MAX_CHARS {
        errors.too_long(signer.path(), names::DNS1123_SUBDOMAIN_MAX_CHARS);
    }
    // Of each side, what is wrong with the first part that is wrong.
    let check_parts = |side: &str, rule: fn(&str) -> names::Messages, errors: &mut ErrorList| {
        let wrong = side.split('.').find(|part| !rule(part).is_empty());
        for (part, message) in wrong.into_iter().flat_map(|part| rule(part).into_iter().map(move |m| (part, m))) {
            errors.invalid(signer.path(), side, format!("validating label {}: {message}", go_quote(part)));
        }
    };
    check_parts(domain, names::dns1123_label, errors);
    if !domain.contains('.') {
        errors.invalid(signer.path(), domain, "should be a domain with at least two segments separated by dots");
    }
    check_parts(path, names::dns1123_subdomain, errors);
    const SIGNER_MAX_BYTES: usize = 571;
    if text.len() > SIGNER_MAX_BYTES {
        errors.too_long(signer.path(), SIGNER_MAX_BYTES);
    }
}

const KEY_TYPES: &[&str] = &["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096"];
const HOUR: i64 = 3600;

fn pod_certificate(certificate: &Cursor<'_>, errors: &mut ErrorList) {
    let signer = certificate.field("signerName");
    signer_name(&signer, errors);
    let key_type = certificate.field("keyType");
    if !KEY_TYPES.contains(&key_type.str()) {
        errors.no_such_choice(key_type.path(), key_type.str(), KEY_TYPES);
    }
    let longest = if signer.str().starts_with("kubernetes.io/") { 24 * HOUR } else { 91 * 24 * HOUR };
    let seconds = certificate.field("maxExpirationSeconds");
    if let Some(n) = seconds.opt_int() {
        if n < HOUR {
            seconds.invalid(errors, format!("if provided, maxExpirationSeconds must be >= {HOUR}"));
        } else if n > longest {
            seconds.invalid(errors, format!("if provided, maxExpirationSeconds must be <= {longest}"));
        }
    }
    let mut n_paths = 0;
    for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let path = certificate.field(field);
        if !path.is_empty() {
            n_paths += 1;
            local_non_reserved_path(path.str(), &path.path(), errors);
        }
    }
    if n_paths == 0 {
        certificate.required(errors, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath");
    }
}
