//! Files of one volume that lie on or below one another. Source: `pkg/api/pod/warnings.go`.

use std::fmt;

use crate::Cursor;
use crate::field::go_quote;

/// A file and the source it comes from; no source where the volume has only one.
#[derive(PartialEq)]
struct Placed<'a> {
    path: &'a str,
    source: String,
}

impl fmt::Display for Placed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&go_quote(self.path))?;
        if self.source.is_empty() { Ok(()) } else { write!(f, " ({})", self.source) }
    }
}

/// Warns about files in the volumes of a pod that hide each other.
pub fn volumes(spec: &Cursor<'_>, out: &mut Vec<String>) {
    for volume in spec.field("volumes").items() {
        let name = go_quote(volume.field("name").str());
        for (field, title, named) in [("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")] {
            let source = volume.field(field);
            let described = format!("{title} {}", go_quote(source.field(named).str()));
            warn(&name, &described, items(&source, ""), out);
        }
        warn(&name, "DownwardAPI", items(&volume.field("downwardAPI"), ""), out);
        projected(&name, &volume.field("projected"), out);
    }
}

fn projected(name: &str, volume: &Cursor<'_>, out: &mut Vec<String>) {
    let mut placed: Vec<Placed<'_>> = Vec::new();
    for source in volume.field("sources").items() {
        if source.entries().next().is_none() {
            out.push(format!("volume {name} (Projected) has no sources provided"));
            continue;
        }
        let titled =
            |title: &str, field: &str| format!("{title} {}", go_quote(source.field(field).field("name").str()));
        let own = [("configMap", titled("ConfigMap", "configMap")), ("secret", titled("Secret", "secret"))]
            .into_iter()
            .chain([("downwardAPI", "DownwardAPI".to_owned())])
            .find(|(field, _)| source.field(field).field("items").is_set());
        let token = source.field("serviceAccountToken");
        let files = match own {
            Some((field, title)) => items(&source.field(field), &title),
            None if token.is_set() => {
                vec![Placed { path: trimmed(token.field("path").str()), source: "ServiceAccountToken".to_owned() }]
            }
            None => Vec::new(),
        };
        for file in files {
            add(&mut placed, file, |clash| out.push(format!("volume {name} (Projected): overlapping paths: {clash}")));
        }
    }
}

fn items<'a>(source: &Cursor<'a>, title: &str) -> Vec<Placed<'a>> {
    let paths = source.field("items");
    paths.items().map(|item| Placed { path: trimmed(item.field("path").str()), source: title.to_owned() }).collect()
}

fn trimmed(path: &str) -> &str {
    path.trim_end_matches('/')
}

fn warn(name: &str, described: &str, files: Vec<Placed<'_>>, out: &mut Vec<String>) {
    let mut placed = Vec::new();
    for file in files {
        add(&mut placed, file, |clash| out.push(format!("volume {name} ({described}): overlapping paths: {clash}")));
    }
}

/// Puts a file beside the others, and tells which of them it meets.
fn add<'a>(placed: &mut Vec<Placed<'a>>, file: Placed<'a>, mut clash: impl FnMut(String)) {
    let below =
        |inner: &str, outer: &str| inner == outer || inner.strip_prefix(outer).is_some_and(|r| r.starts_with('/'));
    for other in placed.iter().filter(|other| !file.path.is_empty() && !other.path.is_empty()) {
        if below(other.path, file.path) || below(file.path, other.path) {
            clash(format!("{file} with {other}"));
        }
    }
    placed.push(file);
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn a_file_below_another_is_told_with_both_sources() {
        let spec = json!({"volumes": [
            {"name": "a", "secret": {"secretName": "s", "items": [{"path": "x/"}, {"path": "x"}, {"path": "xy"}]}},
            {"name": "b", "projected": {"sources": [{}, {"serviceAccountToken": {"path": "t/u"}},
                {"configMap": {"name": "m", "items": [{"path": "t"}]}}]}}]});
        let mut out = Vec::new();
        volumes(&Cursor::root(&spec), &mut out);
        assert_eq!(
            out,
            [
                "volume \"a\" (Secret \"s\"): overlapping paths: \"x\" with \"x\"",
                "volume \"b\" (Projected) has no sources provided",
                "volume \"b\" (Projected): overlapping paths: \"t\" (ConfigMap \"m\") with \"t/u\" (ServiceAccountToken)",
            ]
        );
    }
}
