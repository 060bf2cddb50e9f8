//! CustomResourceDefinition: names, versions, conversion, columns and schemas. Source: `apiextensions-apiserver`
//! `pkg/apis/apiextensions/validation`. Upstream checks an internal form in which fields that are the same in all versions
//! stand at the top of the spec, and its messages name fields by that form: see [`internal`].

pub mod conditions;
mod internal;
pub(crate) mod path;
mod pattern;
mod rules;
mod schema;
mod structural;

use internal::Internal;

use crate::kinds::admission;
use crate::occurrences::Occurrences;
use crate::strategy::SubresourceStrategy;
use crate::validate::names;
use crate::validate::text::{immutable, immutable_text, supported_text};
use crate::{Cursor, ErrorList, Path, Strategy, Value, meta};

const SELECTABLE_FIELDS_MAX: usize = 8;
const DEPRECATION_WARNING_MAX_BYTES: usize = 256;
const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: &[&str] = &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const APPROVAL: &str = "api-approved.kubernetes.io";
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];

pub const STRATEGY: Strategy = Strategy {
    prepare_for_create: |new, _| remember_storage_version(new),
    validate: create,
    prepare_for_update: |new, _, _| remember_storage_version(new),
    validate_update: update,
    warnings,
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |_, _, _| {},
        validate_update: |new, old, errors| {
            meta::object_meta_update(new, old, errors);
            status_names(new, errors);
        },
    }],
    begin_delete: Some(conditions::begin_delete),
    judges_preconditions: true,
    ..Strategy::DEFAULT
};

/// What an update forgives because the stored definition already had it.
struct Options {
    require_schema: bool,
    require_structural: bool,
    require_known_review_version: bool,
    names_are_immutable: bool,
    ca_bundle_may_be_invalid: bool,
    /// Versions with their schemas.
    stored_schemas: Vec<(String, Value)>,
    schema: schema::Options,
}

impl Options {
    const CREATE: Options = Options {
        require_schema: true,
        require_structural: true,
        require_known_review_version: true,
        names_are_immutable: false,
        ca_bundle_may_be_invalid: true,
        stored_schemas: Vec::new(),
        schema: schema::Options::STRICT,
    };

    fn update(old: &Cursor<'_>, old_spec: &Internal) -> Options {
        let versions = old_spec.spec().field("conversion").field("conversionReviewVersions");
        let established = is_established(old);
        let has_all_schemas = old_spec.schema().is_set()
            || old_spec.spec().field("versions").items().all(|v| v.fields(&["schema", "openAPIV3Schema"]).is_set());
        Options {
            require_schema: has_all_schemas,
            require_structural: !old_spec.any_schema(|s| !structural::is_structural(s)),
            require_known_review_version: versions.is_empty()
                || versions.items().any(|v| REVIEW_VERSIONS.contains(&v.str())),
            names_are_immutable: established,
            ca_bundle_may_be_invalid: !established || {
                let bundle = old_spec.spec().fields(&["conversion", "webhookClientConfig", "caBundle"]);
                !bundle.is_empty() && !has_certificate(bundle.str())
            },
            stored_schemas: old_spec
                .spec()
                .field("versions")
                .items()
                .map(|v| (v.field("name").str().to_owned(), v.field("schema").value().clone()))
                .collect(),
            schema: schema::Options::update(old_spec),
        }
    }
}

fn is_established(object: &Cursor<'_>) -> bool {
    let conditions = object.field("status").field("conditions");
    conditions.items().any(|c| c.field("type").str() == "Established" && c.field("status").str() == "True")
}

