//! `x-kubernetes-validations`: the rules of a schema, compiled, and where each of them runs. Source: `schema/cel`.
//!
//! Rules run beside the value, outermost first. All rules of one object share one budget; what one rule would report is not
//! reported when the value it is about did not change, unless the rule is about the change itself.

use std::sync::Arc;

use super::lists::same_key;
use crate::cel::{self, Bindings, Environment, EvalError, Program, Val};
use crate::kinds::customresourcedefinition::path as schema_path;
use crate::schema::ListType;
use crate::{ErrorList, FieldError, Path, Value, field::ErrorType};

/// The rules of one schema and of those below it.
#[derive(Debug)]
pub(super) struct Rules {
    schema: Arc<cel::Structural>,
    /// The declared type, as messages show it.
    type_name: String,
    own: Vec<Compiled>,
    /// The rules themselves could not be prepared.
    broken: Option<String>,
    all_of: Vec<Rules>,
    /// Sorted by name.
    properties: Vec<(Box<str>, Rules)>,
    additional: Option<Box<Rules>>,
    items: Option<Box<Rules>>,
    list_type: Option<ListType>,
    list_map_keys: Vec<Box<str>>,
}

/// An entry of `x-kubernetes-validations`.
#[derive(Clone, Debug, Default)]
struct Rule {
    rule: String,
    message: String,
    message_expression: String,
    /// Empty: `FieldValueInvalid`.
    reason: String,
    field_path: String,
    optional_old_self: bool,
}

#[derive(Debug)]
struct Compiled {
    rule: Rule,
    program: Result<Program, String>,
    message: Option<Program>,
    uses_old_self: bool,
    /// The field that is at fault, below the value: `spec.name`; empty for the value itself.
    field: String,
}

impl Rules {
    /// Those of a schema; `None` when it has none at all. `is_resource`: it describes a whole resource.
    pub(super) fn new(schema: &Value, is_resource: bool) -> Option<Self> {
        if !has_rules(schema) {
            return None;
        }
        Self::of(schema, schema, &Arc::new(cel::Structural::new(schema, is_resource)))
    }

    /// `part` says the rules (it may be a member of `allOf`), `node` is the schema of the value.
    fn of(part: &Value, node: &Value, schema: &Arc<cel::Structural>) -> Option<Self> {
        let list = |name: &str| part.get(name).and_then(Value::as_array).into_iter().flatten();
        let rules: Vec<Rule> = list("x-kubernetes-validations").map(Rule::new).collect();
        let environments = [false, true].map(|optional| Environment::for_rules(Arc::clone(schema), optional));
        let mut own = Vec::new();
        let mut broken = None;
        for rule in rules.into_iter().filter(|rule| !rule.rule.trim().is_empty()) {
            match &environments[usize::from(rule.optional_old_self)] {
                Some(environment) => own.push(Compiled::new(rule, environment, node)),
                None => broken = Some("unsupported schema".to_owned()),
            }
        }
        let below =
            |name: &str| Some((part.get(name)?, node.get(name)?)).filter(|(p, n)| p.is_object() && n.is_object());
        let items = below("items").zip(schema.items()).and_then(|((p, n), s)| Self::of(p, n, s));
        let additional =
            below("additionalProperties").zip(schema.property("")).and_then(|((p, n), s)| Self::of(p, n, s));
        let mut properties: Vec<(Box<str>, Rules)> = Vec::new();
        for (name, property) in part.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let own = node.get("properties").and_then(|p| p.get(name)).zip(schema.property(name));
            // Values that expressions cannot name are left out altogether.
            if let Some((node, schema)) = own.filter(|(_, schema)| schema.is_exposed()) {
                properties.extend(Self::of(property, node, schema).map(|rules| (name.as_str().into(), rules)));
            }
        }
        properties.sort_by(|(a, _), (b, _)| a.cmp(b));
        let all_of: Vec<Rules> = list("allOf").filter_map(|part| Self::of(part, node, schema)).collect();
        let is_empty = own.is_empty()
            && broken.is_none()
            && items.is_none()
            && additional.is_none()
            && properties.is_empty()
            && all_of.is_empty();
        let text = |name: &str| node.get(name).and_then(Value::as_str).unwrap_or("");
        let keys = node.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten();
        (!is_empty).then(|| Self {
            schema: Arc::clone(schema),
            type_name: text("type").to_owned(),
            own,
            broken,
            all_of,
            properties,
            additional: additional.map(Box::new),
            items: items.map(Box::new),
            list_type: match text("x-kubernetes-list-type") {
                "set" => Some(ListType::Set),
                "map" => Some(ListType::Map),
                "atomic" => Some(ListType::Atomic),
                _ => None,
            },
            list_map_keys: keys.filter_map(|key| Some(key.as_str()?.into())).collect(),
        })
    }

    /// Runs all rules on a value at `path`. What is only a warning, because nothing changed there, goes into `warnings`.
    pub(super) fn validate(
        &self,
        path: &Path,
        value: &Value,
        old: Option<&Value>,
        errors: &mut ErrorList,
        warnings: &mut Vec<String>,
    ) {
        let mut run = Run { budget: cel::RUNTIME_BUDGET, errors, warnings };
        let kin = Kin { current: old.map(|old| (value, old)), parent: None };
        // What is left of a spent budget is nothing to anybody.
        let _spent = run.visit(self, path, value, old, kin);
    }
}

