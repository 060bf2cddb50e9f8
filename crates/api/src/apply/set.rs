//! Sets of field paths, as a tree. The JSON form is FieldsV1.

use std::fmt::Write;

use super::element::Element;
use super::node::{Atom, Node};
use crate::value::{DEPTH_MAX, Fields};
use crate::{Map, Value};

/// A set of paths. Invariant: no node is both outside the set and without children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    steps: Steps,
}

/// What is below the steps of one level, in the order of the steps. Most levels have few, and are written once, nearly in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Steps(Vec<(Element, Step)>);

impl Steps {
    /// Where a step is, or belongs.
    fn position(&self, element: &Element) -> Result<usize, usize> {
        match self.0.last() {
            Some((last, _)) if last < element => Err(self.0.len()),
            _ => self.0.binary_search_by(|(step, _)| step.cmp(element)),
        }
    }

    fn get(&self, element: &Element) -> Option<&Step> {
        self.position(element).ok().map(|at| &self.0[at].1)
    }

    /// The step, put in if it is not there.
    fn at(&mut self, element: &Element) -> &mut Step {
        let at = self.position(element).unwrap_or_else(|at| {
            self.0.insert(at, (element.clone(), Step::default()));
            at
        });
        &mut self.0[at].1
    }

    /// Steps in any order. Of one that is there twice the last counts.
    fn sorted(mut steps: Vec<(Element, Step)>) -> Self {
        if !steps.is_sorted_by(|(a, _), (b, _)| a < b) {
            steps.reverse();
            steps.sort_by(|(a, _), (b, _)| a.cmp(b));
            steps.dedup_by(|(earlier, _), (last, _)| earlier == last);
        }
        Self(steps)
    }

