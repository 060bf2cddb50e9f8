//! Reads labels and a few fields out of an object's JSON in one pass, without building a tree.

use api::Value;
use api::kind::{SelectableField, Str};
use api::value::{Malformed, Members};
use serde::de::{Error as _, IgnoredAny};

/// What selectors look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexed {
    /// `metadata.labels`, in stored order.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Values of the kind's selectable fields, in the kind's order; absent reads as the field's zero.
    pub fields: Box<[Box<str>]>,
}

impl Indexed {
    /// Reads `json`, an object; `fields` are the kind's. Where its metadata ends (0: it has none) comes second.
    pub fn extract(json: &[u8], fields: &[SelectableField]) -> Result<(Self, usize), serde_json::Error> {
        let mut labels = Vec::new();
        // Fallbacks are read into slots behind the fields' own.
        let fallbacks: Vec<(usize, &[Str])> =
            fields.iter().enumerate().filter_map(|(i, field)| Some((i, field.fallback.as_deref()?))).collect();
        let mut values: Vec<Box<str>> = fields.iter().map(|field| field.zero.into()).collect();
        values.resize(fields.len() + fallbacks.len(), Box::default());
        let own = fields.iter().map(|field| field.path.as_slice());
        let paths: Vec<_> = own.chain(fallbacks.iter().map(|(_, path)| *path)).enumerate().collect();
        let mut found = Found { values: &mut values, labels: &mut labels, metadata_end: 0 };
        let mut members = Members::of(json).ok_or_else(|| complaint(json))?;
        found.object(&mut members, &paths, Place::Root).map_err(|Malformed| complaint(json))?;
        let metadata_end = found.metadata_end;
        if members.position() != json.len() {
            return Err(complaint(json));
        }
        for (slot, (field, _)) in fallbacks.iter().enumerate() {
            if values[*field].is_empty() {
                values[*field] = std::mem::take(&mut values[fields.len() + slot]);
            }
        }
        values.truncate(fields.len());
        Ok((Self { labels: labels.into(), fields: values.into() }, metadata_end))
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| k.as_ref() == key).map(|(_, v)| v.as_ref())
    }
}

/// Where in the whole an object stands, as far as it matters.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Root,
    Metadata,
    Below,
}

struct Found<'o> {
    values: &'o mut [Box<str>],
    labels: &'o mut Vec<(Box<str>, Box<str>)>,
    metadata_end: usize,
}

impl Found<'_> {
    /// Looks into an object on the way to the wanted fields: `paths` are the rests of their paths from here.
    fn object(&mut self, members: &mut Members<'_>, paths: &[(usize, &[Str])], at: Place) -> Result<(), Malformed> {
        while let Some(name) = members.name()? {
            let is_metadata = at == Place::Root && name == "metadata";
            if at == Place::Metadata && name == "labels" {
                self.labels(members.value()?)?;
                continue;
            }
            let wanted = paths.iter().filter(|(_, path)| path.first().is_some_and(|step| *step == name));
            let rests: Vec<_> = wanted.map(|(slot, path)| (*slot, &path[1..])).collect();
            if rests.is_empty() && !is_metadata {
                members.value()?;
            } else if rests.iter().any(|(_, rest)| rest.is_empty()) {
                self.scalar(&rests, members.value()?);
            } else {
                let place = if is_metadata { Place::Metadata } else { Place::Below };
                members.object(|members| self.object(members, &rests, place))?;
            }
            if is_metadata {
                self.metadata_end = members.position();
            }
        }
        Ok(())
    }

    fn labels(&mut self, json: &[u8]) -> Result<(), Malformed> {
        let Some(mut members) = Members::of(json) else {
            return if json == b"null" { Ok(()) } else { Err(Malformed) };
        };
        while let Some(name) = members.name()? {
            let value: Box<str> = serde_json::from_slice(members.value()?).map_err(|_| Malformed)?;
            self.labels.push((name.into(), value));
        }
        Ok(())
    }

    fn scalar(&mut self, rests: &[(usize, &[Str])], json: &[u8]) {
        let text: Box<str> = match Value::from_json(json) {
            Ok(Value::String(text)) => text.as_str().into(),
            Ok(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string().into(),
            _ => return,
        };
        for (slot, _) in rests.iter().filter(|(_, rest)| rest.is_empty()) {
            self.values[*slot] = text.clone();
        }
    }
}

/// What is wrong with an object that could not be read.
fn complaint(json: &[u8]) -> serde_json::Error {
    let error = serde_json::from_slice::<IgnoredAny>(json).err();
    error.unwrap_or_else(|| serde_json::Error::custom("metadata or labels of another type"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(label: &'static str) -> SelectableField {
        SelectableField {
            label: label.into(),
            path: label.split('.').map(Into::into).collect(),
            zero: "",
            fallback: None,
        }
    }

    #[test]
    fn labels_and_fields_are_found_and_the_rest_skipped() {
        let json = br#"{"kind":"Pod","metadata":{"name":"a","labels":{"app":"web","tier":""},"x":[1]},
            "spec":{"nodeName":"n1","hostNetwork":true,"containers":[{"name":"c"}]},"status":{"phase":"Running"}}"#;
        let fields = [field("spec.nodeName"), field("status.phase"), field("spec.hostNetwork"), field("status.podIP")];
        let (indexed, metadata_end) = Indexed::extract(json, &fields).unwrap();
        assert!(json[..metadata_end].ends_with(b"\"x\":[1]}"));
        assert_eq!(indexed.label("app"), Some("web"));
        assert_eq!(indexed.label("tier"), Some(""));
        assert_eq!(indexed.label("none"), None);
        let values: Vec<&str> = indexed.fields.iter().map(AsRef::as_ref).collect();
        assert_eq!(values, ["n1", "Running", "true", ""]);
    }

    #[test]
    fn an_empty_field_reads_its_fallback() {
        let source = SelectableField {
            label: "source".into(),
            path: vec!["source".into(), "component".into()],
            zero: "",
            fallback: Some(vec!["reportingComponent".into()]),
        };
        let read = |json: &[u8]| Indexed::extract(json, std::slice::from_ref(&source)).unwrap().0.fields[0].to_string();
        assert_eq!(read(br#"{"source":{"component":"a"},"reportingComponent":"b"}"#), "a");
        assert_eq!(read(br#"{"source":{},"reportingComponent":"b"}"#), "b");
        assert_eq!(read(b"{}"), "");
    }

    #[test]
    fn an_absent_field_reads_its_zero() {
        let zero = SelectableField {
            label: "status.successful".into(),
            path: vec!["status".into(), "succeeded".into()],
            zero: "0",
            fallback: None,
        };
        let read = |json: &[u8]| Indexed::extract(json, std::slice::from_ref(&zero)).unwrap().0.fields[0].to_string();
        assert_eq!(read(br#"{"status":{}}"#), "0");
        assert_eq!(read(br#"{"status":{"succeeded":2}}"#), "2");
    }

    #[test]
    fn a_broken_object_is_an_error() {
        assert!(Indexed::extract(b"{\"metadata\":{\"labels\":{\"a\":1}}}", &[]).is_err());
        assert!(Indexed::extract(b"{", &[]).is_err());
    }
}
