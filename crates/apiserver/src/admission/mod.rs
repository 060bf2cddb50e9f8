//! Admission: what the cluster as a whole says about a write that the schema allows and the user may do.
//!
//! Plugins run in upstream's order: first all that change the object, then, when it is complete, all that only judge it. A plugin
//! is a file with two optional functions over values; it reads other objects and never writes any. Mutating policies and
//! webhooks run after [`Chain::admit`], validating ones after [`Chain::validate`], and [`quota`] comes last, because only it
//! charges for what everybody else has let pass.
//!
//! A write asks [`awaited`] first, then runs the phases. Plugins append fields where they are missing: put the object back into
//! schema order before it is encoded. To add a plugin: a file with `admit` or `validate` (imitate `priority`), a row of
//! [`PLUGINS`] at upstream's place, tests on literal objects with `testing::World`.

mod certificates;
mod default_classes;
mod default_toleration_seconds;
mod limit_ranger;
mod namespace_lifecycle;
mod node_declared_features;
mod node_restriction;
mod node_taint;
mod patience;
mod pod_resize;
mod pod_security;
mod pod_topology_labels;
mod priority;
mod pvc_resize;
pub mod quota;
mod runtime_class;
mod service_account;
mod storage_protection;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Status, Value, meta, status::GroupResource};

use crate::{
    attributes::{Action, UserInfo},
    authz::Authorizer,
    source::ObjectSource,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

pub use patience::{Awaited, awaited};

/// What is being done, apart from the object itself.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub operation: Operation,
    pub group: &'a str,
    pub version: &'a str,
    /// Kind of the object, e.g. `Binding` for pods/binding.
    pub kind: &'a str,
    pub resource: &'a str,
    /// Empty for the resource itself.
    pub subresource: &'a str,
    /// Empty for cluster scope.
    pub namespace: &'a str,
    /// Name in the URL or in the object; empty while it is to be generated.
    pub name: &'a str,
    pub user: &'a UserInfo,
    pub dry_run: bool,
    /// The object before an update or delete.
    pub old: Option<&'a Value>,
}

impl Request<'_> {
    fn is(&self, group: &str, resource: &str) -> bool {
        self.group == group && self.resource == resource
    }

    /// The resource itself, none of its subresources.
    fn is_whole(&self, group: &str, resource: &str) -> bool {
        self.is(group, resource) && self.subresource.is_empty()
    }

    pub fn group_resource(&self) -> GroupResource<'_> {
        GroupResource { group: self.group, resource: self.resource }
    }

    /// The 403 of a plugin.
    pub fn forbidden(&self, object: &Value, text: &str) -> Status {
        forbidden(self.group_resource(), self.name, object, text)
    }
}

/// A refusal by something in the chain. An object without a name goes by what its name will start with.
pub fn forbidden(resource: GroupResource<'_>, name: &str, object: &Value, text: &str) -> Status {
    let named = [name, meta::name(object), meta::metadata_str(object, "generateName"), "Unknown"];
    let name = named.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
    Status::forbidden(resource, name, text)
}

/// What plugins may look at, and where they put what is not the object.
pub struct Context<'a> {
    pub source: &'a dyn ObjectSource,
    pub authorizer: &'a Authorizer,
    pub config: &'a Config,
    /// Five random characters for generated names (lower-case letters and digits, as the name generator makes them).
    pub suffix: &'a str,
    /// Sent to the client as Warning headers.
    pub warnings: Vec<String>,
    /// For the audit log.
    pub audit: BTreeMap<String, String>,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("warnings", &self.warnings).finish_non_exhaustive()
    }
}

impl<'a> Context<'a> {
    pub fn new(source: &'a dyn ObjectSource, authorizer: &'a Authorizer, config: &'a Config, suffix: &'a str) -> Self {
        Self { source, authorizer, config, suffix, warnings: Vec::new(), audit: BTreeMap::new() }
    }

    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.source.parsed(&self.source.get(group, resource, namespace, name)?)
    }

    fn label(&self, group: &str, resource: &str, namespace: &str, name: &str, label: &str) -> Option<String> {
        self.source.label(group, resource, namespace, name, label)
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        let objects = self.source.list(group, resource, namespace);
        objects.iter().filter_map(|stored| self.source.parsed(stored)).collect()
    }

    /// May the user do `verb` to the signer, or to all signers of its domain?
    fn may_sign(&self, user: &UserInfo, verb: &str, signer: &str) -> bool {
        let domain = signer.split('/').next().unwrap_or_default();
        [signer.to_owned(), format!("{domain}/*")].into_iter().any(|name| {
            let action = Action::Resource {
                verb: verb.to_owned(),
                group: "certificates.k8s.io".to_owned(),
                version: "*".to_owned(),
                resource: "signers".to_owned(),
                subresource: String::new(),
                namespace: String::new(),
                name,
            };
            self.authorizer.authorize(user, &action).allowed
        })
    }
}

