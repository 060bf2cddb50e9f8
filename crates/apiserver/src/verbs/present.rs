//! Objects as the client asked for them: whole, as table rows, or as metadata only; in the API version of the request.

use std::sync::Arc;

use ::bytes::{BufMut, Bytes, BytesMut};
use api::codec::protobuf::{self, ListEncoder};
use api::codec::yaml;
use api::json;
use api::table::Printer;
use api::{Kind, Map, Status, Value};

use crate::cache::EventKind;
use crate::error::from_read;
use crate::http::accept::{Accept, Encoding, Form, Shape};
use crate::http::body::{self, ResponseBody};
use crate::storage::ObjectBytes;
use crate::write::from_storage;

/// Bytes that a streamed list gathers before it hands them on.
const CHUNK_BYTES: usize = 64 << 10;

/// What table rows carry besides cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    None,
    Metadata,
    Object,
}

impl IncludeObject {
    pub(crate) fn parse(text: &str) -> Result<Self, Status> {
        match text {
            "None" => Ok(Self::None),
            "" | "Metadata" => Ok(Self::Metadata),
            "Object" => Ok(Self::Object),
            other => Err(Status::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {}: must be 'Metadata', 'Object', \
                 'None', or empty",
                api::field::go_quote(other)
            ))),
        }
    }
}

/// Turns stored objects into answers of one kind and form.
#[derive(Clone, Debug)]
pub(crate) struct Presenter {
    kind: Arc<Kind>,
    accept: Accept,
    include_object: IncludeObject,
    printer: Option<Arc<Printer>>,
    /// What comes before the metadata when JSON of nothing else is wanted: a part of the stored bytes is all that follows.
    metadata_head: Option<Arc<str>>,
}

/// The `metadata` of a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListMetadata {
    pub resource_version: i64,
    pub continue_token: String,
    pub remaining_item_count: Option<usize>,
}

impl ListMetadata {
    fn value(&self) -> Value {
        let mut out = Map::new();
        out.insert("resourceVersion", self.resource_version.to_string().into());
        if !self.continue_token.is_empty() {
            out.insert("continue", self.continue_token.clone().into());
        }
        if let Some(remaining) = self.remaining_item_count {
            out.insert("remainingItemCount", remaining.into());
        }
        Value::Object(out)
    }
}

/// Metadata of an object was asked of a list, or the other way round.
fn misfit(kind: &Kind, shape: Shape) -> Status {
    Status::not_acceptable_form(&match shape {
        Shape::List => {
            format!("you requested PartialObjectMetadata, but the requested object is a list (*{})", kind.go_type(true))
        }
        Shape::Object | Shape::Watch => format!(
            "you requested PartialObjectMetadataList, but the requested object is not a list (*{})",
            kind.go_type(false)
        ),
    })
}

impl Presenter {
    /// Fails where upstream finds out that it cannot show what was done: made when all else is done.
    pub(crate) fn new(kind: Arc<Kind>, accept: Accept, include_object: &str) -> Result<Self, Status> {
        let include_object = match accept.form {
            Form::Table(_) => IncludeObject::parse(include_object)?,
            Form::Object | Form::PartialMetadata(_) => IncludeObject::Metadata,
            Form::Misfit(shape) => return Err(misfit(&kind, shape)),
        };
        let wants_table = matches!(accept.form, Form::Table(_));
        let printer = wants_table.then(|| Arc::new(Printer::of_kind(&kind)));
        let metadata_head = match accept {
            // A conversion may keep in annotations what a version has no fields for.
            Accept { encoding: Encoding::Json, form: Form::PartialMetadata(version) }
                if is_stored_form(&kind) && kind.strategy.field_annotations.is_empty() =>
            {
                Some(format!("{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/{version}\",").into())
            }
            _ => None,
        };
        Ok(Self { kind, accept, include_object, printer, metadata_head })
    }

