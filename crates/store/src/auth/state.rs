//! Users and roles: what is replicated, and what follows from it.

use std::collections::{BTreeMap, HashMap};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;

use super::change::{AuthChange, AuthWrite, NewPassword};
use super::grants::{Grants, is_valid_range};
use super::{
    AUTH_FAILED, INVALID_MANAGEMENT, NOT_ENABLED, PERMISSION_NOT_GIVEN, PERMISSION_NOT_GRANTED, Permission, ROLE_EMPTY,
    ROLE_EXISTS, ROLE_NOT_FOUND, ROLE_NOT_GRANTED, ROOT, ROOT_ROLE_MISSING, ROOT_USER_MISSING, SimpleTokens,
    USER_EMPTY, USER_EXISTS, USER_NOT_FOUND, all_keys, no_password_user,
};
use crate::StoreError;
use crate::lease::Now;
use crate::proto::authpb;

/// Users and roles, in the very messages that are stored. Invariants: `revision` grows with every change; `grants` has an entry
/// for exactly the users and follows from `users` and `roles`; roles of a user are sorted.
#[derive(Debug)]
pub(crate) struct Auth {
    enabled: bool,
    /// Starts at 1.
    revision: u64,
    users: BTreeMap<String, authpb::User>,
    roles: BTreeMap<String, authpb::Role>,
    grants: HashMap<String, Grants>,
    /// Not replicated as such: every member times them by its own clock.
    tokens: Mutex<SimpleTokens>,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            enabled: false,
            revision: 1,
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
            grants: HashMap::new(),
            tokens: Mutex::default(),
        }
    }
}

// Reading.
impl Auth {
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn tokens(&self) -> &Mutex<SimpleTokens> {
        &self.tokens
    }

    pub(super) fn has_user(&self, name: &str) -> bool {
        self.users.contains_key(name)
    }

    pub(super) fn has_role(&self, user: &str, role: &str) -> bool {
        self.users.get(user).is_some_and(|user| user.roles.iter().any(|granted| granted == role))
    }

    pub(super) fn grants(&self, user: &str) -> Option<&Grants> {
        self.grants.get(user)
    }

    /// The hash that a password has to match, and the revision it is of.
    pub(crate) fn password(&self, name: &str) -> Result<(Vec<u8>, u64), StoreError> {
        if !self.enabled {
            return Err(NOT_ENABLED);
        }
        let user = self.users.get(name).ok_or(AUTH_FAILED)?;
        if has_no_password(user) {
            return Err(no_password_user());
        }
        Ok((user.password.to_vec(), self.revision))
    }

    pub(crate) fn user_names(&self) -> Vec<String> {
        self.users.keys().cloned().collect()
    }

    pub(crate) fn role_names(&self) -> Vec<String> {
        self.roles.keys().cloned().collect()
    }

    pub(crate) fn roles_of(&self, user: &str) -> Result<Vec<String>, StoreError> {
        self.users.get(user).map(|user| user.roles.clone()).ok_or(USER_NOT_FOUND)
    }

    pub(crate) fn permissions_of(&self, role: &str) -> Result<Vec<Permission>, StoreError> {
        let found = self.roles.get(role).ok_or(ROLE_NOT_FOUND)?;
        if role == ROOT {
            return Ok(vec![all_keys()]);
        }
        Ok(found.key_permission.iter().filter_map(Permission::from_stored).collect())
    }

    /// What is stored even when there are no users.
    pub(crate) fn settings(&self) -> [AuthWrite; 2] {
        [AuthWrite::Enabled(self.enabled), AuthWrite::Revision(self.revision)]
    }

    /// Everything as it is stored.
    pub(crate) fn stored(&self) -> Vec<AuthWrite> {
        let mut writes = Vec::from(self.settings());
        writes.extend(self.users.values().cloned().map(AuthWrite::User));
        writes.extend(self.roles.values().cloned().map(AuthWrite::Role));
        writes
    }
}

