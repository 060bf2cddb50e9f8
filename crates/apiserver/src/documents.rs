//! Documents about the API: discovery in both forms, version, metrics.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use ::bytes::Bytes;
use api::discovery;
use api::openapi::{self, CustomKind};
use api::{Kind, Status, Value, field::go_quote};
use http::header::{ACCEPT, CACHE_CONTROL, ETAG, EXPIRES, IF_NONE_MATCH, LOCATION, VARY};
use http::{HeaderMap, HeaderValue, Response};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha512};

use crate::authn::oidc;
use crate::custom::Snapshot;
use crate::exposition;
use crate::gateway::{Gateway, header, respond, text};
use crate::http::ResponseBody;
use crate::http::accept::{Encoding, Forms, Router, Shape, is_pretty, negotiate, produces};
use crate::http::body;
use crate::http::query::Query;
use crate::zpages::Page;

/// Documents made once and kept until kinds come or go.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    made: Mutex<Made>,
    /// Hashes of the OpenAPI v3 documents of built-in groups, by path; they never change.
    builtin_hashes: OnceLock<Vec<(String, String)>>,
}

/// Documents about one snapshot of the custom kinds.
#[derive(Debug, Default)]
struct Made {
    serial: u64,
    documents: HashMap<String, Document>,
}

#[derive(Clone, Debug)]
struct Document {
    content_type: &'static str,
    bytes: Bytes,
    etag: HeaderValue,
}

/// How long clients may keep an OpenAPI document that they asked for by its hash: a year.
const CACHED_FOR: jiff::SignedDuration = jiff::SignedDuration::from_hours(365 * 24);
const JSON: &str = "application/json";
/// Paths below /debug/pprof/ at which upstream has Go's own profiles, which there are none of here.
const PROFILES: [&str; 11] =
    ["", "allocs", "block", "cmdline", "goroutine", "heap", "mutex", "profile", "symbol", "threadcreate", "trace"];
/// Paths besides those of groups and health checks.
const OTHER_PATHS: [&str; 13] = [
    "/.well-known/openid-configuration",
    "/api",
    "/api/v1",
    "/apis",
    "/apis/",
    "/flagz",
    "/metrics",
    "/metrics/slis",
    "/openapi/v2",
    "/openapi/v3",
    "/openapi/v3/",
    oidc::JWKS_PATH,
    "/statusz",
];

impl Documents {
    /// The document named `key` about the kinds of a snapshot, made by `make` the first time.
    fn get(
        &self,
        snapshot: &Snapshot,
        key: String,
        content_type: &'static str,
        make: impl FnOnce() -> Option<Bytes>,
    ) -> Option<Document> {
        {
            let mut made = self.made.lock();
            if made.serial < snapshot.serial {
                *made = Made { serial: snapshot.serial, documents: HashMap::new() };
            }
            if let Some(document) = made.documents.get(&key).filter(|_| made.serial == snapshot.serial) {
                return Some(document.clone());
            }
        }
        let document = Document::new(content_type, make()?)?;
        let mut made = self.made.lock();
        if made.serial == snapshot.serial {
            made.documents.insert(key, document.clone());
        }
        Some(document)
    }
}

impl Document {
    fn new(content_type: &'static str, bytes: Bytes) -> Option<Self> {
        let hash: String = Sha512::digest(&bytes).iter().map(|byte| format!("{byte:02X}")).collect();
        let etag = HeaderValue::from_str(&go_quote(&hash)).ok()?;
        Some(Self { content_type, bytes, etag })
    }
}

/// The list of groups with those that aggregated servers have.
fn with_aggregated(gateway: &Gateway, document: Document) -> Document {
    let source = gateway.cache.as_ref();
    if !gateway.aggregation.has_remotes(source) {
        return document;
    }
    let merged = match document.content_type {
        JSON => gateway.aggregation.merge_group_list(source, &document.bytes),
        _ => gateway.aggregation.merge_aggregated(source, &document.bytes),
    };
    merged.and_then(|bytes| Document::new(document.content_type, bytes)).unwrap_or(document)
}

