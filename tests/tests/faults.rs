//! Masters, backups and restores that are killed in the middle, and buckets that vanish there: what was begun is done by the next
//! attempt, or was never there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, PostParams};
use quarterdeck_tests::bucket::{Bucket, with_credentials};
use quarterdeck_tests::masters::{Master, members, token, wait_for_voters};
use quarterdeck_tests::{
    Durable, PATIENCE, Process, Server, binary, eventually, has_program, quarterdeck, quarterdeck_err,
    quarterdeck_json, text,
};

/// Small objects are no trouble for anybody; this is the size of a value.
const VALUE_BYTES: usize = 900 << 10;

async fn create(server: &Server, name: &str, bytes: usize) -> Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(server.client().await?, "default");
    // Values that do not compress.
    let value: String = std::iter::repeat_with(|| char::from(rand::random_range(b'!'..b'~'))).take(bytes).collect();
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let data = (bytes > 0).then(|| [("value".to_owned(), value)].into());
    api.create(&PostParams::default(), &ConfigMap { metadata, data, ..ConfigMap::default() }).await?;
    Ok(())
}

async fn exists(server: &Server, name: &str) -> Result<bool> {
    let api: Api<ConfigMap> = Api::namespaced(server.client().await?, "default");
    Ok(api.get_opt(name).await?.is_some())
}

/// Looks again and again, as fast as it goes, until a step is seen; then the process is killed.
fn kill_at(mut process: Process, what: &str, mut step: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !step()? {
        ensure!(Instant::now() < deadline, "{what} was not seen");
        if process.ended()?.is_some() {
            break;
        }
        std::thread::yield_now();
    }
    process.kill();
    Ok(())
}

/// Members change only while all have been in touch for some seconds, as with etcd.
fn remove(master: &Master, kubeconfig: &str) -> Result<()> {
    eventually("the member is removed", || {
        let removed = quarterdeck(&["member", "rm", &master.name, "--kubeconfig", kubeconfig])?;
        let is_early = String::from_utf8_lossy(&removed.stderr).contains("unhealthy cluster");
        ensure!(removed.status.success() || is_early, "{}", String::from_utf8_lossy(&removed.stderr));
        Ok(removed.status.success().then_some(()))
    })
}

type Step = fn(&Path) -> bool;

