//! From stored bytes to the bytes a client sees, without building a tree.

use ::bytes::{Bytes, BytesMut};
use api::codec::protobuf;
use api::field::go_quote;
use api::value::{Malformed, value_end};
use store::Revision;

/// An object's JSON with its resourceVersion inside, and where its `metadata` begins.
///
/// Layout: `{"kind":"K","apiVersion":"G/V","metadata":{"resourceVersion":"N",…},…}`; `metadata_at` is the offset of the
/// quote that opens `"metadata"`, so that a list can leave out the type (as upstream's typed lists do).
#[derive(Clone, Debug)]
pub struct ObjectBytes {
    pub json: Bytes,
    metadata_at: usize,
    /// Behind the metadata, when somebody has looked.
    metadata_end: Option<usize>,
}

/// A stored value that is not an object of ours.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Upstream's storage format, but not an object that we know.
    #[error("value is not a protobuf object: {0}")]
    Protobuf(#[from] api::codec::DecodeError),
    #[error("value is not a JSON object: {0}")]
    Json(#[from] serde_json::Error),
    /// Encrypted by a provider that the configuration does not have, or in the clear where it does not allow that.
    #[error("no matching prefix found")]
    Sealed,
    #[error("object has no metadata")]
    NoMetadata,
}

impl ReadError {
    /// What a list of the key says: upstream's words.
    pub(crate) fn at(&self, key: &[u8]) -> String {
        match self {
            Self::Sealed => format!("unable to transform key {}: {self}", go_quote(&String::from_utf8_lossy(key))),
            Self::Protobuf(_) | Self::Json(_) | Self::NoMetadata => self.to_string(),
        }
    }
}

const METADATA_KEY: &[u8] = b"\"metadata\":{";
const RESOURCE_VERSION_KEY: &[u8] = b"\"resourceVersion\":\"";

impl ObjectBytes {
    /// Splices `revision` into stored bytes. One copy of the object; bytes laid out by someone else are rewritten first.
    pub fn from_stored(stored: &Bytes, revision: Revision) -> Result<Self, ReadError> {
        Self::framed(stored, revision, b"", b"").map(|(object, _)| object)
    }

    /// The same as a part of a longer text that begins and ends as given; the whole text comes second.
    pub fn framed(stored: &Bytes, revision: Revision, before: &[u8], after: &[u8]) -> Result<(Self, Bytes), ReadError> {
        match metadata_offset(stored) {
            Some(metadata_at) => Ok(splice(stored, metadata_at, revision, before, after)),
            None => {
                let rewritten = rewrite(stored)?;
                let metadata_at = metadata_offset(&rewritten).ok_or(ReadError::NoMetadata)?;
                Ok(splice(&rewritten, metadata_at, revision, before, after))
            }
        }
    }

    /// What a dry run would have stored: it has no resourceVersion.
    pub fn unsaved(stored: &Bytes) -> Result<Self, ReadError> {
        let metadata_at = metadata_offset(stored).ok_or(ReadError::NoMetadata)?;
        Ok(Self { json: stored.clone(), metadata_at, metadata_end: None })
    }

    /// Like `json`, without `kind` and `apiVersion`, minus the opening brace: what follows `{` for an item of a typed list.
    pub fn item_tail(&self) -> Bytes {
        self.json.slice(self.metadata_at..)
    }

    /// The same, of an object whose metadata are known to end there.
    pub fn with_metadata_end(self, end: usize) -> Self {
        Self { metadata_end: Some(end).filter(|end| *end > self.metadata_at), ..self }
    }

    /// `"metadata":{…}`, a part of `json`.
    pub fn metadata_member(&self) -> Result<Bytes, ReadError> {
        let end = match self.metadata_end {
            Some(end) => end,
            None => {
                let value_at = self.metadata_at + METADATA_KEY.len() - 1;
                value_end(&self.json, value_at).map_err(|Malformed| ReadError::NoMetadata)?
            }
        };
        Ok(self.json.slice(self.metadata_at..end))
    }

    /// The same object as of another revision.
    pub fn at_revision(&self, revision: Revision) -> Self {
        let insert_at = self.metadata_at + METADATA_KEY.len() + RESOURCE_VERSION_KEY.len();
        let digits = self.json[insert_at..].iter().take_while(|b| b.is_ascii_digit()).count();
        let mut out = BytesMut::with_capacity(self.json.len() + 20);
        out.extend_from_slice(&self.json[..insert_at]);
        out.extend_from_slice(revision.to_string().as_bytes());
        out.extend_from_slice(&self.json[insert_at + digits..]);
        Self { json: out.freeze(), metadata_at: self.metadata_at, metadata_end: None }
    }

    /// The object as a tree.
    pub fn parse(&self) -> Result<api::Value, ReadError> {
        Ok(api::Value::from_json(&self.json)?)
    }

    /// The same, to be changed: what shows that a part of it was not is kept.
    pub fn parse_live(&self, kind: &api::Kind) -> Result<api::Value, ReadError> {
        Ok(api::codec::decode_stored(kind, &self.json)?)
    }
}

/// Offset of `"metadata":{` when the value begins `{"kind":"…","apiVersion":"…","metadata":{`.
fn metadata_offset(stored: &[u8]) -> Option<usize> {
    let after_kind = skip_string_member(stored, 1, b"\"kind\":\"")?;
    let at = skip_string_member(stored, after_kind, b"\"apiVersion\":\"")?;
    stored[at..].starts_with(METADATA_KEY).then_some(at)
}

/// Offset behind `key"…",` at `at`, for values without escapes.
fn skip_string_member(bytes: &[u8], at: usize, key: &[u8]) -> Option<usize> {
    let value = bytes.get(at..)?.strip_prefix(key)?;
    let end = value.iter().position(|&b| b == b'"' || b == b'\\')?;
    value[end..].starts_with(b"\",").then_some(at + key.len() + end + 2)
}

fn splice(stored: &[u8], metadata_at: usize, revision: Revision, before: &[u8], after: &[u8]) -> (ObjectBytes, Bytes) {
    let revision = revision.to_string();
    let (head, tail) = stored.split_at(metadata_at + METADATA_KEY.len());
    let end: &[u8] = if tail.first() == Some(&b'}') { b"\"" } else { b"\"," };
    let parts = [before, head, RESOURCE_VERSION_KEY, revision.as_bytes(), end, tail, after];
    // These bytes are kept for long: not one more than needed.
    let mut out = BytesMut::with_capacity(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    let text = out.freeze();
    let json = text.slice(before.len()..text.len() - after.len());
    (ObjectBytes { json, metadata_at, metadata_end: None }, text)
}

/// Another writer's JSON or protobuf, in our layout and without a resourceVersion.
fn rewrite(stored: &Bytes) -> Result<Bytes, ReadError> {
    if stored.starts_with(super::SEALED) {
        return Err(ReadError::Sealed);
    }
    let object =
        if protobuf::is_enveloped(stored) { protobuf::decode_object(stored)? } else { api::Value::from_json(stored)? };
    let api::Value::Object(mut object) = object else { return Err(ReadError::NoMetadata) };
    let kind = object.remove("kind").unwrap_or_default();
    let api_version = object.remove("apiVersion").unwrap_or_default();
    let mut metadata = object.remove("metadata").ok_or(ReadError::NoMetadata)?;
    metadata.as_object_mut().ok_or(ReadError::NoMetadata)?.remove("resourceVersion");
    let mut out = api::Map::with_capacity(object.len() + 3);
    out.insert("kind", kind);
    out.insert("apiVersion", api_version);
    out.insert("metadata", metadata);
    out.extend(object);
    Ok(serde_json::to_vec(&out)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_version_is_spliced_into_our_layout() {
        let stored = Bytes::from_static(br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"},"spec":{}}"#);
        let object = ObjectBytes::from_stored(&stored, Revision(7)).unwrap();
        assert_eq!(
            object.json.as_ref(),
            br#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"7","name":"a"},"spec":{}}"#
        );
        let later = object.at_revision(Revision(123));
        assert_eq!(
            later.json.as_ref(),
            br#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"123","name":"a"},"spec":{}}"#
        );
        assert_eq!(object.metadata_member().unwrap().as_ref(), br#""metadata":{"resourceVersion":"7","name":"a"}"#);
        assert_eq!(object.item_tail().as_ref(), br#""metadata":{"resourceVersion":"7","name":"a"},"spec":{}}"#);
    }

    #[test]
    fn other_layouts_are_rewritten_and_lose_their_own_version() {
        let stored = Bytes::from_static(
            br#"{"apiVersion":"v1","kind":"Pod","spec":{},"metadata":{"resourceVersion":"3","name":"a"}}"#,
        );
        let object = ObjectBytes::from_stored(&stored, Revision(9)).unwrap();
        assert_eq!(
            object.json.as_ref(),
            br#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"9","name":"a"},"spec":{}}"#
        );
    }

    #[test]
    fn values_of_an_upstream_server_are_read() {
        let map = api::Value::from_iter([
            ("kind".to_owned(), api::Value::from("ConfigMap")),
            ("apiVersion".to_owned(), api::Value::from("v1")),
            ("metadata".to_owned(), api::Value::from_iter([("name", "a")])),
            ("data".to_owned(), api::Value::from_iter([("k", "v")])),
        ]);
        let stored = protobuf::encode(&map).unwrap();
        assert!(protobuf::is_enveloped(&stored));
        let object = ObjectBytes::from_stored(&stored, Revision(9)).unwrap();
        assert_eq!(
            object.json.as_ref(),
            br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"9","name":"a"},"data":{"k":"v"}}"#
        );
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(matches!(
            ObjectBytes::from_stored(&Bytes::from_static(b"k8s\0\x0a\x09"), Revision(1)),
            Err(ReadError::Protobuf(_))
        ));
        assert!(matches!(
            ObjectBytes::from_stored(&Bytes::from_static(b"{}"), Revision(1)),
            Err(ReadError::NoMetadata)
        ));
        assert!(matches!(ObjectBytes::from_stored(&Bytes::from_static(b"["), Revision(1)), Err(ReadError::Json(_))));
    }
}
