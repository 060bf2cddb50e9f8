//! Documents about the API: discovery in both forms, version, metrics.

use std::collections::HashMap;

use ::bytes::Bytes;
use api::discovery::{self, Aggregated, ApiGroup};
use api::{Status, field::go_quote, openapi};
use http::header::{ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Response};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha512};

use crate::authn::oidc;
use crate::gateway::{Gateway, header, respond, text};
use crate::http::ResponseBody;
use crate::http::accept::{Encoding, Shape, negotiate};
use crate::http::body;

/// Documents made once and kept: they change only when kinds come or go.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    made: Mutex<HashMap<String, Document>>,
}

#[derive(Clone, Debug)]
struct Document {
    content_type: &'static str,
    bytes: Bytes,
    etag: HeaderValue,
}

const JSON: &str = "application/json";
const AGGREGATED_FORMS: [(&str, Aggregated); 2] = [("v=v2;", Aggregated::V2), ("v=v2beta1;", Aggregated::V2Beta1)];

impl Documents {
    /// The document named `key`, made by `make` the first time.
    fn get(&self, key: String, content_type: &'static str, make: impl FnOnce() -> Option<Bytes>) -> Option<Document> {
        if let Some(document) = self.made.lock().get(&key) {
            return Some(document.clone());
        }
        let bytes = make()?;
        let hash: String = Sha512::digest(&bytes).iter().map(|byte| format!("{byte:02X}")).collect();
        let etag = HeaderValue::from_str(&go_quote(&hash)).ok()?;
        let document = Document { content_type, bytes, etag };
        self.made.lock().insert(key, document.clone());
        Some(document)
    }
}

/// The document at a path; `None` when there is none.
pub(crate) fn find(
    gateway: &Gateway,
    path: &str,
    accept: Option<&str>,
    headers: &HeaderMap,
) -> Result<Option<Response<ResponseBody>>, Status> {
    let path = path.trim_end_matches('/');
    match path {
        "/version" => return Ok(Some(respond(200, JSON, body::full(version())))),
        "/.well-known/openid-configuration" => {
            let issuer = gateway.tokens.issuers.first().map_or("", String::as_str);
            let host = header(headers, "host").unwrap_or("");
            let here = format!("https://{host}{}", oidc::JWKS_PATH);
            let uri = gateway.tokens.jwks_uri.as_deref().unwrap_or(&here);
            let document = oidc::configuration(issuer, uri, &gateway.tokens.keys);
            return Ok(Some(respond(200, JSON, body::full(document.to_string()))));
        }
        oidc::JWKS_PATH => {
            if accept.is_some_and(|accept| !accept.contains("application/jwk-set+json") && !accept.contains("*/*")) {
                return Err(Status::not_acceptable(&["application/jwk-set+json"]));
            }
            let document = oidc::key_set(&gateway.tokens.keys);
            return Ok(Some(respond(200, "application/jwk-set+json", body::full(document.to_string()))));
        }
        "/metrics" => return Ok(Some(text(200, gateway.metrics.text()))),
        _ => {}
    }
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let document = match segments.as_slice() {
        ["api"] | ["apis"] => aggregated(gateway, path, accept).or_else(|| root(gateway, headers, segments[0])),
        ["openapi", "v2"] => return openapi_v2(accept).map(Some),
        ["openapi", "v3"] => return Ok(Some(respond(200, "text/plain; charset=utf-8", body::full(v3_index(gateway))))),
        ["openapi", "v3", path @ ..] => return Ok(Some(openapi_v3(gateway, path, headers))),
        ["api", "v1"] => resources(gateway, "", "v1"),
        ["api", _] => return Err(Status::unknown_endpoint()),
        ["apis", group] => one_group(gateway, group),
        ["apis", group, version] => {
            let document = resources(gateway, group, version);
            if document.is_none() && gateway.registry.group(group).is_some() {
                return Err(Status::unknown_endpoint());
            }
            document
        }
        _ => None,
    };
    let Some(document) = document else { return Ok(None) };
    if document.content_type == JSON {
        let encoding = negotiate(accept, Shape::Object, false)?.encoding;
        if !matches!(encoding, Encoding::Json | Encoding::PrettyJson) {
            let value = serde_json::from_slice(&document.bytes).map_err(Status::internal)?;
            let bytes = crate::verbs::encode(&value, encoding)?;
            return Ok(Some(respond(200, encoding.content_type(), body::full(bytes))));
        }
    }
    Ok(Some(conditional(&document, headers)))
}

/// 304 when the client has this very document.
fn conditional(document: &Document, headers: &HeaderMap) -> Response<ResponseBody> {
    let known = headers.get(IF_NONE_MATCH).is_some_and(|etag| *etag == document.etag);
    let mut response = if known {
        respond(304, document.content_type, body::full(Bytes::new()))
    } else {
        respond(200, document.content_type, body::full(document.bytes.clone()))
    };
    if document.content_type != JSON {
        response.headers_mut().insert(ETAG, document.etag.clone());
        response.headers_mut().insert("Vary", HeaderValue::from_static("Accept"));
    }
    response
}

