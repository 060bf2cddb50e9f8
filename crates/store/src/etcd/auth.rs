//! The Auth service: users, roles and logins.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::shared::Shared;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::auth_server::Auth;
use crate::{AuthChange, AuthRequest, AuthResponse, NewPassword, StoreError};

pub(super) struct AuthService(pub(super) Arc<Shared>);

type Header = Option<pb::ResponseHeader>;

impl AuthService {
    async fn ask<T>(
        &self,
        request: Request<T>,
        into: impl FnOnce(T) -> AuthRequest,
    ) -> Result<(Header, AuthResponse), Status> {
        self.0.admit(&request)?;
        let store = self.0.store_for(&request);
        let response = store.auth(into(request.into_inner())).await?;
        Ok((self.0.header_now().await?, response))
    }

    async fn change<T: Into<AuthChange>>(&self, request: Request<T>) -> Result<Header, Status> {
        let (header, _done) = self.ask(request, |request| AuthRequest::Change(request.into())).await?;
        Ok(header)
    }

    async fn names<T>(
        &self,
        request: Request<T>,
        into: impl FnOnce(T) -> AuthRequest,
    ) -> Result<(Header, Vec<String>), Status> {
        match self.ask(request, into).await? {
            (header, AuthResponse::Names(names)) => Ok((header, names)),
            (_, other) => Err(unexpected(&other)),
        }
    }
}

fn unexpected(response: &AuthResponse) -> Status {
    StoreError::Fatal(format!("the store answered another question: {response:?}")).into()
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn auth_enable(
        &self,
        request: Request<pb::AuthEnableRequest>,
    ) -> Result<Response<pb::AuthEnableResponse>, Status> {
        let (header, _done) = self.ask(request, |_| AuthRequest::Change(AuthChange::Enable)).await?;
        Ok(Response::new(pb::AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<pb::AuthDisableRequest>,
    ) -> Result<Response<pb::AuthDisableResponse>, Status> {
        let (header, _done) = self.ask(request, |_| AuthRequest::Change(AuthChange::Disable)).await?;
        Ok(Response::new(pb::AuthDisableResponse { header }))
    }

    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        match self.ask(request, |_| AuthRequest::Status).await? {
            (header, AuthResponse::Status { enabled, auth_revision }) => {
                Ok(Response::new(pb::AuthStatusResponse { header, enabled, auth_revision }))
            }
            (_, other) => Err(unexpected(&other)),
        }
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        let login =
            |login: pb::AuthenticateRequest| AuthRequest::Authenticate { name: login.name, password: login.password };
        match self.ask(request, login).await? {
            (header, AuthResponse::Token(token)) => Ok(Response::new(pb::AuthenticateResponse { header, token })),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// A hash that the client sends is not looked at, as upstream.
    async fn user_add(
        &self,
        request: Request<pb::AuthUserAddRequest>,
    ) -> Result<Response<pb::AuthUserAddResponse>, Status> {
        let add = |add: pb::AuthUserAddRequest| {
            let no_password = add.options.is_some_and(|options| options.no_password);
            let password = if no_password { NewPassword::None } else { NewPassword::Plain(add.password) };
            AuthRequest::Change(AuthChange::UserAdd { name: add.name, password })
        };
        let (header, _done) = self.ask(request, add).await?;
        Ok(Response::new(pb::AuthUserAddResponse { header }))
    }

    async fn user_get(
        &self,
        request: Request<pb::AuthUserGetRequest>,
    ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
        let (header, roles) = self.names(request, |get| AuthRequest::UserGet { name: get.name }).await?;
        Ok(Response::new(pb::AuthUserGetResponse { header, roles }))
    }

    async fn user_list(
        &self,
        request: Request<pb::AuthUserListRequest>,
    ) -> Result<Response<pb::AuthUserListResponse>, Status> {
        let (header, users) = self.names(request, |_| AuthRequest::UserList).await?;
        Ok(Response::new(pb::AuthUserListResponse { header, users }))
    }

    async fn user_delete(
        &self,
        request: Request<pb::AuthUserDeleteRequest>,
    ) -> Result<Response<pb::AuthUserDeleteResponse>, Status> {
        Ok(Response::new(pb::AuthUserDeleteResponse { header: self.change(request).await? }))
    }

    async fn user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
        Ok(Response::new(pb::AuthUserChangePasswordResponse { header: self.change(request).await? }))
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Result<Response<pb::AuthUserGrantRoleResponse>, Status> {
        Ok(Response::new(pb::AuthUserGrantRoleResponse { header: self.change(request).await? }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Result<Response<pb::AuthUserRevokeRoleResponse>, Status> {
        Ok(Response::new(pb::AuthUserRevokeRoleResponse { header: self.change(request).await? }))
    }

    async fn role_add(
        &self,
        request: Request<pb::AuthRoleAddRequest>,
    ) -> Result<Response<pb::AuthRoleAddResponse>, Status> {
        Ok(Response::new(pb::AuthRoleAddResponse { header: self.change(request).await? }))
    }

    async fn role_get(
        &self,
        request: Request<pb::AuthRoleGetRequest>,
    ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
        match self.ask(request, |get| AuthRequest::RoleGet { role: get.role }).await? {
            (header, AuthResponse::Permissions(permissions)) => {
                let perm = permissions.into_iter().map(Into::into).collect();
                Ok(Response::new(pb::AuthRoleGetResponse { header, perm }))
            }
            (_, other) => Err(unexpected(&other)),
        }
    }

    async fn role_list(
        &self,
        request: Request<pb::AuthRoleListRequest>,
    ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
        let (header, roles) = self.names(request, |_| AuthRequest::RoleList).await?;
        Ok(Response::new(pb::AuthRoleListResponse { header, roles }))
    }

    async fn role_delete(
        &self,
        request: Request<pb::AuthRoleDeleteRequest>,
    ) -> Result<Response<pb::AuthRoleDeleteResponse>, Status> {
        Ok(Response::new(pb::AuthRoleDeleteResponse { header: self.change(request).await? }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<pb::AuthRoleGrantPermissionResponse>, Status> {
        Ok(Response::new(pb::AuthRoleGrantPermissionResponse { header: self.change(request).await? }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<pb::AuthRoleRevokePermissionResponse>, Status> {
        Ok(Response::new(pb::AuthRoleRevokePermissionResponse { header: self.change(request).await? }))
    }
}
