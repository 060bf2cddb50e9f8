//! How every component but the API server itself talks to an API server.
//!
//! A [`Connection`] is a typed client (kube) over HTTPS or over an in-process service, standing for one identity. On it rest
//! [`informer`] (one list and watch per kind and process, an indexed store of `Arc`s), [`workqueue`] (what to look at next, never
//! the same key twice at once), [`leader`] (who may act), [`metrics`] (what both count) and [`events`] (telling people what happened). Invariants: an informer's
//! store only moves forward in resourceVersion between two relists; a key is never given to two workers; nobody acts after its
//! lease may have passed to another; recording an event never blocks. The crate must not know the rules of any kind, controller
//! or scheduler plugin. Start reading at [`connection`], then [`informer`].

pub mod connection;
pub mod events;
mod host;
pub mod informer;
pub mod key;
pub mod leader;
mod masters;
pub mod metrics;
mod pruned;
pub mod selector;
mod service_account;
pub mod workqueue;

pub use connection::{Connection, ConnectionError};
pub use events::{EventRecorder, EventType, SeriesRecorder};
pub use host::host_name;
pub use informer::{Event, Informer, InformerFactory, Object};
pub use key::ObjectKey;
pub use leader::{LeaderConfig, LeaderElection, LeaseTimes};
pub use metrics::Metrics;
pub use selector::LabelSelectorExt;
pub use workqueue::WorkQueue;

/// Asks a component to stop; children of it stop with it.
pub use tokio_util::sync::CancellationToken as Shutdown;
