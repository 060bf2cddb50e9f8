//! Members that are stopped in the middle of anything and go on later, none the wiser.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quarterdeck_tests::stores::{Setup, Stores};
use store::proto::etcdserverpb as pb;
use store::proto::etcdserverpb::kv_client::KvClient;

fn put(value: &str) -> pb::PutRequest {
    pb::PutRequest { key: "a".into(), value: value.to_owned().into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_20418_a_leader_that_was_paused_and_replaced_answers_no_read_from_what_it_has() -> Result<()> {
    let stores = tokio::task::block_in_place(|| Stores::start(Setup { n_members: 3, ..Setup::default() }))?;
    for round in 0..3 {
        let paused = stores.leader().await?;
        let other = (paused + 1) % 3;
        let old = format!("old {round}");
        KvClient::new(stores.channel(paused)?).put(put(&old)).await?;
        // Connected before it is paused: requests wait in its sockets, and are the first thing it reads when it goes on.
        let readers = (0..8).map(|_| stores.channel(paused).map(KvClient::new)).collect::<Result<Vec<_>>>()?;
        let read = || pb::RangeRequest { key: "a".into(), ..Default::default() };
        for reader in &readers {
            reader.clone().range(read()).await?;
        }
        stores.members[paused].signal("STOP")?;
        let new = format!("new {round}");
        let written = async {
            while let Err(error) = KvClient::new(stores.channel(other)?).put(put(&new)).await {
                not_yet(&error);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(quarterdeck_tests::PATIENCE, written).await.context("another leads")??;
        let reading = readers.into_iter().map(|mut reader| tokio::spawn(async move { reader.range(read()).await }));
        let reading: Vec<_> = reading.collect();
        // The requests are on their way before it goes on.
        tokio::time::sleep(Duration::from_millis(100)).await;
        stores.members[paused].signal("CONT")?;
        for reading in reading {
            // To be refused is fine; to be told of the past is not.
            let Ok(response) = reading.await? else { continue };
            let kvs = response.into_inner().kvs;
            ensure!(kvs[0].value == new.as_bytes(), "round {round}: it still answers {:?}", kvs[0].value);
        }
    }
    Ok(())
}

fn not_yet(error: &tonic::Status) {
    eprintln!("not yet: {}", error.message());
}
