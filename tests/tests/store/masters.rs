//! Masters on a store that is none of theirs.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use parking_lot::Mutex;
use quarterdeck_tests::stores::{Setup, Stores};
use quarterdeck_tests::{PATIENCE, Server, binary, free_port};

const N_MASTERS: usize = 3;
/// Writes that have to succeed after each loss, from all masters that are left.
const WRITES_AFTER: usize = 60;

fn start(stores: &Stores, dir: &Path) -> Result<Server> {
    let urls: Vec<_> = stores.endpoints().split(',').map(|endpoint| format!("https://{endpoint}")).collect();
    let [ca, certificate, key] = stores.tls_files("client");
    Server::start(
        Command::new(binary())
            .args(["server", "--bind-address=127.0.0.1", "--etcd-servers", &urls.join(",")])
            .args(["--etcd-cafile", &ca, "--etcd-certfile", &certificate, "--etcd-keyfile", &key])
            .arg(format!("--secure-port={}", free_port()?))
            .arg("--data-dir")
            .arg(dir),
    )
}

/// Masters of one cluster have the same authorities and the same key for tokens.
fn copy_pki(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for file in std::fs::read_dir(from)? {
        let file = file?;
        std::fs::copy(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}

/// What masters acknowledged, by name.
#[derive(Default)]
struct Book {
    acknowledged: Mutex<Vec<String>>,
    ends: AtomicBool,
}

/// Writes through one master until told to stop. What was not answered is asked for again under the same name.
async fn write(book: Arc<Book>, client: kube::Client, writer: usize) {
    let api: Api<ConfigMap> = Api::namespaced(client, "default");
    let mut n_written = 0;
    while !book.ends.load(Ordering::Relaxed) {
        let name = format!("w{writer}-{n_written}");
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        let object = ConfigMap { metadata, ..ConfigMap::default() };
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(_not_now) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        }
        book.acknowledged.lock().push(name);
        n_written += 1;
    }
}

async fn goes_on(book: &Book, after: &str, writers: &[usize]) -> Result<()> {
    let count = |writer: &usize| {
        let prefix = format!("w{writer}-");
        book.acknowledged.lock().iter().filter(|name| name.starts_with(&prefix)).count()
    };
    let before: Vec<_> = writers.iter().map(count).collect();
    let began = Instant::now();
    let each = WRITES_AFTER / writers.len();
    while writers.iter().zip(&before).any(|(writer, before)| count(writer) < before + each) {
        let now: Vec<_> = writers.iter().map(count).collect();
        ensure!(began.elapsed() < PATIENCE, "after {after}, writes went from {before:?} to {now:?} only");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_masters_on_three_stores_lose_one_of_each_and_nothing_they_acknowledged() -> Result<()> {
    let mut stores =
        tokio::task::block_in_place(|| Stores::start(Setup { n_members: 3, tls: true, ..Setup::default() }))?;
    let dir = tempfile::tempdir()?;
    let place = |at: usize| dir.path().join(format!("master{at}"));
    let mut servers = vec![start(&stores, &place(0))?];
    for at in 1..N_MASTERS {
        copy_pki(&place(0).join("pki"), &place(at).join("pki"))?;
        servers.push(start(&stores, &place(at))?);
    }
    let book = Arc::new(Book::default());
    let mut writing = Vec::new();
    for (writer, server) in servers.iter().enumerate() {
        writing.push(tokio::spawn(write(Arc::clone(&book), server.client().await?, writer)));
    }
    goes_on(&book, "the start", &[0, 1, 2]).await?;
    // One of them leads.
    for at in 0..3 {
        stores.members[at].kill();
        goes_on(&book, &format!("the loss of store m{at}"), &[0, 1, 2]).await?;
        tokio::task::block_in_place(|| stores.run(at))?;
    }
    stores.members[1].kill();
    servers[0].process.kill();
    goes_on(&book, "the loss of a store and a master", &[1, 2]).await?;
    // Controllers, too, are somewhere else if they were there.
    let client = servers[1].client().await?;
    let metadata = ObjectMeta { name: Some("after".into()), ..ObjectMeta::default() };
    let namespace = Namespace { metadata, ..Namespace::default() };
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client, "after");
    let began = Instant::now();
    while accounts.get_opt("default").await?.is_none() {
        ensure!(began.elapsed() < PATIENCE, "no controller works");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    book.ends.store(true, Ordering::Relaxed);
    for writing in writing {
        writing.await.context("a writer")?;
    }
    let acknowledged = std::mem::take(&mut *book.acknowledged.lock());
    for server in &servers[1..] {
        let api: Api<ConfigMap> = Api::namespaced(server.client().await?, "default");
        let found = api.list_metadata(&ListParams::default()).await?;
        let found: std::collections::BTreeSet<_> =
            found.items.into_iter().filter_map(|item| item.metadata.name).collect();
        let lost: Vec<_> = acknowledged.iter().filter(|name| !found.contains(*name)).collect();
        ensure!(lost.is_empty(), "of {} writes, these are lost: {lost:?}", acknowledged.len());
    }
    Ok(())
}
