//! A configuration laid over an object without anybody owning anything: what mutating policies do.

use super::fieldset::check;
use super::merge::merge;
use super::node::{Atom, Node, entries, items};
use crate::Value;
use crate::codec::Target;

/// `live` with every field of `config` in place, not yet decoded by schema; nothing is removed. The error is in upstream's words.
///
/// # Errors
/// The configuration does not fit the schema, or it sets what can only be replaced as a whole.
pub fn lay_over<'t>(target: impl Into<Target<'t>>, live: &Value, config: &Value) -> Result<Value, String> {
    let target = target.into();
    let node = Node::root(target.schema, target.type_id);
    check(node, config).map_err(|error| format!("failed to convert patch object to typed object: {error}"))?;
    let mut found = Vec::new();
    atomics(node, config, &mut String::new(), &mut found);
    if !found.is_empty() {
        let listed = found.join(", ");
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {listed}"));
    }
    Ok(merge(node, live, config))
}

/// Paths of everything in the configuration that is replaced as a whole.
fn atomics(node: Node<'_>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let atom = node.atom(Some(value));
    let length = path.len();
    if (value.is_object() || value.is_array()) && atom.is_atomic() {
        found.push(path.clone());
    }
    match &atom {
        Atom::Scalar(_) => {}
        Atom::List { element, .. } => {
            for (index, item) in items(Some(value)).iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                atomics(*element, item, path, found);
                path.truncate(length);
            }
        }
        Atom::Map { .. } => {
            for (name, entry) in entries(Some(value)).into_iter().flatten() {
                if let Some(below) = atom.field(node, name).filter(|_| atom.is_struct_field(name)) {
                    path.push('.');
                    path.push_str(name);
                    atomics(below, entry, path, found);
                    path.truncate(length);
                }
            }
        }
    }
}
