//! NodeRestriction: a kubelet changes its own Node, Lease and CSINode, and the pods bound to it, and nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::{Status, Value, meta, status::GroupResource};

use super::{Context, Operation, Request, certificates::subject, items};
use crate::authz::node::{config_map_names, node_name, secret_names};

const MIRROR: &str = "kubernetes.io/config.mirror";
const NODE_LEASES: &str = "kube-node-lease";

/// Labels that a kubelet may set on its node although they are Kubernetes' own.
const KUBELET_LABELS: [&str; 13] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/windows-build",
    "kubernetes.io/kubelet",
];
const KUBELET_LABEL_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
const RESTRICTED_DOMAIN: &str = "node-restriction.kubernetes.io";

const KUBELET_SIGNERS: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];

/// A write by one kubelet.
struct Write<'a> {
    node: &'a str,
    request: &'a Request<'a>,
    object: &'a Value,
    ctx: &'a Context<'a>,
}

pub(super) fn validate(request: &Request<'_>, object: &Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    let Some(node) = node_name(request.user) else { return Ok(()) };
    if node.is_empty() {
        let text = format!("could not determine node from user \"{}\"", request.user.name);
        return Err(request.forbidden(object, &text));
    }
    let write = Write { node, request, object, ctx };
    if request.operation == Operation::Connect {
        return Ok(());
    }
    match (request.group, request.resource, request.subresource) {
        ("", "pods", "") => write.pod(),
        ("", "pods", "status") => write.pod_status(),
        ("", "pods", "eviction") => write.eviction(),
        ("", "pods", other) => {
            write.refuse(&format!("unexpected pod subresource \"{other}\", only 'status' and 'eviction' are allowed"))
        }
        ("", "nodes", _) => write.own_node(),
        ("", "persistentvolumeclaims", "status") => write.claim_status(),
        ("", "persistentvolumeclaims", _) => write.refuse("may only update PVC status"),
        ("", "serviceaccounts", _) => write.token(),
        ("coordination.k8s.io", "leases", _) => write.lease(),
        ("storage.k8s.io", "csinodes", _) => {
            write.named_as_node("can only access CSINode with the same name as the requesting node")
        }
        ("resource.k8s.io", "resourceslices", _) => write.resource_slice(),
        ("certificates.k8s.io", "certificatesigningrequests", "") => write.certificate(),
        _ => Ok(()),
    }
}

