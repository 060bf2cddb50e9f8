//! An informer's side of the wire: pages of a list and lines of a watch, decoded without `managedFields`.
//!
//! One object that makes no sense to our types must not keep all others of its kind from being seen: it is told of and passed over.

use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Limited};
use kube::Client;
use kube::api::{Api, ListParams, WatchParams};
use kube::client::Body;
use kube::core::ListMeta;
use kube::core::response::Status;
use memchr::memchr;
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::Value;
use tracing::warn;

use super::Object;
use crate::pruned::decodable;

/// A watch line that is longer is given up: twenty times the largest object that a server stores.
const LINE_BYTES_MAX: usize = 32 << 20;
/// A page of a list that is longer is given up: a full page of the largest objects.
const PAGE_BYTES_MAX: usize = 1 << 30;
/// An error answer is read no further than this.
const ERROR_BYTES_MAX: usize = 1 << 20;

/// Where the objects of a kind are listed and watched.
pub(super) struct Source<K> {
    client: Client,
    request: kube::core::Request,
    url: String,
    kind: PhantomData<fn() -> K>,
}

/// One page of a list. Its own type names are not looked at.
#[derive(Deserialize)]
pub(super) struct Page<K> {
    #[serde(default)]
    pub metadata: ListMeta,
    /// Go writes an empty list as null.
    pub items: Option<Vec<K>>,
}

impl<K: Object> Source<K> {
    pub(super) fn new(api: Api<K>) -> Self {
        let url = api.resource_url().to_owned();
        Self { client: api.into_client(), request: kube::core::Request::new(url.clone()), url, kind: PhantomData }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) async fn page(&self, params: &ListParams) -> Result<Page<K>, kube::Error> {
        let request = if K::metadata_api() { self.request.list_metadata(params) } else { self.request.list(params) };
        let answer = self.send(request.map_err(kube::Error::BuildRequest)?).await?;
        let body = Limited::new(answer.into_body(), PAGE_BYTES_MAX).collect().await.map_err(kube::Error::Service)?;
        let json = body.to_bytes();
        let json = decodable(&json);
        let json = text(&json).map_err(kube::Error::SerdeError)?;
        serde_json::from_str(json).or_else(|_| self.page_in_parts(json))
    }

    /// The objects of a page that can be decoded.
    fn page_in_parts(&self, json: &str) -> Result<Page<K>, kube::Error> {
        let page: Page<Value> = serde_json::from_str(json).map_err(kube::Error::SerdeError)?;
        let decode = |item: Value| match serde_json::from_str(&item.to_string()) {
            Ok(object) => Some(object),
            Err(error) => {
                passed_over(&self.url, &item["metadata"], &error);
                None
            }
        };
        let items = page.items.unwrap_or_default().into_iter().filter_map(decode).collect();
        Ok(Page { metadata: page.metadata, items: Some(items) })
    }

    pub(super) async fn watch(&self, params: &WatchParams, version: &str) -> Result<Events<K>, kube::Error> {
        let request = if K::metadata_api() {
            self.request.watch_metadata(params, version)
        } else {
            self.request.watch(params, version)
        };
        let answer = self.send(request.map_err(kube::Error::BuildRequest)?).await?;
        Ok(Events { url: self.url.clone(), lines: Lines::default(), body: answer.into_body(), kind: PhantomData })
    }

    /// An answer that is no error.
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Body>, kube::Error> {
        let mut request = request.map(Body::from);
        // A compressed watch is held back until a block is full.
        request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let answer = self.client.send(request).await?;
        let code = answer.status();
        if !code.is_client_error() && !code.is_server_error() {
            return Ok(answer);
        }
        let body = Limited::new(answer.into_body(), ERROR_BYTES_MAX).collect().await.map_err(kube::Error::Service)?;
        let status = serde_json::from_slice::<Status>(&body.to_bytes());
        // A proxy in between may answer with anything.
        let status = status.unwrap_or_else(|_| Status::failure(code.as_str(), "unreadable answer"));
        let code = if status.code == 0 { code.as_u16() } else { status.code };
        Err(kube::Error::Api(status.with_code(code).boxed()))
    }
}

/// What a line of a watch says.
pub(super) enum Event<K> {
    /// Added or modified.
    Applied(K),
    Deleted(K),
    /// Everything up to this version has been seen.
    Version(String),
    /// The server has no more to say.
    Error(Box<Status>),
}

/// The events of a watch as they come.
pub(super) struct Events<K> {
    url: String,
    lines: Lines,
    body: Body,
    kind: PhantomData<fn() -> K>,
}

