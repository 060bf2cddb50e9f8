//! Completion indexes as the status writes them: `1,3-5,7`.

use std::collections::BTreeSet;

/// Malformed parts are skipped: only this controller writes the field.
pub(super) fn parse(text: &str) -> BTreeSet<i32> {
    let parts = text.split(',').filter_map(|part| match part.split_once('-') {
        Some((first, last)) => Some(first.parse::<i32>().ok()?..=last.parse::<i32>().ok()?),
        None => part.parse::<i32>().ok().map(|one| one..=one),
    });
    parts.flatten().collect()
}

pub(super) fn format(indexes: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let words = runs.iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    });
    words.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_three_and_more_are_shortened() {
        for text in ["", "0", "0,1", "1,3-5,7", "0-9"] {
            assert_eq!(format(&parse(text)), text);
        }
        assert_eq!(parse("1,3-5").into_iter().collect::<Vec<_>>(), [1, 3, 4, 5]);
    }
}