/// A version that has been the storage version stays listed until someone migrates its objects.
fn remember_storage_version(object: &mut Value) {
    let versions = object.pointer("/spec/versions").and_then(Value::as_array);
    let storage = |v: &&Value| v.get("storage").and_then(Value::as_bool) == Some(true);
    let Some(name) = versions.into_iter().flatten().find(storage).and_then(|v| v.get("name")).cloned() else { return };
    let Some(status) =
        object.as_object_mut().map(|o| o.entry("status").or_insert_with(|| Value::Object(Default::default())))
    else {
        return;
    };
    let Some(status) = status.as_object_mut() else { return };
    let stored = status.entry("storedVersions").or_insert(Value::Null);
    match stored {
        Value::Array(list) if list.contains(&name) => {}
        Value::Array(list) => list.push(name),
        _ => *stored = Value::Array(vec![name]),
    }
}

fn create(object: &Cursor<'_>, errors: &mut ErrorList) {
    required_name(object, errors);
    let spec = Internal::of(object.field("spec").value());
    validate_spec(&spec, Options::CREATE, errors);
    status_names(object, errors);
    stored_versions(object, errors);
    approval(object, None, errors);
    unknown_fields_are_pruned(object, None, errors);
}

fn update(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    meta::object_meta_update(new, old, errors);
    let (spec, old_spec) = (Internal::of(new.field("spec").value()), Internal::of(old.field("spec").value()));
    let options = Options::update(old, &old_spec);
    let names_are_immutable = options.names_are_immutable;
    validate_spec(&spec, options, errors);
    let (spec, old_spec) = (new.field("spec"), old.field("spec"));
    if names_are_immutable {
        immutable(&spec.field("scope"), &old_spec.field("scope"), errors);
        immutable_text(&spec.fields(&["names", "kind"]), &old_spec.fields(&["names", "kind"]), errors);
    }
    immutable_text(&spec.field("group"), &old_spec.field("group"), errors);
    immutable_text(&spec.fields(&["names", "plural"]), &old_spec.fields(&["names", "plural"]), errors);
    status_names(new, errors);
    stored_versions(new, errors);
    approval(new, Some(old), errors);
    unknown_fields_are_pruned(new, Some(old), errors);
}

/// The name is checked together with its format, so its error stands between those of the metadata.
fn required_name(object: &Cursor<'_>, errors: &mut ErrorList) {
    let (metadata, spec) = (object.field("metadata"), object.field("spec"));
    let expected = format!("{}.{}", spec.fields(&["names", "plural"]).str(), spec.field("group").str());
    let found = std::mem::take(errors);
    let mut found = found.into_iter().peekable();
    for field in ["generateName", "name"] {
        let name = metadata.field(field);
        while let Some(error) = found.next_if(|e| e.path == name.path()) {
            errors.push(error);
        }
        if !name.is_empty() && name.str() != expected {
            name.invalid(errors, "must be spec.names.plural+\".\"+spec.group");
        }
    }
    for error in found {
        errors.push(error);
    }
}

fn validate_spec(internal: &Internal, options: Options, errors: &mut ErrorList) {
    let spec = internal.spec();
    group(&spec.field("group"), errors);
    let scope = spec.field("scope");
    if scope.is_empty() {
        scope.required(errors, "");
    } else {
        supported_text(&scope, &["Cluster", "Namespaced"], errors);
    }
    let keeps_unknown = spec.field("preserveUnknownFields").bool();
    let mut schema_options = options.schema;
    schema_options.structural = options.require_structural || !keeps_unknown;
    let versions = spec.field("versions");
    if !internal.schema().is_set() {
        for version in versions.items() {
            let schema = version.fields(&["schema", "openAPIV3Schema"]);
            if schema.is_set() {
                continue;
            }
            if options.require_schema {
                schema.required(errors, "");
            } else if !keeps_unknown && version.field("served").bool() {
                schema.required(errors, "because otherwise all fields are pruned");
            }
        }
    }
    if internal.any_schema(|s| schema::any(s, &|s| s.get("default").is_some_and(|d| !d.is_null()))) {
        schema_options.structural = true;
        if keeps_unknown {
            let path = spec.field("preserveUnknownFields").path();
            errors.invalid(path, true, "must be false in order to use defaults in the schema");
        }
    }
    schema_options.structural |= internal.any_schema(|s| schema::any(s, &schema::has_extensions));
    validate_versions(internal, schema_options, &options.stored_schemas, errors);
    for field in ["plural", "singular", "kind", "listKind"] {
        let name = spec.field("names").field(field);
        if name.is_empty() {
            name.required(errors, "");
        }
    }
    definition_names(&spec.field("names"), errors);
    let has_status = |subresources: &Cursor<'_>| subresources.field("status").is_set();
    let any_status =
        has_status(&spec.field("subresources")) || versions.items().any(|v| has_status(&v.field("subresources")));
    schema::validate(&spec.field("validation"), any_status, false, schema_options, errors);
    subresources(&spec.field("subresources"), errors);
    columns(&spec.field("additionalPrinterColumns"), errors);
    selectable_fields(&spec.field("selectableFields"), &internal.schema(), errors);
    conversion(&spec.field("conversion"), keeps_unknown, &options, errors);
}

