//! What changed between two versions of a typed object.

use super::element::Element;
use super::node::{Atom, Items, Node, entries, items};
use super::set::Set;
use crate::Value;

/// The paths that differ between an old and a new object; the three sets are disjoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Comparison {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Comparison {
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Without the given paths and all below them.
    pub(super) fn excluding(self, ignored: &Set) -> Self {
        if ignored.is_empty() {
            return self;
        }
        Self {
            added: self.added.without_subtrees(ignored),
            modified: self.modified.without_subtrees(ignored),
            removed: self.removed.without_subtrees(ignored),
        }
    }

    /// Added or modified.
    pub(super) fn changed(&self) -> Set {
        self.added.clone().union(&self.modified)
    }
}

/// Compares two objects of one type. `metadata.managedFields` is not looked at: it describes, it is not described.
pub(super) fn compare(node: Node<'_>, old: &Value, new: &Value) -> Comparison {
    let mut walker = Walker { path: Vec::new(), out: Comparison::default() };
    walker.visit(node, Some(old), Some(new));
    walker.out
}

struct Walker {
    path: Vec<Element>,
    out: Comparison,
}

impl Walker {
    fn visit(&mut self, node: Node<'_>, old: Option<&Value>, new: Option<&Value>) {
        // Most of two versions is the same; nothing below equal values can differ.
        if old == new {
            return;
        }
        if node.is_open() && old.is_some() && new.is_some() {
            return self.open(node, old, new);
        }
        self.typed(node, &node.atom(new.or(old)), old, new);
    }

    fn typed(&mut self, node: Node<'_>, atom: &Atom<'_>, old: Option<&Value>, new: Option<&Value>) {
        let empty = match atom {
            Atom::Scalar(_) => true,
            Atom::List { .. } => items(old).is_empty() && items(new).is_empty(),
            Atom::Map { .. } => {
                entries(old).is_none_or(crate::Map::is_empty) && entries(new).is_none_or(crate::Map::is_empty)
            }
        };
        if empty || atom.is_atomic() {
            return self.leaf(old, new);
        }
        match atom {
            Atom::List { element, items } => self.list(*element, *items, old, new),
            _ => self.map(node, atom, old, new),
        }
        match (old, new) {
            (None, _) => self.out.added.insert(&self.path),
            (_, None) => self.out.removed.insert(&self.path),
            _ => {}
        }
    }

    fn leaf(&mut self, old: Option<&Value>, new: Option<&Value>) {
        let set = match (old, new) {
            (None, _) => &mut self.out.added,
            (_, None) => &mut self.out.removed,
            _ => &mut self.out.modified,
        };
        set.insert(&self.path);
    }

    /// Without a schema the two values may be of different forms; then the place itself changed.
    fn open(&mut self, node: Node<'_>, old: Option<&Value>, new: Option<&Value>) {
        let same_form = match (old, new) {
            (Some(Value::Object(_)), Some(Value::Object(_))) => true,
            (Some(Value::Array(_)), Some(Value::Array(_))) => true,
            (Some(old), Some(new)) => !old.is_object() && !old.is_array() && !new.is_object() && !new.is_array(),
            _ => true,
        };
        if !same_form {
            self.out.modified.insert(&self.path);
            if old.is_some_and(Value::is_object) {
                self.map(node, &node.atom(old), old, None);
            } else if new.is_some_and(Value::is_object) {
                self.map(node, &node.atom(new), None, new);
            }
            return;
        }
        self.typed(node, &node.atom(new), old, new);
    }

    fn map(&mut self, node: Node<'_>, atom: &Atom<'_>, old: Option<&Value>, new: Option<&Value>) {
        let (old, new) = (entries(old), entries(new));
        let in_metadata = matches!(self.path.as_slice(), [only] if only.as_str() == "f:metadata");
        for (name, new_entry) in new.into_iter().flatten() {
            self.entry(node, atom, name, old.and_then(|m| m.get(name)), Some(new_entry), in_metadata);
        }
        for (name, old_entry) in old.into_iter().flatten() {
            if new.is_none_or(|m| !m.contains_key(name)) {
                self.entry(node, atom, name, Some(old_entry), None, in_metadata);
            }
        }
    }

    fn entry(
        &mut self,
        node: Node<'_>,
        atom: &Atom<'_>,
        name: &str,
        old: Option<&Value>,
        new: Option<&Value>,
        in_metadata: bool,
    ) {
        if old == new || (in_metadata && name == "managedFields") {
            return;
        }
        let Some(below) = atom.field(node, name) else { return };
        self.path.push(Element::field(name));
        self.visit(below, old, new);
        self.path.pop();
    }

    fn list(&mut self, element: Node<'_>, kind: Items<'_>, old: Option<&Value>, new: Option<&Value>) {
        let (old, new) = (indexed(element, kind, items(old)), indexed(element, kind, items(new)));
        let find = |list: &[(Element, Vec<usize>)], step: &Element| list.iter().position(|(other, _)| other == step);
        let (old_items, new_items) = (&old.0, &new.0);
        for (step, at) in new_items {
            let before = find(old_items, step).map(|i| &old_items[i].1);
            self.path.push(step.clone());
            self.item(element, before.map_or(&[], |at| at.as_slice()), old.1, at, new.1);
            self.path.pop();
        }
        for (step, at) in old_items.iter().filter(|(step, _)| find(new_items, step).is_none()) {
            self.path.push(step.clone());
            self.item(element, at, old.1, &[], new.1);
            self.path.pop();
        }
    }

    /// Items of one key. Where a key is there twice, the items are looked at as one value.
    fn item(&mut self, node: Node<'_>, old: &[usize], old_list: &[Value], new: &[usize], new_list: &[Value]) {
        let old: Vec<&Value> = old.iter().filter_map(|i| old_list.get(*i)).collect();
        let new: Vec<&Value> = new.iter().filter_map(|i| new_list.get(*i)).collect();
        if old.len() <= 1 && new.len() <= 1 {
            return self.visit(node, old.first().copied(), new.first().copied());
        }
        if old.is_empty() {
            self.out.added.insert(&self.path);
        } else if new.is_empty() {
            self.out.removed.insert(&self.path);
        } else if old != new {
            self.out.modified.insert(&self.path);
        }
    }
}

/// The items of a list by step, in order of first appearance.
fn indexed<'v>(element: Node<'_>, kind: Items<'_>, list: &'v [Value]) -> (Vec<(Element, Vec<usize>)>, &'v [Value]) {
    let mut out: Vec<(Element, Vec<usize>)> = Vec::with_capacity(list.len());
    for (index, item) in list.iter().enumerate() {
        let Ok(step) = element.item(kind, item) else { continue };
        match out.iter_mut().find(|(other, _)| *other == step) {
            Some((_, at)) => at.push(index),
            None => out.push((step, vec![index])),
        }
    }
    (out, list)
}
