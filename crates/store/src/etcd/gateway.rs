//! The JSON gateway: every call as `POST /v3/…` with its request as JSON, by protobuf's JSON rules with the field names of the
//! protocol files. A call becomes a gRPC call to the services of this process, so it passes everything that a call over gRPC
//! passes; answers of streaming calls are JSON values on lines of their own.

use std::convert::Infallible;
use std::sync::{Arc, LazyLock};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, BodyStream, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use parking_lot::Mutex;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use tonic::body::Body;
use tonic::{Code, Status};

use super::json::Splitter;
use super::server::Services;
use super::websocket;

/// Paths under `/v3/`, and the calls they stand for. RangeStream has none, as upstream.
const ROUTES: &[(&str, &str, &str)] = &[
    ("kv/range", "etcdserverpb.KV", "Range"),
    ("kv/put", "etcdserverpb.KV", "Put"),
    ("kv/deleterange", "etcdserverpb.KV", "DeleteRange"),
    ("kv/txn", "etcdserverpb.KV", "Txn"),
    ("kv/compaction", "etcdserverpb.KV", "Compact"),
    ("watch", "etcdserverpb.Watch", "Watch"),
    ("lease/grant", "etcdserverpb.Lease", "LeaseGrant"),
    ("lease/revoke", "etcdserverpb.Lease", "LeaseRevoke"),
    ("kv/lease/revoke", "etcdserverpb.Lease", "LeaseRevoke"),
    ("lease/keepalive", "etcdserverpb.Lease", "LeaseKeepAlive"),
    ("lease/timetolive", "etcdserverpb.Lease", "LeaseTimeToLive"),
    ("kv/lease/timetolive", "etcdserverpb.Lease", "LeaseTimeToLive"),
    ("lease/leases", "etcdserverpb.Lease", "LeaseLeases"),
    ("kv/lease/leases", "etcdserverpb.Lease", "LeaseLeases"),
    ("cluster/member/add", "etcdserverpb.Cluster", "MemberAdd"),
    ("cluster/member/remove", "etcdserverpb.Cluster", "MemberRemove"),
    ("cluster/member/update", "etcdserverpb.Cluster", "MemberUpdate"),
    ("cluster/member/list", "etcdserverpb.Cluster", "MemberList"),
    ("cluster/member/promote", "etcdserverpb.Cluster", "MemberPromote"),
    ("maintenance/alarm", "etcdserverpb.Maintenance", "Alarm"),
    ("maintenance/status", "etcdserverpb.Maintenance", "Status"),
    ("maintenance/defragment", "etcdserverpb.Maintenance", "Defragment"),
    ("maintenance/hash", "etcdserverpb.Maintenance", "Hash"),
    ("maintenance/hashkv", "etcdserverpb.Maintenance", "HashKV"),
    ("maintenance/snapshot", "etcdserverpb.Maintenance", "Snapshot"),
    ("maintenance/transfer-leadership", "etcdserverpb.Maintenance", "MoveLeader"),
    ("maintenance/downgrade", "etcdserverpb.Maintenance", "Downgrade"),
    ("auth/enable", "etcdserverpb.Auth", "AuthEnable"),
    ("auth/disable", "etcdserverpb.Auth", "AuthDisable"),
    ("auth/status", "etcdserverpb.Auth", "AuthStatus"),
    ("auth/authenticate", "etcdserverpb.Auth", "Authenticate"),
    ("auth/user/add", "etcdserverpb.Auth", "UserAdd"),
    ("auth/user/get", "etcdserverpb.Auth", "UserGet"),
    ("auth/user/list", "etcdserverpb.Auth", "UserList"),
    ("auth/user/delete", "etcdserverpb.Auth", "UserDelete"),
    ("auth/user/changepw", "etcdserverpb.Auth", "UserChangePassword"),
    ("auth/user/grant", "etcdserverpb.Auth", "UserGrantRole"),
    ("auth/user/revoke", "etcdserverpb.Auth", "UserRevokeRole"),
    ("auth/role/add", "etcdserverpb.Auth", "RoleAdd"),
    ("auth/role/get", "etcdserverpb.Auth", "RoleGet"),
    ("auth/role/list", "etcdserverpb.Auth", "RoleList"),
    ("auth/role/delete", "etcdserverpb.Auth", "RoleDelete"),
    ("auth/role/grant", "etcdserverpb.Auth", "RoleGrantPermission"),
    ("auth/role/revoke", "etcdserverpb.Auth", "RoleRevokePermission"),
    ("lock/lock", "v3lockpb.Lock", "Lock"),
    ("lock/unlock", "v3lockpb.Lock", "Unlock"),
    ("election/campaign", "v3electionpb.Election", "Campaign"),
    ("election/proclaim", "v3electionpb.Election", "Proclaim"),
    ("election/leader", "v3electionpb.Election", "Leader"),
    ("election/observe", "v3electionpb.Election", "Observe"),
    ("election/resign", "v3electionpb.Election", "Resign"),
];

