//! A member is added, moved, promoted and removed.

use anyhow::{Context as _, Result, ensure};
use etcd_client::{Client, MemberAddOptions};

use crate::{Place, refused, same, until};

pub async fn flow(mut client: Client, place: &Place, peer_url: &str) -> Result<()> {
    let before = client.member_list().await?.members().len();
    same(before, place.endpoints.len())?;
    // It is to be somewhere else first.
    let id = until("a learner can be added", async || {
        let added = client.member_add(["https://127.0.0.1:1"], Some(MemberAddOptions::new().with_is_learner())).await?;
        Ok(added.member().context("a member")?.id())
    })
    .await?;
    client.member_update(id, [peer_url.to_owned()]).await?;
    // The client asks any member for what it knows, which may be less than the newest.
    until("everybody knows the learner", async || {
        let listed = client.member_list().await?;
        let learner = listed.members().iter().find(|member| member.id() == id).context("the learner")?;
        same((learner.is_learner(), learner.name(), learner.peer_urls()), (true, "", &[peer_url.to_owned()][..]))
    })
    .await?;
    refused(
        client.member_promote(id).await,
        "etcdserver: can only promote a learner member which is in sync with leader",
    )?;
    refused(client.member_remove(1).await, "etcdserver: member not found")?;
    println!("added");
    let mut line = String::new();
    ensure!(std::io::stdin().read_line(&mut line)? > 0, "nobody starts the member");
    until("the learner is in sync", async || Ok(client.member_promote(id).await.map(|_| ())?)).await?;
    until("everybody knows the member", async || {
        let listed = client.member_list().await?;
        let member = listed.members().iter().find(|member| member.id() == id).context("the member")?;
        same((member.is_learner(), member.client_urls().len()), (false, 1))
    })
    .await?;
    until("the rest can go on", async || Ok(client.member_remove(id).await.map(|_| ())?)).await?;
    until("everybody knows that it is gone", async || same(client.member_list().await?.members().len(), before))
        .await?;
    until("writes go on", async || Ok(client.put("after", "1", None).await.map(|_| ())?)).await
}
