//! LIST: from the cache when it is fresh enough, from the store when the client wants pages or a revision of the past.

use std::sync::Arc;

use ::bytes::Bytes;
use api::{Kind, Status, gojson};
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use base64::{DecodeError, Engine as _, alphabet};
use serde::{Deserialize, Serialize};
use store::{Revision, StoreError};

use super::present::{ListMetadata, Presenter};
use super::{Content, Reply, Request};
use crate::cache::Indexed;
use crate::custom::conversion;
use crate::error::{from_not_fresh, from_store};
use crate::gateway::Gateway;
use crate::http::options::ListOptions;
use crate::select::Selection;
use crate::storage::{self, ObjectBytes, ObjectKey};

/// Keys read from the store at a time while looking for matches.
const PAGE_KEYS_MAX: usize = 1_000;

pub(crate) async fn list(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    let (items, metadata) = select(gateway, request).await?;
    let presenter = Presenter::new(request.kind.clone(), request.accept, request.query.text("includeObject"))?;
    let content_type = presenter.content_type();
    Ok(Reply::new(200, Content::Body(content_type, presenter.list(items, &metadata)?)))
}

/// The objects a list request names, and the list's metadata.
pub(crate) async fn select(gateway: &Gateway, request: &Request) -> Result<(Vec<ObjectBytes>, ListMetadata), Status> {
    let options = request.list_options()?;
    options.validate_list()?;
    let resource = gateway.cache.resource(&request.kind).ok_or_else(Status::unknown_endpoint)?;
    let indexed = conversion::indexed_kind(&request.kind, &resource.kind);
    let selection = Selection::new(&request.kind, indexed, &request.namespace, &request.name, &options)?;
    match plan(&options)? {
        Plan::Cache(freshness) => {
            let revision = match freshness {
                Some(wanted) => {
                    gateway.cache.wait_for(wanted).await.map_err(from_not_fresh)?;
                    gateway.cache.revision()
                }
                None => gateway.catch_up(&request.kind, "list").await?,
            };
            if let Some(why) = resource.defect(&request.namespace) {
                return Err(Status::internal(why));
            }
            let objects = match selection.single_name().filter(|_| !request.namespace.is_empty()) {
                Some(name) => resource.get(&request.namespace, name).into_iter().collect(),
                None => resource.list(&request.namespace),
            };
            let objects = conversion::localize_all(gateway, &request.kind, objects).await?;
            let everything = selection.is_everything();
            let items = objects
                .iter()
                .filter(|object| everything || selection.matches(object))
                .map(|object| object.bytes.clone())
                .collect();
            Ok((items, ListMetadata { resource_version: revision.0, ..ListMetadata::default() }))
        }
        Plan::Store { revision, start, limit, fresh } => {
            if fresh > Revision(0) {
                gateway.cache.wait_for(fresh).await.map_err(from_not_fresh)?;
            }
            page(gateway, request, &selection, revision, start, limit).await
        }
    }
}

enum Plan {
    /// From the cache, at least as fresh as this; `None`: at least as fresh as the store is now.
    Cache(Option<Revision>),
    /// From the store at a revision (0: now), from a key on (relative to the prefix), up to a number of items (0: all), once it is as
    /// fresh as this.
    Store { revision: Revision, start: String, limit: usize, fresh: Revision },
}