/// Older spellings of the API's version, rewritten as upstream does.
const PREFIXES: &[&str] = &["/v3/", "/v3beta/"];

static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| {
    const BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    DescriptorPool::decode(BYTES).inspect_err(|error| tracing::error!(%error, "the API's description is broken")).ok()
});

/// The description of the whole API; `None` if it is broken, which the tests rule out.
pub(super) fn pool() -> Option<&'static DescriptorPool> {
    POOL.as_ref()
}

/// A call with the shapes of its messages.
pub(super) struct Call {
    path: String,
    input: MessageDescriptor,
    output: MessageDescriptor,
    streams_in: bool,
    streams_out: bool,
}

/// The part of a path that names a call, if it is one of the gateway's.
pub(super) fn route(path: &str) -> Option<&str> {
    PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix))
}

pub(super) async fn serve(services: &Services, request: Request<Incoming>) -> Response<Body> {
    let name = route(request.uri().path()).unwrap_or_default().trim_end_matches('/');
    let Some(call) = find(name) else { return refuse(&Status::not_found("Not Found")) };
    if websocket::is_wanted(request.headers()) {
        return websocket::serve(services, call, request);
    }
    if request.method() != Method::POST {
        return refuse(&Status::unimplemented("Method Not Allowed"));
    }
    let (head, body) = request.into_parts();
    if call.streams_in {
        let parts = BodyStream::new(body).map(|part| match part {
            Ok(part) => Ok(part.into_data().unwrap_or_default()),
            Err(error) => Err(error.to_string()),
        });
        return ask(services, call, &head.headers, parts).await;
    }
    let body = match Limited::new(body, services.json_bytes_max()).collect().await {
        Ok(body) => to_proto(&call.input, &body.to_bytes()),
        Err(error) => Err(Status::invalid_argument(error.to_string())),
    };
    let answered = match body {
        Ok(message) => {
            pass_on(services, call, &head.headers, Body::new(Full::new(frame(&message))), Broken::default()).await
        }
        Err(status) => Err(status),
    };
    answered.unwrap_or_else(|status| refuse(&status))
}

/// Makes a call whose request is JSON objects, one after the other; the first if it takes one only.
pub(super) async fn ask(
    services: &Services,
    call: Call,
    headers: &HeaderMap,
    parts: impl Stream<Item = Result<Bytes, String>> + Send + Unpin + 'static,
) -> Response<Body> {
    let broken = Broken::default();
    let n_messages = if call.streams_in { usize::MAX } else { 1 };
    let messages = messages(parts, call.input.clone(), services.json_bytes_max(), broken.clone()).take(n_messages);
    let answered = pass_on(services, call, headers, Body::new(StreamBody::new(messages)), broken).await;
    answered.unwrap_or_else(|status| refuse(&status))
}

fn find(name: &str) -> Option<Call> {
    let (_, service, method) = ROUTES.iter().find(|(route, ..)| *route == name)?;
    let service = POOL.as_ref()?.get_service_by_name(service)?;
    let method = service.methods().find(|found| found.name() == *method)?;
    Some(Call {
        path: format!("/{}/{}", service.full_name(), method.name()),
        input: method.input(),
        output: method.output(),
        streams_in: method.is_client_streaming(),
        streams_out: method.is_server_streaming(),
    })
}

async fn pass_on(
    services: &Services,
    call: Call,
    headers: &HeaderMap,
    body: Body,
    broken: Broken,
) -> Result<Response<Body>, Status> {
    let mut inner = Request::new(body);
    *inner.method_mut() = Method::POST;
    *inner.uri_mut() = call.path.parse().map_err(|_impossible| Status::internal("malformed path"))?;
    *inner.headers_mut() = metadata(headers);
    let Ok(answering) = services.call_grpc(inner) else { return Err(Status::unimplemented("unknown service")) };
    let Ok(response) = answering.await;
    if let Some(status) = Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok) {
        return Err(broken.take().unwrap_or(status));
    }
    if call.streams_out {
        let lines = lines(response.into_body(), call.output, broken);
        return Ok(answer(StatusCode::OK, Body::new(StreamBody::new(lines))));
    }
    let mut answers = Box::pin(replies(response.into_body()));
    let message = answers.next().await.ok_or_else(|| Status::internal("the call ended without an answer"))??;
    Ok(answer(StatusCode::OK, Body::new(Full::new(Bytes::from(to_json(&call.output, message)?)))))
}

