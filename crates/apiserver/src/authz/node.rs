//! The node authorizer: what kubelets may do. They read the secrets, config maps, claims, volumes and service accounts of pods
//! bound to their node, their own Node, Lease and CSINode, and otherwise what the role `system:node` says.
//!
//! Upstream keeps a graph of all objects. Here the relations of one namespace are derived from its pods when a kubelet asks, and
//! kept until a pod changes; a pod that did not change is not parsed again.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use api::Value;
use parking_lot::Mutex;
use store::Revision;

use super::{Decision, FieldEquals, PolicyRule};
use crate::{
    attributes::{Action, UserInfo},
    source::ObjectSource,
};

const USER_PREFIX: &str = "system:node:";
const NODES_GROUP: &str = "system:nodes";
const NODE_LEASE_NAMESPACE: &str = "kube-node-lease";

/// Is the user a kubelet? `Some("")` is one without a node name.
pub fn node_name(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix(USER_PREFIX)?;
    user.in_group(NODES_GROUP).then_some(name)
}

/// Authorizes kubelets; has no opinion on anybody else.
pub struct NodeAuthorizer {
    source: Arc<dyn ObjectSource>,
    rules: Vec<PolicyRule>,
    namespaces: Mutex<HashMap<String, Arc<NamespaceRefs>>>,
}

impl std::fmt::Debug for NodeAuthorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeAuthorizer").finish_non_exhaustive()
    }
}

/// What a pod refers to, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RefKind {
    Pod,
    Secret,
    ConfigMap,
    Claim,
    ResourceClaim,
    ServiceAccount,
}

type Refs = BTreeSet<(RefKind, String)>;

/// Relations of one namespace: node to what its pods refer to.
#[derive(Debug, Default)]
struct NamespaceRefs {
    version: Revision,
    pods: HashMap<String, (Revision, Arc<PodRefs>)>,
    by_node: HashMap<String, Vec<Arc<PodRefs>>>,
}

#[derive(Debug)]
struct PodRefs {
    node: String,
    refs: Refs,
}

impl NodeAuthorizer {
    pub fn new(source: Arc<dyn ObjectSource>) -> Self {
        let rules = crate::bootstrap::rbac::cluster_role_rules("system:node");
        Self { source, rules, namespaces: Mutex::default() }
    }

    pub fn authorize(&self, user: &UserInfo, action: &Action, fields: FieldEquals<'_>) -> Decision {
        let Some(node) = node_name(user) else { return Decision::pass("") };
        if node.is_empty() {
            return Decision::pass(format!("unknown node for user {}", api::field::go_quote(&user.name)));
        }
        let Action::Resource { verb, group, resource, subresource, namespace, name, .. } = action else {
            return self.by_rules(action);
        };
        let ask = Ask { node, verb, subresource, namespace, name, fields };
        match (group.as_str(), resource.as_str()) {
            ("", "secrets") => self.read_namespaced(&ask, RefKind::Secret),
            ("", "configmaps") => self.read_namespaced(&ask, RefKind::ConfigMap),
            ("", "persistentvolumeclaims") if subresource == "status" => match verb.as_str() {
                "update" | "patch" => self.related(&ask, RefKind::Claim),
                _ => Decision::pass("can only get/update/patch this type"),
            },
            ("", "persistentvolumeclaims") => self.get(&ask, |a| self.related(a, RefKind::Claim)),
            ("", "persistentvolumes") => self.get(&ask, |a| self.related_if(a, self.reaches_volume(a.node, a.name))),
            ("resource.k8s.io", "resourceclaims") => self.get(&ask, |a| self.related(a, RefKind::ResourceClaim)),
            ("storage.k8s.io", "volumeattachments") => self.get(&ask, |a| {
                self.related_if(a, self.field_is("storage.k8s.io", "volumeattachments", a.name, "nodeName", a.node))
            }),
            // For credentials of image registries that are those of the pod.
            ("", "serviceaccounts") if verb == "get" => self.get(&ask, |a| self.related(a, RefKind::ServiceAccount)),
            ("", "serviceaccounts") => self.create_token(&ask),
            ("coordination.k8s.io", "leases") => lease(&ask),
            ("storage.k8s.io", "csinodes") => csi_node(&ask),
            ("resource.k8s.io", "resourceslices") => self.resource_slice(&ask),
            ("", "nodes") => own_node(&ask),
            ("", "pods") => self.pod(&ask),
            _ => self.by_rules(action),
        }
    }