impl Rule {
    fn new(rule: &Value) -> Self {
        let text = |name: &str| rule.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
        Self {
            rule: text("rule"),
            message: text("message"),
            message_expression: text("messageExpression"),
            reason: text("reason"),
            field_path: text("fieldPath"),
            optional_old_self: rule.get("optionalOldSelf").and_then(Value::as_bool).unwrap_or(false),
        }
    }
}

impl Compiled {
    fn new(rule: Rule, environment: &Environment, node: &Value) -> Self {
        let program = environment.compile(&rule.rule).map_err(|errors| format!("compilation failed: {errors}"));
        let uses_old_self = program.as_ref().is_ok_and(|program| program.uses("oldSelf"));
        let message =
            (!rule.message_expression.is_empty()).then(|| environment.compile(&rule.message_expression).ok()).flatten();
        let field = schema_path::printed(&rule.field_path, node).unwrap_or_default();
        Self { rule, program, message, uses_old_self, field }
    }

    /// What stands for the rule in messages.
    fn name(&self) -> &str {
        if self.rule.message.is_empty() { self.rule.rule.trim() } else { self.rule.message.trim() }
    }
}

/// Which value of the old object a value is compared with, and the nearest value around it for which that is known.
#[derive(Clone, Copy)]
struct Kin<'v> {
    current: Option<(&'v Value, &'v Value)>,
    parent: Option<(&'v Value, &'v Value)>,
}

impl<'v> Kin<'v> {
    fn is_unchanged(self) -> bool {
        self.current.or(self.parent).is_some_and(|(new, old)| new == old)
    }

    fn below(self, new: &'v Value, old: Option<&'v Value>) -> Self {
        match self.current {
            None => self,
            Some(_) => Self { current: old.map(|old| (new, old)), parent: self.current },
        }
    }
}

/// The budget is spent: nothing more is run.
struct Spent;

struct Run<'r> {
    budget: u64,
    errors: &'r mut ErrorList,
    warnings: &'r mut Vec<String>,
}

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

