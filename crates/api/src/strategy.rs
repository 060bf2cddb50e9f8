//! What differs per kind on the write path, as small pure functions. What can be said as a fact (create on update, generation,
//! status resets) is a row of [`crate::rules::WriteRules`]; the rest of a write is generic.
//!
//! Order of a create: decode, `default`, admission, the resets of `WriteRules`, [`Strategy::prepare_for_create`], metadata filled in (uid, creationTimestamp,
//! generation), [`Strategy::validate`]. Order of an update: decode or patch, default, admission, metadata carried over,
//! [`Strategy::prepare_for_update`] (or that of the subresource), generation, [`Strategy::validate_update`].

use std::fmt;

use crate::{Cursor, ErrorList, Path, Value};

/// What a strategy may know beyond the object.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Current time, RFC 3339 with second precision and `Z`, as objects carry it.
    pub now: &'a str,
    /// Who is asking; empty for the server itself.
    pub user: &'a str,
    /// The user's groups.
    pub groups: &'a [String],
    /// The user's uid; empty where authentication knows none.
    pub user_uid: &'a str,
    /// What else authentication knows of the user.
    pub extra: &'a std::collections::BTreeMap<String, Vec<String>>,
    /// The request's body. What it does not say was filled in by defaults; few need to tell the difference.
    pub sent: &'a [u8],
    /// A fresh uid for kinds that derive fields from it (Job) before the object has one.
    pub uid: &'a str,
}

/// Checks a name (with a trailing `-` masked for generateName) and returns the messages of what is wrong with it.
pub type NameRule = fn(name: &str, prefix: bool) -> Vec<String>;

/// A label without which a namespace may not hold an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceDemand {
    /// The field that asks for it.
    pub at: Path,
    /// Key and value.
    pub label: (&'static str, &'static str),
    /// What is said where the label is missing.
    pub refused: &'static str,
    /// What is said, before the cause, where the namespace cannot be read.
    pub unread: &'static str,
}

/// A permission that a write of a status needs beyond that to write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// The field that asks for it.
    pub at: Path,
    /// What it is about, as the refusal says.
    pub changing: &'static str,
    /// The part of the resource that nobody serves and roles name.
    pub subresource: &'static str,
    /// Any of them will do; never empty.
    pub verbs: Vec<String>,
    /// The name that the permission is for; empty: all of them.
    pub name: String,
    /// Asked for the whole cluster rather than for the object's namespace.
    pub is_cluster_wide: bool,
}

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// `update` or `patch`.
    pub verb: &'a str,
    pub name: &'a str,
    /// What else authentication knows of the user.
    pub extra: &'a std::collections::BTreeMap<String, Vec<String>>,
}

/// The rules of a subresource that writes its parent (`status`, `resize`, `ephemeralcontainers`, `finalize`, `approval`).
pub struct SubresourceStrategy {
    pub name: &'static str,
    /// Takes from `new` only what this subresource may change; everything else becomes what it was in `old`.
    pub prepare_for_update: fn(new: &mut Value, old: &Value, ctx: &Context<'_>),
    pub validate_update: fn(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList),
}

/// Which form of a new object is compared with the old one to tell whether `metadata.generation` moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GenerationSeen {
    /// What [`Strategy::prepare_for_update`] made of it.
    #[default]
    Prepared,
    /// What was decoded: fields that the kind drops count.
    Decoded,
    /// What was sent: upstream compares exactly, and tells an empty list that was sent from none.
    Sent,
}

/// The per-kind part of create, update and delete. Build one with `Strategy { validate, ..Strategy::DEFAULT }`.
pub struct Strategy {
    pub name_rule: NameRule,
    pub prepare_for_create: fn(new: &mut Value, ctx: &Context<'_>),
    pub validate: fn(new: &Cursor<'_>, errors: &mut ErrorList),
    pub prepare_for_update: fn(new: &mut Value, old: &Value, ctx: &Context<'_>),
    pub validate_update: fn(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList),
    pub generation_seen: GenerationSeen,
    /// The kind's rules come first on create, and what they leave of the metadata is looked at when all else is well.
    pub judges_metadata_last: bool,
    /// What is in an object with nothing in it besides its zeros: what upstream's internal form has not as pointers.
    pub fill_empty: fn(object: &mut Value),
    /// Warnings for the client; `old` is `None` on create.
    pub warnings: fn(new: &Cursor<'_>, old: Option<&Cursor<'_>>, out: &mut Vec<String>),
    /// Warnings for the writer of the status. Of other subresources there are none.
    pub status_warnings: fn(new: &Cursor<'_>, out: &mut Vec<String>),
    /// What the object's namespace must be for this write; `old` is `None` on create.
    pub namespace_demand: fn(new: &Cursor<'_>, old: Option<&Cursor<'_>>) -> Option<NamespaceDemand>,
    /// What who writes the status must be allowed to besides.
    pub status_permissions: fn(new: &Cursor<'_>, old: &Cursor<'_>, writer: &Writer<'_>) -> Vec<Permission>,
    pub subresources: &'static [SubresourceStrategy],
    /// Seconds of grace for a delete that asked for `requested`; `None`: the kind is deleted at once.
    pub grace_period: Option<fn(object: &Value, requested: Option<i64>) -> i64>,
    /// Said to a client that deletes without choosing a propagation policy.
    pub default_propagation_warning: Option<&'static str>,
    /// The first delete marks the object this way, whatever was asked for, and somebody removes it later.
    pub begin_delete: Option<fn(object: &mut Value, now: &str)>,
    /// Why a delete of the object of this name is refused before it is looked at.
    pub refuses_delete: fn(name: &str) -> Option<&'static str>,
    /// Upstream looks at the preconditions of a delete itself, before it marks the object for somebody to remove later.
    pub judges_preconditions: bool,
    /// Why a decoded object is none of this kind after all: upstream reads a field out of its metadata.
    pub decode_fault: fn(object: &Value) -> Option<String>,
    /// Annotations that stand for such a field, which is not shown where only metadata is.
    pub field_annotations: &'static [&'static str],
}

impl Strategy {
    /// A plain kind: DNS-1123 subdomain names, nothing extra to check.
    pub const DEFAULT: Strategy = Strategy {
        name_rule: crate::meta::dns1123_subdomain_name,
        prepare_for_create: |_, _| {},
        validate: |_, _| {},
        prepare_for_update: |_, _, _| {},
        validate_update: |_, _, _| {},
        generation_seen: GenerationSeen::Prepared,
        judges_metadata_last: false,
        fill_empty: |_| {},
        warnings: |_, _, _| {},
        status_warnings: |_, _| {},
        namespace_demand: |_, _| None,
        status_permissions: |_, _, _| Vec::new(),
        subresources: &[],
        grace_period: None,
        default_propagation_warning: None,
        begin_delete: None,
        refuses_delete: |_| None,
        judges_preconditions: false,
        decode_fault: |_| None,
        field_annotations: &[],
    };

    pub fn subresource(&self, name: &str) -> Option<&'static SubresourceStrategy> {
        self.subresources.iter().find(|s| s.name == name)
    }
}

impl fmt::Debug for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strategy").field("subresources", &self.subresources.len()).finish_non_exhaustive()
    }
}
