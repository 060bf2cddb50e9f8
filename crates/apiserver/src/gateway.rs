//! The pipeline of a request: authenticate, impersonate, authorize, route to a verb, present the answer.

use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ::bytes::Bytes;
use api::kind::SchemaRef;
use api::{Kind, Status};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, USER_AGENT, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use tokio::sync::{oneshot, watch};

use crate::admission;
use crate::aggregation::{self, Aggregation};
use crate::allocations::Allocations;
use crate::attributes::{Action, UserInfo};
use crate::audit::{self, Audit, Head, Trail};
use crate::authn::request_header::FrontProxies;
use crate::authn::token_request::TokenIssuer;
use crate::authn::{Authenticator, PublicKeys, bearer_token, impersonation, named_by_proxy};
use crate::authz::{Authorizer, forbidden};
use crate::cache::Cache;
use crate::control::{self, Control, ControlCall};
use crate::custom::{Catalog, conversion};
use crate::deadline::{self, Timeouts};
use crate::documents::{self, Documents};
use crate::error::check_key_name;
use crate::fairness::{Admission, Fairness};
use crate::health::{self, Health};
use crate::http::accept::{self, Accept, Forms, Router, Shape, negotiate};
use crate::http::body::{self, ResponseBody};
use crate::http::gzip;
use crate::http::path::{ResourcePath, Target, parse};
use crate::http::query::Query;
use crate::http::warning;
use crate::inflight::{InFlight, too_many_requests};
use crate::metrics::{Metrics, RequestLabel};
use crate::outbound::{Outbound, ServiceResolver};
use crate::policy::Policies;
use crate::relay::forward::Raw;
use crate::relay::kubelet::KubeletConfig;
use crate::relay::{self, Passing};
use crate::storage::Objects;
use crate::verbs::{self, Content, Notes, Presenter, Reply, Request};
use crate::webhook::Webhooks;
use crate::zpages::Zpages;

/// Subresources that upstream reads and cannot show as rows.
const WITHOUT_ROWS: [(&str, &str); 6] = [
    ("apiservices", "status"),
    ("certificatesigningrequests", "approval"),
    ("customresourcedefinitions", "status"),
    ("pods", "ephemeralcontainers"),
    ("pods", "resize"),
    ("resourceclaims", "status"),
];

/// Everything a request may need. One per API server.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// Itself, for answers that outlive their request.
    pub me: Weak<Gateway>,
    pub catalog: Catalog,
    pub objects: Objects,
    pub cache: Arc<Cache>,
    pub authn: Authenticator,
    pub front_proxies: Option<FrontProxies>,
    pub tokens: Tokens,
    pub authz: Arc<Authorizer>,
    pub admission: admission::Chain,
    pub admission_config: admission::Config,
    pub webhooks: Webhooks,
    pub policies: Policies,
    pub outbound: Outbound,
    pub services: ServiceResolver,
    pub aggregation: Aggregation,
    pub kubelets: KubeletConfig,
    pub allocations: Allocations,
    pub documents: Documents,
    pub health: Health,
    /// Who is worked on and who waits.
    pub fairness: Option<Fairness>,
    /// Bounds on requests where nobody waits.
    pub in_flight: Option<InFlight>,
    pub timeouts: Timeouts,
    pub zpages: Zpages,
    /// `None`: nothing is recorded.
    pub audit: Option<Arc<Audit>>,
    pub metrics: Metrics,
    pub control: Option<Arc<dyn Control>>,
    /// Turns true when the server stops: long-running answers end.
    pub shutdown: watch::Receiver<bool>,
}

/// Who issues tokens, and how others verify them.
#[derive(Clone, Debug)]
pub struct Tokens {
    pub issuer: TokenIssuer,
    /// Keys whose tokens are accepted, the issuer's first.
    pub keys: PublicKeys,
    /// Issuers whose tokens are accepted, the first is the issuer's own.
    pub issuers: Vec<String>,
    /// Where the keys are published.
    pub jwks_uri: String,
}

