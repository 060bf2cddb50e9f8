//! Admission webhooks, called by a real API server over TLS.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{Value, json};
use base64::Engine as _;
use http::Method;
use http_body_util::BodyExt as _;
use support::{Ca, Cluster, Seen, respond, stub};
use tokio::sync::Mutex;

type Reviews = Arc<Mutex<Vec<Value>>>;

fn base64(text: impl AsRef<[u8]>) -> String {
    base64::prelude::BASE64_STANDARD.encode(text)
}

/// A webhook server. The path says what it does; what it was asked is kept.
async fn webhook(ca: &Ca) -> (std::net::SocketAddr, Reviews) {
    let reviews = Reviews::default();
    let seen = Arc::clone(&reviews);
    let address = stub(ca, &["hook.ns.svc"], move |Seen { request, .. }| {
        let seen = Arc::clone(&seen);
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            let review: Value = serde_json::from_slice(&body).expect("a review");
            let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
            seen.lock().await.push(review);
            match path.as_str() {
                "/hang" => std::future::pending::<()>().await,
                "/huge" => return respond(200, "x".repeat(9 << 20)),
                "/500" => return respond(500, "boom"),
                "/lie" => response["uid"] = "another".into(),
                "/deny" => {
                    response["allowed"] = false.into();
                    response["status"] = json!({"message": "not today", "code": 403, "reason": "Forbidden"});
                }
                "/warn" => response["warnings"] = json!(["mind the gap"]),
                "/label" | "/count" => {
                    let patch = match path.as_str() {
                        "/label" => json!([{"op": "add", "path": "/metadata/labels", "value": {"seen": "yes"}}]),
                        _ => json!([{"op": "add", "path": "/data/n", "value": format!("{}", seen.lock().await.len())}]),
                    };
                    response["patchType"] = "JSONPatch".into();
                    response["patch"] = base64(patch.to_string()).into();
                }
                _ => {}
            }
            respond(200, json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
        })
    })
    .await;
    (address, reviews)
}

/// A configuration of one hook for config maps; `more` is laid over the hook.
fn configuration(kind: &str, name: &str, url: &str, ca: &Ca, more: Value) -> Value {
    let mut hook = json!({
        "name": format!("{name}.example.com"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": url, "caBundle": base64(&ca.pem)}, "timeoutSeconds": 1,
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}],
    });
    for (field, value) in more.as_object().expect("fields") {
        hook[field] = value.clone();
    }
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": [hook]})
}

const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

/// The answer to a create in a cluster whose only validating hook is at `path`.
async fn judged_by(path: &str, more: Value) -> support::Reply {
    let (cluster, ca) = (Cluster::start().await, Ca::new());
    let (address, _) = webhook(&ca).await;
    let url = format!("https://{address}{path}");
    cluster.make(VALIDATING, configuration("ValidatingWebhookConfiguration", "w", &url, &ca, more)).await;
    settle(&cluster).await;
    let mut reply = cluster.post(CONFIG_MAPS, config_map("a")).await;
    reply.body["message"] = reply.message().replace(&address.to_string(), "HOOK").into();
    reply
}

/// Waits until the cache has everything that was written.
async fn settle(cluster: &Cluster) {
    let reply = cluster.get(CONFIG_MAPS).await;
    assert_eq!(reply.code, 200);
}

#[tokio::test]
async fn a_denied_request_is_answered_with_the_hooks_words() {
    let reply = judged_by("/deny", json!({})).await;
    let text = "admission webhook \"w.example.com\" denied the request: not today";
    assert_eq!((reply.code, reply.message(), &reply.body["reason"]), (403, text, &json!("Forbidden")));
}