fn group(group: &Cursor<'_>, errors: &mut ErrorList) {
    if group.is_empty() {
        group.required(errors, "");
    } else if !joined(group, names::dns1123_subdomain(group.str()), "", errors) && !group.str().contains('.') {
        group.invalid(errors, "should be a domain with at least one dot");
    }
}

/// Adds all messages as one error; says whether there were any.
fn joined(value: &Cursor<'_>, messages: Vec<String>, prefix: &str, errors: &mut ErrorList) -> bool {
    if !messages.is_empty() {
        value.invalid(errors, format!("{prefix}{}", messages.join(",")));
    }
    !messages.is_empty()
}

fn validate_versions(
    internal: &Internal,
    options: schema::Options,
    stored_schemas: &[(String, Value)],
    errors: &mut ErrorList,
) {
    let spec = internal.spec();
    let versions = spec.field("versions");
    let mut seen: Occurrences<&str> = Occurrences::new();
    let mut n_storage = 0;
    let mut is_unique = true;
    let per_version_subresources = versions.items().any(|v| v.field("subresources").is_set());
    for version in versions.items() {
        n_storage += usize::from(version.field("storage").bool());
        let name = version.field("name");
        is_unique &= !seen.contains(&name.str());
        seen.push(name.str());
        joined(&name, names::dns1035_label(name.str()), "", errors);
        let own = if per_version_subresources { version.field("subresources") } else { spec.field("subresources") };
        deprecation_warning(&version, errors);
        let schema = version.field("schema");
        let unchanged = stored_schemas.iter().any(|(stored, old)| stored == name.str() && old == schema.value());
        schema::validate(&schema, own.field("status").is_set(), unchanged, options, errors);
        subresources(&version.field("subresources"), errors);
        columns(&version.field("additionalPrinterColumns"), errors);
        selectable_fields(&version.field("selectableFields"), &version.fields(&["schema", "openAPIV3Schema"]), errors);
    }
    if !is_unique {
        errors.invalid(versions.path(), internal::go_versions(&versions), "must contain unique version names");
    }
    if n_storage != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.invalid(versions.path(), internal::go_versions(&versions), detail);
    }
    let version = spec.field("version");
    if !version.is_empty() {
        joined(&version, names::dns1035_label(version.str()), "", errors);
    }
}

fn deprecation_warning(version: &Cursor<'_>, errors: &mut ErrorList) {
    let warning = version.field("deprecationWarning");
    if !warning.is_set() {
        return;
    }
    let text = warning.str();
    let mut invalid = |detail: &str| errors.invalid_choice(warning.path(), text, detail);
    if !version.field("deprecated").bool() {
        return invalid("can only be set for deprecated versions");
    }
    if text.len() > DEPRECATION_WARNING_MAX_BYTES {
        invalid(&format!("must be <= {DEPRECATION_WARNING_MAX_BYTES} characters long"));
    }
    if text.is_empty() {
        invalid("must not be an empty string");
    }
    let is_hidden = |c: char| c.is_control() || (c.is_whitespace() && c != ' ');
    if let Some(index) = text.find(is_hidden) {
        let detail =
            format!("must only contain printable UTF-8 characters; non-printable character found at index {index}");
        invalid(&detail);
    }
}