impl Run<'_> {
    fn visit<'v>(
        &mut self,
        rules: &Rules,
        path: &Path,
        value: &'v Value,
        old: Option<&'v Value>,
        kin: Kin<'v>,
    ) -> Result<(), Spent> {
        if value.is_null() {
            return Ok(());
        }
        self.own(rules, path, value, old.filter(|old| !old.is_null()), kin)?;
        for part in &rules.all_of {
            self.visit(part, path, value, old, Kin { current: None, parent: kin.parent })?;
        }
        match value {
            Value::Array(items) => {
                let Some(below) = &rules.items else { return Ok(()) };
                let before = old.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                for (index, item) in items.iter().enumerate() {
                    let same = match rules.list_type {
                        Some(ListType::Map) => same_key(before, item, &rules.list_map_keys),
                        _ => None,
                    };
                    self.visit(below, &path.index(index), item, same, kin.below(item, same))?;
                }
            }
            Value::Object(map) => {
                let before = |name: &str| old.and_then(|old| old.get(name));
                if let Some(below) = &rules.additional {
                    for (name, entry) in map {
                        self.visit(below, &path.key(name), entry, before(name), kin.below(entry, before(name)))?;
                    }
                }
                for (name, below) in &rules.properties {
                    let Some(entry) = map.get(name.as_ref()) else { continue };
                    let kin = kin.below(entry, before(name));
                    self.visit(below, &path.child(name), entry, before(name), kin)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn own<'v>(
        &mut self,
        rules: &Rules,
        path: &Path,
        value: &'v Value,
        old: Option<&'v Value>,
        kin: Kin<'v>,
    ) -> Result<(), Spent> {
        let type_name = || Value::from(rules.type_name.as_str());
        if let Some(reason) = &rules.broken {
            let detail = format!("rule compiler initialization error: {reason}");
            self.errors.invalid(path.clone(), type_name(), detail);
            return Ok(());
        }
        if rules.own.is_empty() {
            return Ok(());
        }
        if self.budget == 0 {
            self.errors.invalid(path.clone(), type_name(), OUT_OF_BUDGET);
            return Err(Spent);
        }
        for compiled in &rules.own {
            let name = compiled.name();
            let program = match &compiled.program {
                Ok(program) => program,
                Err(error) => {
                    self.errors.invalid(path.clone(), type_name(), format!("rule compile error: {error}"));
                    continue;
                }
            };
            if compiled.uses_old_self && old.is_none() && !compiled.rule.optional_old_self {
                continue;
            }
            let bindings = match bindings(rules, value, old, compiled.rule.optional_old_self) {
                Ok(bindings) => bindings,
                Err(error) => {
                    self.errors.invalid(path.clone(), type_name(), format!("{error} evaluating rule: {name}"));
                    continue;
                }
            };
            let (result, cost) = program.evaluate(&bindings, cel::PER_CALL_LIMIT);
            if self.charge(cost).is_err() {
                self.errors.invalid(path.clone(), type_name(), OUT_OF_BUDGET);
                return Err(Spent);
            }
            match result {
                Ok(Val::Bool(true)) => {}
                Ok(_) => self.broken_rule(rules, compiled, path, value, &bindings, kin)?,
                Err(EvalError::CostLimit) => {
                    let detail = format!(
                        "'{}': no further validation rules will be run due to call cost exceeds limit for rule: {name}",
                        EvalError::CostLimit
                    );
                    self.errors.invalid(path.clone(), type_name(), detail);
                    return Err(Spent);
                }
                Err(EvalError::Failed(error)) => {
                    let detail = if error.starts_with("no such overload") {
                        format!(
                            "'{error}': call arguments did not match a supported operator, function or macro signature for \
                             rule: {name}"
                        )
                    } else {
                        format!("{error} evaluating rule: {name}")
                    };
                    self.errors.invalid(path.clone(), type_name(), detail);
                }
            }
        }
        Ok(())
    }

    /// Costs beyond the budget end everything.
    fn charge(&mut self, cost: u64) -> Result<(), Spent> {
        self.budget = self.budget.checked_sub(cost).ok_or(Spent)?;
        Ok(())
    }

    fn broken_rule<'v>(
        &mut self,
        rules: &Rules,
        compiled: &Compiled,
        path: &Path,
        value: &'v Value,
        bindings: &Bindings<'v>,
        kin: Kin<'v>,
    ) -> Result<(), Spent> {
        let at = if compiled.field.is_empty() { path.clone() } else { path.child(&compiled.field) };
        let is_warning = !compiled.uses_old_self && kin.is_unchanged();
        let mut detail = None;
        if let Some(message) = &compiled.message {
            match self.message(message, bindings, &compiled.rule.message_expression) {
                Ok(text) => detail = text,
                Err(text) => {
                    self.report(is_warning, invalid(at, rules.type_name.as_str().into(), text));
                    return Err(Spent);
                }
            }
        }
        let detail = detail.unwrap_or_else(|| match compiled.rule.message.trim() {
            "" => format!("failed rule: {}", compiled.rule.rule.trim()),
            message => message.to_owned(),
        });
        self.report(is_warning, fault(at, value, detail, &compiled.rule.reason));
        Ok(())
    }

    fn report(&mut self, is_warning: bool, error: FieldError) {
        if is_warning { self.warnings.push(error.to_string()) } else { self.errors.push(error) }
    }

    /// The text of a message expression; `None` when it comes to nothing that can be shown. `Err`: it costs too much.
    fn message(&mut self, program: &Program, bindings: &Bindings<'_>, source: &str) -> Result<Option<String>, String> {
        let (result, cost) = program.evaluate(bindings, cel::PER_CALL_LIMIT);
        if self.charge(cost).is_err() {
            return Err(
                "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run"
                    .to_owned(),
            );
        }
        match result {
            Ok(value) => {
                let text = value.as_str().map(str::trim).unwrap_or("");
                let is_good = !text.is_empty() && text.len() <= cel::MESSAGE_MAX_BYTES && !text.contains('\n');
                Ok(is_good.then(|| text.to_owned()))
            }
            Err(EvalError::CostLimit) => Err(format!(
                "no further validation rules will be run due to call cost exceeds limit for messageExpression: {}",
                crate::field::go_quote(source)
            )),
            Err(EvalError::Failed(_)) => Ok(None),
        }
    }
}

fn bindings<'v>(
    rules: &'v Rules,
    value: &'v Value,
    old: Option<&'v Value>,
    is_optional: bool,
) -> Result<Bindings<'v>, EvalError> {
    let mut bindings = Bindings::new().with("self", Val::structural(value, &rules.schema)?);
    let old = old.map(|old| Val::structural(old, &rules.schema)).transpose()?;
    match old {
        Some(old) => bindings.set("oldSelf", if is_optional { Val::some(old) } else { old }),
        None if is_optional => bindings.set("oldSelf", Val::Optional(None)),
        None => {}
    }
    Ok(bindings)
}

