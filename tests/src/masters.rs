//! Clusters of masters on loopback.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{Durable, Server, eventually, quarterdeck, quarterdeck_json, text};

/// A master's place and name.
#[derive(Debug)]
pub struct Master {
    pub durable: Durable,
    pub name: String,
}

impl Master {
    pub fn new(name: &str) -> Result<Self> {
        Ok(Self { durable: Durable::new()?, name: name.to_owned() })
    }

    pub fn start(&self) -> Result<Server> {
        Server::start(self.durable.command().args(["--name", &self.name]))
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.durable.secure_port)
    }

    pub fn join(&self, first: &Self, token: &str) -> Result<Server> {
        let url = first.url();
        Server::start(self.durable.command().args(["--name", &self.name, "--join", &url, "--token", token]))
    }
}

/// Starts the first, lets the others join, and waits until all vote.
pub fn form(masters: &[Master]) -> Result<Vec<Server>> {
    let (first, others) = masters.split_first().context("no masters")?;
    let mut servers = vec![first.start()?];
    let invitation = token(&servers[0])?;
    for master in others {
        servers.push(master.join(first, &invitation)?);
    }
    wait_for_voters(&servers[0], masters.len())?;
    Ok(servers)
}

pub fn token(server: &Server) -> Result<String> {
    let output = quarterdeck(&["token", "create", "--kubeconfig", text(&server.kubeconfig)?])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout)?;
    Ok(printed.lines().last().context("no token was printed")?.to_owned())
}

pub fn members(server: &Server) -> Result<Vec<Value>> {
    let listed = quarterdeck_json(&["member", "ls", "--kubeconfig", text(&server.kubeconfig)?, "-o", "json"])?;
    Ok(listed["items"].as_array().context("items")?.clone())
}

/// Waits until so many members vote and answer.
pub fn wait_for_voters(server: &Server, wanted: usize) -> Result<Vec<Value>> {
    eventually("members that vote", || {
        let members = members(server)?;
        let votes = |member: &&Value| member["state"] == "started" && member["role"] != "learner";
        Ok((members.iter().filter(votes).count() == wanted).then_some(members))
    })
}
