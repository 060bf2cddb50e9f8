//! Conversion by webhook: the versions of some definitions differ in more than their names, and their author's server knows how.
//! Source: `apiextensions-apiserver` `pkg/apiserver/conversion`.
//!
//! Stored objects stay as they were written. Whoever needs one in a version asks here first; what comes back is of that version,
//! and from there on everything goes as for any other kind.

use std::sync::Arc;
use std::time::Duration;

use ::bytes::Bytes;
use api::json;
use api::{Kind, Map, Status, Value, codec, meta};
use store::Revision;

use crate::cache::{CacheEvent, CachedObject, Indexed};
use crate::error::from_read;
use crate::gateway::Gateway;
use crate::storage::ObjectBytes;
use crate::webhook::{ClientConfig, post};
use crate::write::{encode_for_storage, from_storage, set_metadata, written};

/// A conversion takes this long at most, as upstream.
const TIMEOUT: Duration = Duration::from_secs(30);
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const GROUP: &str = "apiextensions.k8s.io";

/// The `spec.conversion` of a kind whose versions a webhook converts.
fn webhook(kind: &Kind) -> Option<&Value> {
    kind.custom().and_then(|custom| custom.definition().conversion_webhook.as_ref())
}

/// Objects of a webhook's kind are not what they are stored as in this version.
pub(crate) fn is_needed(kind: &Kind) -> bool {
    webhook(kind).is_some()
}

/// A stored value as an object in the version of `kind`, with its resourceVersion.
pub(crate) async fn decode_stored(
    gateway: &Gateway,
    kind: &Kind,
    value: &Bytes,
    revision: Revision,
) -> Result<Value, Status> {
    let object = written(value, revision)?.parse_live(kind).map_err(from_read)?;
    let object = one(gateway, kind, object, &kind.api_version()).await?;
    Ok(from_storage(kind, object))
}

/// An object in the version of `kind` as it is stored.
pub(crate) async fn encode_for_store(gateway: &Gateway, kind: &Kind, object: Value) -> Result<Bytes, Status> {
    let object = one(gateway, kind, object, &kind.storage_version).await?;
    Ok(encode_for_storage(kind, object))
}

/// Stored objects in the version of `kind`, still as bytes.
pub(crate) async fn localize(
    gateway: &Gateway,
    kind: &Kind,
    objects: Vec<ObjectBytes>,
) -> Result<Vec<ObjectBytes>, Status> {
    if !is_needed(kind) {
        return Ok(objects);
    }
    let own = kind.api_version();
    let mut out = objects;
    let mut places = Vec::new();
    let mut foreign = Vec::new();
    for (place, object) in out.iter().enumerate() {
        let object = object.parse().map_err(from_read)?;
        if object["apiVersion"] != own {
            places.push(place);
            foreign.push(object);
        }
    }
    for (place, object) in places.into_iter().zip(convert(gateway, kind, foreign, &own).await?) {
        let revision = meta::resource_version(&object).parse().map(Revision).map_err(Status::internal)?;
        let mut object = from_storage(kind, object);
        set_metadata(&mut object, "resourceVersion", Value::Null);
        out[place] = ObjectBytes::from_stored(&codec::encode(kind, &object), revision).map_err(from_read)?;
    }
    Ok(out)
}

/// One stored object in the version of `kind`.
pub(crate) async fn localize_one(gateway: &Gateway, kind: &Kind, object: ObjectBytes) -> Result<ObjectBytes, Status> {
    Ok(localize(gateway, kind, vec![object]).await?.swap_remove(0))
}

/// A change, its objects in the version of `kind`.
pub(crate) async fn localize_event(gateway: &Gateway, kind: &Kind, event: &CacheEvent) -> Result<CacheEvent, Status> {
    let object = localize_cached(gateway, kind, &event.object).await?;
    let previous = match &event.previous {
        Some(previous) => Some(localize_cached(gateway, kind, previous).await?),
        None => None,
    };
    Ok(event.with_objects(object, previous))
}

async fn localize_cached(
    gateway: &Gateway,
    kind: &Kind,
    object: &Arc<CachedObject>,
) -> Result<Arc<CachedObject>, Status> {
    Ok(localize_all(gateway, kind, vec![Arc::clone(object)]).await?.swap_remove(0))
}

/// Cached objects in the version of `kind`, with the fields that selectors of that version look at.
pub(crate) async fn localize_all(
    gateway: &Gateway,
    kind: &Kind,
    objects: Vec<Arc<CachedObject>>,
) -> Result<Vec<Arc<CachedObject>>, Status> {
    if !is_needed(kind) {
        return Ok(objects);
    }
    let bytes = objects.iter().map(|object| object.bytes.clone()).collect();
    let localized = localize(gateway, kind, bytes).await?;
    let with_bytes = |(object, bytes): (&Arc<CachedObject>, ObjectBytes)| {
        let (indexed, _) = Indexed::extract(&bytes.json, &kind.selectable_fields).map_err(Status::internal)?;
        Ok(Arc::new(CachedObject { stored: Arc::clone(&object.stored), bytes, indexed, frame: None }))
    };
    objects.iter().zip(localized).map(with_bytes).collect()
}

/// The kind whose selectable fields are indexed in what a reader of `kind` sees.
pub(crate) fn indexed_kind<'k>(kind: &'k Arc<Kind>, cached: &'k Arc<Kind>) -> &'k Arc<Kind> {
    if is_needed(kind) { kind } else { cached }
}

async fn one(gateway: &Gateway, kind: &Kind, object: Value, api_version: &str) -> Result<Value, Status> {
    if !is_needed(kind) || object["apiVersion"] == api_version {
        return Ok(object);
    }
    Ok(convert(gateway, kind, vec![object], api_version).await?.swap_remove(0))
}

