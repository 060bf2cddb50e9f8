//! The schema file: every type reachable from a served kind, in the field order of upstream's structs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

use anyhow::{Context, Result};

use super::Table;

/// Types that no served kind refers to but that requests and responses carry.
const EXTRA_ROOTS: &[&str] = &[
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.CreateOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.UpdateOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.PatchOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.GetOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.ListOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList",
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroupList",
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIVersions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata",
    "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadataList",
    "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent",
    "io.k8s.apimachinery.pkg.apis.meta.v1.List",
    "io.k8s.api.apidiscovery.v2.APIGroupDiscoveryList",
    "io.k8s.api.admission.v1.AdmissionReview",
    "io.k8s.api.core.v1.RangeAllocation",
    "io.k8s.api.core.v1.SerializedReference",
    "io.k8s.api.core.v1.PodStatusResult",
];

/// Lists whose default is for none and not for an empty one, by type and field.
const TELLS_EMPTY: &[(&str, &str)] = &[("io.k8s.api.autoscaling.v2.HPAScalingRules", "policies")];

/// Messages whose JSON is not an object of their fields, and the one-letter shape that stands for them.
const SPECIAL: &[(&str, &str)] = &[
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "t"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "u"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Duration", "D"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "F"),
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", "Q"),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "I"),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "R"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", "A"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray", "1"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", "2"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray", "3"),
];

/// Messages that are a named slice of strings in JSON.
const STRING_LISTS: &[&str] = &["ExtraValue", "Verbs"];

struct ProtoField {
    number: String,
    type_name: String,
    label: String,
    go_type: String,
    json_name: String,
    options: String,
}

#[derive(Default)]
struct Openapi {
    gvks: Vec<String>,
    /// field -> (required, enum, default)
    fields: BTreeMap<String, (bool, String, String)>,
    has_type_meta: bool,
}

/// Where the fields of an embedded struct stand in the one that embeds it.
#[derive(Default)]
struct Embedded {
    /// Protobuf field numbers on the way, each with a dot behind it; of a field, its own number last.
    numbers: String,
    /// Go's names of the structs on the way, each with a dot behind it.
    names: String,
}

#[derive(Clone, Default)]
struct Merge {
    list_type: String,
    keys: String,
    map_type: String,
    patch_strategy: String,
    merge_key: String,
    union: String,
}

struct Tables {
    messages: HashMap<String, Vec<ProtoField>>,
    openapi: HashMap<String, Openapi>,
    merge: HashMap<(String, String), Merge>,
}

pub(super) fn generate(protobuf: &Table, schema: &Table, merge: &Table, roots: &[String]) -> Result<String> {
    let tables = Tables::new(protobuf, schema, merge);
    let mut todo: Vec<String> = roots.iter().cloned().chain(EXTRA_ROOTS.iter().map(|&r| r.to_owned())).collect();
    let mut done: BTreeMap<String, String> = BTreeMap::new();
    while let Some(name) = todo.pop() {
        if done.contains_key(&name) {
            continue;
        }
        let mut refs = BTreeSet::new();
        let text = tables.type_text(&name, &mut refs)?;
        done.insert(name, text);
        todo.extend(refs);
    }
    Ok(done.into_values().collect())
}

impl Tables {
    fn new(protobuf: &Table, schema: &Table, merge: &Table) -> Self {
        let mut messages: HashMap<String, Vec<ProtoField>> = HashMap::new();
        for row in &protobuf.0 {
            let fields = messages.entry(format!("{}.{}", definition_package(&row[0]), row[1])).or_default();
            if row[3] == "(no fields)" {
                continue;
            }
            fields.push(ProtoField {
                number: row[2].clone(),
                type_name: row[4].clone(),
                label: row[5].clone(),
                go_type: row[6].clone(),
                json_name: row[8].clone(),
                options: row[9].clone(),
            });
        }
        let mut openapi: HashMap<String, Openapi> = HashMap::new();
        for row in &schema.0 {
            let entry = openapi.entry(row[0].clone()).or_default();
            match row[2].as_str() {
                "(type)" if row[1].is_empty() => {}
                "(type)" => entry.gvks.extend(row[1].split(',').map(|g| g.trim().to_owned())),
                "apiVersion" | "kind" => {
                    let is_type_meta = row[2] == "apiVersion";
                    entry.has_type_meta |= is_type_meta;
                    entry.fields.insert(row[2].clone(), (row[5] == "required", row[6].clone(), row[7].clone()));
                }
                field => {
                    entry.fields.insert(field.to_owned(), (row[5] == "required", row[6].clone(), row[7].clone()));
                }
            }
        }
        let mut merges = HashMap::new();
        for row in &merge.0 {
            merges.insert(
                (row[0].clone(), row[1].clone()),
                Merge {
                    list_type: row[2].clone(),
                    keys: row[3].clone(),
                    map_type: row[4].clone(),
                    patch_strategy: row[5].clone(),
                    merge_key: row[6].clone(),
                    union: row[7].clone(),
                },
            );
        }
        let mut tables = Self { messages, openapi, merge: merges };
        tables.share_inline_merges();
        tables
    }

