//! Where the items of a list are, by what tells them apart.

use std::hash::{BuildHasher as _, Hash, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Lists of at most so many items are searched one by one, which beats hashing them. A client may send a hundred thousand.
const SEARCHED_MAX: usize = 16;

/// The keys of a list's items in order, each found without looking at all others.
#[derive(Debug)]
pub struct Occurrences<K> {
    keys: Vec<K>,
    /// Of a list with more than [`SEARCHED_MAX`].
    index: Option<Index>,
}

#[derive(Debug)]
struct Index {
    /// Keyed anew for each list: the keys are a client's.
    hasher: RandomState,
    table: HashTable<Chain>,
    /// For each item the next one with its key; itself where there is none.
    next: Vec<usize>,
}

/// The first and the last item of one key.
#[derive(Clone, Copy, Debug)]
struct Chain {
    first: usize,
    last: usize,
}

impl<K: Eq + Hash> Default for Occurrences<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Eq + Hash> Occurrences<K> {
    pub fn new() -> Self {
        Self { keys: Vec::new(), index: None }
    }

    pub fn of(keys: impl IntoIterator<Item = K>) -> Self {
        let mut all = Self { keys: keys.into_iter().collect(), index: None };
        all.reindex();
        all
    }

    fn reindex(&mut self) {
        if self.keys.len() > SEARCHED_MAX {
            let table = HashTable::with_capacity(self.keys.len());
            let mut index = Index { hasher: RandomState::new(), table, next: Vec::with_capacity(self.keys.len()) };
            for at in 0..self.keys.len() {
                index.add(&self.keys, at);
            }
            self.index = Some(index);
        }
    }

    pub fn keys(&self) -> &[K] {
        &self.keys
    }

    /// The first item of each key, in order, and where it is.
    pub fn firsts(&self) -> impl Iterator<Item = (usize, &K)> {
        self.keys.iter().enumerate().filter(|(at, key)| self.first(key) == Some(*at))
    }

    /// One more item at the end of the list.
    pub fn push(&mut self, key: K) {
        let at = self.keys.len();
        self.keys.push(key);
        match &mut self.index {
            Some(index) => index.add(&self.keys, at),
            None => self.reindex(),
        }
    }

    /// Where the first item with this key is.
    pub fn first(&self, key: &K) -> Option<usize> {
        match &self.index {
            Some(index) => index.find(&self.keys, key).map(|found| found.first),
            None => self.keys.iter().position(|other| other == key),
        }
    }

    pub fn contains(&self, key: &K) -> bool {
        self.first(key).is_some()
    }

    /// More than one item has this key.
    pub fn is_repeated(&self, key: &K) -> bool {
        match &self.index {
            Some(index) => index.find(&self.keys, key).is_some_and(|found| found.first != found.last),
            None => self.keys.iter().filter(|other| *other == key).nth(1).is_some(),
        }
    }

    /// All items with this key, in order.
    pub fn all(&self, key: &K) -> impl Iterator<Item = usize> {
        std::iter::successors(self.first(key), move |at| match &self.index {
            Some(index) => index.next.get(*at).copied().filter(|next| next != at),
            None => (at + 1..self.keys.len()).find(|next| self.keys[*next] == *key),
        })
    }
}

impl Index {
    fn find<K: Eq + Hash>(&self, keys: &[K], key: &K) -> Option<&Chain> {
        self.table.find(self.hasher.hash_one(key), |found| keys[found.first] == *key)
    }

    fn add<K: Eq + Hash>(&mut self, keys: &[K], at: usize) {
        let (hasher, key) = (&self.hasher, &keys[at]);
        let is_same = |found: &Chain| keys[found.first] == *key;
        let entry = self.table.entry(hasher.hash_one(key), is_same, |found| hasher.hash_one(&keys[found.first]));
        self.next.push(at);
        match entry {
            Entry::Occupied(mut found) => {
                let last = std::mem::replace(&mut found.get_mut().last, at);
                self.next[last] = at;
            }
            Entry::Vacant(new) => drop(new.insert(Chain { first: at, last: at })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn long_lists_are_searched_as_short_ones_are(keys in proptest::collection::vec(0..40, 0..60), more in 0..40) {
            let mut found = Occurrences::of(keys.clone());
            let mut keys = keys;
            keys.push(more);
            found.push(more);
            let firsts: Vec<usize> = found.firsts().map(|(at, _)| at).collect();
            assert_eq!(firsts, (0..keys.len()).filter(|at| !keys[..*at].contains(&keys[*at])).collect::<Vec<_>>());
            for key in 0..41 {
                assert_eq!(found.first(&key), keys.iter().position(|other| *other == key));
                let all: Vec<usize> = (0..keys.len()).filter(|at| keys[*at] == key).collect();
                assert_eq!(found.is_repeated(&key), all.len() > 1);
                assert_eq!(found.all(&key).collect::<Vec<_>>(), all);
            }
        }
    }
}
