//! Which paths and operations a kind has.

use crate::{
    Kind,
    discovery::ApiGroup,
    kind::{Str, Subresource},
};

use super::{
    definitions::meta,
    operations::{
        Body, DELETE, DELETE_COLLECTION, LIST, NAME, NAMESPACE, NO_PARAMETERS, Operation, PATCH, PRETTY, PROXY_PATH,
        Parameter, Produces, WRITE,
    },
};

const WATCH_ONE: &str = "deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the \
                         'fieldSelector' parameter.";
const WATCH_LIST: &str = "deprecated: use the 'watch' parameter with a list operation instead.";

/// One path with its operations.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) path: String,
    pub(super) group: String,
    pub(super) version: String,
    /// Kind named in the description of the `name` parameter.
    pub(super) kind: String,
    pub(super) parameters: Vec<Parameter>,
    pub(super) operations: Vec<Operation>,
}

/// `networking` to `Networking`.
pub(super) fn pascal(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// `AppsV1`, `RbacAuthorizationV1`, `CoreV1`: the middle of operation ids.
fn id_part(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.strip_suffix(".k8s.io").unwrap_or(group) };
    group.split('.').map(pascal).collect::<String>() + &pascal(version)
}

fn prefix(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

fn document(path: String, group: &str, version: &str, id: String, description: &str, response: &str) -> Path {
    let operation = Operation {
        method: "get",
        id,
        description: description.to_owned(),
        action: "",
        gvk: None,
        parameters: NO_PARAMETERS,
        body: Body::None,
        produces: Produces::Object,
        codes: &[200],
        response: meta(response),
    };
    Path {
        path,
        group: group.to_owned(),
        version: version.to_owned(),
        kind: String::new(),
        parameters: Vec::new(),
        operations: vec![operation],
    }
}

/// The list of resources of a group and version.
pub(super) fn resources_path(group: &str, version: &str) -> Path {
    let path = format!("{}/", prefix(group, version));
    let id = format!("get{}APIResources", id_part(group, version));
    document(path, group, version, id, "get available resources", "APIResourceList")
}

/// `/api/`, `/apis/` and `/apis/GROUP/`.
pub(super) fn roots(groups: &[ApiGroup<'_>]) -> Vec<Path> {
    let versions = "get available API versions";
    let mut out = vec![
        document("/api/".into(), "", "", "getCoreAPIVersions".into(), versions, "APIVersions"),
        document("/apis/".into(), "apis", "", "getAPIVersions".into(), versions, "APIGroupList"),
    ];
    for group in groups.iter().filter(|g| !g.name.is_empty()) {
        let id = format!("get{}APIGroup", id_part(group.name, ""));
        let path = format!("/apis/{}/", group.name);
        out.push(document(path, group.name, "", id, "get information of a group", "APIGroup"));
    }
    out
}

/// All paths of a kind and its subresources.
pub(super) fn of_kind(kind: &Kind) -> Vec<Path> {
    let paths = Paths { kind, base: prefix(&kind.group, &kind.version), id: id_part(&kind.group, &kind.version) };
    let mut out = vec![paths.collection()];
    if kind.verbs.iter().any(|v| v == "get") {
        out.push(paths.item());
    }
    if kind.namespaced && kind.has_verb("list") {
        out.push(paths.all_namespaces());
    }
    if kind.has_verb("watch") {
        out.extend(paths.watches());
    }
    out.extend(kind.subresources.iter().flat_map(|sub| paths.subresource(sub)));
    out.retain(|path| !path.operations.is_empty());
    out
}

struct Paths<'k> {
    kind: &'k Kind,
    /// `/apis/apps/v1`
    base: String,
    /// `AppsV1`
    id: String,
}

impl Paths<'_> {
    fn path(&self, path: String, parameters: Vec<Parameter>, operations: Vec<Operation>) -> Path {
        Path {
            path,
            group: self.kind.group.to_string(),
            version: self.kind.version.to_string(),
            kind: self.kind.kind.to_string(),
            parameters,
            operations,
        }
    }

    fn scope(&self) -> &'static str {
        if self.kind.namespaced { "Namespaced" } else { "" }
    }

    fn collection_path(&self, before: &str) -> String {
        let namespace = if self.kind.namespaced { "/namespaces/{namespace}" } else { "" };
        format!("{}{before}{namespace}/{}", self.base, self.kind.resource)
    }

    /// `name` if `one`, `namespace` if the kind has one, and `pretty`.
    fn parameters(&self, one: bool) -> Vec<Parameter> {
        let mut out = Vec::new();
        if one {
            out.push(NAME);
        }
        if self.kind.namespaced {
            out.push(NAMESPACE);
        }
        out.push(PRETTY);
        out
    }

    fn operation(&self, method: &'static str, action: &'static str, id: String, description: String) -> Operation {
        let kind = self.kind;
        Operation {
            method,
            id,
            description,
            action,
            gvk: Some((kind.group.to_string(), kind.version.to_string(), kind.kind.to_string())),
            parameters: NO_PARAMETERS,
            body: Body::None,
            produces: Produces::Object,
            codes: &[200],
            response: kind.type_name.to_string(),
        }
    }

    /// Definition of what a request of this kind answers with when it is about many objects.
    fn list_type(&self) -> String {
        format!("{}List", self.kind.type_name)
    }

    fn collection(&self) -> Path {
        let (id, scope, name) = (&self.id, self.scope(), self.kind.kind.as_ref());
        let mut operations = Vec::new();
        for verb in &self.kind.verbs {
            operations.push(match verb.as_ref() {
                "list" => Operation {
                    parameters: LIST,
                    produces: Produces::Stream,
                    response: self.list_type(),
                    ..self.operation(
                        "get",
                        "list",
                        format!("list{id}{scope}{name}"),
                        format!("list or watch objects of kind {name}"),
                    )
                },
                "create" => Operation {
                    parameters: WRITE,
                    body: Body::Required(self.kind.type_name.to_string()),
                    codes: &[200, 201, 202],
                    ..self.operation(
                        "post",
                        "post",
                        format!("create{id}{scope}{name}"),
                        format!("create {} {name}", article(name)),
                    )
                },
                "deletecollection" => Operation {
                    parameters: DELETE_COLLECTION,
                    body: Body::Optional(meta("DeleteOptions")),
                    response: meta("Status"),
                    ..self.operation(
                        "delete",
                        "deletecollection",
                        format!("delete{id}Collection{scope}{name}"),
                        format!("delete collection of {name}"),
                    )
                },
                _ => continue,
            });
        }
        self.path(self.collection_path(""), self.parameters(false), operations)
    }

    fn item(&self) -> Path {
        let (id, scope, name) = (&self.id, self.scope(), self.kind.kind.as_ref());
        let mut operations = self.object_operations(&self.kind.verbs, "", "", &self.kind.type_name);
        if self.kind.has_verb("delete") {
            let description = format!("delete {} {name}", article(name));
            let returns_object = matches!(self.kind.rules.delete_returns, crate::rules::DeleteReturns::Object);
            operations.push(Operation {
                parameters: DELETE,
                body: Body::Optional(meta("DeleteOptions")),
                codes: &[200, 202],
                response: if returns_object { self.kind.type_name.to_string() } else { meta("Status") },
                ..self.operation("delete", "delete", format!("delete{id}{scope}{name}"), description)
            });
        }
        self.path(format!("{}/{{name}}", self.collection_path("")), self.parameters(true), operations)
    }

    /// get, put and patch of an object or of a subresource that reads and writes one.
    fn object_operations(&self, verbs: &[Str], of: &str, suffix: &str, type_name: &str) -> Vec<Operation> {
        let (id, scope, name) = (&self.id, self.scope(), self.kind.kind.as_ref());
        let id = |verb: &str| format!("{verb}{id}{scope}{name}{suffix}");
        let mut operations = Vec::new();
        for verb in verbs {
            let mut operation = match verb.as_ref() {
                "get" => self.operation("get", "get", id("read"), format!("read {of}the specified {name}")),
                "update" => Operation {
                    parameters: WRITE,
                    body: Body::Required(type_name.to_owned()),
                    codes: &[200, 201],
                    ..self.operation("put", "put", id("replace"), format!("replace {of}the specified {name}"))
                },
                "patch" => Operation {
                    parameters: PATCH,
                    body: Body::Patch,
                    codes: &[200, 201],
                    ..self.operation(
                        "patch",
                        "patch",
                        id("patch"),
                        format!("partially update {of}the specified {name}"),
                    )
                },
                _ => continue,
            };
            operation.response = type_name.to_owned();
            operations.push(operation);
        }
        operations
    }

    fn all_namespaces(&self) -> Path {
        let name = self.kind.kind.as_ref();
        let id = format!("list{}{name}ForAllNamespaces", self.id);
        let operation = Operation {
            produces: Produces::Stream,
            response: self.list_type(),
            ..self.operation("get", "list", id, format!("list or watch objects of kind {name}"))
        };
        let parameters = LIST.iter().copied().chain([PRETTY]).collect();
        self.path(format!("{}/{}", self.base, self.kind.resource), parameters, vec![operation])
    }

    fn watches(&self) -> Vec<Path> {
        let (id, scope, name) = (&self.id, self.scope(), self.kind.kind.as_ref());
        let watch = |path: String, one: bool, namespaced: bool, action, id: String, description: String| {
            let operation = Operation {
                produces: Produces::Stream,
                response: meta("WatchEvent"),
                ..self.operation("get", action, id, description)
            };
            let mut parameters = LIST.to_vec();
            parameters.extend(one.then_some(NAME));
            parameters.extend(namespaced.then_some(NAMESPACE));
            parameters.push(PRETTY);
            self.path(path, parameters, vec![operation])
        };
        let list = format!("watch individual changes to a list of {name}. {WATCH_LIST}");
        let one = format!("watch changes to an object of kind {name}. {WATCH_ONE}");
        let collection = self.collection_path("/watch");
        let namespaced = self.kind.namespaced;
        let mut out = vec![watch(
            collection.clone(),
            false,
            namespaced,
            "watchlist",
            format!("watch{id}{scope}{name}List"),
            list.clone(),
        )];
        if self.kind.has_verb("get") {
            out.push(watch(
                format!("{collection}/{{name}}"),
                true,
                namespaced,
                "watch",
                format!("watch{id}{scope}{name}"),
                one,
            ));
        }
        if namespaced {
            let path = format!("{}/watch/{}", self.base, self.kind.resource);
            out.push(watch(path, false, false, "watchlist", format!("watch{id}{name}ListForAllNamespaces"), list));
        }
        out
    }

    fn subresource(&self, sub: &Subresource) -> Vec<Path> {
        let (id, scope, name) = (&self.id, self.scope(), self.kind.kind.as_ref());
        let suffix = pascal(&sub.name);
        let path = format!("{}/{{name}}/{}", self.collection_path(""), sub.name);
        let gvk = Some((sub.group.to_string(), sub.version.to_string(), sub.kind.to_string()));
        let mut parameters = self.parameters(true);

        // Options of a connection: exec, attach, portforward, proxy.
        if sub.kind.ends_with("Options") {
            parameters.pop();
            let is_proxy = sub.name == "proxy";
            let methods: &[&'static str] =
                if is_proxy { &["delete", "get", "head", "options", "patch", "post", "put"] } else { &["get", "post"] };
            let connect = |with_path: &str| -> Vec<Operation> {
                let operation = |method: &&'static str| Operation {
                    produces: Produces::Any,
                    response: String::new(),
                    gvk: gvk.clone(),
                    ..self.operation(
                        method,
                        "connect",
                        format!("connect{id}{}{scope}{name}{suffix}{with_path}", pascal(method)),
                        format!("connect {} requests to {} of {name}", method.to_uppercase(), sub.name),
                    )
                };
                methods.iter().map(operation).collect()
            };
            let mut out = vec![self.path(path.clone(), parameters.clone(), connect(""))];
            if is_proxy {
                parameters.push(PROXY_PATH);
                out.push(self.path(format!("{path}/{{path}}"), parameters, connect("WithPath")));
            }
            return out;
        }

        let of = format!("{} of ", sub.name);
        let mut operations = self.object_operations(&sub.verbs, &of, &suffix, &sub.type_name);
        if sub.verbs.iter().any(|v| v == "create") {
            operations.push(Operation {
                parameters: WRITE,
                body: Body::Required(sub.type_name.to_string()),
                codes: &[200, 201, 202],
                response: sub.type_name.to_string(),
                ..self.operation(
                    "post",
                    "post",
                    format!("create{id}{scope}{name}{suffix}"),
                    format!("create {} of {} {name}", sub.name, article(name)),
                )
            });
        }
        for operation in &mut operations {
            operation.gvk = gvk.clone();
            if sub.name == "log" {
                operation.produces = Produces::Any;
                operation.response = String::new();
            }
        }
        vec![self.path(path, parameters, operations)]
    }
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['A', 'E', 'I', 'O', 'U']) { "an" } else { "a" }
}
