//! What the API's documentation is made of: descriptions of types and fields from the doc comments of the k8s-openapi crate's
//! source, and the columns of tables with their descriptions.
//!
//! Writes `crates/api/data/descriptions.tsv.deflate` (definition, field, description as a JSON string) and
//! `crates/api/data/columns.tsv`. Both are committed; the project never reads the sources when it runs or builds.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use flate2::{Compression, write::DeflateEncoder};
use serde_json::Value;

/// The folder of k8s-openapi's source for the version we serve.
const VERSION_FOLDER: &str = "src/v1_36";

/// Definition name to field name (empty: the type itself) to description.
type Descriptions = BTreeMap<String, BTreeMap<String, String>>;

/// Reads `printer-columns.tsv` of the `facts` folder and the k8s-openapi source; writes the two data files.
pub(crate) fn run(workspace: &Path, facts: &Path) -> Result<()> {
    let mut descriptions = Descriptions::new();
    read_folder(&crate_source(workspace)?.join(VERSION_FOLDER), &mut descriptions)?;
    let facts = facts.join("printer-columns.tsv");
    let facts = fs::read_to_string(&facts).with_context(|| format!("reading {}", facts.display()))?;
    // Tables say nothing of a field's values.
    let columns = columns(&facts, &descriptions)?;
    add_more(&mut descriptions)?;
    let data = workspace.join("crates/api/data");
    fs::create_dir_all(&data)?;

    let mut lines = String::new();
    for (definition, fields) in &descriptions {
        for (field, text) in fields {
            lines.push_str(&format!("{definition}\t{field}\t{}\n", Value::from(text.as_str())));
        }
    }
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(lines.as_bytes())?;
    fs::write(data.join("descriptions.tsv.deflate"), encoder.finish()?)?;

    fs::write(data.join("columns.tsv"), columns)?;
    Ok(())
}

/// Adds what the crate's source lacks: what the values of enumerated fields mean, as a server appends it to the field's
/// description, and whole texts (rows without a value) that do not survive rustdoc.
fn add_more(descriptions: &mut Descriptions) -> Result<()> {
    for line in include_str!("more-descriptions.tsv").lines().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        let [definition, field, value, text] = cells[..] else { bail!("malformed line {line:?}") };
        let text: String = serde_json::from_str(text)?;
        let fields = descriptions.entry(definition.to_owned()).or_default();
        let description = fields.entry(field.to_owned()).or_default();
        if field.is_empty() {
            *description = text;
            continue;
        }
        if !description.contains(ENUM_HEADING) {
            *description = format!("{description}\n\n{ENUM_HEADING}").trim_start().to_owned();
        }
        *description = format!("{description}\n - `{value:?}` {text}").trim_end().to_owned();
    }
    Ok(())
}

/// Upstream's words before the values of an enumerated field; rows of values come sorted, as it sorts them.
const ENUM_HEADING: &str = "Possible enum values:";

/// Where cargo keeps the k8s-openapi source.
fn crate_source(workspace: &Path) -> Result<PathBuf> {
    let version = Command::new("rustc").arg("-vV").output()?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    // Crates for other platforms may never have been downloaded.
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform", host])
        .current_dir(workspace)
        .output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("reading cargo metadata")?;
    for package in metadata["packages"].as_array().into_iter().flatten() {
        if package["name"] == "k8s-openapi" {
            let manifest = package["manifest_path"].as_str().context("no manifest_path")?;
            return Ok(Path::new(manifest).parent().context("manifest has no folder")?.to_owned());
        }
    }
    bail!("k8s-openapi is not a dependency")
}

fn read_folder(folder: &Path, out: &mut Descriptions) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            read_folder(&path, out)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            let source = fs::read_to_string(&path)?;
            if let Some(rest) = source.strip_prefix("// Generated from definition ") {
                let name = rest.lines().next().unwrap_or("").trim().to_owned();
                out.insert(name, read_type(&source));
            }
        }
    }
    Ok(())
}

/// Doc comments of the type and of its fields, by their JSON names.
fn read_type(source: &str) -> BTreeMap<String, String> {
    let mut json_names = BTreeMap::new();
    for line in source.lines() {
        // `"minReadySeconds" => Field::Key_min_ready_seconds,`
        if let Some((name, key)) = line.trim().split_once(" => Field::Key_") {
            json_names.insert(key.trim_end_matches(','), name.trim_matches('"'));
        }
    }
    let mut out = BTreeMap::new();
    let mut comment = Vec::new();
    for line in source.lines() {
        if let Some(text) = line.trim_start().strip_prefix("///") {
            comment.push(unescape(text.strip_prefix(' ').unwrap_or(text)));
        } else if line.starts_with("pub struct ") || line.starts_with("pub enum ") {
            out.insert(String::new(), std::mem::take(&mut comment).join("\n"));
            if !line.ends_with('{') {
                break;
            }
        } else if let Some(field) = line.strip_prefix("    pub ").and_then(|rest| rest.split_once(':')) {
            let rust = field.0.trim_start_matches("r#");
            let json = json_names.get(rust).copied().unwrap_or(rust);
            out.insert(json.to_owned(), std::mem::take(&mut comment).join("\n"));
        } else if line == "}" {
            break;
        } else if !line.trim_start().starts_with("#[") {
            comment.clear();
        }
    }
    out.retain(|_, text| !text.is_empty());
    out
}

