//! `serviceaccounts/token`: a TokenRequest answered with a token. Everything but the signature is decided here from arguments.

use api::json;
use api::{ErrorList, Path, Status, Value, meta, status::GroupResource};
use jiff::Timestamp;

use super::{
    service_account::{Ref, TokenClaims},
    signing_key::SigningKey,
};
use crate::error::check_key_name;
use crate::source::ObjectSource;

/// Kubelets ask for this lifetime on behalf of pods; such tokens are prolonged, and used late they cause a warning.
const PROJECTED_LIFETIME_SECONDS: i64 = 3607;
const EXTENDED_LIFETIME_SECONDS: i64 = 365 * 24 * 3600;
const LIFETIME_SECONDS_MIN: i64 = 600;
const LIFETIME_SECONDS_MAX: i64 = 1 << 32;
const LIFETIME_SECONDS_DEFAULT: i64 = 3600;

/// Issues tokens for one API server.
#[derive(Clone, Debug)]
pub struct TokenIssuer {
    pub key: SigningKey,
    pub issuer: String,
    /// Audiences of the API server; also the default of a request.
    pub audiences: Vec<String>,
    /// Longest lifetime granted (`--service-account-max-token-expiration`); 0 for no limit.
    pub lifetime_seconds_max: i64,
    /// Prolong tokens of pods (`--service-account-extend-token-expiration`).
    pub extend: bool,
}

/// A TokenRequest with its status, and warnings for the client.
#[derive(Clone, Debug, PartialEq)]
pub struct Issued {
    pub request: Value,
    pub warnings: Vec<String>,
}

impl TokenIssuer {
    /// Answers `request` for account `namespace/name`. `id` is a fresh uuid. `admit` is validating admission: it runs on the
    /// completed request, before any bound object is looked at.
    pub fn issue(
        &self,
        source: &dyn ObjectSource,
        (namespace, name): (&str, &str),
        mut request: Value,
        (now, id): (Timestamp, &str),
        admit: impl FnOnce(&Value) -> Result<(), Status>,
    ) -> Result<Issued, Status> {
        check_metadata(&request, namespace, name)?;
        let account = find(source, "serviceaccounts", namespace, name)?;
        let wanted_uid = meta::uid(&request).to_owned();
        if !wanted_uid.is_empty() && wanted_uid != meta::uid(&account) {
            let text = format!(
                "the UID in the token request ({wanted_uid}) does not match the UID of the service account ({})",
                meta::uid(&account)
            );
            return Err(Status::conflict(
                GroupResource { group: "authentication.k8s.io", resource: "TokenRequest" },
                name,
                &text,
            ));
        }
        self.complete(&mut request, &account, now);
        validate(&request)?;
        admit(&request)?;
        let mut claims = TokenClaims {
            issuer: self.issuer.clone(),
            audiences: audiences_of(&request),
            namespace: namespace.to_owned(),
            account: Ref::of(&account),
            id: id.to_owned(),
            issued_at: now.as_second(),
            ..TokenClaims::default()
        };
        bind(source, namespace, name, &request["spec"]["boundObjectRef"], &mut claims)?;
        let mut warnings = Vec::new();
        let mut lifetime = lifetime_of(&request);
        if self.lifetime_seconds_max > 0 && lifetime > self.lifetime_seconds_max {
            warnings.push(format!(
                "requested expiration of {lifetime} seconds shortened to {} seconds",
                self.lifetime_seconds_max
            ));
            lifetime = self.lifetime_seconds_max;
            request["spec"]["expirationSeconds"] = json!(lifetime);
        }
        claims.lifetime_seconds = lifetime;
        let for_api_server = claims.audiences.iter().all(|audience| self.audiences.contains(audience));
        if self.extend && claims.pod.is_some() && lifetime == PROJECTED_LIFETIME_SECONDS && for_api_server {
            claims.warn_after_seconds = lifetime;
            claims.lifetime_seconds = EXTENDED_LIFETIME_SECONDS;
        }
        let token =
            self.key.sign(&claims.value()).map_err(|e| Status::internal(format!("failed to generate token: {e}")))?;
        request["status"] = json!({"token": token, "expirationTimestamp": rfc3339(now.as_second() + lifetime)});
        Ok(Issued { request, warnings })
    }

