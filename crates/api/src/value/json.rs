//! The [`json!`](crate::json) macro.

/// A [`Value`](crate::Value) written as JSON. Anything serializable may stand for a value, and a name in parentheses for a key.
///
/// Panics when a part cannot be serialized (a map whose keys are no texts).
#[macro_export]
macro_rules! json {
    // The rest of an object: a nested value or an expression after each key.
    (@object $map:ident) => {};
    (@object $map:ident $name:tt : { $($inner:tt)* } $(, $($rest:tt)*)?) => {
        $map.insert($crate::json!(@name $name), $crate::json!({ $($inner)* }));
        $crate::json!(@object $map $($($rest)*)?);
    };
    (@object $map:ident $name:tt : [ $($inner:tt)* ] $(, $($rest:tt)*)?) => {
        $map.insert($crate::json!(@name $name), $crate::json!([ $($inner)* ]));
        $crate::json!(@object $map $($($rest)*)?);
    };
    (@object $map:ident $name:tt : null $(, $($rest:tt)*)?) => {
        $map.insert($crate::json!(@name $name), $crate::Value::Null);
        $crate::json!(@object $map $($($rest)*)?);
    };
    (@object $map:ident $name:tt : $value:expr $(, $($rest:tt)*)?) => {
        $map.insert($crate::json!(@name $name), $crate::json!($value));
        $crate::json!(@object $map $($($rest)*)?);
    };
    (@name ($name:expr)) => { $crate::Text::from($name) };
    (@name $name:expr) => { $crate::Text::from($name) };
    // The items of an array so far, and the rest of it.
    (@array [$($items:expr,)*]) => { ::std::vec![$($items),*] };
    (@array [$($items:expr,)*] { $($inner:tt)* } $(, $($rest:tt)*)?) => {
        $crate::json!(@array [$($items,)* $crate::json!({ $($inner)* }),] $($($rest)*)?)
    };
    (@array [$($items:expr,)*] [ $($inner:tt)* ] $(, $($rest:tt)*)?) => {
        $crate::json!(@array [$($items,)* $crate::json!([ $($inner)* ]),] $($($rest)*)?)
    };
    (@array [$($items:expr,)*] null $(, $($rest:tt)*)?) => {
        $crate::json!(@array [$($items,)* $crate::Value::Null,] $($($rest)*)?)
    };
    (@array [$($items:expr,)*] $value:expr $(, $($rest:tt)*)?) => {
        $crate::json!(@array [$($items,)* $crate::json!($value),] $($($rest)*)?)
    };
    (null) => { $crate::Value::Null };
    ([]) => { $crate::Value::Array(::std::vec::Vec::new()) };
    ([ $($inner:tt)+ ]) => { $crate::Value::Array($crate::json!(@array [] $($inner)+)) };
    ({}) => { $crate::Value::Object($crate::Map::new()) };
    ({ $($inner:tt)+ }) => {{
        let mut map = $crate::Map::new();
        $crate::json!(@object map $($inner)+);
        $crate::Value::Object(map)
    }};
    ($value:expr) => { $crate::value::to_value(&$value).expect("a part that can be serialized") };
}