impl<K: Object> Events<K> {
    /// `None` when the watch has ended. What a broken connection left of a last line is dropped.
    pub(super) async fn next(&mut self) -> Result<Option<Event<K>>, kube::Error> {
        loop {
            if let Some(line) = self.lines.next() {
                let json = decodable(&line);
                let json = text(&json).map_err(kube::Error::SerdeError)?;
                return self.event(json).map(Some).map_err(kube::Error::SerdeError);
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(data) = frame?.into_data() {
                self.lines.push(data)?;
            }
        }
    }

    fn event(&self, line: &str) -> Result<Event<K>, serde_json::Error> {
        let event = as_servers_write(line).and_then(|(type_, object)| decoded(type_, object).ok());
        event.map_or_else(|| self.in_parts(line), Ok)
    }

    /// An event that is written in another way, or whose object cannot be decoded: of a deletion all but names does not matter, of
    /// another the version alone is known.
    fn in_parts(&self, line: &str) -> Result<Event<K>, serde_json::Error> {
        let mut line: Value = serde_json::from_str(line)?;
        let mut object = line["object"].take();
        let type_ = line["type"].as_str().unwrap_or_default();
        let error = match decoded(type_, &object.to_string()) {
            Ok(event) => return Ok(event),
            Err(error) => error,
        };
        match type_ {
            "ADDED" | "MODIFIED" => {
                passed_over(&self.url, &object["metadata"], &error);
                let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
                Ok(Event::Version(version.to_owned()))
            }
            "DELETED" => {
                if let Some(members) = object.as_object_mut() {
                    members.retain(|member, _| ["apiVersion", "kind", "metadata"].contains(&member.as_str()));
                }
                decoded(type_, &object.to_string())
            }
            _ => Err(error),
        }
    }
}

/// Type and object of a line whose members come in the order in which Go writes them.
fn as_servers_write(line: &str) -> Option<(&str, &str)> {
    let (type_, rest) = line.strip_prefix("{\"type\":\"")?.split_once('"')?;
    Some((type_, rest.strip_prefix(",\"object\":")?.trim_end().strip_suffix('}')?))
}

/// Every object comes through `from_str`, as those of requests do: each other way would be all decoders of a kind once more, half
/// a megabyte for pods.
fn decoded<K: Object>(type_: &str, object: &str) -> Result<Event<K>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Bookmark {
        metadata: ListMeta,
    }
    Ok(match type_ {
        "ADDED" | "MODIFIED" => Event::Applied(serde_json::from_str(object)?),
        "DELETED" => Event::Deleted(serde_json::from_str(object)?),
        "BOOKMARK" => {
            let bookmark: Bookmark = serde_json::from_str(object)?;
            Event::Version(bookmark.metadata.resource_version.unwrap_or_default())
        }
        "ERROR" => Event::Error(serde_json::from_str(object)?),
        _ => return Err(serde_json::Error::custom(format!("no type of an event: {type_}"))),
    })
}

fn text(json: &[u8]) -> Result<&str, serde_json::Error> {
    std::str::from_utf8(json).map_err(serde_json::Error::custom)
}

fn passed_over(url: &str, metadata: &Value, error: &serde_json::Error) {
    let of = |member: &str| metadata[member].as_str().unwrap_or_default();
    warn!(url, namespace = of("namespace"), name = of("name"), %error, "an object that makes no sense is passed over");
}

/// Chunks of a stream as lines. Lines within one chunk are parts of it, not copies.
#[derive(Default)]
struct Lines {
    /// The beginning of a line whose end has not come.
    begun: BytesMut,
    chunk: Bytes,
}

impl Lines {
    /// Takes the next chunk, when [`Lines::next`] has nothing more.
    fn push(&mut self, chunk: Bytes) -> Result<(), kube::Error> {
        self.begun.extend_from_slice(&std::mem::replace(&mut self.chunk, chunk));
        if self.begun.len() > LINE_BYTES_MAX {
            return Err(kube::Error::LinesCodecMaxLineLengthExceeded);
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Bytes> {
        loop {
            let end = memchr(b'\n', &self.chunk)?;
            let mut line = self.chunk.split_to(end + 1);
            line.truncate(end);
            if !self.begun.is_empty() {
                self.begun.extend_from_slice(&line);
                line = self.begun.split().freeze();
            }
            if !line.is_empty() {
                return Some(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_across_chunks() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for chunk in ["a\nb", "", "c", "d\n\n", "e\nf\n", "g"] {
            lines.push(Bytes::from(chunk)).unwrap();
            while let Some(line) = lines.next() {
                seen.push(String::from_utf8(line.to_vec()).unwrap());
            }
        }
        assert_eq!(seen, ["a", "bcd", "e", "f"]);
    }
}
