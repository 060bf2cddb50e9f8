//! The fields of an object: few, in order, looked up by name.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use hashbrown::HashTable;

use super::{Text, Value};

/// Objects with at most so many fields are searched one by one, which beats hashing them; nearly all objects are that small.
/// What is larger (a ConfigMap of a client who means harm) gets an index, so that nothing here is quadratic in the fields.
const SEARCHED_MAX: usize = 24;

/// An object's fields in the order they were put in. Every name is there once.
///
/// A clone shares the fields until one of the two is changed, so that the many versions of an object that a write looks at (stored,
/// patched, prepared) are one tree but for what differs, and comparing them stops at what they share.
#[derive(Clone, Default)]
pub struct Map(Option<Arc<Fields>>);

/// The fields lie in one vector. Names of up to 24 bytes lie in it, without an allocation of their own.
///
/// What makes an object field by field makes this first: of a [`Map`] it would be asked each time whether it is shared.
#[derive(Clone, Default)]
pub(crate) struct Fields {
    fields: Vec<(Text, Value)>,
    /// What few objects have.
    aside: Option<Box<Aside>>,
}

#[derive(Clone, Default)]
struct Aside {
    /// Where each field is, of an object with more than [`SEARCHED_MAX`].
    index: Option<Positions>,
    /// The JSON text that the object was read from, where that matters and is not what would be written.
    written: Option<Box<str>>,
}

#[derive(Clone, Default)]
struct Positions {
    /// Keyed anew for each object: the names are a client's.
    hasher: RandomState,
    table: HashTable<usize>,
}

impl Positions {
    fn of(fields: &[(Text, Value)]) -> Self {
        let mut positions = Self { hasher: RandomState::new(), table: HashTable::with_capacity(fields.len()) };
        for at in 0..fields.len() {
            positions.insert(fields, at);
        }
        positions
    }

    fn find(&self, fields: &[(Text, Value)], name: &str) -> Option<usize> {
        self.table.find(self.hasher.hash_one(name), |&at| fields[at].0 == name).copied()
    }

    /// Adds a field whose name is not there yet.
    fn insert(&mut self, fields: &[(Text, Value)], at: usize) {
        let hasher = &self.hasher;
        let hash = |&at: &usize| hasher.hash_one(fields[at].0.as_str());
        self.table.insert_unique(hash(&at), at, hash);
    }
}

impl Fields {
    pub(crate) fn with_capacity(fields: usize) -> Self {
        Self { fields: Vec::with_capacity(fields), aside: None }
    }

    pub(crate) fn into_map(self) -> Map {
        if self.fields.is_empty() { Map::new() } else { Map(Some(Arc::new(self))) }
    }

    /// The fields of a whole object; `None` when a name is there twice.
    pub(crate) fn distinct(fields: Vec<(Text, Value)>) -> Option<Self> {
        if fields.len() > SEARCHED_MAX {
            let index = Positions::of(&fields);
            let is_distinct = fields.iter().enumerate().all(|(at, (name, _))| index.find(&fields, name) == Some(at));
            let aside = Some(Box::new(Aside { index: Some(index), written: None }));
            return is_distinct.then_some(Self { fields, aside });
        }
        // Names that differ in length and last letter need not be compared.
        let mut seen = 0_u64;
        for (at, (name, _)) in fields.iter().enumerate() {
            let letter = name.as_bytes().last().map_or(0, |byte| usize::from(*byte));
            let bit = 1 << ((name.len() * 7 + letter) % 64);
            if seen & bit != 0 && fields[..at].iter().any(|(earlier, _)| earlier == name) {
                return None;
            }
            seen |= bit;
        }
        Some(Self { fields, aside: None })
    }

    fn index(&self) -> Option<&Positions> {
        self.aside.as_ref()?.index.as_ref()
    }

