//! One version of a definition: what decoding, defaulting and validation do with its objects.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::rules::Rules;
use super::structural::{Structural, Types};
use super::{Definition, Scale, defaults, embedded, lists, prune, typed, validate};
use crate::field::ErrorType;
use crate::schema::Schema;
use crate::table::{CustomColumn, Printer};
use crate::{Cursor, ErrorList, Kind, Map, Path, Value, meta};

/// A version of a definition.
#[derive(Clone)]
pub struct CustomVersion {
    definition: Arc<Definition>,
    index: usize,
}

/// What is made of a version's schema when it is first needed.
#[derive(Debug)]
pub(super) struct Compiled {
    schema: Structural,
    /// Types for server-side apply, made at the first write.
    types: OnceLock<Schema>,
    printer: Printer,
    rules: Option<Rules>,
}

impl fmt::Debug for CustomVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CustomVersion({} {})", self.definition.name, self.version().name)
    }
}

impl CustomVersion {
    pub(super) fn new(definition: Arc<Definition>, index: usize) -> Self {
        Self { definition, index }
    }

    pub fn definition(&self) -> &Arc<Definition> {
        &self.definition
    }

    fn version(&self) -> &super::definition::Version {
        &self.definition.versions[self.index]
    }

    fn compiled(&self) -> &Compiled {
        self.version().compiled.get_or_init(|| {
            let version = self.definition.version_object(self.index);
            let schema = version.pointer("/schema/openAPIV3Schema").unwrap_or(&Value::Null);
            let columns = version.get("additionalPrinterColumns").and_then(Value::as_array);
            let columns = columns.into_iter().flatten().map(CustomColumn::from_object).collect();
            Compiled {
                schema: Structural::new(schema),
                types: OnceLock::new(),
                printer: Printer::custom(columns),
                rules: Rules::new(schema, true),
            }
        })
    }

    fn structural(&self) -> &Structural {
        &self.compiled().schema
    }

    /// The types that server-side apply merges by.
    pub fn types(&self) -> &Schema {
        let compiled = self.compiled();
        compiled.types.get_or_init(|| typed::schema(&compiled.schema))
    }

    pub fn printer(&self) -> &Printer {
        &self.compiled().printer
    }

    /// What users of this version are told when it is deprecated.
    pub fn deprecation(&self) -> Option<&str> {
        self.version().deprecation.as_deref()
    }

    pub fn scale(&self) -> Option<&Scale> {
        self.version().scale.as_ref()
    }

    /// Objects are stored in this version.
    pub fn is_storage(&self) -> bool {
        self.definition.storage_index() == self.index
    }

    fn api_version(&self) -> String {
        format!("{}/{}", self.definition.group, self.version().name)
    }

    /// Drops what the schema does not know and nulls that mean nothing; the paths of what was dropped. Metadata has its form
    /// already.
    pub(crate) fn prune(&self, object: &mut Value) -> Result<Vec<String>, String> {
        let schema = self.structural();
        let Some(map) = object.as_object_mut() else { return Ok(Vec::new()) };
        let mut unknown = prune::prune(map, schema);
        defaults::prune_nulls_of_resource(map, schema);
        let coerced = embedded::coerce(&Path::root(), object, schema, &mut unknown);
        coerced.map(|()| unknown).map_err(|error| error.to_string())
    }

    /// Fills in the schema's defaults.
    pub(crate) fn default(&self, object: &mut Value) {
        defaults::apply(object, self.structural());
    }

    /// The version that objects are stored in.
    fn storage(&self) -> CustomVersion {
        Self { definition: Arc::clone(&self.definition), index: self.definition.storage_index() }
    }

    /// An object of this version as it is stored: in storage version, and without what that version does not know.
    pub fn to_storage(&self, object: Value) -> Value {
        if self.is_storage() { object } else { self.storage().renamed(object) }
    }

