//! What a failed API call means to a controller.

/// Questions asked of a [`kube::Error`]. All are false for errors that are not the API server's answer.
pub(crate) trait ApiErrorExt {
    fn is_not_found(&self) -> bool;
    fn is_conflict(&self) -> bool;
    fn is_already_exists(&self) -> bool;
    fn is_invalid(&self) -> bool;
    /// Refused because the namespace is being deleted: nothing a controller should retry or report.
    fn is_namespace_terminating(&self) -> bool;
    /// The text upstream shows for this error.
    fn text(&self) -> String;
}

impl ApiErrorExt for kube::Error {
    fn is_not_found(&self) -> bool {
        has_reason(self, "NotFound")
    }

    fn is_conflict(&self) -> bool {
        has_reason(self, "Conflict")
    }

    fn is_already_exists(&self) -> bool {
        has_reason(self, "AlreadyExists")
    }

    fn is_invalid(&self) -> bool {
        has_reason(self, "Invalid")
    }

    fn is_namespace_terminating(&self) -> bool {
        let kube::Error::Api(status) = self else { return false };
        let causes = status.details.iter().flat_map(|details| &details.causes);
        causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
    }

    fn text(&self) -> String {
        match self {
            kube::Error::Api(status) => status.message.clone(),
            other => other.to_string(),
        }
    }
}

fn has_reason(error: &kube::Error, reason: &str) -> bool {
    matches!(error, kube::Error::Api(status) if status.reason == reason)
}
