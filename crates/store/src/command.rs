//! What is replicated: a change of the state, and its form in the log, which is etcd's `InternalRaftRequest`.

use bytes::Bytes;
use prost::Message;

use crate::auth::{AuthChange, Identity};
use crate::proto::etcdserverpb as pb;
use crate::{Alarm, AlarmKind, LeaseId, Op, Revision, StoreError, Txn};

/// A change that every member applies in the same order with the same result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Txn(Txn),
    Compact {
        revision: Revision,
        physical: bool,
    },
    LeaseGrant {
        id: LeaseId,
        ttl_seconds: i64,
    },
    LeaseRevoke {
        id: LeaseId,
    },
    LeaseCheckpoint {
        remaining_seconds: Vec<(LeaseId, i64)>,
    },
    AlarmRaise(Alarm),
    AlarmLower(Alarm),
    /// Name and client URLs of a member, which it gives itself when it starts.
    MemberAttributes {
        id: u64,
        name: String,
        client_urls: Vec<String>,
    },
    /// A member has other peer URLs.
    MemberUpdate {
        id: u64,
        peer_urls: Vec<String>,
    },
    /// Users and roles. Passwords are hashed before.
    Auth(AuthChange),
    /// Hands a simple token to a user whose password was checked before.
    Authenticate {
        user: String,
        token: String,
    },
    /// The version that the cluster is prepared for; `None` ends the preparation.
    Downgrade(Option<String>),
    /// The command of a client, to be refused if its user may not give it. Without a user, the client showed no credentials.
    As {
        who: Option<Identity>,
        command: Box<Self>,
    },
}

/// Why a log entry could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PayloadError {
    #[error("log entry is not a request: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("log entry carries no request this version knows")]
    Unknown,
    #[error("log entry carries a request this version does not understand: {0}")]
    Invalid(#[from] StoreError),
}

impl Command {
    /// The command without who gives it.
    pub(crate) fn bare(&self) -> &Self {
        match self {
            Self::As { command, .. } => command.bare(),
            command => command,
        }
    }

