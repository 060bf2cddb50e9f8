//! Kinds served in a version other than the stored one: how an object becomes its stored form and back.

mod autoscaling;
mod events;

use crate::{Value, codec, kinds};

/// The two directions. Both take and return normalised objects and never fail: what one form cannot say travels in annotations.
#[derive(Debug)]
pub struct Conversion {
    pub to_storage: fn(Value) -> Value,
    pub from_storage: fn(Value) -> Value,
}

/// The conversion of a built-in kind; `None` when the served version is the stored one.
pub fn conversion(group: &str, version: &str, kind: &str) -> Option<&'static Conversion> {
    match (group, version, kind) {
        ("events.k8s.io", "v1", "Event") => Some(&events::CONVERSION),
        ("autoscaling", "v1", "HorizontalPodAutoscaler") => Some(&autoscaling::CONVERSION),
        _ => None,
    }
}

/// Brings a converted object into the form that decoding would have given it.
fn normalized(group: &str, version: &str, kind: &str, value: Value) -> Value {
    let Some(kind) = kinds::builtin().by_kind(group, version, kind) else { return value };
    match codec::normalize(&value, &**kind) {
        Ok(normalized) => normalized.value,
        Err(_) => value,
    }
}

#[cfg(test)]
mod tests;