/// Who is at the other end of a connection, as far as the connection itself tells.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    /// A network connection, with the user of the verified client certificate if there was one.
    Network {
        user: Option<Arc<UserInfo>>,
        /// The certificate is a front proxy's, which names the user in headers.
        is_proxy: bool,
        address: IpAddr,
    },
    /// A component in this process, which is who it says it is.
    InProcess(Arc<UserInfo>),
}

impl Peer {
    fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Network { address, .. } => Some(*address),
            Self::InProcess(_) => None,
        }
    }

    fn shows_certificate(&self) -> bool {
        matches!(self, Self::Network { user: Some(_), .. } | Self::Network { is_proxy: true, .. })
    }
}

/// What follows a request from its beginning to its end.
#[derive(Debug, Default)]
struct Asides {
    trail: Option<Arc<Trail>>,
    admission: Option<Admission>,
    /// There was no place for it.
    is_sent_away: bool,
    /// Authorization or impersonation refused it: its text may quote the request, and no browser is to guess what it is.
    is_refused: bool,
}

/// The head of an HTTP request, what it says, and the whole body.
#[derive(Debug)]
pub(crate) struct Call {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    /// What the path names; `None` when it cannot be decoded.
    pub target: Option<Target>,
    pub query: Query,
    /// The name of the request, for the audit log and the client.
    pub audit_id: HeaderValue,
    pub started: Instant,
    /// How long it may take, as [`deadline::limit`] found it.
    pub limit: Result<Option<Duration>, String>,
    pub body: Result<Bytes, Status>,
    /// The body unread, instead, when the request is [passed on](Gateway::passes_on).
    pub raw: Option<Raw>,
    /// What metrics know it by.
    pub label: RequestLabel,
    /// A read ends when this does: nobody waits for it any more.
    pub given_up: Option<oneshot::Receiver<()>>,
}

impl Call {
    /// When it must be answered; `None`: whenever it is.
    pub(crate) fn deadline(&self) -> Option<tokio::time::Instant> {
        let limit = self.limit.as_ref().ok().copied().flatten()?;
        Some((self.started + limit).into())
    }
}

impl Gateway {
    /// A request that begins now; without a body, so far.
    pub(crate) fn call(&self, method: Method, uri: Uri, headers: HeaderMap) -> Call {
        let (target, query) = (parse(uri.path()), Query::parse(uri.query()));
        let label = self.metric_label(target.as_ref(), &method, &query);
        let is_apply = method == Method::PATCH && media_type(&headers) == verbs::apply::MEDIA_TYPE;
        Call {
            label: if is_apply { label.of_apply() } else { label },
            given_up: None,
            limit: deadline::limit(target.as_ref(), &method, &query, self.timeouts.request),
            audit_id: audit::id(&headers),
            started: Instant::now(),
            target,
            query,
            method,
            uri,
            headers,
            body: Ok(Bytes::new()),
            raw: None,
        }
    }

    /// Is the request answered elsewhere, so that its body is not to be read here?
    pub(crate) fn passes_on(&self, call: &Call) -> bool {
        let Some(target) = &call.target else { return false };
        let relayed = matches!(target, Target::Resource(path)
            if path.group.is_empty() && relay::is_relayed(&path.resource, &path.subresource));
        relayed || self.aggregation.remote_for(self.cache.as_ref(), target).is_some()
    }

