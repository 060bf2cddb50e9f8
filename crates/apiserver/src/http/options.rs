//! ListOptions, as query parameters carry them, with upstream's checks.

use api::{ErrorList, Path, Status};
use store::Revision;

use super::query::Query;

/// Options of list, watch and deletecollection.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListOptions {
    pub label_selector: String,
    pub field_selector: String,
    /// 0: no limit.
    pub limit: usize,
    pub continue_token: String,
    pub resource_version: String,
    pub resource_version_match: String,
    pub allow_watch_bookmarks: bool,
    pub timeout_seconds: Option<u64>,
    pub send_initial_events: Option<bool>,
}

const EXACT: &str = "Exact";
const NOT_OLDER_THAN: &str = "NotOlderThan";

impl ListOptions {
    pub(crate) fn parse(query: &Query) -> Result<Self, Status> {
        Ok(Self {
            label_selector: query.text("labelSelector").into(),
            field_selector: query.text("fieldSelector").into(),
            limit: query.int("limit")?.and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
            continue_token: query.text("continue").into(),
            resource_version: query.text("resourceVersion").into(),
            resource_version_match: query.text("resourceVersionMatch").into(),
            allow_watch_bookmarks: query.flag("allowWatchBookmarks"),
            timeout_seconds: query.int("timeoutSeconds")?.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0),
            send_initial_events: query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents")),
        })
    }

    pub(crate) fn is_exact(&self) -> bool {
        self.resource_version_match == EXACT
    }

    pub(crate) fn is_match_unset(&self) -> bool {
        self.resource_version_match.is_empty()
    }

    /// The rules for lists and deletecollection.
    pub(crate) fn validate_list(&self) -> Result<(), Status> {
        let mut errors = ErrorList::new();
        let path = Path::new("resourceVersionMatch");
        if !self.resource_version_match.is_empty() {
            if self.resource_version.is_empty() {
                errors.forbidden(path.clone(), "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if !self.continue_token.is_empty() {
                errors.forbidden(path.clone(), "resourceVersionMatch is forbidden when continue is provided");
            }
            if ![EXACT, NOT_OLDER_THAN].contains(&self.resource_version_match.as_str()) {
                let supported = [EXACT, NOT_OLDER_THAN, ""];
                errors.not_supported(path.clone(), self.resource_version_match.clone(), &supported);
            }
            if self.is_exact() && self.resource_version == "0" {
                errors.forbidden(path, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
        }
        if self.send_initial_events.is_some() {
            errors.forbidden(Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
        }
        invalid(errors)
    }

    /// The rules for watches.
    pub(crate) fn validate_watch(&self) -> Result<(), Status> {
        let mut errors = ErrorList::new();
        let path = Path::new("resourceVersionMatch");
        let is_not_older_than = self.resource_version_match == NOT_OLDER_THAN;
        match self.send_initial_events {
            Some(_) if !is_not_older_than => {
                errors
                    .forbidden(path.clone(), "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
            }
            None if !self.resource_version_match.is_empty() => {
                errors.forbidden(
                    path.clone(),
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                );
            }
            _ => {}
        }
        if !self.resource_version_match.is_empty() && !is_not_older_than {
            errors.not_supported(path, self.resource_version_match.clone(), &[NOT_OLDER_THAN]);
        }
        invalid(errors)
    }

    /// The resourceVersion as a revision, for lists: 0 when unset.
    pub(crate) fn list_revision(&self) -> Result<Revision, Status> {
        parse_resource_version(&self.resource_version)
            .map_err(|error| Status::bad_request(format!("invalid resource version: {error}")))
    }

    /// The resourceVersion as a revision, for watches: 0 when unset. Upstream answers a malformed one with 500.
    pub(crate) fn watch_revision(&self) -> Result<Revision, Status> {
        parse_resource_version(&self.resource_version).map_err(|error| Status::unknown(error.to_string()))
    }
}

/// A resourceVersion that is no number. Prints as upstream's field error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("resourceVersion: Invalid value: \"{text}\": {}", self.cause())]
pub(crate) struct InvalidResourceVersion {
    text: String,
    what: &'static str,
}

impl InvalidResourceVersion {
    /// The error of the number alone.
    pub(crate) fn cause(&self) -> String {
        format!("strconv.ParseUint: parsing \"{}\": {}", self.text, self.what)
    }
}

/// A resourceVersion is a decimal uint64; the error is upstream's field error.
pub(crate) fn parse_resource_version(text: &str) -> Result<Revision, InvalidResourceVersion> {
    if text.is_empty() {
        return Ok(Revision(0));
    }
    let invalid = |what| InvalidResourceVersion { text: text.to_owned(), what };
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid("invalid syntax"));
    }
    let number: u64 = text.parse().map_err(|_| invalid("value out of range"))?;
    // Revisions are int64 in the store; nothing beyond can have happened.
    Ok(Revision(i64::try_from(number).unwrap_or(i64::MAX)))
}

fn invalid(errors: ErrorList) -> Result<(), Status> {
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "ListOptions", "", &errors)) }
}
