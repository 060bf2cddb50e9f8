//! The configuration file: which resources are sealed by what.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::Value;
use api::field::{ErrorList, Path};
use api::json;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::GroupResource;
use super::cipher::{Cipher, Provider, Sealer};
use super::plugin::{self, Plugin};
use crate::config_file;
use crate::http::path::percent_decode;

const AES_KEY_SIZES: &[usize] = &[16, 24, 32];
const SECRETBOX_KEY_SIZES: &[usize] = &[32];
/// Of a call to a plugin, where the configuration says nothing.
const TIMEOUT: &str = "3s";
const KMS_V1_IS_OFF: &str = "KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead.  Set \
                             --feature-gates=KMSv1=true to use the deprecated KMSv1 feature.";

/// A configuration in force: providers by resource, the writing one first.
#[derive(Debug, Default)]
pub struct Encryption {
    providers: HashMap<GroupResource, Vec<Provider>>,
    /// In the order of the file.
    plugins: Vec<Arc<Plugin>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    #[serde(default)]
    resources: Option<Vec<ResourceConfiguration>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceConfiguration {
    #[serde(default)]
    resources: Option<Vec<String>>,
    #[serde(default)]
    providers: Option<Vec<ProviderConfiguration>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderConfiguration {
    aesgcm: Option<KeysConfiguration>,
    aescbc: Option<KeysConfiguration>,
    secretbox: Option<KeysConfiguration>,
    identity: Option<Identity>,
    kms: Option<Kms>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Kms {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    endpoint: String,
    timeout: Option<String>,
    #[serde(rename = "cachesize")]
    cache_size: Option<i32>,
}

impl Kms {
    fn is_v1(&self) -> bool {
        matches!(self.api_version.as_str(), "" | "v1")
    }

    /// `None`: not a duration.
    fn timeout(&self) -> Option<i64> {
        api::codec::duration_nanos(self.timeout.as_deref().unwrap_or(TIMEOUT))
    }

    /// The path of the endpoint's socket; one that begins with a NUL is a name of Linux without a file.
    fn socket(&self) -> PathBuf {
        let rest = self.endpoint.strip_prefix("unix:").unwrap_or_default();
        let path = match rest.strip_prefix("//") {
            Some(rest) => rest.find('/').map_or("", |at| &rest[at..]),
            None => rest,
        };
        let path = percent_decode(path).unwrap_or_else(|| path.to_owned());
        match path.strip_prefix("/@") {
            Some(name) => PathBuf::from(format!("\0{name}")),
            None => PathBuf::from(path),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysConfiguration {
    #[serde(default)]
    keys: Option<Vec<Key>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    #[serde(default)]
    name: String,
    #[serde(default)]
    secret: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Encryption {
    /// Reads and checks a configuration file.
    pub fn parse(text: &str) -> Result<Self, String> {
        let versions = ["apiserver.config.k8s.io/v1"];
        let configuration: Configuration = match config_file::decode(text, "EncryptionConfiguration", &versions) {
            // The name under which the format began.
            Err(_) if text.contains("EncryptionConfig\n") => config_file::decode(text, "EncryptionConfig", &["v1"]),
            decoded => decoded,
        }
        .map_err(|error| format!("error decoding encryption provider configuration: {error}"))?;
        let errors = validate(&configuration);
        if !errors.is_empty() {
            return Err(errors.aggregate_message());
        }
        build(configuration)
    }

    pub(super) fn providers(&self, of: &GroupResource) -> Option<&[Provider]> {
        let any_in_group = || self.providers.get(&GroupResource::new(&of.group, "*"));
        let any = || self.providers.get(&GroupResource::new("*", "*"));
        self.providers.get(of).or_else(any_in_group).or_else(any).map(Vec::as_slice)
    }

    pub(super) fn plugins(&self) -> &[Arc<Plugin>] {
        &self.plugins
    }
}

/// `secrets`, `deployments.apps`, `*.`, `*.apps`, `*.*`.
fn group_resource(text: &str) -> GroupResource {
    let (resource, group) = text.split_once('.').unwrap_or((text, ""));
    GroupResource::new(group, resource)
}

fn build(configuration: Configuration) -> Result<Encryption, String> {
    let (mut all, mut plugins) = (HashMap::<GroupResource, Vec<Provider>>::new(), Vec::new());
    for resources in configuration.resources.unwrap_or_default() {
        let providers = resources.providers.unwrap_or_default();
        let providers: Vec<Provider> = providers.iter().map(provider).collect::<Result<Vec<_>, _>>()?.concat();
        plugins.extend(providers.iter().filter_map(|provider| match &provider.sealer {
            Sealer::Plugin(plugin) => Some(Arc::clone(plugin)),
            Sealer::Identity | Sealer::Key(_) => None,
        }));
        for text in resources.resources.unwrap_or_default() {
            let of = group_resource(&text);
            let masks = [(GroupResource::new(&of.group, "*"), format!("*.{}", of.group))];
            let masks = masks.into_iter().chain([(GroupResource::new("*", "*"), "*.*".to_owned())]);
            for (mask, name) in masks {
                if all.contains_key(&mask) {
                    return Err(format!(
                        "error while building transformers: resource {text:?} is masked by earlier rule {name:?}"
                    ));
                }
            }
            all.entry(of).or_default().extend(providers.iter().cloned());
        }
    }
    Ok(Encryption { providers: all, plugins })
}

/// Makes a cipher of a key, if it is of a size that fits.
type MakeCipher = fn(&[u8]) -> Option<Cipher>;

/// One per key.
fn provider(configuration: &ProviderConfiguration) -> Result<Vec<Provider>, String> {
    let ProviderConfiguration { aesgcm, aescbc, secretbox, identity, kms } = configuration;
    if let Some(kms) = kms {
        return kms_provider(kms).map(|provider| vec![provider]);
    }
    if identity.is_some() {
        return Ok(vec![Provider { prefix: Vec::new(), sealer: Sealer::Identity }]);
    }
    let tables: [(&str, &Option<KeysConfiguration>, MakeCipher); 3] =
        [("aesgcm", aesgcm, Cipher::gcm), ("aescbc", aescbc, Cipher::cbc), ("secretbox", secretbox, Cipher::secretbox)];
    let mut providers = Vec::new();
    for (name, keys, cipher) in tables {
        for key in keys.iter().flat_map(|keys| keys.keys.iter().flatten()) {
            let secret = BASE64_STANDARD.decode(&key.secret).unwrap_or_default();
            let cipher = cipher(&secret)
                .ok_or_else(|| format!("error while creating cipher for named key {}: invalid key size", key.name))?;
            let prefix = format!("k8s:enc:{name}:v1:{}:", key.name).into_bytes();
            providers.push(Provider { prefix, sealer: Sealer::Key(cipher) });
        }
    }
    Ok(providers)
}

fn kms_provider(kms: &Kms) -> Result<Provider, String> {
    if kms.is_v1() {
        return Err(format!("error while building transformers: {KMS_V1_IS_OFF}"));
    }
    let settings = plugin::Settings {
        name: kms.name.clone(),
        socket: kms.socket(),
        timeout: kms
            .timeout()
            .and_then(|nanos| u64::try_from(nanos).ok())
            .map(Duration::from_nanos)
            .unwrap_or_default(),
    };
    let prefix = format!("k8s:enc:kms:v2:{}:", kms.name).into_bytes();
    Ok(Provider { prefix, sealer: Sealer::Plugin(Arc::new(Plugin::new(settings))) })
}

fn validate(configuration: &Configuration) -> ErrorList {
    let mut errors = ErrorList::new();
    let root = Path::new("resources");
    let resources = configuration.resources.as_deref().unwrap_or_default();
    if resources.is_empty() {
        errors.required(root, "at least one resources is required");
        return errors;
    }
    let mut plugins = HashSet::new();
    for (at, one) in resources.iter().enumerate() {
        let (names_path, providers_path) = (root.index(at).child("resources"), root.index(at).child("providers"));
        let names = one.resources.as_deref().unwrap_or_default();
        if names.is_empty() {
            errors.required(names_path.clone(), format!("at least one {} is required", names_path.as_str()));
        }
        validate_overlap(names, &names_path, &mut errors);
        for (at, name) in names.iter().enumerate() {
            if let Some(fault) = name_fault(name) {
                errors.invalid(names_path.index(at), name.clone(), fault);
            }
        }
        let providers = one.providers.as_deref().unwrap_or_default();
        if providers.is_empty() {
            errors.required(providers_path.clone(), format!("at least one {} is required", providers_path.as_str()));
        }
        for (at, provider) in providers.iter().enumerate() {
            let path = providers_path.index(at);
            validate_provider(provider, &path, &mut errors);
            if let Some(kms) = &provider.kms {
                validate_kms(kms, &path.child("kms"), &plugins, &mut errors);
                plugins.insert(kms.name.as_str());
            }
        }
    }
    errors
}

fn validate_overlap(names: &[String], path: &Path, errors: &mut ErrorList) {
    let parsed: Vec<GroupResource> = names.iter().map(|name| group_resource(name)).collect();
    let any = GroupResource::new("*", "*");
    let mut pairs = Vec::new();
    for (i, one) in parsed.iter().enumerate() {
        pairs.extend(parsed.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, other)| (one, other)));
    }
    let has_duplicate = pairs.iter().any(|(one, other)| one == other);
    let has_overlap = pairs.iter().filter(|(one, other)| one != other).any(|(one, other)| {
        **one == any || (one.group == other.group && (one.resource == "*" || other.resource == "*"))
    });
    let shown = || Value::from(names.to_vec());
    if has_duplicate {
        errors.invalid(path.clone(), shown(), "the same resource cannot be specified multiple times");
    }
    if has_overlap {
        let text = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they \
                    will be masked";
        errors.invalid(path.clone(), shown(), text);
    }
}

fn name_fault(name: &str) -> Option<&'static str> {
    let GroupResource { group, resource } = group_resource(name);
    if name.chars().any(char::is_uppercase) {
        Some("resource name should not contain capital letters")
    } else if name == "*" {
        Some("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources")
    } else if matches!(name, "apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations") {
        Some("resources which do not have REST API/s cannot be encrypted")
    } else if group == "events.k8s.io" {
        Some(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config \
             file",
        )
    } else if group == "extensions" {
        Some("'extensions' group has been removed and cannot be used for encryption")
    } else if group == "*" && resource != "*" {
        Some("encrypting the same resource across groups is not supported")
    } else {
        None
    }
}

fn validate_provider(provider: &ProviderConfiguration, path: &Path, errors: &mut ErrorList) {
    let ProviderConfiguration { aesgcm, aescbc, secretbox, identity, kms } = provider;
    let keys = [("aesgcm", aesgcm), ("aescbc", aescbc), ("secretbox", secretbox)];
    let given = keys.iter().filter(|(_, keys)| keys.is_some()).count();
    let given = given + usize::from(identity.is_some()) + usize::from(kms.is_some());
    match given {
        0 => errors.invalid(
            path.clone(),
            json!({}),
            "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity",
        ),
        1 => {}
        _ => errors.invalid(
            path.clone(),
            json!({}),
            "more than one provider specified in a single element, should split into different list elements",
        ),
    }
    for (name, keys) in keys {
        let sizes = if name == "secretbox" { SECRETBOX_KEY_SIZES } else { AES_KEY_SIZES };
        if let Some(keys) = keys {
            validate_keys(keys, &path.child(name).child("keys"), sizes, errors);
        }
    }
}

fn validate_kms(kms: &Kms, path: &Path, others: &HashSet<&str>, errors: &mut ErrorList) {
    let Kms { api_version, name, endpoint, timeout, cache_size } = kms;
    if name.is_empty() {
        errors.required(path.child("name"), "name is a mandatory field for a provider");
    }
    if !kms.is_v1() && name.contains(':') {
        let text = format!("invalid KMS provider name {name}, must not contain ':'");
        errors.invalid(path.child("name"), name.clone(), text);
    }
    if !kms.is_v1() && others.contains(name.as_str()) {
        let text = format!("duplicate KMS provider name {name}, names must be unique");
        errors.invalid(path.child("name"), name.clone(), text);
    }
    if kms.timeout().is_none_or(|nanos| nanos <= 0) {
        errors.invalid(
            path.child("timeout"),
            timeout.clone().unwrap_or_default(),
            "timeout should be a positive value",
        );
    }
    validate_endpoint(endpoint, path.child("endpoint"), errors);
    match cache_size {
        Some(size) if !kms.is_v1() => {
            errors.invalid(path.child("cachesize"), i64::from(*size), "cachesize is not supported in v2");
        }
        Some(0) => {
            let text = "cachesize should be a positive value, or negative to disable";
            errors.invalid(path.child("cachesize"), 0_i64, text);
        }
        Some(_) | None => {}
    }
    if !kms.is_v1() && api_version != "v2" {
        // The field's name where upstream means its value.
        let text = "unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported";
        errors.invalid(path.child("apiVersion"), api_version.clone(), text);
    }
}

fn validate_endpoint(endpoint: &str, path: Path, errors: &mut ErrorList) {
    if endpoint.is_empty() {
        errors.invalid(path, "", "endpoint is a mandatory field for a kms");
        return;
    }
    let scheme = match endpoint.split_once(':') {
        Some(("", _)) => {
            let text = format!(
                "invalid endpoint for kms provider, error: parse {}: missing protocol scheme",
                api::field::go_quote(endpoint)
            );
            errors.invalid(path, endpoint, text);
            return;
        }
        Some((scheme, _)) if scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) => {
            scheme.to_ascii_lowercase()
        }
        Some(_) | None => String::new(),
    };
    if scheme != "unix" {
        let text = format!("unsupported scheme {scheme:?} for KMS provider, only unix is supported");
        errors.invalid(path, endpoint, text);
    }
}

fn validate_keys(keys: &KeysConfiguration, path: &Path, sizes: &[usize], errors: &mut ErrorList) {
    let keys = keys.keys.as_deref().unwrap_or_default();
    if keys.is_empty() {
        errors.required(path.clone(), "at least one keys is required");
    }
    for (at, key) in keys.iter().enumerate() {
        let path = path.index(at);
        if key.name.is_empty() {
            errors.required(path.child("name"), "name is a mandatory field for a key");
        }
        if key.secret.is_empty() {
            errors.required(path.child("secret"), "secret is a mandatory field for a key");
            continue;
        }
        match BASE64_STANDARD.decode(&key.secret) {
            Err(_) => errors.invalid(path.child("secret"), "REDACTED", "secrets must be base64 encoded"),
            Ok(secret) if !sizes.contains(&secret.len()) => {
                let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
                let text = format!(
                    "secret is not of the expected length, got {}, expected one of [{}]",
                    secret.len(),
                    sizes.join(" ")
                );
                errors.invalid(path.child("secret"), "REDACTED", text);
            }
            Ok(_) => {}
        }
    }
}
