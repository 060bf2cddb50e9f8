//! The master's own endpoints, below `/quarterdeck/v1/`: what `quarterdeck status`, `snapshot`, `token` and `member` ask for.
//!
//! | method, path | answer |
//! |---|---|
//! | GET `status` | what this master knows of itself and its cluster |
//! | GET `snapshot` | a backup archive, unsealed: whoever saves it seals it |
//! | GET `snapshots` | the archives in the server's backup target |
//! | POST `snapshots` | saves one there now |
//! | GET `members` | the members of the store, and whether they answer |
//! | DELETE `members/NAME` | removes one, by name or id |
//! | GET `join/ca`, POST `join/member` | see [`crate::join`]; open to everybody, a token is checked |
//!
//! They need cluster-admin's rights: an archive holds the cluster's keys.

mod members;
mod status;

use std::sync::Arc;

use api::Status;
use apiserver::Counted;
use apiserver::control::{Control, ControlCall, ControlReply};
use async_trait::async_trait;
use futures::StreamExt as _;
use prometheus_client::registry::Registry;
use serde_json::json;

pub(crate) use status::{MasterStatus, StatusSource};

use crate::backup::{BackupService, Listed};
use crate::join::JoinServer;
use crate::run::ComponentMetrics;

const MEMBERS: &str = "v1/members/";

/// Answers for one master.
#[derive(Debug)]
pub(crate) struct MasterControl {
    pub backup: Arc<BackupService>,
    pub status: StatusSource,
    /// None for a master whose store other masters cannot join.
    pub join: Option<Arc<JoinServer>>,
    /// Where other machines reach this master.
    pub url: String,
    pub components: ComponentMetrics,
}

impl Counted for MasterControl {
    fn register(&self, registry: &mut Registry) {
        self.backup.register(registry);
        self.components.register(registry);
    }

    fn reset(&self) {
        self.components.reset();
    }
}

#[async_trait]
impl Control for MasterControl {
    async fn call(&self, call: ControlCall) -> Option<Result<ControlReply, Status>> {
        Some(match (call.method.as_str(), call.path.as_str()) {
            ("GET", "v1/status") => self.status().await,
            ("GET", "v1/snapshot") => self.snapshot().await,
            ("GET", "v1/snapshots") => self.snapshots().await,
            ("POST", "v1/snapshots") => self.save().await,
            ("GET", "v1/members") => self.members().await,
            ("DELETE", path) if path.starts_with(MEMBERS) => self.remove(&path[MEMBERS.len()..]).await,
            ("GET", "v1/join/ca") => self.join().and_then(|join| ControlReply::json(&join.ca())),
            ("POST", "v1/join/member") => self.admit(&call.body).await,
            (_, "v1/status" | "v1/snapshot" | "v1/snapshots") => Err(Status::method_not_allowed()),
            _ => return None,
        })
    }
}

impl MasterControl {
    async fn status(&self) -> Result<ControlReply, Status> {
        let status = self.status.collect(&self.backup.status()).await.map_err(failed)?;
        ControlReply::json(&status)
    }

    async fn members(&self) -> Result<ControlReply, Status> {
        let members = members::list(&self.status.store).await.map_err(failed)?;
        ControlReply::json(&json!({ "items": members }))
    }

    async fn remove(&self, member: &str) -> Result<ControlReply, Status> {
        let (removed, left) = members::remove(&self.status.store, member).await.map_err(failed)?;
        ControlReply::json(&json!({
            "id": format!("{:016x}", removed.id),
            "name": removed.name,
            "membersLeft": left.len(),
            "joinUrl": self.url,
        }))
    }

    fn join(&self) -> Result<&JoinServer, Status> {
        let absent =
            || Status::bad_request("other masters cannot join this one: its store has no address for other members");
        self.join.as_deref().ok_or_else(absent)
    }

    async fn admit(&self, body: &[u8]) -> Result<ControlReply, Status> {
        let response = self.join()?.admit(body).await?;
        ControlReply::json(&response)
    }

    async fn snapshot(&self) -> Result<ControlReply, Status> {
        let making = self.backup.source().snapshot(None, None).await.map_err(failed)?;
        let chunks = tokio_stream::wrappers::ReceiverStream::new(making.chunks);
        Ok(ControlReply::stream(chunks.map(|chunk| chunk.map(Into::into).map_err(Into::into))))
    }

    async fn snapshots(&self) -> Result<ControlReply, Status> {
        let listed = self.backup.list().await.map_err(failed)?;
        ControlReply::json(&json!({ "items": listed.iter().map(archive_json).collect::<Vec<_>>() }))
    }

    async fn save(&self) -> Result<ControlReply, Status> {
        let (name, revision) = self.backup.save().await.map_err(failed)?;
        ControlReply::json(&json!({ "name": name, "revision": revision }))
    }
}

/// An archive as commands print it and endpoints send it.
pub(crate) fn archive_json(archive: &Listed) -> serde_json::Value {
    json!({
        "name": archive.name,
        "kind": archive.kind,
        "sizeBytes": archive.size_bytes,
        "clusterId": archive.cluster_id,
        "fromRevision": archive.from,
        "toRevision": archive.to,
        "time": archive.time.to_string(),
    })
}

/// What went wrong, in one line; the cause is the operator's to mend.
fn failed(error: anyhow::Error) -> Status {
    Status::internal(format!("{error:#}"))
}
