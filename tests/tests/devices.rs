//! Dynamic resource allocation: claims get devices of a node, and pods run where their devices are.

use anyhow::{Context as _, Result};
use quarterdeck_tests::{Server, eventually, has_program, simulate_nodes};
use serde_json::Value;

/// Two devices on one node, a claim for the big one, and a template for any.
fn manifest(node: &str) -> String {
    format!(
        r#"
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {{name: gpu}}
spec:
  selectors: [{{cel: {{expression: "device.driver == 'gpu.example.com'"}}}}]
---
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {{name: s1}}
spec:
  driver: gpu.example.com
  nodeName: {node}
  pool: {{name: p1, generation: 1, resourceSliceCount: 1}}
  devices:
  - {{name: d0, attributes: {{model: {{string: small}}}}}}
  - {{name: d1, attributes: {{model: {{string: big}}}}}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {{name: big}}
spec:
  devices:
    requests:
    - name: r
      exactly:
        deviceClassName: gpu
        selectors: [{{cel: {{expression: "device.attributes['gpu.example.com'].model == 'big'"}}}}]
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {{name: any}}
spec:
  spec:
    devices:
      requests: [{{name: r, exactly: {{deviceClassName: gpu}}}}]
"#
    )
}

fn pod(name: &str, claim: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  resourceClaims: [{{name: \
         x, {claim}}}]\n  containers: [{{name: c, image: registry.example/c:1, resources: {{claims: [{{name: x}}]}}}}]\n"
    )
}

#[test]
fn pods_run_where_their_devices_are_and_no_device_is_given_twice() -> Result<()> {
    if !has_program("kubectl") {
        return Ok(());
    }
    let server = Server::ephemeral()?;
    let _nodes = simulate_nodes(&server, 2)?;
    let node = eventually("there are two nodes", || {
        let names = server.kubectl_ok(&["get", "nodes", "-o=name"])?;
        let names: Vec<&str> = names.lines().collect();
        Ok((names.len() == 2).then(|| names[1].trim_start_matches("node/").to_owned()))
    })?;
    let phase = |pod: &str| server.kubectl_ok(&["get", "pod", pod, "-o=jsonpath={.status.phase} {.spec.nodeName}"]);
    let runs = |pod: &str| eventually("the pod runs", || Ok((phase(pod)? == format!("Running {node}")).then_some(())));
    server.kubectl_ok_stdin(&["apply", "-f", "-"], &manifest(&node))?;
    server.kubectl_ok_stdin(&["apply", "-f", "-"], &pod("first", "resourceClaimName: big"))?;
    runs("first")?;
    let claim: Value = serde_json::from_str(&server.kubectl_ok(&["get", "resourceclaim", "big", "-o=json"])?)?;
    let results = claim["status"]["allocation"]["devices"]["results"].as_array().context("results")?;
    assert_eq!((results.len(), &results[0]["device"]), (1, &Value::from("d1")));
    assert_eq!(claim["status"]["reservedFor"][0]["name"], "first");
    assert_eq!(claim["metadata"]["finalizers"][0], "resource.kubernetes.io/delete-protection");

    server.kubectl_ok_stdin(&["apply", "-f", "-"], &pod("second", "resourceClaimTemplateName: any"))?;
    runs("second")?;
    server.kubectl_ok_stdin(&["apply", "-f", "-"], &pod("third", "resourceClaimTemplateName: any"))?;
    eventually("the third pod is told that there is no device left", || {
        let message = server.kubectl_ok(&["get", "pod", "third", "-o=jsonpath={.status.conditions[0].message}"])?;
        Ok(message.contains("cannot allocate all claims").then_some(()))
    })?;
    // The claim made for the second pod goes with it, and its device is free.
    server.kubectl_ok(&["delete", "pod", "second"])?;
    runs("third")
}