fn definition_names(own: &Cursor<'_>, errors: &mut ErrorList) {
    const MIXED: &str = "may have mixed case, but should otherwise match: ";
    for (field, prefix) in [("plural", ""), ("singular", ""), ("kind", MIXED), ("listKind", MIXED)] {
        let name = own.field(field);
        if name.is_empty() {
            continue;
        }
        let checked = if prefix.is_empty() { name.str().to_owned() } else { name.str().to_lowercase() };
        joined(&name, names::dns1035_label(&checked), prefix, errors);
    }
    for name in own.field("shortNames").items() {
        joined(&name, names::dns1035_label(name.str()), "", errors);
    }
    let (kind, list_kind) = (own.field("kind"), own.field("listKind"));
    if !kind.is_empty() && kind.str() == list_kind.str() {
        list_kind.invalid(errors, "kind and listKind may not be the same");
    }
    for category in own.field("categories").items() {
        joined(&category, names::dns1035_label(category.str()), "", errors);
    }
}

fn status_names(object: &Cursor<'_>, errors: &mut ErrorList) {
    definition_names(&object.field("status").field("acceptedNames"), errors);
}

fn stored_versions(object: &Cursor<'_>, errors: &mut ErrorList) {
    let stored = object.field("status").field("storedVersions");
    if stored.is_empty() {
        stored.invalid(errors, "must have at least one stored version");
        return;
    }
    let versions = object.field("spec").field("versions");
    // A name that is given twice is met once.
    let mut unmet: Vec<&str> = stored.items().map(|version| version.str()).collect();
    for version in versions.items() {
        let name = version.field("name").str();
        if version.field("storage").bool() && !unmet.contains(&name) {
            stored.invalid(errors, format!("must have the storage version {name}"));
        }
        unmet.retain(|version| *version != name);
    }
    for version in stored.items() {
        let name = version.str();
        if !versions.items().any(|v| v.field("name").str() == name) {
            version.invalid(
                errors,
                format!(
                    "missing from spec.versions; {name} was previously a storage version, and must remain in \
                     spec.versions until a storage migration ensures no data remains persisted in {name} and removes \
                     {name} from status.storedVersions"
                ),
            );
        }
    }
}

fn columns(columns: &Cursor<'_>, errors: &mut ErrorList) {
    for column in columns.items() {
        let (name, kind, format) = (column.field("name"), column.field("type"), column.field("format"));
        if name.is_empty() {
            name.required(errors, "");
        }
        let types = format!("must be one of {}", COLUMN_TYPES.join(","));
        if kind.is_empty() {
            kind.required(errors, &types);
        } else if !COLUMN_TYPES.contains(&kind.str()) {
            kind.invalid(errors, types);
        }
        if !format.is_empty() && !COLUMN_FORMATS.contains(&format.str()) {
            format.invalid(errors, format!("must be one of {}", COLUMN_FORMATS.join(",")));
        }
        // The path of the error spells the field as the internal type does.
        let path = Cursor::at(column.field("jsonPath").value(), column.path().child("JSONPath"));
        if path.is_empty() {
            path.required(errors, "");
        } else {
            simple_path(&path, errors);
        }
    }
}

/// Starts with a dot; says whether it does.
fn simple_path(path: &Cursor<'_>, errors: &mut ErrorList) -> bool {
    let is_simple = path.str().starts_with('.');
    if !is_simple {
        path.invalid(errors, "must be a simple json path starting with .");
    }
    is_simple
}