    pub(crate) fn content_type(&self) -> &'static str {
        self.accept.encoding.content_type()
    }

    pub(crate) fn watch_content_type(&self) -> &'static str {
        self.accept.encoding.watch_content_type()
    }

    /// Stored bytes can be sent as they are.
    pub(crate) fn is_verbatim(&self) -> bool {
        self.accept == Accept::JSON && is_stored_form(&self.kind)
    }

    /// One object.
    pub(crate) fn object(&self, object: &ObjectBytes) -> Result<Bytes, Status> {
        if self.is_verbatim() {
            return Ok(object.json.clone());
        }
        if let Some(head) = &self.metadata_head {
            return metadata_object(head, object);
        }
        let value = self.form(object, true)?;
        encode(&value, self.accept.encoding)
    }

    /// A document of another kind than the resource's (a Scale, a review), as the client asked for it.
    pub(crate) fn document(self, document: Value) -> Result<Bytes, Status> {
        let text = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or("");
        let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
        let printer = self.printer.as_ref().map(|_| Arc::new(Printer::of(group, text("kind"))));
        let encoding = self.accept.encoding;
        encode(&Self { printer, ..self }.formed(document, true), encoding)
    }

    /// An object in its form. For a table, `with_columns` says whether the column definitions are wanted.
    fn form(&self, object: &ObjectBytes, with_columns: bool) -> Result<Value, Status> {
        Ok(self.formed(self.parse(object)?, with_columns))
    }

    fn formed(&self, value: Value, with_columns: bool) -> Value {
        match self.accept.form {
            Form::Object | Form::Misfit(_) => value,
            Form::PartialMetadata(version) => self.partial_metadata(&value, version),
            Form::Table(version) => {
                let metadata = json!({ "resourceVersion": api::meta::resource_version(&value) });
                let row = self.row(&value, version);
                self.table(version, metadata, vec![row], with_columns)
            }
        }
    }

    /// The object in the version of the request.
    fn parse(&self, object: &ObjectBytes) -> Result<Value, Status> {
        let stored = object.parse().map_err(from_read)?;
        Ok(from_storage(&self.kind, stored))
    }

    fn partial_metadata(&self, value: &Value, version: &str) -> Value {
        let mut metadata = value.get("metadata").cloned().unwrap_or_default();
        let hidden = self.kind.strategy.field_annotations;
        if !hidden.is_empty()
            && let Some(fields) = metadata.as_object_mut()
            && let Some(Value::Object(annotations)) = fields.get_mut("annotations")
        {
            annotations.retain(|name, _| !hidden.contains(&name.as_ref()));
            if annotations.is_empty() {
                fields.remove("annotations");
            }
        }
        json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": metadata,
        })
    }

    fn row(&self, value: &Value, version: &str) -> Value {
        let Some(printer) = &self.printer else { return Value::Null };
        let row = printer.row(value, jiff::Timestamp::now());
        let object = match self.include_object {
            IncludeObject::None => Value::Null,
            IncludeObject::Metadata => self.partial_metadata(value, version),
            IncludeObject::Object => value.clone(),
        };
        let mut out = json!({ "cells": row.cells });
        if !row.conditions.is_empty() {
            out["conditions"] = row.conditions.into();
        }
        out["object"] = object;
        out
    }

    fn no_rows(&self) -> Value {
        self.printer.as_ref().map_or(Value::Null, |printer| printer.no_rows())
    }

    fn table(&self, version: &str, metadata: Value, rows: Vec<Value>, with_columns: bool) -> Value {
        let printer = self.printer.as_ref().filter(|_| with_columns);
        let columns = printer.map_or(Value::Null, |printer| printer.header());
        json!({
            "kind": "Table",
            "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": metadata,
            "columnDefinitions": columns,
            "rows": if rows.is_empty() { self.no_rows() } else { rows.into() },
        })
    }

    /// A whole list. JSON lists of objects are streamed from the shared bytes, whatever their number.
    pub(crate) fn list(&self, items: Vec<ObjectBytes>, metadata: &ListMetadata) -> Result<ResponseBody, Status> {
        if self.is_verbatim() {
            let is_custom = self.kind.custom().is_some();
            let items = items.into_iter().map(move |item| if is_custom { item.json } else { item.item_tail() });
            let before = if is_custom { "" } else { "{" };
            let head = self.list_head(&self.list_metadata(metadata));
            return Ok(body::stream(stream_list(&head, before.into(), items, "")));
        }
        if let Some(head) = self.metadata_head.as_ref().filter(|_| !items.is_empty()) {
            let members = items.iter().map(ObjectBytes::metadata_member);
            let members = members.collect::<Result<Vec<_>, _>>().map_err(from_read)?;
            return Ok(body::stream(stream_list(
                &self.list_head(&metadata.value()),
                head.clone(),
                members.into_iter(),
                "}",
            )));
        }
        if self.accept.encoding == Encoding::Protobuf {
            return Ok(body::full(self.protobuf_list(&items, metadata)?));
        }
        let document = match self.accept.form {
            Form::Object | Form::Misfit(_) => {
                let mut values = Vec::with_capacity(items.len());
                for item in &items {
                    let mut value = self.parse(item)?;
                    if let Some(map) = value.as_object_mut().filter(|_| self.kind.custom().is_none()) {
                        map.remove("kind");
                        map.remove("apiVersion");
                    }
                    values.push(value);
                }
                json!({
                    "kind": self.kind.list_kind(),
                    "apiVersion": self.kind.api_version(),
                    "metadata": self.list_metadata(metadata),
                    "items": values,
                })
            }
            Form::PartialMetadata(version) => {
                let mut values = Vec::with_capacity(items.len());
                for item in &items {
                    values.push(self.partial_metadata(&self.parse(item)?, version));
                }
                json!({
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": metadata.value(),
                    // Nothing was appended to a list of nothing.
                    "items": if values.is_empty() { Value::Null } else { values.into() },
                })
            }
            Form::Table(version) => {
                let mut objects = items.iter().map(|item| self.parse(item)).collect::<Result<Vec<_>, _>>()?;
                if let Some(printer) = &self.printer {
                    printer.arrange(&mut objects);
                }
                let rows = objects.iter().map(|object| self.row(object, version)).collect();
                self.table(version, metadata.value(), rows, true)
            }
        };
        Ok(body::full(encode(&document, self.accept.encoding)?))
    }

    /// Lists of custom resources say that there is nothing more, and their items say what they are.
    fn list_metadata(&self, metadata: &ListMetadata) -> Value {
        let mut value = metadata.value();
        if self.kind.custom().is_some() && metadata.continue_token.is_empty() {
            value["continue"] = "".into();
        }
        value
    }

    fn protobuf_list(&self, items: &[ObjectBytes], metadata: &ListMetadata) -> Result<Bytes, Status> {
        let (kind, api_version) = self.list_type();
        let mut list = ListEncoder::new(&api_version, &kind).ok_or_else(Status::not_a_protobuf_message)?;
        for item in items {
            let value = self.parse(item)?;
            match self.accept.form {
                Form::PartialMetadata(version) => list.push(&self.partial_metadata(&value, version)),
                Form::Object | Form::Table(_) | Form::Misfit(_) => list.push(&value),
            }
        }
        Ok(list.finish(&metadata.value()))
    }

    /// A list up to its items.
    fn list_head(&self, metadata: &Value) -> String {
        let (kind, api_version) = self.list_type();
        format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":[")
    }

    /// Kind and apiVersion of a list.
    fn list_type(&self) -> (String, String) {
        match self.accept.form {
            Form::PartialMetadata(version) => {
                ("PartialObjectMetadataList".to_owned(), format!("meta.k8s.io/{version}"))
            }
            Form::Object | Form::Table(_) | Form::Misfit(_) => (self.kind.list_kind(), self.kind.api_version()),
        }
    }

    /// An event as a line or frame of a watch stream; `with_columns` as for [`Presenter::form`].
    pub(crate) fn event(&self, kind: EventKind, object: &ObjectBytes, with_columns: bool) -> Result<Bytes, Status> {
        if self.is_verbatim() {
            return Ok(crate::cache::watch_frame(kind, &object.json));
        }
        if let Some(head) = &self.metadata_head {
            return Ok(crate::cache::watch_frame(kind, &metadata_object(head, object)?));
        }
        self.frame(kind.as_str(), &self.form(object, with_columns)?)
    }

    /// The ERROR event that ends a watch stream.
    pub(crate) fn error_event(&self, status: &Status) -> Bytes {
        let value = api::value::to_value(status).unwrap_or_default();
        self.frame("ERROR", &value).unwrap_or_default()
    }

    fn frame(&self, event: &str, object: &Value) -> Result<Bytes, Status> {
        if self.accept.encoding == Encoding::Protobuf {
            return Ok(protobuf::watch_frame(event, &encode(object, Encoding::Protobuf)?));
        }
        let mut line = json!({ "type": event, "object": object }).to_string();
        line.push('\n');
        Ok(line.into())
    }

    /// An object of the kind with nothing in it, as bookmarks carry.
    fn empty(&self) -> Value {
        let mut empty = self.kind.schema.zero(self.kind.type_id);
        empty["kind"] = self.kind.kind.as_ref().into();
        empty["apiVersion"] = self.kind.api_version().into();
        empty
    }

    /// A bookmark at a revision; `initial_events_end` marks the end of the initial events, `with_columns` as for [`Presenter::form`].
    pub(crate) fn bookmark(&self, revision: i64, initial_events_end: bool, with_columns: bool) -> Bytes {
        let mut metadata = json!({ "resourceVersion": revision.to_string() });
        if initial_events_end {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = match self.accept.form {
            Form::PartialMetadata(version) => json!({
                "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
            }),
            Form::Table(version) => {
                let mut empty = self.empty();
                empty["metadata"] = metadata.clone();
                let row = self.row(&empty, version);
                let table_metadata = json!({ "resourceVersion": revision.to_string() });
                self.table(version, table_metadata, vec![row], with_columns)
            }
            Form::Object | Form::Misfit(_) => {
                let mut empty = self.empty();
                empty["metadata"] = metadata;
                (self.kind.strategy.fill_empty)(&mut empty);
                empty
            }
        };
        self.frame("BOOKMARK", &object).unwrap_or_default()
    }
}