    /// Answers a request. Never fails: every refusal is a response.
    pub(crate) async fn handle(&self, peer: &Peer, mut call: Call) -> Response<ResponseBody> {
        let started = call.started;
        let (target, query) = (call.target.take(), std::mem::take(&mut call.query));
        let audit_id = call.audit_id.clone();
        let accept_header = header(&call.headers, ACCEPT.as_str()).map(str::to_owned);
        let (label, given_up) = (call.label.clone(), call.given_up.take());
        let is_pretty = accept::is_pretty(&query, &call.headers);
        let mut asides = Asides::default();
        let answering = self.answer(peer, call, target, query, &mut asides);
        let answered = match given_up {
            None => answering.await,
            Some(given_up) => tokio::select! {
                biased;
                answered = answering => answered,
                _nobody_waits = given_up => Err(deadline::given_up()),
            },
        };
        let mut response =
            answered.unwrap_or_else(|status| respond_status(&status, accept_header.as_deref(), is_pretty));
        let Asides { trail, admission, is_sent_away, is_refused } = asides;
        if is_sent_away {
            self.metrics.terminated(&label, response.status().as_u16());
        }
        if let Some(admission) = &admission {
            admission.mark(response.headers_mut());
        }
        if is_refused {
            response = not_sniffed(response);
        }
        if let Some(trail) = trail {
            response = trail.finish(response).await;
        }
        response.headers_mut().insert(audit::AUDIT_ID, audit_id);
        self.metrics.observe(label, response.status().as_u16(), started.elapsed());
        response
    }

    async fn answer(
        &self,
        peer: &Peer,
        call: Call,
        target: Option<Target>,
        query: Query,
        asides: &mut Asides,
    ) -> Result<Response<ResponseBody>, Status> {
        self.has_state(target.as_ref()).await?;
        let user = self.authenticate(peer, &call.headers, call.uri.path()).await;
        let target =
            target.ok_or_else(|| Status::bad_request("the request path is not valid percent-encoded UTF-8"))?;
        let fields = equalities(&query);
        let action = Arc::new(action(&target, &call.method, &query, &fields));
        let id = call.audit_id.to_str().unwrap_or_default();
        let head = Head { id, uri: &call.uri, headers: &call.headers, peer: peer.address() };
        let limit = match &call.limit {
            Ok(limit) => limit.unwrap_or(self.timeouts.request),
            Err(fault) => {
                // As if nobody had asked: this is known before the user is.
                asides.trail = self.audit.as_ref().and_then(|audit| audit.begin(head, &UserInfo::default(), &action));
                return Err(Status::bad_request(format!("invalid timeout specified in the request URL - {fault}")));
            }
        };
        let user = match user {
            Ok(user) => user,
            Err(status) => {
                let failed = self.audit.as_ref().and_then(|audit| audit.begin(head, &UserInfo::default(), &action));
                if let Some(failed) = failed {
                    failed.unauthenticated(&call.headers, peer.shows_certificate()).await;
                }
                return Err(status);
            }
        };
        if let Some(audit) = &self.audit
            && let Some(begun) = audit.begin(head, &user, &action)
        {
            begun.received().await?;
            asides.trail = Some(begun);
        }
        let trail = asides.trail.clone();
        let wanted = impersonation::wanted(&call.headers).inspect_err(|_| asides.is_refused = true)?;
        let user = match wanted {
            None => user,
            Some(wanted) => {
                let authorize = |user: &UserInfo, action: &Action| self.authz.authorize(user, action);
                let user = impersonation::impersonate(&wanted, &user, &action, &authorize)
                    .inspect_err(|_| asides.is_refused = true)?;
                if let Some(trail) = &trail {
                    trail.impersonates(&user);
                }
                user
            }
        };
        if let Some(fairness) = &self.fairness {
            let admission = fairness.admit(&user, &action, limit, || self.count(&action)).await;
            // Held until the answer is ready.
            asides.is_sent_away = asides.admission.insert(admission).place.is_none();
            if asides.is_sent_away {
                return Ok(too_many_requests());
            }
        }
        // Before there are roles, nobody could ask whether this server lives.
        let is_open = matches!(&target, Target::Other(path) if path.starts_with(control::OPEN)
            || health::is_check(path) && !self.cache.is_ready());
        if !is_open {
            let decision = self.authz.authorize_selected(&user, &action, &fields);
            if let Some(trail) = &trail {
                trail.decided(&decision);
            }
            if !decision.allowed {
                asides.is_refused = true;
                return Err(forbidden(&user, &action, &decision.reason.text()));
            }
        }
        if let Some(service) = self.aggregation.remote_for(self.cache.as_ref(), &target) {
            let deadline = call.deadline();
            let Call { method, uri, headers, body, raw, .. } = call;
            let raw = match raw {
                Some(raw) => raw,
                None => Raw { body: body::full(body?), ..Raw::default() },
            };
            let passing = Passing { method, uri, headers, raw };
            return Ok(aggregation::answer(self, &service, &user, passing, deadline).await);
        }
        match target {
            Target::Other(path) => self.other(&path, user, call, &query).await,
            Target::Resource(path) => self.resource(path, user, call, query, asides).await,
        }
    }