/// Whether a document answers whatever the method is, as those do that no router stands before.
pub(crate) fn takes_any_method(path: &str) -> bool {
    let segments: Vec<&str> = path.trim_end_matches('/').split('/').skip(1).collect();
    match segments.as_slice() {
        ["version" | "api"] | ["api", _] | ["apis", _, _] | [".well-known", ..] => false,
        _ => path != oidc::JWKS_PATH,
    }
}

/// The document at a path; `None` when there is none.
pub(crate) fn find(
    gateway: &Gateway,
    path: &str,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Option<Response<ResponseBody>>, Status> {
    let is_index = matches!(path, "/" | "/index.html");
    let path = path.trim_end_matches('/');
    let accept = header(headers, ACCEPT.as_str());
    match path {
        "/version" => {
            produces(accept, JSON)?;
            return Ok(Some(respond(200, JSON, body::full(version()))));
        }
        "/.well-known/openid-configuration" => {
            let issuer = gateway.tokens.issuers.first().map_or("", String::as_str);
            let document = oidc::configuration(issuer, &gateway.tokens.jwks_uri, &gateway.tokens.keys);
            return Ok(Some(respond(200, JSON, body::full(document.to_string()))));
        }
        oidc::JWKS_PATH => {
            produces(accept, "application/jwk-set+json")?;
            let document = oidc::key_set(&gateway.tokens.keys);
            return Ok(Some(respond(200, "application/jwk-set+json", body::full(document.to_string()))));
        }
        "/statusz" => return gateway.zpages.statusz(accept).map(|page| Some(zpage(page))),
        "/flagz" => return gateway.zpages.flagz(accept).map(|page| Some(zpage(page))),
        path if path.strip_prefix("/debug/pprof/").is_some_and(|name| !PROFILES.contains(&name)) => {
            return Ok(Some(text(404, "Unknown profile\n")));
        }
        "/metrics" => {
            return Ok(Some(respond(200, exposition::CONTENT_TYPE, body::full(gateway.metrics.text()))));
        }
        "/metrics/slis" => {
            return Ok(Some(respond(200, exposition::CONTENT_TYPE, body::full(gateway.health.indicators().text()))));
        }
        _ => {}
    }
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let snapshot = gateway.catalog.snapshot();
    let about = About { gateway, snapshot: &snapshot };
    if is_index {
        return Ok(Some(respond(200, JSON, body::full(about.paths()?))));
    }
    let document = match segments.as_slice() {
        ["api"] => about.aggregated(path, accept).or_else(|| about.core_versions(headers)),
        ["apis"] => {
            let all = about.aggregated(path, accept).map(|document| with_aggregated(gateway, document));
            all.or_else(|| about.group_list())
        }
        ["openapi", "v2"] => return about.openapi_v2(accept, headers).map(Some),
        ["openapi", "v3"] => {
            return Ok(Some(respond(200, "text/plain; charset=utf-8", body::full(about.v3_index()))));
        }
        ["openapi", "v3", path @ ..] => return about.openapi_v3(path, query.get("hash"), headers).map(Some),
        ["api", "v1"] => about.resources("", "v1"),
        ["api", _] => return Err(Status::unknown_endpoint()),
        ["apis", group] => {
            let ours = about.one_group(group);
            let bytes = ours.as_ref().map(|document| document.bytes.as_ref());
            let merged = gateway.aggregation.merge_group(gateway.cache.as_ref(), group, bytes);
            merged.and_then(|bytes| Document::new(JSON, bytes)).or(ours)
        }
        ["apis", group, version] => {
            let document = about.resources(group, version);
            if document.is_none() && gateway.catalog.builtin().group(group).is_some() {
                return Err(Status::unknown_endpoint());
            }
            document
        }
        _ => None,
    };
    let Some(document) = document else { return Ok(None) };
    if document.content_type == JSON {
        if !takes_any_method(path) {
            Router::Object.check(accept)?;
        }
        let encoding = negotiate(accept, Shape::Object, is_pretty(query, headers), Forms::WHOLE)?.encoding;
        if encoding != Encoding::Json {
            let value = Value::from_json(&document.bytes).map_err(Status::internal)?;
            let bytes = crate::verbs::encode(&value, encoding)?;
            return Ok(Some(respond(200, encoding.content_type(), body::full(bytes))));
        }
    }
    Ok(Some(conditional(&document, headers)))
}

fn zpage(page: Page) -> Response<ResponseBody> {
    let mut response = respond(200, page.content_type, body::full(page.body));
    if let Some(warning) = page.warning.and_then(|warning| HeaderValue::from_str(&warning).ok()) {
        response.headers_mut().insert(http::header::WARNING, warning);
    }
    response
}

/// A code and nothing else, not even a media type.
fn bare(code: u16) -> Response<ResponseBody> {
    let mut response = respond(code, JSON, body::full(Bytes::new()));
    response.headers_mut().remove(http::header::CONTENT_TYPE);
    response
}

/// 304 when the client has this very document.
fn conditional(document: &Document, headers: &HeaderMap) -> Response<ResponseBody> {
    let mut response = if is_known(headers, &document.etag) {
        respond(304, document.content_type, body::full(Bytes::new()))
    } else {
        respond(200, document.content_type, body::full(document.bytes.clone()))
    };
    if document.content_type != JSON {
        response.headers_mut().insert(ETAG, document.etag.clone());
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    }
    response
}

/// The server at one moment, for documents about it.
struct About<'g> {
    gateway: &'g Gateway,
    snapshot: &'g Snapshot,
}

