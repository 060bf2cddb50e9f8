//! Several masters: joining, losing one, replacing it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, PostParams};
use quarterdeck_tests::masters::{Master, form, token, wait_for_voters};
use quarterdeck_tests::{Process, Server, eventually, quarterdeck, quarterdeck_err, quarterdeck_json, text};

async fn create(server: &Server, name: &str) -> Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(server.client().await?, "default");
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    api.create(&PostParams::default(), &ConfigMap { metadata, ..ConfigMap::default() }).await?;
    Ok(())
}

async fn exists(server: &Server, name: &str) -> Result<bool> {
    let api: Api<ConfigMap> = Api::namespaced(server.client().await?, "default");
    Ok(api.get_opt(name).await?.is_some())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_masters_survive_the_loss_of_one_and_take_its_replacement() -> Result<()> {
    let masters = [Master::new("a")?, Master::new("b")?, Master::new("c")?];
    let mut servers = form(&masters)?;
    let formed = wait_for_voters(&servers[0], 3)?;
    for (n, server) in servers.iter().enumerate() {
        create(server, &format!("by-{n}")).await?;
    }
    for server in &servers {
        for n in 0..servers.len() {
            assert!(exists(server, &format!("by-{n}")).await?, "every master has what any of them wrote");
        }
    }

    // The one that leads dies without a word.
    let leader = formed.iter().find(|member| member["role"] == "leader").context("a leader")?;
    let at = masters.iter().position(|master| leader["name"] == *master.name).context("the leader's place")?;
    servers[at].process.kill();
    let left = (at + 1) % 3;
    let killed = Instant::now();
    while create(&servers[left], "after").await.is_err() && !exists(&servers[left], "after").await.unwrap_or(false) {
        ensure!(killed.elapsed() < Duration::from_secs(30), "no write succeeds without the old leader");
    }
    assert!(exists(&servers[(at + 2) % 3], "after").await?);

    // A new machine takes its place and its name.
    let kubeconfig = text(&servers[left].kubeconfig)?.to_owned();
    let name = masters[at].name.as_str();
    let replaced = quarterdeck_json(&["member", "replace", name, "--kubeconfig", &kubeconfig, "-o", "json"])?;
    let replacement = Master::new(name)?;
    let server = replacement.join(&masters[left], replaced["token"].as_str().context("token")?)?;
    wait_for_voters(&server, 3)?;
    assert!(exists(&server, "by-0").await?);

    // The old one finds out that it is no member any more.
    let mut old = Process::spawn(masters[at].durable.command().args(["--name", name]).stdout(Stdio::null()))?;
    let ended = eventually("the end of the removed master", || old.ended())?;
    ensure!(!ended.success(), "a removed master ended well");
    Ok(())
}

#[test]
fn a_token_lets_in_until_it_is_taken_back_and_only_to_its_own_cluster() -> Result<()> {
    let (first, other) = (Master::new("a")?, Master::new("a")?);
    let (server, other_server) = (first.start()?, other.start()?);
    let kubeconfig = text(&server.kubeconfig)?;
    let invitation = token(&server)?;
    let listed = quarterdeck_json(&["token", "ls", "--kubeconfig", kubeconfig, "-o", "json"])?;
    let id = listed["items"][0]["id"].as_str().context("id")?;
    assert!(invitation.contains(id));
    let secret = invitation.rsplit('.').next().context("secret")?;
    let stored = server.kubectl_ok(&["get", "secrets", "-n", "kube-system", "-o", "yaml"])?;
    assert!(!stored.contains(secret), "the token's secret is not in the store");

    let url = format!("https://127.0.0.1:{}", first.durable.secure_port);
    let joining = Master::new("b")?;
    let refused = |token: &str| -> Result<String> {
        let mut command = joining.durable.command();
        command.args(["--name=b", "--join", &url, "--token", token]).stdout(Stdio::null());
        let output = command.output()?;
        ensure!(!output.status.success(), "a master joined with {token}");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let foreign = token(&other_server)?;
    let said = refused(&foreign)?;
    assert!(said.contains("not the one that the token names"), "{said}");
    assert!(quarterdeck_err(&["token", "rm", "zzzzzz", "--kubeconfig", kubeconfig])?.contains("there is no token"));
    ensure!(quarterdeck(&["token", "rm", id, "--kubeconfig", kubeconfig])?.status.success());
    let said = refused(&invitation)?;
    assert!(said.contains("taken back"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_three_masters_goes_on_alone_when_told_to() -> Result<()> {
    let masters = [Master::new("a")?, Master::new("b")?, Master::new("c")?];
    let mut servers = form(&masters)?;
    for n in 0..30 {
        create(&servers[n % 3], &format!("kept-{n}")).await?;
    }
    assert!(exists(&servers[2], "kept-29").await?);
    let forced = || {
        let mut command = masters[2].durable.command();
        command.args(["--name", "c", "--force-new-cluster"]);
        command
    };

    // Not while the others are there.
    servers[2].process.kill();
    let output = forced().stdout(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("enough to go on with"), "{said}");

    servers[0].process.kill();
    servers[1].process.kill();
    let server = Server::start(&mut forced())?;
    for n in 0..30 {
        assert!(exists(&server, &format!("kept-{n}")).await?, "kept-{n}");
    }
    create(&server, "alone").await?;
    let saved = std::fs::read_dir(masters[2].durable.dir.path())?.filter_map(Result::ok).map(|entry| entry.path());
    let saved = saved.filter(|path| path.extension().is_some_and(|extension| extension == "snap")).max();
    let saved = saved.context("a snapshot was saved first")?;
    ensure!(quarterdeck(&["store", "verify", text(&saved)?])?.status.success(), "a snapshot that is none");

    // A new master joins, and one of the old ones finds out that it is no member any more.
    let newcomer = Master::new("d")?;
    let second = newcomer.join(&masters[2], &token(&server)?)?;
    wait_for_voters(&server, 2)?;
    assert!(exists(&second, "kept-0").await? && exists(&second, "alone").await?);
    let mut old = Process::spawn(masters[0].durable.command().args(["--name", "a"]).stdout(Stdio::null()))?;
    let ended = eventually("the end of a master that was given up", || old.ended())?;
    ensure!(!ended.success(), "a removed master ended well");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_masters_and_a_witness_survive_the_loss_of_one_master() -> Result<()> {
    let masters = [Master::new("a")?, Master::new("b")?];
    let mut servers = form(&masters)?;
    let witness = Master::new("w")?;
    let run = |more: &[&str]| {
        let mut command = witness.durable.command();
        command.args(["--name=w", "--witness"]).args(more).stdout(Stdio::null());
        command
    };
    let alone = run(&[]).output()?;
    assert!(String::from_utf8_lossy(&alone.stderr).contains("give --join and --token"));
    let mut process = Process::spawn(&mut run(&["--join", &masters[0].url(), "--token", &token(&servers[0])?]))?;
    let listed = wait_for_voters(&servers[0], 3)?;
    let role = |name: &str| listed.iter().find(|member| member["name"] == name).map(|member| member["role"].clone());
    assert_eq!(role("w").context("the witness")?, "witness");
    for key in ["ca.key", "sa.key"] {
        assert!(!witness.durable.dir.path().join("pki").join(key).exists(), "a witness has no {key}");
    }
    create(&servers[0], "before").await?;

    // It has the log after a restart, and votes for the one that is left.
    process.kill();
    process = Process::spawn(&mut run(&[]))?;
    wait_for_voters(&servers[0], 3)?;
    let leader = listed.iter().find(|member| member["role"] == "leader").context("a leader")?;
    let at = masters.iter().position(|master| leader["name"] == *master.name).context("the leader's place")?;
    create(&servers[at], "by-the-leader").await?;
    servers[at].process.kill();
    let killed = Instant::now();
    while create(&servers[1 - at], "after").await.is_err() && !exists(&servers[1 - at], "after").await.unwrap_or(false)
    {
        ensure!(killed.elapsed() < Duration::from_secs(30), "no write succeeds with the witness");
    }
    assert!(exists(&servers[1 - at], "by-the-leader").await?);
    let refused =
        quarterdeck_err(&["member", "rm", &masters[1 - at].name, "--kubeconfig", text(&servers[1 - at].kubeconfig)?])?;
    assert!(refused.contains("unhealthy cluster"), "{refused}");
    servers[at] = masters[at].start()?;
    assert!(exists(&servers[at], "after").await?);
    ensure!(process.ended()?.is_none(), "the witness ended");
    Ok(())
}
