//! The verbs, generic over every kind: one file each. A verb takes a [`Request`] and gives a [`Reply`] or the [`Status`] that
//! refuses it; it never sees HTTP.

pub(crate) mod apply;
pub(crate) mod as_sent;
mod create;
mod delete;
mod delete_collection;
mod get;
mod list;
mod name;
mod patch;
mod present;
mod scale;
mod subresource;
mod update;
mod watch;

use std::sync::Arc;

use ::bytes::Bytes;
use api::{Kind, Status, Value};
use parking_lot::Mutex;

use crate::attributes::UserInfo;
use crate::audit::Trail;
use crate::guaranteed::Target;
use crate::http::accept::Accept;
use crate::http::body::ResponseBody;
use crate::http::options::ListOptions;
use crate::http::query::Query;
use crate::storage::{ObjectBytes, ObjectKey};

pub(crate) use create::create;
pub(crate) use delete::{DeleteOptions, delete};
pub(crate) use delete_collection::delete_collection;
pub(crate) use get::{get, read};
pub(crate) use list::list;
pub(crate) use name::suffix as name_suffix;
pub(crate) use patch::{is_patch, patch};
pub(crate) use present::{Presenter, encode};
pub(crate) use scale::{get_scale, patch_scale, update_scale};
pub(crate) use subresource::{create_binding, create_named};
pub(crate) use update::update;
pub(crate) use watch::watch;

/// A request for a resource, as far as the verbs are concerned.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub kind: Arc<Kind>,
    pub namespace: String,
    /// Empty for collections and creates.
    pub name: String,
    /// Empty for the resource itself.
    pub subresource: String,
    pub user: UserInfo,
    pub query: Query,
    pub accept: Accept,
    /// Media type without parameters, lower case.
    pub content_type: String,
    pub body: Bytes,
    pub user_agent: String,
    /// Verb as authorization names it.
    pub verb: &'static str,
    /// Webhooks have judged this write already, as what the client sent (a scale).
    pub admitted: bool,
    /// Warnings that the client gets whatever the outcome; shared with the requests made from this one.
    pub notes: Notes,
}

/// Warnings gathered while a request is worked on, and the way to its record in the audit log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    warnings: Arc<Mutex<Vec<String>>>,
    trail: Option<Arc<Trail>>,
}

impl Notes {
    pub(crate) fn of(trail: Option<Arc<Trail>>) -> Self {
        Self { trail, ..Self::default() }
    }

    pub(crate) fn push(&self, warning: impl Into<String>) {
        self.warnings.lock().push(warning.into());
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock())
    }

    /// The record of the request, if there is one.
    pub(crate) fn trail(&self) -> Option<&Trail> {
        self.trail.as_deref()
    }

    /// Says something about the request in the audit log.
    pub(crate) fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        if let Some(trail) = &self.trail {
            trail.annotate(key, value);
        }
    }
}

impl Request {
    /// A request of the server itself for one object.
    pub(crate) fn of_server(kind: &Arc<Kind>, namespace: &str, name: &str, verb: &'static str) -> Self {
        Self {
            kind: Arc::clone(kind),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: String::new(),
            user: crate::startup::loopback_user(),
            query: Query::parse(None),
            accept: Accept::JSON,
            content_type: "application/json".to_owned(),
            body: Bytes::new(),
            user_agent: crate::startup::USER_AGENT.to_owned(),
            verb,
            admitted: false,
            notes: Notes::default(),
        }
    }

    pub(crate) fn list_options(&self) -> Result<ListOptions, Status> {
        ListOptions::parse(&self.query)
    }

    /// The same request for one object of the resource, without its selectors.
    pub(crate) fn for_object(&self, namespace: &str, name: &str) -> Request {
        Request { namespace: namespace.to_owned(), name: name.to_owned(), ..self.clone() }
    }

    /// The same request for another subresource of the object, or the object itself.
    pub(crate) fn for_subresource(&self, subresource: &str) -> Request {
        Request { subresource: subresource.to_owned(), ..self.clone() }
    }

    /// The object that the request names, as `operation` would change it.
    pub(crate) fn target<'a>(&'a self, key: &'a ObjectKey, operation: &'a str) -> Target<'a> {
        Target { kind: &self.kind, key, name: &self.name, operation }
    }

    /// The options object that upstream reads this request's query parameters into.
    pub(crate) fn options_kind(&self) -> &'static str {
        match self.verb {
            "create" => "CreateOptions",
            "patch" => "PatchOptions",
            "delete" | "deletecollection" => "DeleteOptions",
            _ => "UpdateOptions",
        }
    }

    /// `dryRun=All` was asked for; anything else but absence is an error of the caller's options check.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.query.all("dryRun").any(|value| value == "All")
    }
}

/// What a verb answers.
pub(crate) struct Reply {
    pub code: u16,
    pub content: Content,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
}

pub(crate) enum Content {
    /// An object of the request's kind, to be presented as the client asked.
    Object(ObjectBytes),
    /// A document that is sent as it is (Scale, reviews, tokens).
    Document(Value),
    Status(Box<Status>),
    /// Presented already: lists and watches.
    Body(&'static str, ResponseBody),
}

impl Reply {
    pub(crate) fn new(code: u16, content: Content) -> Self {
        Self { code, content, warnings: Vec::new() }
    }

    pub(crate) fn object(code: u16, object: ObjectBytes, warnings: Vec<String>) -> Self {
        Self { code, content: Content::Object(object), warnings }
    }

    pub(crate) fn document(code: u16, document: Value) -> Self {
        Self::new(code, Content::Document(document))
    }

    pub(crate) fn status(code: u16, status: Status) -> Self {
        Self::new(code, Content::Status(Box::new(status)))
    }
}