    /// Defaults from the account and this server's settings.
    fn complete(&self, request: &mut Value, account: &Value, now: Timestamp) {
        if !request["metadata"].is_object() {
            request["metadata"] = json!({});
        }
        for field in ["name", "namespace", "uid"] {
            if meta::metadata_str(request, field).is_empty() {
                request["metadata"][field] = account["metadata"][field].clone();
            }
        }
        request["metadata"]["creationTimestamp"] = json!(rfc3339(now.as_second()));
        if !request["spec"].is_object() {
            request["spec"] = json!({});
        }
        if audiences_of(request).is_empty() {
            request["spec"]["audiences"] = json!(self.audiences);
        }
        if request["spec"]["expirationSeconds"].is_null() {
            request["spec"]["expirationSeconds"] = json!(LIFETIME_SECONDS_DEFAULT);
        }
    }
}

fn check_metadata(request: &Value, namespace: &str, name: &str) -> Result<(), Status> {
    for (field, wanted, what) in [("name", name, "name"), ("namespace", namespace, "namespace")] {
        let given = meta::metadata_str(request, field);
        if !given.is_empty() && given != wanted {
            let mut errors = ErrorList::new();
            let detail = format!("must match the service account {what} if specified");
            errors.invalid(Path::new("metadata").child(field), given, detail);
            return Err(Status::invalid("authentication.k8s.io", "TokenRequest", name, &errors));
        }
    }
    Ok(())
}

fn validate(request: &Value) -> Result<(), Status> {
    let mut errors = ErrorList::new();
    let lifetime = lifetime_of(request);
    let path = Path::new("spec.expirationSeconds");
    if lifetime < LIFETIME_SECONDS_MIN {
        errors.invalid(path.clone(), lifetime, "may not specify a duration less than 10 minutes");
    }
    if lifetime > LIFETIME_SECONDS_MAX {
        errors.invalid(path, lifetime, "may not specify a duration larger than 2^32 seconds");
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", &errors)) }
}

/// Puts the bound object into the claims. A pod brings its node along.
fn bind(
    source: &dyn ObjectSource,
    namespace: &str,
    account: &str,
    bound: &Value,
    claims: &mut TokenClaims,
) -> Result<(), Status> {
    if bound.is_null() {
        return Ok(());
    }
    let field = |name: &str| bound[name].as_str().unwrap_or_default();
    let (name, kind) = (field("name"), field("kind"));
    let (group, version) = field("apiVersion").split_once('/').unwrap_or(("", field("apiVersion")));
    let object = match (group, kind) {
        ("", "Pod") => {
            let pod = find(source, "pods", namespace, name)?;
            if pod["spec"]["serviceAccountName"].as_str().unwrap_or_default() != account {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {} to pod running with different serviceaccount name.",
                    api::field::go_quote(account)
                )));
            }
            if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
                let stored = source.get("", "nodes", "", node).and_then(|stored| stored.parse());
                // A node that is gone still gives its name.
                claims.node = Some(stored.map_or_else(|| Ref { name: node.into(), ..Ref::default() }, |n| Ref::of(&n)));
            }
            claims.pod = Some(Ref::of(&pod));
            pod
        }
        ("", "Node") => {
            let node = find(source, "nodes", "", name)?;
            claims.node = Some(Ref::of(&node));
            node
        }
        ("", "Secret") => {
            let secret = find(source, "secrets", namespace, name)?;
            claims.secret = Some(Ref::of(&secret));
            secret
        }
        _ => {
            let text = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(Status::bad_request(text));
        }
    };
    let uid = field("uid");
    if !uid.is_empty() && uid != meta::uid(&object) {
        let text = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
             deleted and then recreated"
        );
        return Err(Status::conflict(GroupResource { group, resource: kind }, name, &text));
    }
    Ok(())
}

fn find(source: &dyn ObjectSource, resource: &str, namespace: &str, name: &str) -> Result<Value, Status> {
    check_key_name(name)?;
    let stored = source.get("", resource, namespace, name);
    stored
        .and_then(|stored| stored.parse())
        .ok_or_else(|| Status::not_found(GroupResource { group: "", resource }, name))
}