/// The rules of upstream's resourceVersion and continue parameters.
fn plan(options: &ListOptions) -> Result<Plan, Status> {
    if !options.continue_token.is_empty() {
        let token = ContinueToken::decode(&options.continue_token)?;
        if !options.resource_version.is_empty() && options.resource_version != "0" {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        let revision = Revision(token.rv.max(0));
        return Ok(Plan::Store { revision, start: token.start, limit: options.limit, fresh: revision });
    }
    let revision = options.list_revision()?;
    let unset = options.resource_version.is_empty();
    let store = |at, fresh| Plan::Store { revision: at, start: String::new(), limit: options.limit, fresh };
    if options.is_exact() || (options.limit > 0 && revision > Revision(0) && options.is_match_unset()) {
        return Ok(store(revision, revision));
    }
    // Only lists of anything, however old, come whole.
    if options.limit > 0 && (unset || revision > Revision(0)) {
        return Ok(store(Revision(0), revision));
    }
    Ok(Plan::Cache(if unset { None } else { Some(revision) }))
}

async fn page(
    gateway: &Gateway,
    request: &Request,
    selection: &Selection,
    revision: Revision,
    start: String,
    limit: usize,
) -> Result<(Vec<ObjectBytes>, ListMetadata), Status> {
    let kind = &request.kind;
    let namespace = selection.single_namespace();
    let prefix = ObjectKey::prefix(kind, namespace);
    let indexed = gateway.cache.resource(kind).map(|r| Arc::clone(conversion::indexed_kind(kind, &r.kind)));
    let fields = indexed.map(|kind| kind.selectable_fields.clone()).unwrap_or_default();
    let everything = selection.is_everything();
    let only = selection.single_name().filter(|_| !kind.namespaced || !namespace.is_empty());
    let start = only.map_or(start, str::to_owned);
    let mut start_key = Bytes::from([prefix.as_ref(), start.as_bytes()].concat());
    let mut revision = revision;
    let mut items = Vec::new();
    let mut wanted = match limit {
        _ if only.is_some() => 1,
        0 => PAGE_KEYS_MAX,
        limit => limit.min(PAGE_KEYS_MAX),
    };
    loop {
        let page = gateway.objects.page(&prefix, start_key, revision, wanted).await;
        let page = page.map_err(|error| expired_or(request, &start, error))?;
        if revision == Revision(0) {
            revision = page.revision;
        }
        let n_keys = page.kvs.len();
        let mut keys = Vec::with_capacity(n_keys);
        let mut objects = Vec::with_capacity(n_keys);
        for kv in page.kvs {
            let read = storage::read(kind, &kv.value, kv.mod_revision);
            objects.push(read.map_err(|error| Status::internal(error.at(&kv.key)))?);
            keys.push(kv.key);
        }
        let objects = conversion::localize(gateway, kind, objects).await?;
        let is_full = |items: &[ObjectBytes]| limit > 0 && items.len() >= limit;
        let mut last_key = Bytes::new();
        let mut n_looked_at = 0;
        for (key, object) in keys.into_iter().zip(objects) {
            if is_full(&items) {
                break;
            }
            if everything || matches(selection, &prefix, &request.kind, namespace, &key, &object, &fields)? {
                items.push(object);
            }
            last_key = key;
            n_looked_at += 1;
        }
        let mut metadata = ListMetadata { resource_version: revision.0, ..ListMetadata::default() };
        let has_more = page.more || n_looked_at < n_keys;
        if !has_more || only.is_some() {
            return Ok((items, metadata));
        }
        if is_full(&items) {
            let next = [&last_key[prefix.len()..], b"\0"].concat();
            let start = String::from_utf8(next).map_err(Status::internal)?;
            metadata.continue_token = ContinueToken { v: TOKEN_VERSION.into(), rv: revision.0, start }.encode()?;
            if everything {
                metadata.remaining_item_count = Some(page.count.saturating_sub(n_keys));
            }
            return Ok((items, metadata));
        }
        start_key = Bytes::from([last_key.as_ref(), b"\0"].concat());
        // Matches are few: the fewer, the more keys at a time.
        wanted = (wanted * 2).min(PAGE_KEYS_MAX);
    }
}

fn matches(
    selection: &Selection,
    prefix: &[u8],
    kind: &Kind,
    namespace: &str,
    key: &[u8],
    object: &ObjectBytes,
    fields: &[api::kind::SelectableField],
) -> Result<bool, Status> {
    let (indexed, _) = Indexed::extract(&object.json, fields).map_err(Status::internal)?;
    let rest = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
    let (namespace, name) = match namespace {
        "" if kind.namespaced => rest.split_once('/').unwrap_or(("", &rest)),
        namespace => (namespace, rest.as_str()),
    };
    Ok(selection.matches_indexed(namespace, name, &indexed))
}

/// A compacted revision behind a continue token is answered with a token that goes on from the newest state.
fn expired_or(request: &Request, start: &str, error: StoreError) -> Status {
    if !matches!(error, StoreError::Compacted { .. }) || start.is_empty() {
        return from_store(&request.kind, "list", error);
    }
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
         the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
         Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
         deleted between the time the first chunk was returned and now may show up in the list.",
    );
    let token = ContinueToken { v: TOKEN_VERSION.into(), rv: -1, start: start.to_owned() };
    match token.encode() {
        Ok(token) => status.metadata.continue_token = token,
        Err(error) => return error,
    }
    status
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";
/// As Go's, which does not look at the bits that are left over.
const BASE64_OF_TOKENS: GeneralPurpose =
    GeneralPurpose::new(&alphabet::URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

/// Where a paged list goes on; the JSON inside is upstream's.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct ContinueToken {
    v: String,
    /// Revision of the first page; -1 for "whatever is newest".
    rv: i64,
    /// First key, relative to the list's prefix.
    start: String,
}

impl ContinueToken {
    fn encode(&self) -> Result<String, Status> {
        Ok(BASE64_OF_TOKENS.encode(serde_json::to_vec(self).map_err(Status::internal)?))
    }

    fn decode(text: &str) -> Result<Self, Status> {
        let invalid =
            |why: &str| Status::bad_request(format!("invalid continue token: continue key is not valid{why}"));
        let bytes = BASE64_OF_TOKENS.decode(text).map_err(|error| {
            let at = match error {
                DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
                DecodeError::InvalidLength(length) => length.saturating_sub(1),
                DecodeError::InvalidPadding => text.len(),
            };
            invalid(&format!(": illegal base64 data at input byte {at}"))
        })?;
        let mut token: Self = serde_json::from_slice(&bytes)
            .map_err(|_| invalid(&gojson::syntax_error(&bytes).map(|why| format!(": {why}")).unwrap_or_default()))?;
        if token.v != TOKEN_VERSION {
            return Err(invalid(&format!(": server does not recognize this encoded version {}", token.v)));
        }
        if token.rv == 0 {
            return Err(invalid(": incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        if token.start.is_empty() {
            return Err(invalid(": encoded start key empty (version meta.k8s.io/v1)"));
        }
        // Nobody climbs out of what is listed.
        let path = token.start.strip_prefix('/').unwrap_or(&token.start);
        if !path.is_empty() && path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(invalid(&format!(": {}", token.start)));
        }
        token.start = path.to_owned();
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_none_is_refused_in_upstreams_words() {
        let token = |json: &str| BASE64_OF_TOKENS.encode(json);
        for (text, why) in [
            ("bad".to_owned(), ": invalid character 'm' looking for beginning of value"),
            ("b!d".to_owned(), ": illegal base64 data at input byte 1"),
            (token("{}"), ": server does not recognize this encoded version "),
            (token(r#"{"v":"meta.k8s.io/v1"}"#), ": incorrect encoded start resourceVersion (version meta.k8s.io/v1)"),
            (token(r#"{"v":"meta.k8s.io/v1","rv":5}"#), ": encoded start key empty (version meta.k8s.io/v1)"),
            (token(r#"{"v":"meta.k8s.io/v1","rv":5,"start":"../a"}"#), ": ../a"),
        ] {
            let error = ContinueToken::decode(&text).unwrap_err();
            assert_eq!(error.message, format!("invalid continue token: continue key is not valid{why}"));
        }
        let kept = ContinueToken::decode(&token(r#"{"v":"meta.k8s.io/v1","rv":5,"start":"/d/a\u0000"}"#)).unwrap();
        assert_eq!((kept.rv, kept.start.as_str()), (5, "d/a\0"));
    }
}
