//! Strategic merge patch: lists merge by key where the schema says so; directives in the patch (`$patch`, `$retainKeys`,
//! `$setElementOrder/…`, `$deleteFromPrimitiveList/…`) say the rest. Source: apimachinery `util/strategicpatch`.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use crate::codec::encode_sorted;
use crate::occurrences::Occurrences;
use crate::{Map, Text, Value, gojson};

use super::{Patch, PatchError, PatchType};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList";
const ELEMENT_ORDER: &str = "$setElementOrder";

/// How a list field merges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListMerge<'s> {
    /// The patch's list is the new list.
    Replace,
    /// A list of scalars: union.
    Set,
    /// A list of objects with this field as their key.
    ByKey(&'s str),
}

/// What a patch must know of one field.
#[derive(Clone, Copy, Debug)]
pub struct FieldMeta<'s, N> {
    /// Type of the field, or of its items when it is a list; `None` for scalars.
    pub node: Option<N>,
    /// The field's patch strategy is `replace`: an object is not merged.
    pub replace: bool,
    pub list: ListMerge<'s>,
}

/// The part of a schema that strategic merge patches follow.
pub trait PatchSchema {
    type Node: Copy;

    /// Field `name` of the type at `node` (of a map: any key); `None` when the type has no such field.
    fn field(&self, node: Self::Node, name: &str) -> Option<FieldMeta<'_, Self::Node>>;

    /// Go's name of the type, for messages: `DeploymentSpec`.
    fn type_name(&self, node: Self::Node) -> String;

    /// A map has keys and no fields: nothing can be said of how they merge.
    fn is_map(&self, _: Self::Node) -> bool {
        false
    }
}

pub(super) fn decode(body: &[u8]) -> Result<Patch, PatchError> {
    let parsed = gojson::parse(body).map_err(PatchError::BadRequest)?;
    let document = match parsed.value {
        Value::Object(_) => parsed.value,
        Value::Null => Value::Object(Map::new()),
        other => {
            let name = gojson::type_name(&other);
            let text = format!("json: cannot unmarshal {name} into Go value of type map[string]interface {{}}");
            return Err(PatchError::BadRequest(text));
        }
    };
    let strict_errors = parsed.duplicates.iter().map(|path| format!("duplicate field \"{path}\"")).collect();
    Ok(Patch { patch_type: PatchType::Strategic, document, strict_errors })
}

pub(super) fn apply<S: PatchSchema>(
    original: &Value,
    patch: &Value,
    schema: &S,
    root: S::Node,
) -> Result<Value, PatchError> {
    let as_map = |value: &Value| value.as_object().cloned().unwrap_or_default();
    Merge { schema }.map(as_map(original), as_map(patch), Some(root)).map(Value::Object)
}

fn failed(message: impl Into<String>) -> PatchError {
    PatchError::Failed(message.into())
}

fn bad_retain_keys() -> PatchError {
    PatchError::BadRequest("invalid patch format of retainKeys".to_owned())
}

fn bad_element_order() -> PatchError {
    PatchError::BadRequest("invalid patch format of setElementOrder list".to_owned())
}

fn no_merge_key(map: &Map, key: &str) -> PatchError {
    let map = gojson::print(&Value::Object(map.clone()));
    failed(format!("map: {map} does not contain declared merge key: {key}"))
}

fn unknown_directive(directive: &Value, map: &Map) -> PatchError {
    let map = gojson::print(&Value::Object(map.clone()));
    failed(format!("unknown patch type: {} in map: {map}", gojson::print_as_text(directive)))
}

/// Go's name of a decoded value's type.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn wrong_type(expected: &str, value: &Value) -> PatchError {
    failed(format!("expected a {expected}, but received a {}", go_type(value)))
}

fn list_of(value: Value) -> Result<Vec<Value>, PatchError> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(wrong_type("[]interface {}", &other)),
    }
}

fn map_of(value: &Value) -> Result<&Map, PatchError> {
    value.as_object().ok_or_else(|| wrong_type("map[string]interface {}", value))
}

/// A part of a patch that takes its place whole: without nulls and directives, which say what to do with something that is there. `None`
/// when it is a directive itself.
fn taken(value: Value) -> Option<Value> {
    Some(match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => return None,
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            kept.filter_map(|(key, value)| Some((key, taken(value)?))).collect()
        }
        Value::Array(items) => items.into_iter().filter_map(taken).collect(),
        scalar => scalar,
    })
}

