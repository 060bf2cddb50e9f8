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

    /// The same, when nothing else is wanted.
    pub(super) fn into_changed(self) -> Set {
        self.added.union(&self.modified)
    }

    /// What was found at a step below becomes part of what was found here.
    fn attach(&mut self, step: &Element, found: Found) {
        let Comparison { added, modified, removed } = found.below;
        self.added.put(step, found.own == Some(Change::Added), added);
        self.modified.put(step, found.own == Some(Change::Modified), modified);
        self.removed.put(step, found.own == Some(Change::Removed), removed);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Added,
    Modified,
    Removed,
}

/// What became of a place itself, and of what is below it.
#[derive(Default)]
struct Found {
    own: Option<Change>,
    below: Comparison,
}

impl Found {
    fn own(change: Change) -> Self {
        Self { own: Some(change), below: Comparison::default() }
    }
}

/// Where in the object a value stands, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Root,
    Metadata,
    Below,
}

/// Compares two objects of one type. `metadata.managedFields` is not looked at: it describes, it is not described.
pub(super) fn compare(node: Node<'_>, old: &Value, new: &Value) -> Comparison {
    if old == new {
        return Comparison::default();
    }
    // The empty path stands for the object and is in no set.
    visit(node, Place::Root, Some(old), Some(new)).below
}

/// What differs between two values that are not equal: most of two versions is, and nothing below equal values can differ.
fn visit(node: Node<'_>, place: Place, old: Option<&Value>, new: Option<&Value>) -> Found {
    if node.is_open() && old.is_some() && new.is_some() {
        return open(node, place, old, new);
    }
    typed(node, place, &node.atom(new.or(old)), old, new)
}

fn typed(node: Node<'_>, place: Place, atom: &Atom<'_>, old: Option<&Value>, new: Option<&Value>) -> Found {
    let empty = match atom {
        Atom::Scalar(_) => true,
        Atom::List { .. } => items(old).is_empty() && items(new).is_empty(),
        Atom::Map { .. } => {
            entries(old).is_none_or(crate::Map::is_empty) && entries(new).is_none_or(crate::Map::is_empty)
        }
    };
    let came_or_went = match (old, new) {
        (None, _) => Some(Change::Added),
        (_, None) => Some(Change::Removed),
        _ => None,
    };
    if empty || atom.is_atomic() {
        return Found::own(came_or_went.unwrap_or(Change::Modified));
    }
    let below = match atom {
        Atom::List { element, items } => list(*element, *items, old, new),
        _ => map(node, place, atom, old, new),
    };
    Found { own: came_or_went, below }
}

/// Without a schema the two values may be of different forms; then the place itself changed.
fn open(node: Node<'_>, place: Place, old: Option<&Value>, new: Option<&Value>) -> Found {
    let same_form = match (old, new) {
        (Some(Value::Object(_)), Some(Value::Object(_))) => true,
        (Some(Value::Array(_)), Some(Value::Array(_))) => true,
        (Some(old), Some(new)) => !old.is_object() && !old.is_array() && !new.is_object() && !new.is_array(),
        _ => true,
    };
    if same_form {
        return typed(node, place, &node.atom(new), old, new);
    }
    if [old, new].into_iter().any(|value| node.atom(value).is_atomic()) {
        return Found::own(Change::Modified);
    }
    let below = if old.is_some_and(Value::is_object) {
        map(node, place, &node.atom(old), old, None)
    } else if new.is_some_and(Value::is_object) {
        map(node, place, &node.atom(new), None, new)
    } else {
        Comparison::default()
    };
    Found { own: Some(Change::Modified), below }
}

fn map(node: Node<'_>, place: Place, atom: &Atom<'_>, old: Option<&Value>, new: Option<&Value>) -> Comparison {
    let (old, new) = (entries(old), entries(new));
    let mut out = Comparison::default();
    let mut entry = |name: &str, old: Option<&Value>, new: Option<&Value>| {
        if old == new || (place == Place::Metadata && name == "managedFields") {
            return;
        }
        let Some(below) = atom.field(node, name) else { return };
        let place = if place == Place::Root && name == "metadata" { Place::Metadata } else { Place::Below };
        out.attach(&Element::field(name), visit(below, place, old, new));
    };
    for (name, new_entry) in new.into_iter().flatten() {
        entry(name, old.and_then(|m| m.get(name)), Some(new_entry));
    }
    for (name, old_entry) in old.into_iter().flatten() {
        if new.is_none_or(|m| !m.contains_key(name)) {
            entry(name, Some(old_entry), None);
        }
    }
    out
}

fn list(element: Node<'_>, kind: Items<'_>, old: Option<&Value>, new: Option<&Value>) -> Comparison {
    let (old, new) = (indexed(element, kind, items(old)), indexed(element, kind, items(new)));
    let find = |list: &[(Element, Vec<usize>)], step: &Element| list.iter().position(|(other, _)| other == step);
    let (old_items, new_items) = (&old.0, &new.0);
    let mut out = Comparison::default();
    for (step, at) in new_items {
        let before = find(old_items, step).map(|i| &old_items[i].1);
        out.attach(step, item(element, before.map_or(&[], |at| at.as_slice()), old.1, at, new.1));
    }
    for (step, at) in old_items.iter().filter(|(step, _)| find(new_items, step).is_none()) {
        out.attach(step, item(element, at, old.1, &[], new.1));
    }
    out
}

/// Items of one key. Where a key is there twice, the items are looked at as one value.
fn item(node: Node<'_>, old: &[usize], old_list: &[Value], new: &[usize], new_list: &[Value]) -> Found {
    let old: Vec<&Value> = old.iter().filter_map(|i| old_list.get(*i)).collect();
    let new: Vec<&Value> = new.iter().filter_map(|i| new_list.get(*i)).collect();
    if old.len() <= 1 && new.len() <= 1 {
        let (old, new) = (old.first().copied(), new.first().copied());
        return if old == new { Found::default() } else { visit(node, Place::Below, old, new) };
    }
    if old.is_empty() {
        Found::own(Change::Added)
    } else if new.is_empty() {
        Found::own(Change::Removed)
    } else if old != new {
        Found::own(Change::Modified)
    } else {
        Found::default()
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