    fn by_rules(&self, action: &Action) -> Decision {
        if self.rules.iter().any(|rule| rule.allows(action)) { Decision::allow() } else { Decision::pass("") }
    }

    fn get(&self, ask: &Ask<'_>, then: impl Fn(&Ask<'_>) -> Decision) -> Decision {
        if ask.verb != "get" {
            return Decision::pass("can only get individual resources of this type");
        }
        if !ask.subresource.is_empty() {
            return Decision::pass("cannot get subresource");
        }
        then(ask)
    }

    fn read_namespaced(&self, ask: &Ask<'_>, kind: RefKind) -> Decision {
        if !matches!(ask.verb, "get" | "list" | "watch") {
            return Decision::pass("can only read resources of this type");
        }
        if !ask.subresource.is_empty() {
            return Decision::pass("cannot read subresource");
        }
        if ask.namespace.is_empty() {
            return Decision::pass("can only read namespaced object of this type");
        }
        self.related(ask, kind)
    }

    fn create_token(&self, ask: &Ask<'_>) -> Decision {
        if ask.verb != "create" || ask.name.is_empty() {
            return Decision::pass("can only create tokens for individual service accounts");
        }
        if ask.subresource != "token" {
            return Decision::pass("can only create token subresource of serviceaccount");
        }
        self.related(ask, RefKind::ServiceAccount)
    }

    fn resource_slice(&self, ask: &Ask<'_>) -> Decision {
        if !ask.subresource.is_empty() {
            return Decision::pass("cannot authorize ResourceSlice subresources");
        }
        match ask.verb {
            "create" => Decision::allow(),
            "get" | "update" | "patch" | "delete" => {
                let own = self.field_is("resource.k8s.io", "resourceslices", ask.name, "nodeName", ask.node);
                self.related_if(ask, own)
            }
            "watch" | "list" | "deletecollection" => {
                if ask.selects("spec.nodeName") {
                    Decision::allow()
                } else {
                    Decision::pass("can only list/watch/deletecollection resourceslices with nodeName field selector")
                }
            }
            _ => Decision::pass(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, \
                 delete, deletecollection",
            ),
        }
    }

    fn pod(&self, ask: &Ask<'_>) -> Decision {
        match (ask.subresource, ask.verb) {
            ("", "get") => self.related(ask, RefKind::Pod),
            ("", "list" | "watch") if ask.selects("spec.nodeName") => Decision::allow(),
            ("", "list" | "watch") if !ask.name.is_empty() => self.related(ask, RefKind::Pod),
            ("", "list" | "watch") => Decision::pass("can only list/watch pods with spec.nodeName field selector"),
            // Admission (NodeRestriction) limits these to mirror pods and pods of the node.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Decision::allow(),
            _ => Decision::pass(""),
        }
    }

    fn related(&self, ask: &Ask<'_>, kind: RefKind) -> Decision {
        let found = !ask.name.is_empty() && self.refers(ask.node, ask.namespace, kind, ask.name);
        self.related_if(ask, found || (kind == RefKind::Secret && self.reaches_secret_of_volume(ask)))
    }

    fn related_if(&self, ask: &Ask<'_>, related: bool) -> Decision {
        if ask.name.is_empty() {
            return Decision::pass("No Object name found");
        }
        if related {
            return Decision::allow();
        }
        Decision::pass(format!("no relationship found between node '{}' and this object", ask.node))
    }

    /// Does a pod of `namespace` bound to `node` refer to the object?
    fn refers(&self, node: &str, namespace: &str, kind: RefKind, name: &str) -> bool {
        let key = (kind, name.to_owned());
        let refs = self.namespace(namespace);
        refs.by_node.get(node).is_some_and(|pods| pods.iter().any(|pod| pod.refs.contains(&key)))
    }

    /// Is the volume bound to a claim of a pod on the node?
    fn reaches_volume(&self, node: &str, volume: &str) -> bool {
        let Some(stored) = self.source.get("", "persistentvolumes", "", volume) else { return false };
        let Some(object) = stored.parse() else { return false };
        self.claim_of(&object).is_some_and(|(namespace, claim)| self.refers(node, namespace, RefKind::Claim, claim))
    }

    fn claim_of<'v>(&self, volume: &'v Value) -> Option<(&'v str, &'v str)> {
        let claim = volume.pointer("/spec/claimRef")?;
        Some((claim.get("namespace")?.as_str()?, claim.get("name")?.as_str()?))
    }

    /// Secrets that only a volume names: node <- pod <- claim <- volume <- secret.
    fn reaches_secret_of_volume(&self, ask: &Ask<'_>) -> bool {
        if ask.name.is_empty() {
            return false;
        }
        self.source.list("", "persistentvolumes", "").iter().any(|stored| {
            // Most volumes name no secret; do not parse those.
            if !contains(&stored.json, ask.name.as_bytes()) {
                return false;
            }
            let Some(object) = stored.parse() else { return false };
            let Some((namespace, claim)) = self.claim_of(&object) else { return false };
            volume_secrets(&object, namespace).contains(&(ask.namespace.to_owned(), ask.name.to_owned()))
                && self.refers(ask.node, namespace, RefKind::Claim, claim)
        })
    }

    fn field_is(&self, group: &str, resource: &str, name: &str, field: &str, value: &str) -> bool {
        let Some(stored) = self.source.get(group, resource, "", name) else { return false };
        let Some(object) = stored.parse() else { return false };
        object.get("spec").and_then(|spec| spec.get(field)).and_then(Value::as_str) == Some(value)
    }

    fn namespace(&self, namespace: &str) -> Arc<NamespaceRefs> {
        let version = self.source.last_change("", "pods");
        let mut namespaces = self.namespaces.lock();
        let known = namespaces.get(namespace).cloned().unwrap_or_default();
        if known.version == version && version != Revision(0) {
            return known;
        }
        let fresh = Arc::new(refresh(self.source.as_ref(), namespace, version, &known));
        if fresh.pods.is_empty() {
            namespaces.remove(namespace);
        } else {
            namespaces.insert(namespace.to_owned(), fresh.clone());
        }
        fresh
    }
}

