//! Changes of users and roles, as they are replicated.

use crate::KeyRange;
use crate::proto::authpb;

use super::Permission;

/// A change of users, roles, or of whether they matter. Every member applies it with the same result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthChange {
    Enable,
    Disable,
    UserAdd {
        name: String,
        password: NewPassword,
    },
    UserDelete {
        name: String,
    },
    UserChangePassword {
        name: String,
        password: NewPassword,
    },
    UserGrantRole {
        user: String,
        role: String,
    },
    UserRevokeRole {
        user: String,
        role: String,
    },
    RoleAdd {
        name: String,
    },
    RoleDelete {
        role: String,
    },
    /// Without a permission it is refused.
    RoleGrantPermission {
        role: String,
        permission: Option<Permission>,
    },
    RoleRevokePermission {
        role: String,
        range: KeyRange,
    },
}

impl AuthChange {
    /// What etcd calls the request.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Enable => "AuthEnable",
            Self::Disable => "AuthDisable",
            Self::UserAdd { .. } => "AuthUserAdd",
            Self::UserDelete { .. } => "AuthUserDelete",
            Self::UserChangePassword { .. } => "AuthUserChangePassword",
            Self::UserGrantRole { .. } => "AuthUserGrantRole",
            Self::UserRevokeRole { .. } => "AuthUserRevokeRole",
            Self::RoleAdd { .. } => "AuthRoleAdd",
            Self::RoleDelete { .. } => "AuthRoleDelete",
            Self::RoleGrantPermission { .. } => "AuthRoleGrantPermission",
            Self::RoleRevokePermission { .. } => "AuthRoleRevokePermission",
        }
    }
}

/// A password on its way to the log, where it is only ever hashed.
#[derive(Clone, PartialEq, Eq)]
pub enum NewPassword {
    /// The user cannot log in with a password; a certificate's common name still names it.
    None,
    Plain(String),
    /// A bcrypt hash in base64.
    Hashed(String),
}

impl std::fmt::Debug for NewPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Plain(_) => "Plain(…)",
            Self::Hashed(_) => "Hashed(…)",
        })
    }
}

/// What a change leaves to be stored, in etcd's messages.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum AuthWrite {
    Enabled(bool),
    Revision(u64),
    User(authpb::User),
    UserGone(String),
    Role(authpb::Role),
    RoleGone(String),
}
