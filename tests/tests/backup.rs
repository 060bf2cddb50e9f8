//! Backups: saved, checked, and a cluster brought back from them.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams, WatchEvent, WatchParams};
use quarterdeck_tests::bucket::{Bucket, with_credentials};
use quarterdeck_tests::{Durable, Server, binary, eventually, has_program, quarterdeck_err, quarterdeck_json, text};
use serde_json::Value;

async fn create(server: &Server, name: &str) -> Result<i64> {
    let api: Api<ConfigMap> = Api::namespaced(server.client().await?, "default");
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let created = api.create(&PostParams::default(), &ConfigMap { metadata, ..ConfigMap::default() }).await?;
    created.metadata.resource_version.context("resourceVersion")?.parse().context("resourceVersion")
}

/// Waits until the changes up to a revision are in the server's target.
fn wait_until_backed_up(kubeconfig: &str, revision: i64) -> Result<()> {
    eventually("the backup", || {
        let status = quarterdeck_json(&["status", "--kubeconfig", kubeconfig, "-o", "json"])?;
        let reached = status["backup"]["reachedRevision"].as_i64().unwrap_or(0);
        Ok((reached >= revision).then_some(()))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroyed_cluster_comes_back_as_it_was_at_a_chosen_revision() -> Result<()> {
    let place = tempfile::tempdir()?;
    let (target, key) = (place.path().join("backups"), place.path().join("key"));
    std::fs::write(&key, "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=")?;
    let (target, key) = (text(&target)?, text(&key)?);
    let durable = Durable::new()?;
    let mut server = Server::start(
        durable
            .command()
            .args(["--backup-target", target, "--backup-key-file", key])
            .args(["--backup-interval=1h", "--backup-log-interval=200ms"]),
    )?;
    let kubeconfig = text(&server.kubeconfig)?.to_owned();
    wait_until_backed_up(&kubeconfig, 1)?;
    let before = create(&server, "before").await?;
    wait_until_backed_up(&kubeconfig, before)?;
    let api: Api<ConfigMap> = Api::namespaced(server.client().await?, "default");
    api.delete("before", &DeleteParams::default()).await?;
    let after = create(&server, "after").await?;
    wait_until_backed_up(&kubeconfig, after)?;
    let admin = std::fs::read(&server.kubeconfig)?;
    server.process.kill();

    // Everything but the backups is gone.
    let again = durable.emptied()?;
    drop(durable);
    let data_dir = text(again.dir.path())?;
    let at = before.to_string();
    let wrong_key = place.path().join("wrong");
    std::fs::write(&wrong_key, "00".repeat(32))?;
    let said = quarterdeck_err(&[
        "snapshot",
        "restore",
        "--target",
        target,
        "--key-file",
        text(&wrong_key)?,
        "--data-dir",
        data_dir,
    ])?;
    assert!(said.contains("does not open with this key"), "{said}");
    assert_eq!(std::fs::read_dir(data_dir)?.count(), 0, "a failed restore leaves nothing");
    let restored = quarterdeck_json(&[
        "snapshot",
        "restore",
        "--target",
        target,
        "--key-file",
        key,
        "--data-dir",
        data_dir,
        "--to",
        &at,
        "-o",
        "json",
    ])?;
    assert_eq!(restored["revision"], before);
    let server = again.start()?;
    assert_eq!(std::fs::read(&server.kubeconfig)?.len(), admin.len(), "certificates come from the same CA");
    let api: Api<ConfigMap> = Api::namespaced(server.client().await?, "default");
    assert!(api.get_opt("before").await?.is_some(), "what was deleted later is there");
    assert!(api.get_opt("after").await?.is_none(), "what was created later is not");
    assert!(create(&server, "new").await? > after, "revisions jump ahead");

    // A client that had seen the lost history must list again.
    let mut events = std::pin::pin!(api.watch(&WatchParams::default(), &after.to_string()).await?);
    let first = futures::StreamExt::next(&mut events).await.context("the watch ended")??;
    assert!(matches!(&first, WatchEvent::Error(status) if status.code == 410), "{first:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saved_file_is_checked_by_a_trial_and_says_when_it_is_damaged() -> Result<()> {
    let durable = Durable::new()?;
    let server = durable.start()?;
    let kubeconfig = text(&server.kubeconfig)?.to_owned();
    create(&server, "one").await?;
    let place = tempfile::tempdir()?;
    let file = place.path().join("cluster.qdb");
    let saved = quarterdeck_json(&["snapshot", "save", text(&file)?, "--kubeconfig", &kubeconfig, "-o", "json"])?;
    assert!(quarterdeck_err(&["snapshot", "save", text(&file)?, "--kubeconfig", &kubeconfig])?.contains("exists"));
    let verified = quarterdeck_json(&["snapshot", "verify", text(&file)?, "--drill", "-o", "json"])?;
    assert_eq!(verified["drilled"], true);
    assert!(verified["revision"].as_i64() >= saved["revision"].as_i64(), "{verified} {saved}");
    assert!(verified["hash"].is_number(), "the restored store has the hash of the running one: {verified}");

    let bytes = std::fs::read(&file)?;
    let mut changed = bytes.clone();
    changed[bytes.len() / 2] ^= 1;
    std::fs::write(place.path().join("changed"), changed)?;
    std::fs::write(place.path().join("cut"), &bytes[..bytes.len() / 2])?;
    let said = quarterdeck_err(&["snapshot", "verify", text(&place.path().join("changed"))?])?;
    assert!(said.contains("damaged"), "{said}");
    let said = quarterdeck_err(&["snapshot", "verify", text(&place.path().join("cut"))?])?;
    assert!(said.contains("cut off"), "{said}");
    let elsewhere = place.path().join("elsewhere");
    let cut = place.path().join("cut");
    quarterdeck_err(&["snapshot", "restore", text(&cut)?, "--data-dir", text(&elsewhere)?])?;
    assert!(!elsewhere.exists(), "a failed restore leaves nothing");

    // What a restore would change is what has happened since.
    create(&server, "two").await?;
    let difference = quarterdeck_json(&[
        "snapshot",
        "restore",
        text(&file)?,
        "--dry-run",
        "--kubeconfig",
        &kubeconfig,
        "-o",
        "json",
    ])?;
    let deleted = difference["deleted"].as_array().context("deleted")?;
    assert!(deleted.contains(&Value::from("/registry/configmaps/default/two")), "{difference}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_goes_away_fails_a_backup_and_not_the_server() -> Result<()> {
    if !has_program("moto_server") {
        return Ok(());
    }
    let bucket = Bucket::start()?;
    let durable = Durable::new()?;
    let server = Server::start(with_credentials(&mut durable.command()).args([
        "--backup-target=s3://backups/cluster",
        "--backup-s3-region=us-east-1",
        "--backup-log-interval=0",
        "--backup-s3-endpoint",
        &bucket.endpoint,
    ]))?;
    let kubeconfig = text(&server.kubeconfig)?.to_owned();
    let revision = create(&server, "one").await?;
    let saved = quarterdeck_json(&["snapshot", "save", "--kubeconfig", &kubeconfig, "-o", "json"])?;
    let name = saved["name"].as_str().context("name")?;
    assert!(saved["revision"].as_i64() >= Some(revision), "{saved}");
    let listed = quarterdeck_json(&["snapshot", "ls", "--kubeconfig", &kubeconfig, "-o", "json"])?;
    let names: Vec<_> = listed["items"].as_array().into_iter().flatten().map(|item| item["name"].clone()).collect();
    assert!(names.contains(&Value::from(name)), "{listed}");
    let target = ["--target=s3://backups/cluster", "--s3-region=us-east-1", "--s3-endpoint", &bucket.endpoint];
    let verified =
        with_credentials(Command::new(binary()).args(["snapshot", "verify", name, "--drill"]).args(target)).output()?;
    ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));

    drop(bucket);
    quarterdeck_err(&["snapshot", "save", "--kubeconfig", &kubeconfig])?;
    create(&server, "two").await?;
    let status = quarterdeck_json(&["status", "--kubeconfig", &kubeconfig, "-o", "json"])?;
    assert!(status["backup"]["failures"].as_i64() > Some(0), "{status}");
    Ok(())
}
