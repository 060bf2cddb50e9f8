//! Users and roles under etcd's own client, over each store there is, so that a real etcd says whether we expect the right
//! thing; then what version 3.4 of it does not have.

use std::sync::Arc;

use tonic::{Code, Request};

use super::tests::{Authority, Served, over_every_store, session};
use super::{ServerConfig, ServerTls};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::auth_client::AuthClient;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::lease_client::LeaseClient;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::{AuthConfig, EmbeddedConfig, EmbeddedStore, RemoteStore, RemoteTls, Store};

#[tokio::test]
async fn etcdctl_manages_users_and_roles_and_is_held_to_them() {
    over_every_store(|served| async move {
        session(
            &served,
            &[
                ("auth enable", "Error: etcdserver: root user does not exist"),
                ("user add root:pw", "User root created"),
                ("user add root:pw", "Error: etcdserver: user name already exists"),
                ("user get root", "User: root\nRoles:"),
                ("user grant-role root root", "Role root is granted to user root"),
                ("user grant-role root missing", "Error: etcdserver: role name not found"),
                ("role add r", "Role r created"),
                ("role add r", "Error: etcdserver: role name already exists"),
                ("role grant-permission r read a c", "Role r updated"),
                ("role grant-permission r readwrite c d", "Role r updated"),
                ("role grant-permission missing read a", "Error: etcdserver: role name not found"),
                ("role get r", "Role r\nKV Read:\n\t[a, c)\n\t[c, d) (prefix c)\nKV Write:\n\t[c, d) (prefix c)"),
                ("role list", "r"),
                ("user add u:secret", "User u created"),
                ("user add nopass --no-password", "User nopass created"),
                ("user grant-role u r", "Role r is granted to user u"),
                ("user revoke-role nopass r", "Error: etcdserver: role is not granted to the user"),
                ("user list", "nopass\nroot\nu"),
                ("user get u", "User: u\nRoles: r"),
                ("put a 1", "OK"),
                ("put x 1", "OK"),
                ("auth enable", "Authentication Enabled"),
                ("get a", "Error: etcdserver: user name is empty"),
                ("put a 2", "Error: etcdserver: user name is empty"),
                ("user list", "Error: etcdserver: user name is empty"),
                ("get a --user=u:wrong", "Error: etcdserver: authentication failed, invalid user ID or password"),
                ("get a --user=nobody:x", "Error: etcdserver: authentication failed, invalid user ID or password"),
                ("get a --user=u:secret", "a\n1"),
                ("get a d --user=u:secret", "a\n1"),
                ("get a e --user=u:secret", "Error: etcdserver: permission denied"),
                ("get x --user=u:secret", "Error: etcdserver: permission denied"),
                ("put a 2 --user=u:secret", "Error: etcdserver: permission denied"),
                ("put c 2 --user=u:secret", "OK"),
                ("put c 3 --prev-kv --user=u:secret", "OK\nc\n2"),
                ("del c --user=u:secret", "1"),
                ("del a --user=u:secret", "Error: etcdserver: permission denied"),
                ("user get u --user=u:secret", "User: u\nRoles: r"),
                ("user get root --user=u:secret", "Error: etcdserver: permission denied"),
                (
                    "role get r --user=u:secret",
                    "Role r\nKV Read:\n\t[a, c)\n\t[c, d) (prefix c)\nKV Write:\n\t[c, d) (prefix c)",
                ),
                ("role add s --user=u:secret", "Error: etcdserver: permission denied"),
                ("user list --user=u:secret", "Error: etcdserver: permission denied"),
                ("get x --user=root:pw", "x\n1"),
                ("user delete root --user=root:pw", "Error: etcdserver: invalid auth management"),
                ("user revoke-role root root --user=root:pw", "Error: etcdserver: invalid auth management"),
                ("role delete root --user=root:pw", "Error: etcdserver: invalid auth management"),
                ("role revoke-permission r a c --user=root:pw", "Permission of range [a, c) is revoked from role r"),
                ("get a --user=u:secret", "Error: etcdserver: permission denied"),
                ("role delete r --user=root:pw", "Role r deleted"),
                ("user get u --user=root:pw", "User: u\nRoles:"),
                ("user delete u --user=root:pw", "User u deleted"),
                ("get a --user=u:secret", "Error: etcdserver: authentication failed, invalid user ID or password"),
                ("auth disable --user=root:pw", "Authentication Disabled"),
                ("get a", "a\n1"),
                ("get a --user=root:pw", "a\n1"),
            ],
        )
        .await;
    })
    .await;
}

/// An embedded store with root (password `pw`), enabled, behind a server.
async fn with_root(auth: AuthConfig) -> (Served, Arc<EmbeddedStore>) {
    let config = EmbeddedConfig { auth, ..EmbeddedConfig::default() };
    let store = Arc::new(EmbeddedStore::open(config).unwrap());
    let served = Served::over(store.clone(), ServerConfig::default(), Box::new(())).await;
    let mut client = AuthClient::new(served.channel().await);
    let user = pb::AuthUserAddRequest { name: "root".into(), password: "pw".into(), ..Default::default() };
    client.user_add(user).await.unwrap();
    let grant = pb::AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() };
    client.user_grant_role(grant).await.unwrap();
    client.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    (served, store)
}