impl Write<'_> {
    fn refuse(&self, text: &str) -> Result<(), Status> {
        Err(self.request.forbidden(self.object, text))
    }

    fn require(&self, holds: bool, text: impl FnOnce() -> String) -> Result<(), Status> {
        if holds { Ok(()) } else { self.refuse(&text()) }
    }

    fn find(&self, resource: &str, namespace: &str, name: &str) -> Result<Arc<Value>, Status> {
        let found = self.ctx.get("", resource, namespace, name);
        found.ok_or_else(|| Status::not_found(GroupResource { group: "", resource }, name))
    }

    fn pod(&self) -> Result<(), Status> {
        let node = self.node;
        match self.request.operation {
            Operation::Create => self.new_pod(),
            Operation::Delete => {
                let pod = self.find("pods", self.request.namespace, self.request.name)?;
                self.require(pod["spec"]["nodeName"] == node, || {
                    format!("node \"{node}\" can only delete pods with spec.nodeName set to itself")
                })
            }
            other => self.refuse(&format!(
                "unexpected operation \"{}\", node \"{node}\" can only create and delete mirror pods",
                other.name()
            )),
        }
    }

    fn new_pod(&self) -> Result<(), Status> {
        let (node, pod) = (self.node, self.object);
        self.require(!pod["metadata"]["annotations"][MIRROR].is_null(), || {
            format!("pod does not have \"{MIRROR}\" annotation, node \"{node}\" can only create mirror pods")
        })?;
        self.require(pod["spec"]["nodeName"] == node, || {
            format!("node \"{node}\" can only create pods with spec.nodeName set to itself")
        })?;
        self.owner()?;
        let spec = &pod["spec"];
        let volumes = || items(spec, "volumes");
        let refers_to = [
            (!spec["serviceAccountName"].as_str().unwrap_or_default().is_empty(), "a service account"),
            (!secret_names(spec).is_empty(), "secrets"),
            (!config_map_names(spec).is_empty(), "configmaps"),
            (
                volumes().any(|v| items(&v["projected"], "sources").any(|s| !s["clusterTrustBundle"].is_null())),
                "clustertrustbundles",
            ),
            (volumes().any(|v| !v["persistentVolumeClaim"].is_null()), "persistentvolumeclaims"),
            (items(spec, "resourceClaims").len() > 0, "resourceclaims"),
        ];
        match refers_to.into_iter().find(|(refers, _)| *refers) {
            Some((_, what)) => self.refuse(&format!("node \"{node}\" can not create pods that reference {what}")),
            None => Ok(()),
        }
    }

    /// A mirror pod is owned by its node alone.
    fn owner(&self) -> Result<(), Status> {
        let node = self.node;
        let owners: Vec<&Value> = items(&self.object["metadata"], "ownerReferences").collect();
        let [owner] = owners.as_slice() else {
            let count = if owners.is_empty() { "an owner reference" } else { "a single owner reference" };
            return self.refuse(&format!("node \"{node}\" can only create pods with {count} set to itself"));
        };
        let is_node = owner["apiVersion"] == "v1" && owner["kind"] == "Node" && owner["name"] == node;
        self.require(is_node, || {
            format!("node \"{node}\" can only create pods with an owner reference set to itself")
        })?;
        self.require(owner["controller"] == true, || {
            format!("node \"{node}\" can only create pods with a controller owner reference set to itself")
        })?;
        self.require(owner["blockOwnerDeletion"] != true, || {
            format!("node \"{node}\" must not set blockOwnerDeletion on an owner reference")
        })?;
        let stored = self.find("nodes", "", node)?;
        let given = owner["uid"].as_str().unwrap_or_default();
        self.require(given == meta::uid(&stored), || {
            format!("node {node} UID mismatch: expected {given} got {}", meta::uid(&stored))
        })
    }

    fn pod_status(&self) -> Result<(), Status> {
        let node = self.node;
        if self.request.operation != Operation::Update {
            return self.refuse(&format!("unexpected operation \"{}\"", self.request.operation.name()));
        }
        let old = self.request.old.unwrap_or(&Value::Null);
        self.require(old["spec"]["nodeName"] == node, || {
            format!("node \"{node}\" can only update pod status for pods with spec.nodeName set to itself")
        })?;
        self.require(same_map(&old["metadata"]["labels"], &self.object["metadata"]["labels"]), || {
            format!("node \"{node}\" cannot update labels through pod status")
        })?;
        let claims = |pod: &Value| -> Vec<(Value, Value)> {
            items(&pod["status"], "resourceClaimStatuses")
                .map(|s| (s["name"].clone(), s["resourceClaimName"].clone()))
                .collect()
        };
        self.require(claims(old) == claims(self.object), || {
            format!("node \"{node}\" cannot update resource claim statues")
        })?;
        let extended = |pod: &Value| pod["status"]["extendedResourceClaimStatus"].clone();
        self.require(extended(old) == extended(self.object), || {
            format!("node \"{node}\" cannot update extended resource claim status")
        })
    }

    fn eviction(&self) -> Result<(), Status> {
        if self.request.operation != Operation::Create {
            return self.refuse(&format!("unexpected operation {}", self.request.operation.name()));
        }
        let named = [self.request.name, meta::name(self.object)];
        let Some(name) = named.into_iter().find(|name| !name.is_empty()) else {
            return self.refuse("could not determine pod from request data");
        };
        let pod = self.find("pods", self.request.namespace, name)?;
        self.require(pod["spec"]["nodeName"] == self.node, || {
            format!("node {} can only evict pods with spec.nodeName set to itself", self.node)
        })
    }

    fn own_node(&self) -> Result<(), Status> {
        let (node, object) = (self.node, self.object);
        let requested =
            [self.request.name, meta::name(object)].into_iter().find(|name| !name.is_empty()).unwrap_or_default();
        self.require(requested == node, || format!("node \"{node}\" is not allowed to modify node \"{requested}\""))?;
        let labels = |object: &Value| object["metadata"]["labels"].clone();
        match self.request.operation {
            Operation::Create => {
                self.require(object["spec"]["configSource"].is_null(), || {
                    format!("node \"{node}\" is not allowed to create pods with a non-nil configSource")
                })?;
                let forbidden = forbidden_labels(&labels(object), &Value::Null);
                self.require(forbidden.is_empty(), || {
                    format!("node \"{node}\" is not allowed to set the following labels: {}", forbidden.join(", "))
                })
            }
            Operation::Update => {
                let old = self.request.old.unwrap_or(&Value::Null);
                let source = &object["spec"]["configSource"];
                self.require(source.is_null() || *source == old["spec"]["configSource"], || {
                    format!("node \"{node}\" is not allowed to update configSource to a new non-nil configSource")
                })?;
                let taints = |object: &Value| items(&object["spec"], "taints").cloned().collect::<Vec<_>>();
                self.require(taints(object) == taints(old), || {
                    format!("node \"{node}\" is not allowed to modify taints")
                })?;
                let owners =
                    |object: &Value| items(&object["metadata"], "ownerReferences").cloned().collect::<Vec<_>>();
                self.require(owners(object) == owners(old), || {
                    format!("node \"{node}\" is not allowed to modify ownerReferences")
                })?;
                let forbidden = forbidden_labels(&labels(object), &labels(old));
                self.require(forbidden.is_empty(), || {
                    format!("is not allowed to modify labels: {}", forbidden.join(", "))
                })
            }
            Operation::Delete | Operation::Connect => Ok(()),
        }
    }

    fn claim_status(&self) -> Result<(), Status> {
        if self.request.operation != Operation::Update {
            return self.refuse(&format!("unexpected operation \"{}\"", self.request.operation.name()));
        }
        fn rest(claim: &Value) -> Value {
            let mut copy = claim.clone();
            for (part, fields) in [
                ("metadata", &["resourceVersion", "managedFields"][..]),
                ("status", &["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"][..]),
            ] {
                if let Some(object) = copy[part].as_object_mut() {
                    fields.iter().for_each(|field| drop(object.remove(field)));
                }
            }
            copy
        }
        let old = self.request.old.unwrap_or(&Value::Null);
        self.require(rest(old) == rest(self.object), || {
            format!(
                "node \"{}\" is not allowed to update fields other than status.quantity and status.conditions",
                self.node
            )
        })
    }

    fn token(&self) -> Result<(), Status> {
        if self.request.operation != Operation::Create || self.request.subresource != "token" {
            return Ok(());
        }
        let bound = &self.object["spec"]["boundObjectRef"];
        let text = |field: &str| bound[field].as_str().unwrap_or_default();
        let to_pod = text("apiVersion") == "v1" && text("kind") == "Pod" && !text("name").is_empty();
        self.require(to_pod, || "node requested token not bound to a pod".into())?;
        self.require(!text("uid").is_empty(), || "node requested token with a pod binding without a uid".into())?;
        let pod = self.find("pods", self.request.namespace, text("name"))?;
        self.require(text("uid") == meta::uid(&pod), || {
            format!(
                "the UID in the bound object reference ({}) does not match the UID in record. The object might have been \
                 deleted and then recreated",
                text("uid")
            )
        })?;
        self.require(pod["spec"]["nodeName"] == self.node, || {
            "node requested token bound to a pod scheduled on a different node".into()
        })?;
        self.token_audiences(&pod)
    }

    /// A kubelet asks for tokens for those whom a volume of the pod is for, or a CSI driver on its behalf.
    fn token_audiences(&self, pod: &Value) -> Result<(), Status> {
        let asked: Vec<&str> = items(&self.object["spec"], "audiences").filter_map(Value::as_str).collect();
        let audience = match asked.as_slice() {
            [] => "",
            [one] => one,
            _ => return self.refuse("node may only request 0 or 1 audiences"),
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut allowed: BTreeSet<String> = BTreeSet::new();
        let mut drivers: BTreeSet<String> = BTreeSet::new();
        for volume in items(&pod["spec"], "volumes") {
            let tokens = items(&volume["projected"], "sources").filter(|s| !s["serviceAccountToken"].is_null());
            allowed.extend(tokens.map(|s| text(&s["serviceAccountToken"]["audience"])));
            if let Some(driver) = volume["csi"]["driver"].as_str() {
                drivers.insert(driver.to_owned());
            }
            let claim = match volume["persistentVolumeClaim"]["claimName"].as_str() {
                Some(claim) => Some(claim.to_owned()),
                None if !volume["ephemeral"].is_null() => {
                    Some(format!("{}-{}", meta::name(pod), text(&volume["name"])))
                }
                None => None,
            };
            let claim =
                claim.and_then(|claim| self.ctx.get("", "persistentvolumeclaims", self.request.namespace, &claim));
            let volume = claim
                .and_then(|claim| self.ctx.get("", "persistentvolumes", "", claim["spec"]["volumeName"].as_str()?));
            if let Some(driver) = volume.and_then(|v| v["spec"]["csi"]["driver"].as_str().map(str::to_owned)) {
                drivers.insert(driver);
            }
        }
        for driver in drivers {
            let Some(driver) = self.ctx.get("storage.k8s.io", "csidrivers", "", &driver) else { continue };
            allowed.extend(items(&driver["spec"], "tokenRequests").map(|r| text(&r["audience"])));
        }
        if allowed.contains(audience) {
            return Ok(());
        }
        let action = crate::attributes::Action::Resource {
            verb: "request-serviceaccounts-token-audience".into(),
            group: String::new(),
            version: "v1".into(),
            resource: audience.to_owned(),
            subresource: String::new(),
            namespace: self.request.namespace.to_owned(),
            name: self.request.name.to_owned(),
        };
        self.require(self.ctx.authorizer.authorize(self.request.user, &action).allowed, || {
            format!("audience \"{audience}\" not found in pod spec volume, node is not permitted to request it")
        })
    }

    fn lease(&self) -> Result<(), Status> {
        self.require(self.request.namespace == NODE_LEASES, || {
            format!("can only access leases in the \"{NODE_LEASES}\" system namespace")
        })?;
        self.named_as_node("can only access node lease with the same name as the requesting node")
    }

    fn named_as_node(&self, text: &str) -> Result<(), Status> {
        let name =
            if self.request.operation == Operation::Create { meta::name(self.object) } else { self.request.name };
        self.require(name == self.node, || text.to_owned())
    }

    /// A kubelet asks for certificates in its own name.
    fn certificate(&self) -> Result<(), Status> {
        let signer = self.object["spec"]["signerName"].as_str().unwrap_or_default();
        if self.request.operation != Operation::Create || !KUBELET_SIGNERS.contains(&signer) {
            return Ok(());
        }
        let subject = subject(self.object["spec"]["request"].as_str().unwrap_or_default());
        let subject =
            subject.map_err(|text| self.request.forbidden(self.object, &format!("unable to parse csr: {text}")))?;
        let wanted = format!("system:node:{}", self.node);
        self.require(subject.common_name == wanted, || format!("can only create a node CSR with CN={wanted}"))
    }

    fn resource_slice(&self) -> Result<(), Status> {
        match self.request.operation {
            Operation::Create => self.require(self.object["spec"]["nodeName"] == self.node, || {
                "can only create ResourceSlice with the same NodeName as the requesting node".into()
            }),
            Operation::Update => {
                let old = self.request.old.unwrap_or(&Value::Null);
                self.require(old["spec"]["nodeName"] == self.node, || {
                    "can only update ResourceSlice with the same NodeName as the requesting node".into()
                })
            }
            Operation::Delete => {
                let old = self.request.old.unwrap_or(&Value::Null);
                self.require(old["spec"]["nodeName"] == self.node, || {
                    "can only delete ResourceSlice with the same NodeName as the requesting node".into()
                })
            }
            Operation::Connect => Ok(()),
        }
    }
}