    async fn authenticate(&self, peer: &Peer, headers: &HeaderMap, path: &str) -> Result<UserInfo, Status> {
        match peer {
            Peer::InProcess(user) => Ok(user.as_ref().clone()),
            Peer::Network { user, is_proxy, .. } => {
                if *is_proxy && let Some(proxies) = &self.front_proxies {
                    if let Some(user) = proxies.user(headers) {
                        return Ok(named_by_proxy(user));
                    }
                    // It must say who asks, or ask as somebody itself.
                    if bearer_token(headers).is_none() {
                        return Err(Status::unauthorized());
                    }
                }
                match self.authn.authenticate(headers, user.as_deref(), jiff::Timestamp::now()).await {
                    Ok(Some(identity)) => Ok(identity.user),
                    // Who joins has nothing to show but a join token, which is looked at later.
                    Ok(None) if path.starts_with(control::OPEN) => Ok(UserInfo::anonymous()),
                    Ok(None) => {
                        let anonymous = self.authn.anonymous(path).map(|identity| identity.user);
                        anonymous.ok_or_else(Status::unauthorized)
                    }
                    Err(error) => {
                        tracing::info!(%error, "unauthenticated request");
                        Err(Status::unauthorized())
                    }
                }
            }
        }
    }

    /// A resource path: finds the kind and the verb.
    async fn resource(
        &self,
        path: ResourcePath,
        user: UserInfo,
        call: Call,
        query: Query,
        asides: &mut Asides,
    ) -> Result<Response<ResponseBody>, Status> {
        let Some(kind) = self.catalog.kind(&path.group, &path.version, &path.resource) else {
            // Within a built-in group an unknown resource is an error, elsewhere there is just nothing.
            let is_known = self.catalog.builtin().group(&path.group).is_some();
            return if is_known { Err(Status::unknown_endpoint()) } else { Ok(not_found_page()) };
        };
        let subresource = kind.subresource(&path.subresource);
        if kind.custom().is_some() && is_misplaced(&kind, &path, &call.method) {
            return Ok(not_found_page());
        }
        if !path.subresource.is_empty() && subresource.is_none() {
            return Err(match kind.custom() {
                Some(_) => Status::not_found(kind.as_ref().into(), &path.name),
                None => Status::unknown_endpoint(),
            });
        }
        let relayed = path.group.is_empty() && relay::is_relayed(&path.resource, &path.subresource);
        if kind.custom().is_none() && !is_routed(&kind, &path, relayed) {
            return Err(Status::unknown_endpoint());
        }
        // Built-in resources are routed by method, and no route is for HEAD.
        if call.method == Method::HEAD && kind.custom().is_none() && !relayed {
            return Err(Status::method_not_allowed());
        }
        let watching = is_watching(&path, &query) && (path.watch_prefix || call.method == Method::GET);
        let method = match call.method {
            // Proxies take it for whoever is behind them.
            Method::OPTIONS if relayed => &Method::GET,
            ref method => method,
        };
        let verb = verb(method, !path.name.is_empty(), watching).ok_or_else(Status::method_not_allowed)?;
        let allowed = match subresource {
            Some(subresource) => subresource.verbs.iter().any(|v| v == verb),
            None if path.watch_prefix => verb == "watch" && kind.has_verb("watch"),
            None => kind.has_verb(if verb == "watch" && !kind.has_verb("watch") { "list" } else { verb }),
        };
        self.check_route(&kind, &path, verb, allowed)?;
        let place = match &self.in_flight {
            None => None,
            Some(in_flight) => match in_flight.take(&user, verb) {
                Some(place) => Some(place),
                None => {
                    asides.is_sent_away = true;
                    return Ok(too_many_requests());
                }
            },
        };
        let shape = match verb {
            "watch" => Shape::Watch,
            "list" | "deletecollection" => Shape::List,
            _ => Shape::Object,
        };
        let router = match verb {
            _ if kind.custom().is_some() => Router::Absent,
            "watch" | "list" => Router::List,
            _ => Router::Object,
        };
        let accept_header = header(&call.headers, ACCEPT.as_str());
        // The router looks at what the body is before it looks at what the answer may be.
        let is_routed_patch = verb == "patch" && !relayed && router != Router::Absent;
        if is_routed_patch && !verbs::is_patch(&media_type(&call.headers)) {
            return Err(Status::unsupported_patch_type());
        }
        if !relayed {
            router.check(accept_header)?;
        }
        let deprecation = api::kinds::deprecation(&kind).map(str::to_owned);
        // Bodies of subresources are built-in types, also those of custom resources.
        let protobuf = matches!(kind.schema, SchemaRef::Builtin(_)) || path.subresource == "scale";
        // What is only ever created (reviews, bindings, evictions, tokens) has no rows.
        let table = match subresource {
            Some(subresource) if WITHOUT_ROWS.contains(&(kind.resource.as_ref(), subresource.name.as_ref())) => false,
            Some(subresource) => subresource.verbs.iter().any(|v| v == "get"),
            None => kind.has_verb("list"),
        };
        let is_pretty = accept::is_pretty(&query, &call.headers);
        let accept = match relayed {
            true => Accept::JSON,
            false => {
                let forms = Forms { protobuf, table, metadata: true };
                match negotiate(accept_header, shape, is_pretty, forms) {
                    Ok(accept) => accept,
                    Err(status) => {
                        let mut response = respond_status(&status, accept_header, is_pretty);
                        warning::add(response.headers_mut(), deprecation.as_slice());
                        return Ok(response);
                    }
                }
            }
        };
        let request = Request {
            namespace: if kind.namespaced { path.namespace } else { String::new() },
            name: path.name,
            subresource: path.subresource,
            user,
            accept,
            content_type: media_type(&call.headers),
            body: call.body?,
            user_agent: header(&call.headers, USER_AGENT.as_str()).unwrap_or("").to_owned(),
            verb,
            query,
            kind,
            admitted: false,
            notes: Notes::of(asides.trail.clone()),
        };
        if let Some(trail) = request.notes.trail()
            && !matches!(verb, "get" | "list" | "watch")
        {
            trail.request_body(&request.body);
        }
        deprecation.into_iter().for_each(|text| request.notes.push(text));
        if relayed {
            // As long as it takes: nobody else waits for the place.
            drop(place);
            let Call { method, uri, headers, raw, .. } = call;
            let accept = header(&headers, ACCEPT.as_str()).map(str::to_owned);
            let passing = Passing { method, uri, headers, raw: raw.unwrap_or_default() };
            let answered = Box::pin(relay::answer(self, &request, passing)).await;
            let mut response = answered.unwrap_or_else(|status| respond_status(&status, accept.as_deref(), is_pretty));
            warning::add(response.headers_mut(), &request.notes.take());
            return Ok(response);
        }
        let presented = match self.dispatch(&request).await {
            Ok(mut reply) => {
                let notes = request.notes.take();
                reply.warnings.splice(0..0, notes.iter().cloned());
                let presented = match reply.content {
                    Content::Object(object) if conversion::is_needed(&request.kind) => {
                        let localized = conversion::localize_one(self, &request.kind, object).await;
                        localized.and_then(|object| {
                            self.present(&request, Reply { content: Content::Object(object), ..reply })
                        })
                    }
                    _ => self.present(&request, reply),
                };
                presented.inspect_err(|_| notes.into_iter().for_each(|note| request.notes.push(note)))
            }
            Err(status) => Err(status),
        };
        let presented = match presented {
            Ok(response) if matches!(request.verb, "get" | "list") => {
                Ok(gzip::where_large(&call.headers, response).await)
            }
            presented => presented,
        };
        presented.or_else(|status| {
            let mut response = respond_status(&status, header(&call.headers, ACCEPT.as_str()), is_pretty);
            warning::add(response.headers_mut(), &request.notes.take());
            Ok(response)
        })
    }