struct Merge<'s, S> {
    schema: &'s S,
}

impl<'s, S: PatchSchema> Merge<'s, S> {
    /// Depth is bounded by the parser's, which refused deeper documents.
    fn map(&self, mut original: Map, mut patch: Map, node: Option<S::Node>) -> Result<Map, PatchError> {
        if let Some(directive) = patch.get(DIRECTIVE) {
            return match directive.as_str() {
                Some("replace") => {
                    patch.remove(DIRECTIVE);
                    Ok(patch)
                }
                Some("delete") => Ok(Map::new()),
                _ => Err(unknown_directive(directive, &patch)),
            };
        }
        retain_keys(&mut original, &mut patch)?;
        self.ordered_lists(&mut original, &mut patch, node)?;
        for (key, value) in patch {
            let deletes = key.starts_with(DELETE_PRIMITIVES);
            let key = if deletes {
                let name = key.strip_prefix(DELETE_PRIMITIVES).and_then(|k| k.strip_prefix('/'));
                let bad = || PatchError::BadRequest("invalid patch format of primitive list".to_owned());
                Text::new(name.ok_or_else(bad)?)
            } else {
                key
            };
            if value.is_null() {
                original.remove(&key);
                continue;
            }
            let current = original.get_mut(&key);
            let is_structure = value.is_object() || value.is_array();
            let Some(current) = current.filter(|current| is_structure && go_type(current) == go_type(&value)) else {
                match taken(value).filter(|_| !deletes) {
                    Some(value) => drop(original.insert(key, value)),
                    None if deletes => {}
                    None => drop(original.remove(&key)),
                }
                continue;
            };
            let meta = self.lookup(node, &key)?;
            let merged = match (current.take(), value) {
                (Value::Object(current), Value::Object(value)) => {
                    Value::Object(if meta.replace { value } else { self.map(current, value, meta.node)? })
                }
                (Value::Array(current), Value::Array(value)) => {
                    Value::Array(self.list(current, value, &meta, deletes)?)
                }
                (_, value) => value,
            };
            original.insert(key, merged);
        }
        Ok(original)
    }

