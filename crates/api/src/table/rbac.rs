//! Rows of role bindings. Roles themselves use the default table.

use crate::Value;

use super::row::Row;

pub(super) fn binding(row: &Row<'_>) -> Vec<Value> {
    let subjects = |kind: &str| {
        let parts: Vec<String> = row
            .items("/subjects")
            .filter(|s| s.str("/kind") == kind)
            .map(|s| match kind {
                "ServiceAccount" => format!("{}/{}", s.str("/namespace"), s.str("/name")),
                _ => s.str("/name").to_owned(),
            })
            .collect();
        Value::from(parts.join(", "))
    };
    vec![
        row.name(),
        format!("{}/{}", row.str("/roleRef/kind"), row.str("/roleRef/name")).into(),
        row.age(),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}
