//! What is recorded of one request, growing while it is worked on.

use std::net::IpAddr;
use std::sync::Arc;

use ::bytes::Bytes;
use api::codec::{protobuf, yaml};
use api::json;
use api::{Status, Value, meta};
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use parking_lot::Mutex;

use super::event::{Event, ObjectReference, User};
use super::policy::{Level, Stage, Wanted};
use super::{Audit, request_uri, source_ips};
use crate::attributes::{Action, UserInfo};
use crate::authz::Decision;
use crate::http::ResponseBody;
use crate::http::body::{self, BoxError};

/// Bytes of an answer that are recorded; a longer one is left out.
const RESPONSE_BYTES_MAX: usize = 32 << 20;
/// Bytes of a client's name for itself that are recorded, upstream's number.
const USER_AGENT_BYTES_MAX: usize = 1024;

/// What a request begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub id: &'a str,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    /// `None` within the process.
    pub peer: Option<IpAddr>,
}

/// The record of one request.
pub(crate) struct Trail {
    audit: Arc<Audit>,
    wanted: Wanted,
    /// A watch, or a stream to a pod: its answer begins long before it ends.
    is_long: bool,
    may_delete: bool,
    event: Mutex<Event>,
}

impl std::fmt::Debug for Trail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trail").field("id", &self.event.lock().audit_id).finish_non_exhaustive()
    }
}