    fn lookup(&self, node: Option<S::Node>, key: &str) -> Result<FieldMeta<'s, S::Node>, PatchError> {
        if node.is_some_and(|node| self.schema.is_map(node)) {
            return Err(failed("merging an object in json but data type is not struct, instead is: map"));
        }
        let found = node.and_then(|node| self.schema.field(node, key));
        found.ok_or_else(|| {
            let name = node.map(|node| self.schema.type_name(node)).unwrap_or_default();
            failed(format!("unable to find api field in struct {name} for the json field \"{key}\""))
        })
    }

    /// Merges the lists whose order the patch fixes by `$setElementOrder`, and takes them out of the patch.
    fn ordered_lists(&self, original: &mut Map, patch: &mut Map, node: Option<S::Node>) -> Result<(), PatchError> {
        let directives: Vec<Text> = patch.keys().filter(|k| k.starts_with(ELEMENT_ORDER)).cloned().collect();
        for directive in directives {
            let order = list_of(patch.remove(&directive).unwrap_or(Value::Null))?;
            let key = directive
                .strip_prefix(ELEMENT_ORDER)
                .and_then(|k| k.strip_prefix('/'))
                .ok_or_else(bad_element_order)?;
            let original_list = original.get(key).cloned().map(list_of).transpose()?;
            let patch_list = patch.get(key).cloned().map(list_of).transpose()?;
            let meta = self.lookup(node, key)?;
            let merge_key = match meta.list {
                ListMerge::ByKey(key) => key,
                ListMerge::Set | ListMerge::Replace => "",
            };
            check_order(patch_list.as_deref().unwrap_or_default(), &order, merge_key)?;
            let merged = match (&original_list, &patch_list) {
                (Some(list), None) => list.clone(),
                (None, Some(list)) => list.clone(),
                (Some(current), Some(value)) => self.list(current.clone(), value.clone(), &meta, false)?,
                (None, None) => continue,
            };
            let current = original_list.unwrap_or_default();
            let maps = element_kind(&current, patch_list.as_deref().unwrap_or_default())? == Elements::Maps;
            let keys = Keys { merge_key, maps };
            let (in_patch, server_only) = keys.partition(merged, &order)?;
            let ordered = keys.interleave(in_patch, server_only, &order, &current)?;
            original.insert(key, Value::Array(ordered));
            patch.remove(key);
        }
        Ok(())
    }

    fn list(
        &self,
        original: Vec<Value>,
        patch: Vec<Value>,
        meta: &FieldMeta<'s, S::Node>,
        deletes: bool,
    ) -> Result<Vec<Value>, PatchError> {
        let merge_key = match meta.list {
            // What is to be deleted is looked for in every list.
            ListMerge::Replace if !deletes => return Ok(patch),
            ListMerge::Replace | ListMerge::Set => "",
            ListMerge::ByKey(key) => key,
        };
        if original.is_empty() && patch.is_empty() {
            return Ok(original);
        }
        let maps = element_kind(&original, &patch)? == Elements::Maps;
        let keys = Keys { merge_key, maps };
        if !maps {
            let in_patch = keys.of(&patch);
            if deletes {
                return Ok(original.iter().filter(|item| !in_patch.contains(&keys.key(item))).cloned().collect());
            }
            let merged: Vec<Value> = original.iter().chain(&patch).cloned().collect();
            let merged = keys.of(&merged).firsts().map(|(at, _)| merged[at].clone()).collect();
            let (in_patch, server_only) = keys.partition(merged, &patch)?;
            return keys.interleave(in_patch, server_only, &patch, &original);
        }
        if merge_key.is_empty() {
            return Err(failed("cannot merge lists without merge key for type struct"));
        }
        let (original, patch) = special_elements(original, patch, keys)?;
        let mut found = keys.of(&original);
        let mut merged = original.clone();
        for item in &patch {
            let map = map_of(item)?;
            if !map.contains_key(merge_key) {
                return Err(no_merge_key(map, merge_key));
            }
            match found.first(&keys.key(item)) {
                Some(i) => {
                    let current = map_of(&merged[i])?.clone();
                    merged[i] = Value::Object(self.map(current, map.clone(), meta.node)?);
                }
                None => {
                    found.push(keys.key(item));
                    merged.push(item.clone());
                }
            }
        }
        let (in_patch, server_only) = keys.partition(merged, &patch)?;
        keys.interleave(in_patch, server_only, &patch, &original)
    }
}

/// Drops what `$retainKeys` does not name; everything the patch sets must be named.
fn retain_keys(original: &mut Map, patch: &mut Map) -> Result<(), PatchError> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else { return Err(bad_retain_keys()) };
    let named: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    let named = |key: &str| named.contains(key);
    for (key, value) in &*patch {
        let is_directive = key.starts_with(DELETE_PRIMITIVES) || key.starts_with(ELEMENT_ORDER);
        if !value.is_null() && !is_directive && !named(key) {
            return Err(bad_retain_keys());
        }
    }
    original.retain(|key, _| named(key));
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Elements {
    Maps,
    Scalars,
}

/// All elements must be of one type, and not lists.
fn element_kind(left: &[Value], right: &[Value]) -> Result<Elements, PatchError> {
    let mut all = left.iter().chain(right);
    let Some(first) = all.next() else { return Err(failed("no elements in any of the given slices")) };
    if first.is_array() {
        return Err(PatchError::Unprocessable("lists of lists are not supported".to_owned()));
    }
    if all.any(|v| go_type(v) != go_type(first)) {
        let lists = gojson::print(&Value::from(vec![Value::from(left.to_vec()), Value::from(right.to_vec())]));
        return Err(failed(format!("list element types are not identical: {lists}")));
    }
    Ok(if first.is_object() { Elements::Maps } else { Elements::Scalars })
}

