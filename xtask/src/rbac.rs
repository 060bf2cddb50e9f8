//! Upstream's bootstrap roles and bindings, reduced to what differs from one to the next.
//!
//! Every object of the policy carries the same label and annotation and the same API version; those are added back when the
//! policy is applied, so the file holds names, rules, subjects and what labels aggregate.

use std::{fs, path::Path};

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

const SOURCES: [(&str, &[&str]); 4] = [
    ("clusterRoles", &["cluster-roles.yaml", "controller-roles.yaml"]),
    ("clusterRoleBindings", &["cluster-role-bindings.yaml", "controller-role-bindings.yaml"]),
    ("roles", &["namespace-roles.yaml"]),
    ("roleBindings", &["namespace-role-bindings.yaml"]),
];

const BOOTSTRAP_LABEL: &str = "kubernetes.io/bootstrapping";
const OUTPUT: &str = "crates/apiserver/data/rbac.json";

pub(crate) fn run(from: &Path) -> anyhow::Result<()> {
    let mut out = Map::new();
    for (section, files) in SOURCES {
        let mut rows = Vec::new();
        for file in files {
            let path = from.join(file);
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            let list: Value = serde_saphyr::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
            let Some(items) = list["items"].as_array() else { bail!("{} has no items", path.display()) };
            for item in items {
                rows.push(row(item)?);
            }
        }
        out.insert(section.to_owned(), Value::Array(rows));
    }
    // One row a line: small, and still readable in a diff.
    let mut text = String::from("{\n");
    for (i, (section, rows)) in out.iter().enumerate() {
        text.push_str(&format!("\"{section}\": [\n"));
        let lines: Vec<String> = rows.as_array().into_iter().flatten().map(Value::to_string).collect();
        text.push_str(&lines.join(",\n"));
        text.push_str(if i + 1 == out.len() { "\n]\n" } else { "\n],\n" });
    }
    text.push_str("}\n");
    fs::write(OUTPUT, text).with_context(|| format!("write {OUTPUT}"))
}

fn row(item: &Value) -> anyhow::Result<Value> {
    let metadata = &item["metadata"];
    let Some(name) = metadata["name"].as_str() else { bail!("object without a name: {item}") };
    let mut row = Map::new();
    if let Some(namespace) = metadata["namespace"].as_str() {
        row.insert("namespace".into(), json!(namespace));
    }
    row.insert("name".into(), json!(name));
    let mut labels = metadata["labels"].as_object().cloned().unwrap_or_default();
    if labels.shift_remove(BOOTSTRAP_LABEL) != Some(json!("rbac-defaults")) {
        bail!("{name} is not part of the bootstrap policy");
    }
    if !labels.is_empty() {
        row.insert("labels".into(), Value::Object(labels));
    }
    for field in ["rules", "aggregationRule", "roleRef", "subjects"] {
        if let Some(value) = item.get(field).filter(|v| !v.is_null()) {
            row.insert(field.into(), value.clone());
        }
    }
    Ok(Value::Object(row))
}
