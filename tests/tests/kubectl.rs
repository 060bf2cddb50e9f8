//! What a new user does with kubectl, on an ephemeral server with simulated nodes.

use anyhow::Result;
use quarterdeck_tests::{Server, eventually, has_program, simulate_nodes};

const MANIFEST: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {app: web}}
data: {colour: blue}
---
apiVersion: v1
kind: Secret
metadata: {name: password, labels: {app: web}}
stringData: {password: hunter2}
---
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web}}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: registry.example/web:1
        ports: [{containerPort: 8080}]
"#;

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn a_deployment_lives_its_whole_life() -> Result<()> {
    if !has_program("kubectl") {
        return Ok(());
    }
    let server = Server::ephemeral()?;
    let _nodes = simulate_nodes(&server, 3)?;
    server.kubectl_ok(&["create", "namespace", "shop"])?;
    let applied = server.kubectl_ok_stdin(&["-n", "shop", "apply", "-f", "-"], MANIFEST)?;
    assert_eq!(
        lines(&applied),
        ["configmap/settings created", "secret/password created", "service/web created", "deployment.apps/web created"]
    );
    let status = server.kubectl_ok(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=60s"])?;
    assert!(status.contains("deployment \"web\" successfully rolled out"), "{status}");
    let again = server.kubectl_ok_stdin(&["-n", "shop", "apply", "-f", "-"], MANIFEST)?;
    assert!(again.contains("deployment.apps/web unchanged"), "{again}");

    let wide = server.kubectl_ok(&["-n", "shop", "get", "deployment", "web", "-o", "wide", "--no-headers"])?;
    let cells: Vec<&str> = wide.split_whitespace().collect();
    assert_eq!(cells[..4], ["web", "3/3", "3", "3"]);
    assert_eq!(cells[5..], ["web", "registry.example/web:1", "app=web"]);
    let phases = server.kubectl_ok(&["-n", "shop", "get", "pods", "-o", "jsonpath={.items[*].status.phase}"])?;
    assert_eq!(phases, "Running Running Running");
    let endpoints = server.kubectl_ok(&[
        "-n",
        "shop",
        "get",
        "endpointslices",
        "-l",
        "kubernetes.io/service-name=web",
        "-o",
        "jsonpath={.items[0].endpoints[*].conditions.ready}",
    ])?;
    assert_eq!(endpoints, "true true true");
    let described = server.kubectl_ok(&["-n", "shop", "describe", "deployment", "web"])?;
    assert!(described.contains("ScalingReplicaSet"), "{described}");

    server.kubectl_ok(&["-n", "shop", "set", "image", "deployment/web", "web=registry.example/web:2"])?;
    server.kubectl_ok(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=60s"])?;
    server.kubectl_ok(&["-n", "shop", "rollout", "undo", "deployment/web"])?;
    server.kubectl_ok(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=60s"])?;
    let image = ["-n", "shop", "get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}"];
    assert_eq!(server.kubectl_ok(&image)?, "registry.example/web:1");

    server.kubectl_ok(&["-n", "shop", "scale", "deployment/web", "--replicas=1"])?;
    eventually("scaling down", || {
        let pods = server.kubectl_ok(&["-n", "shop", "get", "pods", "--no-headers"])?;
        Ok((lines(&pods).len() == 1).then_some(()))
    })?;

    server.kubectl_ok(&["-n", "shop", "delete", "deployment", "web", "--cascade=foreground"])?;
    eventually("foreground deletion", || {
        let left = server.kubectl_ok(&["-n", "shop", "get", "deploy,rs,pods", "-o", "name"])?;
        Ok(left.is_empty().then_some(()))
    })?;
    server.kubectl_ok(&["delete", "namespace", "shop", "--timeout=60s"])?;
    let gone = server.kubectl_err(&["get", "namespace", "shop"], "")?;
    assert_eq!(gone, "Error from server (NotFound): namespaces \"shop\" not found\n");
    Ok(())
}

#[test]
fn orphans_stay_when_asked() -> Result<()> {
    if !has_program("kubectl") {
        return Ok(());
    }
    let server = Server::ephemeral()?;
    let _nodes = simulate_nodes(&server, 1)?;
    server.kubectl_ok_stdin(&["apply", "-f", "-"], MANIFEST)?;
    server.kubectl_ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    server.kubectl_ok(&["delete", "deployment", "web", "--cascade=orphan"])?;
    let owners = eventually("orphaning", || {
        let rs = server.kubectl_ok(&[
            "get",
            "rs",
            "-l",
            "app=web",
            "-o",
            "jsonpath={.items[*].metadata.name}/{.items[*].metadata.ownerReferences}",
        ])?;
        Ok(rs.ends_with('/').then_some(rs))
    })?;
    assert!(owners.starts_with("web-"), "{owners}");
    Ok(())
}

#[test]
fn objects_are_labelled_patched_and_refused() -> Result<()> {
    if !has_program("kubectl") {
        return Ok(());
    }
    let server = Server::ephemeral()?;
    server.kubectl_ok(&["create", "configmap", "c", "--from-literal=a=1"])?;
    server.kubectl_ok(&["label", "configmap", "c", "team=red"])?;
    server.kubectl_ok(&["annotate", "configmap", "c", "note=hello"])?;
    server.kubectl_ok(&["patch", "configmap", "c", "--type=merge", "-p", r#"{"data":{"b":"2"}}"#])?;
    server.kubectl_ok(&[
        "patch",
        "configmap",
        "c",
        "--type=json",
        "-p",
        r#"[{"op":"add","path":"/data/c","value":"3"}]"#,
    ])?;
    server.kubectl_ok(&["patch", "configmap", "c", "-p", r#"{"data":{"a":null}}"#])?;
    let data = server.kubectl_ok(&["get", "configmap", "c", "-o", "jsonpath={.data} {.metadata.labels.team}"])?;
    assert_eq!(data, r#"{"b":"2","c":"3"} red"#);

    let unknown = server.kubectl_err(&["get", "nonsense"], "")?;
    assert!(unknown.contains("the server doesn't have a resource type \"nonsense\""), "{unknown}");
    let invalid = "apiVersion: v1\nkind: Pod\nmetadata: {name: Bad_Name}\nspec: {containers: []}\n";
    let refused = server.kubectl_err(&["create", "-f", "-"], invalid)?;
    assert!(refused.contains("metadata.name: Invalid value: \"Bad_Name\""), "{refused}");
    assert!(refused.contains("spec.containers: Required value"), "{refused}");
    let typo = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: d}\ndatta: {a: b}\n";
    let strict = server.kubectl_err(&["create", "-f", "-"], typo)?;
    assert!(strict.contains("unknown field \"datta\""), "{strict}");
    let can = server.kubectl_ok(&["auth", "can-i", "create", "pods"])?;
    assert_eq!(can, "yes\n");
    let list = server.kubectl_ok(&["auth", "can-i", "--list", "--as=system:serviceaccount:default:default"])?;
    assert!(list.contains("selfsubjectreviews.authentication.k8s.io"), "{list}");
    let explained = server.kubectl_ok(&["explain", "deployment.spec.strategy", "--recursive"])?;
    assert!(explained.contains("rollingUpdate"), "{explained}");
    assert!(explained.contains("DESCRIPTION"), "{explained}");
    let resources = server.kubectl_ok(&["api-resources", "--no-headers"])?;
    assert!(resources.lines().count() > 50, "{resources}");
    let top = server.kubectl_err(&["top", "nodes"], "")?;
    assert!(top.contains("Metrics API not available"), "{top}");
    Ok(())
}

#[test]
fn a_node_is_drained() -> Result<()> {
    if !has_program("kubectl") {
        return Ok(());
    }
    let server = Server::ephemeral()?;
    let _nodes = simulate_nodes(&server, 2)?;
    server.kubectl_ok_stdin(&["apply", "-f", "-"], MANIFEST)?;
    server.kubectl_ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let node = server.kubectl_ok(&["get", "pods", "-o", "jsonpath={.items[0].spec.nodeName}"])?;
    server.kubectl_ok(&["drain", &node, "--ignore-daemonsets", "--timeout=60s"])?;
    server.kubectl_ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let nodes = server.kubectl_ok(&["get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}"])?;
    assert!(!nodes.split(' ').any(|n| n == node), "{nodes}");
    Ok(())
}