struct Ask<'a> {
    node: &'a str,
    verb: &'a str,
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
    fields: FieldEquals<'a>,
}

impl Ask<'_> {
    /// The field selector narrows to objects of the node.
    fn selects(&self, field: &str) -> bool {
        self.fields.iter().any(|(f, value)| f == field && value == self.node)
    }
}

fn lease(ask: &Ask<'_>) -> Decision {
    if !matches!(ask.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Decision::pass("can only get, create, update, patch, or delete a node lease");
    }
    if ask.namespace != NODE_LEASE_NAMESPACE {
        return Decision::pass(format!("can only access leases in the \"{NODE_LEASE_NAMESPACE}\" system namespace"));
    }
    // A create has no name yet; admission looks at the object.
    if ask.verb != "create" && ask.name != ask.node {
        return Decision::pass("can only access node lease with the same name as the requesting node");
    }
    Decision::allow()
}

fn csi_node(ask: &Ask<'_>) -> Decision {
    if !matches!(ask.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Decision::pass("can only get, create, update, patch, or delete a CSINode");
    }
    if !ask.subresource.is_empty() {
        return Decision::pass("cannot authorize CSINode subresources");
    }
    if ask.verb != "create" && ask.name != ask.node {
        return Decision::pass("can only access CSINode with the same name as the requesting node");
    }
    Decision::allow()
}

