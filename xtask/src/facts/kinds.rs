//! The kinds file: groups, resources, subresources and the write rules that are plain facts.

use std::fmt::Write;

use anyhow::{Context, Result, bail};

use super::Table;

pub(super) struct Kinds {
    pub(super) text: String,
    /// Definitions of every kind, its list and the kinds of its subresources.
    pub(super) roots: Vec<String>,
}

/// Group-versions in which we store although a default upstream server still writes an older one. Both read either; storing
/// the served version means stored bytes need no conversion on their way to a client.
const STORED_AS_SERVED: &[&str] = &["apiextensions.k8s.io", "admissionregistration.k8s.io"];

/// Field labels of events, which read the stored core/v1 form whatever the version asked for. `a|b` means "b when a is empty".
const CORE_EVENT_FIELDS: &str = "involvedObject.kind=involvedObject.kind,involvedObject.namespace=involvedObject.namespace,\
    involvedObject.name=involvedObject.name,involvedObject.uid=involvedObject.uid,\
    involvedObject.apiVersion=involvedObject.apiVersion,involvedObject.resourceVersion=involvedObject.resourceVersion,\
    involvedObject.fieldPath=involvedObject.fieldPath,reason=reason,reportingComponent=reportingComponent,\
    source=source.component|reportingComponent,type=type";
const EVENTS_EVENT_FIELDS: &str = "reason=reason,regarding.kind=involvedObject.kind,regarding.namespace=involvedObject.namespace,\
    regarding.name=involvedObject.name,regarding.uid=involvedObject.uid,regarding.apiVersion=involvedObject.apiVersion,\
    regarding.resourceVersion=involvedObject.resourceVersion,regarding.fieldPath=involvedObject.fieldPath,\
    reportingController=reportingComponent,type=type";

pub(super) fn generate(resources: &Table, strategy: &Table, groups: &Table) -> Result<Kinds> {
    let mut text = String::new();
    let mut roots = Vec::new();
    for row in &groups.0 {
        if row[3].is_empty() || row[1].starts_with('<') {
            continue;
        }
        let priorities: Vec<&str> =
            row[4].split(' ').filter(|p| row[3].split(',').any(|v| p.split('=').next() == Some(v))).collect();
        writeln!(text, "G\t{}\t{}\t{}", row[1], row[3], priorities.join(","))?;
    }
    let served = |row: &&Vec<String>| row[2] == "stable" && row[3] == "yes";
    for row in resources.0.iter().filter(served) {
        let (group, version, name) = (&row[0], &row[1], &row[6]);
        let (kind, kind_group, kind_version) = (&row[7], &row[8], &row[9]);
        let type_name = definition(kind_group, kind_version, kind)?;
        roots.push(type_name.clone());
        if row[5] == "subresource" {
            let sub = name.split_once('/').context("subresource without a slash")?.1;
            writeln!(text, "S\t{sub}\t{kind_group}\t{kind_version}\t{kind}\t{}\t{type_name}", row[11])?;
            continue;
        }
        let rules = strategy.0.iter().find(|s| s[0] == *group && s[2] == *name);
        if rules.is_some() {
            roots.push(format!("{type_name}List"));
        }
        let prefix = rules.map_or("", |s| s[4].as_str());
        let storage = match (rules, STORED_AS_SERVED.contains(&group.as_str())) {
            (None, _) => String::new(),
            (Some(_), true) => format!("{group}/{version}"),
            (Some(_), false) => row[16].clone(),
        };
        let namespaced = if row[10] == "true" { "n" } else { "-" };
        writeln!(
            text,
            "K\t{group}\t{version}\t{name}\t{kind}\t{}\t{namespaced}\t{}\t{}\t{}\t{prefix}\t{storage}\t{}\t{type_name}",
            row[14], row[11], row[12], row[13], row[15]
        )?;
        if let Some(rules) = rules {
            writeln!(text, "{}", rules_text(rules)?)?;
            let fields = selectable_fields(group, name, &rules[13]);
            if !fields.is_empty() {
                writeln!(text, "F\t{fields}")?;
            }
        }
    }
    Ok(Kinds { text, roots })
}

