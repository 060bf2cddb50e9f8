//! Whether somebody may do something. Asked before a read, and again when a command is applied.

use super::grants::Access;
use super::state::Auth;
use super::{Identity, OLD_REVISION, PERMISSION_DENIED, ROOT, USER_EMPTY, USER_NOT_FOUND};
use crate::command::Command;
use crate::lease::Lessor;
use crate::{DeleteRange, KeyRange, LeaseId, Op, Put, StoreError, Txn};

/// On whose behalf a command is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Requester {
    /// The store itself, or whoever owns it in this process: nothing is refused.
    Owner,
    /// A client of the API; `None` showed no credentials.
    Client(Option<Identity>),
}

impl Requester {
    /// The command as it goes into the log.
    pub(crate) fn command(&self, command: Command) -> Command {
        match self {
            Self::Owner => command,
            Self::Client(who) => Command::As { who: who.clone(), command: Box::new(command) },
        }
    }
}

type Who<'a> = Option<&'a Identity>;

impl Auth {
    /// Whether a command may be applied.
    pub(crate) fn permit(&self, who: Who<'_>, command: &Command, lessor: &Lessor) -> Result<(), StoreError> {
        if !self.is_enabled() {
            return Ok(());
        }
        match command {
            Command::Txn(txn) => self.permit_txn(who, txn, lessor),
            Command::LeaseRevoke { id } => self.permit_lease_write(who, *id, lessor),
            Command::Auth(_)
            | Command::Compact { .. }
            | Command::AlarmRaise(_)
            | Command::AlarmLower(_)
            | Command::MemberUpdate { .. }
            | Command::Downgrade(_) => self.permit_admin(who),
            // A login proves who it is by itself; the others were checked where they came from.
            Command::Authenticate { .. }
            | Command::LeaseGrant { .. }
            | Command::LeaseCheckpoint { .. }
            | Command::MemberAttributes { .. } => Ok(()),
            Command::As { command, .. } => self.permit(who, command, lessor),
        }
    }

    /// Any user will do.
    pub(crate) fn permit_user(&self, who: Who<'_>) -> Result<(), StoreError> {
        if self.is_enabled() && who.is_none() { Err(USER_EMPTY) } else { Ok(()) }
    }

    pub(crate) fn permit_admin(&self, who: Who<'_>) -> Result<(), StoreError> {
        if !self.is_enabled() {
            return Ok(());
        }
        let who = who.filter(|who| !who.user.is_empty()).ok_or(USER_EMPTY)?;
        if !self.has_user(&who.user) {
            return Err(USER_NOT_FOUND);
        }
        if self.has_role(&who.user, ROOT) { Ok(()) } else { Err(PERMISSION_DENIED) }
    }

    pub(crate) fn permit_keys(&self, who: Who<'_>, access: Access, range: &KeyRange) -> Result<(), StoreError> {
        if !self.is_enabled() {
            return Ok(());
        }
        let who = who.filter(|who| who.revision != 0).ok_or(USER_EMPTY)?;
        if who.revision < self.revision() {
            return Err(OLD_REVISION);
        }
        let is_root = self.has_role(&who.user, ROOT);
        let is_granted = || self.grants(&who.user).is_some_and(|grants| grants.allow(access, range));
        if is_root || is_granted() { Ok(()) } else { Err(PERMISSION_DENIED) }
    }

    /// Both branches count, whichever runs: to know which one ran is to know something about the keys compared.
    pub(crate) fn permit_txn(&self, who: Who<'_>, txn: &Txn, lessor: &Lessor) -> Result<(), StoreError> {
        if !self.is_enabled() {
            return Ok(());
        }
        for compare in &txn.compare {
            self.permit_keys(who, Access::Read, &compare.range)?;
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match op {
                Op::Range(range) => self.permit_keys(who, Access::Read, &range.range)?,
                Op::Put(put) => self.permit_put(who, put, lessor)?,
                Op::Delete(delete) => self.permit_delete(who, delete)?,
                Op::Txn(nested) => self.permit_txn(who, nested, lessor)?,
            }
        }
        Ok(())
    }

    fn permit_put(&self, who: Who<'_>, put: &Put, lessor: &Lessor) -> Result<(), StoreError> {
        let key = KeyRange::key(put.key.clone());
        self.permit_keys(who, Access::Write, &key)?;
        // A key whose lease the user could not revoke would be out of its hands.
        self.permit_lease_write(who, put.lease, lessor)?;
        if put.prev_kv { self.permit_keys(who, Access::Read, &key) } else { Ok(()) }
    }

