//! The scheduler: decides on which node each pod runs, and tells the API server.
//!
//! Its heart is pure: `cycle` takes a pod and the cluster and returns a node or the reasons why none fits, asking the plugins
//! (`plugins`, one file each) through the contracts in `framework`; `queue` decides which pod is next, `cache` remembers what
//! runs where, and `engine` keeps the two in step: events in, decisions out, with time and randomness as arguments. `driver` is
//! the thin shell around it: informers, bindings, conditions and events, as any other API client. Invariants: a pod is bound at
//! most once per decision; a pod that was decided on counts on its node until the API server confirms or refuses it. It must
//! not know how the API server stores anything. Start reading at `engine`.

pub mod cache;
mod config;
pub mod cycle;
mod driver;
#[cfg(test)]
mod driver_tests;
pub mod engine;
#[cfg(test)]
mod engine_tests;
pub mod framework;
mod metrics;
pub mod model;
pub mod nominator;
pub mod plugins;
pub mod profile;
pub mod queue;
mod report;
mod resources;
pub mod snapshot;
#[cfg(test)]
mod testing;

pub use config::SchedulerConfig;
pub use driver::Scheduler;
pub use metrics::Metrics;
pub use profile::{PointConfig, ProfileConfig, ProfileError};
pub use queue::Backoff;
pub use resources::PodResources;