/// What a joining master does, as its data directory shows it.
const JOINING: [(&str, Step); 6] = [
    ("the data directory", |dir| dir.join("pki").exists()),
    ("the first shared file", |dir| dir.join("pki/ca.crt").exists()),
    ("the cluster's answer", |dir| dir.join("joined.json").exists()),
    ("the store's directory", |dir| dir.join("store/format").exists()),
    ("the store's log", |dir| dir.join("store/wal").exists()),
    ("its own certificates", |dir| dir.join("pki/apiserver.crt").exists()),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_killed_at_any_step_of_joining_joins_when_it_is_started_again() -> Result<()> {
    let first = Master::new("a")?;
    let server = first.start()?;
    create(&server, "before", 0).await?;
    let kubeconfig = text(&server.kubeconfig)?;
    for (n, (what, step)) in JOINING.iter().enumerate() {
        let joining = Master::new(&format!("b{n}"))?;
        let invitation = token(&server)?;
        let dir = joining.durable.dir.path();
        let mut command = joining.durable.command();
        command.args(["--name", &joining.name, "--join", &first.url(), "--token", &invitation]).stdout(Stdio::null());
        kill_at(Process::spawn(&mut command)?, what, || Ok(step(dir)))?;
        let joined = joining.join(&first, &invitation).with_context(|| format!("after a kill at: {what}"))?;
        wait_for_voters(&server, 2).with_context(|| format!("after a kill at: {what}"))?;
        ensure!(exists(&joined, "before").await?, "after a kill at: {what}");
        remove(&joining, kubeconfig)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_lets_another_in_may_be_killed_before_that_one_votes() -> Result<()> {
    let first = Master::new("a")?;
    let mut server = first.start()?;
    create(&server, "before", 0).await?;
    for (n, role) in ["learner", "voter"].into_iter().enumerate() {
        let joining = Master::new(&format!("b{n}"))?;
        let invitation = token(&server)?;
        let url = first.url();
        let mut command = joining.durable.command();
        command.args(["--name", &joining.name, "--join", &url, "--token", &invitation]);
        let joined = std::thread::spawn(move || Server::start(&mut command));
        eventually("the joining member", || {
            let found = members(&server)?.into_iter().any(|member| member["name"] != "a" && member["role"] == role);
            Ok(found.then_some(()))
        })?;
        server.process.kill();
        server = first.start()?;
        let joined = joined.join().expect("no panic")?;
        wait_for_voters(&server, 2).with_context(|| format!("after a kill while the other was a {role}"))?;
        ensure!(exists(&joined, "before").await?, "the other has the state");
        remove(&joining, text(&server.kubeconfig)?)?;
    }
    Ok(())
}

#[test]
fn a_master_that_is_killed_while_it_renews_certificates_starts_again() -> Result<()> {
    let durable = Durable::new()?;
    let command = || {
        let mut command = durable.command();
        // Renewed every few seconds.
        command.arg("--certificate-validity-period=12s");
        command
    };
    drop(Server::start(&mut command())?);
    for file in ["admin.key", "admin.crt", "apiserver.key", "store-peer.key"] {
        let path = durable.dir.path().join("pki").join(file);
        let before = std::fs::read(&path)?;
        let mut running = command();
        let process = Process::spawn(running.stdout(Stdio::null()))?;
        kill_at(process, file, || Ok(std::fs::read(&path).is_ok_and(|now| now != before)))?;
        let server = Server::start(&mut command()).with_context(|| format!("after a kill at the renewal of {file}"))?;
        quarterdeck_json(&["member", "ls", "--kubeconfig", text(&server.kubeconfig)?, "-o", "json"])
            .with_context(|| format!("after a kill at the renewal of {file}"))?;
    }
    Ok(())
}

/// A server with data of several parts of an upload.
async fn filled(durable: &Durable) -> Result<Server> {
    let server = durable.start()?;
    for n in 0..24 {
        create(&server, &format!("filled-{n}"), VALUE_BYTES).await?;
    }
    Ok(server)
}

fn is_empty_or_gone(dir: &Path) -> bool {
    std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_and_restores_that_are_killed_leave_nothing_half_done() -> Result<()> {
    let place = tempfile::tempdir()?;
    let target = place.path().join("backups");
    let durable = Durable::new()?;
    drop(filled(&durable).await?);
    let with_target = || {
        let mut command = durable.command();
        command.arg("--backup-target").arg(&target).args(["--backup-log-interval=0", "--backup-bandwidth=4000000"]);
        command
    };

    // The first snapshot begins by itself, and is throttled, so that there is a middle.
    let mut command = with_target();
    let process = Process::spawn(command.stdout(Stdio::null()))?;
    kill_at(process, "a snapshot under way", || Ok(!is_empty_or_gone(&target)))?;
    let flags = ["--target", text(&target)?];
    let listed = quarterdeck_json(&[&["snapshot", "ls", "-o", "json"], &flags[..]].concat())?;
    ensure!(listed["items"].as_array().is_some_and(Vec::is_empty), "half a snapshot is none: {listed}");
    let mut command = durable.command();
    let server = Server::start(command.arg("--backup-target").arg(&target).arg("--backup-bandwidth=0"))?;
    let kubeconfig = text(&server.kubeconfig)?;
    let saved = quarterdeck_json(&["snapshot", "save", "--kubeconfig", kubeconfig, "-o", "json"])?;
    let name = saved["name"].as_str().context("a name")?;
    let verified = quarterdeck_json(&[&["snapshot", "verify", name, "--drill", "-o", "json"], &flags[..]].concat())?;
    ensure!(verified["drilled"] == true, "{verified}");
    drop(server);

    // A restore puts its directory in place at the end, or not at all.
    type Seen = fn(&Path) -> bool;
    let made: [(&str, Seen); 4] = [
        ("nothing yet", |_| true),
        ("the scratch directory", |parent| scratch(parent).is_some()),
        ("the downloaded snapshot", |parent| scratch(parent).is_some_and(|dir| !is_empty_or_gone(&dir))),
        ("the new store", |parent| scratch(parent).is_some_and(|dir| dir.join("data/store").exists())),
    ];
    for (n, (what, step)) in made.iter().enumerate() {
        let parent = place.path().join(format!("restored-{n}"));
        std::fs::create_dir(&parent)?;
        let dir = parent.join("data");
        let mut command = Command::new(binary());
        command.args(["snapshot", "restore", name]).args(flags).arg("--data-dir").arg(&dir).stdout(Stdio::null());
        kill_at(Process::spawn(&mut command)?, what, || Ok(step(&parent)))?;
        if is_empty_or_gone(&dir) {
            let again = command.output()?;
            ensure!(again.status.success(), "{what}: {}", String::from_utf8_lossy(&again.stderr));
            ensure!(scratch(&parent).is_none(), "{what}: the next restore removes what the killed one left");
        }
        let again = durable.emptied()?;
        let mut command = Command::new(binary());
        command
            .args(["server", "--bind-address=127.0.0.1"])
            .arg(format!("--secure-port={}", again.secure_port))
            .arg(format!("--store-client-address=127.0.0.1:{}", again.store_port))
            .arg(format!("--store-peer-address=127.0.0.1:{}", again.peer_port))
            .arg("--data-dir")
            .arg(&dir);
        let server = Server::start(&mut command).with_context(|| format!("after a kill at: {what}"))?;
        ensure!(exists(&server, "filled-23").await?, "after a kill at: {what}");
    }
    Ok(())
}

/// What a restore works in, beside its place.
fn scratch(parent: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(parent).ok()?;
    let mut paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    paths.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".quarterdeck-restore-")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_vanishes_in_the_middle_fails_one_attempt() -> Result<()> {
    if !has_program("moto_server") {
        return Ok(());
    }
    let bucket = Bucket::start()?;
    let link = bucket.link()?;
    let durable = Durable::new()?;
    drop(filled(&durable).await?);
    link.breaks_after(10 << 20);
    let server = Server::start(with_credentials(&mut durable.command()).args([
        "--backup-target=s3://backups/cluster",
        "--backup-s3-region=us-east-1",
        "--backup-log-interval=0",
        "--backup-s3-endpoint",
        &link.endpoint,
    ]))?;
    let kubeconfig = text(&server.kubeconfig)?.to_owned();
    eventually("the bucket to vanish in the middle", || Ok(link.is_broken().then_some(())))?;
    create(&server, "meanwhile", 0).await?;
    let flags = ["--target=s3://backups/cluster", "--s3-region=us-east-1", "--s3-endpoint"];
    let run = |command: &[&str], endpoint: &str| {
        with_credentials(Command::new(binary()).args(command).args(flags).arg(endpoint)).output()
    };
    let listed = run(&["snapshot", "ls", "-o", "json"], &bucket.endpoint)?;
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout)?;
    ensure!(listed["items"].as_array().is_some_and(Vec::is_empty), "half a snapshot is none: {listed}");

    link.is_mended();
    let saved = eventually("a snapshot once the bucket is back", || {
        quarterdeck_json(&["snapshot", "save", "--kubeconfig", &kubeconfig, "-o", "json"]).map(Some)
    })?;
    let name = saved["name"].as_str().context("a name")?;
    let place = tempfile::tempdir()?;
    let dir = place.path().join("data");
    let restore = ["snapshot", "restore", name, "--data-dir", text(&dir)?];
    link.breaks_after(10 << 20);
    // The link stays down: whoever tries again finds nobody.
    let mut command = Command::new(binary());
    let mut restoring =
        Process::spawn(with_credentials(command.args(restore).args(flags).arg(&link.endpoint)).stdout(Stdio::null()))?;
    eventually("the bucket to vanish again", || Ok(link.is_broken().then_some(())))?;
    if restoring.ended()?.is_none() {
        ensure!(is_empty_or_gone(&dir), "a restore that waits for its bucket has put nothing in place");
        restoring.kill();
    }
    ensure!(is_empty_or_gone(&dir), "half a restore is none");
    let restored = run(&restore, &bucket.endpoint)?;
    ensure!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    ensure!(dir.join("store").exists(), "a restore from the bucket that is back");
    Ok(())
}

#[test]
fn a_snapshot_that_was_tampered_with_restores_nothing() -> Result<()> {
    let place = tempfile::tempdir()?;
    let key = place.path().join("key");
    std::fs::write(&key, "01".repeat(32))?;
    let durable = Durable::new()?;
    let server = durable.start()?;
    let file = place.path().join("whole.qdb");
    let (file, key) = (text(&file)?, text(&key)?);
    let save = ["snapshot", "save", file, "--key-file", key, "--kubeconfig", text(&server.kubeconfig)?];
    ensure!(quarterdeck(&save)?.status.success(), "a sealed file");
    let whole = std::fs::read(file)?;
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 6] = [
        ("nothing is left", Vec::clear),
        ("a bit in the head", |bytes| bytes[9] ^= 1),
        ("a bit in the middle", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }),
        ("a bit at the end", |bytes| {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        }),
        ("cut off in the middle", |bytes| bytes.truncate(bytes.len() / 2)),
        ("one byte is missing", |bytes| bytes.truncate(bytes.len() - 1)),
    ];
    for (what, damage) in damages {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        let damaged = place.path().join("damaged.qdb");
        std::fs::write(&damaged, bytes)?;
        let dir = place.path().join("data");
        let (damaged, dir) = (text(&damaged)?, text(&dir)?);
        let said = quarterdeck_err(&["snapshot", "verify", damaged, "--key-file", key])?;
        ensure!(!said.contains("panicked"), "{what}: {said}");
        let said = quarterdeck_err(&["snapshot", "restore", damaged, "--key-file", key, "--data-dir", dir])?;
        ensure!(!said.contains("panicked") && is_empty_or_gone(Path::new(dir)), "{what}: {said}");
    }
    Ok(())
}