/// Headers that mean something to the services: who asks, and what HTTP clients pass on as gRPC metadata. The certificate of the
/// connection counts for nothing here, as upstream, where the gateway is a client with a certificate of its own.
fn metadata(headers: &HeaderMap) -> HeaderMap {
    const PASSED_ON: &str = "grpc-metadata-";
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let passed_on = name.as_str().strip_prefix(PASSED_ON).filter(|name| !name.starts_with("grpc-"));
        let name = match passed_on {
            Some(name) => HeaderName::from_bytes(name.as_bytes()).ok(),
            None => (name == header::AUTHORIZATION).then(|| name.clone()),
        };
        if let Some(name) = name {
            metadata.append(name, value.clone());
        }
    }
    metadata.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    metadata.insert(header::TE, HeaderValue::from_static("trailers"));
    metadata
}

// Messages inward.

fn to_proto(descriptor: &MessageDescriptor, json: &[u8]) -> Result<Vec<u8>, Status> {
    use prost::Message;
    if json.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(descriptor.clone(), &mut deserializer, &options);
    let message = message.map_err(|error| Status::invalid_argument(format!("proto: {error}")))?;
    Ok(message.encode_to_vec())
}

/// A message as gRPC frames it: not compressed, its length, itself.
fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(message);
    framed.freeze()
}

/// What was wrong with a stream of requests, for the end of the stream of answers.
#[derive(Clone, Debug, Default)]
struct Broken(Arc<Mutex<Option<Status>>>);

impl Broken {
    fn set(&self, status: Status) {
        *self.0.lock() = Some(status);
    }

    fn take(&self) -> Option<Status> {
        self.0.lock().take()
    }
}

/// The JSON objects in what comes, one after the other, each as soon as it is whole.
fn messages(
    parts: impl Stream<Item = Result<Bytes, String>> + Send + Unpin,
    descriptor: MessageDescriptor,
    bytes_max: usize,
    broken: Broken,
) -> impl Stream<Item = Result<Frame<Bytes>, Status>> + Send {
    let state = (parts, Splitter::new(bytes_max), false);
    futures::stream::unfold(state, move |(mut parts, mut splitter, is_over)| {
        let (descriptor, broken) = (descriptor.clone(), broken.clone());
        async move {
            if is_over {
                return None;
            }
            loop {
                let object = match splitter.next() {
                    Ok(object) => object,
                    Err(what) => {
                        broken.set(Status::invalid_argument(what));
                        return Some((Err(Status::invalid_argument(what)), (parts, splitter, true)));
                    }
                };
                if let Some(object) = object {
                    let message = to_proto(&descriptor, &object).inspect_err(|status| broken.set(status.clone()));
                    let is_over = message.is_err();
                    return Some((message.map(|message| Frame::data(frame(&message))), (parts, splitter, is_over)));
                }
                match parts.next().await? {
                    Ok(part) => splitter.push(&part),
                    Err(error) => return Some((Err(Status::cancelled(error)), (parts, splitter, true))),
                }
            }
        }
    })
}

// Messages outward.

fn to_json(descriptor: &MessageDescriptor, message: Bytes) -> Result<Vec<u8>, Status> {
    let message = DynamicMessage::decode(descriptor.clone(), message);
    let message = message.map_err(|error| Status::internal(error.to_string()))?;
    let mut json = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut json);
    let options = SerializeOptions::new().use_proto_field_name(true);
    message.serialize_with_options(&mut serializer, &options).map_err(|error| Status::internal(error.to_string()))?;
    Ok(json)
}

/// The messages of a gRPC response; an error that its trailers tell comes last.
fn replies(body: Body) -> impl Stream<Item = Result<Bytes, Status>> + Send {
    let state = Some((BodyStream::new(body), BytesMut::new()));
    futures::stream::unfold(state, |state| async move {
        let (mut body, mut pending) = state?;
        loop {
            if let Some(message) = take_frame(&mut pending) {
                return Some((Ok(message), Some((body, pending))));
            }
            let part = match body.next().await? {
                Ok(part) => part,
                Err(status) => return Some((Err(status), None)),
            };
            match part.into_data() {
                Ok(data) => pending.extend_from_slice(&data),
                Err(part) => {
                    let status = part.trailers_ref().and_then(Status::from_header_map);
                    let status = status.filter(|status| status.code() != Code::Ok)?;
                    return Some((Err(status), None));
                }
            }
        }
    })
}

fn take_frame(pending: &mut BytesMut) -> Option<Bytes> {
    let len = pending.get(1..5)?.get_u32() as usize;
    if pending.len() < 5 + len {
        return None;
    }
    pending.advance(5);
    Some(pending.split_to(len).freeze())
}