fn own_node(ask: &Ask<'_>) -> Decision {
    match (ask.subresource, ask.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Decision::allow(),
        ("", "get" | "list" | "watch") if ask.name == ask.node => Decision::allow(),
        ("", "get" | "list" | "watch") if ask.name.is_empty() => {
            Decision::pass(format!("node '{}' cannot read all nodes, only its own Node object", ask.node))
        }
        ("", "get" | "list" | "watch") => {
            Decision::pass(format!("node '{}' cannot read '{}', only its own Node object", ask.node, ask.name))
        }
        _ => Decision::pass(""),
    }
}

fn refresh(source: &dyn ObjectSource, namespace: &str, version: Revision, known: &NamespaceRefs) -> NamespaceRefs {
    let mut fresh = NamespaceRefs { version, ..NamespaceRefs::default() };
    for stored in source.list("", "pods", namespace) {
        let refs = match known.pods.get(&stored.name) {
            Some((revision, refs)) if *revision == stored.mod_revision => refs.clone(),
            _ => {
                let Some(pod) = stored.parse() else { continue };
                Arc::new(pod_refs(&pod))
            }
        };
        if !refs.node.is_empty() {
            fresh.by_node.entry(refs.node.clone()).or_default().push(refs.clone());
        }
        fresh.pods.insert(stored.name.clone(), (stored.mod_revision, refs));
    }
    fresh
}

/// Everything a pod bound to a node lets that node read. A mirror pod only relates to itself.
fn pod_refs(pod: &Value) -> PodRefs {
    let spec = &pod["spec"];
    let node = spec["nodeName"].as_str().unwrap_or_default().to_owned();
    let mut refs = Refs::new();
    let name = api::meta::name(pod);
    refs.insert((RefKind::Pod, name.to_owned()));
    let is_mirror =
        pod.pointer("/metadata/annotations").is_some_and(|a| a.get("kubernetes.io/config.mirror").is_some());
    if is_mirror || node.is_empty() {
        return PodRefs { node, refs };
    }
    if let Some(account) = spec["serviceAccountName"].as_str() {
        refs.insert((RefKind::ServiceAccount, account.to_owned()));
    }
    refs.extend(secret_names(spec).into_iter().map(|n| (RefKind::Secret, n)));
    refs.extend(config_map_names(spec).into_iter().map(|n| (RefKind::ConfigMap, n)));
    for volume in items(spec, "volumes") {
        if let Some(claim) = volume["persistentVolumeClaim"]["claimName"].as_str() {
            refs.insert((RefKind::Claim, claim.to_owned()));
        } else if !volume["ephemeral"].is_null() {
            let volume_name = volume["name"].as_str().unwrap_or_default();
            refs.insert((RefKind::Claim, format!("{name}-{volume_name}")));
        }
    }
    for claim in items(spec, "resourceClaims") {
        if let Some(direct) = claim["resourceClaimName"].as_str() {
            refs.insert((RefKind::ResourceClaim, direct.to_owned()));
        }
    }
    for status in items(&pod["status"], "resourceClaimStatuses") {
        if let Some(generated) = status["resourceClaimName"].as_str() {
            refs.insert((RefKind::ResourceClaim, generated.to_owned()));
        }
    }
    if let Some(extended) = pod.pointer("/status/extendedResourceClaimStatus/resourceClaimName").and_then(Value::as_str)
    {
        refs.insert((RefKind::ResourceClaim, extended.to_owned()));
    }
    PodRefs { node, refs }
}

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Names of the secrets a pod spec refers to anywhere.
pub(crate) fn secret_names(spec: &Value) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let mut add = |value: &Value| {
        if let Some(name) = value.as_str().filter(|n| !n.is_empty()) {
            out.insert(name.to_owned());
        }
    };
    for pull in items(spec, "imagePullSecrets") {
        add(&pull["name"]);
    }
    for container in CONTAINER_LISTS.iter().flat_map(|list| items(spec, list)) {
        for env in items(container, "env") {
            add(&env["valueFrom"]["secretKeyRef"]["name"]);
        }
        for source in items(container, "envFrom") {
            add(&source["secretRef"]["name"]);
        }
    }
    for volume in items(spec, "volumes") {
        add(&volume["secret"]["secretName"]);
        add(&volume["azureFile"]["secretName"]);
        for kind in ["cephfs", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
            add(&volume[kind]["secretRef"]["name"]);
        }
        add(&volume["csi"]["nodePublishSecretRef"]["name"]);
        for source in items(&volume["projected"], "sources") {
            add(&source["secret"]["name"]);
        }
    }
    out
}