/// Obeys `$patch: delete` and `$patch: replace` elements; returns both lists without them.
fn special_elements(
    original: Vec<Value>,
    patch: Vec<Value>,
    keys: Keys<'_>,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut plain = Vec::new();
    let mut deleted = Vec::new();
    let mut replace = false;
    for item in &patch {
        let map = map_of(item)?;
        let Some(directive) = map.get(DIRECTIVE) else {
            plain.push(item.clone());
            continue;
        };
        match directive.as_str() {
            Some("delete") if map.contains_key(keys.merge_key) => deleted.push(keys.key(item)),
            Some("delete") => return Err(no_merge_key(map, keys.merge_key)),
            Some("replace") => replace = true,
            Some("merge") => return Err(failed("merging lists cannot yet be specified in the patch")),
            _ => return Err(unknown_directive(directive, map)),
        }
    }
    if replace {
        return Ok((plain, Vec::new()));
    }
    let deleted = Occurrences::of(deleted);
    let kept = original.iter().filter(|item| !deleted.contains(&keys.key(item))).cloned().collect();
    Ok((kept, plain))
}

fn is_delete(item: &Value) -> bool {
    item.get(DIRECTIVE).and_then(Value::as_str) == Some("delete")
}

/// The patch's list must follow the order given, and name nothing else.
fn check_order(patch: &[Value], order: &[Value], merge_key: &str) -> Result<(), PatchError> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut kept = Vec::new();
    for item in patch {
        if merge_key.is_empty()
            || !is_delete({
                map_of(item)?;
                item
            })
        {
            kept.push(item);
        }
    }
    let mut order_rest = order.iter();
    let mut kept_rest = kept.into_iter().peekable();
    while let Some(item) = kept_rest.peek() {
        if item.get(DIRECTIVE).is_some() {
            kept_rest.next();
            continue;
        }
        let Some(next) = order_rest.next() else {
            let (patch, order) = (gojson::print(&Value::from(patch)), gojson::print(&Value::from(order)));
            return Err(failed(format!(
                "The order in patch list:\n{patch}\n doesn't match {ELEMENT_ORDER} list:\n{order}\n"
            )));
        };
        let equal = if merge_key.is_empty() {
            *item == next
        } else {
            let (left, right) = (map_of(item)?, map_of(next)?);
            let left = left.get(merge_key).ok_or_else(|| no_merge_key(left, merge_key))?;
            let right = right.get(merge_key).ok_or_else(|| no_merge_key(right, merge_key))?;
            left == right
        };
        if equal {
            kept_rest.next();
        }
    }
    Ok(())
}

/// How elements of one list are told apart.
#[derive(Clone, Copy)]
struct Keys<'k> {
    merge_key: &'k str,
    maps: bool,
}

/// What tells an element apart: of a map the value of its merge key, of anything else itself.
#[derive(PartialEq, Eq)]
struct Key<'v>(Option<&'v Value>);

/// Only long lists are hashed.
impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.0 {
            Some(Value::String(text)) => text.hash(state),
            value => value.map(encode_sorted).hash(state),
        }
    }
}