/// Undoes the escapes that keep rustdoc from reading markup.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some(&next)) if "\\[]<>".contains(next) => {
                out.push(next);
                chars.next();
            }
            _ => out.push(c),
        }
    }
    out
}

/// API group of a package in the facts.
fn group_of(package: &str) -> Option<&'static str> {
    Some(match package {
        "api" => "",
        "apps" => "apps",
        "batch" => "batch",
        "autoscaling" => "autoscaling",
        "policy" => "policy",
        "networking" => "networking.k8s.io",
        "rbac" => "rbac.authorization.k8s.io",
        "certificates" => "certificates.k8s.io",
        "coordination" => "coordination.k8s.io",
        "storage" => "storage.k8s.io",
        "scheduling" => "scheduling.k8s.io",
        "nodeapi" => "node.k8s.io",
        "discovery" => "discovery.k8s.io",
        "admissionregistration" => "admissionregistration.k8s.io",
        "flowcontrol" => "flowcontrol.apiserver.k8s.io",
        "resource" => "resource.k8s.io",
        "apiregistration" => "apiregistration.k8s.io",
        _ => return None,
    })
}

/// Joins the columns of the facts with their descriptions; kinds with an undescribed column are left to the default table.
fn columns(facts: &str, descriptions: &Descriptions) -> Result<String> {
    let mut sources = BTreeMap::new();
    for line in include_str!("column-descriptions.tsv").lines().skip(1) {
        let mut cells = line.split('\t');
        if let (Some(kind), Some(column), Some(source)) = (cells.next(), cells.next(), cells.next()) {
            sources.insert((kind, column), source);
        }
    }
    let mut kinds: Vec<(&str, &str, Vec<String>, bool)> = Vec::new();
    for line in facts.lines().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        let [package, kind, _, name, column_type, format, priority, ..] = cells[..] else { continue };
        let (group, kind) = match (group_of(package), kind) {
            (Some(group), kind) if kind != "CSIStorageCapacity" => (group, kind),
            (None, "<kinds without handler>") => ("*", "*"),
            _ => continue,
        };
        if kinds.last().is_none_or(|(g, k, ..)| (*g, *k) != (group, kind)) {
            kinds.push((group, kind, Vec::new(), true));
        }
        let Some((_, _, rows, complete)) = kinds.last_mut() else { continue };
        match sources.get(&(kind, name)).or_else(|| sources.get(&("*", name))) {
            Some(source) => {
                let text = describe(source, descriptions)?;
                rows.push(format!(
                    "{group}\t{kind}\t{name}\t{column_type}\t{format}\t{priority}\t{}",
                    Value::from(text)
                ));
            }
            None => *complete = false,
        }
    }
    let mut out = "group\tkind\tname\ttype\tformat\tpriority\tdescription\n".to_owned();
    for row in kinds.into_iter().filter(|(.., complete)| *complete).flat_map(|(_, _, rows, _)| rows) {
        out.push_str(&row);
        out.push('\n');
    }
    Ok(out)
}

/// `=literal text`, or `Type.field` (with as much of the definition's name in front as makes it unique).
fn describe(source: &str, descriptions: &Descriptions) -> Result<String> {
    if let Some(text) = source.strip_prefix('=') {
        return Ok(text.to_owned());
    }
    let (type_name, field) = source.rsplit_once('.').context("a source is Type.field")?;
    let suffix = format!(".{type_name}");
    let found: Vec<&str> = descriptions
        .iter()
        .filter(|(name, _)| name.ends_with(&suffix))
        .filter_map(|(name, fields)| fields.get(field).map(|text| (name, text.as_str())))
        .map(|(_, text)| text)
        .collect();
    match found[..] {
        [] => bail!("no description of {source}"),
        [text] => Ok(text.to_owned()),
        [first, ..] if found.iter().all(|text| *text == first) => Ok(first.to_owned()),
        // Several versions: the stable one, whose name has no alpha or beta.
        _ => {
            let stable = descriptions
                .iter()
                .find(|(name, fields)| name.ends_with(&format!(".v1{suffix}")) && fields.contains_key(field));
            stable.map(|(_, fields)| fields[field].clone()).with_context(|| format!("{source} is ambiguous"))
        }
    }
}