/// Settings of plugins that have any.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--default-not-ready-toleration-seconds`
    pub not_ready_toleration_seconds: i64,
    /// `--default-unreachable-toleration-seconds`
    pub unreachable_toleration_seconds: i64,
}

impl Default for Config {
    fn default() -> Self {
        Self { not_ready_toleration_seconds: 300, unreachable_toleration_seconds: 300 }
    }
}

type Admit = fn(&Request<'_>, &mut Value, &mut Context<'_>) -> Result<(), Status>;
type Validate = fn(&Request<'_>, &Value, &mut Context<'_>) -> Result<(), Status>;

/// One plugin. An object that a request does not have (DELETE, CONNECT) is null.
struct Plugin {
    name: &'static str,
    default_on: bool,
    admit: Option<Admit>,
    validate: Option<Validate>,
}

const fn on(name: &'static str, admit: Option<Admit>, validate: Option<Validate>) -> Plugin {
    Plugin { name, default_on: true, admit, validate }
}

/// Every plugin there is, in upstream's order.
const PLUGINS: &[Plugin] = &[
    on("NamespaceLifecycle", Some(namespace_lifecycle::admit), None),
    on("LimitRanger", Some(limit_ranger::admit), Some(limit_ranger::validate)),
    on("ServiceAccount", Some(service_account::admit), Some(service_account::validate)),
    Plugin { name: "NodeRestriction", default_on: false, admit: None, validate: Some(node_restriction::validate) },
    on("TaintNodesByCondition", Some(node_taint::admit), None),
    on("PodSecurity", None, Some(pod_security::validate)),
    on("Priority", Some(priority::admit), Some(priority::validate)),
    on("DefaultTolerationSeconds", Some(default_toleration_seconds::admit), None),
    on("DefaultStorageClass", Some(default_classes::admit_claim), None),
    on("StorageObjectInUseProtection", Some(storage_protection::admit), None),
    on("PersistentVolumeClaimResize", None, Some(pvc_resize::validate)),
    on("RuntimeClass", Some(runtime_class::admit), Some(runtime_class::validate)),
    on("CertificateApproval", None, Some(certificates::validate_approval)),
    on("CertificateSigning", None, Some(certificates::validate_signing)),
    on("ClusterTrustBundleAttest", None, Some(certificates::validate_attest)),
    on("CertificateSubjectRestriction", None, Some(certificates::validate_subject)),
    on("DefaultIngressClass", Some(default_classes::admit_ingress), None),
    on("PodTopologyLabels", Some(pod_topology_labels::admit), None),
    on("NodeDeclaredFeatureValidator", None, Some(node_declared_features::validate)),
    on("PodResizeValidator", None, Some(pod_resize::validate)),
];

/// The plugins of one server.
#[derive(Clone)]
pub struct Chain {
    plugins: Vec<&'static Plugin>,
    quota: bool,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.plugins.iter().map(|plugin| plugin.name)).finish()
    }
}

/// A name that is no plugin's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("admission plugin {0} is unknown")]
pub struct UnknownPlugin(pub String);

/// Plugins that others run at their place in the order: policies, webhooks, quota.
const ELSEWHERE: [&str; 5] = [
    "MutatingAdmissionPolicy",
    "MutatingAdmissionWebhook",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook",
    "ResourceQuota",
];

impl Chain {
    /// The default plugins, with some added and some left out. Names given to no effect are fine, unknown ones are not.
    pub fn new(enable: &[String], disable: &[String]) -> Result<Self, UnknownPlugin> {
        for name in enable.iter().chain(disable) {
            let known = PLUGINS.iter().any(|plugin| plugin.name == name) || ELSEWHERE.contains(&name.as_str());
            if !known {
                return Err(UnknownPlugin(name.clone()));
            }
        }
        let listed = |names: &[String], name: &str| names.iter().any(|n| n == name);
        let wanted =
            |plugin: &&Plugin| (plugin.default_on || listed(enable, plugin.name)) && !listed(disable, plugin.name);
        Ok(Self { plugins: PLUGINS.iter().filter(wanted).collect(), quota: !listed(disable, "ResourceQuota") })
    }

