//! DefaultBinder: posts the pod's `binding` subresource.

use std::sync::Arc;

use futures::future::BoxFuture;
use http::Request;
use serde_json::{Value, json};

use super::PluginArgs;
use crate::framework::{Bind, BindContext, ExtensionPoints, Plugin, Status, api_text};
use crate::model::PodInfo;

pub(super) const NAME: &str = "DefaultBinder";

struct DefaultBinder;

pub(super) fn extend(_: &PluginArgs, points: &mut ExtensionPoints) {
    points.at_bind(&Arc::new(DefaultBinder));
}

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        NAME
    }
}

impl Bind for DefaultBinder {
    fn bind<'a>(&'a self, ctx: &'a BindContext, pod: &'a PodInfo, node: &'a str) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let error = |error: &dyn std::fmt::Display| Status::error(NAME, error.to_string());
            let binding = json!({
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"namespace": &*pod.namespace, "name": &*pod.name, "uid": &*pod.uid},
                "target": {"kind": "Node", "name": node},
            });
            let body = serde_json::to_vec(&binding).map_err(|e| error(&e))?;
            let request = Request::post(format!("/api/v1/namespaces/{}/pods/{}/binding", pod.namespace, pod.name))
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(body)
                .map_err(|e| error(&e))?;
            ctx.client
                .request::<Value>(request)
                .await
                .map(drop)
                .map_err(|refused| Status::error(NAME, api_text(refused)))
        })
    }
}
