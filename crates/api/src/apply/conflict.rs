//! Fields that an applier wants and another manager owns.

use super::managed::{ManagerId, Operation};
use super::set::Set;
use crate::field::go_quote;
use crate::status::{Cause, Status};

/// Conflicts by manager, managers in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conflicts(pub Vec<(ManagerId, Set)>);

impl Conflicts {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Without the paths of `allowed`.
    pub fn excluding(self, allowed: &Set) -> Self {
        let left = self.0.into_iter().map(|(id, set)| (id, set.difference(allowed)));
        Self(left.filter(|(_, set)| !set.is_empty()).collect())
    }

    /// 409 with one cause per field.
    pub fn status(&self) -> Status {
        let by_manager: Vec<(String, Vec<String>)> =
            self.0.iter().map(|(id, set)| (printed(id), set.paths())).collect();
        let causes: Vec<Cause> = by_manager
            .iter()
            .flat_map(|(manager, paths)| {
                paths.iter().map(move |path| Cause {
                    reason: "FieldManagerConflict".into(),
                    message: format!("conflict with {manager}"),
                    field: path.clone(),
                })
            })
            .collect();
        let message = match causes.as_slice() {
            [only] => format!("Apply failed with 1 conflict: {}: {}", only.message, only.field),
            _ => {
                let mut lines = Vec::new();
                for (manager, paths) in &by_manager {
                    lines.push(format!("conflicts with {manager}:"));
                    lines.extend(paths.iter().map(|path| format!("- {path}")));
                }
                format!("Apply failed with {} conflicts: {}", causes.len(), lines.join("\n"))
            }
        };
        Status::apply_conflict(message, causes)
    }
}

fn printed(id: &ManagerId) -> String {
    let mut out = go_quote(&id.manager);
    if !id.subresource.is_empty() {
        out.push_str(&format!(" with subresource {}", go_quote(&id.subresource)));
    }
    if id.operation == Operation::Update {
        out.push_str(&format!(" using {}", id.api_version));
    }
    out
}
