//! The way between members: framed messages over TCP, with TLS in both directions where the URLs say `https`.
//!
//! Every member dials every other. Per peer there is a connection for what must be quick (heartbeats, votes, acknowledgements,
//! reads), one for entries, one for calls that the leader answers, and one for each snapshot. Queues are bounded and nothing
//! waits: what does not fit is dropped, which Raft allows, and the driver hears that the peer was not reached. One thread with
//! a runtime of its own does it all, so that heartbeats do not queue up behind the work of a server.
//!
//! ```text
//! frame:      | payload bytes u32 BE | kind u8 | CRC-32C of kind and payload u32 BE | payload |
//! connection: Hello ->, <- Welcome, then by purpose
//!   control, bulk   Messages ->, Ping ->, <- Pong
//!   call            Call ->, <- Answer
//!   snapshot        SnapshotBegin ->, SnapshotRows -> ..., SnapshotEnd ->, <- SnapshotDone
//!   inquiry         Call ->, <- Answer
//! ```

mod config;
mod dial;
mod frame;
mod listen;
mod net;
mod pace;
mod snapshot;
mod tls;

#[cfg(test)]
mod tests;

pub use config::{PeerConfig, PeerTls};
pub use pace::SNAPSHOT_BYTES_PER_SECOND;

pub(crate) use config::{PeerError, PeerUrl};
pub(crate) use dial::inquire;
pub(crate) use frame::REQUEST_BYTES_LIMIT;
pub(crate) use net::{Desk, Local, PeerNet};
pub(crate) use pace::SNAPSHOT_BYTES_PER_SECOND_MIN;
