use proptest::prelude::*;

use super::{Map, Value, from_value, to_value};
use crate::json;

fn map(names: impl IntoIterator<Item = usize>) -> Map {
    names.into_iter().map(|n| (format!("field-{n}"), n)).collect()
}

#[test]
fn a_value_is_small() {
    assert_eq!(size_of::<Value>(), 32);
    assert_eq!(size_of::<Map>(), 8);
}

#[test]
fn fields_keep_their_order_and_are_there_once() {
    let mut fields = map([2, 0, 1]);
    assert_eq!(fields.insert("field-0", "again".into()), Some(0.into()));
    assert_eq!(Value::Object(fields).to_string(), r#"{"field-2":2,"field-0":"again","field-1":1}"#);
}

#[test]
fn many_fields_are_found_as_few_are() {
    let mut fields = map(0..1000);
    fields.retain(|_, value| value.as_u64().is_some_and(|n| n % 2 == 0));
    assert_eq!(fields.remove("field-500"), Some(500.into()));
    assert_eq!(fields.remove("field-501"), None);
    fields.sort_keys();
    assert_eq!(fields.len(), 499);
    for n in (0..1000).filter(|n| n % 2 == 0 && *n != 500) {
        assert_eq!(fields.get(&format!("field-{n}")), Some(&n.into()));
    }
}

#[test]
fn a_clone_is_the_same_tree_until_one_of_the_two_changes() {
    let original = json!({"metadata": {"name": "a"}, "spec": {"list": [{"a": 1}]}});
    let mut changed = original.clone();
    let at = |value: &Value, path: &str| value.pointer(path).map(std::ptr::from_ref);
    assert_eq!(at(&original, "/spec/list/0/a"), at(&changed, "/spec/list/0/a"));
    changed["metadata"]["name"] = "b".into();
    assert_eq!(original["metadata"]["name"], "a");
    assert_eq!(at(&original, "/spec/list/0/a"), at(&changed, "/spec/list/0/a"));
    assert_ne!(original, changed);
    changed["spec"]["list"][0]["a"] = 2.into();
    assert_eq!(original["spec"]["list"][0]["a"], 1);
}

#[test]
fn deep_trees_are_compared_in_one_pass() {
    let nested = |leaf: i64| (0..500).fold(Value::from(leaf), |inner, _| json!({"first": 0, "next": inner}));
    assert_eq!(nested(1), nested(1));
    assert_ne!(nested(1), nested(2));
    assert_eq!(json!({"a": {"b": 1, "c": 2}}), json!({"a": {"c": 2, "b": 1}}));
    assert_ne!(json!({"a": 1, "b": 2}), json!({"b": 1, "a": 2}));
}

#[test]
fn looking_for_nothing_to_change_changes_nothing() {
    let original = map(0..3);
    let mut same = original.clone();
    same.retain(|_, _| true);
    same.sort_keys();
    assert_eq!(same.get_mut("absent"), None);
    assert_eq!(same, original);
    assert_eq!(Map::new().iter_mut().count(), 0);
}

#[test]
fn objects_are_equal_in_any_order() {
    assert_eq!(map(0..100), map((0..100).rev()));
    assert_ne!(map(0..100), map(1..101));
    assert_ne!(map(0..3), map(0..2));
}

#[test]
fn a_pointer_finds_what_rfc_6901_says() {
    let value = json!({ "a/b": [{ "m~n": 7 }], "": 1 });
    assert_eq!(value.pointer("/a~1b/0/m~0n"), Some(&7.into()));
    assert_eq!(value.pointer("/"), Some(&1.into()));
    assert_eq!(value.pointer(""), Some(&value));
    assert_eq!(value.pointer("/a~1b/00"), None);
    assert_eq!(value.pointer("a"), None);
}

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
enum Shape {
    Unit,
    One(i32),
    Two(i32, String),
    Named { a: Option<u8>, b: Vec<bool> },
}

#[test]
fn types_go_in_and_out_as_with_serde_json() {
    let shapes = [Shape::Unit, Shape::One(-1), Shape::Two(2, "x".into()), Shape::Named { a: None, b: vec![true] }];
    let value = to_value(&shapes).unwrap();
    assert_eq!(value.to_string(), serde_json::to_string(&shapes).unwrap());
    assert_eq!(from_value::<Vec<Shape>>(value).unwrap(), shapes);
    let wrong = from_value::<Vec<Shape>>(json!(["Three"])).unwrap_err();
    assert!(wrong.to_string().starts_with("unknown variant `Three`, expected one of `Unit`, `One`"));
    let by_number = std::collections::BTreeMap::from([(1, 'a'), (2, 'b')]);
    assert_eq!(
        json!({ "keys": by_number, ("not".to_owned() + "hing"): null }).to_string(),
        r#"{"keys":{"1":"a","2":"b"},"nothing":null}"#
    );
    assert!(to_value(std::collections::BTreeMap::from([((), 1)])).is_err());
}

/// Any JSON of serde_json's.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<u64>().prop_map(serde_json::Value::from),
        "[a-z\"\\\\\u{e9}]{0,40}".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 64, 40, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
            prop::collection::vec(("[a-z]{0,3}", inner), 0..40).prop_map(serde_json::Value::from_iter),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_serde_makes_is_what_serde_json_makes(theirs in any_json()) {
        prop_assert_eq!(to_value(&theirs).unwrap(), Value::from(theirs.clone()));
        prop_assert_eq!(from_value::<serde_json::Value>(Value::from(theirs.clone())).unwrap(), theirs);
    }

    #[test]
    fn text_means_the_same_as_to_serde_json(theirs in any_json()) {
        let text = theirs.to_string();
        let ours: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(ours.to_string(), text);
        prop_assert_eq!(&ours, &Value::from(theirs.clone()));
        prop_assert_eq!(serde_json::Value::from(ours), theirs);
    }
}
