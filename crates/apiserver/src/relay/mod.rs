//! Requests that somebody else answers: kubelets (logs, exec, attach, port-forward), pods, services and nodes behind `proxy`.
//!
//! [`pod`] reads the options and says what a kubelet is to be asked, [`kubelet`] finds the kubelet, [`location`] finds what a
//! proxy subresource points at; all from values. [`forward`] carries the bytes ([`frames`] those of logs over a WebSocket), of which
//! nothing is kept here: bodies stream in both directions, and an upgraded connection (WebSocket, SPDY) is copied until one side
//! is done. For kubelets that understand SPDY only, [`translate`] and [`tunnel`] take clients' WebSockets apart ([`websocket`]).

pub(crate) mod forward;
mod frames;
mod html;
pub(crate) mod kubelet;
mod location;
mod pod;
#[cfg(test)]
mod session_tests;
mod translate;
mod tunnel;
mod websocket;

use api::status::GroupResource;
use api::{ErrorList, Status, Value};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Response, Uri};
use http_body_util::BodyExt as _;

use crate::admit;
use crate::attributes::Action;
use crate::gateway::{Gateway, respond};
use crate::http::ResponseBody;
use crate::http::body;
use crate::http::path::percent_decode;
use crate::outbound::{self, OutboundError, url_error};
use crate::verbs::{self, Request};
use forward::{Forward, Raw};

/// Subresources whose answer lies elsewhere.
const RELAYED: [&str; 5] = ["log", "exec", "attach", "portforward", "proxy"];
/// Bytes of a kubelet's error text; upstream's `maxReadLength`.
const ERROR_BYTES_MAX: usize = 50_000;

pub(crate) fn is_relayed(resource: &str, subresource: &str) -> bool {
    matches!(resource, "pods" | "services" | "nodes") && RELAYED.contains(&subresource)
}

/// A request on its way through, as it came.
#[derive(Debug)]
pub(crate) struct Passing {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub raw: Raw,
}

/// Answers a request for a relayed subresource.
pub(crate) async fn answer(
    gateway: &Gateway,
    request: &Request,
    passing: Passing,
) -> Result<Response<ResponseBody>, Status> {
    match request.subresource.as_str() {
        "log" => log(gateway, request, passing).await,
        "proxy" => proxy(gateway, request, passing).await,
        _ => stream(gateway, request, passing).await,
    }
}

/// The pod or other object that the request names.
async fn object(gateway: &Gateway, request: &Request) -> Result<Value, Status> {
    let object = verbs::read(gateway, &request.for_subresource(""), "").await?;
    object.parse().map_err(crate::error::from_read)
}

async fn log(gateway: &Gateway, request: &Request, passing: Passing) -> Result<Response<ResponseBody>, Status> {
    let options = pod::LogOptions::from_query(&request.query)?;
    let mut errors = ErrorList::new();
    options.validate(&mut errors);
    if !errors.is_empty() {
        return Err(Status::invalid("", "PodLogOptions", &request.name, &errors));
    }
    let pod = object(gateway, request).await?;
    let container = pod::container(&pod, &options.container)?;
    let Some(node) = pod::node(&pod) else {
        // A pod that nobody runs has nothing to say yet.
        let mut response = respond(204, "text/plain", body::full(""));
        response.headers_mut().remove(CONTENT_TYPE);
        return Ok(response);
    };
    let kubelet = gateway.kubelets.find(gateway.cache.as_ref(), node)?;
    let path = format!("/containerLogs/{}/{}/{container}", request.namespace, request.name);
    let url = kubelet.url(&path, &options.query());
    let tls = kubelet.tls(options.insecure_skip_tls_verify_backend);
    let outgoing = forward::get(&url).map_err(Status::internal)?;
    let answered = gateway.outbound.send(Some(&tls), outgoing).await;
    let answered = answered.map_err(|error| Status::unknown(url_error(&Method::GET, &url, &error)))?;
    if !(200..=206).contains(&answered.status().as_u16()) {
        return Err(refusal(request, answered).await);
    }
    let incoming = answered.into_body();
    if let Some((messages, upgrade)) = frames::Messages::of(&passing.headers).zip(passing.raw.upgrade) {
        return Ok(messages.answer(upgrade, incoming, gateway.shutdown.clone()));
    }
    Ok(respond(200, "text/plain", incoming.map_err(Into::into).boxed_unsync()))
}

/// A kubelet's refusal, in the words of the API.
async fn refusal(request: &Request, response: Response<hyper::body::Incoming>) -> Status {
    let code = response.status().as_u16();
    let limited = http_body_util::Limited::new(response.into_body(), ERROR_BYTES_MAX).collect().await;
    let text = limited.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
    match code {
        500 => Status::internal(text),
        400 => Status::bad_request(text),
        _ => {
            let resource = format!("{}/{}", request.kind.resource, request.subresource);
            let of = (GroupResource { group: "", resource: &resource }, request.name.as_str());
            Status::of_response(code, "", Some(of), &text)
        }
    }
}