    /// A stored object in this version. What was stored under another schema than today's gets today's defaults.
    pub fn from_storage(&self, stored: Value) -> Value {
        let api_version = stored.get("apiVersion").and_then(Value::as_str).unwrap_or("").to_owned();
        let version = api_version.rsplit('/').next().unwrap_or("");
        let mut object = stored;
        if self.definition.generation > 1
            && let Some(index) = self.definition.versions.iter().position(|known| known.name == version)
        {
            Self { definition: Arc::clone(&self.definition), index }.default(&mut object);
        }
        if self.definition.generation > 1 || api_version != self.api_version() { self.renamed(object) } else { object }
    }

    /// Stored bytes are what a client of the storage version gets.
    pub fn is_current(&self, stored: &[u8]) -> bool {
        self.definition.generation <= 1 && stored.starts_with(self.definition.stored_head().as_bytes())
    }

    /// Stored bytes are of another version than objects are stored in today, and only a webhook can tell what they are in that.
    pub fn awaits_conversion(&self, stored: &[u8]) -> bool {
        self.definition.conversion_webhook.is_some() && !stored.starts_with(self.definition.stored_head().as_bytes())
    }

    fn renamed(&self, mut object: Value) -> Value {
        if let Some(map) = object.as_object_mut() {
            map.insert("apiVersion", self.api_version().into());
        }
        // Stored metadata is well-formed; an embedded object that is not stays as it is.
        let _unknown = self.prune(&mut object);
        object
    }

    /// The object is of this kind and version; if not, nothing else is looked at.
    pub fn validate_type(&self, object: &Cursor<'_>, errors: &mut ErrorList) -> bool {
        let (kind, api_version) = (object.field("kind"), object.field("apiVersion"));
        let before = errors.len();
        if kind.str() != self.definition.kind {
            errors.invalid(kind.path(), kind.str(), format!("must be {}", self.definition.kind));
        }
        let own = self.api_version();
        if api_version.str() != own {
            errors.invalid(api_version.path(), api_version.str(), format!("must be {own}"));
        }
        errors.len() == before
    }

    /// Everything the schema says about a new object; its metadata has been looked at.
    pub fn validate(&self, object: &Value, errors: &mut ErrorList) {
        self.validate_against(object, None, errors);
        self.scale_spec(object, errors);
        self.scale_status(object, errors);
        embedded::validate(&Path::root(), object, self.structural(), errors);
        lists::validate(&Path::root(), object, self.structural(), errors);
        self.rules(object, None, errors, &mut Vec::new());
    }

    /// The same for an update, which may leave as it is what was wrong before; that is warned about.
    pub fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList, warnings: &mut Vec<String>) {
        // Upstream looks at what of the metadata may change once more with the rest.
        meta::object_meta_update(&Cursor::root(object), &Cursor::root(old), errors);
        self.validate_against(object, Some(old), errors);
        self.scale_spec(object, errors);
        self.scale_status(object, errors);
        self.embedded_and_lists(object, old, errors);
        self.rules(object, Some(old), errors, warnings);
    }

    /// The same for a write of the status alone.
    pub fn validate_status_update(
        &self,
        object: &Value,
        old: &Value,
        errors: &mut ErrorList,
        warnings: &mut Vec<String>,
    ) {
        meta::object_meta_update(&Cursor::root(object), &Cursor::root(old), errors);
        if let (Some(status), Some(schema)) = (object.get("status"), self.structural().property("status")) {
            validate::validate(&Path::new("status"), status, old.get("status"), schema, errors);
        }
        self.scale_status(object, errors);
        self.embedded_and_lists(object, old, errors);
        self.rules(object, Some(old), errors, warnings);
    }

    /// CEL rules, unless the object is not what they were written for.
    fn rules(&self, object: &Value, old: Option<&Value>, errors: &mut ErrorList, warnings: &mut Vec<String>) {
        let Some(rules) = &self.compiled().rules else { return };
        let is_blocking = |error_type: ErrorType| {
            matches!(
                error_type,
                ErrorType::NotSupported
                    | ErrorType::NotSupportedChoice
                    | ErrorType::Required
                    | ErrorType::TooLong
                    | ErrorType::TooMany
                    | ErrorType::TypeInvalid
            )
        };
        if errors.iter().any(|error| is_blocking(error.error_type)) {
            let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to \
                          complete validation";
            return errors.invalid(Path::root(), Value::Null, detail);
        }
        rules.validate(&Path::root(), object, old, errors, warnings);
    }

    fn validate_against(&self, object: &Value, old: Option<&Value>, errors: &mut ErrorList) {
        validate::validate(&Path::root(), object, old, self.structural(), errors);
    }

    fn embedded_and_lists(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        let schema = self.structural();
        embedded::validate(&Path::root(), object, schema, errors);
        let mut before = ErrorList::new();
        lists::validate(&Path::root(), old, schema, &mut before);
        if before.is_empty() {
            lists::validate(&Path::root(), object, schema, errors);
        }
    }

    fn scale_spec(&self, object: &Value, errors: &mut ErrorList) {
        if let Some(scale) = self.scale() {
            replicas(object, &scale.spec_replicas_path, errors);
        }
    }

    fn scale_status(&self, object: &Value, errors: &mut ErrorList) {
        let Some(scale) = self.scale() else { return };
        replicas(object, &scale.status_replicas_path, errors);
        let Some(path) = &scale.label_selector_path else { return };
        if let Some(value) = Scale::value(object, path).filter(|value| !value.is_string()) {
            errors.invalid(Path::new(path.as_str()), "", wrong_accessor(path, value, "string"));
        }
    }
}

