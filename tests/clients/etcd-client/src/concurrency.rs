//! Locks and elections.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etcd_client::{Client, LockOptions, ProclaimOptions, ResignOptions};

use crate::{PATIENCE, in_time, same};

pub async fn flow(mut client: Client) -> Result<()> {
    locks(&mut client).await.context("locks")?;
    elections(client).await.context("elections")
}

async fn locks(client: &mut Client) -> Result<()> {
    let (first, second) = (client.lease_grant(60, None).await?.id(), client.lease_grant(60, None).await?.id());
    let held = client.lock("lock", Some(LockOptions::new().with_lease(first))).await?;
    ensure!(held.key().starts_with(b"lock/"), "{held:?}");
    let mut other = client.lock_client();
    let mut waiting = std::pin::pin!(other.lock("lock", Some(LockOptions::new().with_lease(second))));
    ensure!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "two hold the lock");
    client.unlock(held.key()).await?;
    let next = tokio::time::timeout(PATIENCE, waiting).await??;
    // Who holds a lock by a lease loses it with the lease.
    client.lease_revoke(second).await?;
    same(client.get(next.key(), None).await?.kvs().len(), 0)?;
    let free = client.lock("lock", None).await?;
    client.unlock(free.key()).await?;
    client.lease_revoke(first).await?;
    Ok(())
}

async fn elections(mut client: Client) -> Result<()> {
    let (first, second) = (client.lease_grant(60, None).await?.id(), client.lease_grant(60, None).await?.id());
    let mut observed = client.observe("office").await?;
    let elected = client.campaign("office", "one", first).await?;
    let leader = elected.leader().context("a leader")?.clone();
    same((leader.name_str()?, leader.lease()), ("office", first))?;
    same(client.leader("office").await?.kv().context("a value")?.value_str()?.to_owned(), "one".to_owned())?;
    let seen = in_time(observed.message()).await?;
    same(seen.kv().context("a value")?.value_str()?, "one")?;
    client.proclaim("uno", Some(ProclaimOptions::new().with_leader(leader.clone()))).await?;
    let seen = in_time(observed.message()).await?;
    same(seen.kv().context("a value")?.value_str()?, "uno")?;
    let mut rival = client.election_client();
    let mut running = std::pin::pin!(rival.campaign("office", "two", second));
    ensure!(tokio::time::timeout(Duration::from_millis(300), &mut running).await.is_err(), "two are elected");
    client.resign(Some(ResignOptions::new().with_leader(leader))).await?;
    let elected = tokio::time::timeout(PATIENCE, running).await??;
    let seen = in_time(observed.message()).await?;
    same(seen.kv().context("a value")?.value_str()?, "two")?;
    let leader = elected.leader().context("a leader")?.clone();
    client.resign(Some(ResignOptions::new().with_leader(leader))).await?;
    client.lease_revoke(first).await?;
    client.lease_revoke(second).await?;
    Ok(())
}
