//! Service account tokens: the claims we write, and what makes a token good later. A token lives as long as the account and the
//! object it is bound to; claims are checked against what is stored now.

use std::collections::BTreeMap;

use api::json;
use api::{Value, meta};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::{
    Identity,
    certificate::CREDENTIAL_ID,
    jwt::{KeyError, RememberingKeys, claimed_issuer},
    signing_key::SigningKey,
};
use crate::{
    attributes::UserInfo,
    source::{ObjectSource, StoredObject},
};

/// Clocks may differ by this much.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// Issuer of tokens kept in Secrets.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
pub const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// `system:serviceaccount:NAMESPACE:NAME`.
pub fn user_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// Namespace and name in the user name of a service account.
pub fn split_user_name(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let valid =
        |part: &str| !part.is_empty() && !part.contains(':') && meta::dns1123_subdomain_name(part, false).is_empty();
    (valid(namespace) && !namespace.contains('.') && valid(name)).then_some((namespace, name))
}

pub fn groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

/// Name and uid of an object in a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Ref {
    pub name: String,
    pub uid: String,
}

impl Ref {
    pub fn of(object: &Value) -> Self {
        Self { name: meta::name(object).to_owned(), uid: meta::uid(object).to_owned() }
    }

    fn value(&self) -> Value {
        let mut out = json!({"name": self.name});
        if !self.uid.is_empty() {
            out["uid"] = json!(self.uid);
        }
        out
    }
}

/// What a new token says.
#[derive(Clone, Debug, Default)]
pub struct TokenClaims {
    pub issuer: String,
    pub audiences: Vec<String>,
    pub namespace: String,
    pub account: Ref,
    pub pod: Option<Ref>,
    pub secret: Option<Ref>,
    pub node: Option<Ref>,
    /// A fresh uuid.
    pub id: String,
    /// Seconds since 1970.
    pub issued_at: i64,
    pub lifetime_seconds: i64,
    /// Seconds after which use of the token is worth a warning; 0 for none.
    pub warn_after_seconds: i64,
}

impl TokenClaims {
    pub fn value(&self) -> Value {
        let mut kubernetes = api::Map::new();
        kubernetes.insert("namespace", json!(self.namespace));
        for (key, object) in [("node", &self.node), ("pod", &self.pod), ("secret", &self.secret)] {
            if let Some(object) = object {
                kubernetes.insert(key, object.value());
            }
        }
        kubernetes.insert("serviceaccount", self.account.value());
        if self.warn_after_seconds != 0 {
            kubernetes.insert("warnafter", json!(self.issued_at + self.warn_after_seconds));
        }
        json!({
            "aud": self.audiences,
            "exp": self.issued_at + self.lifetime_seconds,
            "iat": self.issued_at,
            "iss": self.issuer,
            "jti": self.id,
            "kubernetes.io": kubernetes,
            "nbf": self.issued_at,
            "sub": user_name(&self.namespace, &self.account.name),
        })
    }
}

