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

/// The second of two nodes, when both are there.
fn second_node(server: &Server) -> Result<String> {
    eventually("there are two nodes", || {
        let names = server.kubectl_ok(&["get", "nodes", "-o=name"])?;
        let names: Vec<&str> = names.lines().collect();
        Ok((names.len() == 2).then(|| names[1].trim_start_matches("node/").to_owned()))
    })
}

#[test]
fn pods_run_where_their_devices_are_and_no_device_is_given_twice() -> Result<()> {
    if !has_program("kubectl") {
        return Ok(());
    }
    let server = Server::ephemeral()?;
    let _nodes = simulate_nodes(&server, 2)?;
    let node = second_node(&server)?;
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

/// A class behind an extended resource, and devices of which one has to be made ready first.
fn extended(node: &str) -> String {
    format!(
        r#"
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {{name: gpu}}
spec:
  extendedResourceName: example.com/gpu
  selectors: [{{cel: {{expression: "device.driver == 'gpu.example.com'"}}}}]
---
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {{name: fabric}}
spec:
  selectors: [{{cel: {{expression: "device.driver == 'fabric.example.com'"}}}}]
---
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {{name: s1}}
spec:
  driver: gpu.example.com
  nodeName: {node}
  pool: {{name: p1, generation: 1, resourceSliceCount: 1}}
  devices: [{{name: d0}}, {{name: d1}}]
---
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {{name: s2}}
spec:
  driver: fabric.example.com
  allNodes: true
  pool: {{name: p2, generation: 1, resourceSliceCount: 1}}
  devices:
  - {{name: far, bindsToNode: true, bindingConditions: [Attached], bindingFailureConditions: [Broken]}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {{name: far}}
spec:
  devices:
    requests: [{{name: r, exactly: {{deviceClassName: fabric}}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: asks}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: c, image: registry.example/c:1, resources: {{limits: {{example.com/gpu: "2"}}}}}}
"#
    )
}

#[test]
fn extended_resources_conditions_and_taints_of_devices() -> Result<()> {
    if !has_program("kubectl") {
        return Ok(());
    }
    let server = Server::ephemeral()?;
    let _nodes = simulate_nodes(&server, 2)?;
    let node = second_node(&server)?;
    let get = |kind: &str, name: &str, path: &str| {
        server.kubectl_ok(&["get", kind, name, &format!("-o=jsonpath={path}"), "--ignore-not-found"])
    };
    server.kubectl_ok_stdin(&["apply", "-f", "-"], &extended(&node))?;

    // A claim is made for what the pod asks for in the old way.
    eventually("the pod runs where the devices are", || {
        Ok((get("pod", "asks", "{.status.phase} {.spec.nodeName}")? == format!("Running {node}")).then_some(()))
    })?;
    let status: Value = serde_json::from_str(&get("pod", "asks", "{.status.extendedResourceClaimStatus}")?)?;
    let mapping = &status["requestMappings"][0];
    assert_eq!(
        (&mapping["containerName"], &mapping["resourceName"], &mapping["requestName"]),
        (&Value::from("c"), &Value::from("example.com/gpu"), &Value::from("container-0-request-0"))
    );
    let claim = status["resourceClaimName"].as_str().context("the claim's name")?.to_owned();
    assert!(claim.starts_with("asks-extended-resources-"), "{claim}");
    let found: Value = serde_json::from_str(&server.kubectl_ok(&["get", "resourceclaim", &claim, "-o=json"])?)?;
    assert_eq!(found["metadata"]["annotations"]["resource.kubernetes.io/extended-resource-claim"], "true");
    assert_eq!(found["status"]["allocation"]["devices"]["results"].as_array().map(Vec::len), Some(2));
    assert_eq!(found["status"]["reservedFor"][0]["name"], "asks");

    // The claim goes with its pod.
    server.kubectl_ok(&["delete", "pod", "asks"])?;
    eventually("the claim is gone", || Ok(get("resourceclaim", &claim, "{.metadata.name}")?.is_empty().then_some(())))?;

    // A pod waits until its device is ready.
    server.kubectl_ok_stdin(&["apply", "-f", "-"], &pod("waits", "resourceClaimName: far"))?;
    eventually("the claim is allocated", || {
        Ok(get("resourceclaim", "far", "{.status.allocation.allocationTimestamp}")?.contains('T').then_some(()))
    })?;
    let events =
        ["get", "events", "--field-selector=reason=BindingConditionsPending", "-o=jsonpath={.items[*].message}"];
    eventually("the pod is told", || {
        let said = server.kubectl_ok(&events)?;
        Ok(said.contains("waiting for binding conditions for device on node").then_some(()))
    })?;
    assert_eq!(get("pod", "waits", "{.spec.nodeName}")?, "");
    let ready = r#"{"status": {"devices": [{"driver": "fabric.example.com", "pool": "p2", "device": "far", "conditions": [
        {"type": "Attached", "status": "True", "reason": "Done", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}]}}"#;
    server.kubectl_ok(&["patch", "resourceclaim", "far", "--subresource=status", "--type=merge", "-p", ready])?;
    eventually("the pod runs", || Ok((get("pod", "waits", "{.status.phase}")? == "Running").then_some(())))?;

    // And goes when the device is tainted.
    let taint = r#"[{"op": "add", "path": "/spec/devices/0/taints", "value": [{"key": "k", "effect": "NoExecute"}]}]"#;
    server.kubectl_ok(&["patch", "resourceslice", "s2", "--type=json", "-p", taint])?;
    eventually("the pod is evicted", || Ok(get("pod", "waits", "{.metadata.name}")?.is_empty().then_some(())))?;
    let events =
        ["get", "events", "--field-selector=reason=DeviceTaintManagerEviction", "-o=jsonpath={.items[*].message}"];
    eventually("an event tells of it", || Ok((server.kubectl_ok(&events)? == "Marking for deletion").then_some(())))
}