    /// The verb must be one the kind has, where it is asked.
    fn check_route(&self, kind: &Kind, path: &ResourcePath, verb: &str, allowed: bool) -> Result<(), Status> {
        let is_list = matches!(verb, "list" | "watch");
        if !allowed && kind.custom().is_some() {
            return Err(Status::method_not_supported(kind.into(), verb));
        }
        if verb == "create" && !path.name.is_empty() && path.subresource.is_empty() {
            return Err(Status::method_not_allowed());
        }
        // Only lists look across namespaces.
        let across = kind.namespaced && path.namespace.is_empty() && !is_list;
        if !allowed || across {
            return Err(Status::method_not_allowed());
        }
        if path.name.is_empty() { Ok(()) } else { check_key_name(&path.name) }
    }

    async fn dispatch(&self, request: &Request) -> Result<Reply, Status> {
        if request.kind.storage_prefix.is_empty() {
            return crate::virtual_kinds::dispatch(self, request).await;
        }
        match (request.subresource.as_str(), request.verb) {
            ("scale", "get") => verbs::get_scale(self, request).await,
            ("scale", "update") => verbs::update_scale(self, request).await,
            ("scale", "patch") => verbs::patch_scale(self, request).await,
            (sub, "create") if !sub.is_empty() => verbs::create_named(self, request).await,
            (_, "get") => verbs::get(self, request).await,
            ("", "list") => verbs::list(self, request).await,
            ("", "watch") => verbs::watch(self, request).await,
            ("", "create") => verbs::create(self, request).await,
            ("", "delete") => verbs::delete(self, request).await,
            ("", "deletecollection") => verbs::delete_collection(self, request).await,
            (_, "update") => verbs::update(self, request).await,
            (_, "patch") => verbs::patch(self, request).await,
            _ => Err(Status::method_not_allowed()),
        }
    }

