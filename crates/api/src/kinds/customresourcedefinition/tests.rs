use crate::{Value, json};

use super::STRATEGY;
use crate::{Cursor, ErrorList, Path};

fn definition(spec: Value) -> Value {
    let mut own = json!({
        "group": "e.com", "scope": "Namespaced",
        "names": {"plural": "xs", "singular": "x", "kind": "X", "listKind": "XList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
        "conversion": {"strategy": "None"}});
    for (key, value) in spec.as_object().cloned().unwrap_or_default() {
        own[key] = value;
    }
    json!({"metadata": {"name": "xs.e.com", "resourceVersion": "1"}, "spec": own, "status": {"storedVersions": ["v1"]}})
}

fn errors_of(object: &Value) -> Vec<String> {
    let mut errors = ErrorList::new();
    (STRATEGY.validate)(&Cursor::root(object), &mut errors);
    errors.iter().map(ToString::to_string).collect()
}

fn update_errors(new: &Value, old: &Value) -> Vec<String> {
    let mut errors = ErrorList::new();
    (STRATEGY.validate_update)(&Cursor::root(new), &Cursor::root(old), &mut errors);
    errors.iter().map(ToString::to_string).collect()
}

fn schema_errors(schema: Value) -> Vec<String> {
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
    errors_of(&definition(json!({"versions": [version]})))
}

#[test]
fn schemas_that_differ_are_named_by_version_and_shared_ones_at_the_top() {
    let bad = json!({"type": "object", "properties": {"a": {}}});
    const DETAIL: &str = "Required value: must not be empty for specified object fields";
    assert_eq!(schema_errors(bad.clone()), [format!("spec.validation.openAPIV3Schema.properties[a].type: {DETAIL}")]);
    let versions = json!([
        {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": bad}},
        {"name": "v2", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}}]);
    assert_eq!(
        errors_of(&definition(json!({"versions": versions}))),
        [format!("spec.versions[0].schema.openAPIV3Schema.properties[a].type: {DETAIL}")]
    );
}

#[test]
fn versions_have_one_storage_version_and_different_names() {
    let versions = json!([{"name": "v1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}},
        {"name": "v1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}}]);
    const SHOWN: &str = r#"[{"Name":"v1","Served":true,"Storage":false,"Deprecated":false,"DeprecationWarning":null,"Schema":null,"Subresources":null,"AdditionalPrinterColumns":null,"SelectableFields":null},{"Name":"v1","Served":true,"Storage":false,"Deprecated":false,"DeprecationWarning":null,"Schema":null,"Subresources":null,"AdditionalPrinterColumns":null,"SelectableFields":null}]"#;
    assert_eq!(
        errors_of(&definition(json!({"versions": versions}))),
        [
            format!("spec.versions: Invalid value: {SHOWN}: must contain unique version names"),
            format!("spec.versions: Invalid value: {SHOWN}: must have exactly one version marked as storage version"),
        ]
    );
}

#[test]
fn logical_parts_only_narrow_what_is_described_outside() {
    let schema = json!({"type": "object", "properties": {
        "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        "a": {"type": "string", "oneOf": [{"type": "string"}]}}, "anyOf": [{"properties": {"zz": {"minLength": 1}}}]});
    assert_eq!(
        schema_errors(schema),
        [
            "spec.validation.openAPIV3Schema.properties[a].oneOf[0].type: Forbidden: must be empty to be structural",
            "spec.validation.openAPIV3Schema.properties[zz]: Required value: because it is defined in \
             spec.validation.openAPIV3Schema.anyOf[0].properties[zz]",
        ]
    );
}

#[test]
fn map_lists_have_keys_that_every_item_has() {
    let list = |keys: Value, items: Value| {
        json!({"type": "object", "properties": {"a":
            {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys, "items": items}}})
    };
    let items = json!({"type": "object", "properties": {"k": {"type": "string"}}});
    const A: &str = "spec.validation.openAPIV3Schema.properties[a]";
    assert_eq!(
        schema_errors(list(json!(["z"]), items.clone())),
        [format!(
            "{A}.x-kubernetes-list-map-keys: Invalid value: [\"z\"]: entries must all be names of item properties"
        )]
    );
    assert_eq!(
        schema_errors(list(json!(["k"]), items)),
        [format!(
            "{A}.items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have \
             a default or be a required property"
        )]
    );
}

#[test]
fn a_root_with_a_status_subresource_describes_fields_only() {
    let schema = json!({"type": "object", "maxProperties": 1});
    let version = json!({"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": schema}});
    let errors = errors_of(&definition(json!({"versions": [version]})));
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0]
            .starts_with("spec.validation.openAPIV3Schema: Invalid value: {\"ID\":\"\",\"Schema\":\"\",\"Ref\":null,")
    );
    assert!(errors[0].ends_with("fields are allowed at the root of the schema if the status subresource is enabled"));
}

#[test]
fn groups_of_kubernetes_need_an_approval() {
    let mut object = definition(json!({"group": "x.k8s.io"}));
    object["metadata"]["name"] = "xs.x.k8s.io".into();
    assert_eq!(
        errors_of(&object),
        [
            "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation \
          \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111"
        ]
    );
    object["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "https://e.com/1"});
    assert_eq!(errors_of(&object), [""; 0]);
}

#[test]
fn names_are_fixed_once_established_and_stored_versions_stay() {
    let old = definition(json!({}));
    let new = definition(json!({"scope": "Cluster"}));
    assert_eq!(update_errors(&new, &old), [""; 0]);
    let mut established = old.clone();
    established["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
    assert_eq!(update_errors(&new, &established), ["spec.scope: Invalid value: \"Cluster\": field is immutable"]);
    let mut migrated = definition(json!({"versions": [
        {"name": "v2", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}));
    let context = crate::strategy::Context {
        now: "",
        user: "",
        groups: &[],
        user_uid: "",
        sent: b"",
        extra: &Default::default(),
        uid: "",
    };
    (STRATEGY.prepare_for_update)(&mut migrated, &old, &context);
    assert_eq!(migrated["status"]["storedVersions"], json!(["v1", "v2"]));
    assert_eq!(
        update_errors(&migrated, &old),
        [
            "status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions; v1 was previously a storage version, and \
          must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from \
          status.storedVersions"
        ]
    );
}

#[test]
fn formats_that_are_not_checked_are_warned_about_once_they_are_new() {
    let with = |format: &str| {
        definition(json!({"versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
            {"type": "object", "properties": {"a": {"type": "string", "format": format}, "b": {"type": "integer",
            "format": "int32"}}}}}]}))
    };
    let (old, new) = (with("date-time"), with("bogus"));
    let mut out = Vec::new();
    (STRATEGY.warnings)(&Cursor::root(&new), Some(&Cursor::root(&old)), &mut out);
    assert_eq!(out, ["unrecognized format \"bogus\""]);
    out.clear();
    (STRATEGY.warnings)(&Cursor::root(&new), Some(&Cursor::root(&new)), &mut out);
    assert_eq!(out, [""; 0]);
}

fn rule_errors(schema: Value) -> Vec<String> {
    let mut errors = ErrorList::new();
    super::rules::compile(&Cursor::at(&schema, Path::new("s")), false, &[], &mut errors);
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn rules_must_compile_and_be_affordable() {
    let rule = |rule: Value| json!({"type": "object", "x-kubernetes-validations": [rule], "properties": {"a": {"type": "string"}}});
    let shown = |rule: &str, message: &str| {
        format!(
            "{{\"Rule\":\"{rule}\",\"Message\":\"\",\"MessageExpression\":\"{message}\",\"Reason\":null,\"FieldPath\":\"\",\
             \"OptionalOldSelf\":null}}"
        )
    };
    assert_eq!(rule_errors(rule(json!({"rule": "self.a == 'x'"}))), Vec::<String>::new());
    assert_eq!(
        rule_errors(rule(json!({"rule": "self.a."}))),
        [format!(
            "s.x-kubernetes-validations[0].rule: Invalid value: {}: compilation failed: ERROR: <input>:1:8: Syntax error: no \
             viable alternative at input '.'\n | self.a.\n | .......^",
            shown("self.a.", "")
        )]
    );
    assert_eq!(
        rule_errors(rule(json!({"rule": "true", "messageExpression": "1"}))),
        [format!(
            "s.x-kubernetes-validations[0].messageExpression: Invalid value: {}: messageExpression must evaluate to a string",
            shown("true", "1")
        )]
    );
    const HINT: &str = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and \
                        strings are declared)";
    let list = json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string",
        "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}});
    assert_eq!(
        rule_errors(list),
        [
            format!(
                "s.properties[a].items.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by \
                 factor of more than 100x {HINT}"
            ),
            "s.properties[a].items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": oldSelf cannot be \
             used on the uncorrelatable portion of the schema within s.properties[a]"
                .to_owned(),
            "s.properties[a].items.x-kubernetes-validations[0].rule: Forbidden: contributed to estimated rule cost total \
             exceeding cost limit for entire OpenAPIv3 schema"
                .to_owned(),
            format!(
                "s: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget \
                 by factor of more than 100x {HINT}"
            ),
        ]
    );
}