fn audiences_of(request: &Value) -> Vec<String> {
    let list = request["spec"]["audiences"].as_array();
    list.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn lifetime_of(request: &Value) -> i64 {
    request["spec"]["expirationSeconds"].as_i64().unwrap_or(0)
}

fn rfc3339(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{authn::signing_key::test_key, source::testing::MemorySource};

    fn source() -> MemorySource {
        let source = MemorySource::new();
        source.put("", "serviceaccounts", json!({"metadata": {"name": "sa", "namespace": "ns", "uid": "u1"}}));
        source.put(
            "",
            "pods",
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u2"},
            "spec": {"serviceAccountName": "sa", "nodeName": "n1"}}),
        );
        source.put(
            "",
            "pods",
            json!({"metadata": {"name": "q", "namespace": "ns", "uid": "u3"},
            "spec": {"serviceAccountName": "other"}}),
        );
        source
    }

    fn issue(request: Value) -> Result<(Value, Value, Vec<String>), Status> {
        let issuer = TokenIssuer {
            key: test_key(),
            issuer: "https://k".into(),
            audiences: vec!["https://k".into()],
            lifetime_seconds_max: 7200,
            extend: true,
        };
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let issued = issuer.issue(&source(), ("ns", "sa"), request, (now, "j"), |_| Ok(()))?;
        let token = issued.request["status"]["token"].as_str().unwrap();
        let claims = crate::authn::PublicKeys::new(vec![issuer.key.public().clone()]).verify(token).unwrap().claims;
        Ok((issued.request, claims, issued.warnings))
    }

    #[test]
    fn an_empty_request_gets_an_hour_for_the_api_server() {
        let (request, claims, _) = issue(json!({"kind": "TokenRequest"})).unwrap();
        assert_eq!(request["spec"], json!({"audiences": ["https://k"], "expirationSeconds": 3600}));
        assert_eq!(request["status"]["expirationTimestamp"], "2023-11-14T23:13:20Z");
        assert_eq!(
            claims,
            json!({"aud": ["https://k"], "exp": 1_700_003_600, "iat": 1_700_000_000, "iss": "https://k", "jti": "j",
                   "kubernetes.io": {"namespace": "ns", "serviceaccount": {"name": "sa", "uid": "u1"}},
                   "nbf": 1_700_000_000, "sub": "system:serviceaccount:ns:sa"})
        );
    }

    #[test]
    fn the_token_a_kubelet_asks_for_is_prolonged_but_reported_as_asked() {
        let spec =
            json!({"expirationSeconds": 3607, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}});
        let (request, claims, _) = issue(json!({"spec": spec})).unwrap();
        assert_eq!(request["status"]["expirationTimestamp"], "2023-11-14T23:13:27Z");
        assert_eq!(claims["exp"], 1_700_000_000 + EXTENDED_LIFETIME_SECONDS);
        assert_eq!(claims["kubernetes.io"]["warnafter"], 1_700_003_607);
        assert_eq!(claims["kubernetes.io"]["pod"], json!({"name": "p", "uid": "u2"}));
        assert_eq!(claims["kubernetes.io"]["node"], json!({"name": "n1"}));
    }

    #[test]
    fn refusals_have_upstreams_words() {
        let refuse = |request: Value| issue(request).map(|_| ()).unwrap_err().message;
        let bound = |kind: &str, name: &str, uid: &str| json!({"spec": {"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name, "uid": uid}}});
        assert_eq!(
            refuse(json!({"spec": {"expirationSeconds": 10}})),
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 10: may not specify \
             a duration less than 10 minutes"
        );
        assert_eq!(
            refuse(bound("Pod", "q", "")),
            "cannot bind token for serviceaccount \"sa\" to pod running with different serviceaccount name."
        );
        assert_eq!(refuse(bound("Pod", "none", "")), "pods \"none\" not found");
        assert_eq!(refuse(bound("Pod", "", "")), "Name parameter required.");
        assert_eq!(refuse(bound("Secret", "a/b", "")), "Name parameter invalid: \"a/b\": may not contain '/'");
        assert_eq!(refuse(bound("ConfigMap", "a", "")), "cannot bind token to object of type /v1, Kind=ConfigMap");
        assert_eq!(
            refuse(bound("Pod", "p", "old")),
            "Operation cannot be fulfilled on Pod \"p\": the UID in the bound object reference (old) does not match the UID \
             in record. The object might have been deleted and then recreated"
        );
    }

    #[test]
    fn a_longer_lifetime_than_allowed_is_cut_with_a_warning() {
        let (request, _, warnings) = issue(json!({"spec": {"expirationSeconds": 9000}})).unwrap();
        assert_eq!(request["spec"]["expirationSeconds"], 7200);
        assert_eq!(warnings, ["requested expiration of 9000 seconds shortened to 7200 seconds"]);
    }
}
