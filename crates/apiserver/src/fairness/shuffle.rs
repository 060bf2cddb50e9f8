//! Shuffle sharding: each flow is dealt a hand of queues, so that a busy flow meets another one in few of them.

use sha2::{Digest as _, Sha256};

/// A number for a flow, the same each time.
pub(super) fn flow_hash(schema: &str, distinguisher: &str) -> u64 {
    let digest = Sha256::new().chain_update(schema).chain_update([0]).chain_update(distinguisher).finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}

/// Deals `hand` different numbers below `deck`. All of `deck` when the hand is no smaller.
pub(super) fn deal(mut hash: u64, deck: usize, hand: usize) -> Vec<usize> {
    let hand = hand.min(deck);
    let mut remainders: Vec<usize> = Vec::with_capacity(hand);
    for dealt in 0..hand {
        let left = (deck - dealt) as u64;
        remainders.push((hash % left) as usize);
        hash /= left;
    }
    let mut cards = Vec::with_capacity(hand);
    for (at, &card) in remainders.iter().enumerate() {
        // A remainder is a place among the cards that are left: those dealt before are stepped over, the last one first.
        let card =
            remainders[..at].iter().rev().fold(card, |card, &earlier| if card >= earlier { card + 1 } else { card });
        cards.push(card);
    }
    cards
}
