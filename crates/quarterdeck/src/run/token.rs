//! `quarterdeck token`: who may join. Tokens are Secrets, made and removed through the API like any other object.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use client::Connection;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::json;

use super::access::AGENT;
use super::{components, print_line, print_table};
use crate::args::{AccessFlags, PrintFormat, TokenCommand};
use crate::join::{KeptToken, NAME_PREFIX, NAMESPACE, SECRET_TYPE, Token};

pub(crate) async fn token(command: TokenCommand) -> Result<()> {
    match command {
        TokenCommand::Create { access, ttl, description } => {
            let token = create(&access, ttl, &description).await?;
            match access.output.output {
                PrintFormat::Table => print_line(&token),
                PrintFormat::Json => print_line(&format!("{:#}", json!({ "token": token }))),
            }
        }
        TokenCommand::Ls { access } => {
            let api = secrets(kubeconfig(access.kubeconfig.as_deref())?).await?;
            let of_type = ListParams::default().fields(&format!("type={SECRET_TYPE}"));
            let kept: Vec<KeptToken> =
                api.list(&of_type).await.context("listing tokens")?.items.iter().filter_map(KeptToken::read).collect();
            let now = Timestamp::now();
            let state = |token: &KeptToken| if token.expires <= now { "expired" } else { "valid" };
            match access.output.output {
                PrintFormat::Table => {
                    let rows = kept.iter().map(|token| {
                        let (id, about) = (token.id.clone(), token.description.clone());
                        vec![id, state(token).to_owned(), token.expires.to_string(), about]
                    });
                    print_table(&["ID", "STATE", "EXPIRES", "DESCRIPTION"], &rows.collect::<Vec<_>>());
                }
                PrintFormat::Json => {
                    let items = kept.iter().map(|token| {
                        json!({
                            "id": token.id,
                            "state": state(token),
                            "expires": token.expires.to_string(),
                            "description": token.description,
                        })
                    });
                    print_line(&format!("{:#}", json!({ "items": items.collect::<Vec<_>>() })));
                }
            }
        }
        TokenCommand::Rm { token, access } => {
            let id = Token::parse(&token).map_or(token, |token| token.id);
            let api = secrets(kubeconfig(access.kubeconfig.as_deref())?).await?;
            match api.delete(&format!("{NAME_PREFIX}{id}"), &DeleteParams::default()).await {
                Ok(_) => print_line(&format!("token {id} removed")),
                Err(kube::Error::Api(status)) if status.code == 404 => bail!("there is no token {id}"),
                Err(error) => return Err(error).context("removing the token"),
            }
        }
    }
    Ok(())
}

/// Makes a token and keeps it in the cluster; returns its text.
pub(super) async fn create(access: &AccessFlags, ttl: Duration, description: &str) -> Result<String> {
    let kubeconfig = kubeconfig(access.kubeconfig.as_deref())?;
    let token = Token::generate(&components::kubeconfig_ca(kubeconfig)?)?;
    let expires = Timestamp::now() + SignedDuration::try_from(ttl).context("--ttl")?;
    let secret = token.to_secret(expires, description);
    secrets(kubeconfig).await?.create(&PostParams::default(), &secret).await.context("creating the token")?;
    Ok(token.text())
}

fn kubeconfig(path: Option<&Path>) -> Result<&Path> {
    path.context("give --kubeconfig or set KUBECONFIG")
}

async fn secrets(kubeconfig: &Path) -> Result<Api<Secret>> {
    Ok(Connection::from_kubeconfig(kubeconfig, AGENT).await?.namespaced(NAMESPACE))
}
