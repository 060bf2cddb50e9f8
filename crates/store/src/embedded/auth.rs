//! Users and roles of the embedded store: from requests to commands, and from what a client shows to who it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::EmbeddedStore;
use crate::auth::{
    AUTH_FAILED, AuthChange, INVALID_TOKEN, Identity, NewPassword, Requester, Tokens, new_simple_token,
    split_simple_token,
};
use crate::command::Command;
use crate::{AuthRequest, AuthResponse, Credentials, StoreError};

/// How long a member that is behind waits for the log entry that issued a token; as long as for a request.
const TOKEN_WAIT: Duration = Duration::from_secs(7);
const TOKEN_POLL: Duration = Duration::from_millis(10);

impl EmbeddedStore {
    pub(super) async fn auth_for(
        &self,
        requester: &Requester,
        request: AuthRequest,
    ) -> Result<AuthResponse, StoreError> {
        self.refuse_learner()?;
        match request {
            AuthRequest::Change(change) => self.change_auth(requester, change).await,
            AuthRequest::Authenticate { name, password } => self.authenticate(&name, &password).await,
            read => {
                self.confirm_read().await?;
                self.read_auth(requester, read)
            }
        }
    }

    /// Who a client is by what it shows; `None` if it shows nothing, or while nobody cares.
    pub(super) async fn identify(&self, credentials: &Credentials) -> Result<Option<Identity>, StoreError> {
        if !self.machine.read().auth.is_enabled() {
            return Ok(None);
        }
        match (&credentials.token, &credentials.common_name) {
            (Some(token), _) => self.owner_of(token).await.map(Some),
            (None, Some(name)) => {
                let revision = self.machine.read().auth.revision();
                Ok(Some(Identity { user: name.to_string(), revision }))
            }
            (None, None) => Ok(None),
        }
    }

    async fn owner_of(&self, token: &str) -> Result<Identity, StoreError> {
        match &self.tokens {
            Tokens::None => Err(INVALID_TOKEN),
            Tokens::Jwt(jwt) => jwt.check(token, since_epoch()).ok_or(INVALID_TOKEN),
            Tokens::Simple => {
                let (random, index) = split_simple_token(token).ok_or(INVALID_TOKEN)?;
                self.applied(index).await?;
                let machine = self.machine.read();
                let user = machine.auth.tokens().lock().user(random, self.leases.clock.now());
                let revision = machine.auth.revision();
                user.map(|user| Identity { user, revision }).ok_or(INVALID_TOKEN)
            }
        }
    }

    /// Waits until a log entry is applied here. Nearly always it is: clients stay with their member.
    async fn applied(&self, index: u64) -> Result<(), StoreError> {
        let waiting = async {
            while self.raft.status().applied < index {
                tokio::time::sleep(TOKEN_POLL).await;
            }
        };
        tokio::time::timeout(TOKEN_WAIT, waiting).await.map_err(|_elapsed| INVALID_TOKEN)
    }

    async fn change_auth(&self, requester: &Requester, change: AuthChange) -> Result<AuthResponse, StoreError> {
        if let Requester::Client(who) = requester {
            // Not to spend a hash on somebody who may not; what counts is checked when it is applied.
            self.check(|machine| machine.auth.permit_admin(who.as_ref())).await?;
        }
        let change = match change {
            AuthChange::UserAdd { name, password } => {
                AuthChange::UserAdd { name, password: self.hashed(password).await? }
            }
            AuthChange::UserChangePassword { name, password } => {
                AuthChange::UserChangePassword { name, password: self.hashed(password).await? }
            }
            change => change,
        };
        self.propose(requester.command(Command::Auth(change))).await?;
        Ok(AuthResponse::Done)
    }

    async fn hashed(&self, password: NewPassword) -> Result<NewPassword, StoreError> {
        match password {
            NewPassword::Plain(plain) => self.passwords.hash(plain).await.map(NewPassword::Hashed),
            password => Ok(password),
        }
    }

    async fn authenticate(&self, name: &str, password: &str) -> Result<AuthResponse, StoreError> {
        self.confirm_read().await?;
        loop {
            let (hash, revision) = self.machine.read().auth.password(name)?;
            self.passwords.verify(password.to_owned(), hash).await?;
            let token = match &self.tokens {
                Tokens::None => return Err(AUTH_FAILED),
                Tokens::Jwt(jwt) => {
                    let identity = Identity { user: name.to_owned(), revision };
                    jwt.issue(&identity, since_epoch())?
                }
                Tokens::Simple => {
                    let random = new_simple_token();
                    let login = Command::Authenticate { user: name.to_owned(), token: random.clone() };
                    self.propose(login).await?;
                    format!("{random}.{}", self.raft.status().applied)
                }
            };
            // The password may have been another by then.
            if self.machine.read().auth.revision() == revision {
                return Ok(AuthResponse::Token(token));
            }
        }
    }

    fn read_auth(&self, requester: &Requester, request: AuthRequest) -> Result<AuthResponse, StoreError> {
        let auth = &self.machine.read().auth;
        let client = match requester {
            Requester::Owner => None,
            Requester::Client(who) => Some(who.as_ref()),
        };
        match request {
            AuthRequest::Status => {
                Ok(AuthResponse::Status { enabled: auth.is_enabled(), auth_revision: auth.revision() })
            }
            AuthRequest::UserGet { name } => {
                client.map_or(Ok(()), |who| auth.permit_user_get(who, &name))?;
                auth.roles_of(&name).map(AuthResponse::Names)
            }
            AuthRequest::RoleGet { role } => {
                client.map_or(Ok(()), |who| auth.permit_role_get(who, &role))?;
                auth.permissions_of(&role).map(AuthResponse::Permissions)
            }
            AuthRequest::UserList => {
                client.map_or(Ok(()), |who| auth.permit_admin(who))?;
                Ok(AuthResponse::Names(auth.user_names()))
            }
            AuthRequest::RoleList => {
                client.map_or(Ok(()), |who| auth.permit_admin(who))?;
                Ok(AuthResponse::Names(auth.role_names()))
            }
            AuthRequest::Change(_) | AuthRequest::Authenticate { .. } => {
                Err(StoreError::Fatal("a change of users was taken for a read".to_owned()))
            }
        }
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
