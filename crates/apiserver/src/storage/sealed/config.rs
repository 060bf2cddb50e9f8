//! The configuration file: which resources are sealed by what.

use std::collections::HashMap;

use api::Value;
use api::field::{ErrorList, Path};
use api::json;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::GroupResource;
use super::cipher::{Cipher, Provider};
use crate::config_file;

const AES_KEY_SIZES: &[usize] = &[16, 24, 32];
const SECRETBOX_KEY_SIZES: &[usize] = &[32];

/// A configuration in force: providers by resource, the writing one first.
#[derive(Debug)]
pub struct Encryption(HashMap<GroupResource, Vec<Provider>>);

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
    #[serde(default, rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(default, rename = "endpoint")]
    _endpoint: String,
    #[serde(default, rename = "timeout")]
    _timeout: Option<String>,
    #[serde(default, rename = "cachesize")]
    _cache_size: Option<i32>,
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
        let any_in_group = || self.0.get(&GroupResource::new(&of.group, "*"));
        let any = || self.0.get(&GroupResource::new("*", "*"));
        self.0.get(of).or_else(any_in_group).or_else(any).map(Vec::as_slice)
    }
}

/// `secrets`, `deployments.apps`, `*.`, `*.apps`, `*.*`.
fn group_resource(text: &str) -> GroupResource {
    let (resource, group) = text.split_once('.').unwrap_or((text, ""));
    GroupResource::new(group, resource)
}

fn build(configuration: Configuration) -> Result<Encryption, String> {
    let mut all: HashMap<GroupResource, Vec<Provider>> = HashMap::new();
    for resources in configuration.resources.unwrap_or_default() {
        let providers = resources.providers.unwrap_or_default();
        let providers: Vec<Provider> = providers.iter().map(provider).collect::<Result<Vec<_>, _>>()?.concat();
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
    Ok(Encryption(all))
}

/// Makes a cipher of a key, if it is of a size that fits.
type MakeCipher = fn(&[u8]) -> Option<Cipher>;

/// One per key.
fn provider(configuration: &ProviderConfiguration) -> Result<Vec<Provider>, String> {
    let ProviderConfiguration { aesgcm, aescbc, secretbox, identity, kms } = configuration;
    if let Some(kms) = kms {
        return Err(format!(
            "could not configure KMS plugin {:?}: the kms provider is not supported by this server",
            kms.name
        ));
    }
    if identity.is_some() {
        return Ok(vec![Provider { prefix: Vec::new(), cipher: None }]);
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
            providers.push(Provider { prefix, cipher: Some(cipher) });
        }
    }
    Ok(providers)
}

fn validate(configuration: &Configuration) -> ErrorList {
    let mut errors = ErrorList::new();
    let root = Path::new("resources");
    let resources = configuration.resources.as_deref().unwrap_or_default();
    if resources.is_empty() {
        errors.required(root, "at least one resources is required");
        return errors;
    }
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
            validate_provider(provider, &providers_path.index(at), &mut errors);
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
