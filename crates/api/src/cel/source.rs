//! Errors with a place in the source, shown as cel-go shows them.

use std::fmt;

use super::ast::Offset;

/// Errors shown in full; of the rest only the number is given.
const SHOWN_MAX: usize = 100;
/// Longer lines are not repeated under an error (characters).
const SNIPPET_MAX_BYTES: usize = 16_384;

/// Where an error is. Lines start at 1, columns at 0; both are -1 when there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Location {
    line: i64,
    column: i64,
}

/// Everything wrong with one expression, in order of place. Its display is what cel-go prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileErrors {
    source: String,
    errors: Vec<(Location, String)>,
}

impl CompileErrors {
    pub(super) fn new(source: &str) -> Self {
        Self { source: source.to_owned(), errors: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    pub(super) fn report(&mut self, at: Offset, message: impl Into<String>) {
        let location = self.location(at);
        self.errors.push((location, message.into()));
    }

    /// An error that belongs to no place.
    pub(super) fn report_nowhere(&mut self, message: impl Into<String>) {
        self.errors.push((Location { line: -1, column: -1 }, message.into()));
    }

    /// Upstream cannot place anything in an empty source.
    fn location(&self, at: Offset) -> Location {
        if self.source.is_empty() {
            return Location { line: 1, column: -1 };
        }
        let (mut line, mut column) = (1, 0);
        for c in self.source.chars().take(at as usize) {
            if c == '\n' {
                line += 1;
                column = 0;
            } else {
                column += 1;
            }
        }
        Location { line, column }
    }

    fn show(&self, (location, message): &(Location, String), f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ERROR: <input>:{}:{}: {message}", location.line, location.column + 1)?;
        let line = usize::try_from(location.line - 1).ok().and_then(|index| self.source.split('\n').nth(index));
        let Some(line) = line.filter(|line| !self.source.is_empty() && line.len() <= SNIPPET_MAX_BYTES) else {
            return Ok(());
        };
        let line = line.replace('\t', " ");
        write!(f, "\n | {line}\n | ")?;
        let mut rest = line.chars();
        for c in rest.by_ref().take(usize::try_from(location.column).unwrap_or(0)) {
            f.write_str(if c.len_utf8() > 1 { "\u{ff0e}" } else { "." })?;
        }
        f.write_str(if rest.next().is_some_and(|c| c.len_utf8() > 1) { "\u{ff3e}" } else { "^" })
    }
}

impl fmt::Display for CompileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted: Vec<_> = self.errors.iter().collect();
        sorted.sort_by_key(|(location, _)| *location);
        for (i, error) in sorted.iter().take(SHOWN_MAX).enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            self.show(error, f)?;
        }
        match sorted.len().checked_sub(SHOWN_MAX) {
            Some(more) if more > 0 => write!(f, "\n{more} more errors were truncated"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for CompileErrors {}