    /// What is about to be changed is not as it was written any more.
    fn forget_text(&mut self) {
        if let Some(aside) = &mut self.aside {
            aside.written = None;
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        match self.index() {
            Some(index) => index.find(&self.fields, name),
            None => self.fields.iter().position(|(n, _)| n == name),
        }
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    /// As [`Map::insert`].
    pub(crate) fn insert(&mut self, name: Text, value: Value) -> Option<Value> {
        match self.position(&name) {
            Some(at) => Some(std::mem::replace(&mut self.fields[at].1, value)),
            None => {
                self.push(name, value);
                None
            }
        }
    }

    /// As [`Map::push`].
    pub(crate) fn push(&mut self, name: impl Into<Text>, value: Value) -> &mut Value {
        let at = self.fields.len();
        self.fields.push((name.into(), value));
        let Self { fields, aside } = self;
        match aside.as_mut().and_then(|aside| aside.index.as_mut()) {
            Some(index) => index.insert(fields, at),
            None if fields.len() > SEARCHED_MAX => self.reindex(),
            None => {}
        }
        &mut self.fields[at].1
    }

    /// The index again, after fields moved.
    fn reindex(&mut self) {
        let index = (self.fields.len() > SEARCHED_MAX).then(|| Positions::of(&self.fields));
        match &mut self.aside {
            Some(aside) => aside.index = index,
            None if index.is_some() => self.aside = Some(Box::new(Aside { index, written: None })),
            None => {}
        }
    }

    fn remove_at(&mut self, at: usize) -> Value {
        let (_, value) = self.fields.remove(at);
        if self.index().is_some() {
            self.reindex();
        }
        value
    }
}

impl Map {
    pub const fn new() -> Self {
        Self(None)
    }

    pub fn with_capacity(fields: usize) -> Self {
        if fields == 0 { Self::new() } else { Self(Some(Arc::new(Fields::with_capacity(fields)))) }
    }

    fn fields(&self) -> &[(Text, Value)] {
        self.0.as_ref().map_or(&[], |shared| &shared.fields)
    }

    /// The fields for a change, no longer shared.
    fn fields_mut(&mut self) -> &mut Fields {
        let own = Arc::make_mut(self.0.get_or_insert_default());
        own.forget_text();
        own
    }

    /// The JSON text that stands for the object: the one that it was read from, if that was kept and nothing changed since.
    pub(crate) fn written(&self) -> Option<&str> {
        self.0.as_ref()?.aside.as_ref()?.written.as_deref()
    }

    /// Keeps the JSON text that the object was read from, until it is changed.
    pub(crate) fn keep_text(&mut self, text: &str) {
        let own = Arc::make_mut(self.0.get_or_insert_default());
        own.aside.get_or_insert_default().written = Some(text.into());
    }

    pub fn len(&self) -> usize {
        self.fields().len()
    }

    pub fn is_empty(&self) -> bool {
        self.fields().is_empty()
    }

    pub fn clear(&mut self) {
        self.0 = None;
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.0.as_ref()?.position(name)
    }

    pub fn contains_key(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.position(name).map(|at| &self.fields()[at].1)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        self.position(name).map(|at| self.value_mut(at))
    }

    fn value_mut(&mut self, at: usize) -> &mut Value {
        &mut self.fields_mut().fields[at].1
    }

    /// Sets a field, in its place or behind all others; what it was before comes back.
    pub fn insert(&mut self, name: impl Into<Text>, value: Value) -> Option<Value> {
        self.fields_mut().insert(name.into(), value)
    }

    /// Adds a field behind all others that the caller knows not to be there.
    pub(crate) fn push(&mut self, name: impl Into<Text>, value: Value) -> &mut Value {
        self.fields_mut().push(name, value)
    }

    /// Puts a new field, or an old one, at a place.
    pub fn shift_insert(&mut self, at: usize, name: impl Into<Text>, value: Value) -> Option<Value> {
        let name = name.into();
        let old = self.remove(&name);
        let own = self.fields_mut();
        own.fields.insert(at, (name, value));
        own.reindex();
        old
    }

    /// Takes a field out; the others keep their order.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        self.position(name).map(|at| self.fields_mut().remove_at(at))
    }

    pub fn entry(&mut self, name: impl Into<Text>) -> Entry<'_> {
        let name = name.into();
        match self.position(&name) {
            Some(at) => Entry::Occupied(OccupiedEntry { map: self, at }),
            None => Entry::Vacant(VacantEntry { map: self, name }),
        }
    }

    /// Keeps the fields that `keep` wants.
    pub fn retain(&mut self, mut keep: impl FnMut(&Text, &mut Value) -> bool) {
        if self.is_empty() {
            return;
        }
        let own = self.fields_mut();
        let before = own.fields.len();
        own.fields.retain_mut(|(name, value)| keep(name, value));
        if own.fields.len() != before && own.index().is_some() {
            own.reindex();
        }
    }

    /// Puts the fields in the order of their names.
    pub fn sort_keys(&mut self) {
        if self.fields().is_sorted_by(|(a, _), (b, _)| a <= b) {
            return;
        }
        let own = self.fields_mut();
        own.fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        if own.index().is_some() {
            own.reindex();
        }
    }

    pub fn iter(&self) -> Iter<'_> {
        Iter(self.fields().iter())
    }

    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = (&Text, &mut Value)> + ExactSizeIterator {
        let fields: &mut [(Text, Value)] = if self.is_empty() { &mut [] } else { &mut self.fields_mut().fields };
        fields.iter_mut().map(|(name, value)| (&*name, value))
    }

    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &Text> + ExactSizeIterator + Clone {
        self.fields().iter().map(|(name, _)| name)
    }

    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Value> + ExactSizeIterator + Clone {
        self.fields().iter().map(|(_, value)| value)
    }

    pub fn values_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Value> + ExactSizeIterator {
        self.iter_mut().map(|(_, value)| value)
    }
}