async fn log_in(served: &Served, name: &str, password: &str) -> String {
    let login = pb::AuthenticateRequest { name: name.into(), password: password.into() };
    AuthClient::new(served.channel().await).authenticate(login).await.unwrap().into_inner().token
}

fn with<T>(header: &'static str, token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(header, token.parse().unwrap());
    request
}

fn quick() -> AuthConfig {
    AuthConfig::parse("simple", std::time::Duration::ZERO, 4).unwrap()
}

fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

#[tokio::test]
async fn a_token_is_taken_from_either_header() {
    let (served, _store) = with_root(quick()).await;
    let token = log_in(&served, "root", "pw").await;
    let (random, index) = token.split_once('.').unwrap();
    assert_eq!(random.len(), 16);
    assert!(index.parse::<u64>().is_ok());
    let mut kv = KvClient::new(served.channel().await);
    kv.range(with("token", &token, get("a"))).await.unwrap();
    kv.range(with("authorization", &token, get("a"))).await.unwrap();
    kv.range(with("authorization", &format!("Bearer {token}"), get("a"))).await.unwrap();
    for wrong in ["", "x", "abcdefghijklmnop.1", &format!("{token}0x")] {
        let status = kv.range(with("token", wrong, get("a"))).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "etcdserver: invalid auth token"));
    }
}

#[tokio::test]
async fn a_jwt_is_good_until_users_or_roles_change() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key.pem");
    std::fs::write(&key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let options = format!("jwt,sign-method=ES256,priv-key={},ttl=10m", key.display());
    let auth = AuthConfig::parse(&options, std::time::Duration::ZERO, 4).unwrap();
    let (served, _store) = with_root(auth).await;
    let token = log_in(&served, "root", "pw").await;
    let mut kv = KvClient::new(served.channel().await);
    kv.range(with("token", &token, get("a"))).await.unwrap();
    let role = pb::AuthRoleAddRequest { name: "r".into() };
    AuthClient::new(served.channel().await).role_add(with("token", &token, role)).await.unwrap();
    let status = kv.range(with("token", &token, get("a"))).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "etcdserver: revision of auth store is old"));
    let token = log_in(&served, "root", "pw").await;
    kv.range(with("token", &token, get("a"))).await.unwrap();
}

#[tokio::test]
async fn without_credentials_nothing_is_served_but_logging_in() {
    let (served, store) = with_root(quick()).await;
    let channel = served.channel().await;
    let (lease, _) = store.lease_grant(crate::LeaseId(7), 60).await.unwrap();
    let empty = |answer: Result<(), tonic::Status>, what: &str| {
        let status = answer.expect_err(what);
        let expected = (Code::InvalidArgument, "etcdserver: user name is empty");
        assert_eq!((status.code(), status.message()), expected, "{what}");
    };
    let mut kv = KvClient::new(channel.clone());
    empty(kv.range(get("a")).await.map(drop), "range");
    empty(kv.range(pb::RangeRequest { serializable: true, ..get("a") }).await.map(drop), "serializable range");
    let stream = kv.range_stream(get("a")).await;
    let stream = match stream {
        Ok(stream) => stream.into_inner().message().await.map(drop),
        Err(status) => Err(status),
    };
    empty(stream, "range stream");
    empty(kv.put(pb::PutRequest { key: "a".into(), ..Default::default() }).await.map(drop), "put");
    let delete = pb::DeleteRangeRequest { key: "a".into(), ..Default::default() };
    empty(kv.delete_range(delete).await.map(drop), "delete");
    empty(kv.compact(pb::CompactionRequest { revision: 1, physical: false }).await.map(drop), "compact");
    let mut leases = LeaseClient::new(channel.clone());
    empty(leases.lease_grant(pb::LeaseGrantRequest { ttl: 5, id: 0 }).await.map(drop), "grant");
    empty(leases.lease_revoke(pb::LeaseRevokeRequest { id: lease.0 }).await.map(drop), "revoke");
    let ttl = pb::LeaseTimeToLiveRequest { id: lease.0, keys: false };
    empty(leases.lease_time_to_live(ttl).await.map(drop), "time to live");
    empty(leases.lease_leases(pb::LeaseLeasesRequest {}).await.map(drop), "leases");
    let mut alive = leases
        .lease_keep_alive(futures::stream::iter([pb::LeaseKeepAliveRequest { id: lease.0 }]))
        .await
        .unwrap()
        .into_inner();
    empty(alive.message().await.map(drop), "keep alive");
    let mut maintenance = MaintenanceClient::new(channel.clone());
    empty(maintenance.status(pb::StatusRequest {}).await.map(drop), "status");
    empty(maintenance.alarm(pb::AlarmRequest::default()).await.map(drop), "alarm");
    let activate = pb::AlarmRequest { action: 1, member_id: 1, alarm: 1 };
    empty(maintenance.alarm(activate).await.map(drop), "alarm activate");
    empty(maintenance.hash(pb::HashRequest {}).await.map(drop), "hash");
    empty(maintenance.hash_kv(pb::HashKvRequest::default()).await.map(drop), "hashkv");
    empty(maintenance.defragment(pb::DefragmentRequest {}).await.map(drop), "defragment");
    empty(maintenance.snapshot(pb::SnapshotRequest {}).await.map(drop), "snapshot");
    empty(maintenance.downgrade(pb::DowngradeRequest::default()).await.map(drop), "downgrade");
    let mut auth = AuthClient::new(channel);
    empty(auth.user_list(pb::AuthUserListRequest {}).await.map(drop), "user list");
    empty(auth.auth_disable(pb::AuthDisableRequest {}).await.map(drop), "disable");
    let status = auth.auth_status(pb::AuthStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.enabled, status.auth_revision), (true, 3));
    assert!(store.range(crate::RangeRequest { range: crate::KeyRange::key("a"), ..Default::default() }).await.is_ok());
}