    fn present(&self, request: &Request, reply: Reply) -> Result<Response<ResponseBody>, Status> {
        let encoding = request.accept.encoding;
        let (content_type, body) = match reply.content {
            Content::Object(object) => {
                let include = request.query.text("includeObject");
                let presenter = Presenter::new(request.kind.clone(), request.accept, include)?;
                (encoding.content_type(), body::full(presenter.object(&object)?))
            }
            Content::Document(document) => {
                let include = request.query.text("includeObject");
                let presenter = Presenter::new(request.kind.clone(), request.accept, include)?;
                (encoding.content_type(), body::full(presenter.document(document)?))
            }
            Content::Status(status) => {
                let value = api::value::to_value(status).map_err(Status::internal)?;
                (encoding.content_type(), body::full(verbs::encode(&value, encoding)?))
            }
            Content::Body(content_type, body) => (content_type, body),
        };
        let mut response = respond(reply.code, content_type, body);
        warning::add(response.headers_mut(), &reply.warnings);
        Ok(response)
    }

    /// Everything that is not a resource: discovery, documents, health, version, metrics.
    async fn other(
        &self,
        path: &str,
        user: UserInfo,
        call: Call,
        query: &Query,
    ) -> Result<Response<ResponseBody>, Status> {
        if let (Some(control), Some(path)) = (&self.control, path.strip_prefix(control::PREFIX)) {
            let (method, path, query) = (call.method, path.to_owned(), query.pairs().to_vec());
            let call = ControlCall { method, path, query, user, body: call.body? };
            return match control.call(call).await {
                Some(reply) => reply.map(control::ControlReply::into_response),
                None => Ok(not_found_page()),
            };
        }
        if let Some(fairness) = &self.fairness
            && let Some(page) = fairness.dump(path, !query.text("includeRequestDetails").is_empty())
        {
            return Ok(text(200, page));
        }
        if let Some(response) = self.health.respond(self, path, query).await {
            return Ok(response);
        }
        if call.method == Method::DELETE && matches!(path, "/metrics" | "/metrics/slis") {
            match path {
                "/metrics" => self.reset_metrics(),
                _ => self.health.indicators().reset(),
            }
            return Ok(text(200, "metrics reset\n"));
        }
        let is_allowed = call.method == Method::GET || documents::takes_any_method(path);
        // OpenAPI documents are made when asked for, which takes its time.
        let found = match self.me.upgrade().filter(|_| path.starts_with("/openapi/")) {
            Some(gateway) => {
                let (path, query, headers) = (path.to_owned(), query.clone(), call.headers.clone());
                let make = move || documents::find(&gateway, &path, &query, &headers);
                tokio::task::spawn_blocking(make).await.map_err(Status::internal)?
            }
            None => documents::find(self, path, query, &call.headers),
        };
        match found? {
            Some(_) if !is_allowed => Err(Status::method_not_allowed()),
            Some(response) => Ok(response),
            None => Ok(not_found_page()),
        }
    }