// Changing.
impl Auth {
    /// Applies a change; `writes` gets what has to be stored. An error means nothing happened.
    pub(crate) fn apply(&mut self, change: AuthChange, writes: &mut Vec<AuthWrite>) -> Result<(), StoreError> {
        match change {
            AuthChange::Enable => self.enable(writes),
            AuthChange::Disable => {
                self.disable(writes);
                Ok(())
            }
            AuthChange::UserAdd { name, password } => self.user_add(name, &password, writes),
            AuthChange::UserDelete { name } => self.user_delete(name, writes),
            AuthChange::UserChangePassword { name, password } => self.user_change_password(&name, &password, writes),
            AuthChange::UserGrantRole { user, role } => self.user_grant_role(&user, role, writes),
            AuthChange::UserRevokeRole { user, role } => self.user_revoke_role(&user, &role, writes),
            AuthChange::RoleAdd { name } => self.role_add(name, writes),
            AuthChange::RoleDelete { role } => self.role_delete(role, writes),
            AuthChange::RoleGrantPermission { role, permission } => self.role_grant(&role, permission, writes),
            AuthChange::RoleRevokePermission { role, range } => self.role_revoke(&role, &range, writes),
        }
    }

    /// Hands out a simple token whose owner proved who it is.
    pub(crate) fn assign_token(&self, user: &str, token: String, now: Now) -> Result<(), StoreError> {
        if !self.enabled {
            return Err(NOT_ENABLED);
        }
        let user = self.users.get_key_value(user).filter(|(_, user)| !has_no_password(user));
        let (name, _) = user.ok_or(AUTH_FAILED)?;
        self.tokens.lock().insert(token, name.clone(), now);
        Ok(())
    }

    /// Puts back what was stored; `None` when it makes no sense.
    pub(crate) fn restore(&mut self, write: AuthWrite) -> Option<()> {
        match write {
            AuthWrite::Enabled(enabled) => self.enabled = enabled,
            AuthWrite::Revision(revision) => self.revision = revision.max(1),
            AuthWrite::User(user) => {
                let name = String::from_utf8(user.name.to_vec()).ok()?;
                self.users.insert(name.clone(), user);
                self.refresh(&name);
            }
            AuthWrite::Role(role) => {
                let name = String::from_utf8(role.name.to_vec()).ok()?;
                self.roles.insert(name.clone(), role);
                self.refresh_role(&name);
            }
            AuthWrite::UserGone(name) => {
                self.users.remove(&name);
                self.refresh(&name);
            }
            AuthWrite::RoleGone(name) => {
                self.roles.remove(&name);
                self.refresh_role(&name);
            }
        }
        Some(())
    }

    fn enable(&mut self, writes: &mut Vec<AuthWrite>) -> Result<(), StoreError> {
        if self.enabled {
            return Ok(());
        }
        if !self.has_user(ROOT) {
            return Err(ROOT_USER_MISSING);
        }
        if !self.has_role(ROOT, ROOT) {
            return Err(ROOT_ROLE_MISSING);
        }
        self.enabled = true;
        writes.push(AuthWrite::Enabled(true));
        Ok(())
    }

    fn disable(&mut self, writes: &mut Vec<AuthWrite>) {
        if !self.enabled {
            return;
        }
        self.enabled = false;
        writes.push(AuthWrite::Enabled(false));
        self.count(writes);
        self.tokens.lock().clear();
    }

    fn user_add(
        &mut self,
        name: String,
        password: &NewPassword,
        writes: &mut Vec<AuthWrite>,
    ) -> Result<(), StoreError> {
        if name.is_empty() {
            return Err(USER_EMPTY);
        }
        if self.has_user(&name) {
            return Err(USER_EXISTS);
        }
        let no_password = *password == NewPassword::None;
        let user = authpb::User {
            name: name.clone().into(),
            password: hash_of(password)?.into(),
            roles: Vec::new(),
            options: Some(authpb::UserAddOptions { no_password }),
        };
        self.put_user(name, user, writes);
        self.count(writes);
        Ok(())
    }

    fn user_delete(&mut self, name: String, writes: &mut Vec<AuthWrite>) -> Result<(), StoreError> {
        if self.enabled && name == ROOT {
            return Err(INVALID_MANAGEMENT);
        }
        self.users.remove(&name).ok_or(USER_NOT_FOUND)?;
        self.refresh(&name);
        self.tokens.lock().forget_user(&name);
        writes.push(AuthWrite::UserGone(name));
        self.count(writes);
        Ok(())
    }

    fn user_change_password(
        &mut self,
        name: &str,
        password: &NewPassword,
        writes: &mut Vec<AuthWrite>,
    ) -> Result<(), StoreError> {
        let user = self.users.get(name).ok_or(USER_NOT_FOUND)?;
        let password = if has_no_password(user) { Vec::new() } else { hash_of(password)? };
        let user = authpb::User { password: password.into(), ..user.clone() };
        self.put_user(name.to_owned(), user, writes);
        self.count(writes);
        self.tokens.lock().forget_user(name);
        Ok(())
    }