/// Clients of this version get objects as they are stored.
fn is_stored_form(kind: &Kind) -> bool {
    match kind.custom() {
        Some(custom) => custom.is_storage(),
        None => kind.conversion.is_none(),
    }
}

/// An object of nothing but metadata; `head` is what comes before it.
fn metadata_object(head: &str, object: &ObjectBytes) -> Result<Bytes, Status> {
    let member = object.metadata_member().map_err(from_read)?;
    let mut out = BytesMut::with_capacity(head.len() + member.len() + 1);
    out.put_slice(head.as_bytes());
    out.put_slice(&member);
    out.put_slice(b"}");
    Ok(out.freeze())
}

/// A list in chunks: `head`, then each item between `before` and `after`.
fn stream_list(
    head: &str,
    before: Arc<str>,
    mut items: impl Iterator<Item = Bytes> + Send + 'static,
    after: &'static str,
) -> impl futures::Stream<Item = Bytes> + Send + 'static {
    let mut pending = BytesMut::from(head.as_bytes());
    let mut first = true;
    let mut done = false;
    futures::stream::iter(std::iter::from_fn(move || {
        while !done && pending.len() < CHUNK_BYTES {
            match items.next() {
                Some(item) => {
                    pending.put_slice(if first { b"" } else { b"," });
                    first = false;
                    pending.put_slice(before.as_bytes());
                    pending.put_slice(&item);
                    pending.put_slice(after.as_bytes());
                }
                None => {
                    pending.put_slice(b"]}");
                    done = true;
                }
            }
        }
        if pending.is_empty() { None } else { Some(pending.split().freeze()) }
    }))
}

/// Any document in an encoding.
pub(crate) fn encode(value: &Value, encoding: Encoding) -> Result<Bytes, Status> {
    match encoding {
        Encoding::Json => Ok(serde_json::to_vec(value).map_err(Status::internal)?.into()),
        Encoding::PrettyJson => Ok(serde_json::to_vec_pretty(value).map_err(Status::internal)?.into()),
        Encoding::Yaml => Ok(yaml::print(value).into()),
        Encoding::Protobuf => protobuf::encode(value).ok_or_else(Status::not_a_protobuf_message),
    }
}
