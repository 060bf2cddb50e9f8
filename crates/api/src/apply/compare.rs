//! What changed between two versions of a typed object.

use super::element::Element;
use super::node::{Atom, Items, Node, Steps, entries, items};
use super::set::{Level, Set};
use crate::Value;

/// The paths that differ between an old and a new object; the three sets are disjoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Comparison {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
    /// An item has none of the keys of its list, or is nothing that a set can have: upstream cannot compare such objects.
    pub incomparable: bool,
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
            ..self
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
}

/// What is found in the parts of one value.
#[derive(Default)]
struct Parts {
    added: Level,
    modified: Level,
    removed: Level,
    incomparable: bool,
}

impl Parts {
    fn put(&mut self, step: &Element, found: Found) {
        let Comparison { added, modified, removed, incomparable } = found.below;
        self.added.put(step, found.own == Some(Change::Added), added);
        self.modified.put(step, found.own == Some(Change::Modified), modified);
        self.removed.put(step, found.own == Some(Change::Removed), removed);
        self.incomparable |= incomparable;
    }

    fn into_comparison(self) -> Comparison {
        Comparison {
            added: self.added.into_set(),
            modified: self.modified.into_set(),
            removed: self.removed.into_set(),
            incomparable: self.incomparable,
        }
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
    if let (Some(Value::Object(old)), Some(Value::Object(new))) = (old, new)
        && old.differs_in_text(new)
    {
        return Found::default();
    }
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
    let mut out = Parts::default();
    let mut entry = |name: &str, old: Option<&Value>, new: Option<&Value>| {
        if old == new || (place == Place::Metadata && name == "managedFields") {
            return;
        }
        let Some(below) = atom.field(node, name) else { return };
        let place = if place == Place::Root && name == "metadata" { Place::Metadata } else { Place::Below };
        out.put(&Element::field(name), visit(below, place, old, new));
    };
    for (name, new_entry) in new.into_iter().flatten() {
        entry(name, old.and_then(|m| m.get(name)), Some(new_entry));
    }
    for (name, old_entry) in old.into_iter().flatten() {
        if new.is_none_or(|m| !m.contains_key(name)) {
            entry(name, Some(old_entry), None);
        }
    }
    out.into_comparison()
}

fn list(element: Node<'_>, kind: Items<'_>, old: Option<&Value>, new: Option<&Value>) -> Comparison {
    let (old, new) = (items(old), items(new));
    let (old_steps, new_steps) = (element.steps(kind, old), element.steps(kind, new));
    let mut out = Parts::default();
    let gone = old_steps.firsts().filter(|(_, step)| !new_steps.contains(step));
    for (_, step) in new_steps.firsts().chain(gone) {
        let Some(own) = step else {
            out.incomparable = true;
            continue;
        };
        out.put(own, item(element, found(&old_steps, step, old), found(&new_steps, step, new)));
    }
    out.into_comparison()
}

/// The items of one step.
enum Same<'v> {
    One(Option<&'v Value>),
    /// Where a key is there twice, the items are looked at as one value.
    Many(Vec<&'v Value>),
}

fn found<'v>(steps: &Steps, step: &Option<Element>, list: &'v [Value]) -> Same<'v> {
    if steps.is_repeated(step) {
        return Same::Many(steps.all(step).filter_map(|at| list.get(at)).collect());
    }
    Same::One(steps.first(step).and_then(|at| list.get(at)))
}

fn item(node: Node<'_>, old: Same<'_>, new: Same<'_>) -> Found {
    match (old, new) {
        (Same::One(old), Same::One(new)) if old == new => Found::default(),
        (Same::One(old), Same::One(new)) => visit(node, Place::Below, old, new),
        (Same::Many(old), Same::Many(new)) if old == new => Found::default(),
        (Same::One(None), Same::Many(_)) => Found::own(Change::Added),
        (Same::Many(_), Same::One(None)) => Found::own(Change::Removed),
        _ => Found::own(Change::Modified),
    }
}
