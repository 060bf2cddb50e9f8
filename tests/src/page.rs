//! A page of documentation as something that can be typed: its blocks of shell commands, and the files that it shows.

use std::cell::Cell;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

/// A block of commands. Its first line says where it is typed: `# m1, m2`, with `serves` for what runs until it is stopped.
#[derive(Debug)]
pub struct Block {
    pub section: String,
    pub machines: Vec<String>,
    pub serves: bool,
    pub text: String,
    typed: Cell<bool>,
}

/// A file that the page shows; its first line is `# NAME`.
#[derive(Debug)]
pub struct Shown {
    pub name: String,
    pub text: String,
}

#[derive(Debug)]
pub struct Page {
    blocks: Vec<Block>,
    pub files: Vec<Shown>,
}

impl Page {
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&std::fs::read_to_string(path).with_context(|| path.display().to_string())?)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut page = Self { blocks: Vec::new(), files: Vec::new() };
        let mut section = String::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(title) = line.strip_prefix("## ") {
                title.clone_into(&mut section);
            }
            let Some(language) = line.strip_prefix("```") else { continue };
            let body: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            let (head, body) = body.split_first().context("an empty block")?;
            let head =
                head.strip_prefix("# ").with_context(|| format!("{section}: a block says where it goes: {head}"))?;
            let text = body.join("\n");
            match language {
                "sh" => {
                    let (serves, machines): (Vec<_>, Vec<_>) = head.split(", ").partition(|word| *word == "serves");
                    let machines = machines.into_iter().map(str::to_owned).collect();
                    let (section, typed) = (section.clone(), Cell::new(false));
                    page.blocks.push(Block { section, machines, serves: !serves.is_empty(), text, typed });
                }
                "yaml" => page.files.push(Shown { name: head.to_owned(), text }),
                other => bail!("{section}: nobody knows how to type {other:?}"),
            }
        }
        Ok(page)
    }

    /// The only block of a section with these words in it.
    pub fn block(&self, section: &str, words: &str) -> Result<&Block> {
        self.block_that(section, |text| text.contains(words)).with_context(|| format!("a block with {words:?}"))
    }

    /// The only block of a section that is like that.
    pub fn block_that(&self, section: &str, is_like: impl Fn(&str) -> bool) -> Result<&Block> {
        let mut found = self.blocks.iter().filter(|block| block.section == section && is_like(&block.text));
        let block = found.next().with_context(|| format!("{section}: there is no such block"))?;
        ensure!(found.next().is_none(), "{section}: there are several such blocks");
        block.typed.set(true);
        Ok(block)
    }

    /// Nothing on the page was left out.
    pub fn check_all_typed(&self) -> Result<()> {
        let left: Vec<_> = self.blocks.iter().filter(|block| !block.typed.get()).collect();
        ensure!(left.is_empty(), "blocks that nobody typed: {left:#?}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_say_where_they_are_typed_and_files_what_they_are_called() {
        let text = "## A\n```sh\n# m1, m2, serves\nrun \\\n    this\n```\n## B\n```yaml\n# f.yaml\na: 1\n```\n";
        let page = Page::parse(text).unwrap();
        assert!(page.check_all_typed().is_err());
        let block = page.block("A", "run").unwrap();
        assert_eq!(
            (block.machines.join(" ").as_str(), block.serves, block.text.as_str()),
            ("m1 m2", true, "run \\\n    this")
        );
        assert_eq!((page.files[0].name.as_str(), page.files[0].text.as_str()), ("f.yaml", "a: 1"));
        page.check_all_typed().unwrap();
        assert!(page.block("B", "run").is_err());
        assert!(Page::parse("```sh\nrun\n```\n").is_err());
    }
}
