//! Simple tokens: random names for users, good for a while after they were last used.
//!
//! A token is `RANDOM.INDEX`. All members learn `RANDOM` from the log entry that issued it; `INDEX` tells a member that is behind
//! how far it has to come before it may call a token unknown.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::lease::Now;

/// etcd's `--auth-token-ttl`.
pub(crate) const TTL_DEFAULT: Duration = Duration::from_secs(300);
/// Letters of the random part: 91 bits.
const LETTERS: usize = 16;
const ALPHABET: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
/// Tokens known at a time; beyond, the one that would expire first goes. A login costs a bcrypt hash, so a member makes
/// far less than this in the time that a token lives.
const TOKENS_MAX: usize = 1 << 17;

#[derive(Debug)]
pub(crate) struct SimpleTokens {
    ttl: Duration,
    tokens: HashMap<String, (String, Now)>,
    by_expiry: BTreeMap<(Now, String), ()>,
}

impl Default for SimpleTokens {
    fn default() -> Self {
        Self { ttl: TTL_DEFAULT, tokens: HashMap::new(), by_expiry: BTreeMap::new() }
    }
}

/// A random part.
pub(crate) fn new_token() -> String {
    let letter = || char::from(ALPHABET[rand::random_range(0..ALPHABET.len())]);
    std::iter::repeat_with(letter).take(LETTERS).collect()
}

/// A token's random part and index; `None` if it does not look like one.
pub(crate) fn split(token: &str) -> Option<(&str, u64)> {
    let (random, index) = token.split_once('.')?;
    Some((random, index.parse().ok()?))
}

impl SimpleTokens {
    pub(crate) fn set_ttl(&mut self, ttl: Duration) {
        self.ttl = ttl;
    }

    pub(super) fn insert(&mut self, token: String, user: String, now: Now) {
        self.expire(now);
        if self.tokens.len() >= TOKENS_MAX
            && let Some(((_, first), ())) = self.by_expiry.pop_first()
        {
            self.tokens.remove(&first);
        }
        let expiry = now + self.ttl;
        self.by_expiry.insert((expiry, token.clone()), ());
        self.tokens.insert(token, (user, expiry));
    }

    /// The user of a token, which lives on for another while.
    pub(crate) fn user(&mut self, token: &str, now: Now) -> Option<String> {
        self.expire(now);
        let (user, expiry) = self.tokens.get_mut(token)?;
        self.by_expiry.remove(&(*expiry, token.to_owned()));
        *expiry = now + self.ttl;
        self.by_expiry.insert((*expiry, token.to_owned()), ());
        Some(user.clone())
    }

    pub(super) fn forget_user(&mut self, name: &str) {
        self.tokens.retain(|_, (user, _)| user != name);
        self.by_expiry.retain(|(_, token), ()| self.tokens.contains_key(token));
    }

    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.by_expiry.clear();
    }

    fn expire(&mut self, now: Now) {
        while let Some(first) = self.by_expiry.first_entry()
            && first.key().0 < now
        {
            let ((_, token), ()) = first.remove_entry();
            self.tokens.remove(&token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_token_lives_as_long_as_it_is_used() {
        let mut tokens = SimpleTokens::default();
        tokens.insert("abc".into(), "u".into(), Now::ZERO);
        assert_eq!(tokens.user("abc", 299 * SECOND), Some("u".to_owned()));
        assert_eq!(tokens.user("abc", 598 * SECOND), Some("u".to_owned()));
        assert_eq!(tokens.user("abc", 899 * SECOND), None);
        assert!(tokens.tokens.is_empty() && tokens.by_expiry.is_empty());
    }

    #[test]
    fn a_users_tokens_go_together() {
        let mut tokens = SimpleTokens::default();
        for (token, user) in [("a", "u"), ("b", "v"), ("c", "u")] {
            tokens.insert(token.into(), user.into(), Now::ZERO);
        }
        tokens.forget_user("u");
        let users = ["a", "b", "c"].map(|token| tokens.user(token, SECOND));
        assert_eq!(users, [None, Some("v".to_owned()), None]);
        assert_eq!(tokens.by_expiry.len(), 1);
    }

    #[test]
    fn tokens_look_like_etcds() {
        assert_eq!(split("abc.12"), Some(("abc", 12)));
        for wrong in ["abc", "abc.", "abc.x", "abc.1.2", "abc.-1"] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
        assert_eq!(new_token().len(), 16);
        assert_ne!(new_token(), new_token());
    }
}
