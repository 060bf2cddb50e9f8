//! Label and field selectors applied to cached objects.

use std::sync::Arc;

use api::selector::{FieldSelector, LabelSelector};
use api::{Kind, Status};

use crate::cache::{CachedObject, Indexed, Interest};
use crate::custom::conversion;
use crate::http::options::ListOptions;

/// What a list or watch is restricted to.
#[derive(Debug)]
pub(crate) struct Selection {
    /// The kind in storage version, whose fields the cache indexes.
    storage: Arc<Kind>,
    /// The kind of the request, whose field labels the client uses.
    kind: Arc<Kind>,
    pub namespace: String,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// Parses the selectors. `name` restricts to one object, as a watch of a single object does.
    pub(crate) fn new(
        kind: &Arc<Kind>,
        storage: &Arc<Kind>,
        namespace: &str,
        name: &str,
        options: &ListOptions,
    ) -> Result<Self, Status> {
        let labels = LabelSelector::parse(&options.label_selector).map_err(|e| Status::bad_request(e.to_string()))?;
        let mut fields =
            FieldSelector::parse(&options.field_selector).map_err(|e| Status::bad_request(e.to_string()))?;
        for requirement in fields.requirements() {
            check_label(kind, &requirement.field)?;
        }
        if !name.is_empty() {
            if fields.exact("metadata.name").is_some_and(|wanted| wanted != name) {
                return Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name"));
            }
            fields = fields.and(FieldSelector::exactly("metadata.name", name));
        }
        Ok(Self {
            kind: Arc::clone(kind),
            storage: Arc::clone(storage),
            namespace: namespace.to_owned(),
            labels,
            fields,
        })
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    pub(crate) fn matches(&self, object: &CachedObject) -> bool {
        self.in_namespace(object)
            && self.matches_indexed(&object.stored.namespace, &object.stored.name, &object.indexed)
    }

    pub(crate) fn in_namespace(&self, object: &CachedObject) -> bool {
        self.namespace.is_empty() || self.namespace == object.stored.namespace
    }

    pub(crate) fn matches_indexed(&self, namespace: &str, name: &str, indexed: &Indexed) -> bool {
        self.labels.matches(|key| indexed.label(key))
            && self.fields.matches(|label| self.field(label, namespace, name, indexed))
    }

    /// The only events that can concern this selection, when it is narrow.
    pub(crate) fn interest(&self) -> Option<Interest> {
        if let Some(name) = self.single_name().filter(|_| !self.kind.namespaced || !self.namespace.is_empty()) {
            let namespace = if self.kind.namespaced { self.namespace.as_str() } else { "" };
            return Some(Interest::Object { namespace: namespace.into(), name: name.into() });
        }
        // The cache knows the fields of objects as they are stored, not of what they are converted to.
        if conversion::is_needed(&self.kind) {
            return None;
        }
        let exact = self.fields.requirements().iter().filter(|requirement| requirement.equal);
        exact.into_iter().find_map(|requirement| {
            let field = self.stored_field(&requirement.field)?;
            Some(Interest::Field { field, value: requirement.value.as_str().into() })
        })
    }

    /// A field selector names exactly one object of a namespace.
    pub(crate) fn single_name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    /// The one namespace that objects can be in; empty when there may be more, and of kinds that are in none.
    pub(crate) fn single_namespace(&self) -> &str {
        let selected =
            self.fields.exact("metadata.namespace").filter(|_| self.namespace.is_empty() && self.kind.namespaced);
        selected.unwrap_or(&self.namespace)
    }

    fn field<'v>(&self, label: &str, namespace: &'v str, name: &'v str, indexed: &'v Indexed) -> &'v str {
        match label {
            "metadata.name" => name,
            "metadata.namespace" => namespace,
            label => {
                let index = self.stored_field(label);
                index.and_then(|i| indexed.fields.get(i)).map_or("", AsRef::as_ref)
            }
        }
    }

    /// Where the cache has the field that the client calls `label`.
    fn stored_field(&self, label: &str) -> Option<usize> {
        let asked = self.kind.selectable_fields.iter().find(|field| field.label == label)?;
        self.storage.selectable_fields.iter().position(|field| field.path == asked.path)
    }
}

/// A field label must be one of the kind's.
fn check_label(kind: &Kind, label: &str) -> Result<(), Status> {
    // Kinds with field labels of their own refuse others in other words than the rest.
    let is_plain = kind.selectable_fields.is_empty() && kind.custom().is_none();
    let generic = label == "metadata.name" || (label == "metadata.namespace" && (kind.namespaced || is_plain));
    if generic || kind.selectable_fields.iter().any(|field| field.label == label) {
        return Ok(());
    }
    Err(Status::bad_request(match (is_plain, kind.group.as_ref(), kind.kind.as_ref()) {
        (true, ..) => {
            format!("\"{label}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        }
        (false, "batch", "Job") => format!("field label {} not supported for Job", api::field::go_quote(label)),
        (false, "resource.k8s.io", name) => {
            format!("field label not supported for {}, Kind={name}: {label}", kind.api_version())
        }
        _ => format!("field label not supported: {label}"),
    }))
}
