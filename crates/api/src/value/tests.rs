use proptest::prelude::*;

use super::{Map, Value};

fn map(names: impl IntoIterator<Item = usize>) -> Map {
    names.into_iter().map(|n| (format!("field-{n}"), n)).collect()
}

#[test]
fn a_value_is_small() {
    assert_eq!(size_of::<Value>(), 32);
    assert_eq!(size_of::<Map>(), 32);
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
    fn text_means_the_same_as_to_serde_json(theirs in any_json()) {
        let text = theirs.to_string();
        let ours: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(ours.to_string(), text);
        prop_assert_eq!(&ours, &Value::from(theirs.clone()));
        prop_assert_eq!(serde_json::Value::from(ours), theirs);
    }
}
