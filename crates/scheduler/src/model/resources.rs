//! An amount of every resource: the four the scheduler always meets as numbers, all others by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::quantity;

/// A list of resources as objects carry it.
pub type ResourceList = BTreeMap<String, Quantity>;

/// Amounts per resource. `scalar` never holds the names of the numeric fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// Only meaningful for what a node offers.
    pub pods: i64,
    /// Extended resources, huge pages and the like.
    pub scalar: BTreeMap<Arc<str>, i64>,
}

impl Resources {
    /// Reads a resource list; entries that are no quantity count as zero (the API server refuses them).
    pub fn from_list(list: &ResourceList) -> Resources {
        let mut all = Resources::default();
        for (name, amount) in list {
            match name.as_str() {
                "cpu" => all.milli_cpu = quantity::milli_value(&amount.0).unwrap_or(0),
                "memory" => all.memory = quantity::value(&amount.0).unwrap_or(0),
                "ephemeral-storage" => all.ephemeral_storage = quantity::value(&amount.0).unwrap_or(0),
                "pods" => all.pods = quantity::value(&amount.0).unwrap_or(0),
                other => {
                    all.scalar.insert(other.into(), quantity::value(&amount.0).unwrap_or(0));
                }
            }
        }
        all
    }

    pub fn add(&mut self, other: &Resources) {
        self.milli_cpu = self.milli_cpu.saturating_add(other.milli_cpu);
        self.memory = self.memory.saturating_add(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.saturating_add(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            *self.scalar.entry(name.clone()).or_default() += amount;
        }
    }

    pub fn subtract(&mut self, other: &Resources) {
        self.milli_cpu = self.milli_cpu.saturating_sub(other.milli_cpu);
        self.memory = self.memory.saturating_sub(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.saturating_sub(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            *self.scalar.entry(name.clone()).or_default() -= amount;
        }
    }

    /// Raises every amount to at least the other's.
    pub fn raise_to(&mut self, other: &Resources) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.max(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let mine = self.scalar.entry(name.clone()).or_default();
            *mine = (*mine).max(*amount);
        }
    }

    /// The amount of a named resource; zero when it is not listed.
    pub fn amount(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.milli_cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            "pods" => self.pods,
            other => self.scalar.get(other).copied().unwrap_or(0),
        }
    }
}
