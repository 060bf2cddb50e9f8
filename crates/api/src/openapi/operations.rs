//! What an operation is, apart from the OpenAPI version that writes it: methods, parameters and bodies.

/// A query or path parameter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) is_path: bool,
    pub(super) value_type: &'static str,
    pub(super) description: &'static str,
}

const fn query(name: &'static str, value_type: &'static str, description: &'static str) -> Parameter {
    Parameter { name, is_path: false, value_type, description }
}

const fn path(name: &'static str, description: &'static str) -> Parameter {
    Parameter { name, is_path: true, value_type: "string", description }
}

pub(super) const NAME: Parameter = path("name", "");
pub(super) const NAMESPACE: Parameter = path("namespace", "object name and auth scope, such as for teams and projects");
pub(super) const PROXY_PATH: Parameter = path("path", "path to the resource");
pub(super) const PRETTY: Parameter = query(
    "pretty",
    "string",
    "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line \
     HTTP tool (curl and wget).",
);

const DRY_RUN: Parameter = query(
    "dryRun",
    "string",
    "When present, indicates that modifications should not be persisted. An invalid or unrecognized dryRun directive will result \
     in an error response and no further processing of the request. Valid values are: - All: all dry run stages will be processed",
);
const FIELD_MANAGER: Parameter = query(
    "fieldManager",
    "string",
    "fieldManager is a name associated with the actor or entity that is making these changes. The value must be less than or 128 \
     characters long, and only contain printable characters, as defined by https://golang.org/pkg/unicode/#IsPrint.",
);
const PATCH_FIELD_MANAGER: Parameter = query(
    "fieldManager",
    "string",
    "fieldManager is a name associated with the actor or entity that is making these changes. The value must be less than or 128 \
     characters long, and only contain printable characters, as defined by https://golang.org/pkg/unicode/#IsPrint. This field is \
     required for apply requests (application/apply-patch) but optional for non-apply patch types (JsonPatch, MergePatch, \
     StrategicMergePatch).",
);
const FIELD_VALIDATION: Parameter = query(
    "fieldValidation",
    "string",
    "fieldValidation instructs the server on how to handle objects in the request (POST/PUT/PATCH) containing unknown or duplicate \
     fields. Valid values are: - Ignore: This will ignore any unknown fields that are silently dropped from the object, and will \
     ignore all but the last duplicate field that the decoder encounters. This is the default behavior prior to v1.23. - Warn: \
     This will send a warning via the standard warning response header for each unknown field that is dropped from the object, \
     and for each duplicate field that is encountered. The request will still succeed if there are no other errors, and will only \
     persist the last of any duplicate fields. This is the default in v1.23+ - Strict: This will fail the request with a \
     BadRequest error if any unknown fields would be dropped from the object, or if any duplicate fields are present. The error \
     returned from the server will contain all unknown and duplicate fields encountered.",
);
const FORCE: Parameter = query(
    "force",
    "boolean",
    "Force is going to \"force\" Apply requests. It means user will re-acquire conflicting fields owned by other people. Force \
     flag must be unset for non-apply patch requests.",
);

pub(super) static LIST: &[Parameter] = &[
    query("allowWatchBookmarks", "boolean", ""),
    query("continue", "string", ""),
    query("fieldSelector", "string", ""),
    query("labelSelector", "string", ""),
    query("limit", "integer", ""),
    query("resourceVersion", "string", ""),
    query("resourceVersionMatch", "string", ""),
    query("sendInitialEvents", "boolean", ""),
    query("shardSelector", "string", ""),
    query("timeoutSeconds", "integer", ""),
    query("watch", "boolean", ""),
];
pub(super) static DELETE: &[Parameter] = &[
    DRY_RUN,
    query("gracePeriodSeconds", "integer", ""),
    query("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean", ""),
    query("orphanDependents", "boolean", ""),
    query("propagationPolicy", "string", ""),
];
pub(super) static DELETE_COLLECTION: &[Parameter] = &[
    query("continue", "string", ""),
    DRY_RUN,
    query("fieldSelector", "string", ""),
    query("gracePeriodSeconds", "integer", ""),
    query("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean", ""),
    query("labelSelector", "string", ""),
    query("limit", "integer", ""),
    query("orphanDependents", "boolean", ""),
    query("propagationPolicy", "string", ""),
    query("resourceVersion", "string", ""),
    query("resourceVersionMatch", "string", ""),
    query("sendInitialEvents", "boolean", ""),
    query("shardSelector", "string", ""),
    query("timeoutSeconds", "integer", ""),
];
pub(super) static WRITE: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
pub(super) static PATCH: &[Parameter] = &[DRY_RUN, PATCH_FIELD_MANAGER, FIELD_VALIDATION, FORCE];
pub(super) static NO_PARAMETERS: &[Parameter] = &[];

/// What a request carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    None,
    /// This definition, in any media type.
    Required(String),
    Optional(String),
    Patch,
    /// A patch of a custom resource, which cannot be a strategic merge patch.
    CustomPatch,
}

/// Which media types a success answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Produces {
    Object,
    /// Lists can be watched.
    Stream,
    /// Custom resources have no protobuf form.
    Custom,
    /// Plain text or whatever the other end says (logs, exec, proxy).
    Any,
}

impl Produces {
    pub(super) fn media_types(self) -> &'static [&'static str] {
        match self {
            Self::Object => &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"],
            Self::Stream => &[
                "application/json",
                "application/yaml",
                "application/vnd.kubernetes.protobuf",
                "application/json;stream=watch",
                "application/vnd.kubernetes.protobuf;stream=watch",
            ],
            Self::Custom => &["application/json", "application/yaml"],
            Self::Any => &["*/*"],
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) id: String,
    pub(super) description: String,
    /// `x-kubernetes-action`; empty for documents about the API itself.
    pub(super) action: &'static str,
    /// Group, version and kind of what is acted on.
    pub(super) gvk: Option<(String, String, String)>,
    pub(super) parameters: &'static [Parameter],
    pub(super) body: Body,
    pub(super) produces: Produces,
    /// Codes and definition of the success responses; the empty name is a plain string.
    pub(super) codes: &'static [u16],
    pub(super) response: String,
}
