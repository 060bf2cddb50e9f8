//! Files of one volume that lie on or below one another. Source: `pkg/api/pod/warnings.go`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound::{Excluded, Included};

use crate::Cursor;
use crate::field::go_quote;
use crate::kinds::pod::warnings::WARNINGS_MAX;

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
    let mut placed = Files::default();
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
            placed.add(file, &format!("volume {name} (Projected): overlapping paths: "), out);
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
    let mut placed = Files::default();
    for file in files {
        placed.add(file, &format!("volume {name} ({described}): overlapping paths: "), out);
    }
}

/// The files of a volume, and which of them have a path.
#[derive(Default)]
struct Files<'a> {
    placed: Vec<Placed<'a>>,
    by_path: BTreeMap<&'a str, Vec<usize>>,
}

impl<'a> Files<'a> {
    /// Puts a file beside the others, and tells which of them it meets, in their order.
    fn add(&mut self, file: Placed<'a>, saying: &str, out: &mut Vec<String>) {
        if file.path.is_empty() {
            return;
        }
        if out.len() < WARNINGS_MAX {
            let met = self.met(file.path);
            let met = met.iter().map(|at| &self.placed[*at]);
            out.extend(met.take(WARNINGS_MAX - out.len()).map(|other| format!("{saying}{file} with {other}")));
        }
        self.by_path.entry(file.path).or_default().push(self.placed.len());
        self.placed.push(file);
    }

    /// Those at the path, above it and below it, in order.
    fn met(&self, path: &str) -> Vec<usize> {
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        let above = ends.filter_map(|end| self.by_path.get(&path[..end]));
        // What begins with the path and a slash lies between it and what begins with the path and the next character.
        let (first, end) = (format!("{path}/"), format!("{path}0"));
        let below = self.by_path.range::<str, _>((Included(first.as_str()), Excluded(end.as_str())));
        let mut met: Vec<usize> = above.chain(below.map(|(_, files)| files)).flatten().copied().collect();
        met.sort_unstable();
        met
    }
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
                {"configMap": {"name": "m", "items": [{"path": "t"}]}}]}},
            {"name": "c", "configMap": {"name": "d", "items": [{"path": "a/b/c"}, {"path": "a-b"}, {"path": "a/c"},
                {"path": "a"}, {"path": "a/b"}]}}]});
        let mut out = Vec::new();
        volumes(&Cursor::root(&spec), &mut out);
        assert_eq!(
            out,
            [
                "volume \"a\" (Secret \"s\"): overlapping paths: \"x\" with \"x\"",
                "volume \"b\" (Projected) has no sources provided",
                "volume \"b\" (Projected): overlapping paths: \"t\" (ConfigMap \"m\") with \"t/u\" (ServiceAccountToken)",
                "volume \"c\" (ConfigMap \"d\"): overlapping paths: \"a\" with \"a/b/c\"",
                "volume \"c\" (ConfigMap \"d\"): overlapping paths: \"a\" with \"a/c\"",
                "volume \"c\" (ConfigMap \"d\"): overlapping paths: \"a/b\" with \"a/b/c\"",
                "volume \"c\" (ConfigMap \"d\"): overlapping paths: \"a/b\" with \"a\"",
            ]
        );
    }
}
