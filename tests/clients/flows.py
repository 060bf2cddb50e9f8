"""What a program with the `kubernetes` client does: CRUD, patches, apply, watch, informer-like relisting, dynamic and custom
resources, logs, exec and errors. Takes a kubeconfig; the cluster has simulated nodes. Ends with `ok`."""

import json
import sys
import threading
import time

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError
from kubernetes.stream import stream

NAMESPACE = "python"
PATIENCE_SECONDS = 60


def eventually(what, condition):
    """The condition's first true value."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what} does not come true")


def refused(code, reason, call):
    try:
        call()
    except ApiException as error:
        body = json.loads(error.body)
        assert (error.status, body["reason"]) == (code, reason), error
        return body
    raise AssertionError(f"expected {code} {reason}")


def crud(core):
    core.create_namespace({"metadata": {"name": NAMESPACE}})
    made = core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"k": "1"}})
    assert made.metadata.uid and made.data == {"k": "1"}
    refused(409, "AlreadyExists", lambda: core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "a"}}))
    made.data["k"] = "2"
    replaced = core.replace_namespaced_config_map("a", NAMESPACE, made)
    assert replaced.metadata.resource_version != made.metadata.resource_version
    stale = refused(409, "Conflict", lambda: core.replace_namespaced_config_map("a", NAMESPACE, made))
    assert "please apply your changes to the latest version" in stale["message"]
    patched = core.patch_namespaced_config_map("a", NAMESPACE, {"data": {"l": "3"}})
    assert patched.data == {"k": "2", "l": "3"}
    by_json = core.patch_namespaced_config_map("a", NAMESPACE, [{"op": "remove", "path": "/data/l"}])
    assert by_json.data == {"k": "2"}
    invalid = refused(422, "Invalid", lambda: core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "A"}}))
    assert invalid["details"]["causes"][0]["field"] == "metadata.name"
    dry = core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "dry"}}, dry_run="All")
    assert dry.metadata.name == "dry"
    refused(404, "NotFound", lambda: core.read_namespaced_config_map("dry", NAMESPACE))
    core.delete_namespaced_config_map("a", NAMESPACE)
    refused(404, "NotFound", lambda: core.read_namespaced_config_map("a", NAMESPACE))


def paging(core):
    for n in range(7):
        core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": f"page-{n}", "labels": {"page": "yes"}}})
    names, token = [], None
    while True:
        page = core.list_namespaced_config_map(NAMESPACE, label_selector="page=yes", limit=3, _continue=token)
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert names == [f"page-{n}" for n in range(7)], names
    gone = core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="page=yes")
    assert gone is not None
    assert not core.list_namespaced_config_map(NAMESPACE, label_selector="page=yes").items


def watching(core):
    start = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    seen = []
    done = threading.Event()

    def follow():
        for event in watch.Watch().stream(
            core.list_namespaced_config_map, NAMESPACE, label_selector="w=1", resource_version=start, timeout_seconds=30
        ):
            seen.append((event["type"], event["object"].metadata.name, event["object"].data))
            if event["type"] == "DELETED":
                break
        done.set()

    follower = threading.Thread(target=follow)
    follower.start()
    core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "w", "labels": {"w": "1"}}, "data": {"k": "1"}})
    core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "other"}})
    core.patch_namespaced_config_map("w", NAMESPACE, {"data": {"k": "2"}})
    core.delete_namespaced_config_map("w", NAMESPACE)
    assert done.wait(PATIENCE_SECONDS), seen
    follower.join()
    assert seen == [("ADDED", "w", {"k": "1"}), ("MODIFIED", "w", {"k": "2"}), ("DELETED", "w", {"k": "2"})], seen


def applying(api):
    resources = dynamic.DynamicClient(api)
    config_maps = resources.resources.get(api_version="v1", kind="ConfigMap")

    def apply(manager, value, **options):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"k": value}}
        return config_maps.server_side_apply(body=body, namespace=NAMESPACE, field_manager=manager, **options)

    assert apply("first", "1").data.k == "1"
    try:
        apply("second", "2")
        raise AssertionError("an apply over another manager's field conflicts")
    except ConflictError as error:
        assert 'conflict with "first": .data.k' in json.loads(error.body)["message"], error.body
    forced = apply("second", "2", force_conflicts=True)
    assert forced.data.k == "2"
    owners = {entry["manager"]: entry["operation"] for entry in forced.to_dict()["metadata"]["managedFields"]}
    assert owners == {"second": "Apply"} or owners == {"first": "Apply", "second": "Apply"}, owners


def custom(api, core):
    extensions = client.ApiextensionsV1Api(api)
    schema = {
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer", "minimum": 1, "default": 3}}}},
    }
    extensions.create_custom_resource_definition({
        "metadata": {"name": "boats.python.example.com"},
        "spec": {
            "group": "python.example.com",
            "names": {"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList"},
            "scope": "Namespaced",
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema},
                          "subresources": {"status": {}}}],
        },
    })

    def established():
        status = extensions.read_custom_resource_definition("boats.python.example.com").status
        return any(c.type == "Established" and c.status == "True" for c in (status and status.conditions) or [])

    eventually("the definition's condition Established", established)
    objects = client.CustomObjectsApi(api)
    where = ("python.example.com", "v1", NAMESPACE, "boats")
    boat = {"apiVersion": "python.example.com/v1", "kind": "Boat", "metadata": {"name": "b"}, "spec": {"extra": 1}}
    made = eventually("the resource", lambda: objects.create_namespaced_custom_object(*where, boat))
    assert made["spec"] == {"size": 3}, made
    refused(422, "Invalid", lambda: objects.patch_namespaced_custom_object(*where, "b", {"spec": {"size": 0}}))
    objects.patch_namespaced_custom_object_status(*where, "b", {"status": {}, "spec": {"size": 9}})
    assert objects.get_namespaced_custom_object(*where, "b")["spec"] == {"size": 3}
    # The dynamic client finds the kind through discovery.
    fresh = dynamic.DynamicClient(client.ApiClient(api.configuration))
    boats = fresh.resources.get(api_version="python.example.com/v1", kind="Boat")
    assert [item.metadata.name for item in boats.get(namespace=NAMESPACE).items] == ["b"]
    extensions.delete_custom_resource_definition("boats.python.example.com")
    eventually("the end of the resource", lambda: gone(lambda: boats.get(namespace=NAMESPACE)))


def gone(call):
    try:
        call()
        return False
    except (NotFoundError, ApiException):
        return True


def workloads(core, apps):
    labels = {"app": "web"}
    apps.create_namespaced_deployment(NAMESPACE, {
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "web:1"}]}},
        },
    })
    eventually("two ready replicas", lambda: apps.read_namespaced_deployment_status("web", NAMESPACE).status.ready_replicas == 2)
    scaled = apps.patch_namespaced_deployment_scale("web", NAMESPACE, {"spec": {"replicas": 1}})
    assert scaled.spec.replicas == 1
    # The one that goes is gone: it would still count, and may be the one that is asked for.
    def left():
        pods = core.list_namespaced_pod(NAMESPACE, label_selector="app=web").items
        return pods if len(pods) == 1 and pods[0].status.phase == "Running" else None

    pods = eventually("one pod", left)
    return pods[0].metadata.name


def limits(core):
    """A quota holds against a controller that makes pods in parallel, and what it refuses shows on the owner."""
    core.create_namespaced_resource_quota(NAMESPACE, {"metadata": {"name": "q"}, "spec": {"hard": {"count/pods": "3"}}})
    eventually("the quota is counted", lambda: "count/pods" in (core.read_namespaced_resource_quota("q", NAMESPACE).status.used or {}))
    before = int(core.read_namespaced_resource_quota("q", NAMESPACE).status.used["count/pods"])
    labels = {"app": "limited"}
    core.create_namespaced_replication_controller(NAMESPACE, {
        "metadata": {"name": "limited"},
        "spec": {
            "replicas": 6,
            "selector": labels,
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "web:1"}]}},
        },
    })

    def failure():
        conditions = core.read_namespaced_replication_controller("limited", NAMESPACE).status.conditions or []
        return any(c.type == "ReplicaFailure" and "exceeded quota" in c.message for c in conditions)

    eventually("the condition ReplicaFailure", failure)
    assert len(core.list_namespaced_pod(NAMESPACE, label_selector="app=limited").items) == 3 - before
    core.delete_namespaced_resource_quota("q", NAMESPACE)
    core.delete_namespaced_replication_controller("limited", NAMESPACE)


def streams(core, pod):
    assert core.read_namespaced_pod_log(pod, NAMESPACE)
    lines = []
    for line in watch.Watch().stream(core.read_namespaced_pod_log, name=pod, namespace=NAMESPACE, tail_lines=1):
        lines.append(line)
        break
    assert lines
    output = stream(core.connect_get_namespaced_pod_exec, pod, NAMESPACE, command=["echo", "hello"], stdout=True, stderr=True)
    assert "hello" in output, output
    shell = stream(
        core.connect_get_namespaced_pod_exec, pod, NAMESPACE, command=["echo", "again"], stdout=True, stderr=True,
        _preload_content=False,
    )
    shell.run_forever(timeout=PATIENCE_SECONDS)
    assert "again" in shell.read_stdout(), "no output"
    assert shell.returncode == 0, shell.returncode
    evicted = core.create_namespaced_pod_eviction(pod, NAMESPACE, {"metadata": {"name": pod}})
    assert evicted is not None


def tokens(api, core):
    eventually("the default account", lambda: not gone(lambda: core.read_namespaced_service_account("default", NAMESPACE)))
    token = core.create_namespaced_service_account_token("default", NAMESPACE, {"spec": {"expirationSeconds": 600}})
    settings = client.Configuration()
    settings.host = api.configuration.host
    settings.ssl_ca_cert = api.configuration.ssl_ca_cert
    settings.api_key = {"authorization": f"Bearer {token.status.token}"}
    account = client.ApiClient(settings)
    me = client.AuthenticationV1Api(account).create_self_subject_review({})
    assert me.status.user_info.username == f"system:serviceaccount:{NAMESPACE}:default", me
    refused(403, "Forbidden", lambda: client.CoreV1Api(account).list_namespaced_secret(NAMESPACE))


def main():
    config.load_kube_config(sys.argv[1])
    api = client.ApiClient()
    core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
    assert client.VersionApi(api).get_code().minor == "36"
    crud(core)
    paging(core)
    watching(core)
    applying(api)
    custom(api, core)
    pod = workloads(core, apps)
    limits(core)
    streams(core, pod)
    tokens(api, core)
    core.delete_namespace(NAMESPACE)
    eventually("the end of the namespace", lambda: gone(lambda: core.read_namespace(NAMESPACE)))
    print("ok")


main()
