//! The few objects that admission reads again and again (namespaces, accounts, classes), parsed once per version.

use std::collections::HashMap;
use std::sync::Arc;

use api::Value;
use parking_lot::Mutex;

use crate::source::StoredObject;

/// JSON bytes of the remembered objects, whose trees take about ten times as much memory. When it is reached, all are forgotten.
const BYTES_MAX: usize = 1 << 20;

/// Trees by the address of the version they were parsed from, which lives as long as its entry.
#[derive(Debug, Default)]
pub(super) struct Parsed(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    trees: HashMap<usize, (Arc<StoredObject>, Arc<Value>)>,
    bytes: usize,
}

impl Parsed {
    pub(super) fn get(&self, object: &Arc<StoredObject>) -> Option<Arc<Value>> {
        let address = Arc::as_ptr(object) as usize;
        if let Some((_, tree)) = self.0.lock().trees.get(&address) {
            return Some(Arc::clone(tree));
        }
        let tree = Arc::new(object.parse()?);
        let size = object.json.len();
        if size > BYTES_MAX {
            return Some(tree);
        }
        let mut state = self.0.lock();
        if state.bytes + size > BYTES_MAX {
            *state = State::default();
        }
        let before = state.trees.insert(address, (Arc::clone(object), Arc::clone(&tree)));
        if before.is_none() {
            state.bytes += size;
        }
        Some(tree)
    }
}

#[cfg(test)]
mod tests {
    use store::Revision;

    use super::*;

    fn object(json: String) -> Arc<StoredObject> {
        let json = json.into();
        Arc::new(StoredObject { namespace: String::new(), name: "a".into(), json, mod_revision: Revision(1) })
    }

    #[test]
    fn a_version_is_parsed_once_and_no_more_is_kept_than_allowed() {
        let parsed = Parsed::default();
        let first = object(r#"{"a":1}"#.into());
        let tree = parsed.get(&first).unwrap();
        assert_eq!(tree["a"], 1);
        assert!(Arc::ptr_eq(&tree, &parsed.get(&first).unwrap()));
        let large = object(format!(r#"{{"a":"{}"}}"#, "x".repeat(BYTES_MAX - 9)));
        assert!(parsed.get(&large).is_some());
        assert_eq!(parsed.0.lock().trees.len(), 1);
        assert!(parsed.get(&object("{".into())).is_none());
    }
}