/// exec, attach, portforward: an upgraded connection to the kubelet.
async fn stream(gateway: &Gateway, request: &Request, mut passing: Passing) -> Result<Response<ResponseBody>, Status> {
    let options = admit::connect(gateway, request, pod::stream_options(&request.subresource, &request.query)?).await?;
    // Whoever may only read must not get a shell by asking for a WebSocket, whose method is GET.
    if passing.method == Method::GET {
        require(gateway, request, "create")?;
    }
    let pod = object(gateway, request).await?;
    let path = match request.subresource.as_str() {
        "portforward" => format!("/portForward/{}/{}", request.namespace, request.name),
        sub => {
            let container = pod::container(&pod, options["container"].as_str().unwrap_or(""))?;
            format!("/{sub}/{}/{}/{container}", request.namespace, request.name)
        }
    };
    let Some(node) = pod::node(&pod) else {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", request.name)));
    };
    let kubelet = gateway.kubelets.find(gateway.cache.as_ref(), node)?;
    let url = kubelet.url(&path, &pod::stream_query(&options));
    let forward = Forward { url, tls: Some(kubelet.tls(false)), upgrade_required: true, ..Forward::default() };
    let socket = websocket::Handshake::of(&passing.headers).filter(|_| !kubelet.takes_websockets);
    let relayed = match socket {
        Some(socket) if request.subresource == "portforward" && tunnel::is_wanted(&socket) => {
            tunnel::tunnel(gateway, forward, &socket, passing).await
        }
        Some(socket) if request.subresource != "portforward" && socket.offers(translate::PROTOCOL) => {
            match passing.raw.upgrade.take() {
                Some(upgrade) => {
                    let streams = translate::Streams::of(&options);
                    return Ok(translate::answer(&forward, streams, &socket, upgrade, gateway.shutdown.clone()));
                }
                None => Err(forward::Error::UpgradeRequired),
            }
        }
        _ => forward::forward(gateway, forward, passing).await,
    };
    relayed.map_err(|error| match error {
        forward::Error::UpgradeRequired => Status::bad_request("Upgrade request required"),
        error => Status::unknown(error.to_string()),
    })
}

fn require(gateway: &Gateway, request: &Request, verb: &str) -> Result<(), Status> {
    let action = Action::Resource {
        verb: verb.to_owned(),
        group: request.kind.group.to_string(),
        version: request.kind.version.to_string(),
        resource: request.kind.resource.to_string(),
        subresource: request.subresource.clone(),
        namespace: request.namespace.clone(),
        name: request.name.clone(),
    };
    gateway.authz.require(&request.user, &action, &[])
}

/// pods/proxy, services/proxy, nodes/proxy: HTTP to whatever listens there.
async fn proxy(gateway: &Gateway, request: &Request, passing: Passing) -> Result<Response<ResponseBody>, Status> {
    let path = location::path_behind(passing.uri.path()).to_owned();
    let kind = request.kind.subresource("proxy").map_or("", |sub| sub.kind.as_ref());
    let mut options = api::json!({"kind": kind, "apiVersion": "v1"});
    if !path.is_empty() {
        options["path"] = percent_decode(&path).unwrap_or_else(|| path.clone()).into();
    }
    admit::connect(gateway, request, options).await?;
    let id = location::Id::parse(&request.name)
        .ok_or_else(|| Status::bad_request(location::invalid(&request.kind.resource, &request.name)))?;
    let named = request.for_object(&request.namespace, id.name);
    let (place, tls) = match request.kind.resource.as_ref() {
        "pods" => (location::of_pod(&object(gateway, &named).await?, &id)?, None),
        "services" => {
            let service = object(gateway, &named).await?;
            (location::of_service(&gateway.services, gateway.cache.as_ref(), &service, &id, &request.name)?, None)
        }
        _ => {
            let kubelet = gateway.kubelets.find(gateway.cache.as_ref(), id.name)?;
            location::of_node(&kubelet, &id)?
        }
    };
    let query = passing.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = location::join(&path, &query);
    if path.is_empty() && !forward::is_upgrade(&passing.headers) && matches!(passing.method, Method::GET | Method::HEAD)
    {
        return Ok(redirect(&format!("{}/{query}", passing.uri.path())));
    }
    let tls = tls.or_else(|| (place.scheme == "https").then(outbound::Tls::trusting_anybody));
    let prefix = passing.uri.path().strip_suffix(&path).unwrap_or("").to_owned();
    let url = format!("{}://{}{location}", place.scheme, place.host);
    let forward = Forward { url, tls, rewrite_below: Some(prefix), ..Forward::default() };
    forward::forward(gateway, forward, passing).await.map_err(|error| match error {
        forward::Error::Outbound { error: OutboundError::Certificates(text), .. } => Status::internal(text),
        forward::Error::Outbound { error, upgrade: false } => {
            Status::service_unavailable(&format!("error trying to reach service: {error}"))
        }
        error => Status::unknown(error.to_string()),
    })
}

/// A proxy's root without its slash: relative links would lead elsewhere.
fn redirect(to: &str) -> Response<ResponseBody> {
    let mut response = respond(301, "text/plain; charset=utf-8", body::full(""));
    response.headers_mut().remove(CONTENT_TYPE);
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(http::header::LOCATION, to);
    }
    response
}