    fn permit_delete(&self, who: Who<'_>, delete: &DeleteRange) -> Result<(), StoreError> {
        self.permit_keys(who, Access::Write, &delete.range)?;
        if delete.prev_kv { self.permit_keys(who, Access::Read, &delete.range) } else { Ok(()) }
    }

    /// Ending or renewing a lease, or attaching a key to it, is a write of all keys it holds.
    pub(crate) fn permit_lease_write(&self, who: Who<'_>, id: LeaseId, lessor: &Lessor) -> Result<(), StoreError> {
        self.permit_lease(who, Access::Write, id, lessor)
    }

    /// Seeing what a lease holds is a read of all its keys.
    pub(crate) fn permit_lease_read(&self, who: Who<'_>, id: LeaseId, lessor: &Lessor) -> Result<(), StoreError> {
        self.permit_lease(who, Access::Read, id, lessor)
    }

    fn permit_lease(&self, who: Who<'_>, access: Access, id: LeaseId, lessor: &Lessor) -> Result<(), StoreError> {
        if self.permit_admin(who).is_ok() {
            return Ok(());
        }
        for key in lessor.keys(id) {
            self.permit_keys(who, access, &KeyRange::key(key))?;
        }
        Ok(())
    }

    /// A user may look at itself.
    pub(crate) fn permit_user_get(&self, who: Who<'_>, name: &str) -> Result<(), StoreError> {
        let is_self = who.is_some_and(|who| who.user == name);
        self.permit_admin(who).or_else(|refused| if is_self { Ok(()) } else { Err(refused) })
    }

