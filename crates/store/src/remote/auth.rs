//! Users and roles of the other cluster: one call for each request.

use super::RemoteStore;
use super::endpoints::{Member, Repeat};
use crate::auth::wire::{change_password_request, user_add_request};
use crate::proto::etcdserverpb as pb;
use crate::{AuthChange, AuthRequest, AuthResponse, Permission, StoreError};

/// One call that is sent on until a member takes it.
macro_rules! call {
    ($store:expr, $repeat:expr, $method:ident, $request:expr) => {{
        let request = $request;
        let call = |mut member: Member| {
            let request = request.clone();
            async move { member.auth.$method(request).await }
        };
        $store.endpoints.call($repeat, call).await?
    }};
}

impl RemoteStore {
    pub(super) async fn auth_call(&self, request: AuthRequest) -> Result<AuthResponse, StoreError> {
        Ok(match request {
            AuthRequest::Change(change) => {
                self.auth_change(change).await?;
                AuthResponse::Done
            }
            AuthRequest::Status => {
                let status = call!(self, Repeat::Always, auth_status, pb::AuthStatusRequest {});
                AuthResponse::Status { enabled: status.enabled, auth_revision: status.auth_revision }
            }
            AuthRequest::Authenticate { name, password } => {
                let request = pb::AuthenticateRequest { name, password };
                AuthResponse::Token(call!(self, Repeat::Always, authenticate, request).token)
            }
            AuthRequest::UserGet { name } => {
                AuthResponse::Names(call!(self, Repeat::Always, user_get, pb::AuthUserGetRequest { name }).roles)
            }
            AuthRequest::UserList => {
                AuthResponse::Names(call!(self, Repeat::Always, user_list, pb::AuthUserListRequest {}).users)
            }
            AuthRequest::RoleGet { role } => {
                let found = call!(self, Repeat::Always, role_get, pb::AuthRoleGetRequest { role });
                AuthResponse::Permissions(found.perm.iter().filter_map(Permission::from_stored).collect())
            }
            AuthRequest::RoleList => {
                AuthResponse::Names(call!(self, Repeat::Always, role_list, pb::AuthRoleListRequest {}).roles)
            }
        })
    }

    async fn auth_change(&self, change: AuthChange) -> Result<(), StoreError> {
        const ONCE: Repeat = Repeat::UnlessSent;
        let _header: Option<pb::ResponseHeader> = match change {
            AuthChange::Enable => call!(self, ONCE, auth_enable, pb::AuthEnableRequest {}).header,
            AuthChange::Disable => call!(self, ONCE, auth_disable, pb::AuthDisableRequest {}).header,
            AuthChange::UserAdd { name, password } => {
                call!(self, ONCE, user_add, user_add_request(name, password)).header
            }
            AuthChange::UserDelete { name } => {
                call!(self, ONCE, user_delete, pb::AuthUserDeleteRequest { name }).header
            }
            AuthChange::UserChangePassword { name, password } => {
                call!(self, ONCE, user_change_password, change_password_request(name, password)).header
            }
            AuthChange::UserGrantRole { user, role } => {
                call!(self, ONCE, user_grant_role, pb::AuthUserGrantRoleRequest { user, role }).header
            }
            AuthChange::UserRevokeRole { user: name, role } => {
                call!(self, ONCE, user_revoke_role, pb::AuthUserRevokeRoleRequest { name, role }).header
            }
            AuthChange::RoleAdd { name } => call!(self, ONCE, role_add, pb::AuthRoleAddRequest { name }).header,
            AuthChange::RoleDelete { role } => {
                call!(self, ONCE, role_delete, pb::AuthRoleDeleteRequest { role }).header
            }
            AuthChange::RoleGrantPermission { role: name, permission } => {
                let perm = permission.map(Into::into);
                let request = pb::AuthRoleGrantPermissionRequest { name, perm };
                call!(self, ONCE, role_grant_permission, request).header
            }
            AuthChange::RoleRevokePermission { role, range } => {
                let (key, range_end) = (range.start, range.end);
                let request = pb::AuthRoleRevokePermissionRequest { role, key, range_end };
                call!(self, ONCE, role_revoke_permission, request).header
            }
        };
        Ok(())
    }
}
