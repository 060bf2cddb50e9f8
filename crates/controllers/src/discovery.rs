//! Which resources the API server serves, in their preferred versions.

use client::Connection;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIResource, APIResourceList};
use kube::core::ApiResource;

/// One served resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Resource {
    pub api: ApiResource,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl Resource {
    pub(crate) fn has_verbs(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|has| has == verb))
    }
}

/// What could be found out, and which group-versions could not be asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Discovered {
    pub resources: Vec<Resource>,
    /// `(group/version, message)`.
    pub failures: Vec<(String, String)>,
}

/// Asks every group for the resources of its preferred version. Fails only when the groups themselves cannot be listed.
pub(crate) async fn discover(connection: &Connection) -> Result<Discovered, kube::Error> {
    let client = connection.client();
    let mut discovered = Discovered::default();
    discovered.add(&client.list_core_api_resources("v1").await?);
    for group in client.list_api_groups().await?.groups {
        let Some(preferred) = group.preferred_version.as_ref().or(group.versions.first()) else { continue };
        match client.list_api_group_resources(&preferred.group_version).await {
            Ok(resources) => discovered.add(&resources),
            Err(error) => discovered.failures.push((preferred.group_version.clone(), error.to_string())),
        }
    }
    Ok(discovered)
}

impl Discovered {
    fn add(&mut self, list: &APIResourceList) {
        let (group, version) = list.group_version.split_once('/').unwrap_or(("", &list.group_version));
        let whole = list.resources.iter().filter(|resource| !resource.name.contains('/'));
        self.resources.extend(whole.map(|resource| one(group, version, resource)));
    }
}

fn one(group: &str, version: &str, resource: &APIResource) -> Resource {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Resource {
        api: ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: resource.kind.clone(),
            plural: resource.name.clone(),
        },
        namespaced: resource.namespaced,
        verbs: resource.verbs.clone(),
    }
}