/// As many objects as were given, in their order.
async fn convert(gateway: &Gateway, kind: &Kind, objects: Vec<Value>, api_version: &str) -> Result<Vec<Value>, Status> {
    let (Some(conversion), Some(first)) = (webhook(kind), objects.first()) else { return Ok(objects) };
    let gvk = format!("{}, Kind={}", first["apiVersion"].as_str().unwrap_or(""), kind.kind);
    let fail = |text: String| Status::unknown(format!("conversion webhook for {gvk} {text}"));
    let accepted = conversion.pointer("/webhook/conversionReviewVersions").and_then(Value::as_array);
    let accepted = accepted.into_iter().flatten().filter_map(Value::as_str);
    let version = REVIEW_VERSIONS.into_iter().find(|version| accepted.clone().any(|v| v == *version));
    let version = version.unwrap_or(REVIEW_VERSIONS[0]);
    let uid = uuid::Uuid::new_v4().to_string();
    let review = json!({
        "kind": "ConversionReview", "apiVersion": format!("{GROUP}/{version}"),
        "request": { "uid": uid, "desiredAPIVersion": api_version, "objects": objects },
    });
    let client = ClientConfig::parse(conversion.pointer("/webhook/clientConfig").unwrap_or(&Value::Null));
    let answer = post(gateway, &client, &review, TIMEOUT).await.map_err(|error| fail(format!("failed: {error}")))?;
    let converted = converted_objects(&answer, version, &uid).map_err(|error| fail(format!("failed: {error}")))?;
    if converted.len() != objects.len() {
        return Err(fail(format!("returned {} objects, expected {}", converted.len(), objects.len())));
    }
    let mut out = Vec::with_capacity(objects.len());
    for (original, object) in objects.into_iter().zip(converted) {
        let checked = checked(&original, object, api_version);
        out.push(checked.map_err(|error| fail(format!("returned invalid converted object: {error}")))?);
    }
    Ok(out)
}

fn converted_objects(answer: &[u8], version: &str, uid: &str) -> Result<Vec<Value>, String> {
    let review: Value = Value::from_json(answer).map_err(|error| error.to_string())?;
    let text = |pointer: &str| review.pointer(pointer).and_then(Value::as_str).unwrap_or("");
    let (found, expected) = (text("/apiVersion"), format!("{GROUP}/{version}"));
    if found != expected || text("/kind") != "ConversionReview" {
        return Err(format!(
            "expected webhook response of {expected}, Kind=ConversionReview, got {found}, Kind={}",
            text("/kind")
        ));
    }
    if !review["response"].is_object() {
        return Err("no response provided".to_owned());
    }
    if text("/response/uid") != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", text("/response/uid")));
    }
    let status = text("/response/result/status");
    if status != "Success" {
        let message = text("/response/result/message");
        return Err(match (message, status) {
            ("", status) => format!("response.result.status was '{status}', not 'Success'"),
            (message, _) => message.to_owned(),
        });
    }
    let objects = review.pointer("/response/convertedObjects").and_then(Value::as_array);
    Ok(objects.cloned().unwrap_or_default())
}

/// A conversion leaves the object who it is. Of metadata only labels and annotations are the webhook's to change.
fn checked(original: &Value, mut converted: Value, api_version: &str) -> Result<Value, String> {
    let text = |of: &Value, pointer: &str| of.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
    if converted["apiVersion"] != api_version {
        return Err(format!(
            "invalid groupVersion (expected {api_version}, received {})",
            text(&converted, "/apiVersion")
        ));
    }
    for (pointer, what) in
        [("/kind", "kind"), ("/metadata/name", "name"), ("/metadata/namespace", "namespace"), ("/metadata/uid", "UID")]
    {
        let (before, after) = (text(original, pointer), text(&converted, pointer));
        if before != after {
            return Err(format!("must have the same {what}: {before} != {after}"));
        }
    }
    let mut metadata: Map = original.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        match converted.pointer(&format!("/metadata/{field}")).filter(|value| !value.is_null()) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
    converted["metadata"] = metadata.into();
    Ok(converted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_only_whole() {
        let answer = |response: Value| {
            let review =
                json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response});
            converted_objects(review.to_string().as_bytes(), "v1", "u")
        };
        let good = json!({"uid": "u", "result": {"status": "Success"}, "convertedObjects": [{"a": 1}]});
        assert_eq!(answer(good), Ok(vec![json!({"a": 1})]));
        assert_eq!(answer(Value::Null), Err("no response provided".to_owned()));
        assert_eq!(answer(json!({"uid": "x"})), Err("expected response.uid=\"u\", got \"x\"".to_owned()));
        let refused = json!({"uid": "u", "result": {"status": "Failure", "message": "not today"}});
        assert_eq!(answer(refused), Err("not today".to_owned()));
    }

    #[test]
    fn a_conversion_keeps_identity() {
        let original =
            json!({"apiVersion": "e.com/v1", "kind": "X", "metadata": {"name": "a", "uid": "u", "generation": 2}});
        let converted = json!({"apiVersion": "e.com/v2", "kind": "X", "metadata": {"name": "a", "uid": "u", "labels": {"l": "m"},
            "generation": 9}, "spec": {}});
        let checked_object = checked(&original, converted.clone(), "e.com/v2").expect("a conversion");
        assert_eq!(checked_object["metadata"], json!({"name": "a", "uid": "u", "generation": 2, "labels": {"l": "m"}}));
        assert_eq!(
            checked(&json!({"kind": "X", "metadata": {"name": "b", "uid": "u"}}), converted, "e.com/v2"),
            Err("must have the same name: b != a".to_owned())
        );
    }
}