    /// [`quota`] is to be enforced.
    pub fn enforces_quota(&self) -> bool {
        self.quota
    }

    /// The mutating phase: before defaults of the strategy, policies and webhooks.
    pub fn admit(&self, request: &Request<'_>, object: &mut Value, ctx: &mut Context<'_>) -> Result<(), Status> {
        self.plugins.iter().filter_map(|plugin| plugin.admit).try_for_each(|admit| admit(request, object, ctx))
    }

    /// The validating phase: after validation of the object, before policies, webhooks and quota.
    pub fn validate(&self, request: &Request<'_>, object: &Value, ctx: &mut Context<'_>) -> Result<(), Status> {
        self.plugins.iter().filter_map(|plugin| plugin.validate).try_for_each(|validate| validate(request, object, ctx))
    }
}

/// Items of a list field; none when it is absent.
fn items<'a>(value: &'a Value, field: &str) -> std::slice::Iter<'a, Value> {
    value[field].as_array().map_or(&[][..], Vec::as_slice).iter()
}

/// The list at `object[field]`, made if there is none.
fn list_mut<'a>(object: &'a mut Value, field: &str) -> Option<&'a mut Vec<Value>> {
    if object[field].is_null() {
        object[field] = Value::Array(Vec::new());
    }
    object[field].as_array_mut()
}

#[cfg(test)]
mod testing {
    //! A cluster in memory and a way to run one plugin on it.

    use api::json;

    use super::*;
    use crate::source::testing::MemorySource;

    pub(super) struct World {
        pub(super) source: MemorySource,
        authorizer: Authorizer,
        config: Config,
    }

    impl World {
        /// A cluster with the namespace `ns` and its default service account.
        pub(super) fn new() -> Self {
            let source = MemorySource::new();
            source.put("", "namespaces", json!({"metadata": {"name": "ns"}}));
            source.put("", "serviceaccounts", json!({"metadata": {"name": "default", "namespace": "ns"}}));
            let authorizer = Authorizer::new(source.clone().shared());
            Self { source, authorizer, config: Config::default() }
        }

        pub(super) fn with(self, group: &str, resource: &str, object: Value) -> Self {
            self.source.put(group, resource, object);
            self
        }

        pub(super) fn ctx(&self) -> Context<'_> {
            Context::new(&self.source, &self.authorizer, &self.config, "x7k2p")
        }

        /// The object after both phases of one plugin.
        pub(super) fn run(&self, plugin: &str, request: &Request<'_>, object: Value) -> Result<Value, String> {
            let plugin = PLUGINS.iter().find(|p| p.name == plugin).expect("a plugin of the chain");
            let (mut object, mut ctx) = (object, self.ctx());
            if let Some(admit) = plugin.admit {
                admit(request, &mut object, &mut ctx).map_err(|status| status.message)?;
            }
            if let Some(validate) = plugin.validate {
                validate(request, &object, &mut ctx).map_err(|status| status.message)?;
            }
            Ok(object)
        }
    }

    pub(super) fn request<'a>(
        operation: Operation,
        group: &'a str,
        resource: &'a str,
        user: &'a UserInfo,
    ) -> Request<'a> {
        Request {
            operation,
            group,
            version: "v1",
            kind: "",
            resource,
            subresource: "",
            namespace: "ns",
            name: "",
            user,
            dry_run: false,
            old: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_switched_by_name_and_unknown_names_refused() {
        let names = |chain: &Chain| chain.plugins.iter().map(|p| p.name).collect::<Vec<_>>();
        let chain = Chain::new(&["NodeRestriction".into()], &["Priority".into()]).unwrap();
        assert_eq!(
            names(&chain)[..5],
            ["NamespaceLifecycle", "LimitRanger", "ServiceAccount", "NodeRestriction", "TaintNodesByCondition"]
        );
        assert!(!names(&chain).contains(&"Priority"));
        assert!(!names(&Chain::new(&[], &[]).unwrap()).contains(&"NodeRestriction"));
        assert_eq!(Chain::new(&["Bogus".into()], &[]).unwrap_err(), UnknownPlugin("Bogus".into()));
    }
}
