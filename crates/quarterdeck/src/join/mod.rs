//! How a master joins a cluster.
//!
//! ```text
//! joining master                                         master of the cluster
//!   GET  /quarterdeck/v1/join/ca        (not verified)  →  the CA's certificate; its hash is compared with the token's
//!   POST /quarterdeck/v1/join/member    (verified)      →  token checked, learner added; PKI, members and settings
//!   keeps what it got, starts its store as a learner, which catches up and is promoted by the leader
//! ```
//!
//! Every step can be repeated: a master that dies in the middle and is started again with the same flags goes on. What it got is
//! on its disk before its store is begun, and a member that was added and never started is given out again to whoever has its name
//! and address and a valid token.
//!
//! A master whose cluster was restored from a backup elsewhere ([`again`]) finds that out when it starts, or while it has no leader, and
//! joins that cluster with what it already holds.

mod again;
mod client;
mod lineage;
mod messages;
mod server;
mod token;

pub(crate) use again::{join_again, restored};
pub(crate) use client::{Joined, join};
pub(crate) use lineage::Lineage;
pub(crate) use messages::{ClusterSettings, JoinMember};
pub(crate) use server::JoinServer;
pub(crate) use token::{KeptToken, NAME_PREFIX, NAMESPACE, SECRET_TYPE, Token};