fn subresources(subresources: &Cursor<'_>, errors: &mut ErrorList) {
    let scale = subresources.field("scale");
    if !scale.is_set() {
        return;
    }
    for (field, below) in [("specReplicasPath", ".spec"), ("statusReplicasPath", ".status")] {
        let path = scale.field(field);
        if path.is_empty() {
            path.required(errors, "");
        } else if simple_path(&path, errors) && !path.str().starts_with(&format!("{below}.")) {
            path.invalid(errors, format!("should be a json path under {below}"));
        }
    }
    let selector = scale.field("labelSelectorPath");
    let is_below = [".spec.", ".status."].iter().any(|below| selector.str().starts_with(below));
    if !selector.is_empty() && simple_path(&selector, errors) && !is_below {
        selector.invalid(errors, "should be a json path under either .spec or .status");
    }
}

fn selectable_fields(fields: &Cursor<'_>, schema: &Cursor<'_>, errors: &mut ErrorList) {
    if fields.is_empty() {
        return;
    }
    if !schema.is_set() {
        let detail = "may only be set when `version.schema.openAPIV3Schema` is not included";
        errors.invalid(fields.path(), "", detail);
        return;
    }
    let mut unique: Vec<String> = Vec::new();
    for field in fields.items() {
        let own = field.field("jsonPath");
        if own.is_empty() {
            own.required(errors, "");
            continue;
        }
        let (path, found) = match path::resolve(own.str(), schema.value(), path::Brackets::Refused) {
            Ok(resolved) => resolved,
            Err(error) => {
                own.invalid(errors, format!("is an invalid path: {error}"));
                continue;
            }
        };
        if path.first().is_some_and(|root| root == "metadata") {
            own.invalid(errors, "must not point to fields in metadata");
        }
        if !matches!(found.get("type").and_then(Value::as_str), Some("string" | "boolean" | "integer")) {
            own.invalid(
                errors,
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are \
                 allowed.",
            );
        }
        let text = path.join(".");
        if unique.contains(&text) {
            own.duplicate(errors);
        } else {
            unique.push(text);
        }
    }
    if unique.len() > SELECTABLE_FIELDS_MAX {
        errors.too_many(fields.path(), unique.len(), SELECTABLE_FIELDS_MAX);
    }
}

fn conversion(conversion: &Cursor<'_>, keeps_unknown: bool, options: &Options, errors: &mut ErrorList) {
    if !conversion.is_set() {
        return;
    }
    let strategy = conversion.field("strategy");
    if strategy.str() != "None" && keeps_unknown {
        errors.invalid_choice(strategy.path(), strategy.str(), "must be None if spec.preserveUnknownFields is true");
    }
    if strategy.is_empty() {
        strategy.required(errors, "");
    } else {
        supported_text(&strategy, &["None", "Webhook"], errors);
    }
    let (client, versions) = (conversion.field("webhookClientConfig"), conversion.field("conversionReviewVersions"));
    if strategy.str() != "Webhook" {
        const UNUSED: &str = "should not be set when strategy is not set to Webhook";
        if client.is_set() {
            client.forbidden(errors, UNUSED);
        }
        if !versions.is_empty() {
            versions.forbidden(errors, UNUSED);
        }
        return;
    }
    if !client.is_set() {
        client.required(errors, "required when strategy is set to Webhook");
    } else {
        admission::client_config(&client, errors);
        let bundle = client.field("caBundle");
        if !bundle.is_empty() && !options.ca_bundle_may_be_invalid && !has_certificate(bundle.str()) {
            let detail = "unable to load root certificates: data does not contain any valid RSA or ECDSA certificates";
            bundle.invalid(errors, detail);
        }
    }
    review_versions(&versions, options.require_known_review_version, errors);
}