#[tokio::test]
async fn a_watch_that_is_not_permitted_is_refused_with_the_whole_error() {
    use tokio_stream::wrappers::ReceiverStream;
    let (served, _store) = with_root(quick()).await;
    let mut client = pb::watch_client::WatchClient::new(served.channel().await);
    let (requests, queued) = tokio::sync::mpsc::channel(1);
    let mut watching = client.watch(ReceiverStream::new(queued)).await.unwrap().into_inner();
    let create = pb::WatchCreateRequest { key: "a".into(), ..Default::default() };
    let create = pb::watch_request::RequestUnion::CreateRequest(create);
    requests.send(pb::WatchRequest { request_union: Some(create) }).await.unwrap();
    let refused = watching.message().await.unwrap().unwrap();
    assert_eq!((refused.watch_id, refused.created, refused.canceled), (-1, true, true));
    let reason = "rpc error: code = InvalidArgument desc = etcdserver: user name is empty";
    assert_eq!(refused.cancel_reason, reason);
}

#[tokio::test]
async fn users_survive_a_restart_and_their_password_is_only_a_hash() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        || EmbeddedConfig { data_dir: Some(dir.path().join("data")), auth: quick(), ..EmbeddedConfig::default() };
    let secret = "a very secret password";
    {
        let store = Arc::new(EmbeddedStore::open(config()).unwrap());
        let served = Served::over(store.clone(), ServerConfig::default(), Box::new(())).await;
        let mut client = AuthClient::new(served.channel().await);
        let user = pb::AuthUserAddRequest { name: "root".into(), password: secret.into(), ..Default::default() };
        client.user_add(user).await.unwrap();
        let grant = pb::AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() };
        client.user_grant_role(grant).await.unwrap();
        client.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
        log_in(&served, "root", secret).await;
        drop(served);
        tokio::task::spawn_blocking(move || store.shutdown()).await.unwrap();
    }
    let mut files = vec![dir.path().to_owned()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            let has_secret = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!has_secret, "{}", path.display());
        }
    }
    let store = Arc::new(EmbeddedStore::open(config()).unwrap());
    let served = Served::over(store, ServerConfig::default(), Box::new(())).await;
    let token = log_in(&served, "root", secret).await;
    KvClient::new(served.channel().await).range(with("token", &token, get("a"))).await.unwrap();
}

#[tokio::test]
async fn a_certificates_common_name_is_a_user() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("localhost");
    let ca = authority.pem.clone().into_bytes();
    let tls = ServerTls::new(certificate, key, Some(ca.clone().into()));
    let config = EmbeddedConfig { auth: quick(), ..EmbeddedConfig::default() };
    let store = Arc::new(EmbeddedStore::open(config).unwrap());
    let config = ServerConfig { tls: Some(tls), ..Default::default() };
    let served = Served::over(store.clone(), config, Box::new(())).await;
    let url = served.url.replace("http://127.0.0.1", "https://localhost");
    let (certificate, key) = authority.sign("u");
    let tls = RemoteTls { ca: ca.into(), identity: Some((certificate.into(), key.into())), server_name: None };
    let remote = RemoteStore::connect(&[url], Some(tls)).unwrap();
    let change = |change| store.auth(crate::AuthRequest::Change(change));
    for name in ["root", "u"] {
        let password = crate::NewPassword::None;
        change(crate::AuthChange::UserAdd { name: name.into(), password }).await.unwrap();
    }
    change(crate::AuthChange::UserGrantRole { user: "root".into(), role: "root".into() }).await.unwrap();
    change(crate::AuthChange::RoleAdd { name: "r".into() }).await.unwrap();
    let permission = Some(crate::Permission { kind: crate::PermissionKind::Read, range: crate::KeyRange::key("a") });
    change(crate::AuthChange::RoleGrantPermission { role: "r".into(), permission }).await.unwrap();
    change(crate::AuthChange::UserGrantRole { user: "u".into(), role: "r".into() }).await.unwrap();
    change(crate::AuthChange::Enable).await.unwrap();
    let read = |key| remote.range(crate::RangeRequest { range: crate::KeyRange::key(key), ..Default::default() });
    assert!(read("a").await.is_ok());
    assert_eq!(read("b").await, Err(crate::StoreError::Refused("permission denied")));
}
