//! Status, checksums, snapshots, space, alarms, who leads.

use anyhow::{Context as _, Result, ensure};
use etcd_client::{AlarmAction, AlarmType, Client};

use crate::{PATIENCE, Place, same};

pub async fn flow(mut client: Client, place: &Place) -> Result<()> {
    let status = client.status().await?;
    ensure!(status.version().starts_with("3.6."), "{status:?}");
    ensure!(status.leader() != 0 && status.raft_index() >= status.raft_applied_index(), "{status:?}");
    ensure!(status.db_size() >= status.raft_used_db_size() && !status.is_learner(), "{status:?}");
    ensure!(status.errors().is_empty() && status.raft_term() > 0, "{status:?}");
    same(client.alarm(AlarmAction::Get, AlarmType::None, None).await?.alarms().len(), 0)?;
    client.put("kept", "1", None).await?;
    checksums(place).await.context("checksums")?;
    client.defragment().await?;
    same(client.get("kept", None).await?.kvs()[0].value_str()?, "1")?;
    snapshot(&mut client).await.context("a snapshot")?;
    leadership(client, place).await.context("leadership")
}

async fn checksums(place: &Place) -> Result<()> {
    let mut hashes = Vec::new();
    for at in 0..place.endpoints.len() {
        let mut member = place.connect_to(at).await?;
        ensure!(member.hash().await?.hash() != 0);
        // A member that is behind has everything once it has answered a read.
        let newest = member.get("kept", None).await?.header().context("a header")?.revision();
        let hash = member.hash_kv(newest).await?;
        same(hash.hash_revision(), newest)?;
        hashes.push((hash.hash(), hash.compact_version()));
    }
    ensure!(hashes.iter().all(|hash| *hash == hashes[0]), "members differ: {hashes:?}");
    Ok(())
}

async fn snapshot(client: &mut Client) -> Result<()> {
    let mut stream = client.snapshot().await?;
    let (mut bytes, mut remaining) = (0, None);
    while let Some(part) = stream.message().await? {
        bytes += part.blob().len() as u64;
        remaining = Some(part.remaining_bytes());
    }
    same(remaining, Some(0))?;
    // Whole sectors, and a checksum of 32 bytes.
    same(bytes % 512, 32)
}

async fn leadership(mut client: Client, place: &Place) -> Result<()> {
    if place.endpoints.len() < 2 {
        return Ok(());
    }
    let leader = client.status().await?.leader();
    let members = client.member_list().await?;
    let led_at = members.members().iter().find(|member| member.id() == leader).context("the leader is a member")?;
    let url = led_at.client_urls().first().context("a URL")?;
    let at = place.endpoints.iter().position(|endpoint| endpoint == url).context("the leader's endpoint")?;
    let mut leading = place.connect_to(at).await?;
    let next = members.members().iter().map(|member| member.id()).find(|id| *id != leader).context("another")?;
    leading.move_leader(next).await?;
    let moved = async {
        while client.status().await?.leader() != next {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, moved).await.context("another leads")?
}