    /// What etcd calls the request.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Txn(Txn { compare, success, failure }) => match (&compare[..], &success[..], &failure[..]) {
                ([], [Op::Put(_)], []) => "Put",
                ([], [Op::Delete(_)], []) => "DeleteRange",
                _ => "Txn",
            },
            Self::Compact { .. } => "Compaction",
            Self::LeaseGrant { .. } => "LeaseGrant",
            Self::LeaseRevoke { .. } => "LeaseRevoke",
            Self::LeaseCheckpoint { .. } => "LeaseCheckpoint",
            Self::AlarmRaise(_) | Self::AlarmLower(_) => "Alarm",
            Self::MemberAttributes { .. } => "ClusterMemberAttrSet",
            Self::MemberUpdate { .. } => "ClusterMemberSet",
            Self::Auth(change) => change.name(),
            Self::Authenticate { .. } => "Authenticate",
            Self::Downgrade(_) => "DowngradeInfoSet",
            Self::As { command, .. } => command.name(),
        }
    }

    /// The log entry's bytes; `id` finds whoever waits for the outcome.
    pub(crate) fn encode(self, id: u64) -> Vec<u8> {
        let header = Some(pb::RequestHeader { id, ..Default::default() });
        let mut request = pb::InternalRaftRequest { header, ..Default::default() };
        self.put_into(&mut request);
        request.encode_to_vec()
    }

    fn put_into(self, request: &mut pb::InternalRaftRequest) {
        match self {
            Self::Txn(txn) => request.txn = Some(txn.into()),
            Self::Compact { revision, physical } => {
                request.compaction = Some(pb::CompactionRequest { revision: revision.0, physical });
            }
            Self::LeaseGrant { id, ttl_seconds } => {
                request.lease_grant = Some(pb::LeaseGrantRequest { id: id.0, ttl: ttl_seconds });
            }
            Self::LeaseRevoke { id } => request.lease_revoke = Some(pb::LeaseRevokeRequest { id: id.0 }),
            Self::LeaseCheckpoint { remaining_seconds } => {
                let checkpoint = |(id, remaining_ttl): (LeaseId, i64)| pb::LeaseCheckpoint { id: id.0, remaining_ttl };
                let checkpoints = remaining_seconds.into_iter().map(checkpoint).collect();
                request.lease_checkpoint = Some(pb::LeaseCheckpointRequest { checkpoints });
            }
            Self::AlarmRaise(alarm) => {
                request.alarm = Some(alarm_to_pb(alarm, pb::alarm_request::AlarmAction::Activate))
            }
            Self::AlarmLower(alarm) => {
                request.alarm = Some(alarm_to_pb(alarm, pb::alarm_request::AlarmAction::Deactivate));
            }
            Self::MemberAttributes { id, name, client_urls } => {
                let member_attributes = Some(pb::Attributes { name, client_urls });
                request.cluster_member_attr_set =
                    Some(pb::ClusterMemberAttrSetRequest { member_id: id, member_attributes });
            }
            Self::MemberUpdate { id, peer_urls } => {
                request.member_update = Some(pb::MemberUpdateRequest { id, peer_ur_ls: peer_urls });
            }
            Self::Auth(change) => change.put_into(request),
            Self::Authenticate { user, token } => {
                let login = pb::InternalAuthenticateRequest { name: user, simple_token: token, ..Default::default() };
                request.authenticate = Some(login);
            }
            Self::Downgrade(target) => {
                let enabled = target.is_some();
                let info = pb::DowngradeInfoSetRequest { enabled, ver: target.unwrap_or_default() };
                request.downgrade_info_set = Some(info);
            }
            Self::As { who, command } => {
                if let Some(header) = &mut request.header {
                    header.anonymous = who.is_none();
                    (header.username, header.auth_revision) =
                        who.map(|who| (who.user, who.revision)).unwrap_or_default();
                }
                command.put_into(request);
            }
        }
    }

    pub(crate) fn decode(payload: Bytes) -> Result<(u64, Self), PayloadError> {
        let mut request = pb::InternalRaftRequest::decode(payload)?;
        let header = request.header.take().unwrap_or_default();
        let id = if header.id == 0 { request.id } else { header.id };
        let command = if let Some(txn) = request.txn {
            Self::Txn(txn.try_into()?)
        } else if let Some(put) = request.put {
            Self::Txn(Txn { success: vec![Op::Put(put.into())], ..Txn::default() })
        } else if let Some(delete) = request.delete_range {
            Self::Txn(Txn { success: vec![Op::Delete(delete.into())], ..Txn::default() })
        } else if let Some(compaction) = request.compaction {
            Self::Compact { revision: Revision(compaction.revision), physical: compaction.physical }
        } else if let Some(grant) = request.lease_grant {
            Self::LeaseGrant { id: LeaseId(grant.id), ttl_seconds: grant.ttl }
        } else if let Some(revoke) = request.lease_revoke {
            Self::LeaseRevoke { id: LeaseId(revoke.id) }
        } else if let Some(checkpoint) = request.lease_checkpoint {
            let remaining = checkpoint.checkpoints.into_iter().map(|one| (LeaseId(one.id), one.remaining_ttl));
            Self::LeaseCheckpoint { remaining_seconds: remaining.collect() }
        } else if let Some(alarm) = request.alarm {
            alarm_from_pb(alarm).ok_or(PayloadError::Unknown)?
        } else if let Some(set) = request.cluster_member_attr_set {
            let pb::Attributes { name, client_urls } = set.member_attributes.unwrap_or_default();
            Self::MemberAttributes { id: set.member_id, name, client_urls }
        } else if let Some(update) = request.member_update {
            Self::MemberUpdate { id: update.id, peer_urls: update.peer_ur_ls }
        } else if let Some(login) = request.authenticate {
            Self::Authenticate { user: login.name, token: login.simple_token }
        } else if let Some(info) = request.downgrade_info_set {
            Self::Downgrade(info.enabled.then_some(info.ver))
        } else {
            Self::Auth(AuthChange::take_from(&mut request).ok_or(PayloadError::Unknown)?)
        };
        let is_users = !header.username.is_empty();
        if !is_users && !header.anonymous {
            return Ok((id, command));
        }
        let who = is_users.then_some(Identity { user: header.username, revision: header.auth_revision });
        Ok((id, Self::As { who, command: Box::new(command) }))
    }
}

fn alarm_to_pb(alarm: Alarm, action: pb::alarm_request::AlarmAction) -> pb::AlarmRequest {
    let kind = alarm_kind_to_pb(alarm.kind);
    pb::AlarmRequest { action: action.into(), member_id: alarm.member_id, alarm: kind.into() }
}

pub(crate) fn alarm_kind_to_pb(kind: AlarmKind) -> pb::AlarmType {
    match kind {
        AlarmKind::NoSpace => pb::AlarmType::Nospace,
        AlarmKind::Corrupt => pb::AlarmType::Corrupt,
    }
}

pub(crate) fn alarm_kind_from_pb(kind: i32) -> Option<AlarmKind> {
    match pb::AlarmType::try_from(kind).ok()? {
        pb::AlarmType::None => None,
        pb::AlarmType::Nospace => Some(AlarmKind::NoSpace),
        pb::AlarmType::Corrupt => Some(AlarmKind::Corrupt),
    }
}

