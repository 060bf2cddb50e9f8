//! Answers that a real server was seen to give, where ours once differed.

mod support;

use api::{Value, json};
use apiserver::attributes::UserInfo;
use http::Method;
use support::{Cluster, Reply};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const PODS: &str = "/api/v1/namespaces/default/pods";

async fn accepting(cluster: &Cluster, path: &str, accept: &str) -> Reply {
    cluster.send(Method::GET, path, &[("accept", accept)], String::new()).await
}

async fn apply(cluster: &Cluster, path: &str, manager: &str, body: String) -> Reply {
    let path = format!("{path}?fieldManager={manager}");
    cluster.send(Method::PATCH, &path, &[("content-type", "application/apply-patch+yaml")], body).await
}

fn template() -> Value {
    json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_names_every_path() {
    let cluster = Cluster::start().await;
    for path in ["/", "/index.html"] {
        let index = cluster.get(path).await;
        let paths = index.body["paths"].as_array().cloned().unwrap_or_default();
        for known in ["/api/v1", "/apis/apps", "/apis/apps/v1", "/healthz/etcd", "/openapi/v3", "/version"] {
            assert!(paths.contains(&known.into()), "{known} in {}", index.text);
        }
        assert!(paths.is_sorted_by_key(|path| path.as_str().map(str::to_owned)), "{}", index.text);
    }
    assert_eq!(cluster.get("/healthz/").await.code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_are_counted_by_the_endpoints_that_ran_them() {
    let cluster = Cluster::start().await;
    let before = cluster.get("/metrics/slis").await;
    assert!(before.text.contains("\nprocess_start_time_seconds "), "{}", before.text);
    for path in ["/livez", "/livez?exclude=etcd", "/livez/log"] {
        assert_eq!(cluster.get(path).await.code, 200, "{path}");
    }
    let text = cluster.get("/metrics/slis").await.text;
    for line in [
        r#"kubernetes_healthcheck{name="etcd",type="livez"} 1"#,
        r#"kubernetes_healthchecks_total{name="etcd",status="success",type="livez"} 1"#,
        r#"kubernetes_healthchecks_total{name="log",status="success",type="livez"} 2"#,
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_counted_anew_when_they_are_deleted() {
    let cluster = Cluster::start().await;
    for (path, counted) in [("/metrics", "resource=\"limitranges\""), ("/metrics/slis", "type=\"livez\"")] {
        for counted in ["/livez", "/api/v1/limitranges"] {
            assert_eq!(cluster.get(counted).await.code, 200);
        }
        assert!(cluster.get(path).await.text.contains(counted), "{path}");
        let reset = cluster.request(Method::DELETE, path, &Value::Null).await;
        assert_eq!((reset.code, reset.text.as_str()), (200, "metrics reset\n"), "{path}");
        let left = cluster.get(path).await.text;
        assert!(!left.contains(counted), "{left}");
    }
    // Parts of the server count anew as well, and go on.
    let dispatched = async || {
        let text = cluster.get("/metrics").await.text;
        let counts = text.lines().filter(|line| line.starts_with("apiserver_flowcontrol_dispatched_requests_total{"));
        counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    let many = 20;
    for _request in 0..many {
        cluster.get("/version").await;
    }
    assert!(dispatched().await > many);
    cluster.request(Method::DELETE, "/metrics", &Value::Null).await;
    let left = dispatched().await;
    assert!((1..many).contains(&left), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_know_their_methods_and_media_types() {
    let cluster = Cluster::start().await;
    let code = async |method: Method, path: &str| cluster.request(method, path, &Value::Null).await.code;
    assert_eq!(code(Method::HEAD, CONFIG_MAPS).await, 405);
    assert_eq!(code(Method::HEAD, "/api/v1").await, 405);
    assert_eq!(code(Method::POST, "/apis/apps").await, 200);
    assert_eq!(code(Method::POST, "/apis/apps/v1").await, 405);
    assert_eq!(code(Method::POST, "/api/v1/configmaps").await, 405);
    assert_eq!(code(Method::POST, "/apis/authorization.k8s.io/v1/localsubjectaccessreviews").await, 404);
    let refused = accepting(&cluster, "/version", "text/plain").await;
    assert_eq!(refused.code, 406);
    assert_eq!(refused.message(), "406: Not Acceptable\n\nAvailable representations: application/json");
    let metadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let refused = accepting(&cluster, CONFIG_MAPS, metadata).await;
    let text = "you requested PartialObjectMetadata, but the requested object is a list (*core.ConfigMapList)";
    assert_eq!((refused.code, refused.message()), (406, text));
    let old = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    assert_eq!(accepting(&cluster, "/apis", old).await.body["kind"], "APIGroupList");
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_lead_nowhere_are_unknown_to_every_method() {
    let cluster = Cluster::start().await;
    cluster.make(CONFIG_MAPS, json!({"metadata": {"name": "a"}})).await;
    let code = async |method: Method, path: &str| cluster.request(method, path, &Value::Null).await.code;
    let nested = "/api/v1/namespaces/default/namespaces";
    for path in ["/api/v1/configmaps/a", "/api/v1/namespaces/default/nodes", "/api/v1/bindings", nested] {
        for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::PATCH] {
            assert_eq!(code(method.clone(), path).await, 404, "{method} {path}");
        }
    }
    assert_eq!(code(Method::GET, "/api/v1/namespaces/default/status/x").await, 404);
    assert_eq!(code(Method::POST, "/api/v1/watch/nodes").await, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_that_is_no_duration_is_refused_before_anybody_is_known() {
    let cluster = Cluster::start().await;
    let fault = |text: &str| format!("invalid timeout specified in the request URL - time: {text}");
    for (timeout, text) in [
        ("invalid", fault("invalid duration \"invalid\"")),
        ("5", fault("missing unit in duration \"5\"")),
        ("5x", fault("unknown unit \"x\" in duration \"5x\"")),
    ] {
        for path in ["/version", CONFIG_MAPS, "/api"] {
            let refused = cluster.get(&format!("{path}?timeout={timeout}")).await;
            assert_eq!((refused.code, refused.message()), (400, text.as_str()), "{path}");
        }
    }
    for timeout in ["", "0s", "1m30s", "999h"] {
        assert_eq!(cluster.get(&format!("{CONFIG_MAPS}?timeout={timeout}")).await.code, 200, "{timeout}");
    }
    // What lasts as long as its connection waits for no answer.
    let log = cluster.get(&format!("{PODS}/nobody/log?timeout=invalid")).await;
    assert_eq!(log.code, 404, "{}", log.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_object_is_read_whatever_the_query_says_of_watches() {
    let cluster = Cluster::start().await;
    let path = format!("{CONFIG_MAPS}/a");
    cluster.make(CONFIG_MAPS, json!({"metadata": {"name": "a"}})).await;
    assert_eq!(cluster.get(&format!("{path}?watch=true")).await.body["kind"], "ConfigMap");
    let refused = cluster.get(&format!("{path}?export=true")).await;
    assert_eq!(refused.message(), "the export parameter, deprecated since v1.14, is no longer supported");
    let malformed = cluster.get(&format!("{CONFIG_MAPS}?watch=true&resourceVersion=abc")).await;
    let text = "resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": invalid syntax";
    assert_eq!((malformed.code, malformed.message()), (500, text));
    assert_eq!(malformed.body["details"], Value::Null);
    let exact = cluster.get(&format!("{CONFIG_MAPS}?watch=true&resourceVersionMatch=Exact")).await;
    let causes = exact.body["details"]["causes"].as_array().cloned().unwrap_or_default();
    assert_eq!(
        causes.iter().map(|cause| cause["reason"].as_str()).collect::<Vec<_>>(),
        [Some("FieldValueForbidden"), Some("FieldValueNotSupported")]
    );
    cluster.make(CONFIG_MAPS, json!({"metadata": {"name": "b"}})).await;
    let newer = format!("{CONFIG_MAPS}?limit=1&resourceVersion=1&resourceVersionMatch=NotOlderThan");
    let page = cluster.get(&newer).await;
    assert_eq!(page.body["items"].as_array().map(Vec::len), Some(1), "{}", page.text);
    let token = cluster.get(&format!("{CONFIG_MAPS}?continue=abc&resourceVersion=1")).await;
    assert!(token.message().starts_with("invalid continue token: "), "{}", token.text);
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}?fieldSelector=%3D")).await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_a_next_one_only_where_there_can_be_more() {
    let cluster = Cluster::start().await;
    for (i, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        let labels = json!({"odd": (i % 2 == 1).to_string()});
        cluster.make(CONFIG_MAPS, json!({"metadata": {"name": name, "labels": labels}})).await;
    }
    let everywhere = "/api/v1/configmaps";
    for (path, query, names, has_next) in [
        (CONFIG_MAPS, "limit=2", ["a", "b"].as_slice(), true),
        (CONFIG_MAPS, "limit=2&labelSelector=odd=true", &["b", "d"], true),
        (CONFIG_MAPS, "limit=3&labelSelector=odd=true", &["b", "d"], false),
        (CONFIG_MAPS, "limit=1&labelSelector=odd=none", &[], false),
        (CONFIG_MAPS, "limit=1&fieldSelector=metadata.name=c", &["c"], false),
        (CONFIG_MAPS, "limit=1&fieldSelector=metadata.name=cc", &[], false),
        (everywhere, "limit=1&fieldSelector=metadata.namespace=default,metadata.name=c", &["c"], false),
        (everywhere, "limit=1&fieldSelector=metadata.namespace=none", &[], false),
    ] {
        let page = cluster.get(&format!("{path}?{query}")).await.body;
        let items = page["items"].as_array().cloned().unwrap_or_default();
        let found: Vec<_> = items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect();
        assert_eq!(found, names, "{query}");
        assert_eq!(page["metadata"]["continue"].is_string(), has_next, "{query}");
    }
    let query = "limit=1&labelSelector=odd=true";
    let first = cluster.get(&format!("{CONFIG_MAPS}?{query}")).await.body;
    let token = first["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    let second = cluster.get(&format!("{CONFIG_MAPS}?{query}&continue={token}")).await.body;
    assert_eq!(second["items"][0]["metadata"]["name"], "d", "none is passed over: {second}");
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_that_cannot_be_shown_are_refused_when_all_else_is_well() {
    let cluster = Cluster::start().await;
    let list = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    assert_eq!(accepting(&cluster, &format!("{CONFIG_MAPS}/missing"), list).await.code, 404);
    cluster.make(CONFIG_MAPS, json!({"metadata": {"name": "a"}})).await;
    let misfit = accepting(&cluster, &format!("{CONFIG_MAPS}/a"), list).await;
    let text = "you requested PartialObjectMetadataList, but the requested object is not a list (*core.ConfigMap)";
    assert_eq!((misfit.code, misfit.message()), (406, text));
    let table = "application/yaml;as=Table;g=meta.k8s.io;v=v1";
    assert_eq!(accepting(&cluster, &format!("{CONFIG_MAPS}/missing"), table).await.body["code"], 404);
    assert_eq!(accepting(&cluster, CONFIG_MAPS, "application/json;v=v1").await.code, 406);
    let map = json!({"metadata": {"name": "b"}}).to_string();
    for content_type in ["*/*", "application/json;charset"] {
        let reply = cluster.send(Method::POST, CONFIG_MAPS, &[("content-type", content_type)], map.clone()).await;
        assert_eq!(reply.code, 415, "{content_type}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_judges_preconditions_by_the_bare_key() {
    let cluster = Cluster::start().await;
    cluster.make(CONFIG_MAPS, json!({"metadata": {"name": "a"}})).await;
    let other = json!({"metadata": {"name": "a", "uid": "x"}});
    let refused = cluster.request(Method::PUT, &format!("{CONFIG_MAPS}/a?dryRun=All"), &other).await;
    assert!(refused.message().contains("Key: /configmaps/default/a,"), "{}", refused.text);
    let refused = cluster.request(Method::PUT, &format!("{CONFIG_MAPS}/a"), &other).await;
    assert!(refused.message().contains("Key: /registry/configmaps/default/a,"), "{}", refused.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_that_names_its_pod_itself_means_no_certain_one() {
    let cluster = Cluster::start().await;
    cluster.make(PODS, json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})).await;
    let binding = json!({"metadata": {"name": "a", "uid": "x"}, "target": {"name": "n"}, "foo": 1});
    let bound = cluster.post("/api/v1/namespaces/default/bindings?dryRun=All", binding.clone()).await;
    assert_eq!(
        (bound.code, bound.warnings.as_slice()),
        (201, ["299 - \"unknown field \\\"foo\\\"\"".to_owned()].as_slice())
    );
    assert_eq!(cluster.post(&format!("{PODS}/a/binding?dryRun=All"), binding).await.code, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_budget_says_so_as_the_server() {
    let cluster = Cluster::start().await;
    let spec = json!({"nodeName": "n", "containers": [{"name": "c", "image": "i"}]});
    cluster.make(PODS, json!({"metadata": {"name": "a", "labels": {"a": "b"}}, "spec": spec})).await;
    let running = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    cluster.request(Method::PATCH, &format!("{PODS}/a/status"), &running).await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let spec = json!({"minAvailable": 0, "selector": {"matchLabels": {"a": "b"}}});
    cluster.make(budgets, json!({"metadata": {"name": "b"}, "spec": spec})).await;
    let status = json!({"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 1, "desiredHealthy": 0, "expectedPods": 1});
    cluster.request(Method::PATCH, &format!("{budgets}/b/status"), &json!({"status": status})).await;
    let evicted = cluster.post(&format!("{PODS}/a/eviction"), json!({"metadata": {"name": "a"}})).await;
    assert_eq!(evicted.code, 201, "{}", evicted.text);
    let budget = cluster.get(&format!("{budgets}/b")).await.body;
    let condition = &budget["status"]["conditions"][0];
    assert_eq!((&condition["status"], &condition["reason"]), (&"False".into(), &"InsufficientPods".into()), "{budget}");
    let managed = budget["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let server = managed.iter().find(|entry| entry["manager"] == "kube-apiserver").cloned().unwrap_or_default();
    assert_eq!(server["subresource"], "status", "{budget}");
    assert!(server["fieldsV1"]["f:status"].get("f:disruptionsAllowed").is_some(), "{budget}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_even_when_empty_has_an_owner() {
    let cluster = Cluster::start().await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [], "ports": []});
    let made = cluster.post(slices, slice).await;
    assert_eq!(made.body["ports"], Value::Null, "{}", made.text);
    let owned = &made.body["metadata"]["managedFields"][0]["fieldsV1"];
    assert_eq!((&owned["f:ports"], &owned["f:endpoints"]), (&json!({}), &json!({})), "{}", made.text);
    let review = json!({"spec": {"user": "u", "extra": {"a": []}, "nonResourceAttributes": {"path": "/"}}});
    let answered = cluster.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review).await;
    assert_eq!(answered.body["spec"]["extra"]["a"], json!([]), "{}", answered.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_annotation_that_is_a_field_upstream_is_refused_in_patches() {
    let cluster = Cluster::start().await;
    let sets = "/apis/apps/v1/namespaces/default/daemonsets";
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template()});
    cluster.make(sets, json!({"metadata": {"name": "d"}, "spec": spec})).await;
    let patch = json!({"metadata": {"annotations": {"deprecated.daemonset.template.generation": "x"}}});
    let refused = cluster.request(Method::PATCH, &format!("{sets}/d"), &patch).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    assert!(refused.message().ends_with("strconv.ParseInt: parsing \"x\": invalid syntax"), "{}", refused.text);
    let headers = [("content-type", "application/strategic-merge-patch+json")];
    let refused = cluster.send(Method::PATCH, &format!("{sets}/d"), &headers, patch.to_string()).await;
    let text = "strconv.ParseInt: parsing \"x\": invalid syntax";
    assert_eq!((refused.code, refused.message()), (500, text));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_applied_status_can_be_the_first_of_an_object_that_updates_create() {
    let cluster = Cluster::start().await;
    let status = |version: &str, kind: &str| format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: z}}\n");
    let services = "/api/v1/namespaces/default/services/z/status";
    let refused = apply(&cluster, services, "m", status("v1", "Service")).await;
    assert_eq!((refused.code, refused.message()), (422, "Service \"z\" is invalid: spec.ports: Required value"));
    let nameless = cluster.post("/api/v1/namespaces/default/services", json!({})).await;
    let text = "Service \"\" is invalid: spec.clusterIPs: Invalid value: [\"\"]: failed to allocate IP: IPAddress.networking.k8s.io";
    assert!(nameless.message().starts_with(text), "{}", nameless.text);
    let deployments = format!("{DEPLOYMENTS}/z/status");
    assert_eq!(apply(&cluster, &deployments, "m", status("apps/v1", "Deployment")).await.code, 404);
    let ranges = "/api/v1/namespaces/default/limitranges/l";
    let limits = "spec: {limits: [{type: Container, max: {cpu: 2z}}]}";
    let range = format!("apiVersion: v1\nkind: LimitRange\nmetadata: {{name: l}}\n{limits}\n");
    let refused = apply(&cluster, ranges, "m", range).await;
    let text = "failed to convert new object (/l; /v1, Kind=LimitRange) to proper version: unable to convert unstructured object to \
                /v1, Kind=LimitRange: quantities must match the regular expression \
                '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
    assert_eq!((refused.code, refused.message()), (500, text));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_with_options_that_make_no_sense_evicts_nobody() {
    let cluster = Cluster::start().await;
    let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    cluster.make(PODS, pod).await;
    for options in [json!({"propagationPolicy": "x"}), json!({"dryRun": ["x"]})] {
        let eviction = json!({"metadata": {"name": "a"}, "deleteOptions": options});
        let refused = cluster.post(&format!("{PODS}/a/eviction"), eviction).await;
        assert_eq!(refused.code, 422, "{}", refused.text);
        assert!(refused.message().starts_with("DeleteOptions.meta.k8s.io \"\" is invalid: "), "{}", refused.text);
    }
    assert_eq!(cluster.get(&format!("{PODS}/a")).await.code, 200);
    let logs = cluster.get(&format!("{PODS}/a/log?stream=Stdout")).await;
    assert!(logs.message().ends_with("stream: Forbidden: may not be specified"), "{}", logs.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_is_refused_with_a_view_to_the_generated_one() {
    let cluster = Cluster::start().await;
    let map = json!({"metadata": {"name": "a", "generateName": "a-"}});
    cluster.make(CONFIG_MAPS, map.clone()).await;
    let refused = cluster.post(CONFIG_MAPS, map).await;
    let text = "configmaps \"a\" already exists, the server was not able to generate a unique name for the object";
    assert_eq!((refused.code, refused.message()), (409, text));
    let bound = cluster.request(Method::DELETE, &format!("{CONFIG_MAPS}/a?resourceVersion=1"), &Value::Null).await;
    assert_eq!(bound.code, 409, "the query may bind a delete to a version: {}", bound.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_applier_takes_a_field_with_all_that_nobody_owns() {
    let cluster = Cluster::start().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = |rest: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{rest}");
    let path = format!("{secrets}/s");
    let created = apply(&cluster, &path, "m", secret("stringData: {b: c}\ndata: {a: ZA==}\n")).await;
    assert_eq!(created.body["data"], json!({"a": "ZA==", "b": "Yw=="}), "{}", created.text);
    let emptied = apply(&cluster, &path, "m", secret("")).await;
    assert_eq!(emptied.body["data"], Value::Null, "{}", emptied.text);
    let twice = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\n  name: s\n".to_owned();
    let warned = apply(&cluster, &path, "m", twice).await;
    assert_eq!(warned.warnings, ["299 - \"line 5: key \\\"name\\\" already set in map\""]);
    let revisions = "/apis/apps/v1/namespaces/default/controllerrevisions";
    let revision =
        "apiVersion: apps/v1\nkind: ControllerRevision\nmetadata: {name: r}\nrevision: 1\ndata: {a: {b: c}}\n";
    let applied = apply(&cluster, &format!("{revisions}/r"), "m", revision.to_owned()).await;
    let owned = &applied.body["metadata"]["managedFields"][0]["fieldsV1"]["f:data"];
    assert_eq!(*owned, json!({}), "embedded data is owned as a whole: {}", applied.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scale_is_owned_without_a_time_and_conflicts_in_its_own_version() {
    let cluster = Cluster::start().await;
    let spec = json!({"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template()});
    cluster.make(DEPLOYMENTS, json!({"metadata": {"name": "d"}, "spec": spec})).await;
    let scale = |replicas: u32| {
        format!("apiVersion: autoscaling/v1\nkind: Scale\nmetadata: {{name: d}}\nspec: {{replicas: {replicas}}}\n")
    };
    let path = format!("{DEPLOYMENTS}/d/scale");
    let refused = apply(&cluster, &path, "hpa", scale(3)).await;
    let text = "Apply failed with 1 conflict: conflict with \"unknown\" using autoscaling/v1: .spec.replicas";
    assert_eq!((refused.code, refused.message()), (409, text));
    let patched = cluster.request(Method::PATCH, &path, &json!({"spec": {"replicas": 3}})).await;
    assert_eq!(patched.code, 200, "{}", patched.text);
    let owned = cluster.get(&format!("{DEPLOYMENTS}/d")).await.body["metadata"]["managedFields"].clone();
    let of_scale = owned.as_array().into_iter().flatten().find(|entry| entry["subresource"] == "scale").cloned();
    assert_eq!(of_scale.map(|entry| entry["time"].clone()), Some(Value::Null), "{owned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_list_is_judged_as_it_was_sent() {
    let cluster = Cluster::start().await;
    let templates = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates";
    let requests = json!([{"name": "a", "exactly": {"deviceClassName": "c"}}]);
    let spec = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"devices": {"requests": requests}}});
    cluster.make(templates, json!({"metadata": {"name": "t"}, "spec": spec})).await;
    let emptied = json!({"spec": {"metadata": {"finalizers": []}}});
    let refused = cluster.request(Method::PATCH, &format!("{templates}/t"), &emptied).await;
    assert!(refused.message().ends_with("spec.metadata.finalizers: Forbidden: cannot be set"), "{}", refused.text);

    let policies = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
    let policy = json!({"metadata": {"name": "p"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}});
    cluster.make(policies, policy.clone()).await;
    let put = async |body: &Value| {
        let reply = cluster.request(Method::PUT, &format!("{policies}/p"), body).await;
        reply.body["metadata"]["generation"].clone()
    };
    assert_eq!(put(&policy).await, 1);
    let mut emptied = policy.clone();
    emptied["spec"]["ingress"] = json!([]);
    assert_eq!((put(&emptied).await, put(&emptied).await), (json!(2), json!(3)), "compared exactly, as upstream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_patch_leaves_no_nulls_behind() {
    let cluster = Cluster::start().await;
    let policies = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
    cluster.make(policies, json!({"metadata": {"name": "p"}, "spec": {"podSelector": {}}})).await;
    let from = json!([{"from": [{"podSelector": {"matchLabels": {"a": null}}}]}]);
    let patch = json!({"spec": {"ingress": from}});
    let patched = cluster.request(Method::PATCH, &format!("{policies}/p"), &patch).await;
    assert_eq!(patched.body["spec"]["ingress"][0]["from"][0]["podSelector"], json!({}), "{}", patched.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_kept_as_an_annotation_is_no_metadata() {
    let cluster = Cluster::start().await;
    let sets = "/apis/apps/v1/namespaces/default/daemonsets";
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template()});
    cluster.make(sets, json!({"metadata": {"name": "d"}, "spec": spec})).await;
    let metadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let shown = accepting(&cluster, &format!("{sets}/d"), metadata).await;
    assert_eq!(shown.body["metadata"]["annotations"], Value::Null, "{}", shown.text);
    let messages = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let listed = accepting(&cluster, sets, messages).await;
    // Only its owner is named.
    assert_eq!((listed.code, listed.text.matches("template.generation").count()), (200, 1), "{}", listed.text);
    let annotations = json!({"deprecated.daemonset.template.generation": "x"});
    let refused =
        cluster.post(sets, json!({"metadata": {"name": "e", "annotations": annotations}, "spec": spec})).await;
    let text =
        "DaemonSet in version \"v1\" cannot be handled as a DaemonSet: strconv.ParseInt: parsing \"x\": invalid syntax";
    assert_eq!((refused.code, refused.message()), (400, text));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_condition_of_a_flow_schema_is_applied() {
    let cluster = Cluster::start().await;
    let schemas = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/exempt";
    let has_condition = |reply: &Reply| reply.body["status"]["conditions"].is_array();
    let schema = cluster.until(schemas, has_condition).await;
    let managers = schema.body["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let applied = managers.iter().find(|entry| entry["subresource"] == "status").cloned().unwrap_or_default();
    assert_eq!(applied["manager"], "api-priority-and-fairness-config-consumer-v1", "{}", schema.text);
    assert_eq!(applied["operation"], "Apply");
    let made = managers.iter().find(|entry| entry["operation"] == "Update").cloned().unwrap_or_default();
    assert_eq!(made["manager"], "api-priority-and-fairness-config-producer-v1", "{}", schema.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_is_told_as_what_to_read_the_answer() {
    let cluster = Cluster::start().await;
    let sniffs = |reply: &Reply| reply.headers.get("x-content-type-options").is_none_or(|value| value != "nosniff");
    for (path, expected) in
        [("/api/v1/nodes/none", true), ("/healthz/etcd", true), ("/healthz", false), ("/foo", false)]
    {
        assert_eq!(sniffs(&cluster.get(path).await), expected, "{path}");
    }
    let nobody = cluster.acting_as(UserInfo { name: "jane".to_owned(), ..UserInfo::default() });
    for path in ["/api/v1/nodes", "/metrics"] {
        let refused = nobody.get(path).await;
        assert_eq!((refused.code, sniffs(&refused)), (403, false), "{path}");
    }
    let refused = nobody.send(Method::GET, "/version", &[("impersonate-user", "bob")], String::new()).await;
    assert_eq!((refused.code, sniffs(&refused)), (403, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_is_a_duration() {
    let cluster = Cluster::start().await;
    let refused = cluster.get(&format!("{CONFIG_MAPS}?timeout=5")).await;
    let text = "invalid timeout specified in the request URL - time: missing unit in duration \"5\"";
    assert_eq!((refused.code, refused.message()), (400, text));
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}?timeout=1m")).await.code, 200);
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}?timeout=x&watch=1&timeoutSeconds=1")).await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_wrong_with_the_options_of_a_write_is_told_at_once() {
    let cluster = Cluster::start().await;
    let refused = cluster.post(&format!("{CONFIG_MAPS}?dryRun=x&fieldValidation=foo"), json!({})).await;
    let text = "CreateOptions.meta.k8s.io \"\" is invalid: [dryRun: Unsupported value: [\"x\"]: supported values: \"All\", \
                fieldValidation: Unsupported value: \"foo\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"]";
    assert_eq!((refused.code, refused.message()), (422, text));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_told_of_its_policy_first_and_has_no_manager() {
    let cluster = Cluster::start().await;
    cluster.make(CONFIG_MAPS, json!({"metadata": {"name": "a"}})).await;
    let delete = async |query: &str, body: Value| {
        cluster.request(Method::DELETE, &format!("{CONFIG_MAPS}/a?{query}"), &body).await
    };
    let refused = delete("dryRun=x&propagationPolicy=foo", Value::Null).await;
    let text = "DeleteOptions.meta.k8s.io \"\" is invalid: [propagationPolicy: Unsupported value: \"foo\": supported values: \
                \"Foreground\", \"Background\", \"Orphan\", \"nil\", dryRun: Unsupported value: [\"x\"]: supported values: \"All\"]";
    assert_eq!((refused.code, refused.message()), (422, text));
    let manager = "x".repeat(129);
    assert_eq!(delete(&format!("dryRun=All&fieldManager={manager}"), Value::Null).await.code, 200);
    assert_eq!(
        delete("dryRun=x", json!({"dryRun": ["All"]})).await.code,
        200,
        "with a body the query counts for nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_that_a_patch_repeats_are_found_after_admission() {
    let cluster = Cluster::start().await;
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "u"});
    let owned = json!({"metadata": {"name": "a", "ownerReferences": [owner, owner]}});
    let made = cluster.post(CONFIG_MAPS, owned.clone()).await;
    let patched = cluster.request(Method::PATCH, &format!("{CONFIG_MAPS}/a"), &owned).await;
    for (reply, when) in [(made, ""), (patched, " after mutating admission happens")] {
        let text = format!(
            "299 - \".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and \
             may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: u\""
        );
        assert_eq!(reply.warnings, [text]);
        assert_eq!(reply.body["metadata"]["ownerReferences"], json!([owner]));
    }
    let mut blocking = owner.clone();
    blocking["blockOwnerDeletion"] = true.into();
    let both = json!([owner, blocking]);
    let made = cluster.post(CONFIG_MAPS, json!({"metadata": {"name": "b", "ownerReferences": both}})).await;
    assert!(made.warnings.is_empty(), "of one owner, but not equal: {:?}", made.warnings);
    assert_eq!(made.body["metadata"]["ownerReferences"], both);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_request_asks_for_is_owned() {
    let cluster = Cluster::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    cluster.make(accounts, json!({"metadata": {"name": "a"}})).await;
    let asked = json!({"metadata": {"managedFields": [{}]}, "spec": {"audiences": ["x"], "expirationSeconds": 3600}});
    let issued = cluster.post(&format!("{accounts}/a/token?fieldManager=m"), asked).await;
    let mut owned = issued.body["metadata"]["managedFields"].clone();
    owned[0]["time"] = Value::Null;
    let fields = json!({"f:spec": {"f:audiences": {}, "f:expirationSeconds": {}}});
    let expected = json!({"manager": "m", "operation": "Update", "apiVersion": "authentication.k8s.io/v1", "time": null,
        "fieldsType": "FieldsV1", "fieldsV1": fields, "subresource": "token"});
    assert_eq!(owned, json!([expected]), "{}", issued.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_event_of_a_table_has_the_columns() {
    let cluster = Cluster::start().await;
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    let query =
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    let path = format!("/api/v1/namespaces/default/limitranges?{query}");
    let bookmark: Value = serde_json::from_str(accepting(&cluster, &path, table).await.text.trim()).expect("one event");
    let table = &bookmark["object"];
    assert_eq!((&bookmark["type"], &table["columnDefinitions"][1]["name"]), (&"BOOKMARK".into(), &"Created At".into()));
    assert_eq!(table["rows"][0]["cells"], json!(["", "0001-01-01T00:00:00Z"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_stored_loses_its_link_to_itself() {
    let cluster = Cluster::start().await;
    cluster.make(CONFIG_MAPS, json!({"metadata": {"name": "a"}})).await;
    let linked = json!({"metadata": {"name": "a", "selfLink": "/x"}});
    for (query, link) in [("?dryRun=All", "/x".into()), ("", Value::Null)] {
        let put = cluster.request(Method::PUT, &format!("{CONFIG_MAPS}/a{query}"), &linked).await;
        assert_eq!(put.body["metadata"]["selfLink"], link, "{}", put.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_of_a_revision_are_the_text_that_was_sent() {
    let cluster = Cluster::start().await;
    let path = "/apis/apps/v1/namespaces/default/controllerrevisions";
    let json = [("content-type", "application/json")];
    let revision = |name: &str, data: &str, more: &str| {
        format!(r#"{{"metadata":{{"name":"{name}"{more}}},"data":{data},"revision":1}}"#)
    };
    // A patch is of the value.
    let patches = [
        ("application/merge-patch+json", r#"{"metadata":{"labels":{"a":"b"}}}"#),
        (
            "application/json-patch+json",
            r#"[{"op":"test","path":"/data","value":{"a":"b c"}},{"op":"add","path":"/metadata/labels","value":{}}]"#,
        ),
    ];
    for (name, data) in [("compact", r#"{"a":"b c"}"#), ("spaced", "{\"a\":\n\"b c\"}")] {
        let made = cluster.send(Method::POST, path, &json, revision(name, data, "")).await;
        assert_eq!(made.code, 201, "{}", made.text);
        assert_eq!(made.text.lines().count(), 1, "one object is one line");
        let path = format!("{path}/{name}");
        let put = cluster.send(Method::PUT, &path, &json, revision(name, data, r#","labels":{"x":"y"}"#)).await;
        assert_eq!(put.code, 200, "{}", put.text);
        for (media_type, patch) in patches {
            let media_type = [("content-type", media_type)];
            let patched = cluster.send(Method::PATCH, &path, &media_type, patch.to_owned()).await;
            match name {
                "compact" => assert_eq!(patched.code, 200, "{}", patched.text),
                _ => {
                    let text = r#"data: Invalid value: {"a":"b c"}: field is immutable"#;
                    let text = format!("ControllerRevision.apps \"spaced\" is invalid: {text}");
                    assert_eq!((patched.code, patched.message()), (422, text.as_str()));
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_looks_at_the_body_first_and_warns_of_nothing() {
    let cluster = Cluster::start().await;
    let endpoints = "/api/v1/namespaces/default/endpoints";
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    let form = accepting(&cluster, endpoints, "application/json;as=Nonsense;g=meta.k8s.io;v=v1").await;
    assert_eq!((form.code, form.warnings.len()), (406, 1), "{}", form.text);
    let media_type = accepting(&cluster, endpoints, "text/html").await;
    assert_eq!((media_type.code, media_type.warnings.len()), (406, 0), "{}", media_type.text);
    let path = format!("{endpoints}/a");
    let headers = [("accept", "text/html"), ("content-type", "application/json")];
    let patch = cluster.send(Method::PATCH, &path, &headers, "{}".to_owned()).await;
    assert_eq!((patch.code, patch.warnings.len()), (415, 0), "{}", patch.text);
    cluster.make(PODS, json!({"metadata": {"name": "p"}, "spec": template()["spec"]})).await;
    for (part, code) in [("status", 200), ("ephemeralcontainers", 406), ("resize", 406)] {
        assert_eq!(accepting(&cluster, &format!("{PODS}/p/{part}"), table).await.code, code, "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_priority_class_is_not_deleted() {
    let cluster = Cluster::start().await;
    let path = "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical";
    let refused = cluster.request(Method::DELETE, path, &json!({})).await;
    let text = "priorityclasses.scheduling.k8s.io \"system-node-critical\" is forbidden: this is a system priority class and cannot \
                be deleted";
    assert_eq!((refused.code, refused.message()), (403, text));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_judged_before_its_metadata() {
    let cluster = Cluster::start().await;
    let refused = cluster.post("/api/v1/namespaces/kube-system/events", json!({})).await;
    let text = "Event \"\" is invalid: involvedObject.namespace: Invalid value: \"\": does not match event.namespace";
    assert_eq!(refused.message(), text);
    let here = json!({"involvedObject": {"namespace": "kube-system"}});
    let nameless = cluster.post("/api/v1/namespaces/kube-system/events", here).await;
    let text = "Event \"\" is invalid: metadata.name: Required value: name or generateName is required";
    assert_eq!(nameless.message(), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_labels_go_has_those_of_its_template() {
    let cluster = Cluster::start().await;
    let pod = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    let job = json!({"metadata": {"name": "j"}, "spec": {"template": pod}});
    let made = cluster.post("/apis/batch/v1/namespaces/default/jobs", job).await.body;
    let path = "/apis/batch/v1/namespaces/default/jobs/j/status";
    let patched = cluster.request(Method::PATCH, path, &json!({"metadata": {"labels": null}})).await;
    assert_eq!(patched.body["metadata"]["labels"], made["spec"]["template"]["metadata"]["labels"], "{}", patched.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn bookmarks_show_what_is_no_pointer_inside() {
    let cluster = Cluster::start().await;
    let query =
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    for (resource, pointer, shown) in [
        ("apps/v1/namespaces/default/deployments", "/spec/replicas", json!(0)),
        (
            "apps/v1/namespaces/default/daemonsets",
            "/metadata/annotations/deprecated.daemonset.template.generation",
            json!("0"),
        ),
        ("certificates.k8s.io/v1/certificatesigningrequests", "/spec/request", Value::Null),
    ] {
        let path = format!("/apis/{resource}?{query}");
        let text = accepting(&cluster, &path, "application/json").await.text;
        let bookmark: Value = serde_json::from_str(text.trim()).expect("one event");
        assert_eq!(bookmark["object"].pointer(pointer), Some(&shown), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_seen_to_end_before_it_is_gone() {
    let cluster = Cluster::start().await;
    let made = cluster.post(PODS, json!({"metadata": {"name": "p"}, "spec": template()["spec"]})).await.body;
    let version = made["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    assert_eq!(cluster.request(Method::DELETE, &format!("{PODS}/p"), &json!({})).await.code, 200);
    let watch = cluster.get(&format!("{PODS}?watch=1&timeoutSeconds=1&resourceVersion={version}")).await;
    let events: Vec<Value> = watch.text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
    let told: Vec<(&Value, &Value, bool)> = events
        .iter()
        .map(|event| {
            let metadata = &event["object"]["metadata"];
            (&event["type"], &metadata["generation"], metadata["deletionTimestamp"].is_string())
        })
        .collect();
    let two = json!(2);
    assert_eq!(told, [(&json!("MODIFIED"), &two, true), (&json!("DELETED"), &two, true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_nothing_is_null() {
    let cluster = Cluster::start().await;
    let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let none = accepting(&cluster, "/api/v1/namespaces/nope/configmaps", metadata).await;
    assert_eq!(none.body.get("items"), Some(&Value::Null), "{}", none.text);
    cluster.make(CONFIG_MAPS, json!({"metadata": {"name": "a"}})).await;
    let one = accepting(&cluster, CONFIG_MAPS, metadata).await;
    assert_eq!(one.body["items"].as_array().map(Vec::len), Some(1), "{}", one.text);
}
