//! Who may do what: users, roles, permissions, and how a client shows who it is.
//!
//! `state` is replicated and pure; `permit` decides whether a command may run, and is asked on every member when the command
//! is applied, so that no member serves a client by rules that were changed before. What a client brings ([`Credentials`]) is
//! turned into an [`Identity`] by one member; a simple token is known to all members because its issue is in the log, a JWT
//! because all members have the key. Passwords reach the log only as bcrypt hashes, made before they are proposed. The rules are
//! etcd's (`server/auth`), including the order in which they refuse. Start with [`Auth`].

mod change;
mod grants;
mod jwt;
mod password;
mod permit;
mod simple_tokens;
mod state;
mod tokens;
pub(crate) mod wire;

use bytes::Bytes;

pub(crate) use change::AuthWrite;
pub use change::{AuthChange, NewPassword};
pub(crate) use grants::Access;
pub(crate) use password::Passwords;
pub(crate) use permit::Requester;
pub(crate) use simple_tokens::{SimpleTokens, new_token as new_simple_token, split as split_simple_token};
pub(crate) use state::Auth;
pub(crate) use tokens::Tokens;
pub use tokens::{AuthConfig, AuthConfigError};

use crate::{KeyRange, StoreError};

/// What a client shows of who it is. Empty credentials are an anonymous client.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// From the request's `token` or `authorization` metadata.
    pub token: Option<String>,
    /// Of the verified client certificate, where the server requires one.
    pub common_name: Option<std::sync::Arc<str>>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_secret| "…");
        f.debug_struct("Credentials").field("token", &token).field("common_name", &self.common_name).finish()
    }
}

/// A user as credentials proved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: String,
    /// The revision of users and roles that the proof is about; older than the newest, and it proves nothing any more.
    pub(crate) revision: u64,
}

/// A request about users and roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthRequest {
    Change(AuthChange),
    Status,
    Authenticate { name: String, password: String },
    UserGet { name: String },
    UserList,
    RoleGet { role: String },
    RoleList,
}

/// The answer to an [`AuthRequest`], of the kind that the request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthResponse {
    Done,
    Status {
        enabled: bool,
        auth_revision: u64,
    },
    Token(String),
    /// Names of users, or of roles, in order.
    Names(Vec<String>),
    Permissions(Vec<Permission>),
}

/// What a role allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    pub kind: PermissionKind,
    pub range: KeyRange,
}

/// etcd's `authpb.Permission.Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermissionKind {
    Read,
    Write,
    ReadWrite,
}

const ROOT: &str = "root";

/// Everything: what the root role allows.
fn all_keys() -> Permission {
    Permission {
        kind: PermissionKind::ReadWrite,
        range: KeyRange { start: Bytes::new(), end: Bytes::from_static(b"\0") },
    }
}

// Refusals, in etcd's words.
const USER_EMPTY: StoreError = StoreError::InvalidArgument("user name is empty");
const ROLE_EMPTY: StoreError = StoreError::InvalidArgument("role name is empty");
pub(crate) const AUTH_FAILED: StoreError =
    StoreError::InvalidArgument("authentication failed, invalid user ID or password");
const PERMISSION_NOT_GIVEN: StoreError = StoreError::InvalidArgument("permission not given");
const INVALID_MANAGEMENT: StoreError = StoreError::InvalidArgument("invalid auth management");
pub(crate) const OLD_REVISION: StoreError = StoreError::InvalidArgument("revision of auth store is old");
const ROOT_USER_MISSING: StoreError = StoreError::Refused("root user does not exist");
const ROOT_ROLE_MISSING: StoreError = StoreError::Refused("root user does not have root role");
const USER_EXISTS: StoreError = StoreError::Refused("user name already exists");
const USER_NOT_FOUND: StoreError = StoreError::Refused("user name not found");
const ROLE_EXISTS: StoreError = StoreError::Refused("role name already exists");
const ROLE_NOT_FOUND: StoreError = StoreError::Refused("role name not found");
const ROLE_NOT_GRANTED: StoreError = StoreError::Refused("role is not granted to the user");
const PERMISSION_NOT_GRANTED: StoreError = StoreError::Refused("permission is not granted to the role");
pub(crate) const NOT_ENABLED: StoreError = StoreError::Refused("authentication is not enabled");
const PERMISSION_DENIED: StoreError = StoreError::Refused("permission denied");
pub(crate) const INVALID_TOKEN: StoreError = StoreError::Refused("invalid auth token");

/// etcd forgot this one in its table of codes, so that it goes out with its internal text and as "unknown".
fn no_password_user() -> StoreError {
    StoreError::Remote("auth: authentication failed, password was given for no password user".to_owned())
}