/// All groups and resources at once, when the client prefers that.
fn aggregated(gateway: &Gateway, path: &str, accept: Option<&str>) -> Option<Document> {
    let first = accept?.split(',').map(str::trim).find(|part| part.starts_with(JSON))?;
    if !first.contains("as=APIGroupDiscoveryList") || !first.contains("g=apidiscovery.k8s.io") {
        return None;
    }
    let parameters = format!("{first};");
    let (_, form) = AGGREGATED_FORMS.iter().find(|(version, _)| parameters.contains(version))?;
    let core = path == "/api";
    let key = format!("aggregated {form:?} {path}");
    gateway.documents.get(key, form.content_type(), || Some(discovery::aggregated(*form, core, &groups())))
}

fn root(gateway: &Gateway, headers: &HeaderMap, root: &str) -> Option<Document> {
    let host = header(headers, "host").unwrap_or("");
    match root {
        "api" => gateway.documents.get(format!("api {host}"), JSON, || Some(discovery::api_versions(host))),
        _ => gateway.documents.get("apis".to_owned(), JSON, || {
            let groups: Vec<_> = groups().into_iter().filter(|group| !group.name.is_empty()).collect();
            Some(discovery::group_list(&groups))
        }),
    }
}

fn one_group(gateway: &Gateway, name: &str) -> Option<Document> {
    gateway.documents.get(format!("group {name}"), JSON, || {
        groups().iter().find(|group| group.name == name && !name.is_empty()).map(discovery::group)
    })
}

fn resources(gateway: &Gateway, group: &str, version: &str) -> Option<Document> {
    gateway.documents.get(format!("resources {group}/{version}"), JSON, || {
        let mut kinds = gateway.registry.of_group_version(group, version).peekable();
        kinds.peek()?;
        Some(discovery::resource_list(group, version, kinds.map(AsRef::as_ref)))
    })
}

fn groups() -> Vec<ApiGroup<'static>> {
    discovery::builtin()
}

/// All definitions in one document; made for each request, because it is large and few clients still ask for it.
fn openapi_v2(accept: Option<&str>) -> Result<Response<ResponseBody>, Status> {
    let takes_json = accept.is_none_or(|accept| accept.contains("json") || accept.contains("*/*"));
    if !takes_json || accept.is_some_and(|accept| !accept.contains("json") && accept.contains("protobuf")) {
        return Ok(respond(406, "text/plain; charset=utf-8", body::full(Bytes::new())));
    }
    Ok(respond(200, JSON, body::full(openapi::v2_document(&groups(), &[]))))
}

/// Every document of OpenAPI v3 with its hash. The documents themselves are not kept: together they are large.
fn v3_index(gateway: &Gateway) -> Bytes {
    let index = gateway.documents.get("openapi v3".to_owned(), JSON, || {
        let hashes: Vec<(String, String)> = group_versions(gateway)
            .map(|(group, version)| {
                (openapi::v3_path(group, version), openapi::hash(&v3_document(gateway, group, version)))
            })
            .collect();
        Some(openapi::v3_index(hashes.iter().map(|(path, hash)| (path.as_str(), hash.as_str()))))
    });
    index.map(|document| document.bytes).unwrap_or_default()
}

fn openapi_v3(gateway: &Gateway, path: &[&str], headers: &HeaderMap) -> Response<ResponseBody> {
    let wanted = path.join("/");
    let found = group_versions(gateway).find(|(group, version)| openapi::v3_path(group, version) == wanted);
    let Some((group, version)) = found else {
        return respond(404, "text/plain; charset=utf-8", body::full(Bytes::new()));
    };
    let bytes = v3_document(gateway, group, version);
    let Ok(etag) = HeaderValue::from_str(&go_quote(&openapi::hash(&bytes))) else {
        return respond(200, JSON, body::full(bytes));
    };
    let known = headers.get(IF_NONE_MATCH).is_some_and(|known| *known == etag);
    let mut response =
        if known { respond(304, JSON, body::full(Bytes::new())) } else { respond(200, JSON, body::full(bytes)) };
    response.headers_mut().insert(ETAG, etag);
    response
}

fn v3_document(gateway: &Gateway, group: &str, version: &str) -> Bytes {
    openapi::v3_document(group, version, gateway.registry.of_group_version(group, version).map(AsRef::as_ref))
}

fn group_versions(gateway: &Gateway) -> impl Iterator<Item = (&'static str, &'static str)> {
    let groups = gateway.registry.groups();
    groups.iter().flat_map(|group| group.versions.iter().map(|version| (group.name, version.version)))
}

/// What `kubectl version` reads.
fn version() -> String {
    let version = serde_json::json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35", "gitVersion": "v1.36.2", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "", "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
    });
    version.to_string()
}
