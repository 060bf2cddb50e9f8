//! Looking into a value: by name, by position, by JSON pointer (RFC 6901).

use std::ops;

use super::{Text, Value};

static NULL: Value = Value::Null;

/// What a value is looked into by: the name of a field or the position of an item.
pub trait ValueIndex {
    fn find<'v>(&self, value: &'v Value) -> Option<&'v Value>;
    fn find_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value>;
    /// The part to be written, which a field of an object (or of nothing) needs not be before.
    fn find_or_make<'v>(&self, value: &'v mut Value) -> &'v mut Value;
}

impl ValueIndex for usize {
    fn find<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        value.as_array()?.get(*self)
    }

    fn find_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
        value.as_array_mut()?.get_mut(*self)
    }

    #[track_caller]
    fn find_or_make<'v>(&self, value: &'v mut Value) -> &'v mut Value {
        self.find_mut(value).unwrap_or_else(|| panic!("no item {self}"))
    }
}

impl ValueIndex for str {
    fn find<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        value.as_object()?.get(self)
    }

    fn find_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
        value.as_object_mut()?.get_mut(self)
    }

    #[track_caller]
    fn find_or_make<'v>(&self, value: &'v mut Value) -> &'v mut Value {
        if value.is_null() {
            *value = Value::Object(super::Map::new());
        }
        match value {
            Value::Object(map) => map.entry(self).or_insert(Value::Null),
            _ => panic!("no object to have a field {self:?}"),
        }
    }
}

macro_rules! by_name {
    ($($name:ty),+) => { $(
        impl ValueIndex for $name {
            fn find<'v>(&self, value: &'v Value) -> Option<&'v Value> {
                ValueIndex::find(self.as_str(), value)
            }

            fn find_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
                ValueIndex::find_mut(self.as_str(), value)
            }

            #[track_caller]
            fn find_or_make<'v>(&self, value: &'v mut Value) -> &'v mut Value {
                ValueIndex::find_or_make(self.as_str(), value)
            }
        }
    )+ };
}

by_name!(String, Text);

impl<I: ValueIndex + ?Sized> ValueIndex for &I {
    fn find<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        (**self).find(value)
    }

    fn find_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
        (**self).find_mut(value)
    }

    #[track_caller]
    fn find_or_make<'v>(&self, value: &'v mut Value) -> &'v mut Value {
        (**self).find_or_make(value)
    }
}

/// Null where there is nothing.
impl<I: ValueIndex> ops::Index<I> for Value {
    type Output = Self;

    fn index(&self, index: I) -> &Self {
        index.find(self).unwrap_or(&NULL)
    }
}

/// Makes the field of an object that is not there. Panics when the value is neither null nor an object, or has no such item.
impl<I: ValueIndex> ops::IndexMut<I> for Value {
    #[track_caller]
    fn index_mut(&mut self, index: I) -> &mut Self {
        index.find_or_make(self)
    }
}

impl Value {
    pub fn get(&self, index: impl ValueIndex) -> Option<&Self> {
        index.find(self)
    }

    pub fn get_mut(&mut self, index: impl ValueIndex) -> Option<&mut Self> {
        index.find_mut(self)
    }

    /// What a JSON pointer points to; the empty one to the whole.
    pub fn pointer(&self, pointer: &str) -> Option<&Self> {
        steps(pointer)?.try_fold(self, |value, step| match value {
            Self::Object(map) => map.get(&unescape(step)),
            Self::Array(list) => list.get(position(step)?),
            _ => None,
        })
    }

    pub fn pointer_mut(&mut self, pointer: &str) -> Option<&mut Self> {
        steps(pointer)?.try_fold(self, |value, step| match value {
            Self::Object(map) => map.get_mut(&unescape(step)),
            Self::Array(list) => list.get_mut(position(step)?),
            _ => None,
        })
    }
}

fn steps(pointer: &str) -> Option<impl Iterator<Item = &str>> {
    if !pointer.is_empty() && !pointer.starts_with('/') {
        return None;
    }
    Some(pointer.split('/').skip(1))
}

fn unescape(step: &str) -> std::borrow::Cow<'_, str> {
    match step.contains('~') {
        true => step.replace("~1", "/").replace("~0", "~").into(),
        false => step.into(),
    }
}

/// Without leading zeros or signs.
fn position(step: &str) -> Option<usize> {
    let is_plain = step == "0" || !step.starts_with(['0', '+']);
    is_plain.then(|| step.parse().ok())?
}