    fn reset_metrics(&self) {
        self.metrics.reset();
        if let Some(fairness) = &self.fairness {
            fairness.reset(self.cache.as_ref());
        }
    }

    /// Objects that a list would look at.
    fn count(&self, action: &Action) -> usize {
        let Action::Resource { group, version, resource, .. } = action else { return 0 };
        let kind = self.catalog.kind(group, version, resource);
        kind.and_then(|kind| self.cache.resource(&kind)).map_or(0, |objects| objects.len())
    }

    /// A served kind by resource.
    pub(crate) fn kind(&self, group: &str, version: &str, resource: &str) -> Result<Arc<Kind>, Status> {
        self.catalog.kind(group, version, resource).ok_or_else(Status::unknown_endpoint)
    }

    fn metric_label(&self, target: Option<&Target>, method: &Method, query: &Query) -> RequestLabel {
        let Some(Target::Resource(path)) = target else { return RequestLabel::other(method) };
        let Some(kind) = self.catalog.kind(&path.group, &path.version, &path.resource) else {
            return RequestLabel::other(method);
        };
        let verb = verb(method, !path.name.is_empty(), is_watching(path, query));
        RequestLabel::of_resource(&kind, path, verb, query.all("dryRun").any(|value| value == "All"))
    }
}

/// The query asks for a watch of a collection; one object is watched by a selector, or by the deprecated path.
fn is_watching(path: &ResourcePath, query: &Query) -> bool {
    path.watch_prefix || (path.name.is_empty() && query.flag("watch"))
}

/// The verb of a method on an object or a collection.
fn verb(method: &Method, named: bool, watching: bool) -> Option<&'static str> {
    Some(match (method, named) {
        (&Method::GET | &Method::HEAD, _) if watching => "watch",
        (&Method::GET | &Method::HEAD, true) => "get",
        (&Method::GET | &Method::HEAD, false) => "list",
        (&Method::POST, _) => "create",
        (&Method::PUT, true) => "update",
        (&Method::PATCH, true) => "patch",
        (&Method::DELETE, true) => "delete",
        (&Method::DELETE, false) => "deletecollection",
        _ => return None,
    })
}

/// The verb that authorization knows the request by; empty for methods that have none.
pub(crate) fn verb_of(path: &ResourcePath, method: &Method, query: &Query) -> &'static str {
    match (method, path.name.is_empty()) {
        (&Method::PUT, true) => "update",
        (&Method::PATCH, true) => "patch",
        (method, empty) => verb(method, !empty, is_watching(path, query)).unwrap_or(""),
    }
}

/// Is there a route of any method for the path of a built-in resource? Namespaced objects live in namespaces, others do not.
fn is_routed(kind: &Kind, path: &ResourcePath, relayed: bool) -> bool {
    let misplaced = kind.namespaced && path.namespace.is_empty() && !path.name.is_empty();
    // A namespace lies in itself, and in no other.
    let is_own = path.resource == "namespaces" && path.namespace == path.name;
    let foreign = !kind.namespaced && !path.namespace.is_empty() && !is_own;
    let has_objects = !kind.storage_prefix.is_empty() || kind.resource == "componentstatuses";
    let is_nowhere = kind.namespaced && path.namespace.is_empty() && !kind.has_verb("list");
    let is_too_long = !path.rest.is_empty() && !relayed;
    !misplaced && !foreign && !is_nowhere && !is_too_long && (path.name.is_empty() || has_objects)
}

