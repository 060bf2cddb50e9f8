//! Endpoints of the master as a whole, beside the Kubernetes API: everything below `/quarterdeck/`.
//!
//! The binary knows members, backups and certificates; the gateway only lends its door. A call has passed authentication and
//! authorization (as a non-resource path, so it needs cluster-admin's `*` or a rule that names the path) before it gets here,
//! except below [`OPEN`], where the caller has no identity yet and proves itself by what it sends.

use ::bytes::Bytes;
use api::Status;
use async_trait::async_trait;
use http::{Method, Response};

use crate::attributes::UserInfo;
use crate::http::{ResponseBody, body};
use crate::metrics::Counted;

/// Where the endpoints are.
pub const PREFIX: &str = "/quarterdeck/";
/// Below this no authorization is asked: whoever answers checks a secret in the request.
pub const OPEN: &str = "/quarterdeck/v1/join/";

/// Answers what is below [`PREFIX`].
#[async_trait]
pub trait Control: Counted + std::fmt::Debug + 'static {
    /// `None` when there is no such endpoint.
    async fn call(&self, call: ControlCall) -> Option<Result<ControlReply, Status>>;
}

/// A request to an endpoint.
#[derive(Debug)]
pub struct ControlCall {
    pub method: Method,
    /// The part of the path after [`PREFIX`].
    pub path: String,
    /// Query parameters in the order given, decoded.
    pub query: Vec<(String, String)>,
    pub user: UserInfo,
    /// At most the size any request may have.
    pub body: Bytes,
}

impl ControlCall {
    /// The first query parameter of a name.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What an endpoint answers with.
#[derive(Debug)]
pub struct ControlReply {
    pub code: u16,
    pub content_type: &'static str,
    pub body: ResponseBody,
}

impl ControlReply {
    /// 200 with a JSON document.
    pub fn json(document: &impl serde::Serialize) -> Result<Self, Status> {
        let document = serde_json::to_vec(document).map_err(Status::internal)?;
        Ok(Self { code: 200, content_type: "application/json", body: body::full(document) })
    }

    /// 200 with bytes that are made while they are sent. An error cuts the response, which the client notices.
    pub fn stream(chunks: impl futures::Stream<Item = Result<Bytes, body::BoxError>> + Send + 'static) -> Self {
        Self { code: 200, content_type: "application/octet-stream", body: body::fallible_stream(chunks) }
    }

    pub(crate) fn into_response(self) -> Response<ResponseBody> {
        crate::gateway::respond(self.code, self.content_type, self.body)
    }
}