impl About<'_> {
    fn get(&self, key: String, content_type: &'static str, make: impl FnOnce() -> Option<Bytes>) -> Option<Document> {
        self.gateway.documents.get(self.snapshot, key, content_type, make)
    }

    /// All groups and resources at once, when the client prefers that.
    fn aggregated(&self, path: &str, accept: Option<&str>) -> Option<Document> {
        let first = accept?.split(',').map(str::trim).find(|part| part.starts_with(JSON))?;
        if !first.contains("as=APIGroupDiscoveryList") || !first.contains("g=apidiscovery.k8s.io") {
            return None;
        }
        if !format!("{first};").contains("v=v2;") {
            return None;
        }
        let core = path == "/api";
        let key = format!("aggregated {path}");
        self.get(key, discovery::AGGREGATED, || Some(discovery::aggregated(core, &self.snapshot.api_groups())))
    }

    /// The list of everything that can be asked for, apart from the objects.
    fn paths(&self) -> Result<String, Status> {
        let mut paths: Vec<String> = OTHER_PATHS.iter().map(|path| (*path).to_owned()).collect();
        paths.push("/version".to_owned());
        paths.extend(self.gateway.health.paths());
        let list = self.group_list().map(|document| document.bytes).unwrap_or_default();
        let list: Value = Value::from_json(&list).map_err(Status::internal)?;
        for group in list["groups"].as_array().into_iter().flatten() {
            let versions = group["versions"].as_array().into_iter().flatten();
            let names = versions.filter_map(|version| version["groupVersion"].as_str());
            let names = group["name"].as_str().into_iter().chain(names);
            paths.extend(names.map(|name| format!("/apis/{name}")));
        }
        paths.sort();
        serde_json::to_string_pretty(&api::json!({ "paths": paths })).map_err(Status::internal)
    }

    /// All groups but the core group.
    fn group_list(&self) -> Option<Document> {
        let document = self.get("apis".to_owned(), JSON, || {
            let mut groups = self.snapshot.api_groups();
            groups.retain(|group| !group.name.is_empty());
            Some(discovery::group_list(&groups))
        });
        document.map(|document| with_aggregated(self.gateway, document))
    }

    fn core_versions(&self, headers: &HeaderMap) -> Option<Document> {
        let host = header(headers, "host").unwrap_or("");
        self.get(format!("api {host}"), JSON, || Some(discovery::api_versions(host)))
    }

    fn one_group(&self, name: &str) -> Option<Document> {
        self.get(format!("group {name}"), JSON, || {
            let groups = self.snapshot.api_groups();
            groups.iter().find(|group| group.name == name && !name.is_empty()).map(discovery::group)
        })
    }

    fn resources(&self, group: &str, version: &str) -> Option<Document> {
        self.get(format!("resources {group}/{version}"), JSON, || {
            let mut kinds: Vec<&Kind> = self.kinds(group, version).collect();
            kinds.sort_by(|a, b| a.resource.cmp(&b.resource));
            (!kinds.is_empty()).then(|| discovery::resource_list(group, version, kinds))
        })
    }

    fn kinds<'k>(&'k self, group: &'k str, version: &'k str) -> impl Iterator<Item = &'k Kind> {
        let builtin = self.gateway.catalog.builtin().of_group_version(group, version);
        builtin.chain(self.snapshot.of_group_version(group, version)).map(AsRef::as_ref)
    }

    /// All definitions in one document; made for each request, because it is large and few clients still ask for it.
    fn openapi_v2(&self, accept: Option<&str>, headers: &HeaderMap) -> Result<Response<ResponseBody>, Status> {
        let wants_protobuf = accept.is_some_and(|accept| {
            let first = accept.split(',').next().unwrap_or("").trim();
            first.replace('@', ".").starts_with(openapi::V2_PROTOBUF)
        });
        let takes_json =
            wants_protobuf || accept.is_none_or(|accept| accept.contains("json") || accept.contains("*/*"));
        if !takes_json {
            return Ok(bare(406));
        }
        let etag = quoted(&self.v2_hash())?;
        let tagged = |mut response: Response<ResponseBody>| {
            response.headers_mut().insert(ETAG, etag.clone());
            response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
            response
        };
        let content_type = if wants_protobuf { openapi::V2_PROTOBUF } else { JSON };
        if is_known(headers, &etag) {
            return Ok(tagged(respond(304, content_type, body::full(Bytes::new()))));
        }
        let schemas: Vec<(&Kind, Value)> = self.snapshot.kinds().map(|kind| with_schema(kind)).collect();
        let custom: Vec<CustomKind<'_>> = schemas.iter().map(|(kind, schema)| CustomKind { kind, schema }).collect();
        let document = openapi::v2_document(&discovery::builtin(), &custom);
        let (aggregation, source) = (&self.gateway.aggregation, self.gateway.cache.as_ref());
        let document = aggregation.merge_openapi_v2(source, &document).unwrap_or(document);
        let document = if wants_protobuf { openapi::v2_protobuf(&document) } else { document };
        Ok(tagged(respond(200, content_type, body::full(document))))
    }

    /// Changes whenever the document of v2 does: of what its parts in v3 are made.
    fn v2_hash(&self) -> String {
        let builtin = self.builtin_hashes().iter().map(|(_, hash)| hash.clone());
        let custom = self.snapshot.group_versions().map(|(group, version)| self.v3_hash(group, version));
        let elsewhere = self.gateway.aggregation.openapi_v2_hash(self.gateway.cache.as_ref());
        openapi::hash(builtin.chain(custom).chain([elsewhere]).collect::<String>().as_bytes())
    }

    /// Every document of OpenAPI v3 with its hash. The documents themselves are not kept: together they are large. Those of
    /// definitions are hashed by what they are made of.
    fn v3_index(&self) -> Bytes {
        let index = self.get("openapi v3".to_owned(), JSON, || {
            let mut hashes: BTreeMap<String, String> = self.builtin_hashes().iter().cloned().collect();
            for (group, version) in self.snapshot.group_versions() {
                hashes.insert(openapi::v3_path(group, version), self.v3_hash(group, version));
            }
            Some(openapi::v3_index(hashes.iter().map(|(path, hash)| (path.as_str(), hash.as_str()))))
        });
        let index = index.map(|document| document.bytes).unwrap_or_default();
        let (aggregation, source) = (&self.gateway.aggregation, self.gateway.cache.as_ref());
        if !aggregation.has_remotes(source) {
            return index;
        }
        aggregation.merge_openapi_index(source, &index).unwrap_or(index)
    }

    fn builtin_hashes(&self) -> &[(String, String)] {
        let groups = || self.gateway.catalog.builtin().groups().iter();
        let group_versions = || groups().flat_map(|group| group.versions.iter().map(|v| (group.name, v.version)));
        let documents = group_versions().map(|(group, version)| {
            let document = openapi::v3_document(group, version, self.builtin_kinds(group, version));
            (openapi::v3_path(group, version), openapi::hash(&document))
        });
        self.gateway.documents.builtin_hashes.get_or_init(|| documents.collect())
    }

    fn builtin_kinds<'k>(&'k self, group: &'k str, version: &'k str) -> impl Iterator<Item = &'k Kind> {
        self.gateway.catalog.builtin().of_group_version(group, version).map(AsRef::as_ref)
    }

    fn v3_hash(&self, group: &str, version: &str) -> String {
        let sources: Vec<u8> = self
            .snapshot
            .of_group_version(group, version)
            .iter()
            .filter_map(|kind| kind.custom())
            .flat_map(|custom| {
                let definition = custom.definition();
                let names = (&definition.kind, &definition.list_kind, definition.is_terminating);
                format!("{} {} {names:?} ", definition.uid, definition.generation).into_bytes()
            })
            .collect();
        openapi::hash(&sources)
    }

    /// Clients that name the hash they read in the index may keep the document for a year; those that name an old one are sent
    /// to the present one.
    fn openapi_v3(
        &self,
        path: &[&str],
        hash: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Response<ResponseBody>, Status> {
        let wanted = path.join("/");
        let builtin = self.gateway.catalog.builtin().groups().iter();
        let mut builtin = builtin.flat_map(|group| group.versions.iter().map(|version| (group.name, version.version)));
        let is_wanted = |(group, version): &(&str, &str)| openapi::v3_path(group, version) == wanted;
        let (bytes, current) = if let Some((group, version)) = builtin.find(is_wanted) {
            let bytes = openapi::v3_document(group, version, self.builtin_kinds(group, version));
            let hash = openapi::hash(&bytes);
            (bytes, hash)
        } else if let Some((group, version)) = self.snapshot.group_versions().find(is_wanted) {
            let kinds = self.snapshot.of_group_version(group, version).iter();
            let schemas: Vec<(&Kind, Value)> = kinds.map(|kind| with_schema(kind)).collect();
            let custom: Vec<CustomKind<'_>> =
                schemas.iter().map(|(kind, schema)| CustomKind { kind, schema }).collect();
            (openapi::v3_custom_document(&custom), self.v3_hash(group, version))
        } else {
            return Ok(bare(404));
        };
        let etag = quoted(&current)?;
        let hash = hash.filter(|hash| !hash.is_empty());
        let is_moved = hash.is_some_and(|hash| hash != current);
        let mut response = match (is_moved, is_known(headers, &etag)) {
            (true, _) => respond(301, JSON, body::full(Bytes::new())),
            (false, true) => respond(304, JSON, body::full(Bytes::new())),
            (false, false) => respond(200, JSON, body::full(bytes)),
        };
        let out = response.headers_mut();
        out.insert(ETAG, etag);
        if is_moved {
            let here = format!("/openapi/v3/{wanted}?hash={current}");
            out.insert(LOCATION, HeaderValue::from_str(&here).map_err(Status::internal)?);
        } else if hash.is_some() {
            let expires = (jiff::Timestamp::now() + CACHED_FOR).strftime("%a, %d %b %Y %H:%M:%S UTC").to_string();
            out.insert(VARY, HeaderValue::from_static("Accept"));
            out.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            out.insert(EXPIRES, HeaderValue::from_str(&expires).map_err(Status::internal)?);
        }
        Ok(response)
    }
}

/// A hash as an ETag.
fn quoted(hash: &str) -> Result<HeaderValue, Status> {
    HeaderValue::from_str(&go_quote(hash)).map_err(Status::internal)
}

/// Whether the client says that it has the document of this ETag.
fn is_known(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    headers.get(IF_NONE_MATCH).is_some_and(|known| known == etag)
}

/// A custom kind with the schema its definition gives it.
fn with_schema(kind: &Kind) -> (&Kind, Value) {
    let schema = kind.custom().map(|custom| custom.definition().schema_of(&kind.version));
    (kind, schema.unwrap_or_default())
}

/// What `kubectl version` reads.
fn version() -> String {
    let version = api::json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35", "gitVersion": "v1.36.2", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "", "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
    });
    version.to_string()
}
