use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::FutureExt as _;

use super::*;

const KEY: &[u8] = b"/registry/secrets/default/a";

fn sealing(text: &str) -> Sealing {
    Sealing::new(Encryption::parse(text).unwrap(), api::kinds::builtin())
}

fn seal(sealing: &Sealing, key: &[u8], value: &'static [u8]) -> Bytes {
    sealing.seal(key, Bytes::from_static(value)).unwrap()
}

fn open(sealing: &Sealing, key: &[u8], value: Bytes) -> Opened {
    // Nobody is asked for a key that the configuration has.
    sealing.open(key, value, Patience::Ask).now_or_never().expect("at once").unwrap()
}

/// A configuration for these resources with these providers, written as YAML's flow style.
fn file(resources: &str, providers: &str) -> String {
    format!(
        "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n- resources: [{resources}]\n  \
         providers: [{providers}]\n"
    )
}

const GCM: &str = "{aesgcm: {keys: [{name: key1, secret: c2VjcmV0IGlzIHNlY3VyZQ==}]}}";
const GCM_2: &str = "{aesgcm: {keys: [{name: key2, secret: dGhpcyBpcyBwYXNzd29yZA==}]}}";
const CBC: &str = "{aescbc: {keys: [{name: key1, secret: c2VjcmV0IGlzIHNlY3VyZQ==}]}}";
const SECRETBOX: &str = "{secretbox: {keys: [{name: key1, secret: YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY=}]}}";
const IDENTITY: &str = "{identity: {}}";

#[test]
fn the_first_provider_writes_and_every_provider_reads() {
    for (first, prefix) in
        [(GCM, "k8s:enc:aesgcm:v1:key1:"), (CBC, "k8s:enc:aescbc:v1:key1:"), (SECRETBOX, "k8s:enc:secretbox:v1:key1:")]
    {
        let written = seal(&sealing(&file("secrets", first)), KEY, b"{\"kind\":\"Secret\"}");
        assert!(written.starts_with(prefix.as_bytes()), "{written:?}");
        assert!(!written.windows(6).any(|part| part == b"Secret"));
        let opened = open(&sealing(&file("secrets", &format!("{first}, {IDENTITY}"))), KEY, written.clone());
        assert_eq!((opened.value.as_ref(), opened.is_stale), (b"{\"kind\":\"Secret\"}".as_slice(), false));
        let opened = open(&sealing(&file("secrets", &format!("{IDENTITY}, {GCM_2}, {first}"))), KEY, written);
        assert_eq!((opened.value.as_ref(), opened.is_stale), (b"{\"kind\":\"Secret\"}".as_slice(), true));
    }
}

#[test]
fn values_sealed_elsewhere_are_opened() {
    // Made with OpenSSL and libsodium.
    for (provider, sealed) in VECTORS {
        let value = [provider.1.as_bytes(), &BASE64_STANDARD.decode(sealed).unwrap()].concat();
        let opened = open(&sealing(&file("secrets", provider.0)), KEY, value.into());
        assert_eq!(opened.value.as_ref(), b"{\"kind\":\"Secret\",\"a\":1}", "{}", provider.1);
    }
}

#[test]
fn a_value_is_bound_to_its_key_under_gcm() {
    let sealing = sealing(&file("secrets", GCM));
    let written = seal(&sealing, KEY, b"{}");
    let moved = open(&sealing, b"/registry/secrets/default/b", written);
    assert!(moved.value.starts_with(SEALED));
}

#[test]
fn what_has_no_provider_stays_in_the_clear() {
    let sealing = sealing(&file("secrets", GCM));
    let pod = seal(&sealing, b"/registry/pods/default/a", b"{}");
    assert_eq!(pod.as_ref(), b"{}");
    // In the clear where only sealed values are expected: not readable.
    assert!(open(&sealing, KEY, Bytes::from_static(b"{}")).value.starts_with(SEALED));
    let lease = seal(&sealing, b"/registry/masterleases/10.0.0.1", b"{}");
    assert_eq!(lease.as_ref(), b"{}");
}

