//! Users, roles, passwords and tokens.

use anyhow::{Context as _, Result, ensure};
use etcd_client::{Client, GetOptions, Permission, RoleRevokePermissionOptions};

use crate::{Place, refused, same};

const DENIED: &str = "etcdserver: permission denied";

pub async fn flow(mut client: Client, place: &Place) -> Result<()> {
    client.put("outside", "1", None).await?;
    client.user_add("root", "master", None).await?;
    client.role_add("root").await?;
    client.user_grant_role("root", "root").await?;
    client.user_add("reader", "secret", None).await?;
    refused(client.user_add("reader", "again", None).await, "etcdserver: user name already exists")?;
    client.role_add("part").await?;
    client.role_grant_permission("part", Permission::read("mine/").with_prefix()).await?;
    client.role_grant_permission("part", Permission::read_write("mine/own")).await?;
    client.user_grant_role("reader", "part").await?;
    let permissions = client.role_get("part").await?.permissions();
    same(permissions, vec![Permission::read("mine/").with_prefix(), Permission::read_write("mine/own")])?;
    same(client.user_get("reader").await?.roles(), &["part".to_owned()])?;
    client.auth_enable().await?;
    // The certificate names a user too, who does not exist.
    refused(client.get("outside", None).await, DENIED)?;
    let outcome = under_watch(place).await;
    let mut root = place.connect(Some(("root", "master"))).await?;
    root.auth_disable().await?;
    outcome?;
    client.user_delete("root").await?;
    client.role_delete("root").await?;
    same(client.get("outside", None).await?.kvs()[0].value_str()?, "1")
}

async fn under_watch(place: &Place) -> Result<()> {
    let mut root = place.connect(Some(("root", "master"))).await?;
    let mut reader = place.connect(Some(("reader", "secret"))).await?;
    root.put("mine/a", "1", None).await?;
    reader.put("mine/own", "2", None).await?;
    same(reader.get("mine/", Some(GetOptions::new().with_prefix())).await?.kvs().len(), 2)?;
    refused(reader.get("outside", None).await, DENIED)?;
    refused(reader.put("mine/a", "x", None).await, DENIED)?;
    refused(reader.user_list().await, DENIED)?;
    let mut watch = reader.watch("outside", None).await?;
    let refusal = watch.message().await?.context("an answer")?;
    ensure!(refusal.canceled(), "a watch of what may not be read: {refusal:?}");
    let wrong = place.connect(Some(("reader", "wrong"))).await;
    refused(wrong_of(wrong)?, "etcdserver: authentication failed, invalid user ID or password")?;

    root.user_change_password("reader", "new").await?;
    let mut changed = place.connect(Some(("reader", "new"))).await?;
    same(changed.get("mine/a", None).await?.kvs().len(), 1)?;
    let mut users = root.user_list().await?.users().to_vec();
    users.sort();
    same(users, vec!["reader".to_owned(), "root".to_owned()])?;
    let everything = RoleRevokePermissionOptions::new().with_prefix();
    root.role_revoke_permission("part", "mine/", Some(everything)).await?;
    refused(changed.get("mine/a", None).await, DENIED)?;
    same(changed.get("mine/own", None).await?.kvs().len(), 1)?;
    root.user_revoke_role("reader", "part").await?;
    refused(changed.get("mine/own", None).await, DENIED)?;
    ensure!(root.role_list().await?.roles().contains(&"part".to_owned()));
    root.role_delete("part").await?;
    root.user_delete("reader").await?;
    refused(changed.get("mine/own", None).await, "etcdserver: invalid auth token").or_else(|_gone_at_once| Ok(()))
}

/// The refusal of a connection, as the client said it.
fn wrong_of(outcome: Result<Client>) -> Result<Result<(), etcd_client::Error>> {
    match outcome {
        Ok(_) => Ok(Ok(())),
        Err(error) => Ok(Err(error.downcast::<etcd_client::Error>()?)),
    }
}