#[tokio::test]
async fn hooks_that_hang_lie_fail_or_talk_too_much_fail_closed_or_open_as_configured() {
    let failing = [
        ("/hang", "failed to call webhook: Post \"https://HOOK/hang?timeout=1s\": context deadline exceeded"),
        ("/500", "failed to call webhook: an error on the server (\"boom\") has prevented the request from succeeding"),
        (
            "/huge",
            "failed to call webhook: Post \"https://HOOK/huge?timeout=1s\": http: response body too large: more than \
             8388608 bytes",
        ),
    ];
    for (path, cause) in failing {
        let reply = judged_by(path, json!({})).await;
        let text = format!("Internal error occurred: failed calling webhook \"w.example.com\": {cause}");
        assert_eq!((reply.code, reply.message()), (500, text.as_str()));
        let reply = judged_by(path, json!({"failurePolicy": "Ignore"})).await;
        assert_eq!(reply.code, 201, "{path} {}", reply.text);
    }
    let reply = judged_by("/lie", json!({})).await;
    let text = "failed calling webhook \"w.example.com\": received invalid webhook response: expected response.uid=";
    assert!(reply.message().contains(text), "{}", reply.message());
}

#[tokio::test]
async fn warnings_reach_the_client_and_a_wrong_ca_is_named() {
    let reply = judged_by("/warn", json!({})).await;
    assert_eq!((reply.code, reply.warnings), (201, vec!["299 - \"mind the gap\"".to_owned()]));
    let (cluster, ca) = (Cluster::start().await, Ca::new());
    let (address, _) = webhook(&ca).await;
    let url = format!("https://{address}/");
    let other = Ca::new();
    cluster.make(VALIDATING, configuration("ValidatingWebhookConfiguration", "w", &url, &other, json!({}))).await;
    settle(&cluster).await;
    let reply = cluster.post(CONFIG_MAPS, config_map("a")).await;
    let text = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
    assert!(reply.message().ends_with(text), "{}", reply.message());
}

#[tokio::test]
async fn a_hook_is_told_everything_about_the_request() {
    let (cluster, ca) = (Cluster::start().await, Ca::new());
    let (address, reviews) = webhook(&ca).await;
    let url = format!("https://{address}/ok");
    cluster.make(VALIDATING, configuration("ValidatingWebhookConfiguration", "w", &url, &ca, json!({}))).await;
    settle(&cluster).await;
    cluster.make(&format!("{CONFIG_MAPS}?fieldManager=me&dryRun=All"), config_map("a")).await;
    cluster.make(CONFIG_MAPS, config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    cluster.request(Method::PATCH, &path, &json!({"data": {"a": "c"}})).await;
    let options = json!({"gracePeriodSeconds": 0, "preconditions": {}, "propagationPolicy": "Background"});
    assert_eq!(cluster.request(Method::DELETE, &path, &options).await.code, 200);
    let reviews = reviews.lock().await;
    let request = |i: usize| &reviews[i]["request"];
    let gvk = json!({"group": "", "version": "v1", "kind": "ConfigMap"});
    let gvr = json!({"group": "", "version": "v1", "resource": "configmaps"});
    let create = request(0);
    assert_eq!((&create["kind"], &create["requestKind"]), (&gvk, &gvk));
    assert_eq!((&create["resource"], &create["requestResource"]), (&gvr, &gvr));
    let place = (&create["name"], &create["namespace"], &create["operation"]);
    assert_eq!(place, (&json!("a"), &json!("default"), &json!("CREATE")));
    assert_eq!((&create["dryRun"], &create["oldObject"]), (&json!(true), &Value::Null));
    let options =
        json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "dryRun": ["All"], "fieldManager": "me"});
    assert_eq!(create["options"], options);
    let user = json!({"username": "admin", "groups": ["system:masters", "system:authenticated"]});
    assert_eq!(create["userInfo"], user);
    assert!(
        create["object"]["metadata"]["uid"].is_string() && create["object"]["metadata"]["managedFields"].is_array()
    );
    let update = request(2);
    assert_eq!((&update["operation"], &update["options"]["kind"]), (&json!("UPDATE"), &json!("UpdateOptions")));
    assert_eq!((&update["object"]["data"]["a"], &update["oldObject"]["data"]["a"]), (&json!("c"), &json!("b")));
    let delete = request(3);
    assert_eq!((&delete["operation"], &delete["object"]), (&json!("DELETE"), &Value::Null));
    assert_eq!(delete["oldObject"]["data"]["a"], "c");
    assert_eq!(delete["options"]["gracePeriodSeconds"], 0);
    assert_eq!(reviews.len(), 4);
}