/// Objects of a definition are where its scope says they are; only lists look across namespaces.
fn is_misplaced(kind: &Kind, path: &ResourcePath, method: &Method) -> bool {
    let is_list = path.name.is_empty() && matches!(*method, Method::GET | Method::HEAD);
    if kind.namespaced { path.namespace.is_empty() && !is_list } else { !path.namespace.is_empty() }
}

/// What authorization is asked.
fn action(target: &Target, method: &Method, query: &Query, fields: &[(String, String)]) -> Action {
    match target {
        Target::Other(path) => Action::NonResource { verb: method.as_str().to_ascii_lowercase(), path: path.clone() },
        Target::Resource(path) => {
            let verb = verb_of(path, method, query);
            let is_list = matches!(verb, "list" | "watch");
            Action::Resource {
                verb: verb.to_owned(),
                group: path.group.clone(),
                version: path.version.clone(),
                resource: path.resource.clone(),
                subresource: path.subresource.clone(),
                namespace: path.namespace.clone(),
                name: if path.name.is_empty() && is_list { selected_name(fields) } else { path.name.clone() },
            }
        }
    }
}

/// A list of one object by name is authorized as if it were a get of it.
fn selected_name(fields: &[(String, String)]) -> String {
    fields.iter().find(|(field, _)| field == "metadata.name").map(|(_, name)| name.clone()).unwrap_or_default()
}

/// `field=value` requirements of the field selector: what the node authorizer reads.
fn equalities(query: &Query) -> Vec<(String, String)> {
    let text = query.text("fieldSelector");
    if text.is_empty() {
        return Vec::new();
    }
    let Ok(selector) = api::selector::FieldSelector::parse(text) else { return Vec::new() };
    let names = selector.requirements().iter().map(|r| r.field.to_string()).collect::<Vec<_>>();
    names.iter().filter_map(|name| Some((name.clone(), selector.exact(name)?.to_owned()))).collect()
}

pub(crate) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// The media type of the body, without parameters; as it stands where these are malformed, so that nobody knows it.
fn media_type(headers: &HeaderMap) -> String {
    let value = header(headers, CONTENT_TYPE.as_str()).unwrap_or("");
    let mut parts = value.split(';').map(str::trim);
    let name = parts.next().unwrap_or("").to_ascii_lowercase();
    let is_malformed = parts.filter(|part| !part.is_empty()).any(|part| !part.contains('='));
    // Patches are told apart without looking at parameters.
    if is_malformed && !name.contains("patch+") { value.to_owned() } else { name }
}

pub(crate) fn respond(code: u16, content_type: &str, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert(CONTENT_TYPE, value);
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

fn respond_status(status: &Status, accept: Option<&str>, is_pretty: bool) -> Response<ResponseBody> {
    let encoding = accept::encoding(accept, is_pretty);
    let value = api::value::to_value(status).unwrap_or_default();
    let bytes = verbs::encode(&value, encoding).unwrap_or_default();
    let mut response = respond(status.code, encoding.content_type(), body::full(bytes));
    let retry_after = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    if retry_after > 0 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after));
    }
    response
}

/// Plain text. Of failures it is said, as Go says it, that they are nothing else.
pub(crate) fn text(code: u16, text: impl Into<Bytes>) -> Response<ResponseBody> {
    let response = respond(code, "text/plain; charset=utf-8", body::full(text));
    if code >= 400 { not_sniffed(response) } else { response }
}

/// No browser is to guess what the answer is.
pub(crate) fn not_sniffed(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// What upstream's router answers for paths that nobody serves.
pub(crate) fn not_found_page() -> Response<ResponseBody> {
    text(404, "404 page not found\n")
}
