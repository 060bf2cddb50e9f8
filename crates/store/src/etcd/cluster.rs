//! The Cluster service: who the members are. Its headers carry no revision.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::shared::Shared;
use crate::Revision;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::cluster_server::Cluster;

const CHANGED_ELSEWHERE: &str =
    "members are added and removed by starting them with a join token, not through this API";

pub(super) struct ClusterService(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        if request.get_ref().linearizable {
            self.0.admit(&request)?;
            self.0.store.current_revision().await?;
        }
        let members = self.0.store.members().await?.into_iter().map(Into::into).collect();
        Ok(Response::new(pb::MemberListResponse { header: self.0.header(Revision(0)), members }))
    }

    async fn member_add(&self, _: Request<pb::MemberAddRequest>) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(Status::unimplemented(CHANGED_ELSEWHERE))
    }

    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(Status::unimplemented(CHANGED_ELSEWHERE))
    }

    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(Status::unimplemented(CHANGED_ELSEWHERE))
    }

    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(Status::unimplemented(CHANGED_ELSEWHERE))
    }
}