#[tokio::test]
async fn mutating_hooks_run_in_order_and_again_when_they_ask_for_it() {
    let (cluster, ca) = (Cluster::start().await, Ca::new());
    let (address, reviews) = webhook(&ca).await;
    let url = |path: &str| format!("https://{address}{path}");
    let first = configuration(
        "MutatingWebhookConfiguration",
        "a-count",
        &url("/count"),
        &ca,
        json!({"reinvocationPolicy": "IfNeeded"}),
    );
    let second = configuration("MutatingWebhookConfiguration", "b-label", &url("/label"), &ca, json!({}));
    cluster.make(MUTATING, second).await;
    cluster.make(MUTATING, first).await;
    settle(&cluster).await;
    let reply = cluster.post(CONFIG_MAPS, config_map("a")).await;
    assert_eq!(reply.code, 201, "{}", reply.text);
    assert_eq!(reply.body["metadata"]["labels"], json!({"seen": "yes"}));
    // The first hook, the second, and the first again.
    assert_eq!((&reply.body["data"]["n"], reviews.lock().await.len()), (&json!("3"), 3));
}

#[tokio::test]
async fn hooks_do_not_judge_hooks_and_a_dry_run_is_not_sent_to_hooks_with_side_effects() {
    let (cluster, ca) = (Cluster::start().await, Ca::new());
    let (address, _) = webhook(&ca).await;
    let url = format!("https://{address}/deny");
    let everything = json!({"rules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"]}],
        "sideEffects": "NoneOnDryRun"});
    let deny = configuration("ValidatingWebhookConfiguration", "w", &url, &ca, everything);
    cluster.make(VALIDATING, deny.clone()).await;
    settle(&cluster).await;
    assert_eq!(cluster.post(CONFIG_MAPS, config_map("a")).await.code, 403);
    assert_eq!(cluster.request(Method::DELETE, &format!("{VALIDATING}/w"), &Value::Null).await.code, 200);
    settle(&cluster).await;
    assert_eq!(cluster.post(CONFIG_MAPS, config_map("a")).await.code, 201);
}

#[tokio::test]
async fn selectors_and_equivalent_versions_decide_who_is_asked() {
    let (cluster, ca) = (Cluster::start().await, Ca::new());
    let (address, reviews) = webhook(&ca).await;
    let url = format!("https://{address}/ok");
    let hpa = json!({"apiGroups": ["autoscaling"], "apiVersions": ["v1"], "operations": ["CREATE"],
        "resources": ["horizontalpodautoscalers"]});
    let scale = json!({"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"],
        "resources": ["deployments/scale"]});
    let more = json!({"rules": [hpa, scale], "matchPolicy": "Equivalent",
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}});
    cluster.make(VALIDATING, configuration("ValidatingWebhookConfiguration", "w", &url, &ca, more)).await;
    settle(&cluster).await;
    let autoscaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    cluster.make("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", autoscaler.clone()).await;
    cluster.make("/apis/autoscaling/v2/namespaces/kube-system/horizontalpodautoscalers", autoscaler).await;
    let pod = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": pod}});
    cluster.make("/apis/apps/v1/namespaces/default/deployments", deployment).await;
    let path = "/apis/apps/v1/namespaces/default/deployments/d/scale";
    assert_eq!(cluster.request(Method::PATCH, path, &json!({"spec": {"replicas": 2}})).await.code, 200);
    let reviews = reviews.lock().await;
    assert_eq!(reviews.len(), 2);
    let first = &reviews[0]["request"];
    assert_eq!((&first["kind"]["version"], &first["requestKind"]["version"]), (&json!("v1"), &json!("v2")));
    assert_eq!(first["object"]["apiVersion"], "autoscaling/v1");
    assert_eq!(first["object"]["spec"]["targetCPUUtilizationPercentage"], 50);
    let second = &reviews[1]["request"];
    assert_eq!((&second["kind"]["kind"], &second["subResource"]), (&json!("Scale"), &json!("scale")));
    assert_eq!(
        (&second["object"]["spec"]["replicas"], &second["oldObject"]["spec"]["replicas"]),
        (&json!(2), &json!(1))
    );
}