    fn user_grant_role(&mut self, user: &str, role: String, writes: &mut Vec<AuthWrite>) -> Result<(), StoreError> {
        let mut changed = self.users.get(user).ok_or(USER_NOT_FOUND)?.clone();
        if role != ROOT && !self.roles.contains_key(&role) {
            return Err(ROLE_NOT_FOUND);
        }
        let Err(at) = changed.roles.binary_search(&role) else { return Ok(()) };
        changed.roles.insert(at, role);
        self.put_user(user.to_owned(), changed, writes);
        self.count(writes);
        Ok(())
    }

    fn user_revoke_role(&mut self, user: &str, role: &str, writes: &mut Vec<AuthWrite>) -> Result<(), StoreError> {
        if self.enabled && user == ROOT && role == ROOT {
            return Err(INVALID_MANAGEMENT);
        }
        let mut changed = self.users.get(user).ok_or(USER_NOT_FOUND)?.clone();
        let n_before = changed.roles.len();
        changed.roles.retain(|granted| granted != role);
        if changed.roles.len() == n_before {
            return Err(ROLE_NOT_GRANTED);
        }
        self.put_user(user.to_owned(), changed, writes);
        self.count(writes);
        Ok(())
    }

    fn role_add(&mut self, name: String, writes: &mut Vec<AuthWrite>) -> Result<(), StoreError> {
        if name.is_empty() {
            return Err(ROLE_EMPTY);
        }
        if self.roles.contains_key(&name) {
            return Err(ROLE_EXISTS);
        }
        let role = authpb::Role { name: name.clone().into(), key_permission: Vec::new() };
        self.put_role(name, role, writes);
        self.count(writes);
        Ok(())
    }

    fn role_delete(&mut self, role: String, writes: &mut Vec<AuthWrite>) -> Result<(), StoreError> {
        if self.enabled && role == ROOT {
            return Err(INVALID_MANAGEMENT);
        }
        self.roles.remove(&role).ok_or(ROLE_NOT_FOUND)?;
        let holders: Vec<_> = self.users.keys().filter(|user| self.has_role(user, &role)).cloned().collect();
        writes.push(AuthWrite::RoleGone(role.clone()));
        for name in holders {
            let Some(mut user) = self.users.get(&name).cloned() else { continue };
            user.roles.retain(|granted| *granted != role);
            self.put_user(name, user, writes);
        }
        self.count(writes);
        Ok(())
    }

    fn role_grant(
        &mut self,
        role: &str,
        permission: Option<Permission>,
        writes: &mut Vec<AuthWrite>,
    ) -> Result<(), StoreError> {
        let permission = permission.ok_or(PERMISSION_NOT_GIVEN)?;
        if !is_valid_range(&permission.range) {
            return Err(INVALID_MANAGEMENT);
        }
        let mut changed = self.roles.get(role).ok_or(ROLE_NOT_FOUND)?.clone();
        let granted = authpb::Permission::from(permission);
        let same = |other: &&mut authpb::Permission| other.key == granted.key && other.range_end == granted.range_end;
        match changed.key_permission.iter_mut().find(same) {
            Some(existing) => existing.perm_type = granted.perm_type,
            None => {
                let at = changed.key_permission.partition_point(|other| other.key <= granted.key);
                changed.key_permission.insert(at, granted);
            }
        }
        self.put_role(role.to_owned(), changed, writes);
        self.count(writes);
        Ok(())
    }

    fn role_revoke(
        &mut self,
        role: &str,
        range: &crate::KeyRange,
        writes: &mut Vec<AuthWrite>,
    ) -> Result<(), StoreError> {
        let mut changed = self.roles.get(role).ok_or(ROLE_NOT_FOUND)?.clone();
        let n_before = changed.key_permission.len();
        changed.key_permission.retain(|other| other.key != range.start || other.range_end != range.end);
        if changed.key_permission.len() == n_before {
            return Err(PERMISSION_NOT_GRANTED);
        }
        self.put_role(role.to_owned(), changed, writes);
        self.count(writes);
        Ok(())
    }

