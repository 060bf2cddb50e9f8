//! Policies and bindings as they are evaluated: expressions compiled, selectors parsed.

use std::sync::Arc;

use api::Value;
use api::cel::Type;
use api::cel::policy::{Compiler, Declarations, Named};

use crate::source::StoredObject;
use crate::webhook::Selection;

/// A policy with the bindings that put it in force.
#[derive(Debug)]
pub(super) struct Policy {
    pub name: String,
    /// `failurePolicy: Ignore`
    pub ignores_failures: bool,
    pub selection: Selection,
    pub param_kind: Option<ParamKind>,
    pub variables: Vec<Named>,
    pub conditions: Vec<Named>,
    pub rules: Rules,
    pub bindings: Vec<Binding>,
}

/// What a policy does.
#[derive(Debug)]
pub(super) enum Rules {
    Validating { validations: Vec<Validation>, audit: Vec<Named> },
    Mutating { mutations: Vec<Mutation>, reinvocable: bool },
}

#[derive(Debug)]
pub(super) struct Validation {
    pub check: Named,
    pub message: String,
    pub message_expression: Option<Named>,
    /// Empty for the default.
    pub reason: String,
}

#[derive(Debug)]
pub(super) struct Mutation {
    pub expression: Named,
    /// A JSON patch instead of a configuration.
    pub is_json_patch: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ParamKind {
    pub api_version: String,
    pub kind: String,
}

#[derive(Debug)]
pub(super) struct Binding {
    pub name: String,
    policy: String,
    /// `None` selects what the policy selects.
    pub selection: Option<Selection>,
    pub param_ref: Value,
    /// `Deny`, `Warn`, `Audit`.
    pub actions: Vec<String>,
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or("").to_owned()
}

fn items<'v>(value: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> {
    value[field].as_array().into_iter().flatten()
}

impl Binding {
    fn parse(object: &Value) -> Self {
        let spec = &object["spec"];
        let resources = &spec["matchResources"];
        Self {
            name: api::meta::name(object).to_owned(),
            policy: text(spec, "policyName"),
            selection: (!resources.is_null()).then(|| Selection::of_resources(resources)),
            param_ref: spec["paramRef"].clone(),
            actions: items(spec, "validationActions").filter_map(|a| a.as_str().map(str::to_owned)).collect(),
        }
    }
}

impl Policy {
    fn parse(object: &Value, mutating: bool, bindings: Vec<Binding>) -> Self {
        let spec = &object["spec"];
        let param_kind = (!spec["paramKind"].is_null()).then(|| ParamKind {
            api_version: text(&spec["paramKind"], "apiVersion"),
            kind: text(&spec["paramKind"], "kind"),
        });
        let declared = Declarations { params: param_kind.is_some(), authorizer: true, patches: false };
        let mut compiler = Compiler::with_variables();
        let mut variables = Vec::new();
        for variable in items(spec, "variables") {
            let (name, text) = (text(variable, "name"), text(variable, "expression"));
            let compiled = compiler.variable(&name, &text, declared);
            variables.push(Named { name, text, compiled });
        }
        let conditions = items(spec, "matchConditions")
            .map(|condition| compile(&mut compiler, condition, "name", "expression", declared, &[Type::Bool]))
            .collect();
        let rules = if mutating {
            mutating_rules(spec, &mut compiler, declared)
        } else {
            validating_rules(spec, &mut compiler, declared)
        };
        Self {
            name: api::meta::name(object).to_owned(),
            ignores_failures: spec["failurePolicy"] == "Ignore",
            selection: Selection::of_resources(&spec["matchConstraints"]),
            param_kind,
            variables,
            conditions,
            rules,
            bindings,
        }
    }
}

fn compile(
    compiler: &mut Compiler,
    object: &Value,
    name_field: &str,
    field: &str,
    declared: Declarations,
    types: &[Type],
) -> Named {
    let text = text(object, field).trim().to_owned();
    let compiled = compiler.compile(&text, declared, types);
    Named { name: self::text(object, name_field), text, compiled }
}

fn validating_rules(spec: &Value, compiler: &mut Compiler, declared: Declarations) -> Rules {
    let mut validations = Vec::new();
    for validation in items(spec, "validations") {
        let check_text = text(validation, "expression");
        let compiled = compiler.compile(&check_text, declared, &[Type::Bool]);
        let message_text = text(validation, "messageExpression");
        let message_expression = (!message_text.is_empty()).then(|| {
            let declared = Declarations { authorizer: false, ..declared };
            let compiled = compiler.compile(&message_text, declared, &[Type::String]);
            Named { name: String::new(), text: message_text, compiled }
        });
        validations.push(Validation {
            check: Named { name: String::new(), text: check_text, compiled },
            message: text(validation, "message"),
            message_expression,
            reason: text(validation, "reason"),
        });
    }
    let types = [Type::String, Type::Null];
    let audit = items(spec, "auditAnnotations")
        .map(|annotation| compile(compiler, annotation, "key", "valueExpression", declared, &types))
        .collect();
    Rules::Validating { validations, audit }
}

fn mutating_rules(spec: &Value, compiler: &mut Compiler, declared: Declarations) -> Rules {
    let declared = Declarations { patches: true, ..declared };
    let mutations = items(spec, "mutations")
        .map(|mutation| {
            let is_json_patch = mutation["patchType"] == "JSONPatch";
            let (member, wanted) = if is_json_patch {
                ("jsonPatch", Type::list(Type::object("JSONPatch")))
            } else {
                ("applyConfiguration", Type::object("Object"))
            };
            let text = text(&mutation[member], "expression");
            let compiled = compiler.compile(&text, declared, &[wanted]);
            Mutation { expression: Named { name: String::new(), text, compiled }, is_json_patch }
        })
        .collect();
    Rules::Mutating { mutations, reinvocable: spec["reinvocationPolicy"] == "IfNeeded" }
}

/// The policies that some binding puts in force, sorted by name as the objects come.
pub(super) fn policies(policies: &[Arc<StoredObject>], bindings: &[Arc<StoredObject>], mutating: bool) -> Vec<Policy> {
    let mut bindings: Vec<Binding> =
        bindings.iter().filter_map(|stored| stored.parse()).map(|object| Binding::parse(&object)).collect();
    let mut found = Vec::new();
    for stored in policies {
        let (own, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut bindings).into_iter().partition(|binding| binding.policy == stored.name);
        bindings = others;
        if own.is_empty() {
            continue;
        }
        if let Some(object) = stored.parse() {
            found.push(Policy::parse(&object, mutating, own));
        }
    }
    found
}