/// The fields of a [`Map`], in order.
#[derive(Clone, Debug)]
pub struct Iter<'a>(std::slice::Iter<'a, (Text, Value)>);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a Text, &'a Value);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(name, value)| (name, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back().map(|(name, value)| (name, value))
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl<'a> IntoIterator for &'a Map {
    type Item = (&'a Text, &'a Value);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl IntoIterator for Map {
    type Item = (Text, Value);
    type IntoIter = std::vec::IntoIter<(Text, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.map(Arc::unwrap_or_clone).unwrap_or_default().fields.into_iter()
    }
}

impl<N: Into<Text>, V: Into<Value>> Extend<(N, V)> for Map {
    fn extend<I: IntoIterator<Item = (N, V)>>(&mut self, fields: I) {
        for (name, value) in fields {
            self.insert(name, value.into());
        }
    }
}

impl<N: Into<Text>, V: Into<Value>> FromIterator<(N, V)> for Map {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        let fields = fields.into_iter();
        let mut own = Fields::with_capacity(fields.size_hint().0);
        for (name, value) in fields {
            own.insert(name.into(), value.into());
        }
        own.into_map()
    }
}

/// Objects with the same fields are equal, whatever their order; those whose text was kept when the text is the same.
impl PartialEq for Map {
    fn eq(&self, other: &Self) -> bool {
        if let (Some(a), Some(b)) = (&self.0, &other.0)
            && Arc::ptr_eq(a, b)
        {
            return true;
        }
        match (self.written(), other.written()) {
            (None, None) => self.has_same_fields(other),
            (Some(ours), Some(theirs)) => ours == theirs,
            (Some(text), None) => serde_json::to_string(other).is_ok_and(|other| other == text),
            (None, Some(text)) => serde_json::to_string(self).is_ok_and(|own| own == text),
        }
    }
}

impl Map {
    /// Whether two objects that are not equal are so but for the texts that they were read from.
    pub(crate) fn differs_in_text(&self, other: &Self) -> bool {
        self.written().or(other.written()).is_some() && self.has_same_fields(other)
    }

    fn has_same_fields(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.fields(), other.fields());
        // Each value is compared once, or the time would double with each level of a tree.
        let is_same = |(at, (name, value)): (usize, &(Text, Value))| match &theirs[at] {
            (other, theirs) if other == name => theirs == value,
            _ => other.get(name) == Some(value),
        };
        ours.len() == theirs.len() && ours.iter().enumerate().all(is_same)
    }
}

impl Eq for Map {}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

/// Panics when the field is not there; for tests and for tables of ours.
impl<N: Borrow<str> + ?Sized> Index<&N> for Map {
    type Output = Value;

    #[track_caller]
    fn index(&self, name: &N) -> &Value {
        let name = name.borrow();
        self.get(name).unwrap_or_else(|| panic!("no field {name:?}"))
    }
}

impl<N: Borrow<str> + ?Sized> IndexMut<&N> for Map {
    #[track_caller]
    fn index_mut(&mut self, name: &N) -> &mut Value {
        let name = name.borrow();
        self.get_mut(name).unwrap_or_else(|| panic!("no field {name:?}"))
    }
}

/// A field that is there or could be.
#[derive(Debug)]
pub enum Entry<'a> {
    Occupied(OccupiedEntry<'a>),
    Vacant(VacantEntry<'a>),
}

#[derive(Debug)]
pub struct OccupiedEntry<'a> {
    map: &'a mut Map,
    at: usize,
}

#[derive(Debug)]
pub struct VacantEntry<'a> {
    map: &'a mut Map,
    name: Text,
}

impl<'a> Entry<'a> {
    pub fn or_insert(self, value: Value) -> &'a mut Value {
        self.or_insert_with(|| value)
    }

    pub fn or_insert_with(self, make: impl FnOnce() -> Value) -> &'a mut Value {
        match self {
            Self::Occupied(entry) => entry.into_mut(),
            Self::Vacant(entry) => entry.insert(make()),
        }
    }

    #[must_use]
    pub fn and_modify(mut self, modify: impl FnOnce(&mut Value)) -> Self {
        if let Self::Occupied(entry) = &mut self {
            modify(entry.get_mut());
        }
        self
    }
}

impl<'a> OccupiedEntry<'a> {
    pub fn get(&self) -> &Value {
        &self.map.fields()[self.at].1
    }

    pub fn get_mut(&mut self) -> &mut Value {
        self.map.value_mut(self.at)
    }

    pub fn into_mut(self) -> &'a mut Value {
        self.map.value_mut(self.at)
    }

    pub fn insert(&mut self, value: Value) -> Value {
        std::mem::replace(self.get_mut(), value)
    }

    pub fn remove(self) -> Value {
        self.map.fields_mut().remove_at(self.at)
    }
}

impl<'a> VacantEntry<'a> {
    pub fn insert(self, value: Value) -> &'a mut Value {
        self.map.push(self.name, value)
    }
}