    fn put_user(&mut self, name: String, user: authpb::User, writes: &mut Vec<AuthWrite>) {
        writes.push(AuthWrite::User(user.clone()));
        self.users.insert(name.clone(), user);
        self.refresh(&name);
    }

    fn put_role(&mut self, name: String, role: authpb::Role, writes: &mut Vec<AuthWrite>) {
        writes.push(AuthWrite::Role(role.clone()));
        self.roles.insert(name.clone(), role);
        self.refresh_role(&name);
    }

    /// One more change: what was proved before is old.
    fn count(&mut self, writes: &mut Vec<AuthWrite>) {
        self.revision += 1;
        writes.push(AuthWrite::Revision(self.revision));
    }

    fn refresh_role(&mut self, role: &str) {
        let holders: Vec<_> = self.users.keys().filter(|user| self.has_role(user, role)).cloned().collect();
        for user in holders {
            self.refresh(&user);
        }
    }

    fn refresh(&mut self, name: &str) {
        let Some(user) = self.users.get(name) else {
            self.grants.remove(name);
            return;
        };
        let roles = user.roles.iter().filter_map(|role| self.roles.get(role));
        let grants = Grants::of(roles.flat_map(|role| &role.key_permission));
        self.grants.insert(name.to_owned(), grants);
    }
}

fn has_no_password(user: &authpb::User) -> bool {
    user.options.is_some_and(|options| options.no_password)
}

