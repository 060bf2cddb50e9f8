//! Requests without credentials: refused, anonymous, or anonymous on some paths only.

use super::Identity;
use crate::attributes::UserInfo;

/// Where a request without credentials is served, as `system:anonymous` in `system:unauthenticated`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnonymousAccess {
    /// Nowhere: 401.
    Off,
    /// Everywhere; authorization decides.
    On,
    /// On these paths only.
    Paths(Vec<String>),
}

impl AnonymousAccess {
    /// The anonymous user, if the path is open.
    pub fn identity(&self, path: &str) -> Option<Identity> {
        let open = match self {
            Self::Off => false,
            Self::On => true,
            Self::Paths(paths) => paths.iter().any(|p| p == path),
        };
        open.then(|| Identity { user: UserInfo::anonymous(), audiences: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_paths_are_open() {
        let access = AnonymousAccess::Paths(vec!["/livez".into()]);
        assert_eq!(access.identity("/livez").map(|i| i.user), Some(UserInfo::anonymous()));
        assert_eq!(access.identity("/api"), None);
    }
}
