//! The controllers: each watches some kinds through the API server and writes until the cluster is as its objects say.
//!
//! One file or folder per controller, all of one shape: a [`spec::ControllerSpec`] row in [`registry`], a view read from informer
//! caches, a pure `plan` of that view, and a `reconcile` that carries the plan out. Invariants: level-triggered (the key is the
//! only input, the caches the only truth), idempotent, at most one worker on a key, and no decision on a cache that has not yet
//! seen the key's own last writes ([`own_writes`]). The crate knows no transport, no store and no command line. Start reading at
//! [`manager`], then [`replica_set`], the file to imitate.

mod api_error;
mod attach_detach;
mod bootstrap;
mod certificates;
mod clock;
mod cluster_role_aggregation;
mod cron_job;
mod daemon_set;
mod deployment;
mod device_taint_eviction;
mod discovery;
mod disruption;
mod dump;
mod endpoint_slice;
mod endpoint_slice_mirroring;
mod endpoints;
mod ephemeral_volume;
mod finalizer;
mod garbage_collector;
mod horizontal_pod_autoscaler;
mod job;
mod legacy_token_cleaner;
mod manager;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod own_writes;
mod owned_pods;
mod ownership;
mod pod_gc;
mod pods;
mod pv_protection;
mod pvc_protection;
mod reconcile;
mod registry;
mod replica_set;
mod resource_claim;
mod resource_quota;
mod revisions;
mod root_ca;
mod service_account;
mod service_account_token;
mod service_cidr;
mod service_pods;
mod spec;
mod stateful_set;
mod taint_eviction;
mod template;
mod trigger_time;
mod ttl;
mod ttl_after_finished;
mod vac_protection;
mod validating_admission_policy_status;
mod volume_binder;
mod volume_expander;

pub use certificates::sign::{ClusterSigner, SignerError};
pub use manager::{ControllerManager, ManagerConfig, Selection, SelectionError};
pub use registry::CONTROLLERS;
pub use service_account_token::TokenMaker;
pub use spec::ControllerSpec;