#[test]
fn wildcards_cover_groups_and_definitions() {
    let is_sealed =
        |resources: &str, key: &str| seal(&sealing(&file(resources, GCM)), key.as_bytes(), b"{}").starts_with(SEALED);
    assert!(is_sealed("'*.'", "/registry/services/specs/default/a"));
    assert!(!is_sealed("'*.'", "/registry/deployments/default/a"));
    assert!(is_sealed("'*.apps'", "/registry/deployments/default/a"));
    assert!(is_sealed("'*.*'", "/registry/example.com/widgets/default/a"));
    assert!(is_sealed("widgets.example.com", "/registry/example.com/widgets/default/a"));
    assert!(is_sealed("events", "/registry/events/default/a"));
    assert!(!is_sealed("'*.*'", "/registry/ranges/serviceips"));
}

#[test]
fn a_wrong_configuration_is_refused_in_upstreams_words() {
    let refused = |text: &str| Encryption::parse(text).unwrap_err();
    let missing = "resources[0].providers[0].aesgcm.keys: Required value: at least one keys is required";
    assert_eq!(refused(&file("secrets", "{aesgcm: {keys: }}")), missing);
    assert_eq!(
        refused(&file("secrets", "{aesgcm: {keys: [{name: a, secret: YWJj}]}}")),
        "resources[0].providers[0].aesgcm.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, \
         got 3, expected one of [16 24 32]"
    );
    assert_eq!(
        refused(&file("secrets, '*.'", IDENTITY)),
        "resources[0].resources: Invalid value: [\"secrets\",\"*.\"]: using overlapping resources such as 'secrets' and '*.' in \
         the same resource list is not allowed as they will be masked"
    );
    assert_eq!(
        refused(&file("'*'", IDENTITY)),
        "resources[0].resources[0]: Invalid value: \"*\": use '*.' to encrypt all the resources from core API group or *.* to \
         encrypt all resources"
    );
    let kms = |fields: &str| refused(&file("secrets", &format!("{{kms: {{{fields}}}}}")));
    assert_eq!(
        kms("name: p, endpoint: 'unix:///p'"),
        "error while building transformers: KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 \
         instead.  Set --feature-gates=KMSv1=true to use the deprecated KMSv1 feature."
    );
    assert_eq!(
        kms("apiVersion: v2, name: 'a:b', endpoint: 'tcp://p', timeout: 0s, cachesize: 3"),
        "[resources[0].providers[0].kms.name: Invalid value: \"a:b\": invalid KMS provider name a:b, must not contain ':', \
         resources[0].providers[0].kms.timeout: Invalid value: \"0s\": timeout should be a positive value, \
         resources[0].providers[0].kms.endpoint: Invalid value: \"tcp://p\": unsupported scheme \"tcp\" for KMS provider, only \
         unix is supported, resources[0].providers[0].kms.cachesize: Invalid value: 3: cachesize is not supported in v2]"
    );
    assert_eq!(
        kms("apiVersion: v3, name: a, endpoint: 'unix:///p'"),
        "resources[0].providers[0].kms.apiVersion: Invalid value: \"v3\": unsupported apiVersion apiVersion for KMS provider, \
         only v1 and v2 are supported"
    );
    assert!(refused(&file("secrets", "{pandas: {}}")).contains("strict decoding error: unknown field \"pandas\""));
    assert!(refused("kind: Encryption\napiVersion: apiserver.config.k8s.io/v1").contains("no kind \"Encryption\""));
}

/// Provider and prefix, and what follows it in base64.
const VECTORS: [((&str, &str), &str); 3] = [
    ((GCM, "k8s:enc:aesgcm:v1:key1:"), "AAECAwQFBgcICQoLmdHDjfXOFI039A+eGro9aVQ1xMjn2slvGVw3zEarpbgkrWvBkBzg"),
    ((CBC, "k8s:enc:aescbc:v1:key1:"), "AAECAwQFBgcICQoLDA0OD24p01y9Gg11oyiGAd50i3coI/yAA9HvOL3RkgcgDtu2"),
    (
        (SECRETBOX, "k8s:enc:secretbox:v1:key1:"),
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXedf/ekTl6MlNP5F8rBz6W27X58hvB0zhcczcJz3+xW9iiAFxClet",
    ),
];