/// Objects and lists are too much to be shown.
fn fault(path: Path, value: &Value, detail: String, reason: &str) -> FieldError {
    let is_shown = !value.is_object() && !value.is_array();
    let error_type = match (reason, is_shown) {
        ("FieldValueForbidden", _) => ErrorType::Forbidden,
        ("FieldValueRequired", _) => ErrorType::Required,
        ("FieldValueDuplicate", true) => {
            return FieldError {
                error_type: ErrorType::Duplicate,
                path,
                bad_value: value.clone(),
                detail: String::new(),
            };
        }
        ("FieldValueDuplicate", false) => {
            return FieldError {
                error_type: ErrorType::DuplicateUnshown,
                path,
                bad_value: Value::Null,
                detail: String::new(),
            };
        }
        (_, true) => ErrorType::Invalid,
        (_, false) => ErrorType::InvalidUnshown,
    };
    FieldError { error_type, path, bad_value: value.clone(), detail }
}

fn invalid(path: Path, value: Value, detail: String) -> FieldError {
    FieldError { error_type: ErrorType::Invalid, path, bad_value: value, detail }
}

fn has_rules(schema: &Value) -> bool {
    let has = |name: &str| schema.get(name).is_some_and(has_rules);
    let any = |name: &str| schema.get(name).and_then(Value::as_object).into_iter().flatten().any(|(_, s)| has_rules(s));
    let parts = schema.get("allOf").and_then(Value::as_array).into_iter().flatten();
    schema.get("x-kubernetes-validations").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty())
        || has("items")
        || has("additionalProperties")
        || any("properties")
        || parts.into_iter().any(has_rules)
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    fn run(schema: Value, object: Value, old: Option<Value>) -> (Vec<String>, Vec<String>) {
        let (mut errors, mut warnings) = (ErrorList::new(), Vec::new());
        let rules = Rules::new(&schema, true).expect("rules");
        rules.validate(&Path::root(), &object, old.as_ref(), &mut errors, &mut warnings);
        (errors.iter().map(ToString::to_string).collect(), warnings)
    }

    fn spec(own: Value) -> Value {
        json!({"type": "object", "properties": {"spec": own}})
    }

    #[test]
    fn rules_tell_what_they_want() {
        let schema = spec(json!({"type": "object",
            "x-kubernetes-validations": [{"rule": "self.min <= self.max", "message": "min must be at most max"},
                {"rule": "self.max < 100"}],
            "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}}}));
        let broken = run(schema.clone(), json!({"spec": {"min": 900, "max": 500}}), None).0;
        assert_eq!(
            broken,
            ["spec: Invalid value: min must be at most max", "spec: Invalid value: failed rule: self.max < 100"]
        );
        let absent = run(schema, json!({"spec": {"min": 1}}), None).0;
        assert_eq!(absent[1], "spec: Invalid value: \"object\": no such key: max evaluating rule: self.max < 100");
    }

    #[test]
    fn rules_about_changes_see_the_old_value() {
        let schema = spec(json!({"type": "object",
            "x-kubernetes-validations": [{"rule": "self.a == oldSelf.a", "message": "a is immutable", "fieldPath": ".a",
                "reason": "FieldValueForbidden"}],
            "properties": {"a": {"type": "string"},
                "n": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf", "message": "may only grow"}]}}}));
        let old = json!({"spec": {"a": "x", "n": 5}});
        assert_eq!(run(schema.clone(), old.clone(), None).0, [""; 0]);
        assert_eq!(
            run(schema, json!({"spec": {"a": "y", "n": 3}}), Some(old)).0,
            ["spec.a: Forbidden: a is immutable", "spec.n: Invalid value: 3: may only grow"]
        );
    }

    #[test]
    fn an_old_value_may_be_optional() {
        let schema = spec(json!({"type": "string", "x-kubernetes-validations": [
            {"rule": "oldSelf.hasValue() || self == 'new'", "optionalOldSelf": true}]}));
        assert_eq!(run(schema.clone(), json!({"spec": "new"}), None).0, [""; 0]);
        assert_eq!(run(schema.clone(), json!({"spec": "x"}), None).0.len(), 1);
        assert_eq!(run(schema, json!({"spec": "x"}), Some(json!({"spec": "y"}))).0, [""; 0]);
    }

    #[test]
    fn what_did_not_change_is_only_warned_about() {
        let schema =
            spec(json!({"type": "object", "properties": {"a": {"type": "integer", "x-kubernetes-validations": [
            {"rule": "self < 5"}]}, "b": {"type": "integer"}}}));
        let old = json!({"spec": {"a": 9, "b": 1}});
        let (errors, warnings) = run(schema.clone(), json!({"spec": {"a": 9, "b": 2}}), Some(old.clone()));
        assert_eq!((errors, warnings), (vec![], vec!["spec.a: Invalid value: 9: failed rule: self < 5".to_owned()]));
        assert_eq!(run(schema, json!({"spec": {"a": 8, "b": 2}}), Some(old)).0.len(), 1);
    }

    #[test]
    fn items_without_keys_did_not_change_when_the_list_did_not() {
        let list = |kind: Value| {
            let mut list = json!({"type": "array", "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self != 'a'"}]}});
            list["x-kubernetes-list-type"] = kind;
            spec(list)
        };
        for schema in [Value::Null, json!("atomic"), json!("set")].map(list) {
            let old = || Some(json!({"spec": ["a", "b"]}));
            assert_eq!(run(schema.clone(), json!({"spec": ["a", "b"]}), old()).0, [""; 0]);
            let errors = run(schema, json!({"spec": ["a", "b", "c"]}), old()).0;
            assert_eq!(errors, ["spec[0]: Invalid value: \"a\": failed rule: self != 'a'"]);
        }
    }

    #[test]
    fn items_of_map_lists_are_found_by_their_keys() {
        let schema = spec(
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
                "x-kubernetes-validations": [{"rule": "self.v == oldSelf.v", "messageExpression": "'v of ' + self.k + ' is fixed'"}]}}),
        );
        let old = json!({"spec": [{"k": "a", "v": 1}, {"k": "b", "v": 2}]});
        let new = json!({"spec": [{"k": "b", "v": 3}, {"k": "c", "v": 9}, {"k": "a", "v": 1}]});
        assert_eq!(run(schema, new, Some(old)).0, ["spec[0]: Invalid value: v of b is fixed"]);
    }
}