fn lines(
    body: Body,
    descriptor: MessageDescriptor,
    broken: Broken,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send {
    let answers = replies(body).map(move |reply| reply.and_then(|message| to_json(&descriptor, message)));
    // The stream of answers ends quietly when that of the requests broke; its client is told why.
    let last = futures::stream::once(async move { broken.take() }).filter_map(|broken| async { broken.map(Err) });
    answers.chain(last).map(|answer| {
        let line = match answer {
            Ok(json) => [b"{\"result\":", &json[..], b"}\n"].concat(),
            Err(status) => [b"{\"error\":", error_json(&status).as_bytes(), b"}\n"].concat(),
        };
        Ok(Frame::data(line.into()))
    })
}

fn answer(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("grpc-metadata-content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn error_json(status: &Status) -> String {
    let code = i32::from(status.code());
    let message = serde_json::Value::from(status.message());
    format!("{{\"code\":{code},\"message\":{message}}}")
}

fn refuse(status: &Status) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(error_json(status)))));
    *response.status_mut() = http_status(status.code());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status.code() == Code::Unauthenticated
        && let Ok(challenge) = HeaderValue::from_str(status.message())
    {
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// The HTTP status of a gRPC code, as grpc-gateway has it.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_a_call_of_the_api_and_every_call_but_one_has_a_route() {
        let missing: Vec<_> = ROUTES.iter().filter(|(route, ..)| find(route).is_none()).collect();
        assert!(missing.is_empty(), "{missing:?}");
        let pool = POOL.as_ref().unwrap();
        let mut unreachable = Vec::new();
        for service in pool.services().filter(|service| service.full_name() != "grpc.health.v1.Health") {
            for method in service.methods() {
                let has_route =
                    ROUTES.iter().any(|(_, name, call)| *name == service.full_name() && *call == method.name());
                if !has_route {
                    unreachable.push(method.full_name().to_owned());
                }
            }
        }
        assert_eq!(unreachable, ["etcdserverpb.KV.RangeStream"]);
    }

    fn there_and_back(route: &str, json: &str) -> Result<String, String> {
        let descriptor = find(route).unwrap().input;
        let proto = to_proto(&descriptor, json.as_bytes()).map_err(|status| status.message().to_owned())?;
        Ok(String::from_utf8(to_json(&descriptor, proto.into()).unwrap()).unwrap())
    }

    #[test]
    fn json_follows_protobufs_rules() {
        let cases = [
            ("kv/put", r#"{"key":"Zm9v","value":"YmFy","lease":"7"}"#, r#"{"key":"Zm9v","value":"YmFy","lease":"7"}"#),
            ("kv/put", r#"{"key":"Zm9v","lease":7,"prevKv":true}"#, r#"{"key":"Zm9v","lease":"7","prev_kv":true}"#),
            ("kv/put", r#"{"key":"_-8","unknown":{"a":[1]}}"#, r#"{"key":"/+8="}"#),
            ("kv/put", "", "{}"),
            (
                "kv/range",
                r#"{"sort_order":"DESCEND","sort_target":2}"#,
                r#"{"sort_order":"DESCEND","sort_target":"CREATE"}"#,
            ),
            (
                "auth/role/grant",
                r#"{"name":"r","perm":{"permType":"READWRITE"}}"#,
                r#"{"name":"r","perm":{"permType":"READWRITE"}}"#,
            ),
            ("lease/grant", r#"{"TTL":60,"ID":"0"}"#, r#"{"TTL":"60"}"#),
        ];
        for (route, json, expected) in cases {
            assert_eq!(there_and_back(route, json).as_deref(), Ok(expected), "{route} {json}");
        }
        for wrong in ["{", "[]", "7", r#"{"key":1}"#, r#"{"key":"%"}"#, r#"{"lease":"x"}"#] {
            assert!(there_and_back("kv/put", wrong).is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn hostile_json_is_refused_and_never_panics(json in "[\\[\\]{}\":,a-z0-9\\\\ ]{0,80}", route in 0..ROUTES.len()) {
            let call = find(ROUTES[route].0).unwrap();
            let _refused_or_not = to_proto(&call.input, json.as_bytes());
        }

        #[test]
        fn hostile_messages_are_refused_and_never_panic(bytes: Vec<u8>, route in 0..ROUTES.len()) {
            let call = find(ROUTES[route].0).unwrap();
            let _refused_or_not = to_json(&call.output, bytes.into());
        }
    }

    #[test]
    fn http_statuses_are_grpc_gateways() {
        let status = |code| http_status(code).as_u16();
        let codes =
            [(0, 200), (1, 499), (2, 500), (3, 400), (5, 404), (7, 403), (9, 400), (11, 400), (14, 503), (16, 401)];
        for (code, expected) in codes {
            assert_eq!(status(Code::from_i32(code)), expected, "{code}");
        }
    }
}