    /// Merge facts name the outer type; fields of a type embedded in it are written under the embedded one.
    fn share_inline_merges(&mut self) {
        for (name, fields) in &self.messages {
            for inline in fields.iter().filter(|f| f.options.contains("inline")) {
                let inner = resolve(&inline.type_name, package_of(name));
                for field in self.messages.get(&inner).into_iter().flatten() {
                    if let Some(merge) = self.merge.get(&(name.clone(), field.json_name.clone())).cloned() {
                        self.merge.entry((inner.clone(), field.json_name.clone())).or_insert(merge);
                    }
                }
            }
        }
    }

    fn type_text(&self, name: &str, refs: &mut BTreeSet<String>) -> Result<String> {
        let empty = Openapi::default();
        let openapi = self.openapi.get(name).unwrap_or(&empty);
        let mut out = format!("T\t{name}");
        if !openapi.gvks.is_empty() {
            write!(out, "\tg={}", openapi.gvks.join(","))?;
        }
        if let Some(merge) = self.merge.get(&(name.to_owned(), "(type)".to_owned())) {
            merge.write(&mut out)?;
        }
        out.push('\n');
        let own_fields = self.messages.get(name).with_context(|| format!("no message for {name}"))?;
        // TypeMeta is embedded first in every struct that has it and is not part of the protobuf message. Options types and
        // types without an OpenAPI definition are recognised by their name.
        let declares = |field: &str| own_fields.iter().any(|f| f.json_name == field);
        let undocumented = !self.openapi.contains_key(name) && has_type_meta_by_name(name);
        if (openapi.has_type_meta || undocumented) && !declares("apiVersion") {
            out.push_str("kind\ts\to\tI=TypeMeta.\napiVersion\ts\to\tI=TypeMeta.\n");
        }
        self.fields_text(name, openapi, &Embedded::default(), &mut out, refs)?;
        Ok(out)
    }

    fn fields_text(
        &self,
        name: &str,
        openapi: &Openapi,
        embedded: &Embedded,
        out: &mut String,
        refs: &mut BTreeSet<String>,
    ) -> Result<()> {
        let package = package_of(name);
        for field in self.messages.get(name).with_context(|| format!("no message for {name}"))? {
            let number = format!("{}{}", embedded.numbers, field.number);
            if field.options.contains("inline") {
                let inner = resolve(&field.type_name, package);
                let short = field.go_type.rsplit(['.', '*']).next().unwrap_or_default();
                let names = format!("{}{short}.", embedded.names);
                self.fields_text(&inner, openapi, &Embedded { numbers: format!("{number}."), names }, out, refs)?;
                continue;
            }
            self.field_text(
                name,
                field,
                &Embedded { numbers: number, names: embedded.names.clone() },
                openapi,
                out,
                refs,
            )?;
        }
        Ok(())
    }

    fn field_text(
        &self,
        owner: &str,
        field: &ProtoField,
        embedded: &Embedded,
        openapi: &Openapi,
        out: &mut String,
        refs: &mut BTreeSet<String>,
    ) -> Result<()> {
        let package = package_of(owner);
        let pointer = field.go_type.starts_with('*');
        let (shape, derived_go) = self.shape(field, package, refs);
        write!(out, "{}\t{shape}\t", field.json_name)?;
        if pointer {
            out.push('p');
        }
        if field.options.contains("omitempty") {
            out.push('o');
        }
        if field.options.contains("omitzero") {
            out.push('z');
        }
        let documented = openapi.fields.get(&field.json_name);
        if documented.is_some_and(|d| d.0) {
            out.push('r');
        }
        if TELLS_EMPTY.contains(&(owner, field.json_name.as_str())) {
            out.push('e');
        }
        write!(out, "\tn={}", embedded.numbers)?;
        if !embedded.names.is_empty() {
            write!(out, "\tI={}", embedded.names)?;
        }
        let go_type = go_text(field.go_type.trim_start_matches('*'), package);
        if go_type != derived_go {
            write!(out, "\tG={go_type}")?;
        }
        if let Some((_, values, default)) = documented {
            if !values.is_empty() {
                write!(out, "\te={values}")?;
            }
            if !default.is_empty() {
                write!(out, "\td={default}")?;
            }
        }
        if let Some(merge) = self.merge.get(&(owner.to_owned(), field.json_name.clone())) {
            merge.write(out)?;
        }
        out.push('\n');
        Ok(())
    }

