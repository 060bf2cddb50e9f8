//! Service addresses and node ports: which are free, which a Service gets, and what it says when it cannot.
//!
//! Invariants: nothing in use is given out; the answer is a function of the Service, what is in use and the random source. An
//! allocation takes effect with the write of the Service; the `IPAddress` objects it names have to be created before (they
//! make an address unique between API servers) and the released ones deleted afterwards.

mod cidr;
mod families;
mod ports;
mod repair;
mod service;
mod usage;

pub use cidr::{Cidr, Family};
pub use ports::PortRange;
pub use repair::{Repair, repair, service_ranges};
pub use service::{Allocation, Allocator};
pub use usage::{InUse, UsageCache, ip_address_object};

/// A random number below the bound (which is never 0).
pub type Random<'a> = &'a mut dyn FnMut(u128) -> u128;
