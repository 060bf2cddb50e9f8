//! What a controller is to the manager, and what the manager gives it.

use std::sync::Arc;

use client::{Connection, EventRecorder, InformerFactory, Shutdown};
use futures::future::BoxFuture;

use crate::manager::ManagerConfig;

/// One row of the registry.
#[derive(Clone, Copy, Debug)]
pub struct ControllerSpec {
    /// Upstream's name, as `--controllers` and events have it.
    pub name: &'static str,
    /// Upstream's old name, still accepted by `--controllers`. May be empty.
    pub alias: &'static str,
    /// The service account in kube-system it acts as.
    pub account: &'static str,
    pub on_by_default: bool,
    /// Runs until the context's shutdown.
    pub run: fn(Ctx) -> BoxFuture<'static, ()>,
}

impl ControllerSpec {
    /// The user the API server sees.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:kube-system:{}", self.account)
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
