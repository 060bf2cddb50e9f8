//! Shared informers: one list and watch per kind and process, an indexed store of `Arc`s, and handlers told of every change.
//!
//! [`InformerFactory::informer`] starts the kind's [`reflector`] on first use and hands out clones of the same [`Informer`] later.
//! The [`store`] is the canonical copy; handlers are called in order, after the store has changed, on the informer's task: they
//! must be quick and must not block (they enqueue keys).

mod factory;
mod reflector;
mod store;
mod wire;

use std::fmt::Debug;
use std::sync::Arc;

use kube::Resource;
use serde::de::DeserializeOwned;

pub use factory::InformerFactory;
pub use store::{Event, Informer};

/// What an informer can hold: any typed kind, or `PartialObjectMeta` of a kind found by discovery.
pub trait Object: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}

impl<K> Object for K where K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}

/// Only the metadata of objects of a kind known by discovery.
pub type Metadata = kube::core::PartialObjectMeta<kube::core::DynamicObject>;

/// A function from an object to the values an index files it under.
pub type IndexFn<K> = Arc<dyn Fn(&K) -> Vec<String> + Send + Sync>;