fn review_versions(versions: &Cursor<'_>, require_known: bool, errors: &mut ErrorList) {
    if versions.is_empty() {
        versions.required(errors, "");
        return;
    }
    let mut seen: Occurrences<&str> = Occurrences::new();
    for version in versions.items() {
        if seen.contains(&version.str()) {
            version.invalid(errors, "duplicate version");
            continue;
        }
        seen.push(version.str());
        for message in names::dns1035_label(version.str()) {
            version.invalid(errors, message);
        }
    }
    if require_known && !seen.keys().iter().any(|v| REVIEW_VERSIONS.contains(v)) {
        versions.invalid(errors, format!("must include at least one of {}", REVIEW_VERSIONS.join(", ")));
    }
}

/// Some PEM block in base64 text claims to be a certificate.
fn has_certificate(base64: &str) -> bool {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(base64).unwrap_or_default();
    String::from_utf8_lossy(&bytes).contains("-----BEGIN CERTIFICATE-----")
}

/// Groups of Kubernetes itself need a link to the review of their API, or a word that there was none.
fn approval(new: &Cursor<'_>, old: Option<&Cursor<'_>>, errors: &mut ErrorList) {
    if !is_protected(new) {
        return;
    }
    let state = Approval::of(approval_annotation(new));
    if old.is_some_and(|old| Approval::of(approval_annotation(old)) == state) {
        return;
    }
    let path = Path::new("metadata.annotations").key(APPROVAL);
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    match state {
        Approval::Missing => {
            errors.required(path, format!("protected groups must have approval annotation \"{APPROVAL}\", {SEE}"));
        }
        Approval::Invalid => errors.invalid(
            path,
            approval_annotation(new),
            format!(
                "protected groups must have approval annotation \"{APPROVAL}\" with either a URL or a reason starting with \
                 \"unapproved\", {SEE}"
            ),
        ),
        Approval::Bypassed | Approval::Approved => {}
    }
}

fn is_protected(definition: &Cursor<'_>) -> bool {
    let group = definition.field("spec").field("group").str();
    ["k8s.io", "kubernetes.io"].iter().any(|own| group == *own || group.ends_with(&format!(".{own}")))
}

fn approval_annotation<'a>(object: &Cursor<'a>) -> &'a str {
    object.field("metadata").field("annotations").key(APPROVAL).str()
}

#[derive(PartialEq, Eq)]
enum Approval {
    Missing,
    Bypassed,
    Approved,
    Invalid,
}

impl Approval {
    fn of(annotation: &str) -> Self {
        let host = annotation.split_once("://").map(|(scheme, rest)| (scheme, rest.split('/').next().unwrap_or("")));
        match host {
            _ if annotation.is_empty() => Self::Missing,
            _ if annotation.starts_with("unapproved") => Self::Bypassed,
            Some((scheme, host)) if !scheme.is_empty() && !host.is_empty() && !annotation.contains(' ') => {
                Self::Approved
            }
            _ => Self::Invalid,
        }
    }
}

fn unknown_fields_are_pruned(new: &Cursor<'_>, old: Option<&Cursor<'_>>, errors: &mut ErrorList) {
    let keeps = |object: &Cursor<'_>| object.field("spec").field("preserveUnknownFields").bool();
    if keeps(new) && !old.is_some_and(keeps) {
        new.field("spec").field("preserveUnknownFields").invalid(
            errors,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        );
    }
}

fn warnings(new: &Cursor<'_>, old: Option<&Cursor<'_>>, out: &mut Vec<String>) {
    let known = old.map(unknown_formats).unwrap_or_default();
    let formats = unknown_formats(new).into_iter().filter(|format| !known.contains(format));
    out.extend(formats.map(|format| format!("unrecognized format {}", crate::field::go_quote(&format))));
}

fn unknown_formats(object: &Cursor<'_>) -> Vec<String> {
    let spec = Internal::of(object.field("spec").value());
    let mut out = Vec::new();
    for root in spec.schemas() {
        schema::visit(root, &mut |s| {
            if let Some(format) = schema::unknown_format(s) {
                out.push(format.to_owned());
            }
        });
    }
    out
}

#[cfg(test)]
mod tests;