/// Absent and empty are the same.
fn same_map(a: &Value, b: &Value) -> bool {
    let entries = |value: &Value| value.as_object().cloned().unwrap_or_default();
    entries(a) == entries(b)
}

/// Labels that differ and that a node must not touch, sorted.
fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    let keys = |value: &Value| {
        value.as_object().map(|map| map.keys().map(ToString::to_string).collect::<Vec<_>>()).unwrap_or_default()
    };
    let all: BTreeSet<String> = keys(new).into_iter().chain(keys(old)).collect();
    all.into_iter().filter(|key| new[key.as_str()] != old[key.as_str()] && is_forbidden(key)).collect()
}

fn is_forbidden(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let within = |parent: &str| domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    if within(RESTRICTED_DOMAIN) {
        return true;
    }
    let of_kubernetes = within("kubernetes.io") || within("k8s.io");
    of_kubernetes && !KUBELET_LABELS.contains(&label) && !KUBELET_LABEL_DOMAINS.iter().any(|parent| within(parent))
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;
    use crate::{
        admission::testing::{World, request},
        attributes::UserInfo,
    };

    fn kubelet() -> UserInfo {
        UserInfo { name: "system:node:n1".into(), groups: vec!["system:nodes".into()], ..UserInfo::default() }
    }

    fn create(group: &str, resource: &str, namespace: &str, object: Value) -> Result<Value, String> {
        let user = kubelet();
        let mut create = request(Operation::Create, group, resource, &user);
        create.namespace = namespace;
        World::new().run("NodeRestriction", &create, object)
    }

    #[test]
    fn a_node_makes_itself_and_no_other() {
        let node = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
        assert_eq!(
            create("", "nodes", "", node("n2", json!({}))).unwrap_err(),
            "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\""
        );
        let labels = json!({"node-role.kubernetes.io/x": "y", "node-restriction.kubernetes.io/z": "q", "mine": "ok"});
        assert_eq!(
            create("", "nodes", "", node("n1", labels)).unwrap_err(),
            "nodes \"n1\" is forbidden: node \"n1\" is not allowed to set the following labels: \
             node-restriction.kubernetes.io/z, node-role.kubernetes.io/x"
        );
        assert!(create("", "nodes", "", node("n1", json!({"kubernetes.io/hostname": "n1"}))).is_ok());
    }

    #[test]
    fn a_node_makes_mirror_pods_only() {
        assert_eq!(
            create("", "pods", "ns", json!({"metadata": {"name": "a"}, "spec": {}})).unwrap_err(),
            "pods \"a\" is forbidden: pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only \
             create mirror pods"
        );
    }

    #[test]
    fn a_node_has_one_lease() {
        let lease = json!({"metadata": {"name": "n2"}});
        assert_eq!(
            create("coordination.k8s.io", "leases", NODE_LEASES, lease).unwrap_err(),
            "leases.coordination.k8s.io \"n2\" is forbidden: can only access node lease with the same name as the \
             requesting node"
        );
    }

    #[test]
    fn others_are_not_restricted() {
        let user = UserInfo { name: "system:node:n1".into(), ..UserInfo::default() };
        let update = request(Operation::Update, "", "persistentvolumeclaims", &user);
        assert_eq!(World::new().run("NodeRestriction", &update, json!({})), Ok(json!({})));
    }
}
