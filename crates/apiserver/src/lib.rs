//! The gateway: every read and write of any resource goes through it.
//!
//! A request passes TLS, authentication, authorization, decoding, admission, validation and one store transaction; a read is
//! answered from the cache at a revision known to be fresh. The verbs are generic over [`api::Kind`]: no file here belongs to
//! one resource unless the resource has a protocol of its own (binding, eviction, tokens, reviews). The crate must not know
//! controllers, the scheduler or the command line. Start reading at `gateway` (the life of a request), then `verbs` and `cache`.

pub mod admission;
mod admit;
mod aggregation;
pub mod allocate;
mod allocations;
pub mod attributes;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod cache;
mod config_file;
pub mod control;
mod custom;
mod deadline;
mod demands;
mod documents;
mod error;
pub mod exposition;
mod fairness;
mod freshness;
mod gateway;
mod guaranteed;
mod health;
pub mod http;
pub mod indicators;
mod inflight;
mod metrics;
pub mod outbound;
mod ownership;
mod policy;
mod reinvocation;
mod relay;
mod select;
mod sending;
mod serve;
mod server;
pub mod source;
mod startup;
pub mod storage;
mod verbs;
mod virtual_kinds;
mod webhook;
mod write;
pub mod zpages;

pub use deadline::Timeouts;
pub use gateway::Tokens;
pub use metrics::Counted;
pub use relay::kubelet::KubeletConfig;
pub use serve::InProcess;
pub use server::{ApiServer, Authorization, Config, FlowControl, ReadModes};