/// The stored form of a password. A plain one is hashed before it is proposed; one that was not makes no login possible.
fn hash_of(password: &NewPassword) -> Result<Vec<u8>, StoreError> {
    match password {
        NewPassword::None | NewPassword::Plain(_) => Ok(Vec::new()),
        NewPassword::Hashed(base64) => STANDARD.decode(base64).map_err(|_not_base64| no_password_user()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyRange, PermissionKind};

    fn user_add(name: &str) -> AuthChange {
        AuthChange::UserAdd { name: name.into(), password: NewPassword::Hashed("aGFzaA==".into()) }
    }

    fn grant_role(user: &str, role: &str) -> AuthChange {
        AuthChange::UserGrantRole { user: user.into(), role: role.into() }
    }

    fn revoke_role(user: &str, role: &str) -> AuthChange {
        AuthChange::UserRevokeRole { user: user.into(), role: role.into() }
    }

    fn role_add(name: &str) -> AuthChange {
        AuthChange::RoleAdd { name: name.into() }
    }

    fn role_delete(role: &str) -> AuthChange {
        AuthChange::RoleDelete { role: role.into() }
    }

    fn user_delete(name: &str) -> AuthChange {
        AuthChange::UserDelete { name: name.into() }
    }

    fn grant(role: &str, key: &str, end: &str) -> AuthChange {
        let range = KeyRange { start: key.to_owned().into(), end: end.to_owned().into() };
        AuthChange::RoleGrantPermission {
            role: role.into(),
            permission: Some(Permission { kind: PermissionKind::Read, range }),
        }
    }

    /// Applies changes in turn and checks what each of them is answered.
    fn play(auth: &mut Auth, steps: Vec<(AuthChange, Result<(), StoreError>)>) {
        for (change, expected) in steps {
            let before = auth.revision();
            let mut writes = Vec::new();
            let answer = auth.apply(change.clone(), &mut writes);
            assert_eq!(answer, expected, "{change:?}");
            if answer.is_err() {
                assert_eq!((auth.revision(), writes.as_slice()), (before, [].as_slice()), "{change:?}");
            }
        }
    }

    #[test]
    fn changes_are_refused_in_etcds_words() {
        let mut auth = Auth::default();
        let missing = |role: &str| AuthChange::RoleGrantPermission { role: role.into(), permission: None };
        let unknown = KeyRange::key("x");
        let revoke = AuthChange::RoleRevokePermission { role: "r".into(), range: unknown.clone() };
        play(
            &mut auth,
            vec![
                (AuthChange::Enable, Err(ROOT_USER_MISSING)),
                (user_add(""), Err(USER_EMPTY)),
                (user_add("root"), Ok(())),
                (user_add("root"), Err(USER_EXISTS)),
                (AuthChange::Enable, Err(ROOT_ROLE_MISSING)),
                (grant_role("nobody", "root"), Err(USER_NOT_FOUND)),
                (grant_role("root", "missing"), Err(ROLE_NOT_FOUND)),
                (grant_role("root", "root"), Ok(())),
                (grant_role("root", "root"), Ok(())),
                (role_add(""), Err(ROLE_EMPTY)),
                (role_add("r"), Ok(())),
                (role_add("r"), Err(ROLE_EXISTS)),
                (missing("r"), Err(PERMISSION_NOT_GIVEN)),
                (grant("r", "b", "a"), Err(INVALID_MANAGEMENT)),
                (grant("r", "", "a"), Err(INVALID_MANAGEMENT)),
                (grant("missing", "a", ""), Err(ROLE_NOT_FOUND)),
                (revoke, Err(PERMISSION_NOT_GRANTED)),
                (AuthChange::RoleRevokePermission { role: "missing".into(), range: unknown }, Err(ROLE_NOT_FOUND)),
                (revoke_role("root", "r"), Err(ROLE_NOT_GRANTED)),
                (revoke_role("nobody", "r"), Err(USER_NOT_FOUND)),
                (role_delete("missing"), Err(ROLE_NOT_FOUND)),
                (user_delete("nobody"), Err(USER_NOT_FOUND)),
                (AuthChange::Enable, Ok(())),
                (AuthChange::Enable, Ok(())),
                (user_delete("root"), Err(INVALID_MANAGEMENT)),
                (role_delete("root"), Err(INVALID_MANAGEMENT)),
                (revoke_role("root", "root"), Err(INVALID_MANAGEMENT)),
                (AuthChange::Disable, Ok(())),
                (user_delete("root"), Ok(())),
            ],
        );
    }

    #[test]
    fn every_change_but_enabling_counts() {
        let mut auth = Auth::default();
        let steps = [user_add("root"), grant_role("root", "root"), role_add("r"), grant("r", "a", "b")];
        play(&mut auth, steps.into_iter().map(|change| (change, Ok(()))).collect());
        assert_eq!(auth.revision(), 5);
        play(&mut auth, vec![(AuthChange::Enable, Ok(())), (grant_role("root", "root"), Ok(()))]);
        assert_eq!(auth.revision(), 5);
        play(&mut auth, vec![(AuthChange::Disable, Ok(())), (AuthChange::Disable, Ok(()))]);
        assert_eq!(auth.revision(), 6);
    }

    #[test]
    fn a_deleted_role_is_taken_from_its_users() {
        let mut auth = Auth::default();
        let steps = [user_add("u"), role_add("b"), role_add("a"), grant_role("u", "b"), grant_role("u", "a")];
        play(&mut auth, steps.into_iter().map(|change| (change, Ok(()))).collect());
        assert_eq!(auth.roles_of("u"), Ok(vec!["a".to_owned(), "b".to_owned()]));
        let mut writes = Vec::new();
        auth.apply(role_delete("a"), &mut writes).unwrap();
        assert_eq!(auth.roles_of("u"), Ok(vec!["b".to_owned()]));
        assert!(matches!(&writes[..], [AuthWrite::RoleGone(_), AuthWrite::User(_), AuthWrite::Revision(7)]));
    }

    #[test]
    fn what_is_stored_is_what_is_restored() {
        let mut auth = Auth::default();
        let steps =
            [user_add("root"), grant_role("root", "root"), role_add("r"), grant("r", "a", "b"), AuthChange::Enable];
        play(&mut auth, steps.into_iter().map(|change| (change, Ok(()))).collect());
        let mut restored = Auth::default();
        for write in auth.stored() {
            restored.restore(write).unwrap();
        }
        assert_eq!(restored.stored(), auth.stored());
        assert_eq!(restored.permissions_of("r"), auth.permissions_of("r"));
        assert_eq!(restored.permissions_of("root"), Err(ROLE_NOT_FOUND));
    }

    #[test]
    fn granting_the_same_range_again_changes_the_kind() {
        let mut auth = Auth::default();
        play(&mut auth, vec![(role_add("r"), Ok(())), (grant("r", "b", ""), Ok(())), (grant("r", "a", "c"), Ok(()))]);
        let permission = Permission { kind: PermissionKind::ReadWrite, range: KeyRange::key("b") };
        let change = AuthChange::RoleGrantPermission { role: "r".into(), permission: Some(permission.clone()) };
        play(&mut auth, vec![(change, Ok(()))]);
        let permissions = auth.permissions_of("r").unwrap();
        assert_eq!(permissions.iter().map(|one| &one.range.start[..]).collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!(permissions[1], permission);
    }
}
