//! What controller manager and scheduler count, in whichever process they run.

use prometheus_client::registry::Registry;

/// Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct ComponentMetrics {
    /// Work queues and leases.
    pub client: client::Metrics,
    pub scheduler: scheduler::Metrics,
}

impl ComponentMetrics {
    /// Shows them in a registry.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.client.register(registry);
        self.scheduler.register(registry);
    }

    /// Counts anew. Queues hold their counts and go on; upstream shows them no more.
    pub(crate) fn reset(&self) {
        let Self { client: _, scheduler } = self;
        scheduler.reset();
    }

    /// A registry that shows nothing else.
    pub(super) fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        self.register(&mut registry);
        registry
    }
}
