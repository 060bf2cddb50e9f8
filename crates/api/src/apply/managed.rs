//! The entries of `metadata.managedFields`: who owns which fields.

use std::collections::BTreeMap;

use super::set::Set;
use crate::{Map, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn text(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// What makes two entries the same manager. An applier has one entry whatever version it applies in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManagerId {
    pub manager: String,
    pub operation: Operation,
    /// Empty for [`Operation::Apply`].
    pub api_version: String,
    pub subresource: String,
}

/// The fields of one manager.
#[derive(Clone, Debug)]
pub(super) struct Owned {
    pub api_version: String,
    /// RFC 3339, empty when the entry has none.
    pub time: String,
    pub fields: Fields,
}

/// FieldsV1 as it is stored, parsed only when a write touches it.
#[derive(Clone, Debug)]
pub(super) enum Fields {
    Stored(Value),
    Parsed(Set),
}

impl Fields {
    pub(super) fn set(&self) -> Set {
        match self {
            Self::Stored(value) => Set::from_fields_v1(value).unwrap_or_default(),
            Self::Parsed(set) => set.clone(),
        }
    }

    /// Takes paths away; stored fields that have none of them stay as they are.
    pub(super) fn subtract(&mut self, gone: &Set) {
        match self {
            Self::Stored(value) if !gone.touches(value) => {}
            Self::Stored(_) => *self = Self::Parsed(self.set().difference(gone)),
            Self::Parsed(set) => set.subtract(gone),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Stored(value) => value.as_object().is_none_or(Map::is_empty),
            Self::Parsed(set) => set.is_empty(),
        }
    }

    fn into_value(self) -> Value {
        match self {
            Self::Stored(value) => value,
            Self::Parsed(set) => set.to_fields_v1(),
        }
    }
}

/// All managers of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Managed {
    pub entries: BTreeMap<ManagerId, Owned>,
}

impl Managed {
    /// From `metadata.managedFields`; the text says why it cannot be read.
    pub(super) fn decode(managed_fields: Option<&Value>) -> Result<Self, String> {
        let mut entries = BTreeMap::new();
        for entry in managed_fields.and_then(Value::as_array).into_iter().flatten() {
            let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or("");
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err("operation must be `Apply` or `Update`".into()),
            };
            if text("apiVersion").is_empty() {
                return Err("apiVersion must not be empty".into());
            }
            match text("fieldsType") {
                "FieldsV1" => {}
                "" => return Err("missing fieldsType in managed fields entry".into()),
                other => {
                    return Err(format!(
                        "invalid fieldsType {} in managed fields entry",
                        crate::field::go_quote(other)
                    ));
                }
            }
            let fields = match entry.get("fieldsV1") {
                None | Some(Value::Null) => Value::Object(Map::new()),
                Some(fields) => fields.clone(),
            };
            let id = ManagerId {
                manager: text("manager").to_owned(),
                operation,
                api_version: if operation == Operation::Apply { String::new() } else { text("apiVersion").to_owned() },
                subresource: text("subresource").to_owned(),
            };
            let owned = Owned {
                api_version: text("apiVersion").to_owned(),
                time: text("time").to_owned(),
                fields: Fields::Stored(fields),
            };
            entries.insert(id, owned);
        }
        Ok(Self { entries })
    }

    /// The same, when the text comes from a client and may be no field set at all.
    pub(super) fn decode_checked(managed_fields: Option<&Value>) -> Result<Self, String> {
        let mut managed = Self::decode(managed_fields)?;
        for owned in managed.entries.values_mut() {
            let Fields::Stored(value) = &owned.fields else { continue };
            let set = Set::from_fields_v1(value).ok_or("error decoding field set")?;
            owned.fields = Fields::Parsed(set);
        }
        Ok(managed)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// `metadata.managedFields`: appliers first, then by time, then by name; null when nobody owns anything.
    pub(super) fn encode(self) -> Value {
        if self.entries.is_empty() {
            return Value::Null;
        }
        let mut entries: Vec<(ManagerId, Owned)> = self.entries.into_iter().collect();
        entries.sort_by(|(a, a_owned), (b, b_owned)| {
            let key = |id: &ManagerId, owned: &Owned| {
                (
                    id.operation,
                    owned.time.clone(),
                    id.manager.clone(),
                    owned.api_version.clone(),
                    id.subresource.clone(),
                )
            };
            key(a, a_owned).cmp(&key(b, b_owned))
        });
        Value::Array(entries.into_iter().map(|(id, owned)| encode_entry(id, owned)).collect())
    }
}

fn encode_entry(id: ManagerId, owned: Owned) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, text: String| {
        if !text.is_empty() {
            out.insert(name, text.into());
        }
    };
    put("manager", id.manager);
    put("operation", id.operation.text().to_owned());
    put("apiVersion", owned.api_version);
    put("time", owned.time);
    put("fieldsType", "FieldsV1".to_owned());
    out.insert("fieldsV1", owned.fields.into_value());
    if !id.subresource.is_empty() {
        out.insert("subresource", id.subresource.into());
    }
    Value::Object(out)
}

/// Both lists say the same but for the times.
pub fn same_but_for_times(a: &Value, b: &Value) -> bool {
    let (a, b) = match (a.as_array(), b.as_array()) {
        (Some(a), Some(b)) => (a, b),
        (None, None) => return true,
        _ => return false,
    };
    let fields = ["manager", "operation", "apiVersion", "fieldsType", "fieldsV1", "subresource"];
    // A moved time may have moved the entry.
    a.len() == b.len() && a.iter().all(|x| b.iter().any(|y| fields.iter().all(|f| x.get(f) == y.get(f))))
}
