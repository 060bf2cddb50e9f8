//! Field sets that come again and again, as text and as a tree.
//!
//! What one writer makes of one template says the same about its fields every time, and a third of an object is that. Its text is
//! compared with those read before, which is far less work than reading it, and the tree is shared.

use std::hash::BuildHasher as _;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use hashbrown::DefaultHashBuilder;

use super::Map;

/// Shorter texts are read as fast as they are found.
const TEXT_BYTES_MIN: usize = 64;
/// Longer ones are not kept. With what follows, what is kept is at most some six megabytes, and seldom one.
const TEXT_BYTES_MAX: usize = 4096;
/// A text is looked for among the few that begin alike.
const GROUPS: usize = 32;
const GROUP_TEXTS: usize = 4;
/// Texts of a group that were met last. What is met again is kept.
const GROUP_MET: usize = 8;

static KNOWN: LazyLock<Known> = LazyLock::new(Known::default);

#[derive(Default)]
struct Known {
    hasher: DefaultHashBuilder,
    groups: [Mutex<Group>; GROUPS],
}

#[derive(Default)]
struct Group {
    /// The one used last comes first.
    trees: Vec<(Box<[u8]>, Map)>,
    met: [u64; GROUP_MET],
    n_met: usize,
}

impl Known {
    /// Where texts that begin as this one are kept; none that are too short.
    fn group(&self, text: &[u8]) -> Option<MutexGuard<'_, Group>> {
        let beginning = text.first_chunk::<TEXT_BYTES_MIN>()?;
        let group = self.hasher.hash_one(beginning) as usize % GROUPS;
        Some(self.groups[group].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The object that `json` begins with, if it is known, and the length of its text.
pub(super) fn find(json: &[u8]) -> Option<(Map, usize)> {
    let mut group = KNOWN.group(json)?;
    // No object's text is the beginning of another's.
    let at = group.trees.iter().position(|(text, _)| json.starts_with(text))?;
    group.trees[..=at].rotate_right(1);
    let (text, tree) = &group.trees[0];
    Some((tree.clone(), text.len()))
}

/// An object that was not known has been read: it is kept when this was not the first time.
pub(super) fn met(text: &[u8], tree: &Map) {
    if text.len() > TEXT_BYTES_MAX {
        return;
    }
    let Some(mut group) = KNOWN.group(text) else { return };
    let hash = KNOWN.hasher.hash_one(text);
    if !group.met.contains(&hash) {
        let at = group.n_met % GROUP_MET;
        group.met[at] = hash;
        group.n_met += 1;
        return;
    }
    group.trees.truncate(GROUP_TEXTS - 1);
    group.trees.insert(0, (text.into(), tree.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Value;

    /// Objects that begin alike.
    fn text(n: usize) -> String {
        format!(r#"{{"f:metadata":{{"f:labels":{{".":{{}},"f:app.kubernetes.io/instance":{{}}}}}},"f:n{n}":{{}}}}"#)
    }

    fn read(text: &str) -> Value {
        Value::from_json(format!(r#"{{"fieldsV1":{text},"x":1}}"#).as_bytes()).unwrap()["fieldsV1"].clone()
    }

    #[test]
    fn what_is_read_again_is_the_same_tree() {
        let text = text(0);
        let (first, second, third, fourth) = (read(&text), read(&text), read(&text), read(&text));
        assert_eq!(serde_json::to_string(&fourth).unwrap(), text);
        assert!([&first, &second, &third].into_iter().all(|tree| *tree == fourth));
        let begin = text.as_bytes().to_vec();
        assert!(find(&[&begin[..], b",\"more\":1}"].concat()).is_some_and(|(_, length)| length == text.len()));
        assert!(find(&begin[..begin.len() - 1]).is_none(), "half of it is not it");
    }

    #[test]
    fn a_change_of_one_object_is_not_seen_in_the_next() {
        let text = text(1);
        for _ in 0..3 {
            let mut tree = read(&text);
            assert_eq!(serde_json::to_string(&tree).unwrap(), text);
            tree["f:metadata"]["f:labels"] = Value::Null;
        }
    }

    #[test]
    fn few_are_kept_of_many_that_begin_alike() {
        for n in (2..100).chain(2..100) {
            read(&text(n));
            read(&text(n));
        }
        let group = KNOWN.group(text(2).as_bytes()).unwrap();
        assert!(group.trees.len() <= GROUP_TEXTS);
    }
}
