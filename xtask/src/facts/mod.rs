//! Turns the tables of facts about upstream into the compact text files that the `api` crate embeds.
//!
//! Both outputs are line oriented and tab separated, so that they load without a parser worth the name and a change shows in
//! a diff. Their formats are described where they are read: `api::schema::load` and `api::kinds::load`.

mod kinds;
mod schema;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// One table: the cells of every row below the header, padded to the header's width.
struct Table(Vec<Vec<String>>);

impl Table {
    fn read(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let mut lines = text.lines();
        let width = lines.next().map_or(0, |header| header.split('\t').count());
        let rows = lines.filter(|line| !line.is_empty()).map(|line| {
            let mut cells: Vec<String> = line.split('\t').map(str::to_owned).collect();
            cells.resize(cells.len().max(width), String::new());
            cells
        });
        Ok(Self(rows.collect()))
    }
}

/// Writes (or with `check` compares) `crates/api/data/{schema,kinds}.tsv`.
pub(crate) fn run(from: &Path, check: bool) -> Result<()> {
    let resources = Table::read(from, "resources.tsv")?;
    let kinds =
        kinds::generate(&resources, &Table::read(from, "strategy.tsv")?, &Table::read(from, "api-groups.tsv")?)?;
    let schema = schema::generate(
        &Table::read(from, "protobuf.tsv")?,
        &Table::read(from, "schema.tsv")?,
        &Table::read(from, "list-merge.tsv")?,
        &kinds.roots,
    )?;
    put("crates/api/data/schema.tsv", &schema, check)?;
    put("crates/api/data/kinds.tsv", &kinds.text, check)
}

fn put(path: &str, text: &str, check: bool) -> Result<()> {
    let same = fs::read_to_string(path).is_ok_and(|old| old == text);
    if same {
        return Ok(());
    }
    if check {
        bail!("{path} is stale: run `cargo xtask facts`");
    }
    fs::write(path, text).with_context(|| format!("writing {path}"))
}
