//! The difference between two texts as upstream's messages show it: unified, three lines of context, no file header.
//!
//! Matching is that of Python's difflib (which upstream's library is a port of), including its heuristic of ignoring lines
//! that are very frequent in long texts: the hunks are part of the message, so a better diff would be a wrong one.

use std::collections::HashMap;

const CONTEXT_LINES: usize = 3;
/// From this many lines on, lines that make up more than one in a hundred are ignored as anchors.
const POPULAR_FROM_LINES: usize = 200;

/// The unified diff from `a` to `b`; empty when they are equal.
pub fn unified(a: &str, b: &str) -> String {
    let (a, b) = (split_lines(a), split_lines(b));
    let mut out = String::new();
    for group in groups(&opcodes(&a, &b)) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        out.push_str(&format!("@@ -{} +{} @@\n", range(first.a0, last.a1), range(first.b0, last.b1)));
        for op in &group {
            match op.tag {
                Tag::Equal => write_lines(&mut out, ' ', &a[op.a0..op.a1]),
                Tag::Change => {
                    write_lines(&mut out, '-', &a[op.a0..op.a1]);
                    write_lines(&mut out, '+', &b[op.b0..op.b1]);
                }
            }
        }
    }
    out
}

/// Lines with their newline; the last one is given one.
fn split_lines(text: &str) -> Vec<String> {
    text.split('\n').map(|line| format!("{line}\n")).collect()
}

fn write_lines(out: &mut String, mark: char, lines: &[String]) {
    for line in lines {
        out.push(mark);
        out.push_str(line);
    }
}

fn range(start: usize, end: usize) -> String {
    match end - start {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        length => format!("{},{length}", start + 1),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Tag {
    Equal,
    Change,
}

#[derive(Clone, Copy)]
struct Op {
    tag: Tag,
    a0: usize,
    a1: usize,
    b0: usize,
    b1: usize,
}

fn opcodes(a: &[String], b: &[String]) -> Vec<Op> {
    let mut out = Vec::new();
    let (mut i, mut j) = (0, 0);
    for (ai, bj, size) in matching_blocks(a, b) {
        if i < ai || j < bj {
            out.push(Op { tag: Tag::Change, a0: i, a1: ai, b0: j, b1: bj });
        }
        (i, j) = (ai + size, bj + size);
        if size > 0 {
            out.push(Op { tag: Tag::Equal, a0: ai, a1: i, b0: bj, b1: j });
        }
    }
    out
}

/// Hunks: changes with at most [`CONTEXT_LINES`] equal lines around them.
fn groups(ops: &[Op]) -> Vec<Vec<Op>> {
    let n = CONTEXT_LINES;
    let mut ops = ops.to_vec();
    if let Some(first) = ops.first_mut().filter(|op| op.tag == Tag::Equal) {
        first.a0 = first.a0.max(first.a1.saturating_sub(n));
        first.b0 = first.b0.max(first.b1.saturating_sub(n));
    }
    if let Some(last) = ops.last_mut().filter(|op| op.tag == Tag::Equal) {
        last.a1 = last.a1.min(last.a0 + n);
        last.b1 = last.b1.min(last.b0 + n);
    }
    let mut out = Vec::new();
    let mut group = Vec::new();
    for op in ops {
        let mut op = op;
        if op.tag == Tag::Equal && op.a1 - op.a0 > 2 * n {
            group.push(Op { a1: op.a1.min(op.a0 + n), b1: op.b1.min(op.b0 + n), ..op });
            out.push(std::mem::take(&mut group));
            op.a0 = op.a0.max(op.a1.saturating_sub(n));
            op.b0 = op.b0.max(op.b1.saturating_sub(n));
        }
        group.push(op);
    }
    if !(group.len() == 1 && group[0].tag == Tag::Equal) {
        out.push(group);
    }
    out.retain(|g| !g.is_empty() && g.iter().any(|op| op.tag == Tag::Change));
    out
}

/// Maximal matching runs `(a, b, length)` in order, ended by an empty one.
fn matching_blocks(a: &[String], b: &[String]) -> Vec<(usize, usize, usize)> {
    let mut positions: HashMap<&str, Vec<usize>> = HashMap::new();
    for (j, line) in b.iter().enumerate() {
        positions.entry(line).or_default().push(j);
    }
    if b.len() >= POPULAR_FROM_LINES {
        let limit = b.len() / 100 + 1;
        positions.retain(|_, at| at.len() <= limit);
    }
    let mut blocks = Vec::new();
    let mut todo = vec![(0, a.len(), 0, b.len())];
    while let Some((a0, a1, b0, b1)) = todo.pop() {
        let (i, j, size) = longest_match(a, b, &positions, (a0, a1, b0, b1));
        if size == 0 {
            continue;
        }
        blocks.push((i, j, size));
        if a0 < i && b0 < j {
            todo.push((a0, i, b0, j));
        }
        if i + size < a1 && j + size < b1 {
            todo.push((i + size, a1, j + size, b1));
        }
    }
    blocks.sort_unstable();
    let mut merged: Vec<(usize, usize, usize)> = Vec::new();
    for (i, j, size) in blocks {
        match merged.last_mut() {
            Some(last) if last.0 + last.2 == i && last.1 + last.2 == j => last.2 += size,
            _ => merged.push((i, j, size)),
        }
    }
    merged.push((a.len(), b.len(), 0));
    merged
}

fn longest_match(
    a: &[String],
    b: &[String],
    positions: &HashMap<&str, Vec<usize>>,
    (a0, a1, b0, b1): (usize, usize, usize, usize),
) -> (usize, usize, usize) {
    let (mut best_i, mut best_j, mut best) = (a0, b0, 0);
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for (i, line) in a.iter().enumerate().take(a1).skip(a0) {
        let mut next = HashMap::new();
        for &j in positions.get(line.as_str()).map_or(&[][..], Vec::as_slice) {
            if j < b0 {
                continue;
            }
            if j >= b1 {
                break;
            }
            let k = j.checked_sub(1).and_then(|p| lengths.get(&p)).copied().unwrap_or(0) + 1;
            next.insert(j, k);
            if k > best {
                (best_i, best_j, best) = (i + 1 - k, j + 1 - k, k);
            }
        }
        lengths = next;
    }
    // Popular lines are no anchors, but they extend a match.
    while best_i > a0 && best_j > b0 && a[best_i - 1] == b[best_j - 1] {
        (best_i, best_j, best) = (best_i - 1, best_j - 1, best + 1);
    }
    while best_i + best < a1 && best_j + best < b1 && a[best_i + best] == b[best_j + best] {
        best += 1;
    }
    (best_i, best_j, best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_changed_line_has_three_lines_around_it() {
        let a = (1..=9).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
        let b = a.replace('5', "x");
        assert_eq!(unified(&a, &b), "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+x\n 6\n 7\n 8\n");
    }

    #[test]
    fn equal_texts_have_no_diff() {
        assert_eq!(unified("a\nb", "a\nb"), "");
    }

    #[test]
    fn distant_changes_are_separate_hunks() {
        let a: String = (1..=30).map(|n| format!("{n}\n")).collect();
        let b = a.replace("2\n3\n", "2\nx\n").replace("25\n", "y\n");
        assert_eq!(unified(&a, &b).matches("@@ -").count(), 2);
    }
}