fn now() -> String {
    let now = jiff::Timestamp::now();
    now.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

impl Trail {
    pub(super) fn new(audit: Arc<Audit>, wanted: Wanted, head: Head<'_>, user: &UserInfo, action: &Action) -> Self {
        let mut user_agent = head.headers.get(USER_AGENT).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        if let Some(agent) = user_agent.as_mut().filter(|agent| agent.len() > USER_AGENT_BYTES_MAX) {
            let end = (0..=USER_AGENT_BYTES_MAX).rev().find(|at| agent.is_char_boundary(*at)).unwrap_or(0);
            agent.truncate(end);
            agent.push_str("...TRUNCATED");
        }
        let (verb, object_ref) = match action {
            Action::NonResource { verb, .. } => (verb, None),
            Action::Resource { verb, group, version, resource, subresource, namespace, name } => {
                let object_ref = ObjectReference {
                    resource: resource.clone(),
                    namespace: namespace.clone(),
                    name: name.clone(),
                    api_group: group.clone(),
                    api_version: version.clone(),
                    subresource: subresource.clone(),
                    ..ObjectReference::default()
                };
                (verb, Some(object_ref))
            }
        };
        let is_long = action.is_long_running();
        let event = Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: wanted.level.name(),
            audit_id: head.id.to_owned(),
            request_uri: request_uri(head.uri),
            verb: verb.clone(),
            user: User::from(user),
            source_ips: source_ips(head.headers, head.peer),
            user_agent: user_agent.unwrap_or_default(),
            object_ref,
            request_received_timestamp: now(),
            ..Event::default()
        };
        let may_delete = verb.starts_with("delete");
        Self { audit, wanted, is_long, may_delete, event: Mutex::new(event) }
    }

    pub(crate) fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.event.lock().annotations.entry(key.into()).or_insert_with(|| value.into());
    }

    pub(crate) fn impersonates(&self, user: &UserInfo) {
        self.event.lock().impersonated_user = Some(User::from(user));
    }

    pub(crate) fn decided(&self, decision: &Decision) {
        self.annotate("authorization.k8s.io/decision", if decision.allowed { "allow" } else { "forbid" });
        self.annotate("authorization.k8s.io/reason", decision.reason.text());
    }

    /// The object that the client sent, decoded and with its defaults.
    pub(crate) fn request_object(&self, object: &Value) {
        let mut event = self.event.lock();
        if let Some(of) = event.object_ref.as_mut() {
            let fill = |field: &mut String, value: &str| {
                if field.is_empty() {
                    *field = value.to_owned();
                }
            };
            fill(&mut of.namespace, meta::namespace(object));
            fill(&mut of.name, meta::name(object));
            fill(&mut of.uid, meta::uid(object));
            fill(&mut of.resource_version, meta::resource_version(object));
        }
        if self.wanted.level >= Level::Request {
            event.request_object = Some(self.shown(object.clone()));
        }
    }

    /// A patch, or options: as the client sent it.
    pub(crate) fn request_body(&self, body: &Bytes) {
        if self.wanted.level < Level::Request || body.is_empty() {
            return;
        }
        let mut parsed: Option<Value> = Value::from_json(body).ok().or_else(|| decoded("", body));
        if self.may_delete
            && let Some(Value::Object(options)) = &mut parsed
        {
            options.entry("kind").or_insert_with(|| "DeleteOptions".into());
            options.entry("apiVersion").or_insert_with(|| "meta.k8s.io/v1".into());
        }
        self.event.lock().request_object = parsed;
    }

    /// Without what the policy leaves out.
    fn shown(&self, mut object: Value) -> Value {
        if self.wanted.omit_managed_fields {
            drop_managed_fields(&mut object);
            let mut each = |list: &str, drop: fn(&mut Value)| {
                object.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().for_each(drop);
            };
            each("items", drop_managed_fields);
            each("rows", |row| row.get_mut("object").into_iter().for_each(drop_managed_fields));
        }
        object
    }

    fn stage(&self, stage: Stage) -> Option<Event> {
        if self.wanted.omit_stages.contains(&stage) {
            return None;
        }
        let mut event = self.event.lock();
        event.stage = stage.name();
        event.stage_timestamp = match stage {
            Stage::RequestReceived => event.request_received_timestamp.clone(),
            _ => now(),
        };
        self.audit.metrics.event();
        Some(event.clone())
    }

    /// The first stage. An error: the request must not go on unrecorded.
    pub(crate) async fn received(&self) -> Result<(), Status> {
        let Some(event) = self.stage(Stage::RequestReceived) else { return Ok(()) };
        if self.audit.sink.process(&event).await {
            return Ok(());
        }
        self.audit.metrics.rejected();
        Err(Status::internal("failed to store audit event"))
    }

    /// Credentials that were not good: one event, without the other stages.
    pub(crate) async fn unauthenticated(&self, headers: &HeaderMap, shows_certificate: bool) {
        let scheme = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).map(str::trim).unwrap_or("");
        let scheme = scheme.split(' ').next().unwrap_or("").to_ascii_lowercase();
        let tried: Vec<&str> =
            [(scheme == "basic", "basic"), (scheme == "bearer", "bearer"), (shows_certificate, "x509")]
                .iter()
                .filter_map(|(tried, name)| tried.then_some(*name))
                .collect();
        let message = match tried.is_empty() {
            true => "Authentication failed, no credentials provided".to_owned(),
            false => format!("Authentication failed, attempted: {}", tried.join(", ")),
        };
        {
            let mut event = self.event.lock();
            event.response_status = Some(json!({"metadata": {}, "message": message, "code": 401}));
            event.user = User::default();
        }
        if let Some(event) = self.stage(Stage::ResponseStarted) {
            self.audit.sink.process(&event).await;
        }
    }

    /// The last stages: at once for an answer that is whole, with its last byte for one that streams.
    pub(crate) async fn finish(self: Arc<Self>, response: Response<ResponseBody>) -> Response<ResponseBody> {
        let code = response.status().as_u16();
        let wants_body = !self.is_long
            && (self.wanted.level == Level::RequestResponse || response.status().as_u16() >= 400 || self.may_delete);
        let response = if wants_body { self.read(response).await } else { response };
        {
            let mut event = self.event.lock();
            let status = event.response_status.get_or_insert_with(|| json!({"metadata": {}}));
            status["code"] = code.into();
        }
        if self.is_long
            && let Some(event) = self.stage(Stage::ResponseStarted)
        {
            self.audit.sink.process(&event).await;
        }
        if !self.is_long && response.body().size_hint().exact().is_some() {
            if let Some(event) = self.stage(Stage::ResponseComplete) {
                self.audit.sink.process(&event).await;
            }
            return response;
        }
        response.map(|answer| Followed { answer, _until_the_end: Ending(self) }.boxed_unsync())
    }

    /// Looks into an answer: what it says of itself when it is a Status, and the object where that is wanted.
    async fn read(&self, response: Response<ResponseBody>) -> Response<ResponseBody> {
        let (head, mut answer) = response.into_parts();
        let mut chunks: Vec<Bytes> = Vec::new();
        let mut size = 0;
        while size <= RESPONSE_BYTES_MAX {
            match answer.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        size += data.len();
                        chunks.push(data);
                    }
                }
                Some(Err(error)) => {
                    let read = futures::stream::iter(chunks.into_iter().map(|chunk| Ok(Frame::data(chunk))));
                    let cut = futures::stream::iter([Err(error)]);
                    return Response::from_parts(
                        head,
                        StreamBody::new(futures::StreamExt::chain(read, cut)).boxed_unsync(),
                    );
                }
                None => {
                    let whole: Bytes = match chunks.len() {
                        1 => chunks.swap_remove(0),
                        _ => chunks.concat().into(),
                    };
                    let content_type = head.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
                    if let Some(object) = decoded(content_type, &whole) {
                        self.answered(object);
                    }
                    return Response::from_parts(head, body::full(whole));
                }
            }
        }
        let read = futures::stream::iter(chunks.into_iter().map(|chunk| Ok(Frame::data(chunk))));
        let all = futures::StreamExt::chain(read, BodyStream::new(answer));
        Response::from_parts(head, StreamBody::new(all).boxed_unsync())
    }

    fn answered(&self, object: Value) {
        let mut event = self.event.lock();
        if object["kind"] == "Status" && object["apiVersion"] == "v1" {
            let mut status = json!({"metadata": {}});
            for field in ["status", "message", "reason", "details", "code"] {
                if !object[field].is_null() {
                    status[field] = object[field].clone();
                }
            }
            event.response_status = Some(status);
        }
        if self.wanted.level == Level::RequestResponse {
            event.response_object = Some(self.shown(object));
        }
    }
}

/// The request ended, whichever way: at the end of its answer's body, with the client's connection, or in a panic.
struct Ending(Arc<Trail>);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(event) = self.0.stage(Stage::ResponseComplete) {
            self.0.audit.sink.process_later(&event);
        }
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.event.lock().response_status = Some(json!({
                "metadata": {}, "status": "Failure", "reason": "InternalError", "message": "apiserver panic'd", "code": 500,
            }));
            if let Some(event) = self.stage(Stage::Panic) {
                self.audit.sink.process_later(&event);
            }
        }
    }
}

/// A body whose end is recorded.
struct Followed {
    answer: ResponseBody,
    _until_the_end: Ending,
}

impl Body for Followed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        std::pin::Pin::new(&mut self.answer).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}

fn drop_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// A body as a tree, whatever it is encoded in; `None` for what is no object.
fn decoded(content_type: &str, bytes: &[u8]) -> Option<Value> {
    let object = if protobuf::is_enveloped(bytes) {
        protobuf::decode_object(bytes).ok()?
    } else if content_type.is_empty() || content_type.contains("yaml") {
        yaml::parse(bytes).ok()?.value
    } else {
        Value::from_json(bytes).ok()?
    };
    object.is_object().then_some(object)
}
