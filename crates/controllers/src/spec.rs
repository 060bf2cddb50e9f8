//! What a controller is to the manager, and what the manager gives it.

use std::sync::Arc;

use client::{Connection, EventRecorder, InformerFactory, Shutdown};
use futures::future::BoxFuture;

use crate::manager::ManagerConfig;

/// The user that lists, watches and holds the lease.
pub(crate) const MANAGER_USER: &str = "system:kube-controller-manager";

/// Controllers whose events name another source than the controller, as upstream.
const EVENT_SOURCES: &[(&str, &str)] = &[
    ("replicationcontroller-controller", "replication-controller"),
    ("endpoints-controller", "endpoint-controller"),
    ("endpointslice-controller", "endpoint-slice-controller"),
    ("endpointslice-mirroring-controller", "endpoint-slice-mirroring-controller"),
    ("horizontal-pod-autoscaler-controller", "horizontal-pod-autoscaler"),
    ("disruption-controller", "controllermanager"),
    ("node-lifecycle-controller", "node-controller"),
    ("node-ipam-controller", "cidrAllocator"),
    ("persistentvolume-attach-detach-controller", "attachdetach-controller"),
    ("persistentvolume-expander-controller", "volume_expand"),
    ("ephemeral-volume-controller", "ephemeral_volume"),
    ("resourceclaim-controller", "resource_claim"),
    ("device-taint-eviction-controller", "device-taint-eviction"),
];

/// One row of the registry.
#[derive(Clone, Copy, Debug)]
pub struct ControllerSpec {
    /// Upstream's name, as `--controllers` and events have it.
    pub name: &'static str,
    /// Upstream's old name, still accepted by `--controllers`. May be empty.
    pub alias: &'static str,
    /// The service account in kube-system it acts as; empty for the controller manager's own user.
    pub account: &'static str,
    pub on_by_default: bool,
    /// Runs until the context's shutdown.
    pub run: fn(Ctx) -> BoxFuture<'static, ()>,
}

impl ControllerSpec {
    /// The user the API server sees.
    pub fn user(&self) -> String {
        match self.account {
            "" => MANAGER_USER.to_owned(),
            account => format!("system:serviceaccount:kube-system:{account}"),
        }
    }

    /// What its events name as their source.
    pub(crate) fn event_source(&self) -> &'static str {
        EVENT_SOURCES.iter().find(|(name, _)| *name == self.name).map_or(self.name, |(_, source)| source)
    }

    pub fn is_called(&self, name: &str) -> bool {
        name == self.name || (!self.alias.is_empty() && name == self.alias)
    }
}

/// What a running controller works with: its own identity, the shared caches, and when to stop.
#[derive(Clone)]
pub struct Ctx {
    pub connection: Connection,
    pub informers: InformerFactory,
    pub events: EventRecorder,
    pub config: Arc<ManagerConfig>,
    pub shutdown: Shutdown,
}
