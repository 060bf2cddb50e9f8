//! Watches: what they tell, in what order, and what they leave out.

use anyhow::{Context as _, Result, ensure};
use etcd_client::{
    Client, DeleteOptions, EventType, Txn, TxnOp, WatchFilterType, WatchOptions, WatchResponse, WatchStream,
};

use crate::{in_time, same};

/// More than one response of 1.5 MiB and 512 KiB can carry.
const LARGE: usize = 600 << 10;

pub async fn flow(mut client: Client) -> Result<()> {
    events(&mut client).await.context("events")?;
    filters(&mut client).await.context("filters")?;
    many_on_one_stream(&mut client).await.context("many watches on one stream")?;
    fragments(&mut client).await.context("fragments")?;
    compacted(&mut client).await.context("a watch from before the compaction")
}

async fn begin(client: &mut Client, key: &str, options: WatchOptions) -> Result<WatchStream> {
    let mut stream = client.watch(key, Some(options)).await?;
    let created = in_time(stream.message()).await?;
    ensure!(created.created() && !created.canceled(), "{created:?}");
    Ok(stream)
}

/// Events as text: what happened to which key, its value, and the one before.
fn told(response: &WatchResponse) -> Result<Vec<String>> {
    let events = response.events().iter().map(|event| {
        let kv = event.kv().context("a key")?;
        let what = match event.event_type() {
            EventType::Put => "put",
            EventType::Delete => "delete",
        };
        let before = event.prev_kv().map_or(Ok(""), |kv| kv.value_str())?;
        Ok(format!("{what} {} {:?} {before:?}", kv.key_str()?, kv.value_str()?))
    });
    events.collect()
}

async fn next(stream: &mut WatchStream, n_events: usize) -> Result<Vec<String>> {
    let mut all = Vec::new();
    while all.len() < n_events {
        all.extend(told(&in_time(stream.message()).await?)?);
    }
    Ok(all)
}

async fn events(client: &mut Client) -> Result<()> {
    let mut stream = begin(client, "w/", WatchOptions::new().with_prefix().with_prev_key()).await?;
    let revision = client.put("w/a", "1", None).await?.header().context("a header")?.revision();
    client.put("x", "not told", None).await?;
    client.put("w/a", "2", None).await?;
    client.delete("w/a", None).await?;
    same(
        next(&mut stream, 3).await?,
        [r#"put w/a "1" """#, r#"put w/a "2" "1""#, r#"delete w/a "" "2""#].map(String::from).to_vec(),
    )?;
    // One transaction is told in one piece.
    let both = [TxnOp::put("w/b", "3", None), TxnOp::put("w/c", "4", None)];
    client.txn(Txn::new().and_then(both)).await?;
    same(told(&in_time(stream.message()).await?)?.len(), 2)?;
    stream.request_progress().await?;
    let progress = in_time(stream.message()).await?;
    same((progress.events().len(), progress.watch_id()), (0, -1))?;
    ensure!(progress.header().context("a header")?.revision() >= revision + 4, "{progress:?}");
    stream.cancel(0).await?;
    ensure!(in_time(stream.message()).await?.canceled());
    let mut again = begin(client, "w/a", WatchOptions::new().with_start_revision(revision)).await?;
    same(next(&mut again, 3).await?.len(), 3)
}

async fn filters(client: &mut Client) -> Result<()> {
    let mut no_puts = begin(client, "f", WatchOptions::new().with_filters([WatchFilterType::NoPut])).await?;
    let mut no_deletions = begin(client, "f", WatchOptions::new().with_filters([WatchFilterType::NoDelete])).await?;
    client.put("f", "1", None).await?;
    client.delete("f", None).await?;
    client.put("f", "2", None).await?;
    same(next(&mut no_puts, 1).await?, vec![r#"delete f "" """#.to_owned()])?;
    same(next(&mut no_deletions, 2).await?, [r#"put f "1" """#, r#"put f "2" """#].map(String::from).to_vec())
}

async fn many_on_one_stream(client: &mut Client) -> Result<()> {
    let mut stream = begin(client, "m1", WatchOptions::new().with_watch_id(7)).await?;
    stream.watch("m2", Some(WatchOptions::new().with_watch_id(8).with_progress_notify())).await?;
    let created = in_time(stream.message()).await?;
    same((created.created(), created.watch_id()), (true, 8))?;
    client.put("m2", "1", None).await?;
    client.put("m1", "1", None).await?;
    let (first, second) = (in_time(stream.message()).await?, in_time(stream.message()).await?);
    same((first.watch_id(), second.watch_id()), (8, 7))?;
    stream.watch("m3", Some(WatchOptions::new().with_watch_id(7))).await?;
    let twice = in_time(stream.message()).await?;
    ensure!(twice.canceled(), "an id that is taken: {twice:?}");
    same(twice.cancel_reason(), "mvcc: duplicate watch ID provided on the WatchStream")
}

async fn fragments(client: &mut Client) -> Result<()> {
    let value = "v".repeat(LARGE);
    let first = client.put("big/0", &*value, None).await?.header().context("a header")?.revision();
    for n in 1..4 {
        client.put(format!("big/{n}"), &*value, None).await?;
    }
    let options = WatchOptions::new().with_prefix().with_fragment().with_start_revision(first);
    let mut stream = begin(client, "big/", options).await?;
    let mut keys = Vec::new();
    while keys.len() < 4 {
        let response = in_time(stream.message()).await?;
        for event in response.events() {
            keys.push(event.kv().context("a key")?.key_str()?.to_owned());
        }
    }
    same(keys, (0..4).map(|n| format!("big/{n}")).collect())?;
    client.delete("big/", Some(DeleteOptions::new().with_prefix())).await?;
    Ok(())
}

async fn compacted(client: &mut Client) -> Result<()> {
    let newest = client.put("w/z", "1", None).await?.header().context("a header")?.revision();
    client.compact(newest, None).await?;
    let mut stream = client.watch("w/z", Some(WatchOptions::new().with_start_revision(1))).await?;
    let mut response = in_time(stream.message()).await?;
    if response.created() && !response.canceled() {
        response = in_time(stream.message()).await?;
    }
    // A member that has not heard of this compaction says up to where it has compacted before.
    ensure!(response.canceled() && (2..=newest).contains(&response.compact_revision()), "{response:?}");
    Ok(())
}