    /// The shape of a field and the Go type that follows from the shape alone.
    fn shape(&self, field: &ProtoField, package: &str, refs: &mut BTreeSet<String>) -> (String, String) {
        let (prefix, go_prefix, element) = match field.label.as_str() {
            "repeated" => ("[]", "[]", field.type_name.as_str()),
            "map" => {
                let inner = field.type_name.trim_start_matches("map<string,").trim_end_matches('>');
                ("{}", "map[string]", inner)
            }
            _ => ("", "", field.type_name.as_str()),
        };
        let (shape, go) = match element {
            "string" => ("s".to_owned(), "string".to_owned()),
            "bool" => ("b".to_owned(), "bool".to_owned()),
            "int32" => ("i".to_owned(), "int32".to_owned()),
            "int64" => ("l".to_owned(), "int64".to_owned()),
            "double" => ("d".to_owned(), "float64".to_owned()),
            "bytes" => ("y".to_owned(), "[]uint8".to_owned()),
            other => {
                let name = resolve(other, package);
                let go = go_text(name.rsplit('.').next().unwrap_or(""), package_of(&name));
                let short = name.rsplit('.').next().unwrap_or("");
                if let Some((_, special)) = SPECIAL.iter().find(|(n, _)| *n == name) {
                    if matches!(*special, "1" | "2" | "3") {
                        refs.insert(format!("{}.JSONSchemaProps", package_of(&name)));
                    }
                    ((*special).to_owned(), go)
                } else if STRING_LISTS.contains(&short) {
                    // The reader knows only what the shape is.
                    ("[]s".to_owned(), "[]string".to_owned())
                } else {
                    refs.insert(name.clone());
                    let text = if package_of(&name) == package { short.to_owned() } else { name.clone() };
                    (format!("@{text}"), go)
                }
            }
        };
        (format!("{prefix}{shape}"), format!("{go_prefix}{go}"))
    }
}

impl Merge {
    fn write(&self, out: &mut String) -> Result<()> {
        let cells = [
            ("l", &self.list_type),
            ("k", &self.keys),
            ("m", &self.map_type),
            ("s", &self.patch_strategy),
            ("y", &self.merge_key),
            ("u", &self.union),
        ];
        for (key, value) in cells {
            if !value.is_empty() {
                write!(out, "\t{key}={value}")?;
            }
        }
        Ok(())
    }
}

/// `k8s.io.api.core.v1` -> `io.k8s.api.core.v1`.
fn definition_package(package: &str) -> String {
    format!("io.k8s.{}", package.trim_start_matches("k8s.io.").replace('_', "-"))
}

fn package_of(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(package, _)| package)
}

/// A message type as a field names it, made absolute.
fn resolve(type_name: &str, package: &str) -> String {
    if type_name.starts_with("k8s.io.") { definition_package(type_name) } else { format!("{package}.{type_name}") }
}

/// A Go type as Go prints it at run time: import aliases become package names, local names get their own.
fn go_text(go_type: &str, package: &str) -> String {
    if let Some(inner) = go_type.strip_prefix("[]") {
        return format!("[]{}", go_text(inner, package));
    }
    if let Some((key, value)) = go_type.strip_prefix("map[").and_then(|rest| rest.split_once(']')) {
        return format!("map[{}]{}", go_text(key, package), go_text(value, package));
    }
    let go_type = go_type.trim_start_matches('*');
    match go_type.split_once('.') {
        Some((alias, name)) => {
            let real = match alias {
                "metav1" | "corev1" | "apiv1" | "batchv1" | "authenticationv1" | "authnv1" | "authorizationv1" => "v1",
                other => other,
            };
            format!("{real}.{name}")
        }
        None => match go_type {
            "string" | "bool" | "int32" | "int64" | "float64" => go_type.to_owned(),
            "byte" => "uint8".to_owned(),
            local => format!("{}.{local}", package.rsplit('.').next().unwrap_or("")),
        },
    }
}

/// Top-level types that upstream leaves out of its OpenAPI document.
fn has_type_meta_by_name(name: &str) -> bool {
    let short = name.rsplit('.').next().unwrap_or("");
    matches!(
        short,
        "CreateOptions"
            | "UpdateOptions"
            | "PatchOptions"
            | "GetOptions"
            | "ListOptions"
            | "PartialObjectMetadata"
            | "PartialObjectMetadataList"
            | "List"
            | "APIGroupDiscoveryList"
            | "APIGroupDiscovery"
            | "AdmissionReview"
            | "RangeAllocation"
            | "SerializedReference"
            | "PodStatusResult"
            | "PodLogOptions"
            | "PodExecOptions"
            | "PodAttachOptions"
            | "PodPortForwardOptions"
            | "PodProxyOptions"
            | "NodeProxyOptions"
            | "ServiceProxyOptions"
    )
}