fn alarm_from_pb(request: pb::AlarmRequest) -> Option<Command> {
    let alarm = Alarm { member_id: request.member_id, kind: alarm_kind_from_pb(request.alarm)? };
    match pb::alarm_request::AlarmAction::try_from(request.action).ok()? {
        pb::alarm_request::AlarmAction::Get => None,
        pb::alarm_request::AlarmAction::Activate => Some(Command::AlarmRaise(alarm)),
        pb::alarm_request::AlarmAction::Deactivate => Some(Command::AlarmLower(alarm)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{NewPassword, Permission, PermissionKind};
    use crate::{Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, Put, RangeRequest, Sort, SortTarget};

    fn auth_changes() -> impl Iterator<Item = AuthChange> {
        let (name, user, role) = (|| "n".to_owned(), || "u".to_owned(), || "r".to_owned());
        let permission = Permission { kind: PermissionKind::Write, range: KeyRange::prefix("a") };
        [
            AuthChange::Enable,
            AuthChange::Disable,
            AuthChange::UserAdd { name: name(), password: NewPassword::None },
            AuthChange::UserAdd { name: name(), password: NewPassword::Hashed("aGFzaA==".into()) },
            AuthChange::UserDelete { name: name() },
            AuthChange::UserChangePassword { name: name(), password: NewPassword::Hashed(String::new()) },
            AuthChange::UserGrantRole { user: user(), role: role() },
            AuthChange::UserRevokeRole { user: user(), role: role() },
            AuthChange::RoleAdd { name: name() },
            AuthChange::RoleDelete { role: role() },
            AuthChange::RoleGrantPermission { role: role(), permission: Some(permission) },
            AuthChange::RoleGrantPermission { role: role(), permission: None },
            AuthChange::RoleRevokePermission { role: role(), range: KeyRange::key("k") },
        ]
        .into_iter()
    }

    #[test]
    fn commands_survive_the_log() {
        let range = RangeRequest {
            range: KeyRange::prefix("a"),
            limit: 3,
            revision: Revision(9),
            sort: Some(Sort { target: SortTarget::Value, descending: true }),
            keys_only: true,
            min_mod_revision: Revision(4),
            ..RangeRequest::default()
        };
        let put = Put { key: "k".into(), value: "v".into(), lease: LeaseId(5), prev_kv: true, ..Put::default() };
        let delete = DeleteRange { range: KeyRange::prefix("x"), prev_kv: true };
        let compare = Compare {
            range: KeyRange::key("k"),
            result: CompareResult::Less,
            target: CompareTarget::Value("w".into()),
        };
        let inner = Txn { success: vec![Op::Put(put.clone())], ..Txn::default() };
        let txn = Txn {
            compare: vec![compare],
            success: vec![Op::Range(range), Op::Put(put), Op::Delete(delete)],
            failure: vec![Op::Txn(inner)],
        };
        let alarm = Alarm { member_id: 8, kind: AlarmKind::NoSpace };
        let commands = [
            Command::Txn(txn),
            Command::Compact { revision: Revision(7), physical: true },
            Command::LeaseGrant { id: LeaseId(1), ttl_seconds: 60 },
            Command::LeaseRevoke { id: LeaseId(1) },
            Command::LeaseCheckpoint { remaining_seconds: vec![(LeaseId(1), 30)] },
            Command::AlarmRaise(alarm),
            Command::AlarmLower(alarm),
            Command::MemberAttributes { id: 8, name: "a".into(), client_urls: vec!["http://c".into()] },
            Command::MemberUpdate { id: 8, peer_urls: vec!["http://p".into()] },
            Command::Authenticate { user: "u".into(), token: "t".into() },
            Command::Downgrade(Some("3.5.0".into())),
            Command::Downgrade(None),
        ];
        let owners = commands.into_iter().chain(auth_changes().map(Command::Auth));
        let who = Identity { user: "u".into(), revision: 3 };
        let commands = owners.flat_map(|command| {
            let of = |who| Command::As { who, command: Box::new(command.clone()) };
            [of(None), of(Some(who.clone())), command.clone()]
        });
        for command in commands {
            assert_eq!(Command::decode(command.clone().encode(42).into()), Ok((42, command)));
        }
        assert_eq!(Command::decode(Bytes::new()), Err(PayloadError::Unknown));
        assert!(matches!(Command::decode(Bytes::from_static(&[0xff])), Err(PayloadError::Malformed(_))));
    }
}
