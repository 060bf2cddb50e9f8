//! `quarterdeck member`: who is in the store's cluster.

use anyhow::Result;
use http::Method;
use serde_json::Value;

use super::access::Access;
use super::{print_line, print_table, token};
use crate::args::{MemberCommand, PrintFormat};

pub(crate) async fn member(command: MemberCommand) -> Result<()> {
    match command {
        MemberCommand::Ls { access } => {
            let document = Access::open(access.kubeconfig.as_deref()).await?.get("members").await?;
            match access.output.output {
                PrintFormat::Json => print_line(&format!("{document:#}")),
                PrintFormat::Table => {
                    let rows = document["items"].as_array().into_iter().flatten().map(row);
                    print_table(&["NAME", "ROLE", "STATE", "ID", "PEERS", "CLIENTS"], &rows.collect::<Vec<_>>());
                }
            }
        }
        MemberCommand::Rm { member, access } => {
            let server = Access::open(access.kubeconfig.as_deref()).await?;
            let removed = server.document(Method::DELETE, &endpoint(&member), Vec::new()).await?;
            match access.output.output {
                PrintFormat::Json => print_line(&format!("{removed:#}")),
                PrintFormat::Table => print_line(&format!("member {member} removed")),
            }
        }
        MemberCommand::Replace { member, ttl, access } => {
            let server = Access::open(access.kubeconfig.as_deref()).await?;
            let removed = server.document(Method::DELETE, &endpoint(&member), Vec::new()).await?;
            let token = token::create(&access, ttl, &format!("replaces {member}")).await?;
            match access.output.output {
                PrintFormat::Json => {
                    print_line(&format!("{:#}", serde_json::json!({ "removed": removed, "token": token })))
                }
                PrintFormat::Table => {
                    let name = removed["name"].as_str().filter(|name| !name.is_empty()).unwrap_or(&member).to_owned();
                    // The kubeconfig's may be this machine's own loopback address.
                    let url = removed["joinUrl"].as_str().unwrap_or(server.url()).to_owned();
                    print_line(&format!(
                        "member {member} removed; on its replacement, with an empty data directory, run"
                    ));
                    print_line(&format!("quarterdeck server --name {name} --join {url} --token {token}"));
                }
            }
        }
    }
    Ok(())
}

fn endpoint(member: &str) -> String {
    let safe: String = member
        .bytes()
        .map(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect();
    format!("members/{safe}")
}

fn row(item: &Value) -> Vec<String> {
    let list = |member: &str| {
        let items = item[member].as_array().into_iter().flatten().filter_map(Value::as_str);
        items.collect::<Vec<_>>().join(",")
    };
    let text = |member: &str| item[member].as_str().unwrap_or_default().to_owned();
    vec![text("name"), text("role"), text("state"), text("id"), list("peerUrls"), list("clientUrls")]
}
