//! Others who vouch for users and judge what they may do: issuers of tokens and webhooks, as stubs on loopback.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::{Value, json};
use apiserver::Authorization;
use apiserver::audit::{AuditConfig, AuditWebhookConfig, BackendConfig, BatchConfig, Mode, Policy};
use apiserver::authn::SigningKey;
use apiserver::authn::outside::{AuthenticationFile, OutsideConfig, TokenWebhook};
use apiserver::authz::{self, WebhookConfig};
use apiserver::outbound::RemoteEndpoint;
use base64::Engine as _;
use http_body_util::BodyExt as _;
use rcgen::KeyPair;
use support::{Answer, Ca, Cluster, Seen, respond, stub};

/// A kubeconfig for a stub.
fn endpoint(ca: &Ca, address: std::net::SocketAddr) -> RemoteEndpoint {
    let ca = base64::prelude::BASE64_STANDARD.encode(&ca.pem);
    let text = format!(
        "current-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{token: t}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'https://{address}/review', certificate-authority-data: {ca}}}}}]\n"
    );
    RemoteEndpoint::from_kubeconfig(&text, Path::new("/")).expect("a kubeconfig")
}

async fn review_of(cluster: &Cluster, token: &str) -> Value {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    cluster.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await.body["status"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_vouches_for_its_users() {
    let ca = Ca::new();
    let key = SigningKey::from_pem(&KeyPair::generate().expect("key").serialize_pem()).expect("key");
    let jwk = key.public().jwk().expect("a key");
    let answer = move |seen: Seen| -> Answer {
        let host = seen.request.headers()["host"].to_str().expect("text").to_owned();
        let issuer = format!("https://{host}");
        let body = match seen.request.uri().path() {
            "/.well-known/openid-configuration" => json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")}),
            _ => json!({"keys": [jwk.clone()]}),
        };
        Box::pin(async move { respond(200, body) })
    };
    let address = stub(&ca, &[], answer).await;
    let url = format!("https://{address}");
    let indented = ca.pem.replace('\n', "\n      ");
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer:\n    url: {url}\n    audiences: \
         [me]\n    certificateAuthority: |\n      {indented}\n  claimMappings:\n    username: {{expression: '\"oidc:\" + claims.sub'}}\n    \
         groups: {{claim: roles, prefix: ''}}\n"
    );
    let file = AuthenticationFile::parse(&text, false).expect("a configuration");
    let cluster = Cluster::start_with(|config| {
        config.outside = OutsideConfig { authentication: Some(file), ..OutsideConfig::default() };
    })
    .await;
    let claims = |audience: &str, expires: i64| json!({"iss": url, "aud": audience, "sub": "jane", "roles": ["dev"], "exp": jiff::Timestamp::now().as_second() + expires});
    let token = key.sign(&claims("me", 600)).expect("a token");
    // The issuer is looked for when the server starts, and found a moment later.
    let waited = async {
        loop {
            let status = review_of(&cluster, &token).await;
            if status["authenticated"] == true {
                return status;
            }
            assert!(status["error"].as_str().is_some_and(|error| error.contains("not initialized")), "{status}");
            tokio::task::yield_now().await;
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(20), waited).await.expect("the issuer is found");
    assert_eq!(status["user"]["username"], "oidc:jane");
    assert_eq!(status["user"]["groups"], json!(["dev", "system:authenticated"]));
    assert_eq!(status["audiences"], json!(["https://kubernetes.default.svc"]));
    let elsewhere = json!({"spec": {"token": token, "audiences": ["elsewhere"]}});
    let refused = cluster.post("/apis/authentication.k8s.io/v1/tokenreviews", elsewhere).await;
    assert_eq!(
        refused.body["status"]["error"], "invalid bearer token",
        "of audiences it knows nothing: {}",
        refused.text
    );
    let error = async |claims: Value, key: &SigningKey| {
        let status = review_of(&cluster, &key.sign(&claims).expect("a token")).await;
        status["error"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(
        error(claims("you", 600), &key).await,
        "[invalid bearer token, oidc: verify token: oidc: expected audience \"me\" got [\"you\"]]"
    );
    assert!(error(claims("me", -600), &key).await.contains("oidc: token is expired"));
    let other = SigningKey::from_pem(&KeyPair::generate().expect("key").serialize_pem()).expect("key");
    assert!(error(claims("me", 600), &other).await.contains("failed to verify id token signature"));
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_fetched_from_where_the_token_says_that_they_are() {
    let ca = Ca::new();
    let key = SigningKey::from_pem(&KeyPair::generate().expect("key").serialize_pem()).expect("key");
    let (jwk, signs) = (key.public().jwk().expect("a key"), key.clone());
    let answer = move |seen: Seen| -> Answer {
        let host = seen.request.headers()["host"].to_str().expect("text").to_owned();
        let issuer = format!("https://{host}");
        let shown = seen.request.headers().get("authorization").map(|value| value.to_str().expect("text").to_owned());
        let claims = |roles: Value| json!({"iss": issuer, "aud": "me", "exp": jiff::Timestamp::now().as_second() + 600, "roles": roles});
        let (code, body) = match seen.request.uri().path() {
            "/.well-known/openid-configuration" => {
                (200, json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")}).to_string())
            }
            "/keys" => (200, json!({"keys": [jwk.clone()]}).to_string()),
            "/roles" if shown.as_deref() == Some("Bearer open") => {
                (200, signs.sign(&claims(json!(["ops"]))).expect("a token"))
            }
            _ => (403, String::new()),
        };
        Box::pin(async move { respond(code, body) })
    };
    let address = stub(&ca, &[], answer).await;
    let url = format!("https://{address}");
    let indented = ca.pem.replace('\n', "\n      ");
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer:\n    url: {url}\n    audiences: \
         [me]\n    certificateAuthority: |\n      {indented}\n  claimMappings:\n    username: {{claim: sub, prefix: ''}}\n    \
         groups: {{claim: roles, prefix: 'x:'}}\n"
    );
    let file = AuthenticationFile::parse(&text, false).expect("a configuration");
    let cluster = Cluster::start_with(|config| {
        config.outside = OutsideConfig { authentication: Some(file), ..OutsideConfig::default() };
    })
    .await;
    let token = |sources: Value| {
        let claims = json!({"iss": url, "aud": "me", "sub": "jane", "exp": jiff::Timestamp::now().as_second() + 600,
            "_claim_names": {"roles": "src"}, "_claim_sources": sources});
        key.sign(&claims).expect("a token")
    };
    let endpoint = format!("{url}/roles");
    let good = token(json!({"src": {"endpoint": endpoint, "access_token": "open"}}));
    let found = async {
        loop {
            let status = review_of(&cluster, &good).await;
            if status["authenticated"] == true {
                return status;
            }
            assert!(status["error"].as_str().is_some_and(|error| error.contains("not initialized")), "{status}");
            tokio::task::yield_now().await;
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(20), found).await.expect("the issuer is found");
    assert_eq!(status["user"]["groups"], json!(["x:ops", "system:authenticated"]));
    let error = async |sources: Value| {
        let status = review_of(&cluster, &token(sources)).await;
        status["error"].as_str().unwrap_or_default().trim_start_matches("[invalid bearer token, ").to_owned()
    };
    assert_eq!(
        error(json!({"src": {"endpoint": endpoint, "access_token": "shut"}})).await,
        "oidc: could not expand distributed claims: while getting distributed claim \"roles\": error while getting distributed \
         claim JWT: 403 Forbidden]"
    );
    assert_eq!(
        error(json!({"other": {"endpoint": endpoint}})).await,
        "oidc: could not expand distributed claims: id token _claim_names contained a source src missing in _claims_sources]"
    );
    let status = review_of(&cluster, &token(json!({"src": {"JWT": "aggregated"}}))).await;
    assert_eq!(status["user"]["groups"], json!(["system:authenticated"]), "aggregated claims are not followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_knows_tokens_and_is_asked_once() {
    let ca = Ca::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let answer = move |seen: Seen| -> Answer {
        count.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            assert_eq!(seen.request.headers()["authorization"], "Bearer t");
            let body = seen.request.into_body().collect().await.expect("a body").to_bytes();
            let review: Value = serde_json::from_slice(&body).expect("JSON");
            let known = review["spec"]["token"] == "good";
            let status = json!({"authenticated": known, "user": {"username": "bob", "uid": "7", "groups": ["g"]}});
            respond(200, json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}))
        })
    };
    let address = stub(&ca, &[], answer).await;
    let endpoint = endpoint(&ca, address);
    let cluster = Cluster::start_with(|config| {
        let webhook = TokenWebhook { endpoint, version: "v1".into(), ttl: Duration::from_secs(60) };
        config.outside = OutsideConfig { webhook: Some(webhook), ..OutsideConfig::default() };
    })
    .await;
    for _ in 0..2 {
        let status = review_of(&cluster, "good").await;
        assert_eq!(status["user"]["username"], "bob");
        assert_eq!(review_of(&cluster, "bad").await["error"], "invalid bearer token");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_judges_before_the_others() {
    let ca = Ca::new();
    let answer = |seen: Seen| -> Answer {
        Box::pin(async move {
            let body = seen.request.into_body().collect().await.expect("a body").to_bytes();
            let review: Value = serde_json::from_slice(&body).expect("JSON");
            let status = match review["spec"]["user"].as_str() {
                Some("friend") => json!({"allowed": true, "reason": "a friend"}),
                Some("foe") => json!({"allowed": false, "denied": true, "reason": "a foe"}),
                _ => json!({"allowed": false}),
            };
            respond(
                200,
                json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": status}),
            )
        })
    };
    let address = stub(&ca, &[], answer).await;
    let webhook = WebhookConfig {
        name: "w".into(),
        endpoint: endpoint(&ca, address),
        version: "v1".into(),
        authorized_ttl: Duration::from_secs(60),
        unauthorized_ttl: Duration::from_secs(60),
        timeout: Duration::from_secs(10),
        failure_denies: true,
        conditions: Vec::new(),
    };
    let cluster = Cluster::start_with(|config| {
        let modes = vec![authz::Mode::Webhook(Arc::new(webhook)), authz::Mode::Rbac];
        config.authorization = Authorization { modes, follow: None };
    })
    .await;
    let judged = async |user: &str| {
        let spec =
            json!({"user": user, "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}});
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
        cluster.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review).await.body["status"].clone()
    };
    assert_eq!(judged("friend").await, json!({"allowed": true, "reason": "a friend"}));
    assert_eq!(judged("foe").await, json!({"allowed": false, "denied": true, "reason": "a foe"}));
    assert_eq!(judged("stranger").await, json!({"allowed": false}));
    assert_eq!(judged("system:kube-scheduler").await["allowed"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_name_the_flow_schema_and_the_priority_level() {
    let cluster = Cluster::start().await;
    let reply = cluster
        .until("/api/v1/namespaces/default", |reply| reply.headers.contains_key("x-kubernetes-pf-flowschema-uid"))
        .await;
    let schema = cluster.get("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/exempt").await;
    assert_eq!(schema.body["metadata"]["uid"], reply.headers["x-kubernetes-pf-flowschema-uid"].to_str().expect("text"));
    let dump = cluster.get("/debug/api_priority_and_fairness/dump_priority_levels").await;
    assert!(dump.text.starts_with("PriorityLevelName, ActiveQueues,"), "{}", dump.text);
    assert_eq!(dump.text.lines().count(), 9, "{}", dump.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_events_are_posted_in_lists() {
    let ca = Ca::new();
    let (events, mut posted) = tokio::sync::mpsc::unbounded_channel::<Value>();
    let answer = move |seen: Seen| -> Answer {
        let events = events.clone();
        Box::pin(async move {
            let body = seen.request.into_body().collect().await.expect("a body").to_bytes();
            let list: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("EventList"), &json!("audit.k8s.io/v1")));
            for event in list["items"].as_array().expect("items") {
                let _test_is_over = events.send(event.clone());
            }
            respond(200, "")
        })
    };
    let address = stub(&ca, &[], answer).await;
    let policy =
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, users: [admin]}, {level: None}]\n";
    let batch = BatchConfig { buffer_size: 100, max_size: 10, max_wait: Duration::from_millis(20), throttle: None };
    let webhook = AuditWebhookConfig {
        endpoint: endpoint(&ca, address),
        initial_backoff: Duration::from_millis(10),
        backend: BackendConfig { mode: Mode::Batch, batch, truncate: None },
    };
    let policy = Policy::parse(policy).expect("a policy");
    let cluster = Cluster::start_with(|config| {
        config.audit = Some(AuditConfig { policy, log: None, webhook: Some(webhook) });
    })
    .await;
    let reply = cluster.get("/api/v1/namespaces/default/configmaps/none").await;
    let id = reply.headers["audit-id"].to_str().expect("text").to_owned();
    let mut stages = Vec::new();
    while stages.len() < 2 {
        let event =
            tokio::time::timeout(Duration::from_secs(20), posted.recv()).await.expect("in time").expect("an event");
        if event["auditID"] == id {
            stages.push((event["stage"].clone(), event["responseStatus"]["reason"].clone()));
        }
    }
    assert_eq!(stages, [(json!("RequestReceived"), Value::Null), (json!("ResponseComplete"), json!("NotFound"))]);
}