fn replicas(object: &Value, path: &str, errors: &mut ErrorList) {
    let Some(value) = Scale::value(object, path) else { return };
    let at = Path::new(path);
    match value.as_i64() {
        None => errors.invalid(at, 0, wrong_accessor(path, value, "int64")),
        Some(n) if n < 0 => errors.invalid(at, n, "should be a non-negative integer"),
        Some(n) if n > i64::from(i32::MAX) => {
            errors.invalid(at, n, format!("should be less than or equal to {}", i32::MAX));
        }
        Some(_) => {}
    }
}

/// What Go's accessors of unstructured objects say of a value of another type.
fn wrong_accessor(path: &str, value: &Value, expected: &str) -> String {
    let found = match Types::of(value) {
        None => "<nil>",
        Some((Types::ARRAY, _)) => "[]interface {}",
        Some((Types::OBJECT, _)) => "map[string]interface {}",
        Some((Types::STRING, _)) => "string",
        Some((Types::BOOLEAN, _)) => "bool",
        Some((_, format)) => format,
    };
    let shown = crate::gojson::print(value);
    format!("{path} accessor error: {shown} is of the type {found}, expected {expected}")
}

impl Kind {
    /// The version of a definition that this kind is; `None` for built-in kinds.
    pub fn custom(&self) -> Option<&CustomVersion> {
        self.schema.custom()
    }
}

/// The fields of a write to the status of a custom resource: all of the stored object but `status` and `managedFields`.
pub(crate) fn restore_all_but_status(new: &mut Value, old: &Value) {
    let status = new.get("status").cloned();
    let managed = new.pointer("/metadata/managedFields").cloned();
    let mut object = old.clone();
    if let Some(map) = object.as_object_mut() {
        match status {
            Some(status) => map.insert("status", status),
            None => map.remove("status"),
        };
        let metadata = map.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        if let Some(metadata) = metadata.as_object_mut() {
            match managed {
                Some(managed) => metadata.insert("managedFields", managed),
                None => metadata.remove("managedFields"),
            };
        }
    }
    *new = object;
}

/// A schema's default against the schema itself.
pub(crate) fn validate_default(default: &Cursor<'_>, source: &Value, is_root: bool, errors: &mut ErrorList) {
    let mut schema = Structural::new(source);
    schema.is_embedded |= is_root;
    let mut coerced = default.value().clone();
    let path = default.path();
    if let Err(error) = embedded::coerce(&path, &mut coerced, &schema, &mut Vec::new()) {
        errors.push(error);
        return;
    }
    let before = errors.len();
    embedded::validate(&path, default.value(), &schema, errors);
    if errors.len() == before {
        validate::validate(&path, default.value(), None, &schema, errors);
    }
    if errors.len() == before
        && let Some(rules) = Rules::new(source, schema.is_embedded)
    {
        rules.validate(&path, default.value(), None, errors, &mut Vec::new());
    }
}
