//! Who asks for what: the value that authentication makes and authorization, admission and audit read.

use std::collections::BTreeMap;

/// An authenticated user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// Whoever presented no credentials.
    pub fn anonymous() -> Self {
        Self { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()], ..Self::default() }
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What is asked, as authorization sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Resource {
        verb: String,
        group: String,
        version: String,
        resource: String,
        /// Empty for the resource itself.
        subresource: String,
        /// Empty for cluster scope and for all namespaces.
        namespace: String,
        /// Empty for collections and creates.
        name: String,
    },
    NonResource {
        /// Lower-case HTTP method.
        verb: String,
        path: String,
    },
}

/// Subresources whose answers last as long as their connections.
const LONG_SUBRESOURCES: [&str; 5] = ["attach", "exec", "proxy", "log", "portforward"];

impl Action {
    pub(crate) fn is_watch(&self) -> bool {
        matches!(self, Self::Resource { verb, .. } if verb == "watch")
    }

    /// A watch, a stream to a pod or a profile: its answer lasts.
    pub(crate) fn is_long_running(&self) -> bool {
        match self {
            Self::NonResource { path, .. } => is_profile(path),
            Self::Resource { verb, subresource, .. } => lasts(verb, subresource),
        }
    }
}

/// The answer to such a request lasts.
pub(crate) fn lasts(verb: &str, subresource: &str) -> bool {
    matches!(verb, "watch" | "proxy") || LONG_SUBRESOURCES.contains(&subresource)
}

pub(crate) fn is_profile(path: &str) -> bool {
    path.starts_with("/debug/pprof/")
}
