//! The side of the cluster: checks tokens, adds members, hands out what masters share.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use api::Status;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;
use store::{EmbeddedStore, Member, Store as _, StoreError};

use super::lineage::Lineage;
use super::messages::{ClusterSettings, JoinMember, JoinRequest, JoinResponse};
use super::token::{KeptToken, NAME_PREFIX, NAMESPACE, SECRET_TYPE};

/// Files in DATA/pki that every master has the same. All others are a master's own.
const SHARED: [&str; 8] = [
    "ca.crt",
    "ca.key",
    "store-ca.crt",
    "store-ca.key",
    "front-proxy-ca.crt",
    "front-proxy-ca.key",
    "sa.key",
    "sa.pub",
];

/// What a witness needs of them: it talks to the other stores, and to nobody else.
const SHARED_WITH_WITNESS: [&str; 4] = ["ca.crt", "store-ca.crt", "store-ca.key", "front-proxy-ca.crt"];

/// Lets masters in.
pub(crate) struct JoinServer {
    store: Arc<EmbeddedStore>,
    ca_pem: String,
    pki_dir: PathBuf,
    settings: ClusterSettings,
    lineage: Lineage,
    /// The way to the tokens, once the API server runs.
    connection: OnceLock<client::Connection>,
}

impl std::fmt::Debug for JoinServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinServer").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl JoinServer {
    pub(crate) fn new(
        store: Arc<EmbeddedStore>,
        ca_pem: String,
        pki_dir: PathBuf,
        settings: ClusterSettings,
        lineage: Lineage,
    ) -> Self {
        Self { store, ca_pem, pki_dir, settings, lineage, connection: OnceLock::new() }
    }

    /// From now on tokens can be checked.
    pub(crate) fn open(&self, connection: client::Connection) {
        let _opened_before = self.connection.set(connection);
    }

    /// The CA's certificate: public, and worth nothing without a hash to compare it with. For members of a cluster before: what this
    /// one was restored from.
    pub(crate) fn ca(&self) -> serde_json::Value {
        json!({ "ca": self.ca_pem, "restoredFrom": self.lineage })
    }

    pub(crate) async fn admit(&self, body: &[u8]) -> Result<JoinResponse, Status> {
        let request: JoinRequest =
            serde_json::from_slice(body).map_err(|error| Status::bad_request(format!("join request: {error}")))?;
        self.check_token(&request).await?;
        let fits = request.version == env!("CARGO_PKG_VERSION");
        if !fits {
            let (ours, theirs) = (env!("CARGO_PKG_VERSION"), &request.version);
            return Err(Status::bad_request(format!("this cluster runs quarterdeck {ours}, the new master {theirs}")));
        }
        let (member, members) = self.add(&request).await?;
        tracing::info!(name = request.name, id = format!("{:016x}", member.id), "a master joins");
        let shared = if request.witness { &SHARED_WITH_WITNESS[..] } else { &SHARED[..] };
        let pki = shared.iter().filter_map(|name| {
            // Not every cluster has every file.
            Some(((*name).to_owned(), std::fs::read_to_string(self.pki_dir.join(name)).ok()?))
        });
        let named = |listed: Member| {
            let name = if listed.id == member.id { request.name.clone() } else { listed.name };
            JoinMember { name, peer_urls: listed.peer_urls }
        };
        Ok(JoinResponse {
            pki: pki.collect(),
            member_id: format!("{:016x}", member.id),
            members: members.into_iter().map(named).collect(),
            settings: self.settings.clone(),
            lineage: self.lineage.clone(),
        })
    }

    /// Removes tokens that let nobody in any more.
    pub(crate) async fn forget_expired(&self, now: jiff::Timestamp) {
        let Some(connection) = self.connection.get() else { return };
        let secrets: Api<Secret> = connection.namespaced(NAMESPACE);
        let of_type = ListParams::default().fields(&format!("type={SECRET_TYPE}"));
        let listed = match secrets.list(&of_type).await {
            Ok(listed) => listed.items,
            Err(error) => return tracing::debug!(%error, "join tokens cannot be listed now"),
        };
        let expired = listed.iter().filter_map(KeptToken::read).filter(|token| token.expires <= now);
        for KeptToken { id, .. } in expired {
            match secrets.delete(&format!("{NAME_PREFIX}{id}"), &DeleteParams::default()).await {
                Ok(_) => tracing::info!(id, "a join token has expired and was removed"),
                Err(error) => tracing::debug!(id, %error, "an expired join token cannot be removed now"),
            }
        }
    }

    async fn check_token(&self, request: &JoinRequest) -> Result<(), Status> {
        // One answer for every reason: a guesser learns nothing.
        let refused = Status::unauthorized;
        let Some(connection) = self.connection.get() else {
            return Err(Status::internal("the API server is starting"));
        };
        let is_name = request.token_id.bytes().all(|byte| byte.is_ascii_alphanumeric()) && request.token_id.len() <= 16;
        if !is_name {
            return Err(refused());
        }
        let secrets: Api<Secret> = connection.namespaced(NAMESPACE);
        let secret = secrets.get_opt(&format!("{NAME_PREFIX}{}", request.token_id)).await.map_err(Status::internal)?;
        let kept = secret.as_ref().and_then(KeptToken::read).ok_or_else(refused)?;
        if kept.admits(&request.token_secret, jiff::Timestamp::now()) {
            return Ok(());
        }
        tracing::warn!(id = request.token_id, name = request.name, "a join token was wrong or has expired");
        Err(refused())
    }

    /// The member for a joining master: a new one, or the one that an earlier attempt added.
    async fn add(&self, request: &JoinRequest) -> Result<(Member, Vec<Member>), Status> {
        let members = self.store.members().await.map_err(unavailable)?;
        if let Some(other) = members.iter().find(|member| member.name == request.name) {
            let (name, urls) = (&request.name, other.peer_urls.join(","));
            return Err(Status::bad_request(format!(
                "there is a member named {name} at {urls}: remove it first (quarterdeck member rm {name}), or give another --name"
            )));
        }
        let same_place = members.iter().find(|member| member.peer_urls == request.peer_urls);
        match same_place {
            Some(begun) if begun.name.is_empty() && begun.is_witness == request.witness => {
                Ok((begun.clone(), members.clone()))
            }
            Some(other) => {
                let (urls, name) = (request.peer_urls.join(","), &other.name);
                Err(Status::bad_request(format!("member {name} is at {urls} already: remove it first")))
            }
            None if request.witness => self.store.add_witness(request.peer_urls.clone()).await.map_err(unavailable),
            None => self.store.member_add(request.peer_urls.clone(), true).await.map_err(unavailable),
        }
    }
}

/// The joining master tries again.
fn unavailable(error: StoreError) -> Status {
    Status::service_unavailable(&error.to_string())
}