/// Names of the config maps a pod spec refers to anywhere.
pub(crate) fn config_map_names(spec: &Value) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let mut add = |value: &Value| {
        if let Some(name) = value.as_str().filter(|n| !n.is_empty()) {
            out.insert(name.to_owned());
        }
    };
    for container in CONTAINER_LISTS.iter().flat_map(|list| items(spec, list)) {
        for env in items(container, "env") {
            add(&env["valueFrom"]["configMapKeyRef"]["name"]);
        }
        for source in items(container, "envFrom") {
            add(&source["configMapRef"]["name"]);
        }
    }
    for volume in items(spec, "volumes") {
        add(&volume["configMap"]["name"]);
        for source in items(&volume["projected"], "sources") {
            add(&source["configMap"]["name"]);
        }
    }
    out
}

/// Namespace and name of each secret a volume names; the claim's namespace where the volume leaves it out.
fn volume_secrets(volume: &Value, claim_namespace: &str) -> BTreeSet<(String, String)> {
    const REFS: [(&str, &str); 8] = [
        ("cephfs", "secretRef"),
        ("flexVolume", "secretRef"),
        ("rbd", "secretRef"),
        ("scaleIO", "secretRef"),
        ("iscsi", "secretRef"),
        ("storageos", "secretRef"),
        ("csi", "nodePublishSecretRef"),
        ("csi", "nodeStageSecretRef"),
    ];
    let spec = &volume["spec"];
    let mut out = BTreeSet::new();
    let mut add = |namespace: &Value, name: &Value| {
        if let Some(name) = name.as_str().filter(|n| !n.is_empty()) {
            let namespace = namespace.as_str().filter(|n| !n.is_empty()).unwrap_or(claim_namespace);
            out.insert((namespace.to_owned(), name.to_owned()));
        }
    };
    for (kind, field) in REFS {
        add(&spec[kind][field]["namespace"], &spec[kind][field]["name"]);
    }
    add(&spec["csi"]["nodeExpandSecretRef"]["namespace"], &spec["csi"]["nodeExpandSecretRef"]["name"]);
    add(&spec["azureFile"]["secretNamespace"], &spec["azureFile"]["secretName"]);
    out
}

