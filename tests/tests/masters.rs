//! Several masters: joining, losing one, replacing it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, PostParams};
use quarterdeck_tests::{Durable, Process, Server, eventually, quarterdeck, quarterdeck_err, quarterdeck_json, text};
use serde_json::Value;

/// A master's place and name.
struct Master {
    durable: Durable,
    name: String,
}

impl Master {
    fn new(name: &str) -> Result<Self> {
        Ok(Self { durable: Durable::new()?, name: name.to_owned() })
    }

    fn start(&self) -> Result<Server> {
        Server::start(self.durable.command().args(["--name", &self.name]))
    }

    fn join(&self, first: &Self, token: &str) -> Result<Server> {
        let url = format!("https://127.0.0.1:{}", first.durable.secure_port);
        Server::start(self.durable.command().args(["--name", &self.name, "--join", &url, "--token", token]))
    }
}

fn token(server: &Server) -> Result<String> {
    let output = quarterdeck(&["token", "create", "--kubeconfig", text(&server.kubeconfig)?])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout)?;
    Ok(printed.lines().last().context("no token was printed")?.to_owned())
}

fn members(server: &Server) -> Result<Vec<Value>> {
    let listed = quarterdeck_json(&["member", "ls", "--kubeconfig", text(&server.kubeconfig)?, "-o", "json"])?;
    Ok(listed["items"].as_array().context("items")?.clone())
}

/// Waits until so many members vote and answer.
fn wait_for_voters(server: &Server, wanted: usize) -> Result<Vec<Value>> {
    eventually("members that vote", || {
        let members = members(server)?;
        let votes = |member: &&Value| member["state"] == "started" && member["role"] != "learner";
        Ok((members.iter().filter(votes).count() == wanted).then_some(members))
    })
}

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
    let mut servers = vec![masters[0].start()?];
    let invitation = token(&servers[0])?;
    servers.push(masters[1].join(&masters[0], &invitation)?);
    servers.push(masters[2].join(&masters[0], &invitation)?);
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
