//! Scaling scores so that the best is 100.

use crate::framework::MAX_NODE_SCORE;

/// Scales to `0..=100` by the largest score; `reverse` makes the smallest the best.
pub(super) fn by_largest(scores: &mut [i64], reverse: bool) {
    let largest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        if largest == 0 {
            *score = if reverse { MAX_NODE_SCORE } else { *score };
            continue;
        }
        let scaled = MAX_NODE_SCORE * *score / largest;
        *score = if reverse { MAX_NODE_SCORE - scaled } else { scaled };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_becomes_a_hundred_or_zero_when_reversed() {
        let mut scores = [1, 2, 4];
        by_largest(&mut scores, false);
        assert_eq!(scores, [25, 50, 100]);
        let mut scores = [0, 1, 3];
        by_largest(&mut scores, true);
        assert_eq!(scores, [100, 67, 0]);
        let mut scores = [0, 0];
        by_largest(&mut scores, true);
        assert_eq!(scores, [100, 100]);
    }
}
