//! Reads the embedded kinds table, whose lines are (tab separated):
//!
//! ```text
//! G <group> <versions, preferred first> <version=groupPriority/versionPriority,…>
//! K <group> <version> <resource> <Kind> <singular> <n|-> <verbs> <short names> <categories> <key prefix> <storage> <hash> <type>
//! R <flags> <generation> <gc default> <apply resets> <status apply resets> <status update restores>   (of the K above)
//! F <label=path[|fallback]>,…                                                                       (of the K above)
//! S <subresource> <group> <version> <Kind> <verbs> <type>          (of the K of that resource, which precedes it)
//! ```
//!
//! Flags of R: `c`reate on update, `u`nconditional update, status `w`iped on create, `r`estored on update, DELETE answers
//! with the `o`bject.

use std::borrow::Cow;
use std::sync::Arc;

use super::strategies::strategy;
use super::{Group, GroupVersion, Registry};
use crate::TypeId;
use crate::convert;
use crate::kind::{Kind, SchemaRef, SelectableField, Str, Subresource};
use crate::rules::{DeleteReturns, GcDefault, Generation, WriteRules};
use crate::schema::{Schema, Shape};

pub(super) fn parse(text: &'static str) -> Registry {
    let schema = Schema::builtin();
    let mut groups = Vec::new();
    let mut kinds: Vec<Kind> = Vec::new();
    for line in text.lines() {
        let cells: Vec<&'static str> = line.split('\t').collect();
        match cells.as_slice() {
            ["G", name, versions, priorities] => groups.push(group(name, versions, priorities)),
            ["K", rest @ ..] => kinds.extend(kind(schema, rest)),
            ["R", rest @ ..] => {
                if let (Some(kind), Some(rules)) = (kinds.last_mut(), rules(rest)) {
                    kind.rules = rules;
                }
            }
            ["F", fields] => {
                if let Some(kind) = kinds.last_mut() {
                    let read = |text| selectable_field(schema, kind.type_id, text);
                    kind.selectable_fields = fields.split(',').filter_map(read).collect();
                }
            }
            ["S", rest @ ..] => {
                if let (Some(kind), Some(sub)) = (kinds.last_mut(), subresource(schema, rest)) {
                    kind.subresources.push(sub);
                }
            }
            _ => {}
        }
    }
    index(kinds.into_iter().map(Arc::new).collect(), groups)
}

fn index(kinds: Vec<Arc<Kind>>, groups: Vec<Group>) -> Registry {
    let mut registry =
        Registry { kinds: Vec::new(), groups, by_resource: Default::default(), by_kind: Default::default() };
    for (i, kind) in kinds.iter().enumerate() {
        if let (Cow::Borrowed(g), Cow::Borrowed(v), Cow::Borrowed(r), Cow::Borrowed(k)) =
            (&kind.group, &kind.version, &kind.resource, &kind.kind)
        {
            registry.by_resource.insert((g, v, r), i);
            registry.by_kind.insert((g, v, k), i);
        }
    }
    registry.kinds = kinds;
    registry
}

fn group(name: &'static str, versions: &'static str, priorities: &str) -> Group {
    let priority_of = |version: &str| {
        let text = priorities.split(',').find_map(|p| p.strip_prefix(version)?.strip_prefix('='))?;
        let (group, version) = text.split_once('/')?;
        Some((group.parse().ok()?, version.parse().ok()?))
    };
    let versions =
        versions.split(',').map(|version| GroupVersion { version, priority: priority_of(version) }).collect();
    Group { name, versions }
}

fn kind(schema: &'static Schema, cells: &[&'static str]) -> Option<Kind> {
    let &[group, version, resource, kind, singular, scope, verbs, short, categories, prefix, storage, hash, type_name] =
        cells
    else {
        return None;
    };
    Some(Kind {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        resource: resource.into(),
        singular: singular.into(),
        namespaced: scope == "n",
        verbs: list(verbs),
        short_names: list(short),
        categories: list(categories),
        storage_prefix: prefix.into(),
        storage_version: storage.into(),
        storage_version_hash: hash.into(),
        type_name: type_name.into(),
        schema: SchemaRef::Builtin(schema),
        type_id: schema.type_id(type_name)?,
        subresources: Vec::new(),
        selectable_fields: Vec::new(),
        rules: WriteRules::PLAIN,
        conversion: convert::conversion(group, version, kind),
        strategy: strategy(group, kind),
    })
}

fn subresource(schema: &Schema, cells: &[&'static str]) -> Option<Subresource> {
    let &[name, group, version, kind, verbs, type_name] = cells else { return None };
    Some(Subresource {
        name: name.into(),
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        verbs: list(verbs),
        type_name: type_name.into(),
        type_id: schema.type_id(type_name)?,
    })
}

fn rules(cells: &[&'static str]) -> Option<WriteRules> {
    let &[flags, generation, gc, apply_resets, status_apply_resets, restores] = cells else { return None };
    Some(WriteRules {
        create_on_update: flags.contains('c'),
        unconditional_update: flags.contains('u'),
        clears_status_on_create: flags.contains('w'),
        keeps_status_on_update: flags.contains('r'),
        generation: match generation {
            "create" => Generation::CreateOnly,
            "spec" => Generation::Fields(&["spec"]),
            "template" => Generation::Fields(&["template"]),
            "webhooks" => Generation::Fields(&["webhooks"]),
            "spec+annotations" => Generation::FieldsOrAnnotations(&["spec"]),
            "spec-on-update" => Generation::FieldsOnUpdateOnly(&["spec"]),
            "all+labels" => Generation::AllButMetadataOrLabels,
            _ => Generation::None,
        },
        gc_default: match gc {
            "o" => GcDefault::Orphan,
            "b" => GcDefault::Background,
            _ => GcDefault::Unsupported,
        },
        delete_returns: if flags.contains('o') { DeleteReturns::Object } else { DeleteReturns::Status },
        apply_resets: list(apply_resets),
        status_apply_resets: list(status_apply_resets),
        status_update_restores: list(restores),
    })
}

fn selectable_field(schema: &Schema, kind: TypeId, text: &'static str) -> Option<SelectableField> {
    let (label, paths) = text.split_once('=')?;
    let mut paths = paths.split('|').map(|path| path.split('.').map(Str::Borrowed).collect());
    let path: Vec<Str> = paths.next()?;
    Some(SelectableField { label: label.into(), zero: zero_at(schema, kind, &path), path, fallback: paths.next() })
}

/// How the zero value of the field at a path reads as text.
fn zero_at(schema: &Schema, kind: TypeId, path: &[Str]) -> &'static str {
    let mut shape = Some(Shape::Ref(kind));
    for step in path {
        shape = match shape {
            Some(Shape::Ref(id)) => schema.field(id, step).map(|field| field.shape),
            _ => None,
        };
    }
    match shape {
        Some(Shape::Bool) => "false",
        Some(Shape::Int32 | Shape::Int64) => "0",
        _ => "",
    }
}

fn list(cell: &'static str) -> Vec<Str> {
    cell.split(',').filter(|part| !part.is_empty()).map(Str::Borrowed).collect()
}