fn items<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().map_or(&[][..], Vec::as_slice).iter()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::MemorySource;
    use api::json;

    fn kubelet() -> UserInfo {
        UserInfo { name: "system:node:n1".into(), groups: vec!["system:nodes".into()], ..UserInfo::default() }
    }

    fn action(verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> Action {
        Action::Resource {
            verb: verb.into(),
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: String::new(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    fn source() -> MemorySource {
        let source = MemorySource::new();
        source.put(
            "",
            "pods",
            json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {
                "nodeName": "n1", "serviceAccountName": "sa",
                "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "cm"}}]}],
                "volumes": [{"name": "v", "secret": {"secretName": "s"}},
                            {"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]}}),
        );
        source.put(
            "",
            "persistentvolumes",
            json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"namespace": "ns", "name": "c"},
                   "csi": {"nodePublishSecretRef": {"namespace": "infra", "name": "csi-secret"}}}}),
        );
        source
    }

    fn check(source: &MemorySource, action: Action) -> (bool, String) {
        let decision = NodeAuthorizer::new(source.clone().shared()).authorize(&kubelet(), &action, &[]);
        (decision.allowed, decision.reason.text())
    }

    #[test]
    fn a_kubelet_reads_what_its_pods_refer_to() {
        let source = source();
        for (group, resource, namespace, name) in [
            ("", "secrets", "ns", "s"),
            ("", "configmaps", "ns", "cm"),
            ("", "persistentvolumeclaims", "ns", "c"),
            ("", "persistentvolumes", "", "pv"),
            ("", "secrets", "infra", "csi-secret"),
            ("", "pods", "ns", "p"),
            ("", "nodes", "", "n1"),
        ] {
            assert_eq!(
                check(&source, action("get", group, resource, namespace, name)),
                (true, String::new()),
                "{resource}"
            );
        }
    }

    #[test]
    fn a_kubelet_reads_nothing_else() {
        let source = source();
        let unrelated = "no relationship found between node 'n1' and this object";
        assert_eq!(check(&source, action("get", "", "secrets", "ns", "other")), (false, unrelated.into()));
        assert_eq!(check(&source, action("list", "", "secrets", "ns", "")), (false, "No Object name found".into()));
        assert_eq!(
            check(&source, action("get", "", "nodes", "", "other")),
            (false, "node 'n1' cannot read 'other', only its own Node object".into())
        );
        assert_eq!(
            check(&source, action("list", "", "pods", "ns", "")),
            (false, "can only list/watch pods with spec.nodeName field selector".into())
        );
    }

    #[test]
    fn a_pod_moved_to_another_node_takes_its_secrets_along() {
        let source = source();
        let authorizer = NodeAuthorizer::new(source.clone().shared());
        let get = action("get", "", "secrets", "ns", "s");
        assert!(authorizer.authorize(&kubelet(), &get, &[]).allowed);
        source.put(
            "",
            "pods",
            json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"nodeName": "n2", "volumes": [
                {"name": "v", "secret": {"secretName": "s"}}]}}),
        );
        assert!(!authorizer.authorize(&kubelet(), &get, &[]).allowed);
    }

    #[test]
    fn pods_are_listed_with_a_selector_for_the_own_node() {
        let authorizer = NodeAuthorizer::new(source().shared());
        let list = action("list", "", "pods", "", "");
        let own = [("spec.nodeName".to_owned(), "n1".to_owned())];
        let other = [("spec.nodeName".to_owned(), "n2".to_owned())];
        assert!(authorizer.authorize(&kubelet(), &list, &own).allowed);
        assert!(!authorizer.authorize(&kubelet(), &list, &other).allowed);
    }

    #[test]
    fn slices_of_the_own_node_are_listed_and_deleted_by_selector() {
        let authorizer = NodeAuthorizer::new(source().shared());
        let of = |node: &str| [("spec.nodeName".to_owned(), node.to_owned())];
        for verb in ["list", "watch", "deletecollection"] {
            let action = action(verb, "resource.k8s.io", "resourceslices", "", "");
            assert!(authorizer.authorize(&kubelet(), &action, &of("n1")).allowed);
            assert!(!authorizer.authorize(&kubelet(), &action, &of("n2")).allowed);
        }
    }

    #[test]
    fn accounts_of_pods_on_the_node_are_read() {
        let source = source();
        assert!(check(&source, action("get", "", "serviceaccounts", "ns", "sa")).0);
        assert!(!check(&source, action("get", "", "serviceaccounts", "ns", "other")).0);
        assert!(!check(&source, action("list", "", "serviceaccounts", "ns", "")).0);
    }

    #[test]
    fn other_resources_follow_the_role_of_nodes() {
        let source = source();
        assert!(check(&source, action("list", "", "services", "", "")).0);
        assert!(!check(&source, action("list", "apps", "deployments", "", "")).0);
    }
}