    /// And at the roles it has.
    pub(crate) fn permit_role_get(&self, who: Who<'_>, role: &str) -> Result<(), StoreError> {
        let is_own = who.is_some_and(|who| self.has_role(&who.user, role));
        self.permit_admin(who).or_else(|refused| if is_own { Ok(()) } else { Err(refused) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{AuthChange, NewPassword, Permission, PermissionKind};
    use crate::lease::Now;
    use crate::{Compare, CompareResult, CompareTarget, RangeRequest};

    /// root; and `reader` and `writer` of [a, c), the latter without reading.
    fn enabled() -> Auth {
        let mut auth = Auth::default();
        let mut apply = |change| auth.apply(change, &mut Vec::new()).unwrap();
        for user in ["root", "reader", "writer"] {
            apply(AuthChange::UserAdd { name: user.into(), password: NewPassword::None });
        }
        for (role, kind) in [("reader", PermissionKind::Read), ("writer", PermissionKind::Write)] {
            apply(AuthChange::RoleAdd { name: role.into() });
            let permission = Some(Permission { kind, range: range("a", "c") });
            apply(AuthChange::RoleGrantPermission { role: role.into(), permission });
        }
        for user in ["root", "reader", "writer"] {
            apply(AuthChange::UserGrantRole { user: user.into(), role: user.into() });
        }
        apply(AuthChange::Enable);
        auth
    }

    fn range(start: &'static str, end: &'static str) -> KeyRange {
        KeyRange { start: start.into(), end: end.into() }
    }

    fn who(auth: &Auth, user: &str) -> Identity {
        Identity { user: user.into(), revision: auth.revision() }
    }

    fn op(op: Op) -> Txn {
        Txn { success: vec![op], ..Txn::default() }
    }

    fn put(key: &'static str) -> Put {
        Put { key: key.into(), ..Put::default() }
    }

    fn delete(start: &'static str, end: &'static str, prev_kv: bool) -> Txn {
        op(Op::Delete(DeleteRange { range: range(start, end), prev_kv }))
    }

    fn read(start: &'static str, end: &'static str) -> Txn {
        op(Op::Range(RangeRequest { range: range(start, end), ..RangeRequest::default() }))
    }

    fn compare(key: &'static str) -> Txn {
        let target = CompareTarget::Version(0);
        Txn { compare: vec![Compare { range: range(key, ""), result: CompareResult::Equal, target }], ..Txn::default() }
    }

    #[test]
    fn every_part_of_a_transaction_needs_its_permission() {
        let auth = enabled();
        let lessor = Lessor::default();
        let failing = |txn: Txn| Txn { failure: txn.success, ..Txn::default() };
        let nested = |txn: Txn| op(Op::Txn(txn));
        let with_previous = op(Op::Put(Put { prev_kv: true, ..put("a") }));
        let cases: Vec<(Txn, [Result<(), StoreError>; 2])> = vec![
            (read("a", "b"), [Ok(()), Err(PERMISSION_DENIED)]),
            (read("a", "d"), [Err(PERMISSION_DENIED), Err(PERMISSION_DENIED)]),
            (op(Op::Put(put("a"))), [Err(PERMISSION_DENIED), Ok(())]),
            (with_previous, [Err(PERMISSION_DENIED), Err(PERMISSION_DENIED)]),
            (delete("a", "c", false), [Err(PERMISSION_DENIED), Ok(())]),
            (delete("a", "c", true), [Err(PERMISSION_DENIED), Err(PERMISSION_DENIED)]),
            (compare("b"), [Ok(()), Err(PERMISSION_DENIED)]),
            (compare("x"), [Err(PERMISSION_DENIED), Err(PERMISSION_DENIED)]),
            (failing(read("x", "")), [Err(PERMISSION_DENIED), Err(PERMISSION_DENIED)]),
            (nested(nested(read("x", ""))), [Err(PERMISSION_DENIED), Err(PERMISSION_DENIED)]),
            (nested(compare("x")), [Err(PERMISSION_DENIED), Err(PERMISSION_DENIED)]),
            (nested(op(Op::Put(put("b")))), [Err(PERMISSION_DENIED), Ok(())]),
        ];
        for (txn, expected) in cases {
            let answers = ["reader", "writer"].map(|user| auth.permit_txn(Some(&who(&auth, user)), &txn, &lessor));
            assert_eq!(answers, expected, "{txn:?}");
            assert_eq!(auth.permit_txn(Some(&who(&auth, "root")), &txn, &lessor), Ok(()));
            assert_eq!(auth.permit_txn(None, &txn, &lessor), Err(USER_EMPTY));
        }
    }

    #[test]
    fn a_lease_is_as_protected_as_the_keys_it_holds() {
        let auth = enabled();
        let mut lessor = Lessor::default();
        let id = LeaseId(7);
        lessor.grant(id, 10, Now::ZERO).unwrap();
        lessor.move_key(&"x".into(), LeaseId(0), id);
        let writer = who(&auth, "writer");
        let attach = op(Op::Put(Put { lease: id, ..put("a") }));
        assert_eq!(auth.permit_txn(Some(&writer), &attach, &lessor), Err(PERMISSION_DENIED));
        let revoke = Command::LeaseRevoke { id };
        assert_eq!(auth.permit(Some(&writer), &revoke, &lessor), Err(PERMISSION_DENIED));
        assert_eq!(auth.permit(Some(&who(&auth, "root")), &revoke, &lessor), Ok(()));
        assert_eq!(auth.permit_lease_read(Some(&who(&auth, "reader")), id, &lessor), Err(PERMISSION_DENIED));
        lessor.move_key(&"x".into(), id, LeaseId(0));
        lessor.move_key(&"b".into(), LeaseId(0), id);
        assert_eq!(auth.permit(Some(&writer), &revoke, &lessor), Ok(()));
        assert_eq!(auth.permit_lease_read(Some(&who(&auth, "reader")), id, &lessor), Ok(()));
    }

    #[test]
    fn what_was_proved_before_the_last_change_proves_nothing() {
        let mut auth = enabled();
        let reader = who(&auth, "reader");
        auth.apply(AuthChange::RoleAdd { name: "new".into() }, &mut Vec::new()).unwrap();
        assert_eq!(auth.permit_keys(Some(&reader), Access::Read, &range("a", "")), Err(OLD_REVISION));
        let unknown = who(&auth, "nobody");
        assert_eq!(auth.permit_keys(Some(&unknown), Access::Read, &range("a", "")), Err(PERMISSION_DENIED));
    }

    #[test]
    fn users_see_themselves_and_their_roles_and_change_nothing() {
        let auth = enabled();
        let reader = who(&auth, "reader");
        assert_eq!(auth.permit_user_get(Some(&reader), "reader"), Ok(()));
        assert_eq!(auth.permit_user_get(Some(&reader), "writer"), Err(PERMISSION_DENIED));
        assert_eq!(auth.permit_role_get(Some(&reader), "reader"), Ok(()));
        assert_eq!(auth.permit_role_get(Some(&reader), "writer"), Err(PERMISSION_DENIED));
        assert_eq!(auth.permit_user_get(None, "reader"), Err(USER_EMPTY));
        let change = Command::Auth(AuthChange::Disable);
        assert_eq!(auth.permit(Some(&reader), &change, &Lessor::default()), Err(PERMISSION_DENIED));
        assert_eq!(auth.permit(Some(&who(&auth, "gone")), &change, &Lessor::default()), Err(USER_NOT_FOUND));
        assert_eq!(auth.permit(None, &change, &Lessor::default()), Err(USER_EMPTY));
    }
}
