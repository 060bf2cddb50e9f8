//! The gRPC health service: the server as a whole, under the empty name.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::shared::{Shared, State};
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_server::Health;
use crate::proto::health::{HealthCheckRequest, HealthCheckResponse};

pub(super) struct HealthService(pub(super) Arc<Shared>);

fn serving(state: State) -> HealthCheckResponse {
    let status = if state.closing { ServingStatus::NotServing } else { ServingStatus::Serving };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !request.get_ref().service.is_empty() {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(serving(*self.0.states().borrow())))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = request.get_ref().service.is_empty();
        let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
        let mut last = None;
        let changes = WatchStream::new(self.0.states()).filter_map(move |state| {
            let now = if known { serving(state) } else { unknown };
            let changed = last.replace(now) != Some(now);
            futures::future::ready(changed.then_some(Ok(now)))
        });
        Ok(Response::new(changes.boxed()))
    }
}
