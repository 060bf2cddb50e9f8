//! What the scheduler remembers of pods and nodes: parsed once when an object arrives, so that no cycle parses anything.

pub mod class;
pub mod devices;
pub mod labels;
pub mod node;
pub mod pod;
pub mod quantity;
pub mod requests;
pub mod resources;
pub mod shares;
pub mod storage;

pub use node::{NodeFacts, NodeInfo};
pub use pod::PodInfo;
pub use resources::Resources;
