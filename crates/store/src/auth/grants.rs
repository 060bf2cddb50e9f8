//! What a user's roles allow together: permissions that touch or overlap count as one.

use bytes::Bytes;

use crate::KeyRange;
use crate::mvcc::{End, Intervals};
use crate::proto::authpb;
use crate::proto::authpb::permission::Type;

/// What is about to be done with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Grants {
    read: Intervals,
    write: Intervals,
}

impl Grants {
    pub(super) fn of<'a>(permissions: impl Iterator<Item = &'a authpb::Permission>) -> Self {
        let mut grants = Self::default();
        for permission in permissions {
            let range = KeyRange { start: permission.key.clone(), end: permission.range_end.clone() };
            let Ok(kind) = Type::try_from(permission.perm_type) else { continue };
            if matches!(kind, Type::Read | Type::Readwrite) {
                grants.read.add_range(&range);
            }
            if matches!(kind, Type::Write | Type::Readwrite) {
                grants.write.add_range(&range);
            }
        }
        grants
    }

    /// All of the range has to be allowed.
    pub(super) fn allow(&self, access: Access, range: &KeyRange) -> bool {
        let allowed = match access {
            Access::Read => &self.read,
            Access::Write => &self.write,
        };
        match range.end.as_ref() {
            b"" => allowed.contains(&range.start),
            b"\0" => allowed.covers(&range.start, &End::Open),
            _ => allowed.covers(&range.start, &End::At(range.end.clone())),
        }
    }
}

/// A role may not be given what can match no key.
pub(super) fn is_valid_range(range: &KeyRange) -> bool {
    let is_point = range.end.is_empty();
    let is_open = range.end == Bytes::from_static(b"\0");
    !range.start.is_empty() && (is_point || is_open || range.start < range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(kind: Type, key: &'static str, end: &'static str) -> authpb::Permission {
        authpb::Permission { perm_type: kind.into(), key: key.into(), range_end: end.into() }
    }

    fn range(start: &'static str, end: &'static str) -> KeyRange {
        KeyRange { start: start.into(), end: end.into() }
    }

    #[test]
    fn adjacent_permissions_cover_a_range_together_and_a_gap_is_refused() {
        let permissions = [
            permission(Type::Read, "a", "c"),
            permission(Type::Readwrite, "c", "f"),
            permission(Type::Write, "x", ""),
            permission(Type::Read, "y", "\0"),
        ];
        let grants = Grants::of(permissions.iter());
        let allowed = [
            (Access::Read, "a", ""),
            (Access::Read, "a", "f"),
            (Access::Read, "b", "d"),
            (Access::Write, "c", "f"),
            (Access::Write, "x", ""),
            (Access::Read, "y", ""),
            (Access::Read, "z", "\0"),
        ];
        for (access, start, end) in allowed {
            assert!(grants.allow(access, &range(start, end)), "{access:?} {start} {end}");
        }
        let refused = [
            (Access::Read, "f", ""),
            (Access::Read, "a", "g"),
            (Access::Read, "a", "\0"),
            (Access::Write, "a", ""),
            (Access::Write, "b", "d"),
            (Access::Read, "x", ""),
            (Access::Write, "x", "y"),
            (Access::Read, "A", "b"),
        ];
        for (access, start, end) in refused {
            assert!(!grants.allow(access, &range(start, end)), "{access:?} {start} {end}");
        }
    }

    #[test]
    fn a_permission_names_at_least_one_possible_key() {
        let valid = [("a", ""), ("a", "b"), ("a", "\0"), ("\0", "\0")];
        assert!(valid.iter().all(|(start, end)| is_valid_range(&range(start, end))));
        let invalid = [("", ""), ("", "b"), ("b", "a"), ("b", "b")];
        assert!(!invalid.iter().any(|(start, end)| is_valid_range(&range(start, end))));
    }
}
