//! The Cluster service: who the members are. Its headers carry no revision.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::shared::Shared;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::cluster_server::Cluster;
use crate::{Member, Revision};

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
        let members = self.0.store_for(&request).members().await?.into_iter().map(Into::into).collect();
        Ok(Response::new(pb::MemberListResponse { header: self.0.header(Revision(0)), members }))
    }

    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        self.0.admit(&request)?;
        let store = self.0.store_for(&request);
        let pb::MemberAddRequest { peer_ur_ls, is_learner } = request.into_inner();
        let (member, members) = store.member_add(peer_ur_ls, is_learner).await?;
        let (header, members) = self.members(members);
        Ok(Response::new(pb::MemberAddResponse { header, member: Some(member.into()), members }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.0.admit(&request)?;
        let (header, members) = self.members(self.0.store_for(&request).member_remove(request.into_inner().id).await?);
        Ok(Response::new(pb::MemberRemoveResponse { header, members }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        self.0.admit(&request)?;
        let store = self.0.store_for(&request);
        let pb::MemberUpdateRequest { id, peer_ur_ls } = request.into_inner();
        let (header, members) = self.members(store.member_update(id, peer_ur_ls).await?);
        Ok(Response::new(pb::MemberUpdateResponse { header, members }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.0.admit(&request)?;
        let (header, members) = self.members(self.0.store_for(&request).member_promote(request.into_inner().id).await?);
        Ok(Response::new(pb::MemberPromoteResponse { header, members }))
    }
}

impl ClusterService {
    fn members(&self, members: Vec<Member>) -> (Option<pb::ResponseHeader>, Vec<pb::Member>) {
        (self.0.header(Revision(0)), members.into_iter().map(Into::into).collect())
    }
}