/// `R <flags> <generation> <gc default> <reset by apply> <reset by apply to status> <restored by status update>`.
fn rules_text(row: &[String]) -> Result<String> {
    let mut flags = String::new();
    let mut flag = |on: bool, letter: char| {
        if on {
            flags.push(letter);
        }
    };
    flag(row[5] == "yes", 'c');
    flag(row[6] == "yes", 'u');
    flag(row[7].starts_with("status cleared") || row[7].contains("status cleared"), 'w');
    flag(row[8].starts_with("status:=old") || row[8].contains("; status:=old"), 'r');
    flag(row[15] == "object", 'o');
    let generation = match row[9].as_str() {
        "never set (0)" => "-",
        "create=1; never bumped" => "create",
        "create=1; update +1 if spec changed" => "spec",
        "create=1; +1 if template changed" => "template",
        "create=1; +1 if webhooks changed" => "webhooks",
        "create=1; +1 if spec OR metadata.annotations changed" => "spec+annotations",
        "create: not set; +1 on update if spec changed" => "spec-on-update",
        "create=1; +1 if anything but metadata changed OR metadata.labels changed" => "all+labels",
        text if text.starts_with("create=1; any spec change") => "spec",
        other => bail!("unknown generation rule {other:?} of {}", row[2]),
    };
    let gc = match row[14].as_str() {
        "background" => "b",
        "orphan" => "o",
        "unsupported" => "-",
        other => bail!("unknown gc default {other:?} of {}", row[2]),
    };
    let list = |cell: &str| {
        let cell = cell.split(" (").next().unwrap_or("");
        cell.split(',').map(str::trim).collect::<Vec<_>>().join(",")
    };
    let reset_status = list(&row[12]);
    let restored = match row[10].as_str() {
        "spec,labels,annotations,finalizers,ownerReferences:=old" => {
            "spec,metadata.labels,metadata.annotations,metadata.finalizers,metadata.ownerReferences".to_owned()
        }
        // Conditions merge instead of being restored; that is the kind's own rule.
        _ => reset_status.split(',').filter(|p| *p != "status.conditions").collect::<Vec<_>>().join(","),
    };
    let flags = if flags.is_empty() { "-".to_owned() } else { flags };
    Ok(format!("R\t{flags}\t{generation}\t{gc}\t{}\t{reset_status}\t{restored}", list(&row[11])))
}

fn selectable_fields(group: &str, resource: &str, cell: &str) -> String {
    match (group, resource) {
        ("", "events") => return CORE_EVENT_FIELDS.to_owned(),
        ("events.k8s.io", "events") => return EVENTS_EVENT_FIELDS.to_owned(),
        _ => {}
    }
    // A label that the versioned conversion rejects cannot be asked for.
    if cell.is_empty() || cell.contains("legacy") || cell.contains("internal only") {
        return String::new();
    }
    let mut out = Vec::new();
    for part in without_parentheses(cell).split(" -> ").next().unwrap_or("").split([',', ';']) {
        let label = part.trim();
        let is_path = label.contains('.') || matches!(label, "type" | "reason");
        if is_path && !label.starts_with("metadata.") && !label.contains(' ') {
            out.push(match label {
                "spec.host" => "spec.host=spec.nodeName".to_owned(),
                "status.successful" => "status.successful=status.succeeded".to_owned(),
                label => format!("{label}={label}"),
            });
        }
    }
    out.join(",")
}

fn without_parentheses(text: &str) -> String {
    let mut depth = 0;
    let keep = |c: &char| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => return depth == 0,
        }
        false
    };
    text.chars().filter(keep).collect()
}

/// The OpenAPI definition name of a kind.
fn definition(group: &str, version: &str, kind: &str) -> Result<String> {
    Ok(match group {
        "" => format!("io.k8s.api.core.{version}.{kind}"),
        "apiextensions.k8s.io" => format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}"),
        "apiregistration.k8s.io" => format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{version}.{kind}"),
        group => {
            let package = group.split('.').next().context("empty group")?;
            format!("io.k8s.api.{package}.{version}.{kind}")
        }
    })
}