    fn iter(&self) -> impl Iterator<Item = (&Element, &Step)> {
        self.0.iter().map(|(element, step)| (element, step))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Step {
    /// The path that ends here is in the set.
    member: bool,
    below: Set,
}

impl Step {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

/// One level of a set that is being made.
#[derive(Debug, Default)]
pub(super) struct Level(Vec<(Element, Step)>);

impl Level {
    /// Adds a step with everything below it; nothing when there is nothing. No step may be put in twice.
    pub(super) fn put(&mut self, element: &Element, member: bool, below: Set) {
        if member || !below.is_empty() {
            self.0.push((element.clone(), Step { member, below }));
        }
    }

    pub(super) fn into_set(self) -> Set {
        Set { steps: Steps::sorted(self.0) }
    }
}

impl Set {
    pub fn new() -> Self {
        Self::default()
    }

    /// From dotted field names: `metadata.labels`.
    pub fn of_fields<'p>(paths: impl IntoIterator<Item = &'p str>) -> Self {
        let mut set = Self::new();
        for path in paths {
            let path: Vec<Element> = path.split('.').map(Element::field).collect();
            set.insert(&path);
        }
        set
    }

    /// From FieldsV1; `None` when it is malformed.
    pub fn from_fields_v1(fields: &Value) -> Option<Self> {
        Self::parse(fields, 0)
    }

    fn parse(fields: &Value, depth: usize) -> Option<Self> {
        let map = fields.as_object()?;
        if depth > DEPTH_MAX {
            return None;
        }
        let mut steps: Vec<(Element, Step)> = Vec::with_capacity(map.len());
        for (key, value) in map {
            // The dot belongs to the parent, which has looked at it.
            if key == "." {
                continue;
            }
            let below = Self::parse(value, depth + 1)?;
            let member = below.is_empty() || value.get(".").is_some();
            steps.push((Element::parse(key)?, Step { member, below }));
        }
        Some(Self { steps: Steps::sorted(steps) })
    }

    /// As FieldsV1, in canonical order.
    pub fn to_fields_v1(&self) -> Value {
        self.write(false)
    }

    fn write(&self, with_self: bool) -> Value {
        let mut out = Fields::with_capacity(self.steps.0.len() + usize::from(with_self));
        if with_self {
            out.push(".", Value::Object(Map::new()));
        }
        for (element, step) in self.steps.iter() {
            let below = step.below.write(step.member && !step.below.is_empty());
            out.push(element.to_text(), below);
        }
        Value::Object(out.into_map())
    }

    pub fn is_empty(&self) -> bool {
        self.steps.0.is_empty()
    }

    /// Adds a path; the empty path stands for the object and is never owned.
    pub fn insert(&mut self, path: &[Element]) {
        let [first, rest @ ..] = path else { return };
        let step = self.steps.at(first);
        if rest.is_empty() { step.member = true } else { step.below.insert(rest) }
    }

    /// The path of this one step is in the set.
    pub fn has(&self, element: &Element) -> bool {
        self.steps.get(element).is_some_and(|step| step.member)
    }

    /// The paths below a step, without it.
    pub fn below(&self, element: &Element) -> Option<&Set> {
        self.steps.get(element).map(|step| &step.below).filter(|set| !set.is_empty())
    }

    pub fn union(mut self, other: &Set) -> Set {
        if self.is_empty() {
            return other.clone();
        }
        self.add_all(other);
        self
    }

    /// Takes paths away.
    pub fn subtract(&mut self, other: &Set) {
        self.steps.0.retain_mut(|(element, step)| {
            let Some(theirs) = other.steps.get(element) else { return true };
            step.member &= !theirs.member;
            step.below.subtract(&theirs.below);
            !step.is_empty()
        });
    }

    fn add_all(&mut self, other: &Set) {
        let mut missing = Vec::new();
        for (element, theirs) in other.steps.iter() {
            let Ok(at) = self.steps.position(element) else {
                missing.push((element.clone(), theirs.clone()));
                continue;
            };
            let step = &mut self.steps.0[at].1;
            step.member |= theirs.member;
            step.below.add_all(&theirs.below);
        }
        if !missing.is_empty() {
            let mut steps = std::mem::take(&mut self.steps.0);
            steps.append(&mut missing);
            self.steps = Steps::sorted(steps);
        }
    }

    /// The paths that `other` has not.
    pub fn difference(&self, other: &Set) -> Set {
        let mut left = self.clone();
        left.subtract(other);
        left
    }

    /// The paths that neither `other` has nor any path of it leads to.
    pub fn without_subtrees(&self, other: &Set) -> Set {
        self.combine(|element, step| match other.steps.get(element) {
            None => step.clone(),
            Some(theirs) if theirs.member => Step::default(),
            Some(theirs) => Step { member: step.member, below: step.below.without_subtrees(&theirs.below) },
        })
    }

    pub fn intersection(&self, other: &Set) -> Set {
        self.combine(|element, step| match other.steps.get(element) {
            None => Step::default(),
            Some(theirs) => {
                Step { member: step.member && theirs.member, below: step.below.intersection(&theirs.below) }
            }
        })
    }

    fn combine(&self, choose: impl Fn(&Element, &Step) -> Step) -> Set {
        let chosen = self.steps.iter().map(|(element, step)| (element.clone(), choose(element, step)));
        Set { steps: Steps(chosen.filter(|(_, step)| !step.is_empty()).collect()) }
    }

    /// Some path of this set is in the given FieldsV1. Cheaper than parsing it: this set is small, that one large.
    pub fn touches(&self, fields_v1: &Value) -> bool {
        let Some(map) = fields_v1.as_object() else { return false };
        self.steps.iter().any(|(element, step)| {
            let Some(theirs) = map.get(element.as_str()) else { return false };
            let their_member = || theirs.as_object().is_none_or(Map::is_empty) || theirs.get(".").is_some();
            (step.member && their_member()) || step.below.touches(theirs)
        })
    }

    /// The set with every struct field on the way to a path in it as well: structs are there as long as a field of theirs is.
    pub(super) fn with_named_fields(&self, node: Node<'_>) -> Set {
        let atom = node.atom(None);
        let mut out = Set::new();
        for (element, step) in self.steps.iter() {
            let (named, below) = match (&atom, element.field_name()) {
                (Atom::Map { fields, .. }, Some(name)) => {
                    let named = fields.is_some_and(|f| f.field(name).is_some());
                    (named, atom.field(node, name))
                }
                (Atom::List { element: item, .. }, None) if element.is_key() => (false, Some(*item)),
                _ => (false, None),
            };
            let member = step.member || (named && !step.below.is_empty());
            let below = below.map_or_else(|| step.below.clone(), |node| step.below.with_named_fields(node));
            out.steps.0.push((element.clone(), Step { member, below }));
        }
        out
    }

    /// All paths as messages print them, members of a level before what is below them.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.print(&mut String::new(), &mut out);
        out
    }

    fn print(&self, prefix: &mut String, out: &mut Vec<String>) {
        for (element, _) in self.steps.iter().filter(|(_, step)| step.member) {
            out.push(format!("{prefix}{element}"));
        }
        for (element, step) in self.steps.iter() {
            let length = prefix.len();
            // Writing to a String cannot fail.
            let _infallible = write!(prefix, "{element}");
            step.below.print(prefix, out);
            prefix.truncate(length);
        }
    }
}
