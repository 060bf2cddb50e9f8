//! Leases, and the keys that hang on them.

use anyhow::{Context as _, Result, ensure};
use etcd_client::{Client, LeaseClientPrefix, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions};

use crate::{PATIENCE, in_time, refused, same};

pub async fn flow(mut client: Client) -> Result<()> {
    let lease = client.lease_grant(60, None).await?;
    same((lease.ttl(), lease.error()), (60, ""))?;
    let named = client.lease_grant(30, Some(LeaseGrantOptions::new().with_id(77))).await?;
    same(named.id(), 77)?;
    refused(
        client.lease_grant(30, Some(LeaseGrantOptions::new().with_id(77))).await,
        "etcdserver: lease already exists",
    )?;
    client.put("leases/a", "1", Some(PutOptions::new().with_lease(lease.id()))).await?;
    same(client.get("leases/a", None).await?.kvs()[0].lease(), lease.id())?;
    let rest = client.lease_time_to_live(lease.id(), Some(LeaseTimeToLiveOptions::new().with_keys())).await?;
    same((rest.granted_ttl(), rest.keys()), (60, &[b"leases/a".to_vec()][..]))?;
    ensure!((30..=60).contains(&rest.ttl()), "{rest:?}");
    let mut inside = LeaseClientPrefix::new(client.lease_client(), b"leases/".to_vec());
    let rest = inside.time_to_live(lease.id(), Some(LeaseTimeToLiveOptions::new().with_keys())).await?;
    same(rest.keys(), &[b"a".to_vec()])?;
    let mut known: Vec<_> = client.leases().await?.leases().iter().map(|lease| lease.id()).collect();
    known.sort_unstable();
    let mut expected = vec![77, lease.id()];
    expected.sort_unstable();
    same(known, expected)?;

    let (mut keeper, mut kept) = client.lease_keep_alive(lease.id()).await?;
    for _ in 0..3 {
        keeper.keep_alive().await?;
        let response = in_time(kept.message()).await?;
        same((response.id(), response.ttl()), (lease.id(), 60))?;
    }
    client.lease_revoke(lease.id()).await?;
    keeper.keep_alive().await?;
    same(in_time(kept.message()).await?.ttl(), 0)?;
    same(client.get("leases/a", None).await?.kvs().len(), 0)?;
    refused(client.lease_revoke(lease.id()).await, "etcdserver: requested lease not found")?;
    same(client.lease_time_to_live(lease.id(), None).await?.ttl(), -1)?;
    client.lease_revoke(77).await?;
    expiry(&mut client).await
}

/// Nobody keeps it alive: its keys go, and a watch tells.
async fn expiry(client: &mut Client) -> Result<()> {
    let short = client.lease_grant(1, None).await?;
    let mut watch = client.watch("leases/short", None).await?;
    in_time(watch.message()).await?;
    client.put("leases/short", "1", Some(PutOptions::new().with_lease(short.id()))).await?;
    let expired = async {
        loop {
            let response = in_time(watch.message()).await?;
            if response.events().iter().any(|event| event.event_type() == etcd_client::EventType::Delete) {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(PATIENCE, expired).await.context("the lease ends")?
}