#[tokio::test]
async fn a_hook_behind_a_service_is_reached_at_its_endpoint_under_its_services_name() {
    let (cluster, ca) = (Cluster::start().await, Ca::new());
    let (address, reviews) = webhook(&ca).await;
    cluster.make("/api/v1/namespaces", json!({"metadata": {"name": "ns"}})).await;
    let service = json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"name": "https", "port": 443}]}});
    cluster.make("/api/v1/namespaces/ns/services", service).await;
    let url = "https://unused";
    let mut more = configuration("ValidatingWebhookConfiguration", "w", url, &ca, json!({}));
    more["webhooks"][0]["clientConfig"] =
        json!({"service": {"namespace": "ns", "name": "hook", "path": "/ok"}, "caBundle": base64(&ca.pem)});
    cluster.make(VALIDATING, more).await;
    settle(&cluster).await;
    let reply = cluster.post(CONFIG_MAPS, config_map("a")).await;
    let text = "Internal error occurred: failed calling webhook \"w.example.com\": failed to call webhook: Post \
                \"https://hook.ns.svc:443/ok?timeout=1s\": no endpoints available for service \"hook\"";
    assert_eq!(reply.message(), text);
    // An endpoint on loopback is refused by the API; the name's own port stands in for one here.
    assert!(reviews.lock().await.is_empty());
    assert!(address.ip().is_loopback());
}

#[tokio::test]
async fn who_is_late_hears_so_and_the_write_goes_on_to_its_end() {
    let (cluster, ca) = (Cluster::start().await, Ca::new());
    let (address, _) = webhook(&ca).await;
    let ignored = configuration(
        "ValidatingWebhookConfiguration",
        "w",
        &format!("https://{address}/hang"),
        &ca,
        json!({"failurePolicy": "Ignore", "timeoutSeconds": 3}),
    );
    cluster.make(VALIDATING, ignored).await;
    settle(&cluster).await;
    let started = Instant::now();
    let reply = cluster.post(&format!("{CONFIG_MAPS}?timeout=100ms"), config_map("a")).await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    let text = concat!(
        r#"{"metadata":{},"status":"Failure","message":"Timeout: request did not complete within the allotted timeout","#,
        r#""reason":"Timeout","details":{},"code":504}"#,
        "\n"
    );
    assert_eq!((reply.code, reply.text.as_str()), (504, text));
    assert_eq!(reply.headers["content-type"], "text/plain; charset=utf-8");
    assert!(reply.headers.contains_key("audit-id"));
    cluster.until(&format!("{CONFIG_MAPS}/a"), |reply| reply.code == 200).await;
    let counted = [
        "apiserver_request_terminations_total{code=\"504\",component=\"apiserver\",group=\"\",resource=\"configmaps\",\
         scope=\"resource\",subresource=\"\",verb=\"POST\",version=\"v1\"} 1\n",
        "apiserver_request_post_timeout_total{source=\"rest-handler\",status=\"ok\"} 1\n",
        "apiserver_request_post_timeout_total{source=\"timeout-handler\",status=\"ok\"} 1\n",
    ];
    cluster.until("/metrics", |reply| counted.iter().all(|line| reply.text.contains(line))).await;
    // A read ends when nobody waits for it any more: this one would wait three seconds for its revision.
    let started = Instant::now();
    let reply = cluster.get(&format!("{CONFIG_MAPS}?resourceVersion=999999&timeout=100ms")).await;
    assert_eq!((reply.code, reply.text.as_str()), (504, text));
    let ended = "apiserver_request_post_timeout_total{source=\"timeout-handler\",status=\"ok\"} 2\n";
    cluster.until("/metrics", |reply| reply.text.contains(ended)).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    // The server's own limit is the most that anybody gets.
    let cluster = Cluster::start_with(|config| config.timeouts.request = Duration::from_secs(2)).await;
    let (address, _) = webhook(&ca).await;
    let url = format!("https://{address}/hang");
    let slow = json!({"timeoutSeconds": 30});
    cluster.make(VALIDATING, configuration("ValidatingWebhookConfiguration", "w", &url, &ca, slow)).await;
    settle(&cluster).await;
    assert_eq!(cluster.post(&format!("{CONFIG_MAPS}?timeout=9s"), config_map("a")).await.code, 504);
    let watch = cluster.get(&format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=3&timeout=1ms")).await;
    assert_eq!(watch.code, 200);
}