impl Keys<'_> {
    fn key<'v>(&self, item: &'v Value) -> Key<'v> {
        Key(if self.maps { item.get(self.merge_key) } else { Some(item) })
    }

    fn of<'v>(&self, list: &'v [Value]) -> Occurrences<Key<'v>> {
        Occurrences::of(list.iter().map(|item| self.key(item)))
    }

    /// Items that are in `by`, and the others.
    fn partition(&self, merged: Vec<Value>, by: &[Value]) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        let found = self.of(by);
        let no_map = by.iter().position(|item| !item.is_object());
        for item in merged {
            let key = self.key(&item);
            let at = found.first(&key).filter(|_| key.0.is_some());
            if !self.merge_key.is_empty() {
                let map = map_of(&item)?;
                if !map.contains_key(self.merge_key) {
                    return Err(no_merge_key(map, self.merge_key));
                }
                // The list is searched from its beginning.
                if let Some(no_map) = no_map.filter(|no_map| at.is_none_or(|at| no_map < &at)) {
                    return Err(failed(format!("value for key {no_map} is not a map")));
                }
            }
            if at.is_some() { inside.push(item) } else { outside.push(item) }
        }
        Ok((inside, outside))
    }

    /// One list in which `in_patch` follows `patch_order`, `server_only` follows `server_order`, and both keep their relative
    /// order in `server_order` where they have one.
    fn interleave(
        &self,
        in_patch: Vec<Value>,
        server_only: Vec<Value>,
        patch_order: &[Value],
        server_order: &[Value],
    ) -> Result<Vec<Value>, PatchError> {
        let right = self.sort(in_patch, patch_order)?;
        let left = self.sort(server_only, server_order)?;
        let mut out = Vec::with_capacity(left.len() + right.len());
        let on_server = self.of(server_order);
        let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
        while let (Some(l), Some(r)) = (left.peek(), right.peek()) {
            let left_first = match (on_server.first(&self.key(l)), on_server.first(&self.key(r))) {
                (Some(l), Some(r)) => l < r,
                _ => false,
            };
            out.extend(if left_first { left.next() } else { right.next() });
        }
        out.extend(left);
        out.extend(right);
        Ok(out)
    }

    /// Sorted by position in `order`, items that delete last.
    fn sort(&self, items: Vec<Value>, order: &[Value]) -> Result<Vec<Value>, PatchError> {
        let wanted = self.of(order);
        let position = |item: &Value| wanted.first(&self.key(item)).unwrap_or(usize::MAX);
        if !self.maps {
            let mut items = items;
            items.sort_by_cached_key(position);
            return Ok(items);
        }
        for item in items.iter().chain(order) {
            let map = map_of(item)?;
            if !map.contains_key(self.merge_key) {
                return Err(no_merge_key(map, self.merge_key));
            }
        }
        let (deletes, mut kept): (Vec<_>, Vec<_>) = items.into_iter().partition(is_delete);
        kept.sort_by_cached_key(position);
        kept.extend(deletes);
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    /// Types of a small workload; a type named `map` takes any key.
    struct Types;

    impl PatchSchema for Types {
        type Node = &'static str;

        fn field(&self, node: &'static str, name: &str) -> Option<FieldMeta<'_, &'static str>> {
            let meta = |node, list| Some(FieldMeta { node, replace: false, list });
            match (node, name) {
                ("Pod", "spec") => meta(Some("PodSpec"), ListMerge::Replace),
                ("PodSpec", "containers") => meta(Some("Container"), ListMerge::ByKey("name")),
                ("PodSpec", "finalizers") => meta(None, ListMerge::Set),
                ("PodSpec", "strategy") => meta(Some("Strategy"), ListMerge::Replace),
                ("PodSpec", "labels") => meta(Some("map"), ListMerge::Replace),
                ("Container", "env") => meta(Some("Env"), ListMerge::ByKey("name")),
                ("Container", "ports") => meta(Some("Port"), ListMerge::ByKey("port")),
                ("Container" | "Env" | "Strategy" | "Port", "args") => meta(None, ListMerge::Replace),
                ("Container" | "Env" | "Strategy" | "Port", _) => meta(None, ListMerge::Replace),
                ("map", _) => meta(None, ListMerge::Replace),
                _ => None,
            }
        }

        fn type_name(&self, node: &'static str) -> String {
            node.to_owned()
        }
    }

    fn run(original: Value, patch: Value) -> Result<Value, PatchError> {
        apply(&json!({"spec": original}), &json!({"spec": patch}), &Types, "Pod").map(|v| v["spec"].clone())
    }

    fn check(original: Value, patch: Value, want: Value) {
        assert_eq!(run(original, patch.clone()).unwrap_or_else(|e| panic!("{patch}: {e}")), want, "{patch}");
    }

    #[test]
    fn lists_merge_by_key_and_put_new_items_where_the_patch_has_them() {
        check(
            json!({"containers": [{"name": "c", "image": "x", "env": [{"name": "A", "value": "1"}]}]}),
            json!({"containers": [{"name": "d", "image": "y"}, {"name": "c", "env": [{"name": "B", "value": "2"}]}]}),
            json!({"containers": [
                {"name": "d", "image": "y"},
                {"name": "c", "image": "x", "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]},
            ]}),
        );
    }

    #[test]
    fn directives_delete_and_replace() {
        let original =
            json!({"containers": [{"name": "c", "image": "x"}, {"name": "d", "image": "y"}], "labels": {"a": "1"}});
        check(
            original.clone(),
            json!({"containers": [{"name": "c", "$patch": "delete"}], "labels": {"b": "2", "$patch": "replace"}}),
            json!({"containers": [{"name": "d", "image": "y"}], "labels": {"b": "2"}}),
        );
        check(
            original.clone(),
            json!({"containers": [{"name": "z"}, {"$patch": "replace"}], "labels": {"$patch": "delete"}}),
            json!({"containers": [{"name": "z"}], "labels": {}}),
        );
        let error = run(original.clone(), json!({"labels": {"$patch": "bogus"}})).expect_err("refused");
        assert_eq!(error.to_string(), "unknown patch type: bogus in map: map[$patch:bogus]");
        let error = run(original, json!({"labels": {"$patch": 1}})).expect_err("refused");
        assert_eq!(error.to_string(), "unknown patch type: %!s(int64=1) in map: map[$patch:1]");
    }

    #[test]
    fn primitive_lists_are_unions_unless_deleted_from() {
        let original = json!({"finalizers": ["a", "b"]});
        check(original.clone(), json!({"finalizers": ["c", "a"]}), json!({"finalizers": ["c", "a", "b"]}));
        check(original.clone(), json!({"$deleteFromPrimitiveList/finalizers": ["a"]}), json!({"finalizers": ["b"]}));
        check(
            original,
            json!({"$setElementOrder/finalizers": ["b", "a", "c"], "finalizers": ["c"]}),
            json!({"finalizers": ["b", "a", "c"]}),
        );
    }

    #[test]
    fn element_order_is_obeyed_and_checked() {
        let original = json!({"containers": [{"name": "c", "image": "x"}, {"name": "d", "image": "y"}]});
        check(
            original.clone(),
            json!({"$setElementOrder/containers": [{"name": "d"}, {"name": "c"}], "containers": [{"name": "c", "image": "q"}]}),
            json!({"containers": [{"name": "d", "image": "y"}, {"name": "c", "image": "q"}]}),
        );
        let error = run(
            original.clone(),
            json!({"$setElementOrder/containers": [{"name": "d"}], "containers": [{"name": "c", "image": "q"}]}),
        );
        assert_eq!(
            error.expect_err("refused").to_string(),
            "The order in patch list:\n[map[image:q name:c]]\n doesn't match $setElementOrder list:\n[map[name:d]]\n"
        );
        let error = run(original, json!({"$setElementOrder/containers": "x"})).expect_err("refused");
        assert_eq!(error.status().message, "expected a []interface {}, but received a string");
    }

    #[test]
    fn a_missing_merge_key_is_an_error() {
        let original = json!({"containers": [{"name": "c", "image": "x"}]});
        let error = run(original, json!({"containers": [{"image": "q"}]})).expect_err("refused");
        assert_eq!(error, PatchError::Failed("map: map[image:q] does not contain declared merge key: name".to_owned()));
        assert_eq!((error.status().code, error.status().reason.as_str()), (500, ""));
    }

    #[test]
    fn retained_keys_drop_the_others() {
        let original = json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}});
        check(
            original.clone(),
            json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}),
            json!({"strategy": {"type": "Recreate"}}),
        );
        let error =
            run(original, json!({"strategy": {"$retainKeys": ["x"], "type": "Recreate"}})).expect_err("refused");
        assert_eq!(error, PatchError::BadRequest("invalid patch format of retainKeys".to_owned()));
    }

    #[test]
    fn null_deletes_and_unknown_fields_pass_until_they_collide() {
        check(json!({"labels": {"a": "1"}}), json!({"labels": null, "bogus": 1}), json!({"bogus": 1}));
        check(json!({"bogus": 1}), json!({"bogus": 2}), json!({"bogus": 2}));
        check(json!({}), json!({"labels": {"a": null, "b": [{"c": null}]}}), json!({"labels": {"b": [{}]}}));
        check(json!({}), json!({"labels": {"$patch": "delete"}}), json!({}));
        check(json!({}), json!({"$deleteFromPrimitiveList/finalizers": ["a"]}), json!({}));
        let error = run(json!({"bogus": {}}), json!({"bogus": {}})).expect_err("refused");
        assert_eq!(error.to_string(), "unable to find api field in struct PodSpec for the json field \"bogus\"");
    }

    proptest::proptest! {
        #[test]
        fn a_patch_never_panics(
            original in "\\{\"containers\":\\[(\\{\"name\":\"[ab]\"\\},?){0,3}\\]\\}",
            patch in "\\{\"(containers|\\$setElementOrder/containers|finalizers)\":\\[(\\{\"(name|\\$patch)\":\"(a|b|delete|replace)\"\\}|1)?\\]\\}",
        ) {
            if let (Ok(original), Ok(patch)) = (serde_json::from_str(&original), serde_json::from_str(&patch)) {
                let _ = run(original, patch);
            }
        }
    }
}
