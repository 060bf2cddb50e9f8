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
