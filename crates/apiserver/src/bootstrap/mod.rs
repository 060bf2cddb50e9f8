//! The objects a control plane creates for itself, as lists of what should exist.
//!
//! Nothing is written here: each function takes what exists and returns the changes, for a caller that repeats it until there
//! are none. What a user changed is kept wherever upstream keeps it.

pub(crate) mod alive;
pub mod flowcontrol;
pub mod objects;
pub mod rbac;

use api::Value;

/// One write that brings the cluster closer to what it should have.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub group: &'static str,
    pub resource: &'static str,
    pub action: ChangeAction,
    /// The whole object as it should be after the change; carries the resourceVersion it was derived from on an update.
    pub object: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeAction {
    /// It does not exist. Somebody else having created it meanwhile is no error.
    Create,
    Update,
    /// A field that cannot change is wrong (a binding's roleRef): delete, then create.
    Recreate,
    /// It should not exist.
    Delete,
}

impl Change {
    pub fn create(group: &'static str, resource: &'static str, object: Value) -> Self {
        Self { group, resource, action: ChangeAction::Create, object }
    }

    pub fn delete(group: &'static str, resource: &'static str, object: Value) -> Self {
        Self { group, resource, action: ChangeAction::Delete, object }
    }

    pub fn update(group: &'static str, resource: &'static str, object: Value) -> Self {
        Self { group, resource, action: ChangeAction::Update, object }
    }
}
