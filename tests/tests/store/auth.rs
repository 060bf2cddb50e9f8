//! Users, roles and tokens are the cluster's, not a member's.

use anyhow::{Context as _, Result, ensure};
use quarterdeck_tests::stores::{Setup, Stores};
use quarterdeck_tests::{quarterdeck, text};
use store::proto::authpb::Permission;
use store::proto::etcdserverpb as pb;
use store::proto::etcdserverpb::auth_client::AuthClient;
use store::proto::etcdserverpb::kv_client::KvClient;
use store::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::{Code, Request, Status};

/// Of `Permission.perm_type`.
const READWRITE: i32 = 2;

fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Ok(token) = token.parse() {
        request.metadata_mut().insert("token", token);
    }
    request
}

async fn log_in(stores: &Stores, at: usize, name: &str, password: &str) -> Result<String, Status> {
    let channel = stores.channel(at).map_err(|error| Status::unknown(error.to_string()))?;
    let login = pb::AuthenticateRequest { name: name.into(), password: password.into() };
    Ok(AuthClient::new(channel).authenticate(login).await?.into_inner().token)
}

async fn put(stores: &Stores, at: usize, token: &str, key: &str) -> Result<(), Status> {
    let channel = stores.channel(at).map_err(|error| Status::unknown(error.to_string()))?;
    let put = pb::PutRequest { key: key.to_owned().into(), value: "v".into(), ..Default::default() };
    let request = if token.is_empty() { Request::new(put) } else { with(token, put) };
    KvClient::new(channel).put(request).await.map(drop)
}

fn refusal(result: Result<impl std::fmt::Debug, Status>) -> Result<(Code, String)> {
    match result {
        Ok(done) => anyhow::bail!("{done:?} was not refused"),
        Err(status) => Ok((status.code(), status.message().to_owned())),
    }
}

fn denied() -> (Code, String) {
    (Code::PermissionDenied, "etcdserver: permission denied".into())
}

fn failed() -> (Code, String) {
    (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password".into())
}

fn anonymous() -> (Code, String) {
    (Code::InvalidArgument, "etcdserver: user name is empty".into())
}

fn invalid_token() -> (Code, String) {
    (Code::Unauthenticated, "etcdserver: invalid auth token".into())
}

/// root, and `u` who may read and write `[a, b)`; each request through another member.
async fn enable(stores: &Stores) -> Result<()> {
    let n = stores.members.len();
    let auth = |at: usize| stores.channel(at % n).map(AuthClient::new);
    let user = |name: &str, password: &str| pb::AuthUserAddRequest {
        name: name.into(),
        password: password.into(),
        ..Default::default()
    };
    auth(0)?.user_add(user("root", "pw")).await?;
    auth(1)?.user_add(user("u", "secret")).await?;
    auth(2)?.role_add(pb::AuthRoleAddRequest { name: "r".into() }).await?;
    let perm = Permission { perm_type: READWRITE, key: "a".into(), range_end: "b".into() };
    auth(0)?.role_grant_permission(pb::AuthRoleGrantPermissionRequest { name: "r".into(), perm: Some(perm) }).await?;
    auth(1)?.user_grant_role(pb::AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() }).await?;
    auth(2)?.user_grant_role(pb::AuthUserGrantRoleRequest { user: "u".into(), role: "r".into() }).await?;
    auth(0)?.auth_enable(pb::AuthEnableRequest {}).await?;
    Ok(())
}

fn start(flags: &[&str]) -> Result<Stores> {
    let flags = ["--bcrypt-cost=4"].iter().chain(flags).map(|flag| (*flag).to_owned()).collect();
    tokio::task::block_in_place(|| Stores::start(Setup { n_members: 3, flags, ..Setup::default() }))
}

