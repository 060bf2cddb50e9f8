//! Lists that are sets or maps hold each item or key once. Source: `schema/listtype`.

use std::collections::HashMap;

use super::structural::{Additional, Structural};
use crate::schema::ListType;
use crate::{ErrorList, Map, Path, Value};

pub(super) fn validate(path: &Path, value: &Value, schema: &Structural, errors: &mut ErrorList) {
    match value {
        Value::Object(map) => {
            if let Some(Additional::Schema(below)) = &schema.additional {
                map.iter().for_each(|(name, value)| validate(&path.key(name), value, below, errors));
            }
            for (name, value) in map {
                if let Some(property) = schema.property(name) {
                    validate(&path.child(name), value, property, errors);
                }
            }
        }
        Value::Array(items) => {
            match schema.list_type {
                Some(ListType::Set) => {
                    repeated(items).into_iter().for_each(|i| errors.duplicate(path.index(i), items[i].clone()));
                }
                Some(ListType::Map) => map_list(path, items, schema, errors),
                _ => {}
            }
            if let Some(below) = &schema.items {
                items.iter().enumerate().for_each(|(i, item)| validate(&path.index(i), item, below, errors));
            }
        }
        _ => {}
    }
}

/// Positions of the first repetition of each item that is there more than once.
fn repeated(items: &[Value]) -> Vec<usize> {
    let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut out = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let times = seen.entry(crate::codec::encode_sorted(item)).or_insert(0);
        *times += 1;
        if *times == 2 {
            out.push(index);
        }
    }
    out
}

fn map_list(path: &Path, items: &[Value], schema: &Structural, errors: &mut ErrorList) {
    if let Some((index, item)) = items.iter().enumerate().find(|(_, item)| !item.is_object() && !item.is_null()) {
        return errors.invalid(path.index(index), item.clone(), "must be an object for an array of list-type map");
    }
    let key_of = |item: &Value| {
        let fields = schema.list_map_keys.iter();
        Value::Object(
            fields.filter_map(|key| Some((key.to_string(), item.get(key.as_ref())?.clone()))).collect::<Map>(),
        )
    };
    let keys: Vec<Value> = items.iter().map(key_of).collect();
    repeated(&keys).into_iter().for_each(|i| errors.duplicate(path.index(i), keys[i].clone()));
}

/// The item of `old` with the same keys as `item`; only lists that are maps have such a thing.
pub(super) fn same_key<'v>(old: &'v [Value], item: &Value, keys: &[Box<str>]) -> Option<&'v Value> {
    let same = |other: &&Value| keys.iter().all(|key| other.get(key.as_ref()) == item.get(key.as_ref()));
    (item.is_object() && !keys.is_empty()).then(|| old.iter().find(same)).flatten()
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn sets_and_maps_hold_each_thing_once() {
        let schema = Structural::new(&json!({"properties": {
            "s": {"x-kubernetes-list-type": "set", "items": {}},
            "m": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {}}}}));
        let object = json!({"s": ["a", "b", "a", "a"], "m": [{"k": 1, "v": 1}, {"k": 1, "v": 2}, {}]});
        let mut errors = ErrorList::new();
        validate(&Path::root(), &object, &schema, &mut errors);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["s[2]: Duplicate value: \"a\"", "m[1]: Duplicate value: {\"k\":1}"]);
    }
}
