//! HTTP on the outside of the gateway: bodies, paths, query options, content negotiation. Nothing here decides anything about
//! an object.

pub(crate) mod accept;
pub mod body;
pub(crate) mod gzip;
pub(crate) mod options;
pub(crate) mod path;
pub(crate) mod query;
pub mod spdy;
pub(crate) mod warning;

pub use body::ResponseBody;
