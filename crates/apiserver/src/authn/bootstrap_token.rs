//! Bootstrap tokens: `ID.SECRET`, kept in Secrets of `kube-system`, for nodes that join.

use api::{Value, meta};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use ring::digest::{SHA256, digest};

use crate::{attributes::UserInfo, source::ObjectSource};

const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

/// The user of a bootstrap token; `None` when it is none, unknown, expired or not meant for authentication.
pub fn user(source: &dyn ObjectSource, token: &str, now: Timestamp) -> Option<UserInfo> {
    let (id, secret) = split(token)?;
    let stored = source.get("", "secrets", "kube-system", &format!("bootstrap-token-{id}"))?.parse()?;
    let data = |key: &str| text(&stored, key);
    let is_good = !meta::is_being_deleted(&stored)
        && stored["type"] == SECRET_TYPE
        && same(&data("token-secret")?, secret)
        && data("token-id")? == id
        && !is_expired(data("expiration"), now)
        && data("usage-bootstrap-authentication")? == "true";
    if !is_good {
        return None;
    }
    let mut groups = vec![GROUP.to_owned()];
    let mut extra: Vec<String> = match data("auth-extra-groups") {
        None => Vec::new(),
        Some(list) if list.is_empty() => Vec::new(),
        Some(list) => list.split(',').map(str::to_owned).collect(),
    };
    // One bad group spoils the token, as upstream.
    if !extra.iter().all(|group| is_bootstrap_group(group)) {
        return None;
    }
    extra.sort();
    extra.dedup();
    groups.extend(extra);
    Some(UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() })
}

/// `[a-z0-9]{6}` and `[a-z0-9]{16}`.
pub fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let is_word = |word: &str, len: usize| {
        word.len() == len && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    (is_word(id, 6) && is_word(secret, 16)).then_some((id, secret))
}

fn text(secret: &Value, key: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(secret["data"][key].as_str()?).ok()?).ok()
}

/// Compares hashes, so that the time taken tells nothing about the secret.
fn same(a: &str, b: &str) -> bool {
    digest(&SHA256, a.as_bytes()).as_ref() == digest(&SHA256, b.as_bytes()).as_ref()
}

fn is_expired(expiration: Option<String>, now: Timestamp) -> bool {
    match expiration {
        None => false,
        Some(text) if text.is_empty() => false,
        // A time nobody can read is over.
        Some(text) => text.parse::<Timestamp>().map_or(true, |at| at < now),
    }
}

/// `system:bootstrappers:` and at most 256 of `a-z0-9:-`, not ending in a sign.
fn is_bootstrap_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=256).contains(&rest.len())
        && rest.bytes().all(|b| is_word(b) || b == b':' || b == b'-')
        && rest.bytes().last().is_some_and(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::MemorySource;
    use api::json;

    fn check(token: &str, data: &[(&str, &str)], now: &str) -> Option<UserInfo> {
        let source = MemorySource::new();
        let mut all = api::Map::new();
        let defaults =
            [("token-id", "abcdef"), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-authentication", "true")];
        for (key, value) in defaults.iter().chain(data) {
            all.insert(*key, json!(STANDARD.encode(value)));
        }
        source.put(
            "",
            "secrets",
            json!({"metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"}, "type": SECRET_TYPE, "data": all}),
        );
        user(&source, token, now.parse().unwrap())
    }

    const TOKEN: &str = "abcdef.0123456789abcdef";
    const NOW: &str = "2026-01-01T00:00:00Z";

    #[test]
    fn a_good_token_is_a_bootstrapper_with_its_groups() {
        let user =
            check(TOKEN, &[("auth-extra-groups", "system:bootstrappers:x,system:bootstrappers:a")], NOW).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:a", "system:bootstrappers:x"]);
    }

    #[test]
    fn any_fault_makes_the_token_nobodys() {
        assert_eq!(check("abcdef.0123456789abcdee", &[], NOW), None);
        assert_eq!(check(TOKEN, &[("expiration", "2025-12-31T23:59:59Z")], NOW), None);
        assert_eq!(check(TOKEN, &[("usage-bootstrap-authentication", "false")], NOW), None);
        assert_eq!(check(TOKEN, &[("auth-extra-groups", "system:masters")], NOW), None);
        assert_eq!(check("abc", &[], NOW), None);
    }
}
