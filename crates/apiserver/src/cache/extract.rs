//! Reads labels and a few fields out of an object's JSON in one pass, without building a tree.

use std::fmt;

use api::kind::SelectableField;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What selectors look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexed {
    /// `metadata.labels`, in stored order.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Values of the kind's selectable fields, in the kind's order; absent reads as the field's zero.
    pub fields: Box<[Box<str>]>,
}

impl Indexed {
    /// Reads `json`, an object; `fields` are the kind's.
    pub fn extract(json: &[u8], fields: &[SelectableField]) -> Result<Self, serde_json::Error> {
        let mut labels = Vec::new();
        // Fallbacks are read into slots behind the fields' own.
        let fallbacks: Vec<(usize, &[api::kind::Str])> =
            fields.iter().enumerate().filter_map(|(i, field)| Some((i, field.fallback.as_deref()?))).collect();
        let mut values: Vec<Box<str>> = fields.iter().map(|field| field.zero.into()).collect();
        values.resize(fields.len() + fallbacks.len(), Box::default());
        let own = fields.iter().map(|field| field.path.as_slice());
        let paths = own.chain(fallbacks.iter().map(|(_, path)| *path)).enumerate().collect();
        let root = Branch { paths, labels_below: LabelsBelow::Metadata, out: &mut values, labels: &mut labels };
        root.deserialize(&mut serde_json::Deserializer::from_slice(json))?;
        for (slot, (field, _)) in fallbacks.iter().enumerate() {
            if values[*field].is_empty() {
                values[*field] = std::mem::take(&mut values[fields.len() + slot]);
            }
        }
        values.truncate(fields.len());
        Ok(Self { labels: labels.into(), fields: values.into() })
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| k.as_ref() == key).map(|(_, v)| v.as_ref())
    }
}

/// How far above `metadata.labels` an object is.
#[derive(Clone, Copy, PartialEq)]
enum LabelsBelow {
    Metadata,
    Labels,
    Nothing,
}

/// An object on the way to the wanted fields: `paths` are the rests of their paths from here.
struct Branch<'p, 'o> {
    paths: Vec<(usize, &'p [api::kind::Str])>,
    labels_below: LabelsBelow,
    out: &'o mut Vec<Box<str>>,
    labels: &'o mut Vec<(Box<str>, Box<str>)>,
}

impl<'de> DeserializeSeed<'de> for Branch<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Branch<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if self.labels_below == LabelsBelow::Labels && key == "labels" {
                map.next_value_seed(Labels(self.labels))?;
                continue;
            }
            let labels_below = match self.labels_below {
                LabelsBelow::Metadata if key == "metadata" => LabelsBelow::Labels,
                _ => LabelsBelow::Nothing,
            };
            let paths: Vec<_> = self
                .paths
                .iter()
                .filter(|(_, path)| path.first().is_some_and(|step| *step == key))
                .map(|(i, path)| (*i, &path[1..]))
                .collect();
            if paths.is_empty() && labels_below == LabelsBelow::Nothing {
                map.next_value::<IgnoredAny>()?;
            } else {
                let branch = Branch { paths, labels_below, out: &mut *self.out, labels: &mut *self.labels };
                map.next_value_seed(branch)?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.scalar(value);
        Ok(())
    }
    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.scalar(if value { "true" } else { "false" });
        Ok(())
    }
    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.scalar(&value.to_string());
        Ok(())
    }
    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.scalar(&value.to_string());
        Ok(())
    }
    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.scalar(&value.to_string());
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

impl Branch<'_, '_> {
    fn scalar(self, value: &str) {
        for (i, rest) in self.paths {
            if rest.is_empty() {
                self.out[i] = value.into();
            }
        }
    }
}

struct Labels<'o>(&'o mut Vec<(Box<str>, Box<str>)>);

impl<'de> DeserializeSeed<'de> for Labels<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Labels<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of labels")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<Box<str>, Box<str>>()? {
            self.0.push((key, value));
        }
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
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
        let indexed = Indexed::extract(json, &fields).unwrap();
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
        let read = |json: &[u8]| Indexed::extract(json, std::slice::from_ref(&source)).unwrap().fields[0].to_string();
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
        let read = |json: &[u8]| Indexed::extract(json, std::slice::from_ref(&zero)).unwrap().fields[0].to_string();
        assert_eq!(read(br#"{"status":{}}"#), "0");
        assert_eq!(read(br#"{"status":{"succeeded":2}}"#), "2");
    }

    #[test]
    fn a_broken_object_is_an_error() {
        assert!(Indexed::extract(b"{\"metadata\":{\"labels\":{\"a\":1}}}", &[]).is_err());
        assert!(Indexed::extract(b"{", &[]).is_err());
    }
}