/// What everybody may and may not do, through each member.
async fn held_to_their_roles(stores: &Stores, members: &[usize]) -> Result<()> {
    for at in members.iter().copied() {
        assert_eq!(refusal(put(stores, at, "", "a").await)?, anonymous(), "through m{at}");
        assert_eq!(refusal(log_in(stores, at, "u", "wrong").await)?, failed(), "through m{at}");
        let (root, user) = (log_in(stores, at, "root", "pw").await?, log_in(stores, at, "u", "secret").await?);
        for other in members.iter().copied() {
            put(stores, other, &root, "x").await.with_context(|| format!("root's token of m{at} at m{other}"))?;
            put(stores, other, &user, "a").await.with_context(|| format!("u's token of m{at} at m{other}"))?;
            assert_eq!(refusal(put(stores, other, &user, "x").await)?, denied(), "u's token of m{at} at m{other}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_simple_tokens_count_at_every_member_under_every_leader_and_after_restarts() -> Result<()> {
    let mut stores = start(&[])?;
    enable(&stores).await?;
    held_to_their_roles(&stores, &[0, 1, 2]).await?;

    // Another leader, by transfer and by death.
    let root = log_in(&stores, 0, "root", "pw").await?;
    let leads = stores.leader_as(&root).await?;
    let status =
        MaintenanceClient::new(stores.channel((leads + 1) % 3)?).status(with(&root, pb::StatusRequest {})).await?;
    let target_id = status.into_inner().header.context("a header")?.member_id;
    let transfer = with(&root, pb::MoveLeaderRequest { target_id });
    MaintenanceClient::new(stores.channel(leads)?).move_leader(transfer).await?;
    for at in 0..3 {
        put(&stores, at, &root, "after transfer").await?;
    }
    held_to_their_roles(&stores, &[0, 1, 2]).await?;
    let leads = stores.leader_as(&root).await?;
    stores.members[leads].kill();
    let others: Vec<_> = (0..3).filter(|at| *at != leads).collect();
    // Tokens are entries of the log: the next leader has them.
    let survivor = if leads == 0 { others[0] } else { 0 };
    stores.leader_as(&root).await?;
    put(&stores, survivor, &root, "after death").await?;
    held_to_their_roles(&stores, &others).await?;
    tokio::task::block_in_place(|| stores.run(leads))?;
    held_to_their_roles(&stores, &[0, 1, 2]).await?;

    // A new password ends what the old one opened, everywhere.
    let old = log_in(&stores, 2, "u", "secret").await?;
    let change = pb::AuthUserChangePasswordRequest { name: "u".into(), password: "new".into(), ..Default::default() };
    let root = log_in(&stores, 1, "root", "pw").await?;
    AuthClient::new(stores.channel(1)?).user_change_password(with(&root, change)).await?;
    for at in 0..3 {
        // A read of the newest revision: the member has seen the change.
        KvClient::new(stores.channel(at)?).range(with(&root, range("x"))).await?;
        assert_eq!(refusal(put(&stores, at, &old, "a").await)?, invalid_token(), "at m{at}");
        assert_eq!(refusal(log_in(&stores, at, "u", "secret").await)?, failed(), "at m{at}");
        let new = log_in(&stores, at, "u", "new").await?;
        put(&stores, at, &new, "a").await?;
    }
    let back = pb::AuthUserChangePasswordRequest { name: "u".into(), password: "secret".into(), ..Default::default() };
    AuthClient::new(stores.channel(1)?).user_change_password(with(&root, back)).await?;

    // All members at once.
    restart_all(&mut stores)?;
    held_to_their_roles(&stores, &[0, 1, 2]).await?;
    restored(&stores).await
}

/// Stops all three members and starts them again.
fn restart_all(stores: &mut Stores) -> Result<()> {
    (0..3).try_for_each(|at| stores.members[at].stop())?;
    tokio::task::block_in_place(|| {
        (0..3).try_for_each(|at| stores.spawn(at, &[]))?;
        (0..3).try_for_each(|at| stores.wait_ready(at))
    })
}

fn range(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

/// A snapshot becomes a cluster with the same users.
async fn restored(stores: &Stores) -> Result<()> {
    let root = log_in(stores, 0, "root", "pw").await?;
    let refused = MaintenanceClient::new(stores.channel(0)?).snapshot(pb::SnapshotRequest {}).await;
    let refused = match refused {
        Ok(stream) => stream.into_inner().message().await.map(drop),
        Err(status) => Err(status),
    };
    assert_eq!(refusal(refused)?, anonymous());
    let mut stream =
        MaintenanceClient::new(stores.channel(0)?).snapshot(with(&root, pb::SnapshotRequest {})).await?.into_inner();
    let mut file = Vec::new();
    while let Some(part) = stream.message().await? {
        file.extend_from_slice(&part.blob);
    }
    let saved = stores.dir.path().join("saved.db");
    std::fs::write(&saved, file)?;
    let flags = vec!["--bcrypt-cost=4".to_owned()];
    let mut again = tokio::task::block_in_place(|| Stores::start(Setup { n_members: 1, flags, ..Setup::default() }))?;
    again.members[0].stop()?;
    std::fs::remove_dir_all(&again.members[0].data_dir)?;
    let peer = again.peer_url(&again.members[0]);
    let restore = quarterdeck(&[
        "store",
        "snapshot",
        "restore",
        text(&saved)?,
        "--data-dir",
        text(&again.members[0].data_dir)?,
        "--name=m0",
        &format!("--initial-cluster=m0={peer}"),
        &format!("--initial-advertise-peer-urls={peer}"),
    ])?;
    ensure!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
    tokio::task::block_in_place(|| again.run(0))?;
    held_to_their_roles(&again, &[0]).await?;
    assert_eq!(refusal(put(&again, 0, &root, "x").await)?, invalid_token(), "tokens are not in a snapshot");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jwt_of_one_member_counts_at_all_of_them_also_after_restarts_until_rules_change() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let key = dir.path().join("key.pem");
    std::fs::write(&key, rcgen::KeyPair::generate()?.serialize_pem())?;
    let option = format!("--auth-token=jwt,sign-method=ES256,priv-key={},ttl=10m", text(&key)?);
    let mut stores = start(&[&option])?;
    enable(&stores).await?;
    held_to_their_roles(&stores, &[0, 1, 2]).await?;
    let (root, user) = (log_in(&stores, 0, "root", "pw").await?, log_in(&stores, 1, "u", "secret").await?);
    let leads = stores.leader_as(&root).await?;
    stores.members[leads].kill();
    tokio::task::block_in_place(|| stores.run(leads))?;
    restart_all(&mut stores)?;
    for at in 0..3 {
        put(&stores, at, &user, "a").await?;
        assert_eq!(refusal(put(&stores, at, &user, "x").await)?, denied());
    }
    let role = with(&root, pb::AuthRoleAddRequest { name: "another".into() });
    AuthClient::new(stores.channel(2)?).role_add(role).await?;
    let old = (Code::InvalidArgument, "etcdserver: revision of auth store is old".to_owned());
    for at in 0..3 {
        let fresh = log_in(&stores, at, "root", "pw").await?;
        KvClient::new(stores.channel(at)?).range(with(&fresh, range("x"))).await?;
        assert_eq!(refusal(put(&stores, at, &root, "x").await)?, old, "at m{at}");
        assert_eq!(refusal(put(&stores, at, &user, "a").await)?, old, "at m{at}");
    }
    held_to_their_roles(&stores, &[0, 1, 2]).await
}