/// The token of a Secret of type `kubernetes.io/service-account-token`. It never expires.
pub fn legacy_token(key: &SigningKey, account: &Value, secret_name: &str) -> Result<String, KeyError> {
    let (namespace, name) = (meta::namespace(account), meta::name(account));
    key.sign(&json!({
        "iss": LEGACY_ISSUER,
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret_name,
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": meta::uid(account),
        "sub": user_name(namespace, name),
    }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Claims {
    sub: String,
    jti: String,
    aud: Audience,
    exp: Option<i64>,
    nbf: Option<i64>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Kubernetes>,
    #[serde(flatten)]
    legacy: LegacyClaims,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Ref,
    pod: Option<Ref>,
    secret: Option<Ref>,
    node: Option<Ref>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LegacyClaims {
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
}

/// One audience or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

/// Checks tokens against keys and stored objects.
pub(super) struct Verifier<'a> {
    pub(super) source: &'a dyn ObjectSource,
    pub(super) keys: &'a RememberingKeys,
    pub(super) issuers: &'a [String],
    pub(super) api_audiences: &'a [String],
}

impl Verifier<'_> {
    /// `Ok(None)`: no token of ours. `Err`: ours, and why it is not good.
    pub(super) fn verify(&self, token: &str, audiences: &[String], now: Timestamp) -> Result<Option<Identity>, String> {
        let Some(issuer) = claimed_issuer(token) else { return Ok(None) };
        let is_legacy = issuer == LEGACY_ISSUER;
        if !is_legacy && !self.issuers.contains(&issuer) {
            return Ok(None);
        }
        let claims = self.keys.claims(token)?;
        let claims = Claims::deserialize(claims.as_ref()).map_err(|e| e.to_string())?;
        let audiences = self.common_audiences(&claims, audiences)?;
        let user = if is_legacy { self.legacy_user(token, &claims)? } else { self.user(&claims, now)? };
        Ok(Some(Identity { user, audiences }))
    }

    fn common_audiences(&self, claims: &Claims, asked: &[String]) -> Result<Vec<String>, String> {
        // A token without audience is for the API server.
        let of_token: Vec<String> = match &claims.aud {
            Audience::One(one) => vec![one.clone()],
            Audience::Many(many) if many.is_empty() => self.api_audiences.to_vec(),
            Audience::Many(many) => many.clone(),
        };
        let common: Vec<String> = of_token.iter().filter(|audience| asked.contains(audience)).cloned().collect();
        if common.is_empty() && !self.api_audiences.is_empty() {
            let quoted = crate::authz::rule::go_quoted_list;
            return Err(format!(
                "token audiences {} is invalid for the target audiences {}",
                quoted(&of_token),
                quoted(asked)
            ));
        }
        Ok(common)
    }

    fn user(&self, claims: &Claims, now: Timestamp) -> Result<UserInfo, String> {
        let seconds = now.as_second();
        let leeway = LEEWAY.as_secs();
        if claims.nbf.is_some_and(|nbf| seconds + leeway < nbf) {
            return Err("service account token is not valid yet".into());
        }
        if claims.exp.is_some_and(|exp| seconds - leeway > exp) {
            return Err("service account token has expired".into());
        }
        let Some(kubernetes) = &claims.kubernetes else {
            return Err("service account token claims could not be validated due to unexpected private claim".into());
        };
        let namespace = kubernetes.namespace.as_str();
        let account = &kubernetes.serviceaccount;
        let stored = self
            .live("serviceaccounts", namespace, &account.name, now)
            .ok_or_else(|| format!("service account {namespace}/{} has been deleted", account.name))?;
        if meta::uid(&stored) != account.uid {
            return Err(format!("service account UID ({}) does not match claim ({})", meta::uid(&stored), account.uid));
        }
        self.check_bound("secrets", namespace, kubernetes.secret.as_ref(), now)?;
        self.check_bound("pods", namespace, kubernetes.pod.as_ref(), now)?;
        // The node of a pod is only information; a token for a node alone lives with the node.
        if kubernetes.pod.is_none() {
            self.check_bound("nodes", "", kubernetes.node.as_ref(), now)?;
        }
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut add = |key: &str, value: &str| {
            if !value.is_empty() {
                extra.insert(key.to_owned(), vec![value.to_owned()]);
            }
        };
        if let Some(pod) = &kubernetes.pod {
            add(POD_NAME, &pod.name);
            add(POD_UID, &pod.uid);
        }
        if let Some(node) = &kubernetes.node {
            add(NODE_NAME, &node.name);
            add(NODE_UID, &node.uid);
        }
        if !claims.jti.is_empty() {
            add(CREDENTIAL_ID, &format!("JTI={}", claims.jti));
        }
        Ok(UserInfo {
            name: user_name(namespace, &account.name),
            uid: account.uid.clone(),
            groups: groups(namespace),
            extra,
        })
    }

    fn check_bound(&self, resource: &str, namespace: &str, bound: Option<&Ref>, now: Timestamp) -> Result<(), String> {
        let Some(bound) = bound else { return Ok(()) };
        let stored = self
            .live(resource, namespace, &bound.name, now)
            .ok_or_else(|| "service account token has been invalidated".to_owned())?;
        let uid = meta::uid(&stored);
        if uid == bound.uid {
            return Ok(());
        }
        let (kind, short) = match resource {
            "secrets" => ("secret", "secret"),
            "pods" => ("pod", "pod"),
            _ => ("node", "node"),
        };
        Err(format!("{kind} UID ({uid}) does not match service account {short} ref claim ({})", bound.uid))
    }

    /// The object, unless it is gone or was deleted a while ago and only waits for finalizers or grace.
    fn live(&self, resource: &str, namespace: &str, name: &str, now: Timestamp) -> Option<Value> {
        let object = self
            .source
            .get("", resource, namespace, name)
            .and_then(|stored: std::sync::Arc<StoredObject>| stored.parse())?;
        let deleted = meta::metadata_str(&object, "deletionTimestamp").parse::<Timestamp>().ok();
        let long_gone = deleted.is_some_and(|at| at.as_second() < now.as_second() - LEEWAY.as_secs());
        (!long_gone).then_some(object)
    }

    fn legacy_user(&self, token: &str, claims: &Claims) -> Result<UserInfo, String> {
        let LegacyClaims { namespace, secret, account, uid } = &claims.legacy;
        for (value, what) in [
            (namespace, "namespace"),
            (secret, "secretName"),
            (account, "serviceAccountName"),
            (uid, "serviceAccountUID"),
        ] {
            if value.is_empty() {
                return Err(format!("{what} claim is missing"));
            }
        }
        if claims.sub != user_name(namespace, account) {
            return Err("sub claim is invalid".into());
        }
        let get = |resource: &str, name: &str| self.source.get("", resource, namespace, name).and_then(|s| s.parse());
        let invalidated = || "Token has been invalidated".to_owned();
        let stored = get("secrets", secret).ok_or_else(invalidated)?;
        if meta::is_being_deleted(&stored) {
            return Err(invalidated());
        }
        let copy = stored.pointer("/data/token").and_then(Value::as_str).and_then(|data| STANDARD.decode(data).ok());
        if copy.as_deref() != Some(token.as_bytes()) {
            return Err("Token does not match server's copy".into());
        }
        let invalid_since = "kubernetes.io/legacy-token-invalid-since";
        if let Some(since) = stored["metadata"]["labels"][invalid_since].as_str() {
            return Err(format!(
                "the token in secret {namespace}/{secret} for service account {namespace}/{account} has been marked invalid. \
                 Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the \
                 '{invalid_since}' label from the secret to temporarily allow use of this token (since {since})"
            ));
        }
        let owner = get("serviceaccounts", account).filter(|owner| !meta::is_being_deleted(owner));
        let owner = owner.ok_or_else(|| format!("ServiceAccount {namespace}/{account} has been deleted"))?;
        if meta::uid(&owner) != uid {
            return Err(format!("ServiceAccount UID ({}) does not match claim ({uid})", meta::uid(&owner)));
        }
        Ok(UserInfo {
            name: user_name(namespace, account),
            uid: uid.clone(),
            groups: groups(namespace),
            extra: BTreeMap::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authn::{PublicKeys, signing_key::test_key},
        source::testing::MemorySource,
    };

    const ISSUER: &str = "https://kubernetes.default.svc";

    struct World {
        source: MemorySource,
        key: SigningKey,
    }

    impl World {
        fn new() -> Self {
            let source = MemorySource::new();
            source.put("", "serviceaccounts", json!({"metadata": {"name": "sa", "namespace": "ns", "uid": "u1"}}));
            source.put("", "pods", json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u2"}}));
            Self { source, key: test_key() }
        }

        fn claims(&self) -> TokenClaims {
            TokenClaims {
                issuer: ISSUER.into(),
                audiences: vec![ISSUER.into()],
                namespace: "ns".into(),
                account: Ref { name: "sa".into(), uid: "u1".into() },
                pod: Some(Ref { name: "p".into(), uid: "u2".into() }),
                node: Some(Ref { name: "n1".into(), uid: String::new() }),
                id: "j".into(),
                issued_at: 1000,
                lifetime_seconds: 3600,
                ..TokenClaims::default()
            }
        }

        fn verify(&self, token: &str, audience: &str, now: i64) -> Result<Option<Identity>, String> {
            let verifier = Verifier {
                source: &self.source,
                keys: &RememberingKeys::new(PublicKeys::new(vec![self.key.public().clone()])),
                issuers: &[ISSUER.into()],
                api_audiences: &[ISSUER.into()],
            };
            verifier.verify(token, &[audience.into()], Timestamp::from_second(now).unwrap())
        }
    }

    #[test]
    fn a_good_token_names_account_pod_and_node() {
        let world = World::new();
        let token = world.key.sign(&world.claims().value()).unwrap();
        let identity = world.verify(&token, ISSUER, 1000).unwrap().unwrap();
        assert_eq!(identity.user.name, "system:serviceaccount:ns:sa");
        assert_eq!(identity.user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns"]);
        let extra: Vec<(&str, &str)> =
            identity.user.extra.iter().map(|(k, v)| (k.rsplit('/').next().unwrap(), v[0].as_str())).collect();
        assert_eq!(extra, [("credential-id", "JTI=j"), ("node-name", "n1"), ("pod-name", "p"), ("pod-uid", "u2")]);
        assert_eq!(identity.audiences, [ISSUER]);
    }

    #[test]
    fn a_token_is_refused_for_other_audiences_and_times() {
        let world = World::new();
        let token = world.key.sign(&world.claims().value()).unwrap();
        assert_eq!(
            world.verify(&token, "other", 1000).unwrap_err(),
            "token audiences [\"https://kubernetes.default.svc\"] is invalid for the target audiences [\"other\"]"
        );
        assert_eq!(world.verify(&token, ISSUER, 4661).unwrap_err(), "service account token has expired");
        assert_eq!(world.verify(&token, ISSUER, 900).unwrap_err(), "service account token is not valid yet");
    }

    #[test]
    fn a_token_dies_with_its_pod_and_its_account() {
        let world = World::new();
        let token = world.key.sign(&world.claims().value()).unwrap();
        world.source.put("", "pods", json!({"metadata": {"name": "p", "namespace": "ns", "uid": "new"}}));
        assert_eq!(
            world.verify(&token, ISSUER, 1000).unwrap_err(),
            "pod UID (new) does not match service account pod ref claim (u2)"
        );
        world.source.put("", "serviceaccounts", json!({"metadata": {"name": "sa", "namespace": "ns", "uid": "new"}}));
        assert_eq!(
            world.verify(&token, ISSUER, 1000).unwrap_err(),
            "service account UID (new) does not match claim (u1)"
        );
    }

    #[test]
    fn a_token_in_a_secret_is_good_while_the_secret_holds_it() {
        let world = World::new();
        let account = json!({"metadata": {"name": "sa", "namespace": "ns", "uid": "u1"}});
        let token = legacy_token(&world.key, &account, "t").unwrap();
        assert_eq!(world.verify(&token, ISSUER, 0).unwrap_err(), "Token has been invalidated");
        let secret = |data: &str| json!({"metadata": {"name": "t", "namespace": "ns"}, "data": {"token": STANDARD.encode(data)}});
        world.source.put("", "secrets", secret(&token));
        assert_eq!(world.verify(&token, ISSUER, 0).unwrap().unwrap().user.name, "system:serviceaccount:ns:sa");
        world.source.put("", "secrets", secret("other"));
        assert_eq!(world.verify(&token, ISSUER, 0).unwrap_err(), "Token does not match server's copy");
    }

    #[test]
    fn a_token_of_another_issuer_is_not_ours() {
        let world = World::new();
        let token = world.key.sign(&json!({"iss": "https://elsewhere"})).unwrap();
        assert_eq!(world.verify(&token, ISSUER, 0), Ok(None));
    }

    #[test]
    fn user_names_are_split_strictly() {
        assert_eq!(split_user_name("system:serviceaccount:ns:sa.b"), Some(("ns", "sa.b")));
        for bad in ["system:serviceaccount:ns", "system:serviceaccount::a", "system:serviceaccount:a:b:c", "jane"] {
            assert_eq!(split_user_name(bad), None, "{bad}");
        }
    }
}
