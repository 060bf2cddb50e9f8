//! Subresources that a kubelet answers (logs, exec, port-forward, proxies).

use api::Status;
use api::status::GroupResource;

use crate::gateway::Gateway;
use crate::verbs::{self, Reply, Request};

/// Subresources whose answer lies on a node.
const PROXIED: [&str; 5] = ["log", "exec", "attach", "portforward", "proxy"];

pub(crate) fn is_proxied(subresource: &str) -> bool {
    PROXIED.contains(&subresource)
}

/// Says what is missing: the object, its node, or a way to the node.
pub(crate) async fn refuse(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    let object = verbs::read(gateway, &request.for_subresource(""), "").await?;
    let object = object.parse().map_err(crate::error::from_read)?;
    let node = object.pointer("/spec/nodeName").and_then(api::Value::as_str).unwrap_or("");
    if request.kind.resource == "pods" && node.is_empty() {
        let pod = api::meta::name(&object);
        let text = match request.subresource.as_str() {
            // Upstream finds nothing to read yet and says so with an empty log.
            "log" => return Ok(Reply::text(200, "")),
            _ => format!("pod {pod} does not have a host assigned"),
        };
        return Err(Status::bad_request(text));
    }
    let resource = GroupResource::from(request.kind.as_ref());
    Err(Status::service_unavailable(&format!(
        "this server does not connect to kubelets: {}/{} cannot be served",
        resource.resource, request.subresource
    )))
}
