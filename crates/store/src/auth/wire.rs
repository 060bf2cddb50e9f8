//! Between etcd's messages and this module's types.

use super::{AuthChange, NewPassword, Permission, PermissionKind};
use crate::KeyRange;
use crate::proto::authpb::permission::Type;
use crate::proto::{authpb, etcdserverpb as pb};

impl Permission {
    /// `None` for a kind of access that is not known.
    pub(crate) fn from_stored(stored: &authpb::Permission) -> Option<Self> {
        let kind = match Type::try_from(stored.perm_type).ok()? {
            Type::Read => PermissionKind::Read,
            Type::Write => PermissionKind::Write,
            Type::Readwrite => PermissionKind::ReadWrite,
        };
        let range = KeyRange { start: stored.key.clone(), end: stored.range_end.clone() };
        Some(Self { kind, range })
    }
}

impl From<Permission> for authpb::Permission {
    fn from(permission: Permission) -> Self {
        let kind = match permission.kind {
            PermissionKind::Read => Type::Read,
            PermissionKind::Write => Type::Write,
            PermissionKind::ReadWrite => Type::Readwrite,
        };
        Self { perm_type: kind.into(), key: permission.range.start, range_end: permission.range.end }
    }
}

impl NewPassword {
    pub(crate) fn from_pb(no_password: bool, plain: String, hashed: String) -> Self {
        match (no_password, plain.is_empty()) {
            (true, _) => Self::None,
            (false, false) => Self::Plain(plain),
            (false, true) => Self::Hashed(hashed),
        }
    }

    fn into_pb(self) -> (bool, String, String) {
        match self {
            Self::None => (true, String::new(), String::new()),
            Self::Plain(plain) => (false, plain, String::new()),
            Self::Hashed(hashed) => (false, String::new(), hashed),
        }
    }
}

impl AuthChange {
    /// Sets the part of a log entry that stands for this change.
    pub(crate) fn put_into(self, request: &mut pb::InternalRaftRequest) {
        match self {
            Self::Enable => request.auth_enable = Some(pb::AuthEnableRequest {}),
            Self::Disable => request.auth_disable = Some(pb::AuthDisableRequest {}),
            Self::UserAdd { name, password } => {
                request.auth_user_add = Some(user_add_request(name, password));
            }
            Self::UserDelete { name } => request.auth_user_delete = Some(pb::AuthUserDeleteRequest { name }),
            Self::UserChangePassword { name, password } => {
                request.auth_user_change_password = Some(change_password_request(name, password));
            }
            Self::UserGrantRole { user, role } => {
                request.auth_user_grant_role = Some(pb::AuthUserGrantRoleRequest { user, role });
            }
            Self::UserRevokeRole { user, role } => {
                request.auth_user_revoke_role = Some(pb::AuthUserRevokeRoleRequest { name: user, role });
            }
            Self::RoleAdd { name } => request.auth_role_add = Some(pb::AuthRoleAddRequest { name }),
            Self::RoleDelete { role } => request.auth_role_delete = Some(pb::AuthRoleDeleteRequest { role }),
            Self::RoleGrantPermission { role, permission } => {
                let perm = permission.map(Into::into);
                request.auth_role_grant_permission = Some(pb::AuthRoleGrantPermissionRequest { name: role, perm });
            }
            Self::RoleRevokePermission { role, range } => {
                let (key, range_end) = (range.start, range.end);
                request.auth_role_revoke_permission =
                    Some(pb::AuthRoleRevokePermissionRequest { role, key, range_end });
            }
        }
    }

    /// The change that a log entry stands for, if it is one of this module's.
    pub(crate) fn take_from(request: &mut pb::InternalRaftRequest) -> Option<Self> {
        if request.auth_enable.is_some() {
            return Some(Self::Enable);
        }
        if request.auth_disable.is_some() {
            return Some(Self::Disable);
        }
        None.or_else(|| request.auth_user_add.take().map(Into::into))
            .or_else(|| request.auth_user_delete.take().map(Into::into))
            .or_else(|| request.auth_user_change_password.take().map(Into::into))
            .or_else(|| request.auth_user_grant_role.take().map(Into::into))
            .or_else(|| request.auth_user_revoke_role.take().map(Into::into))
            .or_else(|| request.auth_role_add.take().map(Into::into))
            .or_else(|| request.auth_role_delete.take().map(Into::into))
            .or_else(|| request.auth_role_grant_permission.take().map(Into::into))
            .or_else(|| request.auth_role_revoke_permission.take().map(Into::into))
    }
}

pub(crate) fn user_add_request(name: String, password: NewPassword) -> pb::AuthUserAddRequest {
    let (no_password, password, hashed_password) = password.into_pb();
    let options = Some(authpb::UserAddOptions { no_password });
    pb::AuthUserAddRequest { name, password, options, hashed_password }
}

pub(crate) fn change_password_request(name: String, password: NewPassword) -> pb::AuthUserChangePasswordRequest {
    let (_, password, hashed_password) = password.into_pb();
    pb::AuthUserChangePasswordRequest { name, password, hashed_password }
}

impl From<pb::AuthUserAddRequest> for AuthChange {
    fn from(add: pb::AuthUserAddRequest) -> Self {
        let no_password = add.options.is_some_and(|options| options.no_password);
        Self::UserAdd { name: add.name, password: NewPassword::from_pb(no_password, add.password, add.hashed_password) }
    }
}

impl From<pb::AuthUserDeleteRequest> for AuthChange {
    fn from(delete: pb::AuthUserDeleteRequest) -> Self {
        Self::UserDelete { name: delete.name }
    }
}

impl From<pb::AuthUserChangePasswordRequest> for AuthChange {
    fn from(change: pb::AuthUserChangePasswordRequest) -> Self {
        let password = NewPassword::from_pb(false, change.password, change.hashed_password);
        Self::UserChangePassword { name: change.name, password }
    }
}

impl From<pb::AuthUserGrantRoleRequest> for AuthChange {
    fn from(grant: pb::AuthUserGrantRoleRequest) -> Self {
        Self::UserGrantRole { user: grant.user, role: grant.role }
    }
}

impl From<pb::AuthUserRevokeRoleRequest> for AuthChange {
    fn from(revoke: pb::AuthUserRevokeRoleRequest) -> Self {
        Self::UserRevokeRole { user: revoke.name, role: revoke.role }
    }
}

impl From<pb::AuthRoleAddRequest> for AuthChange {
    fn from(add: pb::AuthRoleAddRequest) -> Self {
        Self::RoleAdd { name: add.name }
    }
}

impl From<pb::AuthRoleDeleteRequest> for AuthChange {
    fn from(delete: pb::AuthRoleDeleteRequest) -> Self {
        Self::RoleDelete { role: delete.role }
    }
}

impl From<pb::AuthRoleGrantPermissionRequest> for AuthChange {
    fn from(grant: pb::AuthRoleGrantPermissionRequest) -> Self {
        let permission = grant.perm.as_ref().and_then(Permission::from_stored);
        Self::RoleGrantPermission { role: grant.name, permission }
    }
}

impl From<pb::AuthRoleRevokePermissionRequest> for AuthChange {
    fn from(revoke: pb::AuthRoleRevokePermissionRequest) -> Self {
        Self::RoleRevokePermission { role: revoke.role, range: KeyRange { start: revoke.key, end: revoke.range_end } }
    }
}
